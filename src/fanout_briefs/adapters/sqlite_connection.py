"""How a SQLite storage reaches its file: connections, transactions, threads, and errors in our words.

A unit of work is one hop to a thread, alone on its connection, and one transaction. It always runs to its
end, whoever is cancelled meanwhile, so a connection is never left inside a transaction.
"""

# ruff: noqa: PTH110, PTH112  # Path.exists and Path.is_dir raise where a folder may not be searched.

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from attrs import frozen

from fanout_briefs.adapters.sqlite_schema import examine, migrate
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.rules import not_open

__all__ = ["Database", "Lane", "Session", "Unit", "transaction"]

_T = TypeVar("_T")
Unit = Callable[[sqlite3.Connection], _T]
"""Some statements that belong together, run in a thread."""

_LONGEST_WAIT: Final = 1.0
"""Seconds that a thread waits for a busy file at a stretch; whoever was cancelled meanwhile is free after that."""
_LONGEST_PAUSE: Final = 0.1
_WRITERS_CACHE: Final = 16_000
"""KiB: the pages that a batch changes are to stay in memory until it commits."""
_READERS_CACHE: Final = 8_000
_OLDEST: Final = (3, 35)


class _Connection(sqlite3.Connection):
    """Shows each statement to an observer first, who may refuse it by raising; SQLite's own callback cannot."""

    trace: Callable[[str], None] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.trace is not None:
            self.trace(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        if self.trace is not None:
            self.trace(sql)
        return super().executemany(sql, parameters)


@frozen(kw_only=True)
class Database:
    """Where the file is, and how it is to be used."""

    path: Path
    durability: Literal["normal", "full"]
    busy_timeout: timedelta
    trace: Callable[[str], None] | None

    def open(self) -> sqlite3.Connection:
        """Open a connection to the file, which is made where there is none, and brought to the newest schema."""
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StorageUnavailable(
                f"SQLite {sqlite3.sqlite_version} is too old for {self.path}: use a Python built with 3.35 or later"
            )
        if os.path.exists(self.path):
            self._refuse_read_only()
            self._refuse_foreign()
        with ExitStack() as undo:
            connection = self.connect()
            undo.callback(connection.close)
            transaction(connection, partial(migrate, place=str(self.path)))
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            undo.pop_all()
        return connection

    def connect(self) -> sqlite3.Connection:
        """Open one more connection to a file that is known to be ours."""
        connection = sqlite3.connect(
            self.path,
            timeout=min(self.busy_timeout.total_seconds(), _LONGEST_WAIT),
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        with ExitStack() as undo:
            undo.callback(connection.close)
            connection.trace = self.trace
            connection.execute(f"PRAGMA synchronous = {self.durability}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA cache_size = -{_READERS_CACHE}")
            # What is erased about a user is to be gone from the file, too.
            connection.execute("PRAGMA secure_delete = ON")
            undo.pop_all()
        return connection

    def _refuse_read_only(self) -> None:
        # SQLite would find out, too, but leave read-only files beside it that outlast a corrected permission.
        effective = os.access in os.supports_effective_ids
        readable, writable = (os.access(self.path, mode, effective_ids=effective) for mode in (os.R_OK, os.W_OK))
        if readable and not writable:
            raise StorageUnavailable(f"{self.path}: {_ADVICE[sqlite3.SQLITE_READONLY]}")

    def _refuse_foreign(self) -> None:
        # Leaving a file as its last user writes its log back. With mode=ro it does not, but leaves files behind
        # where there was no log, so each is used where it leaves no trace. Reading the header ourselves would
        # be simpler, and on closing would drop every lock this process holds on the file.
        mode = "ro" if self.path.with_name(self.path.name + "-wal").exists() else "rw"
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        seconds = min(self.busy_timeout.total_seconds(), _LONGEST_WAIT)
        with closing(sqlite3.connect(address, uri=True, timeout=seconds, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            examine(connection, str(self.path))

    def explain(self, error: sqlite3.Error) -> StorageUnavailable:
        """Give our error for SQLite's: the file, the reason, and what to do."""
        code = _code(error)
        advice = _ADVICE.get(code, "this is what SQLite says; if it is not about the file or the disk, report it")
        if code == sqlite3.SQLITE_CANTOPEN:
            advice = self._why_not_opened()
        if code in _BUSY:
            advice = (
                f"another connection has kept the file locked for {self.busy_timeout.total_seconds():g} s; find the "
                "program that has it open (a stuck writer, a backup, a database browser) and end its transaction, "
                "or allow a longer busy_timeout"
            )
        return StorageUnavailable(f"{self.path}: {error}: {advice}")

    def _why_not_opened(self) -> str:
        folder = self.path.absolute().parent
        if os.path.isdir(self.path):
            return "this is a folder; give the path of a file"
        if not os.path.isdir(folder):
            return f"there is no folder {folder}; create it first"
        return "give this process permission to read and write the file and its folder"


_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_ADVICE: Final = {
    sqlite3.SQLITE_READONLY: (
        "the file, or one that ends in -wal or -shm beside it, is read-only for this process; "
        "give it permission to write these files and their folder"
    ),
    sqlite3.SQLITE_FULL: "the disk is full and nothing of this was stored; free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk failed or is full, and nothing of this was stored; look at it and try again",
    sqlite3.SQLITE_NOTADB: "this file holds something else, and was left as it is; give the path of a new file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a backup, or save what `sqlite3 FILE .recover` finds",
}


def _code(error: sqlite3.Error) -> int:
    # The lowest byte is the primary code. Errors of the Python module itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def transaction(connection: sqlite3.Connection, unit: Unit[_T]) -> _T:
    """Run a unit as one transaction that holds the write lock from its beginning; any exception undoes it.

    A transaction that begins by reading fails at once when another one wrote before it could.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = unit(connection)
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors; then there is nothing to undo.
        with suppress(sqlite3.Error):
            connection.rollback()
        raise
    return result


async def _in_thread(database: Database, work: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
    """Run work in a thread, again as long as the file may be busy, and tell failures in our words."""
    deadline = monotonic() + database.busy_timeout.total_seconds()
    while True:
        try:
            return await to_thread.run_sync(work, limiter=limiter)
        except sqlite3.Error as error:
            if _code(error) not in _BUSY or monotonic() >= deadline:
                raise database.explain(error) from error
        await anyio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # Spreads writers; no secret.


class Lane:
    """One connection, and its place in the queue: one unit of work at a time."""

    def __init__(self, database: Database) -> None:
        self.connection: sqlite3.Connection | None = None
        self._database = database
        self._limiter = CapacityLimiter(1)
        self._closing = False
        # A task cancelled by asyncio itself leaves the limiter while its thread still works (anyio shields only
        # from its own scopes), so the connection has a lock that belongs to the thread.
        self._mutex = threading.Lock()

    async def read(self, unit: Unit[_T]) -> _T:
        """Run a unit that only reads. One statement is its own snapshot; several need a transaction of their own."""
        return await _in_thread(self._database, partial(self._work, unit), self._limiter)

    async def write(self, unit: Unit[_T]) -> _T:
        """Run a unit as one transaction."""
        return await self.read(partial(transaction, unit=unit))

    def _work(self, unit: Unit[_T]) -> _T:
        with self._mutex:
            if self.connection is None or self._closing:
                raise not_open(str(self._database.path))
            return unit(self.connection)

    def refuse(self) -> None:
        """Begin no more work: what waits for its turn is told so, and what runs ends."""
        self._closing = True

    def close(self) -> None:
        """Close the connection once the unit that runs on it has ended."""
        with self._mutex:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()


class Session:
    """The time from the first opening to the last closing; what it holds belongs to one event loop.

    Heartbeats have a lane of their own, for a lease must not run out behind a long insert. Reads have one, too:
    under WAL they wait for nobody, whereas the writer may be waiting for another process.
    """

    def __init__(self, database: Database) -> None:
        self.users = 0
        self.writer: Lane = Lane(database)
        self.pulse: Lane = Lane(database)
        self.reader: Lane = Lane(database)
        self._lanes = self.reader, self.pulse, self.writer
        self._database = database
        self._turn = anyio.Lock()
        # As in Lane: an opening whose task asyncio cancelled still runs, and must not outlive the closing.
        self._mutex = threading.Lock()
        self._closed = False

    async def open(self) -> None:
        """Open all lanes, unless somebody has."""
        async with self._turn:
            await _in_thread(self._database, self._open)

    def _open(self) -> None:
        with self._mutex, ExitStack() as undo:
            if self._closed or self.writer.connection is not None:
                return
            writer = self._database.open()
            writer.execute(f"PRAGMA cache_size = -{_WRITERS_CACHE}")
            undo.callback(writer.close)
            pulse = self._database.connect()
            undo.callback(pulse.close)
            reader = self._database.connect()
            undo.pop_all()
            self.writer.connection, self.pulse.connection, self.reader.connection = writer, pulse, reader

    async def close(self) -> None:
        """Close all lanes, even while being cancelled."""
        # Said before a thread is asked for, so that what waits is refused whichever thread is next on a lane.
        for lane in self._lanes:
            lane.refuse()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._mutex:
            self._closed = True
            for lane in self._lanes:
                lane.close()
