"""Runs jobs on PgQueuer: a queue in the ledger's PostgreSQL, filled in the ledger's own transactions.

Each job type is an entrypoint. A message contains only a key.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

try:
    import psycopg
    from pgqueuer import PgQueuer
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
    from pgqueuer.adapters.persistence.qb import QueryQueueBuilder
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.errors import RetryRequested
    from pgqueuer.models import Job
    from pgqueuer.ports.driver import SyncDriver
    from pgqueuer.queries import SyncQueries
except ModuleNotFoundError as _missing:
    raise ImportError("PgQueuerDispatcher needs PgQueuer: pip install 'fanout-briefs[pgqueuer]'") from _missing

import anyio
from attrs import frozen
from psycopg.rows import dict_row

from fanout_briefs.adapters._engine_tables import Tables
from fanout_briefs.adapters._engines import JobRunner, bad_priorities, bad_spans_of, distinct
from fanout_briefs.adapters.postgres_errors import bad_place
from fanout_briefs.arguments import bad_counts, refuse
from fanout_briefs.engine import DispatcherPowers, JobOutcome
from fanout_briefs.model import JobRef

__all__ = ["PgQueuerDispatcher", "carrying"]

_log = logging.getLogger("fanout_briefs")


class PgQueuerDispatcher:
    """Hands jobs over to PgQueuer.

    Args:
        dsn: The libpq connection string of the database that holds PgQueuer's tables.
        schema: The schema of these tables.
        priorities: Priority by job type; the default is 0. Higher ones are taken first.

    Pass ``within`` to a ledger in the same database, ``PostgresStorage(dsn, on_pending=dispatcher.within)``, and the
    dispatcher to ``Briefs``. With any other ledger, jobs are handed over after it commits.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """

    powers: DispatcherPowers = DispatcherPowers(transactional=True, reports_duplicates=True, cancels=True)

    def __init__(self, dsn: str, *, schema: str = "public", priorities: Mapping[str, int] | None = None) -> None:
        refuse([*bad_place(dsn, schema), *bad_priorities(priorities)])
        self._tables = Tables(engine="PgQueuer", install="pgq install", target=dsn, schema=schema)
        self._priorities = dict(priorities or {})
        self._builder = QueryQueueBuilder(settings=DBSettings(db_schema=schema))

    def within(self, connection: psycopg.Connection[Any], jobs: Sequence[JobRef]) -> None:
        """Hand over jobs in the transaction of this connection; jobs that already wait there are left unchanged.

        Raises:
            StorageUnavailable: PgQueuer's tables are missing.
            psycopg.Error: The server reported an error.
        """
        queries = self._queries(connection)
        with self._tables.known():
            for chunk in distinct(jobs):
                now = _now(queries.driver, chunk)
                queries.enqueue(
                    [job.type for job in chunk],
                    [job.dedup_key.encode() for job in chunk],
                    [self._priorities.get(job.type, 0) + job.again for job in chunk],
                    [max(job.run_at - now, timedelta(0)) for job in chunk],
                    [job.id for job in chunk],
                    on_conflict="skip",
                )

    def _queries(self, connection: psycopg.Connection[Any]) -> SyncQueries:
        return SyncQueries(_Joined(connection), self._builder)

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        await self._tables.in_thread(lambda connection: self.within(connection, jobs))

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        def cancel(connection: psycopg.Connection[Any]) -> None:
            queries = self._queries(connection)
            waiting = f"SELECT id FROM {queries.qbq.qualified.queue_table} WHERE dedupe_key = ANY($1) AND status = 'queued' FOR UPDATE"  # noqa: S608  # the engine's own name
            for chunk in distinct(jobs):
                with connection.transaction(), self._tables.known():
                    ids = [row["id"] for row in queries.driver.fetch(waiting, [job.id for job in chunk])]
                    _Joined(connection).execute(
                        queries.qbq.build_log_job_query(), ids, ["canceled"] * len(ids), [None] * len(ids)
                    )

        await self._tables.in_thread(cancel)


@frozen
class _Joined:
    """A PgQueuer driver for a connection inside a transaction, which PgQueuer's own driver refuses."""

    connection: psycopg.Connection[Any]

    def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        return self._run(query, *args).fetchall()

    def execute(self, query: str, *args: object) -> None:
        self._run(query, *args)

    def _run(self, query: str, *args: object) -> psycopg.RawCursor[dict[str, object]]:
        return psycopg.RawCursor(self.connection, row_factory=dict_row).execute(query.encode(), args or None)


