"""Runs single jobs that an engine carried here, and says of each what came of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio
from attrs import define

from fanout_briefs.engine import JobOutcome, JobRun
from fanout_briefs.held import Company
from fanout_briefs.model import Claims, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.runs import Ended
from fanout_briefs.worker import Worker

__all__ = ["Errands"]


@define(eq=False)
class Errands:
    """Runs jobs by their keys, any number beside each other.

    Attributes:
        storage: The ledger, which decides whether a job is to be run.
        worker: Runs it.
    """

    storage: Storage
    worker: Worker
    _company: Company | None = None
    _running: int = 0

    async def run(self, key: str, draining: anyio.Event | None) -> JobRun:
        """See ``Briefs.run_job``."""
        with self._in_company() as company:
            got = await self.worker.run_one(key, company, draining)
        return _ran(key, got) if isinstance(got, Ended) else await self._not_run(key, got)

    @contextmanager
    def _in_company(self) -> Generator[Company]:
        # It belongs to the event loop of those who are in it, and goes with the last of them.
        company = self._company = self._company or Company()
        self._running += 1
        try:
            yield company
        finally:
            self._running -= 1
            if not self._running:
                self._company = None

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
            outcome = JobOutcome.RELEASED  # The ledger hands it over anew.
        elif job.status is JobStatus.PENDING and job.run_at > now:
            outcome, again_at = JobOutcome.NOT_DUE, job.run_at
        elif job.status is JobStatus.PENDING:
            is_paused = job.type in await self.storage.paused([job.type])
            outcome, again_at = (JobOutcome.PAUSED, None) if is_paused else (JobOutcome.BLOCKED, later)
        return JobRun(key=key, outcome=outcome, status=job.status, again_at=again_at, detail=job.error or job.reason)


def _ran(key: str, ended: Ended) -> JobRun:
    outcome = JobOutcome.LOST if ended.status is None else JobOutcome.RAN
    return JobRun(key=key, outcome=outcome, status=ended.status, detail=ended.detail)
