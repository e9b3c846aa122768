"""The SQL of a PostgreSQL storage.

Statements name tables as ``@jobs``; ``Tables`` inserts the schema. Parameters are binary and sets of them are arrays,
so a batch of any size is one statement. Rows are locked in the order of their keys, or skipped if locked. Only names
of columns and values of our own enums, taken from the rules, are spliced into the SQL.
"""

# ruff: noqa: S608  # Nothing that is spliced in comes from outside, as said above.

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fanout_briefs.model import Demand, JobStatus, SkipReason
from fanout_briefs.rules import (
    BRIEFED,
    ENDED,
    LIVE,
    PAUSED,
    RENEWABLE,
    SOON,
    TAKEN_UP_FROM,
    TROUBLED,
    TROUBLES,
)

__all__ = [
    "BEAT",
    "BRIEF_ON",
    "CARRY",
    "CHANGE",
    "CHANGE_AND_RENEW",
    "CLAIM",
    "CLAIM_THESE",
    "COLUMNS",
    "ENDINGS",
    "ENQUEUE",
    "ENQUEUE_PLAIN",
    "FIND",
    "FINISH",
    "FORGET",
    "LAST_BRIEF",
    "LAST_BRIEFS",
    "LOCK_FENCE",
    "MARK",
    "MARKS_OF",
    "MOVE_MARK",
    "OVERVIEW",
    "PAUSE",
    "PAUSES",
    "PREFERENCE",
    "PREFERENCES",
    "PREFERENCES_AFTER",
    "PREFERENCES_FOR",
    "PRUNE",
    "PUT_PREFERENCES",
    "RELEASE",
    "REMOVE_PREFERENCES",
    "RESUME",
    "RETRY",
    "SCHEDULES",
    "SELECT",
    "SHARED_COLUMNS",
    "SNAPSHOT",
    "STANDING",
    "STANDINGS",
    "START_MARK",
    "TOO_OLD_TO_RESUME",
    "TROUBLE",
    "UNPAUSE",
]

COLUMNS: Final = {
    "dedup_key": "text",
    "type": "text",
    "user_id": "text",
    "local_date": "date",
    "deliver_at": "timestamptz",
    "run_at": "timestamptz",
    "window_start": "timestamptz",
    "window_end": "timestamptz",
    "status": "text",
    "code": "text",
    "reason": "text",
    "error": "text",
    "epoch": "bigint",
    "attempts": "bigint",
    "progress": "text",
    "demand": "text",
}
_NAMES: Final = ", ".join(COLUMNS)
_USUAL: Final = {"error": "NULL", "epoch": "1", "attempts": "0", "progress": "NULL", "demand": "NULL"}
SHARED_COLUMNS: Final = {
    name: kind for name, kind in COLUMNS.items() if name not in {"dedup_key", "user_id", "run_at", *_USUAL}
}
"""Columns whose values many new slots of a planner share; ``_USUAL`` is the same in all of them."""


def _job(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in COLUMNS)


def _arrays(types: Iterable[str]) -> str:
    return ", ".join(f"%b::{kind}[]" for kind in types)


def _among(statuses: Iterable[JobStatus]) -> str:
    return "(" + ", ".join(f"'{status}'" for status in statuses) + ")"


# Must match the condition of the index of ended slots exactly.
_HAS_ENDED: Final = f"status IN {_among(ENDED)}"
_PENDING: Final = f"status = '{JobStatus.PENDING}'"
_HELD: Final = f"status = '{JobStatus.PROCESSING}'"


def _takeable(slot: str) -> str:
    """Return the SQL condition for slots that a plan takes up."""
    codes: dict[JobStatus, list[SkipReason | None]] = {}
    for status, code in sorted(TAKEN_UP_FROM, key=str):
        codes.setdefault(status, []).append(code)
    return " OR ".join(
        f"{slot}.status = '{status}'"
        if len(those) > len(SkipReason)
        else f"({slot}.status = '{status}' AND {slot}.code IN ({', '.join(map(repr, map(str, those)))}))"
        for status, those in codes.items()
    )


