"""Runs due jobs: until none is left, as they become due, or puts back one that a dead worker left.

How a job is claimed, run and handed in stands in ``running``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import anyio

from fanout_briefs.held import Lane
from fanout_briefs.model import Job, JobStatus
from fanout_briefs.running import Means, Run, last_word
from fanout_briefs.runs import Ended, RunReport, Tally

__all__ = ["Worker"]


class Worker(Means):
    """Runs the jobs of one brief, as long as there are any, or for as long as it is wanted."""

    async def run(
        self,
        due_by: datetime,
        on_ended: Callable[[Ended], object] | None = None,
        *,
        draining: anyio.Event | None = None,
        key: str | None = None,
    ) -> RunReport:
        """Run jobs until none is due, also those that running ones enqueue, and those whose holder dies meanwhile.

        Args:
            due_by: The moment of the schedule up to which jobs are due.
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.
            draining: Once it is set, no further job is begun: what runs is finished, the rest is released.
            key: Runs this one slot only.

        Raises:
            Exception: What the storage or ``on_ended`` raises; jobs in hand are released first where that works.
        """
        tally, begun = Tally(self.name), self.clock()

        def note(ended: Ended) -> None:
            tally.note(ended)
            if on_ended is not None:
                on_ended(ended)

        def now() -> datetime:
            return due_by + max(self.clock() - begun, timedelta(0))

        run = Run(self, lambda: due_by, now, note, draining or anyio.Event(), key=key)
        await run.to_the_end()
        return tally.report(due_by)

    async def serve(self, on_ended: Callable[[Ended], object], *, draining: anyio.Event, poll: timedelta) -> None:
        """Run what is due by the wall clock, as it becomes due, until ``draining`` is set and what runs has ended.

        Args:
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.
            draining: As for ``run``.
            poll: How often to look for jobs that nothing here has announced.

        Raises:
            Exception: As ``run`` does.
        """
        await Run(self, self.clock, self.clock, on_ended, draining, poll=poll).to_the_end()

    def lane_of(self, key: str) -> Lane:
        """Give the lane in which a job is run.

        Raises:
            ValueError: No lane runs jobs of this type.
        """
        for lane in self.lanes:
            if key.startswith(f"{lane.type}:"):
                return lane
        types = " or ".join(repr(lane.type) for lane in self.lanes)
        raise ValueError(f"key={key!r}: is no job of {types}, which are what is run here")

    async def take_back(self, job: Job, now: datetime) -> JobStatus | None:
        """Put back a job whose lease ended, or end it where running it again would be wrong.

        Returns:
            What it is now; None if it is held, waits behind another, or was taken up meanwhile.
        """
        got = await self.work.claim(
            job.run_at, now=now, lease=self.lease, limit=1, types=[job.type], keys=[job.dedup_key]
        )
        for claim in got.claims:
            finish = last_word(claim.job, is_unsettled=self.is_unsettled(claim.job))
            if finish is None:
                await self.work.release([claim])
                return JobStatus.PENDING
            return finish.status if await self.work.finish(claim, finish) else None
        return None
