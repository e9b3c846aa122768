"""Runs due jobs, until none is left or as they become due, and puts back jobs of dead workers.

How a job is claimed, run and finished is in ``running``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import anyio

from fanout_briefs.held import Lane
from fanout_briefs.model import Job, JobStatus
from fanout_briefs.running import Run, RunContext, last_word
from fanout_briefs.runs import Ended, RunReport, RunTally

__all__ = ["Worker"]


class Worker(RunContext):
    """Runs the jobs of one brief, until none is due or until told to stop."""

    async def run(
        self,
        due_by: datetime,
        on_ended: Callable[[Ended], object] | None = None,
        *,
        draining: anyio.Event | None = None,
        key: str | None = None,
    ) -> RunReport:
        """Run jobs until none is due, including those that running jobs enqueue and those whose worker dies meanwhile.

        Args:
            due_by: The moment of the schedule up to which jobs are due.
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.
            draining: Once it is set, no further job is started: running ones are finished, the others released.
            key: Run only this slot.

        Raises:
            Exception: Raised by the storage or ``on_ended``; held jobs are released first if possible.
        """
        tally, begun = RunTally(self.name), self.clock()

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
        """Run jobs as they become due by the wall clock, until ``draining`` is set and running jobs have ended.

        Args:
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.
            draining: As for ``run``.
            poll: How often to look for jobs that this worker does not know of.

        Raises:
            Exception: As for ``run``.
        """
        await Run(self, self.clock, self.clock, on_ended, draining, poll=poll).to_the_end()

    def lane_of(self, key: str) -> Lane:
        """Return the lane in which a job runs.

        Raises:
            ValueError: No lane runs jobs of this type.
        """
        for lane in self.lanes:
            if key.startswith(f"{lane.type}:"):
                return lane
        types = " or ".join(repr(lane.type) for lane in self.lanes)
        raise ValueError(f"key={key!r}: is no job of {types}, which are what is run here")

    async def take_back(self, job: Job, now: datetime) -> JobStatus | None:
        """Put back a job whose lease has ended, or end it if it must not run again.

        Returns:
            The new status; None if the job is held, waits behind another, or was taken up meanwhile.
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