def _now(driver: SyncDriver, jobs: Sequence[JobRef]) -> datetime:
    """Return the server's time, from which delays are counted, or the local time if all jobs are due by it."""
    here = datetime.now(UTC)
    if all(job.run_at <= here for job in jobs):
        return here
    (row,) = driver.fetch("SELECT now() AS now")
    return cast("datetime", row["now"])


@asynccontextmanager
async def carrying(
    pgq: PgQueuer,
    briefs: JobRunner,
    *,
    every: timedelta | None = timedelta(minutes=5),
    concurrency_limits: Mapping[str, int] | None = None,
    grace: timedelta = timedelta(seconds=10),
) -> AsyncGenerator[PgQueuer]:
    """Let a PgQueuer worker run these briefs, plan them, and recover jobs of dead workers.

    Use it in the factory that you pass to ``pgq run``; nothing else needs to be started. Run it on any number of
    machines. When told to stop, the worker starts no more jobs, lets running ones finish within ``grace``, and gives
    the rest back; another worker then runs them at once.

    Args:
        pgq: The worker, preferably on asyncpg. On psycopg, PgQueuer waits for notifications, up to a second at a time,
            on the connection that it also fetches jobs with.
        briefs: The briefs to run; they are open while the context is entered.
        every: How often to plan; at most the horizon of these briefs. None leaves planning to other processes.
        concurrency_limits: By job type, how many jobs run at once in all workers together; 0, the default, means no
            limit.
        grace: How long running jobs may take to finish after the worker is told to stop.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """
    limits = dict(concurrency_limits or {})
    refuse(
        [
            *bad_spans_of(briefs, every=every, grace=grace),
            *bad_counts({f"concurrency_limits[{kind!r}]": limit for kind, limit in limits.items()}, least=0),
            *(
                f"concurrency_limits[{kind!r}]: these briefs have no such job type; theirs are {', '.join(briefs.job_types)}"
                for kind in limits
                if kind not in briefs.job_types
            ),
        ]
    )
    if isinstance(pgq.connection, PsycopgDriver):
        _log.warning("PgQueuer takes jobs up to a second late on psycopg; give it a connection of asyncpg's")
    stopping = _Stopping(pgq, grace)

    async def run(job: Job) -> None:
        with stopping.scope() as scope:
            run = await briefs.run_job((job.payload or b"").decode(), draining=stopping.draining)
        if scope.cancelled_caught or run.outcome is JobOutcome.RELEASED:
            raise RetryRequested
        if run.again_at is not None:
            raise RetryRequested(max(run.again_at - datetime.now(UTC), timedelta(0)), f"{run.outcome}")

    for kind in briefs.job_types:
        pgq.entrypoint(kind, concurrency_limit=limits.get(kind, 0))(run)
    async with briefs, anyio.create_task_group() as tasks:

        async def serve() -> None:
            await briefs.serve(every=every, work=False)

        tasks.start_soon(serve)
        tasks.start_soon(stopping.watch)
        yield pgq
        tasks.cancel_scope.cancel()


class _Stopping:
    """Cancels running jobs some time after the worker was told to stop; PgQueuer itself would wait indefinitely."""

    def __init__(self, pgq: PgQueuer, grace: timedelta) -> None:
        self.draining = anyio.Event()
        self._pgq = pgq
        self._grace = grace.total_seconds()
        self._has_begun = anyio.Event()
        self._scopes: set[anyio.CancelScope] = set()

    @contextmanager
    def scope(self) -> Generator[anyio.CancelScope]:
        self._has_begun.set()
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    async def watch(self) -> None:
        # PgQueuer replaces the shutdown event after the factory has yielded, but before the first job runs.
        await self._has_begun.wait()
        await self._pgq.shutdown.wait()
        self.draining.set()
        await anyio.sleep(self._grace)
        for scope in tuple(self._scopes):
            scope.cancel()
