"""How values become what Redis holds, and back: JSON texts, and instants that stand in the order of time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from fanout_briefs.model import (
    Brief,
    Claim,
    Demand,
    Job,
    JobStatus,
    Occurrence,
    Overview,
    Preference,
    Progress,
    Scheduled,
    ScheduleFields,
    SkipReason,
    Standing,
    Trouble,
    Window,
)
from fanout_briefs.rules import TROUBLES, fields_of, normal, utc

__all__ = [
    "from_brief",
    "from_claim",
    "from_instant",
    "from_job",
    "from_preference",
    "packed",
    "present",
    "to_claim",
    "to_instant",
    "to_job",
    "to_overview",
    "to_preference",
    "to_schedule",
    "to_scheduled",
    "to_standing",
]


def packed(value: object) -> bytes:
    """Give the JSON form of what a script is asked, or of a row."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def present(**values: object) -> dict[str, object]:
    """Give those that are not None: in a script, an absent field is nil, and None would be a value."""
    return {name: value for name, value in values.items() if value is not None}


def from_instant(instant: datetime) -> str:
    """Give an aware instant as a text of 26 characters, in UTC and exact to the microsecond."""
    return utc(instant).replace(tzinfo=None).isoformat(timespec="microseconds")


def to_instant(text: str) -> datetime:
    """Give the instant back, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _maybe(text: str | None) -> datetime | None:
    return None if text is None else to_instant(text)


def from_job(job: Job) -> dict[str, object]:
    """Give the row of a new slot."""
    job = normal(job)
    return present(
        type=job.type,
        user=job.user_id,
        date=job.occurrence.local_date.isoformat(),
        deliver_at=from_instant(job.occurrence.deliver_at),
        run_at=from_instant(job.run_at),
        window_start=from_instant(job.window.start),
        window_end=from_instant(job.window.end),
        status=job.status,
        code=job.code,
        reason=job.reason,
        error=job.error,
        epoch=job.epoch,
        attempts=job.attempts,
        progress=_from_progress(job.progress),
        demand=job.demand,
    )


def to_job(row: bytes) -> Job:
    """Give the job of a row."""
    return _to_job(json.loads(row))


def _to_job(row: Mapping[str, Any]) -> Job:
    code, demand = row.get("code"), row.get("demand")
    return Job(
        type=row["type"],
        user_id=row["user"],
        occurrence=Occurrence(date.fromisoformat(row["date"]), to_instant(row["deliver_at"])),
        run_at=to_instant(row["run_at"]),
        window=Window(to_instant(row["window_start"]), to_instant(row["window_end"])),
        status=JobStatus(row["status"]),
        code=None if code is None else SkipReason(code),
        reason=row.get("reason"),
        error=row.get("error"),
        epoch=row["epoch"],
        attempts=row["attempts"],
        progress=_to_progress(row.get("progress")),
        demand=None if demand is None else Demand(demand),
    )


def to_standing(row: bytes) -> Standing:
    """Give what a plan reads of a row. Instants are what costs in making a job, and this has one of four."""
    fields = json.loads(row)
    code = fields.get("code")
    return Standing(
        JobStatus(fields["status"]),
        to_instant(fields["deliver_at"]),
        None if code is None else SkipReason(code),
        fields.get("reason"),
    )


def _from_progress(progress: Progress | None) -> str | None:
    # A text inside the text: scripts pass it on without looking into it.
    if progress is None:
        return None
    return json.dumps([progress.step, progress.completed, progress.total, progress.failed, progress.alone])


def _to_progress(text: str | None) -> Progress | None:
    return None if text is None else Progress(*json.loads(text))


def from_claim(claim: Claim) -> dict[str, object]:
    """Give what a worker shows of its claim."""
    return present(key=claim.job.dedup_key, token=claim.token, progress=_from_progress(claim.progress))


def to_claim(row: bytes, payload: bytes | None, until: datetime) -> Claim:
    """Give the claim on a slot that was just taken."""
    fields = json.loads(row)
    job = _to_job(fields)
    return Claim(job=job, token=fields["token"], until=until, payload=payload, progress=job.progress)


def from_brief(brief: Brief) -> dict[str, object]:
    """Give what is to be known of a brief beside its body."""
    return {
        "type": brief.type,
        "user": brief.user_id,
        "date": brief.occurrence.local_date.isoformat(),
        "deliver_at": from_instant(brief.occurrence.deliver_at),
        "window_end": from_instant(brief.window.end),
    }


def to_overview(row: Mapping[str, Any]) -> Overview:
    """Give the overview of one type."""
    return Overview(
        planned_at=_maybe(row.get("planned_at")),
        mark=_maybe(row.get("mark")),
        paused_since=_maybe(row.get("paused_since")),
        running=row["running"],
        abandoned=row["abandoned"],
        overdue=row["overdue"],
        oldest=_maybe(row.get("oldest")),
        soon=row["soon"],
        later=row["later"],
        # An absent kind is none of it; and + leaves out what is 0.
        ended=+Counter({JobStatus(status): count for status, count in row["ended"].items()}),
        codes=+Counter({SkipReason(code): count for code, count in row["codes"].items()}),
        troubles=sorted(map(_to_trouble, row["troubles"]), key=_most_frequent)[:TROUBLES],
    )


def _to_trouble(row: Mapping[str, Any]) -> Trouble:
    return Trouble(JobStatus(row["status"]), row.get("error"), row["count"], to_instant(row["latest"]))


def _most_frequent(trouble: Trouble) -> tuple[int, str, bool, str]:
    return -trouble.count, trouble.status, trouble.error is not None, trouble.error or ""


def from_preference(preference: Preference) -> dict[str, object]:
    """Give the row of a preference that ``rules.storable`` has passed; inactive ones have no schedule."""
    schedule = _from_schedule(fields_of(preference))
    effective = None if preference.effective_from is None else from_instant(preference.effective_from)
    fields = packed([schedule, preference.is_active, effective]).decode()
    return present(user=preference.user_id, fields=fields, schedule=schedule if preference.is_active else None)


def to_preference(user_id: str, row: bytes) -> Preference:
    """Give the preference back."""
    schedule, is_active, effective = json.loads(row)
    fields = to_schedule(schedule)
    return Preference(
        user_id=user_id,
        frequency=fields.frequency,
        time_of_day=fields.time_of_day,
        timezone=fields.timezone,
        day_of_week=fields.day_of_week,
        days=fields.days,
        is_active=is_active,
        effective_from=_maybe(effective),
    )


def to_scheduled(user_id: str, row: bytes) -> Scheduled:
    """Give what a plan reads of a preference."""
    schedule, _, effective = json.loads(row)
    return Scheduled(user_id, schedule, _maybe(effective))


def _from_schedule(fields: ScheduleFields) -> str:
    days = None if fields.days is None else list(fields.days)
    return packed([fields.frequency, fields.time_of_day, fields.timezone, fields.day_of_week, days]).decode()


def to_schedule(text: str | bytes) -> ScheduleFields:
    """Give the fields that a schedule's text is made of."""
    frequency, time_of_day, timezone, day_of_week, days = json.loads(text)
    return ScheduleFields(frequency, time_of_day, timezone, day_of_week, None if days is None else tuple(days))