def _replaced(epoch: str) -> str:
    """Return the SQL that replaces a slot with the same key; it keeps its window's start if it has a saved brief."""
    keeps = """old.window_fixed AND EXISTS (
        SELECT FROM @briefs AS brief
        WHERE brief.user_id = old.user_id AND brief.type = old.type AND brief.local_date = old.local_date
    )"""
    given = ("deliver_at", "run_at", "window_end", "status", "code", "reason", "error", "demand")
    return f"""
    {", ".join(f"{name} = excluded.{name}" for name in given)},
    window_start = CASE WHEN {keeps} THEN old.window_start ELSE excluded.window_start END, window_fixed = {keeps},
    epoch = {epoch}, attempts = 0, progress = NULL, lease_until = NULL
    """


# Locks the fence row FOR SHARE, so that no slot begins at a token that a concurrent erasure is raising, and the pause
# rows, so that resuming finds every slot recorded as paused. Looking up all keys first would avoid locking known ones:
# a quarter faster if all are known, a sixth slower if none is, and planners have looked already. Slots that arrive as
# paused take up nothing, and ON CONFLICT could not tell them from the others, so they have a statement of their own.
def _enqueue(asked: str, on_conflict: str) -> str:
    # The last row says whether every slot was recorded, the usual case; then only unusual ones are returned.
    return f"""
    WITH asked AS (
        {asked}
    ), paused AS (
        SELECT type FROM @pauses WHERE type = ANY (%b::text[]) FOR SHARE
    ), ground AS (
        SELECT token FROM @fence FOR SHARE
    ), planned AS (
        SELECT {_job("asked")},
            asked.{_PENDING} AND asked.demand IS NULL AND asked.type IN (SELECT type FROM paused) AS waits
        FROM asked
    ), recorded AS (
        INSERT INTO @jobs AS old ({_NAMES}, token)
        SELECT dedup_key, type, user_id, local_date, deliver_at, run_at, window_start, window_end,
            CASE WHEN waits THEN '{JobStatus.SKIPPED}' ELSE status END,
            CASE WHEN waits THEN '{SkipReason.PAUSED}' ELSE code END,
            reason, error, epoch, attempts, progress, demand, token
        FROM planned CROSS JOIN ground
        ORDER BY dedup_key COLLATE "C"
        ON CONFLICT (dedup_key) {on_conflict}
        RETURNING old.dedup_key, old.xmax = 0 AS is_new, old.status, old.code
    ), told AS (
        SELECT count(*) = (SELECT count(*) FROM asked) AS are_all FROM recorded
    )
    SELECT dedup_key, is_new, status FROM recorded CROSS JOIN told
    WHERE NOT are_all OR NOT is_new OR code = '{SkipReason.PAUSED}'
    UNION ALL
    SELECT NULL, are_all, NULL FROM told
    """


_TAKE_UP: Final = f"""DO UPDATE SET
        {_replaced(f"old.epoch + CASE excluded.status WHEN '{JobStatus.PENDING}' THEN 1 ELSE 0 END")}
        WHERE (excluded.{_PENDING} OR excluded.code = '{SkipReason.PAUSED}')
            AND ({_takeable("old")} OR (excluded.demand IS NOT NULL AND old.status <> '{JobStatus.PROCESSING}'))"""

_EVERYTHING: Final = f"SELECT * FROM unnest({_arrays(COLUMNS.values())}) AS asked ({_NAMES})"
ENQUEUE: Final = _enqueue(_EVERYTHING, _TAKE_UP)
ENQUEUE_PLAIN: Final = _enqueue(
    f"""
SELECT shared.key || own.user_id AS dedup_key, own.user_id, own.run_at, {", ".join(f"shared.{name}" for name in SHARED_COLUMNS)},
    {", ".join(f"{value}::{COLUMNS[name]} AS {name}" for name, value in _USUAL.items())}
FROM unnest(%b::text[], %b::timestamptz[], %b::integer[]) AS own (user_id, run_at, place)
JOIN unnest(%b::text[], {_arrays(SHARED_COLUMNS.values())}) WITH ORDINALITY
    AS shared (key, {", ".join(SHARED_COLUMNS)}, place) ON shared.place = own.place
""",
    _TAKE_UP,
)
"""Sends values that new slots share once, with the start of their keys: sending takes a quarter of the time."""
ENQUEUE_PAUSED: Final = _enqueue(_EVERYTHING, "DO NOTHING")
"""For slots that arrive already marked as paused."""


