"""One job that an engine carried: run if the ledger says so, and else the reason, at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from fanout_briefs import Briefs, JobOutcome, JobRun, JobStatus, Preference, ProjectBrief, RetryLater, SectionRequest
from fanout_briefs.model import Change, Job, SkipReason
from fanout_briefs.testing import Clock
from hosts import Host, Provider
from services import STORAGES, make_storage
from slots import HOUR, NOW, AnyStorage, job

LEASE = timedelta(seconds=30)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStorage]:
    async with make_storage(request, tmp_path) as opened:
        await opened.preferences.put([Preference(user_id="ann"), Preference(user_id="bo")])
        yield opened


def the_briefs(storage: AnyStorage, clock: Clock, host: Host | None = None, **more: Any) -> Briefs:
    host = Host() if host is None else host
    wired: dict[str, Any] = {"recipients": host, "mailer": Provider(), "clock": clock, "lease": LEASE} | more
    return Briefs(storage, name="daily", projects=host, generator=host, **wired)


async def answer(storage: AnyStorage, clock: Clock, key: str = job().dedup_key) -> tuple[JobOutcome, Any, Any]:
    host = Host()
    run = await the_briefs(storage, clock, host).run_job(key)
    assert not host.requests
    return run.outcome, run.status, run.again_at


async def test_a_due_job_is_run_to_its_end_and_its_mail_waits_for_its_own_time(
    storage: AnyStorage, clock: Clock
) -> None:
    provider = Provider()
    briefs = the_briefs(storage, clock, mailer=provider)
    await storage.enqueue([job()])
    run = await briefs.run_job(job().dedup_key)
    assert run == JobRun(key="daily:2026-03-02:ann", outcome=JobOutcome.RAN, status=JobStatus.COMPLETED)
    assert await storage.brief("daily", "ann") is not None
    mail = "generate_brief_email.daily:2026-03-02:ann"
    assert (await briefs.run_job(mail)).outcome is JobOutcome.NOT_DUE
    clock.now += HOUR
    assert (await briefs.run_job(mail)).status is JobStatus.COMPLETED
    assert provider.calls.total() == 1


async def test_what_is_not_to_be_run_is_answered_with_the_reason_and_when_to_come_again(
    storage: AnyStorage, clock: Clock
) -> None:
    assert await answer(storage, clock) == (JobOutcome.MISSING, None, None)
    soon = NOW + timedelta(minutes=5)
    await storage.enqueue([job(run_at=soon)])
    assert await answer(storage, clock) == (JobOutcome.NOT_DUE, JobStatus.PENDING, soon)
    clock.now = soon
    await storage.pause(["daily"], soon)
    assert await answer(storage, clock) == (JobOutcome.PAUSED, JobStatus.PENDING, None)
    await storage.resume(["daily"], since=NOW)
    await storage.claim(soon, now=soon, lease=LEASE, limit=1, types=["daily"])
    assert await answer(storage, clock) == (JobOutcome.TAKEN, JobStatus.PROCESSING, soon + LEASE)
    clock.now = NOW  # A run that was made for a later moment holds it.
    assert await answer(storage, clock) == (JobOutcome.TAKEN, JobStatus.PROCESSING, NOW + LEASE)


async def test_a_later_slot_waits_until_the_earlier_one_of_the_user_has_ended(
    storage: AnyStorage, clock: Clock
) -> None:
    await storage.enqueue([job(day=-1, run_at=NOW + HOUR), job()])
    assert await answer(storage, clock) == (JobOutcome.BLOCKED, JobStatus.PENDING, NOW + LEASE)
    await storage.change([job(day=-1).dedup_key], Change.CANCEL)
    assert await answer(storage, clock, job(day=-1).dedup_key) == (JobOutcome.CANCELLED, JobStatus.CANCELLED, None)
    assert (await the_briefs(storage, clock).run_job(job().dedup_key)).outcome is JobOutcome.RAN


async def test_a_job_that_is_delivered_twice_is_run_once(storage: AnyStorage, clock: Clock) -> None:
    host = Host(projects=1)
    briefs = the_briefs(storage, clock, host)
    await storage.enqueue([job()])
    runs: list[JobRun] = []

    async def run() -> None:
        runs.append(await briefs.run_job(job().dedup_key))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(run)
    assert [run.outcome for run in runs].count(JobOutcome.RAN) == 1
    assert {run.outcome for run in runs} <= {JobOutcome.RAN, JobOutcome.TAKEN, JobOutcome.DONE}
    assert len(host.requests) == 1
    assert await answer(storage, clock) == (JobOutcome.DONE, JobStatus.COMPLETED, None)


async def test_a_job_that_asks_to_come_later_is_put_off_in_the_ledger(storage: AnyStorage, clock: Clock) -> None:
    def later(request: SectionRequest) -> ProjectBrief | None:
        raise RetryLater(90)

    briefs = the_briefs(storage, clock, Host(later))
    await storage.enqueue([job()])
    run = await briefs.run_job(job().dedup_key)
    assert (run.outcome, run.status, run.again_at) == (JobOutcome.RAN, JobStatus.PENDING, None)
    put_off = (await storage.find([job().dedup_key]))[job().dedup_key]
    assert (put_off.run_at, put_off.attempts) == (NOW + timedelta(seconds=90), 0)


async def test_a_job_that_no_longer_matches_is_told_as_it_ended(storage: AnyStorage, clock: Clock) -> None:
    await storage.preferences.put([Preference(user_id="ann", is_active=False)])
    await storage.enqueue([job()])
    run = await the_briefs(storage, clock).run_job(job().dedup_key)
    assert (run.outcome, run.status) == (JobOutcome.RAN, JobStatus.CANCELLED)
    stored = (await storage.find([job().dedup_key]))[job().dedup_key]
    assert stored.code is SkipReason.SUPERSEDED


async def test_a_worker_that_is_stopping_gives_the_job_back(storage: AnyStorage, clock: Clock) -> None:
    await storage.enqueue([job()])
    draining = anyio.Event()
    host = Host()

    def stop(user_ids: object) -> None:
        draining.set()

    briefs = the_briefs(storage, clock, host, preferences=Watched(storage, stop))
    run = await briefs.run_job(job().dedup_key, draining=draining)
    assert (run.outcome, run.status, run.again_at) == (JobOutcome.RELEASED, JobStatus.PENDING, None)
    assert not host.requests
    assert (await storage.find([job().dedup_key]))[job().dedup_key].attempts == 0


class Watched:
    """The storage's own preferences, which tell when they are read."""

    def __init__(self, storage: AnyStorage, tell: Callable[[object], object]) -> None:
        self._inner, self._tell = storage.preferences, tell

    async def page(self, cursor: str | None, limit: int) -> Any:
        return await self._inner.page(cursor, limit)

    async def get(self, user_ids: Any) -> Any:
        self._tell(user_ids)
        return await self._inner.get(user_ids)


