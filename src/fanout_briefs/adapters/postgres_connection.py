"""How a PostgreSQL storage reaches its server: connections, transactions, threads, and errors in our words.

A unit of work is one hop to a thread, alone on its connection, and one transaction. It always runs to its end,
whoever is cancelled meanwhile; the server's ``statement_timeout`` bounds how long that can be.

The pool is our own, not psycopg_pool's. Work queues on a limiter anyway, so what is left of a pool is a list of
idle connections; and by connecting in the caller's own thread, a refusal is told at once and with its reason, and
a stale connection is replaced at once, where psycopg_pool tries again in the background, with pauses.
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
"""Seconds for which an idle connection is taken to live unless its socket says otherwise."""


class Tables:
    """Our tables on one connection: statements name them ``@jobs``, whatever schema they are in."""

    def __init__(
        self, connection: Connection, schema: str, *, joins: bool = False, trace: Callable[[str], None] | None = None
    ) -> None:
        self.connection = connection
        self._prefix = quoted(schema).replace("%", "%%") + "."
        self._joins = joins
        self._trace = trace

    def rows(self, statement: str, values: Any = None) -> list[TupleRow]:
        """Run a statement and give what it answers."""
        return self._run(statement, values).fetchall()

    def count(self, statement: str, values: Any = None) -> int:
        """Run a statement and give how many rows it concerned."""
        return self._run(statement, values).rowcount

    def _run(self, statement: str, values: Any) -> psycopg.Cursor[TupleRow]:
        if self._trace is not None:
            self._trace(statement)
        # A cursor of our own, for a caller's connection may have been set up to make rows of another kind.
        cursor = psycopg.Cursor(self.connection, row_factory=tuple_row)
        return cursor.execute(
            statement.replace("@", self._prefix).encode(), () if values is None else values, binary=True
        )

    def transaction(self, mode: str | None = None) -> AbstractContextManager[None]:
        """Make one transaction of what follows; where the caller has one, it is part of that."""
        return nullcontext() if self._joins else self._begin(mode)

    @contextmanager
    def _begin(self, mode: str | None) -> Generator[None]:
        with self.connection.transaction():
            if mode is not None:
                self._run(mode, None)
            yield


Unit = Callable[[Tables], _T]
"""Some statements that belong together, run in a thread. One alone is a transaction of its own."""


class Lanes(Protocol):
    """Where units of work run."""

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit as soon as a connection is free."""
        ...

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit on a connection that other work never holds: a lease must not run out behind a long insert."""
        ...


@frozen(kw_only=True)
class PoolUse:
    """How a pool stands at a moment.

    Attributes:
        size: How many connections it may have.
        open: How many it has.
        busy: How many of these are working.
        waiting: How many tasks wait for one.
    """

    size: int
    open: int
    busy: int
    waiting: int


@frozen(kw_only=True)
class Database:
    """Where the tables are, and how they are to be used."""

    target: Target = field(converter=Target)
    schema: str
    migrate: bool
    pool_size: int
    statement_timeout: timedelta
    trace: Callable[[str], None] | None

    @property
    def place(self) -> str:
        """What messages call it; never with a password."""
        return f"{self.target.place}, schema {self.schema!r}"

    def open(self) -> Connection:
        """Open the first connection, to tables that are known to be of this release."""
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
                # Less, so that what waits for somebody's lock is told from what is slow.
                "lock_timeout": str(max(1, wait // 2)),
                # Whoever is suspended in the middle does not keep locks for ever.
                "idle_in_transaction_session_timeout": str(wait),
                # Compiling costs more than our statements, whose cost is guessed by their arrays' length.
                "jit": "off",
            }
            connection.execute(
                "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS setting(name, value)",
                (list(settings), list(settings.values())),
            )
            undo.pop_all()
        return connection

    def explain(self, error: psycopg.Error, *, connecting: bool = False) -> StorageUnavailable:
        """Give our error for the driver's."""
        told = explain(error, self.target, self.schema, self.statement_timeout, connecting=connecting)
        return StorageUnavailable(f"{self.place}: {told}")

    async def in_thread(self, work: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
        """Run work in a thread, again where it lost against other transactions, and tell failures in our words."""
        deadline = monotonic() + self.statement_timeout.total_seconds()
        while True:
            try:
                return await to_thread.run_sync(work, limiter=limiter)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                if monotonic() >= deadline:
                    raise self.explain(error) from error
            except psycopg.Error as error:
                raise self.explain(error) from error
            await anyio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # Spreads them; no secret.


class Pool:
    """Idle connections, and seats for those who use one. Lives among threads, knows of no event loop.

    A task cancelled by asyncio itself leaves a limiter while its thread still works (anyio shields only from its
    own scopes); so the seats belong to threads, and no more connections are ever open than there are seats.
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
        """How many connections are open, and how many of them work."""
        with self._guard:
            return self._open, self._open - len(self._idle)

    def open(self, first: Connection) -> None:
        """Begin with this connection."""
        with self._guard:
            self._open, self._closed = 1, False
            self._idle.append((first, monotonic()))

    @contextmanager
    def connection(self, seats: threading.Semaphore) -> Generator[Connection]:
        """Give a connection that lives, and take it back."""
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
        """Close all connections once the units that run on them have ended."""
        with self._guard:
            self._closed = True
        everyone = [self.pulse, *[self.seats] * (self._database.pool_size - 1)]
        for seat in everyone:
            seat.acquire()
        while self._idle:
            self._drop(self._idle.pop()[0])
        # Whoever still waits for a seat is to learn that it is closed.
        for seat in everyone:
            seat.release()


def _lives(connection: Connection, since: float) -> bool:
    try:
        if monotonic() - since > _TRUSTED_FOR or _has_news(connection):
            connection.execute("")
    except (psycopg.Error, OSError, ValueError):  # The last two: its socket is closed, or none any more.
        return False
    return True


def _has_news(connection: Connection) -> bool:
    # A server that ends says so, or at least closes the socket; a connection in order is silent between statements.
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))


class Session:
    """The time from the first opening to the last closing; what it holds belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self.users = 0
        self._database = database
        self._pool = Pool(database)
        self._limiter = CapacityLimiter(database.pool_size - 1)
        self._pulse = CapacityLimiter(1)
        self._turn = anyio.Lock()
        # An opening whose task asyncio cancelled still runs, and must not outlive the closing.
        self._mutex = threading.Lock()
        self._opened = self._closed = False

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit as soon as a connection is free."""
        return await self._database.in_thread(partial(self._run, unit, self._pool.seats), self._limiter)

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit on the connection that other work never holds."""
        return await self._database.in_thread(partial(self._run, unit, self._pool.pulse), self._pulse)

    def _run(self, unit: Unit[_T], seats: threading.Semaphore) -> _T:
        with self._pool.connection(seats) as connection:
            return unit(Tables(connection, self._database.schema, trace=self._database.trace))

    def use(self) -> PoolUse:
        """Tell how the pool stands."""
        open_now, busy = self._pool.counts
        waiting = sum(limiter.statistics().tasks_waiting for limiter in (self._limiter, self._pulse))
        return PoolUse(size=self._database.pool_size, open=open_now, busy=busy, waiting=waiting)

    async def open(self) -> None:
        """Open the pool, unless somebody has."""
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
    """The lanes on a caller's connection: in the caller's transaction, and with the driver's own errors."""

    def __init__(self, connection: Connection, schema: str, trace: Callable[[str], None] | None) -> None:
        self._tables = Tables(connection, schema, joins=True, trace=trace)
        # Two tasks must not put their statements between each other's.
        self._mutex = threading.Lock()

    async def work(self, unit: Unit[_T]) -> _T:
        """Run a unit on the connection, after whatever runs there."""
        return await to_thread.run_sync(self._run, unit)

    async def beat(self, unit: Unit[_T]) -> _T:
        """Run a unit likewise: there is but one connection."""
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