def _find(what: str) -> str:
    return f"""
    SELECT {what} FROM unnest(%b::text[]) AS asked (dedup_key) CROSS JOIN LATERAL (
        SELECT * FROM @jobs AS job WHERE job.dedup_key = asked.dedup_key LIMIT 1
    ) AS job
    """


FIND: Final = _find(_job("job"))
# Many slots have the same standing, so each standing is sent once.
STANDINGS: Final = f"""
SELECT status, deliver_at, code, reason, array_agg(dedup_key)
FROM ({_find("job.dedup_key, job.status, job.deliver_at, job.code, job.reason")}) AS job
GROUP BY status, deliver_at, code, reason
"""

LAST_BRIEFS: Final = f"""
SELECT asked.user_id, latest.deliver_at
FROM unnest(%(users)b::text[], %(before)b::timestamptz[]) AS asked (user_id, before) CROSS JOIN LATERAL (
    SELECT deliver_at FROM @jobs AS job
    WHERE job.user_id = asked.user_id AND type = %(type)b AND deliver_at < asked.before AND status IN {_among(BRIEFED)}
    ORDER BY deliver_at DESC LIMIT 1
) AS latest
"""


def _update(chosen: str, changes: str) -> str:
    return f"""
    WITH chosen AS (
        SELECT job.dedup_key FROM @jobs AS job WHERE {chosen} ORDER BY job.dedup_key FOR UPDATE
    )
    UPDATE @jobs AS job SET {changes} FROM chosen WHERE job.dedup_key = chosen.dedup_key
    RETURNING job.dedup_key, job.type, job.run_at
    """


_RENEWED: Final = "epoch = epoch + 1, attempts = 0, progress = NULL, reason = NULL, error = NULL"
_CHANGEABLE: Final = "dedup_key = ANY (%(keys)b::text[]) AND status = ANY (%(applies_to)b::text[])"
CHANGE: Final = _update(_CHANGEABLE, "status = %(to)b, code = %(code)b")
CHANGE_AND_RENEW: Final = _update(_CHANGEABLE, f"status = %(to)b, code = %(code)b, demand = %(demand)b, {_RENEWED}")

MARK: Final = "SELECT instant FROM @marks WHERE name = %(name)b"
MOVE_MARK: Final = """
UPDATE @marks SET instant = greatest(instant, %(to)b), planned_at = coalesce(%(planned_at)b, planned_at)
WHERE name = %(name)b RETURNING instant
"""
START_MARK: Final = """
INSERT INTO @marks AS mark (name, instant, planned_at)
VALUES (%(name)b, greatest(%(start)b::timestamptz, %(to)b), %(planned_at)b)
ON CONFLICT (name) DO UPDATE SET
    instant = greatest(mark.instant, %(to)b), planned_at = coalesce(%(planned_at)b, mark.planned_at)
RETURNING instant
"""

PAUSE: Final = """
INSERT INTO @pauses (type, since) SELECT type, %(at)b FROM unnest(%(types)b::text[]) AS asked (type) ON CONFLICT DO NOTHING
"""
PAUSES: Final = "SELECT type, since FROM @pauses WHERE type = ANY (%(types)b::text[])"
UNPAUSE: Final = "DELETE FROM @pauses WHERE type = ANY (%(types)b::text[]) RETURNING type"
_OF_TYPES: Final = "type = ANY (%(types)b::text[])"
TOO_OLD_TO_RESUME: Final = _update(
    f"{_OF_TYPES} AND deliver_at < %(since)b AND {_PENDING} AND demand IS NULL",
    f"status = '{JobStatus.CANCELLED}', code = '{SkipReason.PAUSED}'",
)
RESUME: Final = _update(
    f"{_OF_TYPES} AND deliver_at >= %(since)b AND status IN {_among(PAUSED)} AND code = '{SkipReason.PAUSED}'",
    f"status = '{JobStatus.PENDING}', code = NULL, demand = NULL, {_RENEWED}",
)

SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
MARKS_OF: Final = "SELECT name, instant, planned_at FROM @marks WHERE name = ANY (%(types)b::text[])"
_WAITS_SINCE: Final = f"{_PENDING} AND run_at <= %(now)b"
_HOUR_FROM_NOW: Final = f"%(now)b::timestamptz + interval '{SOON.total_seconds()} seconds'"
STANDING: Final = f"""
SELECT type,
    count(*) FILTER (WHERE lease_until > %(now)b),
    count(*) FILTER (WHERE lease_until <= %(now)b),
    count(*) FILTER (WHERE {_WAITS_SINCE}),
    min(run_at) FILTER (WHERE lease_until <= %(now)b OR ({_WAITS_SINCE})),
    count(*) FILTER (WHERE {_PENDING} AND run_at > %(now)b AND run_at <= {_HOUR_FROM_NOW}),
    count(*) FILTER (WHERE {_PENDING} AND run_at > {_HOUR_FROM_NOW})
FROM (
    SELECT type, status, run_at, NULL AS lease_until FROM @jobs WHERE {_OF_TYPES} AND {_PENDING}
    UNION ALL
    SELECT type, status, run_at, lease_until FROM @jobs WHERE {_OF_TYPES} AND {_HELD}
) AS live
GROUP BY type
"""
ENDINGS: Final = f"""
SELECT type, status, code, count(*) FROM @jobs
WHERE {_OF_TYPES} AND deliver_at >= %(since)b AND {_HAS_ENDED} GROUP BY type, status, code
"""
TROUBLE: Final = f"""
SELECT type, status, error, times, latest FROM (
    SELECT type, status, error, count(*) AS times, max(deliver_at) AS latest,
        row_number() OVER (PARTITION BY type ORDER BY count(*) DESC, status, error NULLS FIRST) AS place
    FROM @jobs WHERE {_OF_TYPES} AND deliver_at >= %(since)b AND status IN {_among(TROUBLED)}
    GROUP BY type, status, error
) AS kinds
WHERE place <= {TROUBLES} ORDER BY type, place
"""

OVERVIEW: Final = (MARKS_OF, PAUSES, STANDING, ENDINGS, TROUBLE)
"""The queries behind an overview, each for all types at once."""


def _slots(where: str) -> str:
    # Compares time and key as a pair, and the time again by itself, for which the index can be used.
    return f"""
    SELECT {_job("slot")} FROM unnest(%(types)b::text[]) AS asked (type) CROSS JOIN LATERAL (
        SELECT * FROM @jobs AS job
        WHERE job.type = asked.type AND {where} AND status = ANY (%(statuses)b::text[]) AND deliver_at >= %(since)b
            AND (deliver_at, dedup_key) > (%(since)b, %(after)b::text)
        ORDER BY deliver_at, dedup_key LIMIT %(limit)b
    ) AS slot
    """


# Each of the three indexes covers only some statuses.
SELECT: Final = f"""
SELECT * FROM ({" UNION ALL ".join(map(_slots, (_PENDING, _HELD, _HAS_ENDED)))}) AS slot
ORDER BY deliver_at, dedup_key LIMIT %(limit)b
"""

