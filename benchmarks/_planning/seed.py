"""The two ways of planning that the library started from, as good as they can be written over the same drivers.

Before: a loop, with three queries a user: activity, duplicates, insert. After: activity of all users in parallel, one
query for all duplicates, inserts in parallel. Both ask for the activity of every active user before they look who is
due, as the seed did. In favour of both: what is due is computed once a distinct schedule, activity is one query where
the seed made two, an insert is one where it made three, and nothing is recorded about those who are skipped. Pipelined is the second once
more, with the statements sent as psycopg's pipelines would have it, which the seed's own driver could not.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg

from .bed import AFTER, BEFORE, PIPELINED, Bed, Rival, Step, must_be
from .world import LEAD, NAME, NOW, Due, Slot, Wish, sends

POOL = 8
TOLERANCE = timedelta(minutes=30)
MOST_USERS = 150_000
"""Beyond that it takes minutes, and tells nothing new."""

_ACTIVE = "SELECT user_id, frequency, time_of_day, timezone, day_of_week, days FROM preferences WHERE is_active"
_LATEST = """
SELECT last_visit, (
    SELECT deliver_at FROM jobs
    WHERE user_id = visits.user_id AND type = {0} AND deliver_at < {0} AND status IN ('pending', 'processing', 'completed')
    ORDER BY deliver_at DESC LIMIT 1
) FROM visits WHERE user_id = {0}
"""
_NEARBY = """
SELECT 1 FROM jobs WHERE user_id = {0} AND type = {0} AND status IN ('pending', 'processing')
    AND deliver_at BETWEEN {0} AND {0} LIMIT 1
"""
_LIVE = "SELECT user_id, deliver_at FROM jobs WHERE type = {0} AND status IN ('pending', 'processing') AND user_id "
_INSERT = """
INSERT INTO jobs (dedup_key, type, user_id, local_date, deliver_at, run_at, window_start, window_end, status, reason,
    epoch, attempts, token)
VALUES ({0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, 'pending', 'active', 1, 0, 0) ON CONFLICT (dedup_key) DO NOTHING
"""


class PostgresLike(Bed, Protocol):
    """What is needed of a bed in PostgreSQL."""

    dsn: str


class SqliteLike(Bed, Protocol):
    """What is needed of a bed in SQLite."""

    statements: int

    def connect(self) -> sqlite3.Connection:
        """Connect to the file."""
        ...


def row(user_id: str, slot: Slot) -> tuple[object, ...]:
    """Give the columns of a job."""
    on, at = slot
    run_at = at - LEAD
    return f"{NAME}:{on}:{user_id}", NAME, user_id, on, at, run_at, run_at - timedelta(days=1), run_at


def wish_of(values: Iterable[Any]) -> Wish:
    """Give the wish of a row, of which lists of days are not hashable yet."""
    *rest, days = values
    return Wish._make((*rest, None if days is None else tuple(days)))


class Nearby:
    """The seed's duplicates: a live job of the user within half an hour."""

    def __init__(self, rows: Iterable[tuple[str, datetime]]) -> None:
        self._times: dict[str, list[datetime]] = defaultdict(list)
        for user_id, at in rows:
            self._times[user_id].append(at)

    def has(self, user_id: str, slot: Slot) -> bool:
        return any(abs(at - slot.deliver_at) <= TOLERANCE for at in self._times.get(user_id, ()))


# PostgreSQL


def postgres_seed(bed: PostgresLike) -> dict[str, Rival]:
    return {
        BEFORE: Rival(lambda: _postgres_before(bed), most_users=MOST_USERS),
        AFTER: Rival(lambda: _postgres_after(bed), most_users=MOST_USERS),
        PIPELINED: Rival(lambda: _postgres_pipelined(bed), most_users=MOST_USERS),
    }


def _options(dsn: str) -> dict[str, Any]:
    return {
        "conninfo": dsn,
        "autocommit": True,
        "prepare_threshold": 0,
        "options": "-c search_path=fanout_briefs,public -c timezone=UTC",
    }


@contextmanager
def _postgres_before(bed: PostgresLike) -> Generator[list[Step]]:
    latest, nearby, insert = (text.format("%b") for text in (_LATEST, _NEARBY, _INSERT))
    with psycopg.connect(**_options(bed.dsn)) as connection:
        ask = connection.cursor(binary=True).execute

        def run() -> None:
            due = Due()
            for user_id, *wish in connection.execute(_ACTIVE).fetchall():
                slot = due(wish_of(wish))
                at = slot.deliver_at if slot else NOW
                visit, brief = ask(latest, (NAME, at, user_id)).fetchone() or (None, None)
                if slot is None or not sends(user_id, visit, brief, at):
                    continue
                if ask(nearby, (user_id, NAME, at - TOLERANCE, at + TOLERANCE)).fetchone():
                    continue
                ask(insert, row(user_id, slot))

        yield [Step(BEFORE, run, must_be(bed, only="pending"))]


Do = Callable[["psycopg.Cursor[Any]", Any], None]
Everyone = Callable[[Sequence[Any], Do], None]


@contextmanager
def _postgres_after(bed: PostgresLike) -> Generator[list[Step]]:
    # Threads with a connection each: half as long as tasks of asyncio with psycopg's own asynchronous connections.
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(**_options(bed.dsn))) for _ in range(POOL)]
        cursors = [connection.cursor(binary=True) for connection in connections]
        threads = stack.enter_context(ThreadPoolExecutor(POOL))
        list(threads.map(lambda cursor: cursor.execute("SELECT"), cursors))

        def in_parallel(items: Sequence[Any], do: Do) -> None:
            def work(place: int) -> None:
                for item in items[place::POOL]:
                    do(cursors[place], item)

            list(threads.map(work, range(POOL)))

        yield [Step(AFTER, lambda: _plan_after(cursors[0], in_parallel), must_be(bed, only="pending"))]


