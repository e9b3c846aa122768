"""How a PostgreSQL storage reaches its server: connections, transactions, threads and error messages.

A unit of work is one hop to a thread, alone on its connection, and one transaction. It always runs to completion, even
if its caller is cancelled; the server's ``statement_timeout`` limits how long that takes.

The pool is our own, not psycopg_pool's. Work queues on a limiter anyway, so all a pool needs is a list of idle
connections. And because the caller's own thread connects, a refusal is reported at once, with its reason, and a stale
connection is replaced at once; psycopg_pool would try again in the background, with pauses.
"""

from __future__ import annotations

import random
import selectors
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import anyio
import psycopg
from anyio import CapacityLimiter, to_thread
from attrs import field, frozen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from fanout_briefs.adapters.postgres_errors import Target, explain
from fanout_briefs.adapters.postgres_schema import NEWEST, advice, examine, migrate, quoted
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.rules import not_open

__all__ = ["Connection", "Database", "Guest", "Lanes", "Pool", "PoolUse", "Session", "Tables", "Unit"]

_T = TypeVar("_T")
Connection: TypeAlias = psycopg.Connection[Any]

_LONGEST_PAUSE: Final = 0.1
_TRUSTED_FOR: Final = 1.0
"""Seconds for which an idle connection is assumed to be alive unless its socket says otherwise."""


class Tables:
    """Our tables on one connection: statements name them ``@jobs``, regardless of the schema."""

    def __init__(
        self, connection: Connection, schema: str, *, joins: bool = False, trace: Callable[[str], None] | None = None
    ) -> None:
        self.connection = connection
        self._prefix = quoted(schema).replace("%", "%%") + "."
        self._joins = joins
        self._trace = trace

    def rows(self, statement: str, values: Any = None) -> list[TupleRow]:
        """Run a statement and return its rows."""
        return self._run(statement, values).fetchall()

    def count(self, statement: str, values: Any = None) -> int:
        """Run a statement and return the number of affected rows."""
        return self._run(statement, values).rowcount

    def _run(self, statement: str, values: Any) -> psycopg.Cursor[TupleRow]:
        if self._trace is not None:
            self._trace(statement)
        # Our own cursor: the caller's connection may have a different row factory.
        cursor = psycopg.Cursor(self.connection, row_factory=tuple_row)
        return cursor.execute(
            statement.replace("@", self._prefix).encode(), () if values is None else values, binary=True
        )

    def transaction(self, mode: str | None = None) -> AbstractContextManager[None]:
        """Run the body in a transaction, or in the caller's if there is one."""
        return nullcontext() if self._joins else self._begin(mode)

    @contextmanager
    def _begin(self, mode: str | None) -> Generator[None]:
        with self.connection.transaction():
            if mode is not None:
                self._run(mode, None)
            yield


Unit = Callable[[Tables], _T]
"""Statements that belong together, run in a thread. A single statement is its own transaction."""


class Lanes(Protocol):
    """Where units of work run."""

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit as soon as a connection is free."""
        ...

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit on a connection that no other work uses, so that no lease expires behind a long insert."""
        ...


@frozen(kw_only=True)
class PoolUse:
    """The use of a connection pool at one moment.

    Attributes:
        size: The maximum number of connections.
        open: How many are open.
        busy: How many of the open ones are in use.
        waiting: How many tasks are waiting for a connection.
    """

    size: int
    open: int
    busy: int
    waiting: int


