"""A claimed job in a worker's hands, the lane that it runs in, and what runs beside it."""

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
    """The claim is no longer ours, so what was being done must stop."""


@define(eq=False)
class Held:
    """A claim in this worker's hands.

    Attributes:
        lane: Whose job it is.
        cleared: What the screen let it run with; None of a job that is only to be ended.
        progress: The latest; the next heartbeat records it.
        is_running: Whether its handler has yet to return.
        is_suspect: Whether it waits for everything else to end, since workers that held it died.
        is_alone: Whether nothing else runs beside it.
        problems: What went wrong with it and cost nothing, for the report.
        ended: What came of it, once it has left these hands other than by being given back.
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
        """The claim as a heartbeat shows it."""
        progress = self.progress
        if self.is_alone:
            progress = evolve(progress or Progress("starting"), alone=True)
        return evolve(self.claim, progress=progress)

    async def record(self, progress: Progress) -> None:
        """Commit a step before the effect it announces.

        Raises:
            Lost: The claim is no longer ours, so the effect must not happen.
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
        handler: What makes a finish of a held job.
        concurrency: How many run side by side.
        retrying: How failed attempts are repeated.
    """

    type: str
    handler: Handler
    concurrency: int = field(validator=ge(1))
    retrying: Retrying


@define(eq=False)
class Company:
    """What runs side by side in one process, in one run or in many, so that a suspect can be left alone.

    Attributes:
        held: All claims in hand.
        claiming: How many claims are being made; who they bring is not known yet.
        solo: Held by a suspect while it runs.
        stirred: Set when something changed that somebody may wait for.
    """

    held: set[Held] = field(factory=set[Held])
    claiming: int = 0
    solo: anyio.Lock = field(factory=anyio.Lock)
    stirred: anyio.Event = field(factory=anyio.Event)

    @property
    def is_suspect_alone(self) -> bool:
        """Whether nothing but suspects, which wait for each other, is in hand."""
        return not self.claiming and all(each.is_suspect for each in self.held)

    def wake(self) -> None:
        """Have everybody look who waits for something to change."""
        stirred, self.stirred = self.stirred, anyio.Event()
        stirred.set()
