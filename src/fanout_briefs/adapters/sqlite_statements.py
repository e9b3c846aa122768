"""The SQL of a SQLite storage, and the conversion of its rows to values.

Parameters are ``?`` or ``:name``; sets of them are one JSON array, so a batch of any size is one statement. Only names
of columns and values of our own enums, taken from the rules, are spliced into the SQL.
"""

# ruff: noqa: S608  # Nothing that is spliced in comes from outside, as said above.

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from fanout_briefs.adapters.sqlite_schema import HAS_ENDED
from fanout_briefs.encoding import encode_brief
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
    ScheduleFields,
    SkipReason,
    Standing,
    Trouble,
    Window,
)
from fanout_briefs.rules import (
    BRIEFED,
    LIVE,
    PAUSED,
    RENEWABLE,
    SOON,
    TROUBLED,
    TROUBLES,
    is_storable,
    readable,
    utc,
)

__all__ = [
    "BEAT",
    "BRIEF_ON",
    "CHANGE",
    "CHANGE_AND_RENEW",
    "DUE",
    "DUE_OF_THESE",
    "ENDINGS",
    "FENCE",
    "FIND",
    "FINISH",
    "FORGET",
    "HELD",
    "HELD_OF_THESE",
    "LAST_BRIEF",
    "LAST_BRIEFS",
    "MARK",
    "MARK_OF",
    "MOVE_MARK",
    "NOTE_PLAN",
    "PAUSE",
    "PAUSES",
    "PREFERENCES",
    "PREFERENCES_AFTER",
    "PREFERENCES_FOR",
    "PRUNABLE",
    "PRUNE",
    "PRUNE_FENCE",
    "PUT_BRIEF",
    "PUT_JOB",
    "PUT_PAYLOAD",
    "PUT_PREFERENCE",
    "RAISE_FENCE",
    "RELEASE",
    "REMOVE_PREFERENCES",
    "RENEW_JOB",
    "RESUME",
    "RETRY",
    "SELECT",
    "STANDING",
    "STANDINGS",
    "START_MARK",
    "STATES",
    "TAKE",
    "TOO_OLD_TO_RESUME",
    "TROUBLE",
    "UNPAUSE",
    "array",
    "from_brief",
    "from_claims",
    "from_job",
    "from_preference",
    "instant",
    "micros",
    "to_job",
    "to_overview",
    "to_preference",
    "to_schedule",
    "to_standing",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_JOB: Final = (
    "dedup_key, type, user_id, local_date, deliver_at, run_at, window_start, window_end, "
    "status, code, reason, error, epoch, attempts, progress, demand"
)


def _among(statuses: Iterable[JobStatus]) -> str:
    return "(" + ", ".join(f"'{status}'" for status in statuses) + ")"


FENCE: Final = "SELECT token FROM fence"

_IS_SAVED: Final = """EXISTS (
    SELECT 1 FROM briefs
    WHERE briefs.user_id = jobs.user_id AND briefs.type = jobs.type AND briefs.local_date = jobs.local_date
)"""
PUT_JOB: Final = f"""
INSERT INTO jobs ({_JOB}, token) VALUES ({"?, " * 16}?)
ON CONFLICT (dedup_key) DO UPDATE SET
    deliver_at = excluded.deliver_at,
    run_at = excluded.run_at,
    window_start = CASE WHEN window_fixed AND {_IS_SAVED} THEN window_start ELSE excluded.window_start END,
    window_fixed = window_fixed AND {_IS_SAVED},
    window_end = excluded.window_end,
    status = excluded.status,
    code = excluded.code,
    reason = excluded.reason,
    error = excluded.error,
    epoch = excluded.epoch,
    attempts = 0,
    progress = NULL,
    demand = excluded.demand,
    lease_until = NULL
"""
RENEW_JOB: Final = f"""
{PUT_JOB} WHERE jobs.status IN {_among(RENEWABLE)} OR excluded.demand = '{Demand.RESEND}' RETURNING seq
"""
PUT_PAYLOAD: Final = """
INSERT INTO outbox (seq, payload) VALUES (?, ?) ON CONFLICT (seq) DO UPDATE SET payload = excluded.payload
"""

STATES: Final = """
SELECT dedup_key, status, code, epoch FROM (SELECT value AS asked FROM json_each(?)) CROSS JOIN jobs ON dedup_key = asked
"""
_FROM_THESE: Final = "FROM (SELECT value AS asked FROM json_each(?)) CROSS JOIN jobs ON dedup_key = asked"
FIND: Final = f"SELECT {_JOB} {_FROM_THESE}"
STANDINGS: Final = f"SELECT dedup_key, status, deliver_at, code, reason {_FROM_THESE}"

LAST_BRIEFS: Final = f"""
SELECT asked.key, (
    SELECT deliver_at FROM jobs
    WHERE user_id = json_extract(asked.value, '$[0]') AND type = :type
        AND deliver_at < json_extract(asked.value, '$[1]') AND status IN {_among(BRIEFED)}
    ORDER BY deliver_at DESC LIMIT 1
)
FROM json_each(:before) AS asked
"""

_CHANGE: Final = """
UPDATE jobs SET {changes}
WHERE dedup_key IN (SELECT value FROM json_each(:keys)) AND status IN (SELECT value FROM json_each(:applies_to))
RETURNING dedup_key
"""
CHANGE: Final = _CHANGE.format(changes="status = :to, code = :code")
_RENEWED: Final = "epoch = epoch + 1, attempts = 0, progress = NULL, reason = NULL, error = NULL"
CHANGE_AND_RENEW: Final = _CHANGE.format(changes=f"status = :to, code = :code, demand = :demand, {_RENEWED}")

MARK: Final = "SELECT instant FROM marks WHERE name = ?"
START_MARK: Final = "INSERT INTO marks (name, instant) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
MOVE_MARK: Final = "UPDATE marks SET instant = max(instant, ?) WHERE name = ?"
NOTE_PLAN: Final = "UPDATE marks SET planned_at = ? WHERE name = ?"

PAUSE: Final = (
    "INSERT INTO pauses (type, since) SELECT value, :at FROM json_each(:types) WHERE true ON CONFLICT DO NOTHING"
)
PAUSES: Final = "SELECT type, since FROM pauses WHERE type IN (SELECT value FROM json_each(?))"
UNPAUSE: Final = "DELETE FROM pauses WHERE type IN (SELECT value FROM json_each(?))"
RESUME: Final = f"""
UPDATE jobs SET status = '{JobStatus.PENDING}', code = NULL, demand = NULL, {_RENEWED}
WHERE type IN (SELECT value FROM json_each(:types)) AND deliver_at >= :since
    AND {HAS_ENDED} AND status IN {_among(PAUSED)} AND code = '{SkipReason.PAUSED}'
"""
TOO_OLD_TO_RESUME: Final = f"""
UPDATE jobs SET status = '{JobStatus.CANCELLED}', code = '{SkipReason.PAUSED}'
WHERE type IN (SELECT value FROM json_each(:types)) AND deliver_at < :since
    AND status = '{JobStatus.PENDING}' AND demand IS NULL
"""

MARK_OF: Final = "SELECT instant, planned_at FROM marks WHERE name = :type"
STANDING: Final = f"""
SELECT
    count(*) FILTER (WHERE lease_until > :now),
    count(*) FILTER (WHERE lease_until <= :now),
    count(*) FILTER (WHERE status = '{JobStatus.PENDING}' AND run_at <= :now),
    min(run_at) FILTER (WHERE lease_until <= :now OR (status = '{JobStatus.PENDING}' AND run_at <= :now)),
    count(*) FILTER (WHERE status = '{JobStatus.PENDING}' AND run_at > :now AND run_at <= :now + {SOON // timedelta(microseconds=1)}),
    count(*) FILTER (WHERE status = '{JobStatus.PENDING}' AND run_at > :now + {SOON // timedelta(microseconds=1)})
FROM (
    SELECT status, run_at, NULL AS lease_until FROM jobs WHERE type = :type AND status = '{JobStatus.PENDING}'
    UNION ALL
    SELECT status, run_at, lease_until FROM jobs WHERE type = :type AND status = '{JobStatus.PROCESSING}'
)
"""
ENDINGS: Final = f"""
SELECT status, code, count(*) FROM jobs
WHERE type = :type AND deliver_at >= :since AND {HAS_ENDED} GROUP BY status, code
"""
TROUBLE: Final = f"""
SELECT status, error, count(*) AS times, max(deliver_at) FROM jobs
WHERE type = :type AND deliver_at >= :since AND {HAS_ENDED} AND status IN {_among(TROUBLED)}
GROUP BY status, error ORDER BY times DESC, status, error LIMIT {TROUBLES}
"""
# One for each status, since each of the three indexes covers only some statuses.
SELECT: Final = {
    status: f"""
    SELECT {_JOB} FROM jobs
    WHERE type = :type AND status = '{status}' AND (deliver_at, dedup_key) > (:since, :after)
    {"" if status in LIVE else f"AND {HAS_ENDED}"}
    ORDER BY deliver_at, dedup_key LIMIT :limit
    """
    for status in JobStatus
}
PRUNABLE: Final = f"""
SELECT seq FROM jobs
WHERE type = :type AND deliver_at < :before AND {HAS_ENDED} AND EXISTS (
    SELECT 1 FROM jobs AS newer
    WHERE newer.user_id = jobs.user_id AND newer.type = jobs.type
        AND (newer.deliver_at, newer.dedup_key) > (jobs.deliver_at, jobs.dedup_key)
        AND (newer.status = '{JobStatus.COMPLETED}' OR jobs.status <> '{JobStatus.COMPLETED}')
) AND local_date IS NOT (
    SELECT local_date FROM briefs
    WHERE briefs.user_id = jobs.user_id AND briefs.type = jobs.type
    ORDER BY briefs.deliver_at DESC, briefs.local_date DESC LIMIT 1
)
ORDER BY deliver_at LIMIT :limit
"""
PRUNE_FENCE: Final = """
UPDATE fence SET token = max(token, (
    SELECT coalesce(max(token), 0) FROM jobs WHERE seq IN (SELECT value FROM json_each(?))
))
"""
_PRUNED: Final = "IN (SELECT value FROM json_each(?))"
PRUNE: Final = (
    f"DELETE FROM outbox WHERE seq {_PRUNED}",
    f"""
    DELETE FROM briefs
    WHERE (user_id, type, local_date) IN (SELECT user_id, type, local_date FROM jobs WHERE seq {_PRUNED})
    """,
    f"DELETE FROM jobs WHERE seq {_PRUNED}",
)

RAISE_FENCE: Final = """
UPDATE fence SET token = max(token, (SELECT coalesce(max(token), 0) FROM jobs WHERE user_id = ?))
"""
FORGET: Final = (
    "DELETE FROM outbox WHERE seq IN (SELECT seq FROM jobs WHERE user_id = ?)",
    "DELETE FROM jobs WHERE user_id = ?",
    "DELETE FROM briefs WHERE user_id = ?",
    "DELETE FROM preferences WHERE user_id = ?",
)

_OPEN: Final = "NOT EXISTS (SELECT 1 FROM pauses WHERE pauses.type = :type)"
_HELD: Final = f"{_OPEN} AND type = :type AND status = '{JobStatus.PROCESSING}' AND lease_until"
_UNBLOCKED: Final = f"""NOT EXISTS (
    SELECT 1 FROM jobs AS earlier
    WHERE earlier.user_id = jobs.user_id AND earlier.type = jobs.type
        AND earlier.deliver_at < jobs.deliver_at AND earlier.status IN {_among(LIVE)}
)"""
LONGEST_DUE: Final = " ORDER BY run_at, seq LIMIT :limit"


def _held(source: str) -> str:
    return f"SELECT min(lease_until) FROM {source} WHERE {_HELD} > :now AND run_at <= :due_by"


def _due(source: str) -> tuple[str, str]:
    is_due = f"{_OPEN} AND type = :type AND status = '{JobStatus.PENDING}' AND run_at <= :due_by AND {_UNBLOCKED}"
    has_ended = f"{_HELD} <= :now AND {_UNBLOCKED}"
    pending, expired = (
        f"SELECT run_at, seq FROM {source} WHERE {which} {LONGEST_DUE}" for which in (is_due, has_ended)
    )
    return pending, expired


_THESE: Final = "(SELECT DISTINCT value AS asked FROM json_each(:keys)) CROSS JOIN jobs ON dedup_key = asked"
HELD: Final = _held("jobs")
HELD_OF_THESE: Final = _held(_THESE)
DUE: Final = _due("jobs")
DUE_OF_THESE: Final = _due(_THESE)
TAKE: Final = f"""
UPDATE jobs SET
    status = '{JobStatus.PROCESSING}',
    attempts = attempts + 1,
    token = token + 1,
    lease_until = :until,
    window_fixed = 1,
    window_start = CASE WHEN window_fixed THEN window_start ELSE coalesce((
        SELECT min(briefs.window_end, jobs.window_end) FROM briefs
        WHERE briefs.user_id = jobs.user_id AND briefs.type = jobs.type
        ORDER BY briefs.deliver_at DESC, briefs.local_date DESC LIMIT 1
    ), window_start) END
WHERE seq IN (SELECT value FROM json_each(:seqs))
RETURNING seq, {_JOB}, token, (SELECT payload FROM outbox WHERE outbox.seq = jobs.seq)
"""

_OURS: Final = f"dedup_key = :key AND token = :token AND status = '{JobStatus.PROCESSING}'"
# For many claims, each an array of key, token and progress.
_ALL_OURS: Final = f"""
FROM json_each(:claims) AS held
WHERE dedup_key = json_extract(held.value, '$[0]') AND token = json_extract(held.value, '$[1]')
    AND status = '{JobStatus.PROCESSING}'
"""
BEAT: Final = f"""
UPDATE jobs SET lease_until = :until, progress = coalesce(json_extract(held.value, '$[2]'), progress) {_ALL_OURS}
RETURNING dedup_key
"""
RELEASE: Final = f"""
UPDATE jobs SET status = '{JobStatus.PENDING}', attempts = attempts - 1, progress = NULL, lease_until = NULL
{_ALL_OURS}
"""
RETRY: Final = f"""
UPDATE jobs SET
    status = '{JobStatus.PENDING}', run_at = :at, error = :error, attempts = attempts - :uncounted,
    progress = NULL, lease_until = NULL
WHERE {_OURS}
"""
FINISH: Final = f"""
UPDATE jobs SET status = :status, code = :code, reason = coalesce(:reason, reason), error = :error, lease_until = NULL
WHERE {_OURS}
"""
PUT_BRIEF: Final = """
INSERT INTO briefs (user_id, type, local_date, deliver_at, window_end, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, type, local_date) DO UPDATE SET
    deliver_at = excluded.deliver_at, window_end = excluded.window_end, body = excluded.body
"""
BRIEF_ON: Final = "SELECT body FROM briefs WHERE type = ? AND user_id = ? AND local_date = ?"
LAST_BRIEF: Final = """
SELECT body FROM briefs WHERE type = ? AND user_id = ? ORDER BY deliver_at DESC, local_date DESC LIMIT 1
"""

_PREFERENCE: Final = "user_id, frequency, time_of_day, timezone, day_of_week, days, is_active, effective_from"
PREFERENCES_AFTER: Final = f"SELECT {_PREFERENCE} FROM preferences WHERE user_id > ? ORDER BY user_id LIMIT ?"
PREFERENCES: Final = f"""
SELECT {_PREFERENCE} FROM (SELECT value AS asked FROM json_each(?)) CROSS JOIN preferences ON user_id = asked
"""
# Jumps from one schedule to the next in the index, so the cost depends on the number of schedules, not of people.
SCHEDULES: Final = """
WITH RECURSIVE one (schedule) AS (
    SELECT min(schedule) FROM preferences WHERE is_active
    UNION ALL
    SELECT (SELECT min(schedule) FROM preferences WHERE is_active AND schedule > one.schedule)
    FROM one WHERE schedule IS NOT NULL
)
SELECT schedule FROM one WHERE schedule IS NOT NULL
"""
PREFERENCES_FOR: Final = """
SELECT user_id, effective_from FROM preferences WHERE is_active AND schedule = ? AND user_id > ? ORDER BY user_id LIMIT ?
"""
PUT_PREFERENCE: Final = f"""
INSERT INTO preferences ({_PREFERENCE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET
    frequency = excluded.frequency, time_of_day = excluded.time_of_day, timezone = excluded.timezone,
    day_of_week = excluded.day_of_week, days = excluded.days, is_active = excluded.is_active,
    effective_from = excluded.effective_from
"""
REMOVE_PREFERENCES: Final = "DELETE FROM preferences WHERE user_id IN (SELECT value FROM json_each(?))"


def micros(instant: datetime) -> int:
    """Convert an aware instant to microseconds since 1970, without floats, which would lose the last digits."""
    return (utc(instant) - _EPOCH) // _MICROSECOND


def instant(number: int) -> datetime:
    """Convert microseconds since 1970 to an instant in UTC."""
    return _EPOCH + timedelta(microseconds=number)


def array(texts: Iterable[str]) -> str:
    """Convert a set of keys to one parameter.

    Texts with a NUL or lone surrogates are left out: no key contains them. SQLite's JSON would cut the text at a NUL,
    giving another key, and make text of surrogates that it cannot read back.
    """
    return json.dumps([text for text in texts if is_storable(text)])


def from_job(job: Job, epoch: int, token: int) -> tuple[object, ...]:
    """Return the parameters of ``PUT_JOB``."""
    return (
        job.dedup_key,
        job.type,
        job.user_id,
        job.occurrence.local_date.isoformat(),
        micros(job.occurrence.deliver_at),
        micros(job.run_at),
        micros(job.window.start),
        micros(job.window.end),
        job.status.value,
        None if job.code is None else job.code.value,
        readable(job.reason),
        readable(job.error),
        epoch,
        job.attempts,
        _from_progress(job.progress),
        None if job.demand is None else job.demand.value,
        token,
    )


def to_job(row: tuple[Any, ...]) -> Job:
    """Convert a row of job columns to a job."""
    _, kind, user_id, on, at, run_at, start, end, status, code, reason, error, epoch, attempts, progress, demand = row
    return Job(
        type=kind,
        user_id=user_id,
        occurrence=Occurrence(local_date=date.fromisoformat(on), deliver_at=instant(at)),
        run_at=instant(run_at),
        window=Window(start=instant(start), end=instant(end)),
        status=JobStatus(status),
        code=None if code is None else SkipReason(code),
        reason=reason,
        error=error,
        epoch=epoch,
        attempts=attempts,
        progress=None if progress is None else Progress(*json.loads(progress)),
        demand=None if demand is None else Demand(demand),
    )


# Many slots have the same standing.
@lru_cache(maxsize=4096)
def to_standing(status: str, at: int, code: str | None, reason: str | None) -> Standing:
    """Convert the columns of ``STANDINGS`` other than the key to a standing."""
    return Standing(JobStatus(status), instant(at), None if code is None else SkipReason(code), reason)


def to_overview(
    mark: tuple[Any, ...] | None,
    paused: int | None,
    standing: tuple[Any, ...],
    endings: Iterable[tuple[Any, ...]],
    troubles: Iterable[tuple[Any, ...]],
) -> Overview:
    """Build the overview of one type from the results of its queries."""
    running, abandoned, overdue, oldest, soon, later = standing
    reached, planned_at = mark or (None, None)
    ended: Counter[JobStatus] = Counter()
    codes: Counter[SkipReason] = Counter()
    for status, code, count in endings:
        ended[JobStatus(status)] += count
        if code is not None:
            codes[SkipReason(code)] += count
    return Overview(
        planned_at=_maybe(planned_at),
        mark=_maybe(reached),
        paused_since=_maybe(paused),
        running=running,
        abandoned=abandoned,
        overdue=overdue,
        oldest=_maybe(oldest),
        soon=soon,
        later=later,
        ended=ended,
        codes=codes,
        troubles=tuple(Trouble(JobStatus(kind), error, count, instant(at)) for kind, error, count, at in troubles),
    )


def _maybe(number: int | None) -> datetime | None:
    return None if number is None else instant(number)


def from_claims(claims: Iterable[Claim]) -> str:
    """Convert claims to one parameter."""
    return json.dumps([[claim.job.dedup_key, claim.token, _from_progress(claim.progress)] for claim in claims])


def _from_progress(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    return json.dumps([progress.step, progress.completed, progress.total, progress.failed, progress.alone])


def from_brief(brief: Brief) -> tuple[object, ...]:
    """Return the parameters of ``PUT_BRIEF``."""
    return (
        brief.user_id,
        brief.type,
        brief.occurrence.local_date.isoformat(),
        micros(brief.occurrence.deliver_at),
        micros(brief.window.end),
        encode_brief(brief),
    )


def from_preference(preference: Preference) -> tuple[object, ...]:
    """Return the parameters of ``PUT_PREFERENCE``."""
    return (
        preference.user_id,
        preference.frequency,
        preference.time_of_day,
        preference.timezone,
        preference.day_of_week,
        None if preference.days is None else json.dumps(list(preference.days)),
        preference.is_active,
        None if preference.effective_from is None else micros(preference.effective_from),
    )


def to_schedule(stored: str) -> ScheduleFields:
    """Convert the ``schedule`` column to schedule fields."""
    frequency, time_of_day, timezone, day_of_week, days = json.loads(stored)
    return ScheduleFields(frequency, time_of_day, timezone, day_of_week, None if days is None else tuple(days))


def to_preference(row: tuple[Any, ...]) -> Preference:
    """Convert a row to a preference."""
    user_id, frequency, time_of_day, timezone, day_of_week, days, is_active, effective_from = row
    return Preference(
        user_id=user_id,
        frequency=frequency,
        time_of_day=time_of_day,
        timezone=timezone,
        day_of_week=day_of_week,
        days=None if days is None else tuple(json.loads(days)),
        is_active=bool(is_active),
        effective_from=None if effective_from is None else instant(effective_from),
    )
