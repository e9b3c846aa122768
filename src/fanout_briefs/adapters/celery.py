"""Runs jobs on Celery: messages that contain only a key, sent once the ledger has committed.

Each job type is a task. A message may arrive twice, late or never: the ledger's claim lets only one worker run a job,
and reconciling sends lost messages again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

try:
    from billiard import active_children
    from celery import Celery, signals
    from kombu.exceptions import OperationalError
except ModuleNotFoundError as _missing:
    raise ImportError("CeleryDispatcher needs Celery: pip install 'fanout-briefs[celery]'") from _missing

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from fanout_briefs.adapters._engines import JobRunner, Opener, bad_priorities, bad_spans_of, distinct
from fanout_briefs.arguments import bad_kinds, bad_spans, refuse
from fanout_briefs.engine import DispatcherPowers, JobOutcome
from fanout_briefs.model import JobRef

__all__ = ["CeleryDispatcher", "add_tasks"]

_log = logging.getLogger("fanout_briefs")
_VISIBILITY: Final = 1800.0
"""Seconds: the shortest default among the brokers. RabbitMQ closes a channel whose acknowledgement takes longer."""
_PRIORITIES: Final = range(10)
_AHEAD_OF_OTHERS: Final = 3
"""The smallest difference in priority that takes effect on Redis, which has four levels."""
_PATIENCE: Final = 10.0
"""Seconds to wait for a pooled connection, or before trying again to open the briefs."""


class CeleryDispatcher:
    """Hands jobs over to the workers of a Celery app.

    The app's ``task_routes`` decide where messages for the tasks ``fanout_briefs.<job type>`` go.

    Args:
        app: Your Celery app.
        ahead: How long before its time a job may be handed over. Workers keep early messages in memory, so jobs further
            ahead are left to a later reconciling. Capped at half of the broker's visibility timeout, after which
            messages held in memory would be delivered again and again.
        priorities: Priority by job type, from 0 (the default) to 9. Higher ones are taken first; on Redis without
            further setup, on RabbitMQ from queues with ``x-max-priority``.

    Raises:
        ValueError: An argument is out of range; the message names every bad value.
    """

    def __init__(
        self,
        app: Celery,
        *,
        ahead: timedelta = timedelta(minutes=1),
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        refuse(
            [
                *bad_kinds({"app": app}, Celery, may_be_none=False),
                *bad_spans({"ahead": ahead}),
                *bad_priorities(priorities, _PRIORITIES),
            ]
        )
        self._app = app
        self._ahead = ahead
        self._priorities = dict(priorities or {})

    @property
    def powers(self) -> DispatcherPowers:
        """What this dispatcher can do.

        It does not cancel: revoking in Celery only reaches workers that are running, and they would then refuse the
        message even after the job is taken up again. Workers learn from the ledger that a job is cancelled.
        """
        options: Mapping[str, Any] = self._app.conf.broker_transport_options or {}
        given = options.get("visibility_timeout")
        visible = timedelta(seconds=_VISIBILITY if given is None else float(given))
        return DispatcherPowers(schedules=min(self._ahead, visible / 2))

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        for chunk in distinct(jobs):
            await to_thread.run_sync(self._send, chunk)

    def _send(self, jobs: Sequence[JobRef]) -> None:
        try:
            self._publish(jobs)
        except OperationalError:
            # A pooled connection that has died is only noticed now; the next one is new.
            self._publish(jobs)

    def _publish(self, jobs: Sequence[JobRef]) -> None:
        now = datetime.now(UTC)
        producer: Any
        with self._app.producer_pool.acquire(block=True, timeout=_PATIENCE) as producer, producer.batch():
            is_redis = producer.connection.transport.driver_type == "redis"
            highest = _PRIORITIES[-1]
            for job in jobs:
                first = self._priorities.get(job.type, 0) + job.again * _AHEAD_OF_OTHERS
                priority = min(first, highest)
                self._app.send_task(
                    _task_name(job.type),
                    [job.dedup_key],
                    eta=job.run_at if job.run_at > now else None,
                    # Redis takes 0 first, RabbitMQ 9.
                    priority=highest - priority if is_redis else priority,
                    ignore_result=True,
                    add_to_parent=False,
                    producer=producer,
                )


def _task_name(kind: str) -> str:
    return f"fanout_briefs.{kind}"


def add_tasks(
    app: Celery,
    briefs: JobRunner,
    dispatcher: CeleryDispatcher,
    *,
    every: timedelta | None = timedelta(minutes=5),
    grace: timedelta = timedelta(seconds=10),
) -> None:
    """Add the tasks that run these briefs to an app; then start ``celery -A ... worker`` and ``celery -A ... beat``.

    Start any number of either, on any machines. Workers run jobs in processes (``--pool=prefork``) or in threads
    (``--pool=threads``). Beats plan, and recover what dead workers and lost messages left behind; they do this
    themselves, without the broker. If you run no beat, run ``briefs.serve()`` somewhere, or call ``briefs.plan`` and
    ``briefs.reconcile``.

    Args:
        app: Your Celery app.
        briefs: The briefs to run. Each worker process opens them after its fork and keeps them open until it ends.
        dispatcher: The dispatcher of these briefs.
        every: How often a beat plans; at most the horizon of these briefs. None leaves planning to other processes.
        grace: How long running jobs may take to finish after a worker is told to stop. Jobs still running then are
            given back, and another worker runs them at once; Celery itself would wait for them indefinitely.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """
    refuse(bad_spans_of(briefs, every=every, grace=grace))
    process = _Process(briefs)

    def add(kind: str) -> None:
        # A worker that dies is replaced; the ledger lets its job run again when the lease has ended.
        @app.task(name=_task_name(kind), acks_late=True, reject_on_worker_lost=True, ignore_result=True, shared=False)
        def run_job(key: str) -> str:
            return process.call(partial(_run_job, briefs, dispatcher, kind, key))

    for kind in briefs.job_types:
        add(kind)

    def begin(**_: Any) -> None:
        process.begin()

    def serve(**_: Any) -> None:
        process.serve(every)

    def end(**_: Any) -> None:
        process.end()

    def drain(**_: Any) -> None:
        process.drain(grace)

    for signal, receiver in (
        (signals.worker_process_init, begin),
        (signals.worker_process_shutdown, end),
        (signals.worker_shutdown, end),  # For threads, which share the worker's process.
        (signals.worker_shutting_down, drain),
        (signals.beat_init, serve),
    ):
        signal.connect(receiver, weak=False)


class _Process:
    """The event loop of one process, in its own thread, in which the briefs are open."""

    def __init__(self, briefs: JobRunner) -> None:
        self._briefs = briefs
        self._opener = Opener(briefs)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._running: set[Future[Any]] = set()
        self._is_draining = False

    def begin(self) -> None:
        """Start opening the briefs without waiting: Celery ends a process that is not ready within four seconds."""
        self._begun().start_task_soon(self._try_to_open)

    async def _try_to_open(self) -> None:
        try:
            await self._opener.open()
        except Exception:
            _log.exception("%s could not be opened; the first job tries again", self._briefs.name)

    def call(self, run: Callable[[], Awaitable[str]]) -> str:
        """Run a job in the event loop and wait for its outcome.

        If the wait is interrupted, by a time limit or the worker's end, the job is cancelled.
        """
        running = self._begun().start_task_soon(self._in_opened, run)
        self._running.add(running)
        try:
            return running.result()
        except CancelledError:
            if self._is_draining:
                return JobOutcome.RELEASED  # The ledger has handed it over again.
            raise
        finally:
            self._running.discard(running)
            running.cancel()

    def drain(self, grace: timedelta) -> None:
        """Give back jobs that still run after this time, here or in processes forked from this one."""

        def give_back() -> None:
            time.sleep(min(grace.total_seconds(), threading.TIMEOUT_MAX))
            self._is_draining = True
            for running in tuple(self._running):
                running.cancel()
            # A pool process that is told to stop gives back its job; idle ones have ended already.
            for child in active_children():
                child.terminate()

        threading.Thread(target=give_back, name="fanout_briefs gives back", daemon=True).start()

    async def _in_opened(self, run: Callable[[], Awaitable[str]]) -> str:
        await self._opener.open()
        async with self._briefs:  # Keeps them open while this runs, even if the process is ending.
            return await run()

    def serve(self, every: timedelta | None) -> None:
        """Plan and reconcile until the process ends; beat has no signal for its end."""

        def watch() -> None:
            threading.main_thread().join()
            self.end()

        self._begun().start_task_soon(self._keep_serving, every)
        threading.Thread(target=watch, name="fanout_briefs waits for the end", daemon=True).start()

    async def _keep_serving(self, every: timedelta | None) -> None:
        while True:
            try:
                async with self._briefs:
                    await self._briefs.serve(every=every, work=False)
            except Exception:
                _log.exception("%s cannot be planned; trying again in %s s", self._briefs.name, _PATIENCE)
                await anyio.sleep(_PATIENCE)

    def end(self) -> None:
        """Give back running jobs, and close the briefs."""
        with self._lock:
            portal, self._portal = self._portal, None
            if portal is not None:
                with suppress(RuntimeError):  # It has already stopped.
                    portal.call(portal.stop, True)
                self._stack.close()

    def _begun(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal(name=self._briefs.name))
            return self._portal


async def _run_job(briefs: JobRunner, dispatcher: CeleryDispatcher, kind: str, key: str) -> str:
    run = await briefs.run_job(key)
    again_at = run.again_at
    # A time too far ahead for a message is left to reconciling.
    if again_at is not None and again_at - datetime.now(UTC) <= dispatcher.powers.schedules:
        await dispatcher.dispatch([JobRef(key, kind, again_at)])
    return run.outcome