LOCK_FENCE: Final = "SELECT FROM @fence FOR UPDATE"
PRUNE: Final = f"""
WITH chosen AS (
    SELECT old.dedup_key, old.user_id, old.type, old.local_date
    FROM unnest(%(types)b::text[]) AS asked (type) CROSS JOIN LATERAL (
        SELECT * FROM @jobs AS job
        WHERE job.type = asked.type AND deliver_at < %(before)b AND {_HAS_ENDED} AND EXISTS (
            SELECT FROM @jobs AS newer
            WHERE newer.user_id = job.user_id AND newer.type = job.type
                AND (newer.deliver_at, newer.dedup_key) > (job.deliver_at, job.dedup_key)
                AND (newer.status = '{JobStatus.COMPLETED}' OR job.status <> '{JobStatus.COMPLETED}')
        ) AND local_date IS DISTINCT FROM (
            SELECT brief.local_date FROM @briefs AS brief WHERE brief.user_id = job.user_id AND brief.type = job.type
            ORDER BY brief.deliver_at DESC, brief.local_date DESC LIMIT 1
        )
        ORDER BY deliver_at LIMIT %(limit)b FOR UPDATE OF job SKIP LOCKED
    ) AS old
    LIMIT %(limit)b
), slots AS (
    DELETE FROM @jobs AS job USING chosen WHERE job.dedup_key = chosen.dedup_key RETURNING job.token
), bodies AS (
    DELETE FROM @briefs AS brief USING chosen
    WHERE (brief.user_id, brief.type, brief.local_date) = (chosen.user_id, chosen.type, chosen.local_date)
)
UPDATE @fence SET token = greatest(token, (SELECT max(slots.token) FROM slots)) RETURNING (SELECT count(*) FROM slots)
"""
FORGET: Final = """
WITH mails AS (
    DELETE FROM @outbox AS mail USING @jobs AS job
    WHERE job.user_id = %(user)b AND mail.dedup_key = job.dedup_key RETURNING 1
), slots AS (
    DELETE FROM @jobs WHERE user_id = %(user)b RETURNING token
), bodies AS (
    DELETE FROM @briefs WHERE user_id = %(user)b RETURNING 1
), wishes AS (
    DELETE FROM @preferences WHERE user_id = %(user)b RETURNING 1
)
UPDATE @fence SET token = greatest(token, (SELECT max(slots.token) FROM slots)) RETURNING
    (SELECT count(*) FROM mails) + (SELECT count(*) FROM slots)
    + (SELECT count(*) FROM bodies) + (SELECT count(*) FROM wishes)
"""


_OPEN: Final = """
    SELECT type FROM unnest(%(types)b::text[]) AS asked (type)
    WHERE NOT EXISTS (SELECT FROM @pauses AS pause WHERE pause.type = asked.type)
"""
_UNBLOCKED: Final = f"""NOT EXISTS (
    SELECT FROM @jobs AS earlier
    WHERE earlier.user_id = job.user_id AND earlier.type = job.type
        AND earlier.deliver_at < job.deliver_at AND earlier.status IN {_among(LIVE)}
)"""
_FIRST: Final = "ORDER BY run_at LIMIT %(limit)b FOR UPDATE OF job SKIP LOCKED"


def _claim(held: str, due: str) -> str:
    return f"""
    WITH asked AS ({_OPEN}), held AS (
        SELECT min(lease_until) AS until FROM {held} WHERE {_HELD} AND lease_until > %(now)b AND run_at <= %(due_by)b
    ), due AS ({due}), taken AS (
        UPDATE @jobs AS job SET
            status = '{JobStatus.PROCESSING}', attempts = attempts + 1, token = token + 1, lease_until = %(until)b,
            window_fixed = true,
            window_start = CASE WHEN window_fixed THEN window_start ELSE coalesce((
                SELECT least(brief.window_end, job.window_end) FROM @briefs AS brief
                WHERE brief.user_id = job.user_id AND brief.type = job.type
                ORDER BY brief.deliver_at DESC, brief.local_date DESC LIMIT 1
            ), window_start) END
        FROM due WHERE job.dedup_key = due.dedup_key
        RETURNING {_job("job")}, job.token
    )
    SELECT held.until, {_job("taken")}, taken.token, mail.payload
    FROM held LEFT JOIN taken ON true LEFT JOIN @outbox AS mail ON mail.dedup_key = taken.dedup_key
    ORDER BY taken.run_at, taken.dedup_key
    """


