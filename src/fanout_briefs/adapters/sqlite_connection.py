"""How a SQLite storage reaches its file: connections, transactions, threads and error messages.

A unit of work is one hop to a thread, alone on its connection, and one transaction. It always runs to completion, even
if its caller is cancelled, so a connection is never left inside a transaction.
"""

# ruff: noqa: PTH110, PTH112  # Path.exists and Path.is_dir raise if a folder may not be searched.

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
"""Statements that belong together, run in a thread."""

_LONGEST_WAIT: Final = 1.0
"""Seconds that a thread waits for a busy file before it returns, so that a cancelled call ends within that time."""
_LONGEST_PAUSE: Final = 0.1
_WRITERS_CACHE: Final = 16_000
"""KiB: enough to keep the pages that a batch changes in memory until it commits."""
_READERS_CACHE: Final = 8_000
_OLDEST: Final = (3, 35)


class _Connection(sqlite3.Connection):
    """Passes each statement to ``trace``, which may refuse it by raising; SQLite's own callback cannot."""

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
    """Where the file is, and how to use it."""

    path: Path
    durability: Literal["normal", "full"]
    busy_timeout: timedelta
    trace: Callable[[str], None] | None

    def open(self) -> sqlite3.Connection:
        """Open a connection to the file; create the file if needed, and bring it to the newest schema."""
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
            # Data erased about a user must also be gone from the file; for its log see SqliteStorage.forget.
            connection.execute("PRAGMA secure_delete = ON")
            undo.pop_all()
        return connection

    def _refuse_read_only(self) -> None:
        # SQLite would notice too, but leave read-only files beside it that stay when the permission is corrected.
        effective = os.access in os.supports_effective_ids
        readable, writable = (os.access(self.path, mode, effective_ids=effective) for mode in (os.R_OK, os.W_OK))
        if readable and not writable:
            raise StorageUnavailable(f"{self.path}: {_ADVICE[sqlite3.SQLITE_READONLY]}")

    def _refuse_foreign(self) -> None:
        # The last connection to close a file writes its log back. With mode=ro it does not, but leaves files behind
        # if there was no log, so each mode is used where it leaves no trace. Reading the header ourselves would be
        # simpler, but closing the file would drop every lock that this process holds on it.
        mode = "ro" if self.path.with_name(self.path.name + "-wal").exists() else "rw"
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        seconds = min(self.busy_timeout.total_seconds(), _LONGEST_WAIT)
        with closing(sqlite3.connect(address, uri=True, timeout=seconds, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            examine(connection, str(self.path))

    def explain(self, error: sqlite3.Error) -> StorageUnavailable:
        """Convert SQLite's error into ours: the file, the reason, and what to do."""
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
    # The lowest byte is the primary code. Errors raised by the sqlite3 module itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def transaction(connection: sqlite3.Connection, unit: Unit[_T]) -> _T:
    """Run a unit as one transaction that takes the write lock at its start; any exception rolls it back.

    A transaction that started with a read would fail at once if another one wrote before it did.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = unit(connection)
        connection.execute("COMMIT")
    except BaseException:
        # After some errors SQLite has already rolled back; then there is nothing left to undo.
        with suppress(sqlite3.Error):
            connection.rollback()
        raise
    return result


async def _in_thread(database: Database, work: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
    """Run work in a thread, retry it while the file is busy, until the timeout, and convert SQLite's errors."""
    deadline = monotonic() + database.busy_timeout.total_seconds()
    while True:
        try:
            return await to_thread.run_sync(work, limiter=limiter)
        except sqlite3.Error as error:
            if _code(error) not in _BUSY or monotonic() >= deadline:
                raise database.explain(error) from error
        await anyio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # Jitter, not a secret.


class Lane:
    """One connection, and its place in the queue: one unit of work at a time."""

    def __init__(self, database: Database) -> None:
        self.connection: sqlite3.Connection | None = None
        self._database = database
        self._limiter = CapacityLimiter(1)
        self._closing = False
        # A task cancelled by asyncio itself leaves the limiter while its thread is still working (anyio only shields
        # from its own scopes), so the connection has a lock that belongs to the thread.
        self._mutex = threading.Lock()

    async def read(self, unit: Unit[_T]) -> _T:
        """Run a unit that only reads. One statement is its own snapshot; several need their own transaction."""
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
        """Refuse new and waiting work; a running unit still completes."""
        self._closing = True

    def close(self) -> None:
        """Close the connection once the unit running on it has ended."""
        with self._mutex:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()


class Session:
    """The time from the first opening to the last closing; its contents belong to one event loop.

    Heartbeats have their own lane, so that no lease expires behind a long insert. So do reads: under WAL they never
    wait, whereas the writer may be waiting for another process.
    """

    def __init__(self, database: Database) -> None:
        self.writer: Lane = Lane(database)
        self.pulse: Lane = Lane(database)
        self.reader: Lane = Lane(database)
        self._lanes = self.reader, self.pulse, self.writer
        self._database = database
        self._turn = anyio.Lock()
        # As in Lane: after asyncio cancels an opening task, its thread still runs; it must not outlive the closing.
        self._mutex = threading.Lock()
        self._closed = False

    async def open(self) -> None:
        """Open all lanes, unless they are open already."""
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
        # Refuse before waiting for a thread, so that waiting work is refused whichever thread gets a lane next.
        for lane in self._lanes:
            lane.refuse()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._mutex:
            self._closed = True
            for lane in self._lanes:
                lane.close()