async def test_a_cancelled_call_gives_the_job_back(storage: AnyStorage, clock: Clock) -> None:
    await storage.enqueue([job()])
    scope = anyio.CancelScope()

    def stop(request: SectionRequest) -> ProjectBrief | None:
        scope.cancel()
        return None

    with scope:
        await the_briefs(storage, clock, Host(stop)).run_job(job().dedup_key)
    assert scope.cancelled_caught
    stored = (await storage.find([job().dedup_key]))[job().dedup_key]
    assert (stored.status, stored.attempts) == (JobStatus.PENDING, 0)


async def test_a_job_that_is_given_back_and_at_once_claimed_again_is_in_the_hands_of_the_second(
    storage: AnyStorage, clock: Clock
) -> None:
    """An engine delivers what was given back before its giving back has ended, in the same process."""
    scopes, given_back, may_end = [anyio.CancelScope(), anyio.CancelScope()], anyio.Event(), anyio.Event()
    runs: list[JobRun] = []

    class Released:
        async def release(self, claims: Sequence[Any]) -> None:
            await storage.release(claims)
            given_back.set()
            await may_end.wait()

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

    class Slow(Host):
        async def generate(self, request: SectionRequest) -> ProjectBrief | None:
            scopes[0].cancel()
            if given_back.is_set():
                may_end.set()
                await anyio.wait_all_tasks_blocked()
            return await super().generate(request)

    await storage.enqueue([job()])
    briefs = the_briefs(Released(), clock, Slow(projects=1))  # type: ignore[arg-type]  # by delegation

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            runs.append(await briefs.run_job(job().dedup_key))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, scopes[0])
        await given_back.wait()
        tasks.start_soon(run, scopes[1])
    assert [(done.outcome, done.status) for done in runs] == [(JobOutcome.RAN, JobStatus.COMPLETED)]
    mail = "generate_brief_email.daily:2026-03-02:ann"
    clock.now += HOUR
    assert (await briefs.run_job(mail)).status is JobStatus.COMPLETED


