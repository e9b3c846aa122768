"""What can go wrong at a statement of SQL, and whose turn it is."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import psycopg
from attrs import define, field
from point_story import phase_now

from fanout_briefs.adapters import postgres_connection
from services import Schema, connect

__all__ = ["IN_POSTGRES", "IN_SQLITE", "WHEN", "Ending", "Statements", "run_statement"]


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
    "the file is read-only at the statement": _sqlite_error(
        sqlite3.SQLITE_READONLY, "attempt to write a readonly database"
    ),
    "the file is busy at the statement": _sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"),
    "is cancelled at the statement": _cancel,
}
IN_POSTGRES = {
    "loses against another transaction at the statement": _conflict,
    "is cancelled at the statement": _cancel,
}


WHEN = ("before", "within", "after")
"""A connection may end so, seen from a statement."""
GLANCE = 0.005
"""Seconds between looks at what the server does."""
TABLES = "jobs, outbox, briefs, marks, pauses, preferences, fence"
Run = Callable[[postgres_connection.Tables, str, Any], psycopg.Cursor[Any]]
run_statement: Run = postgres_connection.Tables._run  # pyright: ignore[reportPrivateUsage]  # where a connection meets a statement


@define
class Ending:
    """Ends the very connection that runs a statement, from another one.

    Attributes:
        came_about: Whether it could be ended there: not within a statement that waits for no lock.
    """

    schema: Schema
    came_about: bool = False

    def end(self, pid: int) -> None:
        self.came_about = True
        with connect(self.schema.dsn) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            while other.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone() is not None:
                time.sleep(GLANCE)

    def before(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        self.end(tables.connection.info.backend_pid)
        return run_statement(tables, statement, values)

    def after(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        answer = run_statement(tables, statement, values)
        self.end(tables.connection.info.backend_pid)
        tables.connection.execute("SELECT 1")  # The driver finds out only now.
        return answer

    def within(self, tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
        """While it waits for a lock. Where this connection holds locks of its own, nobody else can make it wait."""
        pid = tables.connection.info.backend_pid
        is_over = threading.Event()
        with ThreadPoolExecutor(1) as pool, connect(self.schema.dsn) as other:
            other.execute(f'SET search_path TO "{self.schema.name}"'.encode())
            if not _locks_all(other):
                return run_statement(tables, statement, values)
            ending = pool.submit(self._end_waiting, other, pid, is_over)
            try:
                return run_statement(tables, statement, values)
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
                time.sleep(GLANCE)
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
