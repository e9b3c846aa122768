"""Plans and runs for as long as it is let, and stops gracefully."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

import anyio
from attrs import field, frozen
from attrs.validators import ge, gt, optional

from fanout_briefs.planner import PlanReport
from fanout_briefs.worker import RunReport

__all__ = ["Round", "Run", "Server"]

_log = logging.getLogger("fanout_briefs")


@frozen(kw_only=True)
class Round:
    """One turn of a server.

    Attributes:
        now: The moment it was made for.
        plan: None where it was not time to plan, or planning failed.
        run: None where running failed.
        errors: What failed; the next turn tries again.
    """

    now: datetime
    plan: PlanReport | None = None
    run: RunReport | None = None
    errors: tuple[Exception, ...] = ()


class Run(Protocol):
    """Runs what is due, as ``Worker.run`` does."""

    async def __call__(self, now: datetime, /, *, draining: anyio.Event) -> RunReport:
        """Run what is due at ``now``; begin nothing more once ``draining`` is set."""
        ...


@frozen(kw_only=True)
class Server:
    """Plans every so often, and looks for due work in between.

    Attributes:
        plan: Plans for a moment.
        run: Runs what is due at a moment.
        every: How often to plan; None never plans, which leaves that to others.
        poll: How often to look for due work.
        grace: How long running work may take to finish once the server is cancelled.
        clock: The wall clock.
        on_round: Told about each turn. If it raises, that is logged.
    """

    plan: Callable[[datetime], Awaitable[PlanReport]]
    run: Run
    every: timedelta | None = field(validator=optional(gt(timedelta(0))))
    poll: timedelta = field(validator=gt(timedelta(0)))
    grace: timedelta = field(validator=ge(timedelta(0)))
    clock: Callable[[], datetime]
    on_round: Callable[[Round], object] | None = None

    async def serve(self) -> None:
        """Go on until cancelled; then begin nothing more, let what runs finish within ``grace``, release the rest."""
        draining = anyio.Event()
        work = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._rounds, work, draining)
            try:
                await anyio.sleep_forever()
            finally:
                draining.set()
                work.deadline = anyio.current_time() + self.grace.total_seconds()

    async def _rounds(self, work: anyio.CancelScope, draining: anyio.Event) -> None:
        planned_at: datetime | None = None
        with work:
            while not draining.is_set():
                now = self.clock()
                is_time = self.every is not None and not _is_recent(planned_at, now, self.every)
                planned_at = now if is_time else planned_at
                self._tell(await self._round(now, draining, is_time=is_time))
                with anyio.move_on_after(self.poll.total_seconds()):
                    await draining.wait()

    def _tell(self, done: Round) -> None:
        if self.on_round is not None:
            try:
                self.on_round(done)
            except Exception:
                _log.exception("the hook for turns failed; the server goes on")

    async def _round(self, now: datetime, draining: anyio.Event, *, is_time: bool) -> Round:
        """A turn never ends the server: a database that is away for a while is no reason to be restarted."""
        errors: list[Exception] = []
        planned: PlanReport | None = None
        ran: RunReport | None = None
        try:
            planned = await self.plan(now) if is_time else None
        except Exception as error:
            _log.exception("planning for %s failed; the next turn tries again", now)
            errors.append(error)
        try:
            ran = await self.run(now, draining=draining)
        except Exception as error:
            _log.exception("running what is due at %s failed; the next turn tries again", now)
            errors.append(error)
        return Round(now=now, plan=planned, run=ran, errors=tuple(errors))


def _is_recent(then: datetime | None, now: datetime, every: timedelta) -> bool:
    """Whether it was less than ``every`` ago; a moment in the future means that the clock was set back."""
    return then is not None and timedelta(0) <= now - then < every
