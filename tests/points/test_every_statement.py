"""Something goes wrong at one statement of SQL, whichever it is: in the same process the day goes on, and ends well."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import psycopg
import pytest
from attrs import define, field
from point_counts import Tried, spread
from point_story import Day, found, is_right, is_sound, phase_now, watched

from fanout_briefs.adapters import postgres_connection
from places import File, Place, Tables
from services import Schema, connect

pytestmark = pytest.mark.slow
FEW = 2
"""Points a kind, backend and mailer on ordinary days."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What goes wrong is logged as it should be, thousands of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@define
class Statements:
    """Counts the statements of a day, in whatever threads, and tells whether it is this one's turn."""

    at: int
    count: int = 0
    landed: str | None = None
    _guard: threading.Lock = field(factory=threading.Lock)

    def is_it(self) -> bool:
        with self._guard:
            if phase_now() == "look":
                return False
            self.count += 1
            if self.count == self.at:
                self.landed = phase_now()
            return self.count == self.at


def play(place: Place, folder: Path, mailer: str, backend: str, statements: Statements, trace: Any = None) -> None:
    """Have a day in which something goes wrong, whoever sees to that, and hold what is left to what must be so."""

    async def run() -> None:
        folder.mkdir(parents=True)
        day = Day(lambda: place.storage(None if trace is None else partial(trace, scope)), folder, mailer)
        with anyio.CancelScope() as scope:
            is_over = await day.session(watched())
            assert is_over or scope.cancel_called or statements.landed == "open", day.errors
        day.storage = place.storage
        assert await day.session(), day.errors
        is_right(await found(day, day.clock.moment), day.told, mailer)
        is_sound(place)

    anyio.run(run, backend=backend)


def _sqlite_error(code: int, text: str) -> Callable[[anyio.CancelScope], None]:
    def fail(scope: anyio.CancelScope) -> None:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise error

    return fail


def _conflict(scope: anyio.CancelScope) -> None:
    raise psycopg.errors.SerializationFailure("could not serialize access due to concurrent update")


def _cancel(scope: anyio.CancelScope) -> None:
    anyio.from_thread.run_sync(scope.cancel)


IN_SQLITE: dict[str, Callable[[anyio.CancelScope], None]] = {
    "the disk fails at the statement": _sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error"),
    "the disk is full at the statement": _sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full"),
    "the file is busy at the statement": _sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"),
    "is cancelled at the statement": _cancel,
}
IN_POSTGRES = {
    "loses against another transaction at the statement": _conflict,
    "is cancelled at the statement": _cancel,
}


def at_every(
    kind: str, name: str, backend: str, capsys: pytest.CaptureFixture[str], plays: Callable[[str, Statements], None]
) -> None:
    """Play days of each mailer, with something going wrong at one statement after the other; tell how many those were."""
    phases = Counter[str]()
    for mailer in ("eml", "log"):
        census = Statements(at=0)
        plays(mailer, census)
        for number in spread(census.count, FEW, (kind, name, mailer, backend)):
            statements = Statements(at=number)
            try:
                plays(mailer, statements)
            except BaseException as error:
                error.add_note(f"at statement {number} of {census.count}, {mailer}, {statements.landed}")
                raise
            if statements.landed is not None:
                phases[statements.landed] += 1
    with capsys.disabled():
        sys.stdout.write(Tried(f"{name} on {backend}", kind, phases).told())
    assert phases


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", IN_SQLITE)
def test_whatever_goes_wrong_at_one_statement_of_sqlite_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, backend: str
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        def trace(scope: anyio.CancelScope, statement: str) -> None:
            if statements.is_it():
                IN_SQLITE[kind](scope)

        folder = tmp_path / f"{mailer} {statements.at}"
        play(File(folder / "briefs.db"), folder, mailer, backend, statements, trace)

    at_every(kind, "SQLite", backend, capsys, plays)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", IN_POSTGRES)
def test_whatever_goes_wrong_at_one_statement_of_postgres_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], postgres: Schema, kind: str, backend: str
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        def trace(scope: anyio.CancelScope, statement: str) -> None:
            if statements.is_it():
                IN_POSTGRES[kind](scope)

        postgres.empty()
        place = Tables(postgres.dsn, postgres.name)
        play(place, tmp_path / f"{mailer} {statements.at}", mailer, backend, statements, trace)

    at_every(kind, "PostgreSQL", backend, capsys, plays)


TABLES = "jobs, outbox, briefs, marks, pauses, preferences, fence"
Run = Callable[[postgres_connection.Tables, str, Any], psycopg.Cursor[Any]]
_run: Run = postgres_connection.Tables._run  # pyright: ignore[reportPrivateUsage]  # where a connection meets a statement


@define
class Ending:
    """Ends the very connection that runs a statement, from another one."""

    schema: Schema

    def end(self, pid: int) -> None:
        with connect(self.schema.dsn) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            while other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() is not None:
                pass

    def before(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        self.end(tables.connection.info.backend_pid)
        return _run(tables, statement, values)

    def after(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        answer = _run(tables, statement, values)
        self.end(tables.connection.info.backend_pid)
        tables.connection.execute("SELECT 1")  # The driver finds out only now.
        return answer

    def within(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        """While it waits for a lock; where this connection holds locks of its own already, before the statement."""
        pid = tables.connection.info.backend_pid
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as pool, connect(self.schema.dsn) as other:
            other.execute(f'SET search_path TO "{self.schema.name}"'.encode())
            if not _locks_all(other):
                return self.before(tables, statement, values)
            ending = pool.submit(self._end_waiting, other, pid, is_over)
            try:
                return _run(tables, statement, values)
            finally:
                is_over.set()
                ending.result()

    def _end_waiting(self, other: psycopg.Connection[Any], pid: int, is_over: threading.Event) -> None:
        waiting = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
        try:
            while not is_over.is_set():
                if other.execute(waiting, (pid,)).fetchone() is not None:
                    self.end(pid)
                    return
        finally:
            other.execute("ROLLBACK")


def _locks_all(other: psycopg.Connection[Any]) -> bool:
    """Lock all tables, unless somebody keeps one for longer than others who only pass by."""
    for _ in range(20):
        other.execute("BEGIN")
        try:
            other.execute("SET LOCAL lock_timeout = 10")
            other.execute(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE".encode())
        except psycopg.errors.LockNotAvailable:
            other.execute("ROLLBACK")
        else:
            return True
    return False


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_whichever_statement_a_connection_ends_at_the_day_ends_well(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    postgres: Schema,
    when: str,
    backend: str,
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        befall: Run = getattr(Ending(postgres), when)

        def run(tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
            return (befall if statements.is_it() else _run)(tables, statement, values)

        monkeypatch.setattr(postgres_connection.Tables, "_run", run)
        postgres.empty()
        play(Tables(postgres.dsn, postgres.name), tmp_path / f"{mailer} {statements.at}", mailer, backend, statements)

    at_every(f"the connection ends {when} the statement", "PostgreSQL", backend, capsys, plays)