@frozen(kw_only=True)
class Database:
    """Where the tables are, and how to use them."""

    target: Target = field(converter=Target)
    schema: str
    migrate: bool
    pool_size: int
    statement_timeout: timedelta
    trace: Callable[[str], None] | None

    @property
    def place(self) -> str:
        """The name to use in messages; never contains a password."""
        return f"{self.target.place}, schema {self.schema!r}"

    def open(self) -> Connection:
        """Open the first connection, and make sure that the tables fit this release."""
        return self._open(self.migrate)

    def bring_up_to_date(self) -> None:
        """Bring the tables to the newest version."""
        self._open(migrates=True).close()

    def _open(self, migrates: bool) -> Connection:
        with ExitStack() as undo:
            connection = self.connect()
            undo.callback(connection.close)
            if migrates:
                migrate(connection, self.schema, self.place, self.trace)
            elif (version := examine(connection, self.schema, self.place)) < NEWEST:
                raise StorageUnavailable(f"{self.place}: {advice(self.schema, version)}")
            undo.pop_all()
        return connection

    def connect(self) -> Connection:
        """Open a connection and set it up."""
        try:
            connection = psycopg.Connection[Any].connect(self.target.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise self.explain(error, connecting=True) from error
        with ExitStack() as undo:
            undo.callback(connection.close)
            wait = self.statement_timeout // timedelta(milliseconds=1)
            settings = {
                "timezone": "UTC",
                "search_path": "pg_catalog",
                "default_transaction_isolation": "read committed",
                "statement_timeout": str(wait),
                # Shorter, to tell a statement that waits for a lock from a slow one.
                "lock_timeout": str(max(1, wait // 2)),
                # A process suspended in the middle does not keep its locks forever.
                "idle_in_transaction_session_timeout": str(wait),
                # Compiling costs more than running our statements, whose cost is estimated from array lengths.
                "jit": "off",
            }
            connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS setting(name, value)",
                (list(settings), list(settings.values())),
            )
            undo.pop_all()
        return connection

    def explain(self, error: psycopg.Error, *, connecting: bool = False) -> StorageUnavailable:
        """Convert the driver's error into ours."""
        told = explain(error, self.target, self.schema, self.statement_timeout, connecting=connecting)
        return StorageUnavailable(f"{self.place}: {told}")

    async def in_thread(self, work: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
        """Run work in a thread, retry it after conflicts with other transactions, and convert the driver's errors."""
        deadline = monotonic() + self.statement_timeout.total_seconds()
        while True:
            try:
                return await to_thread.run_sync(work, limiter=limiter)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                if monotonic() >= deadline:
                    raise self.explain(error) from error
            except psycopg.Error as error:
                raise self.explain(error) from error
            await anyio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # Jitter, not a secret.


class Pool:
    """Idle connections, and seats for the threads that use one. Thread-safe; independent of any event loop.

    A task cancelled by asyncio itself leaves a limiter while its thread is still working (anyio only shields from its
    own scopes). So the seats belong to threads, and there are never more open connections than seats.
    """

    def __init__(self, database: Database) -> None:
        self.seats: threading.Semaphore = threading.Semaphore(database.pool_size - 1)
        self.pulse: threading.Semaphore = threading.Semaphore(1)
        self._database = database
        self._guard = threading.Lock()
        self._idle: list[tuple[Connection, float]] = []
        self._open = 0
        self._closed = True

    @property
    def counts(self) -> tuple[int, int]:
        """How many connections are open, and how many of them are in use."""
        with self._guard:
            return self._open, self._open - len(self._idle)

    def open(self, first: Connection) -> None:
        """Open the pool with this connection."""
        with self._guard:
            self._open, self._closed = 1, False
            self._idle.append((first, monotonic()))

    @contextmanager
    def connection(self, seats: threading.Semaphore) -> Generator[Connection]:
        """Yield a live connection, and take it back."""
        with seats:
            connection = self._take()
            try:
                yield connection
            finally:
                self._put_back(connection)

    def _take(self) -> Connection:
        while (kept := self._pop()) is not None:
            if _lives(*kept):
                return kept[0]
            self._drop(kept[0])
        try:
            return self._database.connect()
        except BaseException:
            self._drop()
            raise

    def _pop(self) -> tuple[Connection, float] | None:
        with self._guard:
            if self._closed:
                raise not_open(self._database.place)
            if self._idle:
                return self._idle.pop()
            self._open += 1
            return None

    def _put_back(self, connection: Connection) -> None:
        if connection.info.transaction_status is TransactionStatus.IDLE:
            with self._guard:
                self._idle.append((connection, monotonic()))
        else:
            self._drop(connection)

    def _drop(self, connection: Connection | None = None) -> None:
        if connection is not None:
            connection.close()
        with self._guard:
            self._open -= 1

    def close(self) -> None:
        """Close all connections once the units running on them have ended."""
        with self._guard:
            self._closed = True
        everyone = [self.pulse, *[self.seats] * (self._database.pool_size - 1)]
        for seat in everyone:
            seat.acquire()
        while self._idle:
            self._drop(self._idle.pop()[0])
        # Threads still waiting for a seat must learn that the pool is closed.
        for seat in everyone:
            seat.release()


def _lives(connection: Connection, since: float) -> bool:
    try:
        if monotonic() - since > _TRUSTED_FOR or _has_news(connection):
            connection.execute("")
    except (psycopg.Error, OSError, ValueError):  # The last two: its socket is closed or gone.
        return False
    return True


def _has_news(connection: Connection) -> bool:
    # A server that stops says so, or at least closes the socket; a healthy connection is silent between statements.
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


class Session:
    """The time from the first opening to the last closing; its contents belong to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pool = Pool(database)
        self._limiter = CapacityLimiter(database.pool_size - 1)
        self._pulse = CapacityLimiter(1)
        self._turn = anyio.Lock()
        # After asyncio cancels an opening task, its thread still runs; it must not outlive the closing.
        self._mutex = threading.Lock()
        self._opened = self._closed = False

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit as soon as a connection is free."""
        return await self._database.in_thread(partial(self._run, unit, self._pool.seats), self._limiter)

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit on the connection that no other work uses."""
        return await self._database.in_thread(partial(self._run, unit, self._pool.pulse), self._pulse)

    def _run(self, unit: Unit[_T], seats: threading.Semaphore) -> _T:
        with self._pool.connection(seats) as connection:
            return unit(Tables(connection, self._database.schema, trace=self._database.trace))

    def use(self) -> PoolUse:
        """Return the current use of the pool."""
        open_now, busy = self._pool.counts
        waiting = sum(limiter.statistics().tasks_waiting for limiter in (self._limiter, self._pulse))
        return PoolUse(size=self._database.pool_size, open=open_now, busy=busy, waiting=waiting)

    async def open(self) -> None:
        """Open the pool, unless it is open already."""
        async with self._turn:
            await self._database.in_thread(self._open)

    def _open(self) -> None:
        with self._mutex:
            if not self._closed and not self._opened:
                self._pool.open(self._database.open())
                self._opened = True

    async def close(self) -> None:
        """Close the pool, even while being cancelled."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    def _close(self) -> None:
        with self._mutex:
            self._closed = True
            self._pool.close()


class Guest:
    """The lanes on a caller's connection: in the caller's transaction, with the driver's own errors."""

    def __init__(self, connection: Connection, schema: str, trace: Callable[[str], None] | None) -> None:
        self._tables = Tables(connection, schema, joins=True, trace=trace)
        # The statements of two tasks must not interleave.
        self._mutex = threading.Lock()

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit on the connection, after any unit already running there."""
        return await to_thread.run_sync(self._run, unit)

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit in the same way: there is only one connection."""
        return await self.work(unit)

    def _run(self, unit: Unit[_T]) -> _T:
        with self._mutex:
            connection = self._tables.connection
            if connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE:
                raise ValueError(
                    "the connection is in autocommit mode and outside a transaction, so there is none to join: "
                    "use the storage inside `with connection.transaction():`"
                )
            return unit(self._tables)
