"""Plans and runs for as long as it is let, and stops gracefully."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import anyio
from attrs import frozen

from fanout_briefs.plans import PlanReport
from fanout_briefs.runs import Ended, Reconciled, RunReport, Tally

__all__ = ["Reconciling", "Round", "Server", "Work"]

_log = logging.getLogger("fanout_briefs")


@frozen(kw_only=True)
class Round:
    """What a server has to tell of the time since it told before.

    Attributes:
        now: The moment.
        plan: The plan that was made; None: none was, or it failed.
        run: What ended; None: nothing did.
        reconciled: What was put right; None: there was nothing.
        errors: What failed; it is tried again.
    """

    now: datetime
    plan: PlanReport | None = None
    run: RunReport | None = None
    reconciled: Reconciled | None = None
    errors: tuple[Exception, ...] = ()


class Work(Protocol):
    """Runs what is due as it becomes due, as ``Worker.serve`` does."""

    async def __call__(self, on_ended: Callable[[Ended], object], /, *, draining: anyio.Event, poll: timedelta) -> None:
        """Go on until ``draining`` is set and what runs has ended."""
        ...


@frozen
class Reconciling:
    """Something to put right every so often: what engines and dead workers left behind.

    Attributes:
        reconcile: Does so for a moment, given when it was done before.
        every: How often.
    """

    reconcile: Callable[[datetime, datetime | None], Awaitable[Reconciled]]
    every: timedelta


@frozen(kw_only=True)
class Server:
    """Plans every so often, and beside that runs what is due: neither waits for the other.

    Attributes:
        plan: Plans for a moment.
        work: Runs what is due; None leaves that to others.
        reconciling: What to put right meanwhile; nothing where whoever runs what is due does.
        tally: A new count of what ends, for one report.
        every: How often to plan; None never plans, which leaves that to others.
        poll: How often to look for due work, to tell, and to try again what failed.
        grace: How long running work may take to finish once the server is cancelled.
        clock: The wall clock.
        on_round: Told when there is something to tell. If it raises, that is logged.
    """

    plan: Callable[[datetime], Awaitable[PlanReport]]
    work: Work | None
    reconciling: Sequence[Reconciling]
    tally: Callable[[], Tally]
    every: timedelta | None
    poll: timedelta
    grace: timedelta
    clock: Callable[[], datetime]
    on_round: Callable[[Round], object] | None = None

    async def serve(self) -> None:
        """Go on until cancelled; then begin nothing more, let what runs finish within ``grace``, release the rest."""
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
        """Plan, and say whether that was possible."""
        # A failure never ends the server: a database that is away for a while is no reason to be restarted.
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

    async def _keep_working(self, work: Work) -> None:
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
        """Tell what there is to tell; of what ended, all that was not told yet."""
        has_news = self._has_ended or any(each is not None for each in (plan, error, reconciled))
        if self._server.on_round is None or not has_news:
            return
        now = self._server.clock()
        run: RunReport | None = None
        if self._has_ended:  # else what was noted so far, of a brief under way, is told when that has ended
            run = self._tally.report(now)
            self._tally, self._has_ended = self._server.tally(), False
        try:
            errors = () if error is None else (error,)
            self._server.on_round(Round(now=now, plan=plan, run=run, reconciled=reconciled, errors=errors))
        except Exception:
            _log.exception("the hook for turns failed; the server goes on")


def _is_recent(then: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether it was less than ``every`` ago; a moment in the future means that the clock was set back."""
    return then is not None and timedelta(0) <= now - then < every
