"""Runs jobs on Procrastinate: tasks in the ledger's PostgreSQL, deferred in the ledger's own transactions.

Each job type is a task on its own queue, so you can assign workers to types with ``--queues`` and ``--concurrency``.
A message contains only a key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

try:
    import procrastinate
    import psycopg
    from psycopg.rows import tuple_row
    from psycopg_pool import AsyncConnectionPool
except ModuleNotFoundError as _missing:
    raise ImportError(
        "ProcrastinateDispatcher needs Procrastinate: pip install 'fanout-briefs[procrastinate]'"
    ) from _missing

from fanout_briefs.adapters._engine_tables import Tables
from fanout_briefs.adapters._engines import JobRunner, Opener, bad_priorities, distinct, dividing_a_minute
from fanout_briefs.adapters.postgres_errors import bad_place
from fanout_briefs.adapters.postgres_schema import quoted
from fanout_briefs.arguments import refuse
from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import JobRef

__all__ = ["ProcrastinateDispatcher", "add_tasks", "autocommit_pool"]

_TRIES: Final = 5
_FIRST: Final = 1_000_000


class ProcrastinateDispatcher:
    """Hands jobs over to Procrastinate.

    Args:
        dsn: The libpq connection string of the database that holds Procrastinate's tables.
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
        self._tables = Tables(
            engine="Procrastinate", install="procrastinate --app=... schema --apply", target=dsn, schema=schema
        )
        self._priorities = dict(priorities or {})
        self._defer = _DEFER.replace("@", f"{quoted(schema).replace('%', '%%')}.").encode()

    def within(self, connection: psycopg.Connection[Any], jobs: Sequence[JobRef]) -> None:
        """Hand over jobs in the transaction of this connection; jobs that already wait there are left unchanged.

        Raises:
            StorageUnavailable: Procrastinate's tables are missing.
            psycopg.errors.SerializationFailure: Another transaction is handing over the same jobs; try the transaction
                again, as the ledger does.
            psycopg.Error: The server reported another error.
        """
        cursor = psycopg.Cursor(connection, row_factory=tuple_row)
        with self._tables.known():
            for chunk in distinct(jobs):
                try:
                    cursor.execute(self._defer, self._columns(chunk), binary=True)
                except psycopg.errors.UniqueViolation as e:
                    # A concurrent reconcile has just handed over the same job; a new transaction will see it.
                    raise psycopg.errors.SerializationFailure(f"{e}; try the transaction again") from e

    def _columns(self, jobs: Sequence[JobRef]) -> dict[str, Any]:
        return {
            "path": f"{quoted(self._tables.schema)}, pg_temp",
            "ids": [job.id for job in jobs],
            "types": [job.type for job in jobs],
            "keys": [job.dedup_key for job in jobs],
            "times": [job.run_at for job in jobs],
            "priorities": [self._priorities.get(job.type, 0) + job.again for job in jobs],
        }

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        def dispatch(connection: psycopg.Connection[Any]) -> None:
            for tries_left in reversed(range(_TRIES)):
                try:
                    self.within(connection, jobs)
                    break
                except psycopg.errors.SerializationFailure:
                    if not tries_left:
                        raise

        await self._tables.in_thread(dispatch)

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        def cancel(connection: psycopg.Connection[Any]) -> None:
            for chunk in distinct(jobs):
                with self._tables.on(connection) as cursor:
                    cursor.execute(_CANCEL, {"ids": [job.id for job in chunk]}, binary=True)

        await self._tables.in_thread(cancel)

    async def rescue(self, tasks: Sequence[str], stalled_after: timedelta) -> None:
        """Take tasks away from dead Procrastinate workers, which would otherwise keep them forever.

        Args:
            tasks: The names of the tasks.
            stalled_after: How long after its last heartbeat a worker counts as dead.
        """

        def rescue(connection: psycopg.Connection[Any]) -> None:
            with self._tables.on(connection) as cursor:
                cursor.execute(_RESCUE, {"tasks": list(tasks), "after": stalled_after}, binary=True)

        await self._tables.in_thread(rescue)


# Procrastinate's own bulk call takes its connections from an async app and refuses a whole batch for one duplicate.
# So this calls the underlying SQL function, whose version is in its name, with the jobs that are not waiting already.
# The function and the triggers name their tables without a schema, so search_path is set while it runs, and restored:
# all in one statement, since one is sent with each brief.
_DEFER: Final = """
WITH path AS MATERIALIZED (
    SELECT current_setting('search_path') AS before, set_config('search_path', %(path)b, true) AS now
), asked AS (
    SELECT * FROM unnest(
        %(ids)b::text[], %(types)b::text[], %(keys)b::text[], %(times)b::timestamptz[], %(priorities)b::int[]
    ) WITH ORDINALITY AS asked (id, type, key, run_at, priority, place)
), deferred AS MATERIALIZED (
    SELECT @procrastinate_defer_jobs_v1(array_agg(ROW(
        type, 'fanout_briefs.' || type, priority, NULL, id, jsonb_build_object('key', key), run_at
    )::@procrastinate_job_to_defer_v1 ORDER BY place))
    FROM asked JOIN path ON path.now IS NOT NULL
    WHERE NOT EXISTS (SELECT FROM @procrastinate_jobs AS job WHERE job.queueing_lock = asked.id AND job.status = 'todo')
    HAVING count(*) > 0
)
SELECT set_config('search_path', path.before, true) FROM path, (SELECT count(*) FROM deferred) AS done
"""
_CANCEL: Final = """
SELECT procrastinate_cancel_job_v1(job.id, false, true)
FROM unnest(%(ids)b::text[]) AS asked (id)
JOIN procrastinate_jobs AS job ON job.queueing_lock = asked.id AND job.status = 'todo'
"""

