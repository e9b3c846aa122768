"""Conversion of values to parameters for PostgreSQL, and of its rows to values.

A batch is sent as columns, each of them one array. Instants are in UTC both ways.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias

from fanout_briefs.adapters.postgres_statements import COLUMNS, PREFERENCE, SHARED_COLUMNS
from fanout_briefs.encoding import encode_brief
from fanout_briefs.model import (
    Brief,
    Claim,
    Demand,
    FollowUp,
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
    slot_key,
)
from fanout_briefs.rules import is_storable, readable, utc

__all__ = [
    "are_plain",
    "askable",
    "columns",
    "from_brief",
    "from_claims",
    "from_follow_ups",
    "from_jobs",
    "from_page_cursor",
    "from_plain_jobs",
    "from_preferences",
    "to_claim",
    "to_job",
    "to_overviews",
    "to_page_cursor",
    "to_preference",
    "to_scheduled",
    "to_schedules",
    "to_standings",
    "words",
]

_Rows: TypeAlias = Sequence[Sequence[Any]]

_STATUSES: Final = {status.value: status for status in JobStatus}
"""A lookup is much faster than calling ``JobStatus``, and every row has a status."""


def askable(texts: Iterable[str]) -> list[str]:
    """Return the texts that PostgreSQL can store, without duplicates, in order."""
    return sorted({text for text in texts if is_storable(text)})


def words(text: str | None) -> str | None:
    """Return a text for people in a form that PostgreSQL can store."""
    return None if text is None else (readable(text) or "").replace("\0", r"\x00")


def columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[Any]]:
    """Transpose rows into columns, each of them one parameter."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def from_jobs(jobs: Iterable[Job]) -> list[list[Any]]:
    """Convert jobs to columns, in the order of ``COLUMNS``."""
    return columns(map(_from_job, jobs), len(COLUMNS))


def are_plain(jobs: Iterable[Job]) -> bool:
    """Whether ``from_plain_jobs`` represents these jobs completely."""
    return all(
        job.epoch == 1 and not job.attempts and job.error is None and job.progress is None and job.demand is None
        for job in jobs
    )


def from_plain_jobs(jobs: Iterable[Job]) -> list[list[Any]]:
    """Convert new slots to columns: their own values, and each set of shared values once."""
    places: dict[tuple[object, ...], int] = {}
    shared: list[tuple[object, ...]] = []
    users: list[str] = []
    run_ats: list[datetime] = []
    own: list[int] = []
    for job in jobs:
        # Planned slots of one schedule share the same objects, so comparing identities suffices, and is fast.
        traits = (job.type, id(job.occurrence), id(job.window), job.status, job.code, job.reason)
        place = places.get(traits)
        if place is None:
            shared.append((slot_key(job.type, job.occurrence.local_date, ""), *_shared(job)))
            place = places[traits] = len(shared)
        users.append(job.user_id)
        run_ats.append(utc(job.run_at))
        own.append(place)
    return [users, run_ats, own, *columns(shared, 1 + len(SHARED_COLUMNS))]


def from_follow_ups(follow_ups: Collection[FollowUp]) -> dict[str, list[Any]]:
    """Convert follow-ups to columns by name."""
    given = from_jobs(follow_up.job for follow_up in follow_ups)
    return {**dict(zip(COLUMNS, given, strict=True)), "payload": [follow_up.payload for follow_up in follow_ups]}


def _from_job(job: Job) -> tuple[object, ...]:
    kind, on, at, start, end, *outcome = _shared(job)
    return (
        job.dedup_key,
        kind,
        job.user_id,
        on,
        at,
        utc(job.run_at),
        start,
        end,
        *outcome,
        words(job.error),
        job.epoch,
        job.attempts,
        _from_progress(job.progress),
        None if job.demand is None else job.demand.value,
    )


def _shared(job: Job) -> tuple[object, ...]:
    """Return the values of a job's shared columns."""
    occurrence, window = job.occurrence, job.window
    return (
        job.type,
        occurrence.local_date,
        utc(occurrence.deliver_at),
        utc(window.start),
        utc(window.end),
        job.status.value,
        None if job.code is None else job.code.value,
        words(job.reason),
    )


def to_job(row: Sequence[Any]) -> Job:
    """Convert a row of job columns to a job."""
    _, kind, user_id, on, at, run_at, start, end, status, code, reason, error, epoch, attempts, progress, demand = row
    return Job(
        type=kind,
        user_id=user_id,
        occurrence=_occurrence(on, at),
        run_at=utc(run_at),
        window=_window(start, end),
        status=_STATUSES[status],
        code=None if code is None else SkipReason(code),
        reason=reason,
        error=error,
        epoch=epoch,
        attempts=attempts,
        progress=None if progress is None else Progress(*json.loads(progress)),
        demand=None if demand is None else Demand(demand),
    )


def to_standings(rows: _Rows) -> dict[str, Standing]:
    """Convert rows of ``STANDINGS`` to standings by key."""
    found: dict[str, Standing] = {}
    for status, at, code, reason, keys in rows:
        standing = Standing(_STATUSES[status], utc(at), None if code is None else SkipReason(code), reason)
        found.update(dict.fromkeys(keys, standing))
    return found


# Many jobs share the same occurrence.
@lru_cache(maxsize=4096)
def _occurrence(on: date, at: datetime) -> Occurrence:
    return Occurrence(local_date=on, deliver_at=utc(at))