# For each type, every subquery reads its index in order and stops at the limit. With expired leases or several types,
# the statement may briefly lock more rows than it takes; concurrent claims skip those.
CLAIM: Final = _claim(
    "asked JOIN @jobs AS job ON job.type = asked.type",
    f"""
    SELECT due.dedup_key FROM asked CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT dedup_key, run_at FROM @jobs AS job
            WHERE job.type = asked.type AND {_PENDING} AND run_at <= %(due_by)b AND {_UNBLOCKED} {_FIRST}
        ) AS pending
        UNION ALL
        SELECT * FROM (
            SELECT dedup_key, run_at FROM @jobs AS job
            WHERE job.type = asked.type AND {_HELD} AND lease_until <= %(now)b AND {_UNBLOCKED} {_FIRST}
        ) AS expired
    ) AS due
    ORDER BY run_at LIMIT %(limit)b
    """,
)
# Looks up each slot by its key. The subquery prevents use of the index of held slots: that index has no keys, so each
# claim would read every held slot.
_THESE: Final = """(
    SELECT job.* FROM unnest(%(keys)b::text[]) AS wanted (dedup_key) CROSS JOIN LATERAL (
        SELECT * FROM @jobs AS job WHERE job.dedup_key = wanted.dedup_key LIMIT 1
    ) AS job
) AS job"""
CLAIM_THESE: Final = _claim(
    f"{_THESE} JOIN asked ON asked.type = job.type",
    f"""
    SELECT job.dedup_key FROM unnest(%(keys)b::text[]) AS wanted (dedup_key)
        JOIN @jobs AS job ON job.dedup_key = wanted.dedup_key
    WHERE job.type IN (SELECT type FROM asked) AND {_UNBLOCKED}
        AND (({_PENDING} AND run_at <= %(due_by)b) OR (job.{_HELD} AND lease_until <= %(now)b)) {_FIRST}
    """,
)

_OURS: Final = f"job.dedup_key = %(key)b AND job.token = %(token)b AND job.{_HELD}"


def _update_ours(changes: str) -> str:
    return f"""
    WITH ours AS (
        SELECT job.dedup_key, asked.progress
        FROM unnest(%(keys)b::text[], %(tokens)b::bigint[], %(progress)b::text[]) AS asked (dedup_key, token, progress)
            JOIN @jobs AS job ON job.dedup_key = asked.dedup_key AND job.token = asked.token AND job.{_HELD}
        ORDER BY job.dedup_key FOR UPDATE OF job
    )
    UPDATE @jobs AS job SET {changes} FROM ours WHERE job.dedup_key = ours.dedup_key RETURNING job.dedup_key
    """


BEAT: Final = _update_ours("lease_until = %(until)b, progress = coalesce(ours.progress, job.progress)")
RELEASE: Final = _update_ours(
    f"status = '{JobStatus.PENDING}', attempts = attempts - 1, progress = NULL, lease_until = NULL"
)
RETRY: Final = f"""
UPDATE @jobs AS job SET
    status = '{JobStatus.PENDING}', run_at = %(at)b, error = %(error)b, attempts = attempts - %(uncounted)b,
    progress = NULL, lease_until = NULL
WHERE {_OURS}
"""
_CARRY: Final = f"""
asked AS (
    SELECT * FROM unnest({", ".join(f"%({name})b::{kind}[]" for name, kind in COLUMNS.items())}, %(payload)b::bytea[])
        AS asked ({_NAMES}, payload)
), renewed AS (
    INSERT INTO @jobs AS old ({_NAMES}, token)
    SELECT {_job("asked")}, ended.token FROM asked CROSS JOIN ended ORDER BY asked.dedup_key COLLATE "C"
    ON CONFLICT (dedup_key) DO UPDATE SET {_replaced("excluded.epoch")}
    WHERE old.status IN {_among(RENEWABLE)} OR excluded.demand = '{Demand.RESEND}'
    RETURNING old.dedup_key
), carried AS (
    INSERT INTO @outbox (dedup_key, payload)
    SELECT renewed.dedup_key, asked.payload FROM renewed JOIN asked ON asked.dedup_key = renewed.dedup_key
    ON CONFLICT (dedup_key) DO UPDATE SET payload = excluded.payload
)
"""
# Always one statement. Locks the fence (shared) before the slot, in the same order as statements that erase.
FINISH: Final = f"""
WITH ground AS (
    SELECT token FROM @fence
    WHERE cardinality(%(dedup_key)b::text[]) + cardinality(%(brief_user)b::text[]) > 0 FOR SHARE
), ended AS (
    UPDATE @jobs AS job SET
        status = %(end)b, code = %(end_code)b, reason = coalesce(%(end_reason)b, job.reason), error = %(end_error)b,
        lease_until = NULL
    FROM (SELECT max(token) AS token FROM ground) AS ground
    WHERE {_OURS}
    RETURNING ground.token
), saved AS (
    INSERT INTO @briefs (user_id, type, local_date, deliver_at, window_end, body)
    SELECT brief.* FROM ended CROSS JOIN unnest(
        %(brief_user)b::text[], %(brief_type)b::text[], %(brief_date)b::date[], %(brief_at)b::timestamptz[],
        %(brief_end)b::timestamptz[], %(brief_body)b::bytea[]
    ) AS brief
    ON CONFLICT (user_id, type, local_date) DO UPDATE SET
        deliver_at = excluded.deliver_at, window_end = excluded.window_end, body = excluded.body
), {_CARRY}
SELECT count(*) FROM ended
"""
# For follow-ups that share a slot, with each other or with the finished job, one after the other: a single statement
# would change a slot only once.
CARRY: Final = f"WITH ended AS (SELECT token FROM @fence FOR SHARE), {_CARRY} SELECT FROM renewed"

