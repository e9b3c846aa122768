"""What adapters for engines share: what they run, and how a worker keeps briefs open."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Protocol

import anyio

from fanout_briefs.engine import JobRun
from fanout_briefs.model import JobRef

__all__ = ["JobRunner", "Opener", "distinct", "dividing_a_minute"]

_CHUNK: Final = 10_000


class JobRunner(Protocol):
    """What a worker of an engine needs of ``Briefs``."""

    @property
    def name(self) -> str:
        """The job type of the briefs."""
        ...

    @property
    def lease(self) -> timedelta:
        """How long a claim outlives a worker that died."""
        ...

    @property
    def job_types(self) -> Mapping[str, int]:
        """The types of its jobs."""
        ...

    async def run_job(self, key: str, *, draining: anyio.Event | None = None) -> JobRun:
        """Run one job, or say why not."""
        ...

    async def plan(self, now: datetime) -> object:
        """Queue what is due."""
        ...

    async def reconcile(self, now: datetime, *, last: datetime) -> object:
        """Put right what was left behind or lost."""
        ...

    async def serve(self, *, every: timedelta | None, work: bool) -> object:
        """Plan and reconcile until cancelled."""
        ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> object: ...


def distinct(jobs: Sequence[JobRef]) -> Generator[list[JobRef]]:
    """Give each message once, in one order for all who insert at the same time, in chunks."""
    by_id = {job.id: job for job in jobs}
    ordered = [by_id[key] for key in sorted(by_id)]
    for begin in range(0, len(ordered), _CHUNK):
        yield ordered[begin : begin + _CHUNK]


class Opener:
    """Keeps briefs open in the event loop of an engine's worker, which has no place of its own for that.

    A job that finds them closed would have to connect for itself alone.
    """

    def __init__(self, briefs: JobRunner) -> None:
        self._briefs = briefs
        self._holder: _Holder | None = None

    async def open(self) -> None:
        """Have them open until this event loop ends, which cancels what is left in it.

        Raises:
            Exception: What opening raised; the next call tries again.
        """
        holder = self._holder
        if holder is None or holder.task.done() or holder.task.get_loop() is not asyncio.get_running_loop():
            holder = self._holder = _Holder(self._briefs)
        await asyncio.wait([holder.task, holder.opened], return_when=asyncio.FIRST_COMPLETED)
        if holder.task.done():
            holder.task.result()


class _Holder:
    def __init__(self, briefs: JobRunner) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.task = loop.create_task(self._hold(briefs), name="fanout_briefs keeps its storage open")

    async def _hold(self, briefs: JobRunner) -> None:
        async with briefs:
            self.opened.set_result(None)
            await asyncio.Event().wait()


def dividing_a_minute(longest: timedelta) -> timedelta:
    """Give the longest whole seconds that divide a minute and are not longer; at least one."""
    fitting = (each for each in range(1, 31) if 60 % each == 0 and each <= longest.total_seconds())
    return timedelta(seconds=max(fitting, default=1))