@lru_cache(maxsize=4096)
def _window(start: datetime, end: datetime) -> Window:
    return Window(start=utc(start), end=utc(end))


def to_claim(row: Sequence[Any], until: datetime) -> Claim:
    """Convert a row of ``CLAIM`` to a claim."""
    job = to_job(row[1:17])
    return Claim(job=job, token=row[17], until=until, payload=row[18], progress=job.progress)


def from_claims(claims: Iterable[Claim]) -> dict[str, list[Any]]:
    """Convert claims to columns by name."""
    asked = [
        (claim.job.dedup_key, claim.token, _from_progress(claim.progress))
        for claim in claims
        if is_storable(claim.job.dedup_key)
    ]
    return dict(zip(("keys", "tokens", "progress"), columns(asked, 3), strict=True))


def _from_progress(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    return json.dumps([progress.step, progress.completed, progress.total, progress.failed, progress.alone])


def from_brief(brief: Brief | None) -> dict[str, list[Any]]:
    """Convert a brief, or None, to columns by name."""
    names = ("brief_user", "brief_type", "brief_date", "brief_at", "brief_end", "brief_body")
    if brief is None:
        return {name: [] for name in names}
    at, end = utc(brief.occurrence.deliver_at), utc(brief.window.end)
    row = (brief.user_id, brief.type, brief.occurrence.local_date, at, end, encode_brief(brief))
    return {name: [value] for name, value in zip(names, row, strict=True)}


def from_preferences(preferences: Iterable[Preference]) -> list[list[Any]]:
    """Convert preferences to columns."""
    return columns(map(_from_preference, preferences), len(PREFERENCE))


def _from_preference(preference: Preference) -> tuple[object, ...]:
    days = preference.days
    return (
        preference.user_id,
        preference.frequency,
        preference.time_of_day,
        preference.timezone,
        preference.day_of_week,
        None if days is None else json.dumps(days),
        preference.is_active,
        preference.effective_from,
    )


def to_preference(row: Sequence[Any]) -> Preference:
    """Convert a row to a preference."""
    user_id, frequency, time_of_day, timezone, day_of_week, days, is_active, effective_from = row
    return Preference(
        user_id=user_id,
        frequency=frequency,
        time_of_day=time_of_day,
        timezone=timezone,
        day_of_week=day_of_week,
        days=_days(days),
        is_active=is_active,
        effective_from=None if effective_from is None else utc(effective_from),
    )


def to_scheduled(rows: _Rows, schedules: Sequence[str]) -> list[Scheduled]:
    """Convert rows to scheduled people; each row names a schedule by its position in ``schedules``, from 1."""
    people: list[Scheduled] = []
    for place, user_ids, since in rows:
        schedule = schedules[int(place) - 1]
        if since is None:
            people += [Scheduled(user_id, schedule) for user_id in user_ids]
        else:
            begun = (None if at is None else utc(at) for at in since)
            people += [Scheduled(user_id, schedule, at) for user_id, at in zip(user_ids, begun, strict=True)]
    return people


def to_schedules(rows: _Rows) -> dict[str, ScheduleFields]:
    """Convert rows, each of which begins with an id, to schedule fields by id."""
    return {
        schedule: ScheduleFields(frequency, time_of_day, timezone, day_of_week, _days(days))
        for schedule, frequency, time_of_day, timezone, day_of_week, days in rows
    }


@lru_cache(maxsize=4096)
def _days(stored: str | None) -> tuple[int, ...] | None:
    return None if stored is None else tuple(json.loads(stored))


def to_page_cursor(job: Job) -> str:
    """Return the cursor of the page after this slot."""
    return json.dumps([job.occurrence.deliver_at.isoformat(), job.dedup_key])


def from_page_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the time and the key after which a page begins."""
    at, key = json.loads(cursor)
    return datetime.fromisoformat(at), key


def to_overviews(types: Iterable[str], answers: Iterable[_Rows]) -> dict[str, Overview]:
    """Convert the answers to ``OVERVIEW``, whose rows begin with the type, to overviews by type."""
    by_type = [_by_type(rows) for rows in answers]
    return {kind: _overview(*(rows.get(kind, []) for rows in by_type)) for kind in types}


def _by_type(rows: _Rows) -> dict[str, list[Sequence[Any]]]:
    found: dict[str, list[Sequence[Any]]] = {}
    for kind, *row in rows:
        found.setdefault(kind, []).append(row)
    return found


def _overview(marks: _Rows, pauses: _Rows, standing: _Rows, endings: _Rows, troubles: _Rows) -> Overview:
    ended: Counter[JobStatus] = Counter()
    codes: Counter[SkipReason] = Counter()
    for status, code, count in endings:
        ended[JobStatus(status)] += count
        if code is not None:
            codes[SkipReason(code)] += count
    mark, planned_at = marks[0] if marks else (None, None)
    running, abandoned, overdue, oldest, soon, later = standing[0] if standing else (0, 0, 0, None, 0, 0)
    return Overview(
        planned_at=_maybe(planned_at),
        mark=_maybe(mark),
        paused_since=_maybe(pauses[0][0]) if pauses else None,
        running=running,
        abandoned=abandoned,
        overdue=overdue,
        oldest=_maybe(oldest),
        soon=soon,
        later=later,
        ended=ended,
        codes=codes,
        troubles=tuple(Trouble(JobStatus(kind), error, count, utc(at)) for kind, error, count, at in troubles),
    )


def _maybe(at: datetime | None) -> datetime | None:
    return None if at is None else utc(at)