# A suspended worker may keep a row locked, and nobody must wait for that row. A stalled task is ended instead of
# retried if the ledger has handed its job over again, if it is periodic, or if a newer equal one is stalled too.
_RESCUE: Final = """
WITH stalled AS (
    SELECT job.id, job.queueing_lock FROM procrastinate_jobs AS job
    LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
    WHERE job.status = 'doing' AND job.task_name = ANY (%(tasks)b::text[])
        AND (worker.id IS NULL OR worker.last_heartbeat < now() - %(after)b::interval)
    FOR UPDATE OF job SKIP LOCKED
)
SELECT CASE
    WHEN stalled.queueing_lock LIKE 'fanout_briefs.%%' OR EXISTS (
        SELECT FROM procrastinate_jobs AS other
        WHERE other.queueing_lock = stalled.queueing_lock AND other.status = 'todo'
    ) OR EXISTS (
        SELECT FROM stalled AS newer WHERE newer.queueing_lock = stalled.queueing_lock AND newer.id > stalled.id
    ) THEN procrastinate_finish_job_v1(stalled.id, 'failed', false)
    ELSE procrastinate_retry_job_v2(stalled.id, now(), NULL, NULL, NULL)
END
FROM stalled
"""


def autocommit_pool(
    *, configure: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]] | None = None, **options: Any
) -> AsyncConnectionPool[Any]:
    """Create a pool for an app's connector in which each of Procrastinate's statements commits by itself.

    Use it as ``procrastinate.PsycopgConnector(..., pool_factory=autocommit_pool)``. Without it, each statement is a
    transaction of three messages to the server. That is slower, and a worker suspended between them keeps its locks:
    all other workers skip the task that it was about to take for as long as it is suspended.
    """

    async def autocommit(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.set_autocommit(True)
        if configure is not None:
            await configure(connection)

    return AsyncConnectionPool(configure=autocommit, **options)


def add_tasks(
    app: procrastinate.App,
    briefs: JobRunner,
    dispatcher: ProcrastinateDispatcher,
    *,
    plan: str | None = "*/5 * * * *",
    reconcile: timedelta | None = None,
    stalled_after: timedelta = timedelta(seconds=30),
) -> None:
    """Add the tasks that run these briefs to an app; then only ``procrastinate --app=... worker`` needs to be started.

    Start any number of workers. They run jobs. Through the app's periodic tasks, on the queue named after the brief,
    they also plan and recover what dead workers left behind; each of these runs on one worker at a time.

    Args:
        app: Your Procrastinate app. It uses the same database as the dispatcher.
        briefs: The briefs to run. A worker opens them when it first needs them and keeps them open until it ends.
        dispatcher: The dispatcher of these briefs.
        plan: When to plan, as a cron expression; None leaves planning to other processes.
        reconcile: How often to recover what was left behind, in whole seconds that divide a minute. None means about
            three times per lease.
        stalled_after: How long after its last heartbeat a worker loses its tasks. Must be more than twice the workers'
            ``update_heartbeat_interval``.

    Raises:
        ValueError: ``reconcile`` does not divide a minute.
        procrastinate.exceptions.TaskAlreadyRegistered: The app already has tasks for briefs of this name.
    """
    every = dividing_a_minute(briefs.lease / 3 if reconcile is None else reconcile)
    if reconcile not in (None, every):
        raise ValueError(f"reconcile={reconcile}: must be whole seconds that divide a minute, such as {every}")
    _Tasks(app, briefs, dispatcher, every, stalled_after).add(plan)


class _Tasks:
    """The tasks of one kind of brief."""

    def __init__(
        self,
        app: procrastinate.App,
        briefs: JobRunner,
        dispatcher: ProcrastinateDispatcher,
        every: timedelta,
        stalled_after: timedelta,
    ) -> None:
        self._app = app
        self._briefs = briefs
        self._dispatcher = dispatcher
        self._every = every
        self._stalled_after = stalled_after
        self._opener = Opener(briefs)
        self._names = [
            f"fanout_briefs.{each}" for each in (*briefs.job_types, f"reconcile.{briefs.name}", f"plan.{briefs.name}")
        ]

    def add(self, plan: str | None) -> None:
        name = self._briefs.name
        for kind in self._briefs.job_types:
            self._app.task(name=f"fanout_briefs.{kind}", queue=kind)(self._run_job)
        reconcile = f"* * * * * */{self._every.seconds}"
        for what, cron, do in (("plan", plan, self._plan), ("reconcile", reconcile, self._reconcile)):
            if cron is not None:
                task_name = f"fanout_briefs.{what}.{name}"
                # At most one waits, so after an outage of all workers it runs once. The priority puts it ahead of
                # all due briefs.
                task = self._app.task(name=task_name, queue=name, queueing_lock=task_name, priority=_FIRST)(do)
                self._app.periodic(cron=cron)(task)

    async def _run_job(self, key: str) -> None:
        await self._opener.open()
        async with self._briefs:  # Keeps them open while this runs, even if the worker is ending.
            run = await self._briefs.run_job(key)
            if run.again_at is not None:
                kind = key.partition(":")[0]
                await self._dispatcher.dispatch([JobRef(key, kind, run.again_at)])

    async def _plan(self, timestamp: int) -> None:  # noqa: ARG002  # Procrastinate passes it by this name.
        await self._opener.open()
        async with self._briefs:
            await self._briefs.plan(datetime.now(UTC))

    async def _reconcile(self, timestamp: int) -> None:
        await self._opener.open()
        async with self._briefs:
            now = datetime.fromtimestamp(timestamp, UTC)
            await self._briefs.reconcile(now, last=now - self._every)
        await self._dispatcher.rescue(self._names, self._stalled_after)