BRIEF_ON: Final = "SELECT body FROM @briefs WHERE type = %(type)b AND user_id = %(user)b AND local_date = %(on)b"
LAST_BRIEF: Final = """
SELECT body FROM @briefs WHERE type = %(type)b AND user_id = %(user)b ORDER BY deliver_at DESC, local_date DESC LIMIT 1
"""

PREFERENCE: Final = {
    "user_id": "text",
    "frequency": "text",
    "time_of_day": "text",
    "timezone": "text",
    "day_of_week": "bigint",
    "days": "jsonb",
    "is_active": "boolean",
    "effective_from": "timestamptz",
}
_WISHES: Final = ", ".join(PREFERENCE)
# There are few distinct values, so each JSON text is decoded only once.
_READ: Final = _WISHES.replace("days", "days::text")
PREFERENCES_AFTER: Final = f"SELECT {_READ} FROM @preferences WHERE user_id > %b::text ORDER BY user_id LIMIT %b"
PREFERENCES: Final = f"SELECT {_READ} FROM @preferences WHERE user_id = ANY (%b::text[])"
# Jumps from one schedule to the next in the index, so the cost depends on the number of schedules, not of people.
SCHEDULES: Final = """
WITH RECURSIVE one AS (
    (SELECT * FROM @preferences WHERE is_active ORDER BY schedule LIMIT 1)
    UNION ALL
    SELECT next.* FROM one CROSS JOIN LATERAL (
        SELECT * FROM @preferences WHERE is_active AND schedule > one.schedule ORDER BY schedule LIMIT 1
    ) AS next
)
SELECT schedule, frequency, time_of_day, timezone, day_of_week, days::text FROM one
"""
# In the order of the requested schedules and of users, as in the index: PostgreSQL then stops at the limit and never
# reads the table. Each schedule is returned once, as its position, since ids are long. effective_from is left out if
# nobody with the schedule has one.
PREFERENCES_FOR: Final = """
SELECT place::integer, array_agg(user_id ORDER BY user_id),
    CASE WHEN count(effective_from) > 0 THEN array_agg(effective_from ORDER BY user_id) END
FROM (
    SELECT place, user_id, effective_from FROM (
        SELECT * FROM unnest(%(schedules)b::text[]) WITH ORDINALITY AS asked (id, place) ORDER BY place
    ) AS asked CROSS JOIN LATERAL (
        SELECT user_id, effective_from FROM @preferences
        WHERE is_active AND schedule = asked.id COLLATE "C"
            AND user_id > CASE WHEN asked.id = %(last)b THEN %(after)b ELSE '' END COLLATE "C"
        ORDER BY user_id LIMIT %(limit)b
    ) AS wish
    ORDER BY place, user_id LIMIT %(limit)b
) AS people
GROUP BY place ORDER BY place
"""
PUT_PREFERENCES: Final = f"""
INSERT INTO @preferences ({_WISHES})
SELECT {_WISHES} FROM unnest({_arrays(PREFERENCE.values())}) AS asked ({_WISHES})
ORDER BY user_id COLLATE "C"
ON CONFLICT (user_id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in PREFERENCE if name != "user_id")}
"""
REMOVE_PREFERENCES: Final = "DELETE FROM @preferences WHERE user_id = ANY (%b::text[])"
