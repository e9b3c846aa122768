"""Hands pending jobs to an engine once they are committed, and again if no worker starts them in time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import anyio
from attrs import frozen

from fanout_briefs.model import Change, Claim, Enqueued, Finish, FollowUp, Job, JobRef, JobStatus
from fanout_briefs.ports import CancellingDispatcher, Dispatcher, Storage

__all__ = ["Carrier", "DispatchingStorage"]

_log = logging.getLogger("fanout_briefs")
_PATIENCE = 30.0
"""Seconds that handing over one batch may take: a broker that never answers must not keep a worker from stopping."""
_SHORTEST = timedelta(seconds=1)
_DOUBLINGS = 4
"""How often the wait before the next handover doubles: from the grace to sixteen times as long."""


@frozen(kw_only=True)
class Carrier:
    """Hands jobs over to a dispatcher, within its powers.

    Attributes:
        dispatcher: Carries the jobs to workers.
        grace: How long after its time a job that no worker has started is handed over again; then twice as long, and
            so on.
        clock: The wall clock.
    """

    dispatcher: Dispatcher
    grace: timedelta
    clock: Callable[[], datetime]

    async def tell(self, jobs: Collection[JobRef]) -> None:
        """Hand over the jobs that are within reach by now.

        A failure is only logged: the jobs are committed, and reconciling hands them over again.
        """
        now = self.clock()
        try:
            await self.hand_over([job for job in jobs if self._is_near(job.run_at, now)])
        except Exception:
            _log.exception("%d jobs could not be dispatched; reconciling dispatches them again", len(jobs))

    async def hand_over(self, jobs: Sequence[JobRef]) -> None:
        """Hand over jobs.

        Raises:
            TimeoutError: The dispatcher took too long.
            Exception: Raised by the dispatcher.
        """
        if jobs:
            with anyio.fail_after(_PATIENCE):
                await self.dispatcher.dispatch(jobs)

    async def take_back(self, jobs: Sequence[JobRef]) -> None:
        """Take cancelled jobs back if the dispatcher can.

        A failure is only logged: workers will find the jobs cancelled.
        """
        if not jobs or not self.dispatcher.powers.cancels:
            return
        try:
            with anyio.fail_after(_PATIENCE):
                await cast("CancellingDispatcher", self.dispatcher).cancel(jobs)
        except Exception:
            _log.exception(
                "%d jobs could not be taken back from the engine; workers will find them cancelled", len(jobs)
            )

    def furthest(self, now: datetime) -> datetime:
        """Return the latest ``run_at`` of jobs that may have to be handed over at ``now``."""
        ahead = self.dispatcher.powers.schedules
        return now if ahead == timedelta.max else now + ahead

    def is_wanted(self, run_at: datetime, now: datetime, last: datetime | None) -> bool:
        """Whether to hand over a pending job at ``now``, if the previous check was at ``last``.

        A job is handed over when it comes within the engine's reach, and again each time its lateness doubles: lost
        jobs are soon recovered, and jobs that merely wait long do not fill the engine with copies.
        """
        if last is None:
            return self._times(run_at, now) > 0 or (self._has_reach and self._is_near(run_at, now))
        came_near = self._has_reach and self._is_near(run_at, now) and not self._is_near(run_at, last)
        return came_near or self._times(run_at, now) > self._times(run_at, last)

    @property
    def every(self) -> timedelta:
        """How often to look for jobs to hand over again, or that come within reach."""
        reach = self.dispatcher.powers.schedules
        return max(min(self.grace, reach) / 2, _SHORTEST)

    @property
    def _has_reach(self) -> bool:
        return self.dispatcher.powers.schedules != timedelta.max

    def _is_near(self, run_at: datetime, now: datetime) -> bool:
        return not self._has_reach or run_at <= self.furthest(now)

    def _times(self, run_at: datetime, now: datetime) -> int:
        """How often a job that no worker has started should have been handed over again by now."""
        graces = (now - run_at) // self.grace
        longest = 2**_DOUBLINGS
        return max(graces, 0).bit_length() if graces < longest else _DOUBLINGS + graces // longest


class DispatchingStorage:
    """A storage that passes every job that becomes pending on to a carrier; otherwise it behaves like the original."""

    def __init__(self, storage: Storage, carrier: Carrier) -> None:
        self._storage = storage
        self._carrier = carrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """As the storage does."""
        outcomes = await self._storage.enqueue(jobs)
        made = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome in _MADE]
        await self._tell(made)
        return outcomes

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        """As the storage does."""
        moved = await self._storage.change(keys, change)
        if moved and change is not Change.CANCEL:
            await self._tell((await self._storage.find(moved)).values())
        return moved

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        """As the storage does."""
        is_kept = await self._storage.finish(claim, finish, follow_ups)
        if is_kept:
            await self._tell(follow_up.job for follow_up in follow_ups)
        return is_kept

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        """As the storage does."""
        is_kept = await self._storage.retry(claim, at, error, counted=counted)
        if is_kept:
            await self._carrier.tell([JobRef(claim.job.dedup_key, claim.job.type, at)])
        return is_kept

    async def release(self, claims: Collection[Claim]) -> None:
        """As the storage does."""
        await self._storage.release(claims)
        await self._carrier.tell([JobRef.of(claim.job, again=True) for claim in claims])

    async def _tell(self, jobs: Any) -> None:
        await self._carrier.tell([JobRef.of(job) for job in jobs if job.status is JobStatus.PENDING])


_MADE = (Enqueued.CREATED, Enqueued.TAKEN_UP)
