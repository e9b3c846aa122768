"""Code shared by the engine adapters: what they run, and how a worker keeps briefs open."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Protocol, cast

import anyio

from fanout_briefs.arguments import bad_spans
from fanout_briefs.engine import JobRun
from fanout_briefs.errors import BadValue
from fanout_briefs.model import JobRef

__all__ = ["JobRunner", "Opener", "bad_priorities", "bad_spans_of", "distinct", "dividing_a_minute"]

_CHUNK: Final = 10_000
_PRIORITIES: Final = range(-(2**31), 2**31 - 1)
"""Of a column of 32 bits; the largest number is left to jobs that are handed over again, which are one ahead."""


class JobRunner(Protocol):
    """The part of ``Briefs`` that an engine's worker needs."""

    @property
    def name(self) -> str:
        """The job type of the briefs."""
        ...

    @property
    def lease(self) -> timedelta:
        """How long a claim outlives a dead worker."""
        ...

    @property
    def horizon(self) -> timedelta:
        """The longest time between two plans."""
        ...

    @property
    def job_types(self) -> Mapping[str, int]:
        """The job types to run."""
        ...

    async def run_job(self, key: str, *, draining: anyio.Event | None = None) -> JobRun:
        """Run one job, or report why it did not run."""
        ...

    async def plan(self, now: datetime) -> object:
        """Queue what is due."""
        ...

    async def reconcile(self, now: datetime, *, last: datetime) -> object:
        """Recover jobs that were left behind or lost."""
        ...

    async def serve(self, *, every: timedelta | None, work: bool) -> object:
        """Plan and reconcile until cancelled."""
        ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> object: ...


def bad_priorities(given: object, allowed: range = _PRIORITIES) -> Iterator[BadValue | str]:
    """Yield what cannot be priorities by job type; None is accepted."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        yield BadValue("priorities", given, "must be a mapping of integers by job type, or None")
        return
    for kind, priority in cast("Mapping[object, object]", given).items():
        if not isinstance(priority, int) or priority not in allowed:
            must = f"must be an integer from {allowed[0]} to {allowed[-1]}"
            yield f"priorities[{kind!r}]={priority!r}: {must}"


def bad_spans_of(briefs: JobRunner, *, every: object, grace: object) -> Iterator[BadValue]:
    """Yield what a worker cannot use as the interval between plans and as the time that running jobs have to finish."""
    yield from bad_spans({"every": every}, least=timedelta(microseconds=1), most=briefs.horizon, may_be_none=True)
    yield from bad_spans({"grace": grace})


def distinct(jobs: Sequence[JobRef]) -> Generator[list[JobRef]]:
    """Yield the jobs in chunks, without duplicates, in an order that concurrent inserts share."""
    by_id = {job.id: job for job in jobs}
    ordered = [by_id[key] for key in sorted(by_id)]
    for begin in range(0, len(ordered), _CHUNK):
        yield ordered[begin : begin + _CHUNK]


class Opener:
    """Keeps briefs open in the event loop of an engine's worker, which offers no place for that.

    Otherwise each job would have to open its own connections.
    """

    def __init__(self, briefs: JobRunner) -> None:
        self._briefs = briefs
        self._holder: _Holder | None = None

    async def open(self) -> None:
        """Open the briefs until this event loop ends, which cancels its remaining tasks.

        Raises:
            Exception: Opening failed; the next call tries again.
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
    """Return the largest whole number of seconds, at most ``longest``, that divides a minute; at least one."""
    fitting = (each for each in range(1, 31) if 60 % each == 0 and each <= longest.total_seconds())
    return timedelta(seconds=max(fitting, default=1))