def _plan_after(first: psycopg.Cursor[Any], in_parallel: Everyone) -> None:
    latest, live, insert = (text.format("%b") for text in (_LATEST, _LIVE, _INSERT))
    due, wanted = Due(), dict[str, Slot]()

    def check(cursor: psycopg.Cursor[Any], values: tuple[Any, ...]) -> None:
        user_id, *wish = values
        slot = due(wish_of(wish))
        at = slot.deliver_at if slot else NOW
        visit, brief = cursor.execute(latest, (NAME, at, user_id)).fetchone() or (None, None)
        if slot is not None and sends(user_id, visit, brief, at):
            wanted[user_id] = slot

    def put(cursor: psycopg.Cursor[Any], item: tuple[str, Slot]) -> None:
        cursor.execute(insert, row(*item))

    in_parallel(first.execute(_ACTIVE).fetchall(), check)
    nearby = Nearby(first.execute(f"{live} = ANY (%b::text[])", (NAME, list(wanted))).fetchall())
    in_parallel([item for item in wanted.items() if not nearby.has(*item)], put)


@contextmanager
def _postgres_pipelined(bed: PostgresLike) -> Generator[list[Step]]:
    with psycopg.connect(**_options(bed.dsn)) as connection, connection.cursor(binary=True) as cursor:
        yield [Step(PIPELINED, lambda: _plan_pipelined(cursor), must_be(bed, only="pending"))]


def _plan_pipelined(cursor: psycopg.Cursor[Any]) -> None:
    """The same statements, of which the next is sent before the last is answered; all inserts are one transaction."""
    latest, live, insert = (text.format("%b") for text in (_LATEST, _LIVE, _INSERT))
    due, wanted = Due(), dict[str, Slot]()
    asked = [(user_id, due(wish_of(wish))) for user_id, *wish in cursor.execute(_ACTIVE).fetchall()]
    values = [(NAME, slot.deliver_at if slot else NOW, user_id) for user_id, slot in asked]
    cursor.executemany(latest, values, returning=True)
    for user_id, slot in asked:
        visit, brief = cursor.fetchone() or (None, None)
        cursor.nextset()
        if slot is not None and sends(user_id, visit, brief, slot.deliver_at):
            wanted[user_id] = slot
    nearby = Nearby(cursor.execute(f"{live} = ANY (%b::text[])", (NAME, list(wanted))).fetchall())
    cursor.executemany(insert, [row(*item) for item in wanted.items() if not nearby.has(*item)])


# SQLite, which has one writer and no round trips: there is nothing in parallel to be gained


def sqlite_seed(bed: SqliteLike) -> dict[str, Rival]:
    return {
        BEFORE: Rival(lambda: _sqlite(bed, BEFORE, _sqlite_before), most_users=MOST_USERS),
        AFTER: Rival(lambda: _sqlite(bed, AFTER, _sqlite_after), most_users=MOST_USERS),
    }


Ask = Callable[[str, tuple[object, ...]], sqlite3.Cursor]


@contextmanager
def _sqlite(bed: SqliteLike, name: str, plan: Callable[[Ask], None]) -> Generator[list[Step]]:
    with closing(bed.connect()) as connection:

        def ask(statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
            bed.statements += 1
            return connection.execute(statement, values)

        yield [Step(name, lambda: plan(ask), must_be(bed, only="pending"))]


def _sqlite_before(ask: Ask) -> None:
    nearby, insert = _NEARBY.format("?"), _INSERT.format("?")
    for user_id, slot in _sqlite_active(ask):
        near = (number(slot.deliver_at - TOLERANCE), number(slot.deliver_at + TOLERANCE))
        if not ask(nearby, (user_id, NAME, *near)).fetchone():
            ask(insert, tuple(map(stored, row(user_id, slot))))


def _sqlite_after(ask: Ask) -> None:
    wanted = dict(_sqlite_active(ask))
    question = f"{_LIVE.format('?')} IN (SELECT value FROM json_each(?))"
    rows = ask(question, (NAME, "[" + ",".join(f'"{user_id}"' for user_id in wanted) + "]"))
    nearby, insert = Nearby((user_id, instant(at)) for user_id, at in rows), _INSERT.format("?")
    for item in wanted.items():
        if not nearby.has(*item):
            ask(insert, tuple(map(stored, row(*item))))


def _sqlite_active(ask: Ask) -> Generator[tuple[str, Slot]]:
    """Give whom to send to: everybody's activity is asked for, one user after the other."""
    due, latest = Due(), _LATEST.format("?")
    for user_id, *wish, days in ask(_ACTIVE, ()).fetchall():
        slot = due(Wish._make((*wish, None if days is None else tuple(map(int, days[1:-1].split(","))))))
        at = slot.deliver_at if slot else NOW
        visit, brief = map(instant, ask(latest, (NAME, number(at), user_id)).fetchone())
        if slot is not None and sends(user_id, visit, brief, at):
            yield user_id, slot


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def number(at: datetime) -> int:
    """Give an instant as the files have it: microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant(stored_as: int | None) -> Any:
    return None if stored_as is None else _EPOCH + timedelta(microseconds=stored_as)


def stored(value: object) -> object:
    """Give a value as the files have it."""
    if isinstance(value, datetime):
        return number(value)
    return value if isinstance(value, (int, str)) or value is None else str(value)
