"""A job held by a worker, its lane, and the jobs that run beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
from attrs import define, evolve, field, frozen
from attrs.validators import ge

from fanout_briefs.model import Claim, Finish, FollowUp, Job, Problem, Progress
from fanout_briefs.runs import Ended
from fanout_briefs.screen import Cleared
from fanout_briefs.timing import Retrying

__all__ = ["Company", "Handler", "Held", "Lane", "Lost"]


class Lost(Exception):
    """The claim is lost, so the work must stop."""


@define(eq=False)
class Held:
    """A claim held by this worker.

    Attributes:
        lane: The lane of the job.
        cleared: What the screen decided to run it with; None for a job that only needs to be ended.
        progress: The latest progress; the next heartbeat records it.
        is_running: Whether its handler has yet to return.
        is_suspect: Whether it waits for everything else to end, because workers that held it died.
        is_alone: Whether nothing else runs beside it.
        problems: What went wrong without costing anything, for the report.
        ended: The outcome, once the job is no longer held; None if it was given back.
    """

    claim: Claim
    _record: Callable[[Held], Awaitable[bool]]
    lane: Lane
    cleared: Cleared | None = None
    progress: Progress | None = None
    is_running: bool = True
    is_suspect: bool = False
    is_alone: bool = False
    problems: list[Problem] = field(factory=list[Problem])
    ended: Ended | None = None
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)

    @property
    def job(self) -> Job:
        """The claimed job."""
        return self.claim.job

    def with_progress(self) -> Claim:
        """The claim with the progress for a heartbeat to record."""
        progress = self.progress
        if self.is_alone:
            progress = evolve(progress or Progress("starting"), alone=True)
        return evolve(self.claim, progress=progress)

    async def record(self, progress: Progress) -> None:
        """Commit a step before the effect it announces.

        Raises:
            Lost: The claim is lost, so the effect must not happen.
        """
        before, self.progress = self.progress, progress
        try:
            is_ours = await self._record(self)
        except BaseException:
            self.progress = before  # Whether or not it was recorded, the effect will not begin.
            raise
        if not is_ours:
            raise Lost


Handler = Callable[[Held], Awaitable[tuple[Finish, Sequence[FollowUp]]]]


@frozen
class Lane:
    """The jobs of one type.

    Attributes:
        type: The job type.
        handler: Runs a held job, and returns its finish and follow-ups.
        concurrency: How many jobs run at once.
        retrying: How failed attempts are retried.
    """

    type: str
    handler: Handler
    concurrency: int = field(validator=ge(1))
    retrying: Retrying


@define(eq=False)
class Company:
    """The jobs that run at once in one process, in one run or in several, so that a suspect can run alone.

    Attributes:
        held: All held claims.
        claiming: How many calls of ``claim`` are under way, whose jobs are not known yet.
        solo: A lock that a suspect holds while it runs.
        stirred: Set when something changes that a task may be waiting for.
    """

    held: set[Held] = field(factory=set[Held])
    claiming: int = 0
    solo: anyio.Lock = field(factory=anyio.Lock)
    stirred: anyio.Event = field(factory=anyio.Event)

    @property
    def is_suspect_alone(self) -> bool:
        """Whether only suspects, which wait for each other, are held."""
        return not self.claiming and all(each.is_suspect for each in self.held)

    def wake(self) -> None:
        """Wake all tasks that wait for a change."""
        stirred, self.stirred = self.stirred, anyio.Event()
        stirred.set()
