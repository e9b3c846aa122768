"""Runs single jobs that an engine delivered, and reports the outcome of each."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import anyio
from attrs import define

from fanout_briefs.batching import Batcher
from fanout_briefs.engine import JobOutcome, JobRun
from fanout_briefs.held import Held, Lane
from fanout_briefs.model import Claims, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.running import Run
from fanout_briefs.runs import Ended
from fanout_briefs.worker import Worker

__all__ = ["SingleJobs"]

_MOST: Final = 100
"""The most jobs to claim with one statement when several are asked for at the same time."""


@define(eq=False)
class SingleJobs:
    """Runs jobs by their keys, any number at once.

    Attributes:
        storage: The ledger, which decides whether a job may run.
        worker: Runs the jobs.
    """

    storage: Storage
    worker: Worker
    _shift: _Shift | None = None
    _running: int = 0

    async def run(self, key: str, draining: anyio.Event | None) -> JobRun:
        """See ``Briefs.run_job``."""
        lane = self.worker.lane_of(key)
        if draining is not None and draining.is_set():
            # Not claimed, so the ledger does not hand it over again: the engine has to deliver the message again.
            return JobRun(key=key, outcome=JobOutcome.RELEASED, again_at=self.worker.clock())
        with self._on_shift() as shift:
            got = await shift.run(lane, key, draining or anyio.Event())
        return _ran(key, got) if isinstance(got, Ended) else await self._not_run(key, got)

    @contextmanager
    def _on_shift(self) -> Generator[_Shift]:
        # A shift belongs to the event loop of its jobs, and ends with the last of them.
        shift = self._shift = self._shift or _Shift(self.worker)
        self._running += 1
        try:
            yield shift
        finally:
            self._running -= 1
            if not self._running:
                self._shift = None

    async def _not_run(self, key: str, got: Claims) -> JobRun:
        now = self.worker.clock()
        later = now + self.worker.lease
        if got.held_until is not None:
            return JobRun(key=key, outcome=JobOutcome.TAKEN, status=JobStatus.PROCESSING, again_at=got.held_until)
        job = (await self.storage.find([key])).get(key)
        if job is None:
            return JobRun(key=key, outcome=JobOutcome.MISSING)
        outcome, again_at = JobOutcome.DONE, None
        if job.status is JobStatus.PROCESSING:
            outcome, again_at = JobOutcome.TAKEN, later
        elif job.status in (JobStatus.CANCELLED, JobStatus.SKIPPED):
            outcome = JobOutcome.CANCELLED
        elif job.status is JobStatus.PENDING and got.claims:
            outcome = JobOutcome.RELEASED  # The ledger hands it over again.
        elif job.status is JobStatus.PENDING and job.run_at > now:
            outcome, again_at = JobOutcome.NOT_DUE, job.run_at
        elif job.status is JobStatus.PENDING:
            is_paused = job.type in await self.storage.paused([job.type])
            outcome, again_at = (JobOutcome.PAUSED, None) if is_paused else (JobOutcome.BLOCKED, later)
        return JobRun(key=key, outcome=outcome, status=job.status, again_at=again_at, detail=job.error or job.reason)


def _ran(key: str, ended: Ended) -> JobRun:
    outcome = JobOutcome.LOST if ended.status is None else JobOutcome.RAN
    return JobRun(key=key, outcome=outcome, status=ended.status, detail=ended.detail)


class _Shift:
    """Single jobs that run at the same time. Each runs in its own task, but they claim their jobs together."""

    def __init__(self, worker: Worker) -> None:
        self._run = Run(worker, worker.clock, worker.clock, lambda _: None, anyio.Event())
        # A claim that takes longer than its lease is worthless.
        patience = worker.lease.total_seconds()
        self._taking = {
            lane.type: Batcher(partial(self._take, lane), _MOST, self._give_back, patience) for lane in worker.lanes
        }

    async def run(self, lane: Lane, key: str, draining: anyio.Event) -> Ended | Claims:
        """Run one job if it can be claimed right now, without waiting.

        Returns:
            The outcome; or, if the job could not be claimed or was given back, the answer to the claim.
        """
        got = await self._taking[lane.type](key)
        if isinstance(got, Claims):
            return got
        if got.ended is None:
            await self._run.carry_out(got, draining)
        return got.ended or Claims([got.claim])

    async def _take(self, lane: Lane, keys: Sequence[str]) -> Mapping[str, Held | Claims]:
        held, got = await self._run.take(lane, keys)
        taken: dict[str, Held | Claims] = {each.job.dedup_key: each for each in held}
        for key in keys:
            if key not in taken:
                # held_until applies to all requested keys together, so ask for this key alone.
                taken[key] = got if len(keys) == 1 else (await self._take(lane, [key]))[key]
        return taken

    async def _give_back(self, got: Held | Claims) -> None:
        await self._run.give_back([got] if isinstance(got, Held) else [])
