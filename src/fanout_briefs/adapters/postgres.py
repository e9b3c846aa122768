"""A storage in PostgreSQL: for any number of machines, planners and workers.

Requires PostgreSQL 13 or newer and psycopg 3, which is used synchronously in threads and so works on asyncio and
trio. The tables live in a schema of your choice, beside your own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

try:
    import psycopg
except ModuleNotFoundError as _missing:
    raise ImportError("PostgresStorage needs psycopg 3: pip install 'fanout-briefs[postgres]'") from _missing

from fanout_briefs.adapters import postgres_rows as convert
from fanout_briefs.adapters import postgres_statements as sql
from fanout_briefs.adapters._sessions import Sessions
from fanout_briefs.adapters.postgres_connection import Database, Guest, Lanes, PoolUse, Session, Tables
from fanout_briefs.adapters.postgres_errors import bad_place
from fanout_briefs.arguments import bad_counts, bad_hooks, bad_spans, refuse
from fanout_briefs.encoding import decode_brief
from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobRef,
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
    is_storable,
    not_open,
    storable,
    utc,
)

__all__ = ["OnPending", "PoolUse", "PostgresPreferences", "PostgresStorage"]

_T = TypeVar("_T")
OnPending: TypeAlias = Callable[[psycopg.Connection[Any], Sequence[JobRef]], object]
"""Called, in a thread and inside the transaction, with the jobs that become pending when it commits."""

_CHUNK: Final = 10_000
"""Rows per statement: more are no faster, and other planners get their turn in between."""
_LONGEST_STATEMENT: Final = timedelta(days=24)
"""The server counts milliseconds in 31 bits."""


class PostgresStorage:
    """Keeps everything in the tables of one schema.

    One event loop may open it any number of times; each further loop, and each process after a fork, needs an object
    of its own.

    Args:
        dsn: A libpq connection string: a ``postgresql://`` address or ``key=value`` pairs. Anything it leaves out comes
            from the environment (``PGPASSWORD``, a password file).
        schema: The schema of the tables.
        migrate: Create the schema and its tables, or bring them to the newest version, when the storage is opened.
            If False, you do that yourself, and opening fails while they are missing or old.
        pool_size: The maximum number of connections; at least 2, one of which is reserved for heartbeats.
        statement_timeout: How long the server lets one statement run, and so how long a cancelled call may take
            to end. A statement waits for a lock for at most half of it.
        on_pending: Called in every transaction that makes jobs pending, with the connection and the references of the
            jobs, so that an engine in the same database takes them over in the same transaction; see the dispatchers
            for Procrastinate and PgQueuer. The connection's ``search_path`` is ``pg_catalog``. If the callable raises,
            the transaction is rolled back, and psycopg's errors surface as the storage's own. It may be called again
            for the same jobs.
        trace: For diagnostics: called in a thread with each SQL statement before it runs, without the values. If it
            raises, the transaction is rolled back.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """

    tells_standings = True

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = "fanout_briefs",
        migrate: bool = True,
        pool_size: int = 5,
        statement_timeout: timedelta = timedelta(seconds=30),
        on_pending: OnPending | None = None,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        refuse(
            [
                *bad_place(dsn, schema),
                *bad_counts({"pool_size": pool_size}, least=2),  # heartbeats have their own connection
                *bad_spans(
                    {"statement_timeout": statement_timeout}, least=timedelta(milliseconds=1), most=_LONGEST_STATEMENT
                ),
                *bad_hooks({"trace": trace, "on_pending": on_pending}),
            ]
        )
        self._database = Database(
            target=dsn,
            schema=schema,
            migrate=migrate,
            pool_size=pool_size,
            statement_timeout=statement_timeout,
            trace=trace,
        )
        self.on_pending: Final = on_pending
        self._sessions: Final = Sessions(self._database.place, partial(Session, self._database))
        self._guest: Guest | None = None
        self.preferences: Final = PostgresPreferences(self._lanes)

    async def __aenter__(self) -> Self:
        if self._guest is not None:
            return self
        await self._sessions.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._sessions.leave()

    def _lanes(self) -> Lanes:
        if self._guest is not None:
            return self._guest
        return self._sessions.current()

    def _told(self, unit: Callable[[Tables], tuple[_T, Iterable[JobRef]]]) -> Callable[[Tables], _T]:
        """Wrap a unit so that ``on_pending`` gets its pending jobs in the unit's own transaction."""
        tell = self.on_pending
        if tell is None:
            return lambda tables: unit(tables)[0]

        def told(tables: Tables) -> _T:
            with tables.transaction():
                result, pending = unit(tables)
                if refs := list(pending):
                    tell(tables.connection, refs)
            return result

        return told

    def on(self, connection: psycopg.Connection[Any]) -> PostgresStorage:
        """Return the same storage on your connection: everything it does is part of your transaction.

        The returned storage needs no opening, but its tables must exist. It never commits, rolls back, retries or
        closes. psycopg's own errors surface; after one, roll your transaction back.

        Args:
            connection: A synchronous connection to the same database. In autocommit mode it must be inside
                ``connection.transaction()``, or each call raises ``ValueError``. Do not use it for anything else while
                a call of the storage runs.

        Raises:
            TypeError: It is no synchronous connection of psycopg.
        """
        if not isinstance(cast("object", connection), psycopg.Connection):
            raise TypeError(f"connection={connection!r}: must be a psycopg.Connection, not an asynchronous one")
        here, nowhere = self._database, "dbname="  # it never connects by itself
        joined = PostgresStorage(nowhere, schema=here.schema, on_pending=self.on_pending, trace=here.trace)
        joined._guest = Guest(connection, self._database.schema, self._database.trace)
        return joined

    async def migrate(self) -> None:
        """Create the schema and its tables, or bring them to the newest version; harmless if they are current.

        The storage may be open or closed. Of several concurrent calls, one migrates and the others wait.

        Raises:
            SchemaTooNew: A newer release of this library created them; nothing was changed.
            StorageUnavailable: The server cannot be reached, or the role lacks the privileges.
            ValueError: This storage is on a connection of yours, whose transaction it would not be part of.
        """
        if self._guest is not None:
            raise ValueError("migrate the storage itself: this one is on your connection, and part of its transaction")
        await self._database.in_thread(self._database.bring_up_to_date)

    def pool_use(self) -> PoolUse:
        """Return the current use of the connection pool."""
        session = self._sessions.session
        if session is None:
            raise not_open(self._database.place)
        return session.use()

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        lanes = self._lanes()
        for job in jobs:
            check_new(job)
        first = {job.dedup_key: job for job in reversed(jobs)}
        outcomes: dict[str, Enqueued] = {}
        for keys in _chunks(first):
            outcomes.update(await lanes.work(self._told(partial(_enqueue, jobs=[first[key] for key in keys]))))
        # The outcome belongs to the first of equal keys; popping leaves none for the others.
        return [outcomes.pop(job.dedup_key, Enqueued.DUPLICATE) for job in jobs]

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        asked = (convert.askable(keys),)
        return await self._lanes().work(
            lambda tables: {row[0]: convert.to_job(row) for row in tables.rows(sql.FIND, asked)}
        )

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        asked = (convert.askable(keys),)
        return convert.to_standings(await self._lanes().work(_rows(sql.STANDINGS, asked)))

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002  # the port's name
        users = [user_id for user_id in before if is_storable(user_id)]
        values = {"type": type, "users": users, "before": [utc(before[user_id]) for user_id in users]}
        rows = await self._lanes().work(_rows(sql.LAST_BRIEFS, values))
        return {user_id: utc(latest) for user_id, latest in rows}

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        lanes = self._lanes()
        rule = TRANSITIONS[change]
        statement = sql.CHANGE if rule.demand is None else sql.CHANGE_AND_RENEW
        values = {
            "applies_to": [status.value for status in rule.applies_to],
            "to": rule.to.value,
            "code": None if rule.code is None else rule.code.value,
            "demand": None if rule.demand is None else rule.demand.value,
        }
        moved: set[str] = set()
        for chunk in _chunks(convert.askable(keys)):
            moved.update(await lanes.work(self._told(partial(_change, statement, {**values, "keys": chunk}, rule.to))))
        return moved

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        instants = {"to": to, "start": start, "planned_at": planned_at}
        values = {"name": name, **{key: None if at is None else utc(at) for key, at in instants.items()}}
        statement = sql.START_MARK if start else sql.MOVE_MARK if to or planned_at else sql.MARK
        lanes = self._lanes()
        if start is None and not is_storable(name):
            return None
        rows = await lanes.work(_rows(statement, values))
        return utc(rows[0][0]) if rows else None

    async def forget(self, user_id: str) -> int:
        lanes = self._lanes()
        return await lanes.work(partial(_forget, user_id=user_id)) if is_storable(user_id) else 0

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
        lanes = self._lanes()
        check_limit(limit)
        until = utc(now) + lease
        values = {
            "due_by": utc(due_by),
            "now": utc(now),
            "until": until,
            "limit": limit,
            "types": convert.askable(types),
            "keys": None if keys is None else convert.askable(keys),
        }
        rows = await lanes.work(_rows(sql.CLAIM if keys is None else sql.CLAIM_THESE, values))
        held_until = rows[0][0]
        claims = [convert.to_claim(row, until) for row in rows if row[1] is not None]
        return Claims(claims, None if held_until is None else utc(held_until))

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        rows = await self._lanes().beat(_rows(sql.BEAT, {**convert.from_claims(claims), "until": utc(until)}))
        return {claim.job.dedup_key for claim in claims} - {key for (key,) in rows}

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        lanes = self._lanes()
        check_finish(finish)
        for follow_up in follow_ups:
            check_new(follow_up.job)
        values = {
            **_held_by(claim),
            **convert.from_brief(finish.brief),
            "end": finish.status.value,
            "end_code": None if finish.code is None else finish.code.value,
            "end_reason": convert.words(finish.reason),
            "end_error": convert.words(finish.error),
        }
        return await lanes.work(self._told(partial(_finish, values=values, follow_ups=follow_ups)))

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        values = {**_held_by(claim), "at": utc(at), "error": convert.words(error), "uncounted": int(not counted)}
        ref = JobRef(claim.job.dedup_key, claim.job.type, utc(at))
        return await self._lanes().work(self._told(partial(_retry, values=values, ref=ref)))

    async def release(self, claims: Collection[Claim]) -> None:
        await self._lanes().work(self._told(partial(_release, claims=claims)))

    async def brief(self, type: str, user_id: str, on: date | None = None) -> Brief | None:  # noqa: A002  # the port's name
        lanes = self._lanes()
        if not is_storable(user_id + type):
            return None
        statement = sql.LAST_BRIEF if on is None else sql.BRIEF_ON
        rows = await lanes.work(_rows(statement, {"type": type, "user": user_id, "on": on}))
        return decode_brief(rows[0][0]) if rows else None

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        values = {"types": convert.askable(types), "at": utc(at)}
        return await self._lanes().work(lambda tables: tables.count(sql.PAUSE, values)) > 0

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        return await self._lanes().work(self._told(partial(_resume, types=convert.askable(types), since=utc(since))))

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        rows = await self._lanes().work(_rows(sql.PAUSES, {"types": convert.askable(types)}))
        return {kind: utc(since) for kind, since in rows}

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        values = {"types": convert.askable(types), "now": utc(now), "since": utc(since)}
        return await self._lanes().work(partial(_overviews, types=types, values=values))

    async def select(
        self,
        types: Collection[str],
        statuses: Collection[JobStatus],
        *,
        since: datetime,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> Page[Job]:
        lanes = self._lanes()
        check_limit(limit)
        begin, after = (utc(since), "") if cursor is None else convert.from_page_cursor(cursor)
        values = {
            "types": convert.askable(types),
            "statuses": [status.value for status in statuses],
            "since": begin,
            "after": after,
            # One row more than asked for tells whether this page is the last.
            "limit": limit + 1,
        }
        jobs = await lanes.work(lambda tables: [convert.to_job(row) for row in tables.rows(sql.SELECT, values)])
        return Page(jobs[:limit], convert.to_page_cursor(jobs[limit - 1]) if len(jobs) > limit else None)

    async def prune(self, types: Collection[str], before: datetime, limit: int) -> int:
        lanes = self._lanes()
        check_limit(limit)
        values = {"types": convert.askable(types), "before": utc(before), "limit": limit}
        return await lanes.work(partial(_behind_the_fence, statement=sql.PRUNE, values=values))


class PostgresPreferences:
    """The preferences in a ``PostgresStorage``, ordered by user id; they can be read by schedule."""

    schedule_index = True

    def __init__(self, lanes: Callable[[], Lanes]) -> None:
        self._lanes = lanes

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        lanes = self._lanes()
        check_limit(limit)
        # One row more than asked for tells whether this page is the last.
        rows = await lanes.work(_rows(sql.PREFERENCES_AFTER, (cursor or "", limit + 1)))
        items = [convert.to_preference(row) for row in rows]
        return Page(items[:limit], items[limit - 1].user_id if len(items) > limit else None)

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        return convert.to_schedules(await self._lanes().work(_rows(sql.SCHEDULES, ())))

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        lanes = self._lanes()
        check_limit(limit)
        last, after = ("", "") if cursor is None else json.loads(cursor)
        asked = convert.askable(schedule for schedule in schedules if schedule >= last)
        values = {"schedules": asked, "last": last, "after": after, "limit": limit + 1}
        people = convert.to_scheduled(await lanes.work(_rows(sql.PREFERENCES_FOR, values)), asked)
        items = people[:limit]
        is_last = len(people) <= limit
        return Page(items, None if is_last else json.dumps([items[-1].schedule, items[-1].user_id]))

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        rows = await self._lanes().work(_rows(sql.PREFERENCES, (convert.askable(user_ids),)))
        return {row[0]: convert.to_preference(row) for row in rows}

    async def put(self, preferences: Iterable[Preference]) -> None:
        """Store these preferences, replacing those of the same users; all of them or none.

        Raises:
            InvalidPreferences: Some contain values that cannot be stored. Whether they form a valid schedule is
                checked by the planner, not here.
        """
        lanes = self._lanes()
        columns = convert.from_preferences(storable(preferences))
        await lanes.work(lambda tables: tables.count(sql.PUT_PREFERENCES, columns))

    async def remove(self, user_ids: Collection[str]) -> None:
        """Remove the preferences of these users, but not their slots and briefs."""
        asked = (convert.askable(user_ids),)
        await self._lanes().work(lambda tables: tables.count(sql.REMOVE_PREFERENCES, asked))


def _rows(statement: str, values: Any) -> Callable[[Tables], list[tuple[Any, ...]]]:
    return lambda tables: tables.rows(statement, values)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    # In order of the keys, so that planners lock rows in the same order; within a chunk the statements ensure that.
    ordered = list(keys)
    if len(ordered) > _CHUNK:
        ordered.sort()
    for begin in range(0, len(ordered), _CHUNK):
        yield ordered[begin : begin + _CHUNK]


def _refs(rows: Iterable[Sequence[Any]]) -> list[JobRef]:
    return [JobRef(key, kind, utc(run_at)) for key, kind, run_at in rows]


def _enqueue(tables: Tables, jobs: Sequence[Job]) -> tuple[dict[str, Enqueued], Iterable[JobRef]]:
    paused = {job.dedup_key: job for job in jobs if job.code is SkipReason.PAUSED and job.status is JobStatus.SKIPPED}
    if not paused:
        outcomes = _recorded(tables, jobs)
    else:  # Rare: hardly any caller sets this code.
        with tables.transaction():
            outcomes = _recorded(tables, [job for job in jobs if job.dedup_key not in paused])
            outcomes |= _recorded(tables, [*paused.values()], sql.ENQUEUE_PAUSED)
    return outcomes, (
        JobRef.of(job)
        for job in jobs
        if job.status is JobStatus.PENDING and outcomes.get(job.dedup_key, Enqueued.PAUSED) is not Enqueued.PAUSED
    )


def _recorded(tables: Tables, jobs: Sequence[Job], statement: str = sql.ENQUEUE) -> dict[str, Enqueued]:
    types = sorted({job.type for job in jobs})
    if statement is sql.ENQUEUE and convert.are_plain(jobs):
        rows = tables.rows(sql.ENQUEUE_PLAIN, [*convert.from_plain_jobs(jobs), types])
    else:
        rows = tables.rows(statement, [*convert.from_jobs(jobs), types])
    told = {key: (is_new, status) for key, is_new, status in rows}
    are_all_recorded, _ = told.pop(None)
    outcomes = {job.dedup_key: Enqueued.CREATED for job in jobs} if are_all_recorded else {}
    if told:
        outcomes |= {job.dedup_key: _outcome(job, *told[job.dedup_key]) for job in jobs if job.dedup_key in told}
    return outcomes


def _outcome(job: Job, is_new: bool, status: str) -> Enqueued:
    if status != job.status:
        return Enqueued.PAUSED
    return Enqueued.CREATED if is_new else Enqueued.TAKEN_UP


def _change(
    statement: str, values: Mapping[str, Any], to: JobStatus, tables: Tables
) -> tuple[set[str], Sequence[JobRef]]:
    moved = _refs(tables.rows(statement, values))
    return {ref.dedup_key for ref in moved}, moved if to is JobStatus.PENDING else ()


def _retry(tables: Tables, values: Mapping[str, Any], ref: JobRef) -> tuple[bool, Sequence[JobRef]]:
    is_kept = tables.count(sql.RETRY, values) == 1
    return is_kept, [ref] if is_kept else ()


def _release(tables: Tables, claims: Collection[Claim]) -> tuple[None, Sequence[JobRef]]:
    released = {key for (key,) in tables.rows(sql.RELEASE, convert.from_claims(claims))}
    return None, [JobRef.of(claim.job, again=True) for claim in claims if claim.job.dedup_key in released]


def _finish(tables: Tables, values: Mapping[str, Any], follow_ups: Sequence[FollowUp]) -> tuple[bool, Sequence[JobRef]]:
    is_kept = _end(tables, values, follow_ups)
    return is_kept, [JobRef.of(each.job) for each in follow_ups if is_kept and each.job.status is JobStatus.PENDING]


def _end(tables: Tables, values: Mapping[str, Any], follow_ups: Sequence[FollowUp]) -> bool:
    keys = {values["key"], *(follow_up.job.dedup_key for follow_up in follow_ups)}
    if len(keys) == 1 + len(follow_ups):
        ((ended,),) = tables.rows(sql.FINISH, {**values, **convert.from_follow_ups(follow_ups)})
        return bool(ended)
    with tables.transaction():
        ((ended,),) = tables.rows(sql.FINISH, {**values, **convert.from_follow_ups(())})
        for follow_up in follow_ups if ended else ():
            tables.count(sql.CARRY, convert.from_follow_ups([follow_up]))
        return bool(ended)


def _behind_the_fence(tables: Tables, statement: str, values: Any) -> int:
    # Lock the fence before erasing: from then on, nobody who saw the old fence is still about to create a slot.
    with tables.transaction():
        tables.count(sql.LOCK_FENCE)
        ((erased,),) = tables.rows(statement, values)
        return int(erased)


def _forget(tables: Tables, user_id: str) -> int:
    return _behind_the_fence(tables, sql.FORGET, {"user": user_id})


def _resume(tables: Tables, types: Sequence[str], since: datetime) -> tuple[int | None, Sequence[JobRef]]:
    values = {"types": types, "since": since}
    with tables.transaction():
        # A statement of its own: it waits for planners that saw the pause, and the next ones see what they recorded.
        values["types"] = [kind for (kind,) in tables.rows(sql.UNPAUSE, values)]
        if not values["types"]:
            return None, ()
        tables.count(sql.TOO_OLD_TO_RESUME, values)
        resumed = _refs(tables.rows(sql.RESUME, values))
        return len(resumed), resumed


def _overviews(tables: Tables, types: Collection[str], values: Mapping[str, Any]) -> dict[str, Overview]:
    # All answers describe the same moment.
    with tables.transaction(sql.SNAPSHOT):
        answers = [tables.rows(question, values) for question in sql.OVERVIEW]
    return convert.to_overviews(types, answers)


def _held_by(claim: Claim) -> dict[str, object]:
    return {"key": claim.job.dedup_key, "token": claim.token}
