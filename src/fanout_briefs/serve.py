"""Plans and runs until cancelled, and stops gracefully."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import anyio
from attrs import frozen

from fanout_briefs.plans import PlanReport
from fanout_briefs.runs import Ended, Reconciled, RunReport, RunTally

__all__ = ["DueWork", "Reconciling", "Round", "Server"]

_log = logging.getLogger("fanout_briefs")


@frozen(kw_only=True)
class Round:
    """What a server has done since its last report.

    Attributes:
        now: The moment of this report.
        plan: The report of a plan; None if there was none, or it failed.
        run: The jobs that ended; None if there were none.
        reconciled: What was recovered; None if there was nothing.
        errors: What failed; it is tried again.
    """

    now: datetime
    plan: PlanReport | None = None
    run: RunReport | None = None
    reconciled: Reconciled | None = None
    errors: tuple[Exception, ...] = ()


class DueWork(Protocol):
    """Runs jobs as they become due, like ``Worker.serve``."""

    async def __call__(self, on_ended: Callable[[Ended], object], /, *, draining: anyio.Event, poll: timedelta) -> None:
        """Run jobs until ``draining`` is set and running jobs have ended."""
        ...


@frozen
class Reconciling:
    """Recovers at intervals what engines and dead workers left behind.

    Attributes:
        reconcile: Called with the current moment, and that of the previous success or None.
        every: The interval.
    """

    reconcile: Callable[[datetime, datetime | None], Awaitable[Reconciled]]
    every: timedelta


@frozen(kw_only=True)
class Server:
    """Plans at intervals and runs due jobs at the same time; neither waits for the other.

    Attributes:
        plan: Plans for a moment.
        work: Runs due jobs; None leaves them to other processes.
        reconciling: What to reconcile meanwhile; empty if the processes that run the jobs do it.
        tally: Returns a new tally for one report.
        every: How often to plan; None leaves planning to other processes.
        poll: How often to look for due jobs, to report, and to retry after errors.
        grace: How long running jobs may take to finish once the server is cancelled.
        clock: The wall clock.
        on_round: Called when there is something to report. If it raises, the error is logged.
    """

    plan: Callable[[datetime], Awaitable[PlanReport]]
    work: DueWork | None
    reconciling: Sequence[Reconciling]
    tally: Callable[[], RunTally]
    every: timedelta | None
    poll: timedelta
    grace: timedelta
    clock: Callable[[], datetime]
    on_round: Callable[[Round], object] | None = None

    async def serve(self) -> None:
        """Serve until cancelled; then start nothing, let running jobs finish within ``grace``, and release the rest."""
        await _Serving(self).until_cancelled()


class _Serving:
    """One call of ``serve``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._draining = anyio.Event()
        self._tally = server.tally()
        self._has_ended = False

    async def until_cancelled(self) -> None:
        work = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._go_on, work)
            try:
                await anyio.sleep_forever()
            finally:
                self._draining.set()
                work.deadline = anyio.current_time() + self._server.grace.total_seconds()

    async def _go_on(self, work: anyio.CancelScope) -> None:
        with work:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_planning)
                if self._server.work is not None:
                    tasks.start_soon(self._keep_working, self._server.work)
                for each in self._server.reconciling:
                    tasks.start_soon(self._keep_reconciling, each)
                await self._keep_telling()
        self._tell()

    async def _keep_planning(self) -> None:
        every = self._server.every
        planned_at: datetime | None = None
        while every is not None and not self._draining.is_set():
            now = self._server.clock()
            if not _is_recent(planned_at, now, every) and await self._plan(now):
                planned_at = now
            await self._pause()

    async def _plan(self, now: datetime) -> bool:
        """Plan, and return whether it succeeded."""
        # A failure never ends the server: a database outage is no reason to need a restart.
        try:
            report = await self._server.plan(now)
        except Exception as error:
            _log.exception("planning for %s failed; the next turn tries again", now)
            self._tell(error=error)
            return False
        self._tell(plan=report)
        return True

    async def _keep_reconciling(self, reconciling: Reconciling) -> None:
        last: datetime | None = None
        while not self._draining.is_set():
            now = self._server.clock()
            try:
                found = await reconciling.reconcile(now, last)
            except Exception as error:
                _log.exception("reconciling failed; the next turn tries again")
                self._tell(error=error)
                await self._pause()
                continue
            last = now
            if found != Reconciled():
                self._tell(reconciled=found)
            await self._pause(reconciling.every)

    async def _keep_working(self, work: DueWork) -> None:
        while not self._draining.is_set():
            try:
                await work(self._note, draining=self._draining, poll=self._server.poll)
            except Exception as error:
                _log.exception("running what is due failed; the next turn tries again")
                self._tell(error=error)
                await self._pause()

    async def _keep_telling(self) -> None:
        while not self._draining.is_set():
            await self._pause()
            self._tell()

    async def _pause(self, wait: timedelta | None = None) -> None:
        with anyio.move_on_after((wait or self._server.poll).total_seconds()):
            await self._draining.wait()

    def _note(self, ended: Ended) -> None:
        self._tally.note(ended)
        self._has_ended = True

    def _tell(
        self, plan: PlanReport | None = None, error: Exception | None = None, reconciled: Reconciled | None = None
    ) -> None:
        """Report if there is news, including all jobs that ended since the last report."""
        has_news = self._has_ended or any(each is not None for each in (plan, error, reconciled))
        if self._server.on_round is None or not has_news:
            return
        now = self._server.clock()
        run: RunReport | None = None
        if self._has_ended:  # otherwise keep the tally: notes about a brief under way are reported when it ends
            run = self._tally.report(now)
            self._tally, self._has_ended = self._server.tally(), False
        try:
            errors = () if error is None else (error,)
            self._server.on_round(Round(now=now, plan=plan, run=run, reconciled=reconciled, errors=errors))
        except Exception:
            _log.exception("the hook for turns failed; the server goes on")


def _is_recent(then: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether ``then`` was less than ``every`` ago; if it is in the future, the clock was set back."""
    return then is not None and timedelta(0) <= now - then < every
