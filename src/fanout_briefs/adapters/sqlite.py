"""A storage in one SQLite file: for one machine, with any number of processes.

It needs nothing but Python. Every write transaction takes the write lock at its start, so the data it reads cannot
change before it writes. Readers never wait. Not for network file systems.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast

from attrs import evolve

from fanout_briefs.adapters import sqlite_statements as sql
from fanout_briefs.adapters._sessions import Sessions
from fanout_briefs.adapters.sqlite_connection import Database, Session, Unit
from fanout_briefs.arguments import bad_hooks, bad_spans, refuse
from fanout_briefs.encoding import decode_brief
from fanout_briefs.errors import BadValue
from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Overview,
    Page,
    Preference,
    Scheduled,
    ScheduleFields,
    SkipReason,
    Standing,
)
from fanout_briefs.rules import (
    TRANSITIONS,
    check_finish,
    check_limit,
    check_new,
    enqueued,
    is_storable,
    readable,
    storable,
    utc,
)

__all__ = ["SqlitePreferences", "SqliteStorage"]

_T = TypeVar("_T")

_CHUNK: Final = 4_000
"""Rows per transaction, so that other writers get their turn within some hundredths of a second."""


class SqliteStorage:
    """Keeps everything in the file at ``path``, which is created if it does not exist.

    One event loop may open it any number of times; each further loop, and each process after a fork, needs an object
    of its own.

    Args:
        path: The file; its folder must exist. SQLite keeps ``-wal`` and ``-shm`` files next to it.
        durability: ``normal`` survives every crash of the process; a power failure may lose the most recent
            transactions, but never part of one, so mails that were sent just before it may be sent again. ``full``
            waits for the disk at each transaction.
        busy_timeout: How long to wait for the file while another process writes.
        trace: For diagnostics: called in a thread with each SQL statement before it runs, without the values. If it
            raises, the transaction is rolled back.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """

    tells_standings = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["normal", "full"] = "normal",
        busy_timeout: timedelta = timedelta(seconds=30),
        trace: Callable[[str], None] | None = None,
    ) -> None:
        refuse(
            [*_bad_place(path, durability), *bad_spans({"busy_timeout": busy_timeout}), *bad_hooks({"trace": trace})]
        )
        self._database = Database(path=Path(path), durability=durability, busy_timeout=busy_timeout, trace=trace)
        self._sessions: Final = Sessions(str(self._database.path), partial(Session, self._database))
        self.preferences: Final = SqlitePreferences(self._open_session)

    async def __aenter__(self) -> Self:
        await self._sessions.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._sessions.leave()

    def _open_session(self) -> Session:
        return self._sessions.current()

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        writer = self._open_session().writer
        first: dict[str, Job] = {}
        for job in jobs:
            check_new(job)
            first.setdefault(job.dedup_key, job)
        outcomes: dict[str, Enqueued] = {}
        for keys in _chunks(first):
            chunk = [first[key] for key in keys]
            outcomes.update(await writer.write(partial(_enqueue, jobs=chunk)))
        # The outcome belongs to the first of equal keys; popping leaves none for the others.
        return [outcomes.pop(job.dedup_key, Enqueued.DUPLICATE) for job in jobs]

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        asked = (sql.array(keys),)
        return await self._open_session().reader.read(
            lambda connection: {row[0]: sql.to_job(row) for row in connection.execute(sql.FIND, asked)}
        )

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        asked = (sql.array(keys),)
        return await self._open_session().reader.read(
            lambda connection: {
                key: sql.to_standing(status, at, code, reason)
                for key, status, at, code, reason in connection.execute(sql.STANDINGS, asked)
            }
        )

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002  # the port's name
        reader = self._open_session().reader
        user_ids = [user_id for user_id in before if "\0" not in user_id]
        asked = json.dumps([(user_id, sql.micros(before[user_id])) for user_id in user_ids])
        rows = await reader.read(_all(sql.LAST_BRIEFS, {"type": type, "before": asked}))
        return {user_ids[place]: sql.instant(latest) for place, latest in rows if latest is not None}

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        writer = self._open_session().writer
        rule = TRANSITIONS[change]
        statement = sql.CHANGE if rule.demand is None else sql.CHANGE_AND_RENEW
        values = {
            "applies_to": sql.array(rule.applies_to),
            "to": rule.to.value,
            "code": None if rule.code is None else rule.code.value,
            "demand": None if rule.demand is None else rule.demand.value,
        }
        moved: set[str] = set()
        for chunk in _chunks(set(keys)):
            rows = await writer.write(_all(statement, {**values, "keys": sql.array(chunk)}))
            moved.update(key for (key,) in rows)
        return moved

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        session = self._open_session()
        if start is None and not is_storable(name):
            return None
        if to is None and start is None and planned_at is None:
            rows = await session.reader.read(_all(sql.MARK, (name,)))
        else:
            begin, end, noted = (None if at is None else sql.micros(at) for at in (start, to, planned_at))
            rows = await session.writer.write(partial(_advance, name=name, begin=begin, end=end, noted=noted))
        return sql.instant(rows[0][0]) if rows else None

    async def forget(self, user_id: str) -> int:
        writer = self._open_session().writer
        if not is_storable(user_id):
            return 0
        erased = await writer.write(partial(_forget, user_id=user_id))
        await writer.read(_empty_log)
        return erased

    async def claim(
        self,
        due_by: datetime,
        *,
        now: datetime,
        lease: timedelta,
        limit: int,
        types: Collection[str],
        keys: Collection[str] | None = None,
    ) -> Claims:
        writer = self._open_session().writer
        check_limit(limit)
        until = utc(now) + lease
        values = {
            "due_by": sql.micros(due_by),
            "now": sql.micros(now),
            "until": sql.micros(until),
            "limit": limit,
            "keys": None if keys is None else sql.array(keys),
        }
        rows, held_until = await writer.write(partial(_claim, values=values, types=sorted(set(types))))
        return Claims([_to_claim(row, until) for row in rows], None if held_until is None else sql.instant(held_until))

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        values = {"claims": sql.from_claims(claims), "until": sql.micros(until)}
        rows = await self._open_session().pulse.write(_all(sql.BEAT, values))
        return {claim.job.dedup_key for claim in claims} - {key for (key,) in rows}

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        writer = self._open_session().writer
        check_finish(finish)
        for follow_up in follow_ups:
            check_new(follow_up.job)
        return await writer.write(partial(_finish, claim=claim, finish=finish, follow_ups=follow_ups))

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        values = {**_held_by(claim), "at": sql.micros(at), "error": readable(error), "uncounted": int(not counted)}
        return await self._open_session().writer.write(
            lambda connection: connection.execute(sql.RETRY, values).rowcount == 1
        )

    async def release(self, claims: Collection[Claim]) -> None:
        await self._open_session().writer.write(_all(sql.RELEASE, {"claims": sql.from_claims(claims)}))

    async def brief(self, type: str, user_id: str, on: date | None = None) -> Brief | None:  # noqa: A002  # the port's name
        reader = self._open_session().reader
        if not is_storable(user_id + type):
            return None
        if on is None:
            rows = await reader.read(_all(sql.LAST_BRIEF, (type, user_id)))
        else:
            rows = await reader.read(_all(sql.BRIEF_ON, (type, user_id, on.isoformat())))
        return decode_brief(rows[0][0]) if rows else None

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        values = {"types": sql.array(set(types)), "at": sql.micros(at)}
        return await self._open_session().writer.write(
            lambda connection: connection.execute(sql.PAUSE, values).rowcount > 0
        )

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        return await self._open_session().writer.write(partial(_resume, types=types, since=sql.micros(since)))

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        rows = await self._open_session().reader.read(_all(sql.PAUSES, (sql.array(types),)))
        return {kind: sql.instant(since) for kind, since in rows}

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        reader = self._open_session().reader
        values = {"now": sql.micros(now), "since": sql.micros(since)}
        return await reader.read(_snapshot(partial(_overviews, types=types, values=values)))

    async def select(
        self,
        types: Collection[str],
        statuses: Collection[JobStatus],
        *,
        since: datetime,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> Page[Job]:
        reader = self._open_session().reader
        check_limit(limit)
        begin, after = (sql.micros(since), "") if cursor is None else json.loads(cursor)
        # One row more than asked for tells whether this page is the last.
        values = {"since": begin, "after": after, "limit": limit + 1}
        jobs = await reader.read(_snapshot(partial(_select, types=set(types), statuses=set(statuses), values=values)))
        return Page(jobs[:limit], json.dumps(_turn(jobs[limit - 1])) if len(jobs) > limit else None)

    async def prune(self, types: Collection[str], before: datetime, limit: int) -> int:
        writer = self._open_session().writer
        check_limit(limit)
        return await writer.write(
            partial(_prune, types=sorted(set(types)), values={"before": sql.micros(before), "limit": limit})
        )


class SqlitePreferences:
    """The preferences in a ``SqliteStorage``, ordered by user id; they can be read by schedule."""

    schedule_index = True

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        reader = self._session().reader
        check_limit(limit)
        # One row more than asked for tells whether this page is the last.
        items = await reader.read(_preferences(sql.PREFERENCES_AFTER, (cursor or "", limit + 1)))
        return Page(items[:limit], items[limit - 1].user_id if len(items) > limit else None)

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        rows = await self._session().reader.read(_all(sql.SCHEDULES, ()))
        return {schedule: sql.to_schedule(schedule) for (schedule,) in rows}

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        reader = self._session().reader
        check_limit(limit)
        last, after = ("", "") if cursor is None else json.loads(cursor)
        wanted = sorted(schedule for schedule in set(schedules) if schedule >= last and is_storable(schedule))
        asked = {schedule: after if schedule == last else "" for schedule in wanted}
        people = await reader.read(partial(_scheduled, asked=asked, limit=limit + 1))
        items = people[:limit]
        is_last = len(people) <= limit
        return Page(items, None if is_last else json.dumps([items[-1].schedule, items[-1].user_id]))

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        rows = await self._session().reader.read(_preferences(sql.PREFERENCES, (sql.array(user_ids),)))
        return {row.user_id: row for row in rows}

    async def put(self, preferences: Iterable[Preference]) -> None:
        """Store these preferences, replacing those of the same users; all of them or none.

        Raises:
            InvalidPreferences: Some contain values that cannot be stored. Whether they form a valid schedule is
                checked by the planner, not here.
        """
        writer = self._session().writer
        rows = sorted(storable(preferences), key=lambda preference: preference.user_id)
        await writer.write(
            lambda connection: connection.executemany(sql.PUT_PREFERENCE, map(sql.from_preference, rows))
        )

    async def remove(self, user_ids: Collection[str]) -> None:
        """Remove the preferences of these users, but not their slots and briefs."""
        await self._session().writer.write(_all(sql.REMOVE_PREFERENCES, (sql.array(user_ids),)))


def _bad_place(path: object, durability: object) -> Iterator[BadValue]:
    try:
        place = Path(cast("str", path))
    except TypeError:
        yield BadValue("path", path, "must be the path of a file, as a str or an os.PathLike of one")
    else:
        if "\0" in str(place):
            yield BadValue("path", path, "must be the path of a file, which has no NUL")
        if str(place) in (".", ":memory:"):
            yield BadValue("path", path, "must be a file; MemoryStorage keeps everything in memory")
    if durability not in ("normal", "full"):
        yield BadValue("durability", durability, "must be 'normal' or 'full'")


def _all(statement: str, values: Any) -> Unit[list[Any]]:
    return lambda connection: connection.execute(statement, values).fetchall()


def _preferences(statement: str, values: Any) -> Unit[list[Preference]]:
    return lambda connection: [sql.to_preference(row) for row in connection.execute(statement, values)]


def _scheduled(connection: Connection, asked: Mapping[str, str], limit: int) -> list[Scheduled]:
    """Return the people who have these schedules, for each schedule only those after the given user."""
    found: list[Scheduled] = []
    for schedule, after in asked.items():
        for user_id, since in connection.execute(sql.PREFERENCES_FOR, (schedule, after, limit - len(found))):
            found.append(Scheduled(user_id, schedule, None if since is None else sql.instant(since)))
        if len(found) == limit:
            break
    return found


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    # In order of the keys, so that each index page is visited once.
    ordered = sorted(keys)
    for begin in range(0, len(ordered), _CHUNK):
        yield ordered[begin : begin + _CHUNK]


def _enqueue(connection: Connection, jobs: Sequence[Job]) -> dict[str, Enqueued]:
    asked = sql.array(job.dedup_key for job in jobs)
    known = {key: ((status, code), epoch) for key, status, code, epoch in connection.execute(sql.STATES, (asked,))}
    paused = {kind for kind, _ in connection.execute(sql.PAUSES, (sql.array({job.type for job in jobs}),))}
    (token,) = connection.execute(sql.FENCE).fetchone()
    outcomes: dict[str, Enqueued] = {}
    rows: list[tuple[object, ...]] = []
    for job in jobs:
        state, epoch = known.get(job.dedup_key, (None, job.epoch))
        outcome = outcomes[job.dedup_key] = enqueued(job, state, paused=job.type in paused)
        if outcome is Enqueued.PAUSED:
            job = evolve(job, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)  # noqa: PLW2901
        if outcome is not Enqueued.DUPLICATE:
            rows.append(sql.from_job(job, epoch + (outcome is Enqueued.TAKEN_UP), token))
    if rows:
        connection.executemany(sql.PUT_JOB, rows)
    return outcomes


def _advance(connection: Connection, name: str, begin: int | None, end: int | None, noted: int | None) -> list[Any]:
    if begin is not None:
        connection.execute(sql.START_MARK, (name, begin))
    if end is not None:
        connection.execute(sql.MOVE_MARK, (end, name))
    if noted is not None:
        connection.execute(sql.NOTE_PLAN, (noted, name))
    return connection.execute(sql.MARK, (name,)).fetchall()


def _resume(connection: Connection, types: Collection[str], since: int) -> int | None:
    paused = [kind for kind, _ in connection.execute(sql.PAUSES, (sql.array(types),))]
    if not paused:
        return None
    values = {"types": sql.array(paused), "since": since}
    connection.execute(sql.UNPAUSE, (values["types"],))
    connection.execute(sql.TOO_OLD_TO_RESUME, values)
    return connection.execute(sql.RESUME, values).rowcount


def _snapshot(unit: Unit[_T]) -> Unit[_T]:
    def ask(connection: Connection) -> _T:
        # A read-only transaction, so that all answers describe the same moment.
        connection.execute("BEGIN")
        try:
            return unit(connection)
        finally:
            connection.rollback()

    return ask


def _overviews(connection: Connection, types: Collection[str], values: Mapping[str, Any]) -> dict[str, Overview]:
    return {kind: _overview(connection, {**values, "type": kind}) for kind in types}


def _overview(connection: Connection, asked: Mapping[str, Any]) -> Overview:
    paused = connection.execute(sql.PAUSES, (sql.array([asked["type"]]),)).fetchone()
    return sql.to_overview(
        mark=connection.execute(sql.MARK_OF, asked).fetchone(),
        paused=None if paused is None else paused[1],
        standing=connection.execute(sql.STANDING, asked).fetchone(),
        endings=connection.execute(sql.ENDINGS, asked),
        troubles=connection.execute(sql.TROUBLE, asked),
    )


def _select(
    connection: Connection, types: Collection[str], statuses: Collection[JobStatus], values: Mapping[str, Any]
) -> list[Job]:
    found = (connection.execute(sql.SELECT[status], {**values, "type": kind}) for kind in types for status in statuses)
    return sorted((sql.to_job(row) for rows in found for row in rows), key=_turn)[: values["limit"]]


def _turn(job: Job) -> tuple[int, str]:
    return sql.micros(job.occurrence.deliver_at), job.dedup_key


def _prune(connection: Connection, types: Sequence[str], values: Mapping[str, Any]) -> int:
    # The oldest ones of each type; the order among types does not matter.
    asked = ({**values, "type": kind} for kind in types)
    seqs = [seq for each in asked for (seq,) in connection.execute(sql.PRUNABLE, each)][: values["limit"]]
    erased = (json.dumps(seqs),)
    connection.execute(sql.PRUNE_FENCE, erased)
    for statement in sql.PRUNE:
        connection.execute(statement, erased)
    return len(seqs)


def _empty_log(connection: Connection) -> None:
    # What was erased from the file is still in its log. While others read or write, this leaves it to a later call, or
    # to the last connection that closes.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def _forget(connection: Connection, user_id: str) -> int:
    # A slot with the same key may be planned again; a claim on the old one must not fit the new one.
    connection.execute(sql.RAISE_FENCE, (user_id,))
    return sum(connection.execute(statement, (user_id,)).rowcount for statement in sql.FORGET)


def _claim(connection: Connection, values: Mapping[str, Any], types: Sequence[str]) -> tuple[list[Any], int | None]:
    held_of, due_of = (sql.HELD, sql.DUE) if values["keys"] is None else (sql.HELD_OF_THESE, sql.DUE_OF_THESE)
    held: list[int] = []
    due: list[tuple[int, int]] = []
    # Type by type, so that each query reads its index in order and stops at the limit.
    for asked in ({**values, "type": kind} for kind in types):
        held += (end for (end,) in connection.execute(held_of, asked) if end is not None)
        for question in due_of:
            due += connection.execute(question, asked)
    seqs = [seq for _, seq in sorted(due)[: values["limit"]]]
    if not seqs:
        return [], min(held, default=None)
    taken = connection.execute(sql.TAKE, {"until": values["until"], "seqs": json.dumps(seqs)})
    place = {seq: number for number, seq in enumerate(seqs)}
    return sorted(taken, key=lambda row: place[row[0]]), min(held, default=None)


def _to_claim(row: tuple[Any, ...], until: datetime) -> Claim:
    _, *columns, token, payload = row
    job = sql.to_job(tuple(columns))
    return Claim(job=job, token=token, until=until, payload=payload, progress=job.progress)


def _held_by(claim: Claim) -> dict[str, object]:
    return {"key": claim.job.dedup_key, "token": claim.token}


def _finish(connection: Connection, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp]) -> bool:
    values = {
        **_held_by(claim),
        "status": finish.status.value,
        "code": None if finish.code is None else finish.code.value,
        "reason": readable(finish.reason),
        "error": readable(finish.error),
    }
    if connection.execute(sql.FINISH, values).rowcount != 1:
        return False
    if finish.brief is not None:
        connection.execute(sql.PUT_BRIEF, sql.from_brief(finish.brief))
    (token,) = connection.execute(sql.FENCE).fetchone()
    for follow_up in follow_ups:
        renewed = connection.execute(sql.RENEW_JOB, sql.from_job(follow_up.job, follow_up.job.epoch, token)).fetchall()
        connection.executemany(sql.PUT_PAYLOAD, [(seq, follow_up.payload) for (seq,) in renewed])
    return True