async def a_suspect_and_another(storage: AnyStorage, clock: Clock) -> tuple[Job, Job]:
    """Two jobs, of which the first one's workers kept dying."""
    suspect, other = job(), job("bo")
    await storage.enqueue([suspect, other])
    for _ in range(6):
        claims = await storage.claim(
            clock.now, now=clock.now, lease=LEASE, limit=1, types=["daily"], keys=[suspect.dedup_key]
        )
        assert claims.claims
        clock.now += LEASE
    return suspect, other


async def test_a_job_that_waits_to_run_alone_is_given_back_by_a_worker_that_is_stopping(
    storage: AnyStorage, clock: Clock
) -> None:
    suspect, other = await a_suspect_and_another(storage, clock)
    may_end, began, draining = anyio.Event(), anyio.Event(), anyio.Event()

    class Slow(Host):
        async def generate(self, request: SectionRequest) -> ProjectBrief | None:
            began.set()
            await may_end.wait()
            return ProjectBrief("text")

    briefs = the_briefs(storage, clock, Slow(projects=1))
    runs: list[JobRun] = []

    async def run() -> None:
        runs.append(await briefs.run_job(suspect.dedup_key, draining=draining))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(briefs.run_job, other.dedup_key)
        await began.wait()
        tasks.start_soon(run)
        while (await storage.find([suspect.dedup_key]))[suspect.dedup_key].status is not JobStatus.PROCESSING:
            await anyio.lowlevel.checkpoint()
        draining.set()
        while not runs:
            await anyio.lowlevel.checkpoint()
        may_end.set()
    assert [run.outcome for run in runs] == [JobOutcome.RELEASED]


async def test_a_job_whose_workers_keep_dying_runs_with_nothing_beside_it_in_the_process(
    storage: AnyStorage, clock: Clock
) -> None:
    suspect, other = await a_suspect_and_another(storage, clock)
    running: list[str] = []
    most: list[Sequence[str]] = []
    began = anyio.Event()

    class Slow(Host):
        async def generate(self, request: SectionRequest) -> ProjectBrief | None:
            running.append(request.user_id)
            most.append(tuple(running))
            began.set()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            running.remove(request.user_id)
            return ProjectBrief("text")

    briefs = the_briefs(storage, clock, Slow(projects=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(briefs.run_job, other.dedup_key)
        await began.wait()
        tasks.start_soon(briefs.run_job, suspect.dedup_key)
    assert most == [("bo",), ("ann",)]
    stored = await storage.find([suspect.dedup_key])
    assert stored[suspect.dedup_key].status is JobStatus.COMPLETED


async def test_a_job_of_another_kind_is_refused(storage: AnyStorage, clock: Clock) -> None:
    briefs = the_briefs(storage, clock)
    assert briefs.job_types == {"daily": 10, "generate_brief_email.daily": 5}
    with pytest.raises(ValueError, match=r"key='weekly:2026-03-02:ann': is no job of 'daily' or 'generate_brief_em"):
        await briefs.run_job("weekly:2026-03-02:ann")


class Failing:
    """A storage in which nothing can be ended."""

    def __init__(self, storage: AnyStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def finish(self, *given: Any, **more: Any) -> bool:
        raise OSError("nothing can be written")


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_job_whose_end_cannot_be_recorded_is_given_back(
    storage: AnyStorage, clock: Clock, is_wanted: bool
) -> None:
    await storage.enqueue([job()])
    await storage.preferences.put([Preference(user_id="ann", is_active=is_wanted)])
    failing: Any = Failing(storage)
    with pytest.raises(OSError, match="nothing can be written"):
        await the_briefs(failing, clock, Host()).run_job(job().dedup_key)
    slot = (await storage.find([job().dedup_key]))[job().dedup_key]
    assert (slot.status, slot.attempts) == (JobStatus.PENDING, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_claimed_for_somebody_whom_asyncio_has_cancelled_is_given_back(
    storage: AnyStorage, clock: Clock
) -> None:
    await storage.preferences.put([Preference(user_id="cy")])
    keys = [job(name).dedup_key for name in ("ann", "bo", "cy")]
    await storage.enqueue([job(name) for name in ("ann", "bo", "cy")])

    def cancel(user_ids: Any) -> None:
        if "cy" in user_ids:
            tasks[2].cancel()

    briefs = the_briefs(storage, clock, Host(), preferences=Watched(storage, cancel))
    tasks = [asyncio.create_task(briefs.run_job(key)) for key in keys]
    assert [(await task).outcome for task in tasks[:2]] == [JobOutcome.RAN, JobOutcome.RAN]
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    assert (await storage.find(keys))[keys[2]].status is JobStatus.PENDING
