"""Each job type of a run has a lane of its own: none waits behind another, and all end together. In virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from attrs import evolve

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.eligibility import Eligibility
from fanout_briefs.engagement import BackoffPolicy
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.held import Handler, Held, Lane
from fanout_briefs.model import Claims, Finish, FollowUp, Job, JobStatus, Occurrence, Preference, Window
from fanout_briefs.screen import Screen
from fanout_briefs.timing import CatchUp, Retrying
from fanout_briefs.worker import Worker
from virtual_time import in_virtual_time

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
LEASE = timedelta(seconds=30)
BRIEF, MAIL = "daily_brief", "generate_brief_email.daily_brief"
Made = tuple[Finish, Sequence[FollowUp]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return in_virtual_time(request.param)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as opened:
        yield opened


def a_job(user_id: str = "ada", kind: str = BRIEF) -> Job:
    occurrence = Occurrence(NINE.date(), NINE)
    window = Window(NINE - timedelta(days=1), NINE)
    return Job(type=kind, user_id=user_id, occurrence=occurrence, run_at=NINE, window=window)


async def queue(storage: MemoryStorage, *jobs: Job) -> None:
    await storage.preferences.put([Preference(user_id=user_id) for user_id in {job.user_id for job in jobs}])
    await storage.enqueue(jobs)


def wall_clock() -> Callable[[], datetime]:
    zero = anyio.current_time()
    return lambda: NINE + timedelta(seconds=anyio.current_time() - zero)


def a_worker(storage: MemoryStorage, brief: Handler, mail: Handler, *, briefs: int = 10, mails: int = 10) -> Worker:
    return Worker(
        work=storage,
        name=BRIEF,
        lanes=[Lane(BRIEF, brief, briefs, Retrying()), Lane(MAIL, mail, mails, Retrying())],
        screen=Screen(
            name=BRIEF,
            preferences=storage.preferences,
            eligibility=Eligibility(None, storage, BackoffPolicy()),
            max_lateness=timedelta(hours=12),
            catch_up=CatchUp.LATEST,
        ),
        is_unsettled=lambda job: False,
        lease=LEASE,
        clock=wall_clock(),
    )


async def make(held: Held) -> Made:
    """Make a brief that leaves a mail."""
    mail = a_job(held.job.user_id, MAIL)
    return Finish(status=JobStatus.COMPLETED), [FollowUp(mail, b"payload")]


async def end(held: Held) -> Made:
    return Finish(status=JobStatus.COMPLETED), ()


def taking(seconds: float, then: Handler) -> Handler:
    async def take(held: Held) -> Made:
        await anyio.sleep(seconds)
        return await then(held)

    return take


class TestSideBySide:
    async def test_a_mail_does_not_wait_behind_briefs(self, storage: MemoryStorage) -> None:
        mailed = anyio.Event()

        async def wait_for_the_first_mail(held: Held) -> Made:
            if held.job.user_id != "user-0":
                await mailed.wait()
            return await make(held)

        async def send(held: Held) -> Made:
            mailed.set()
            return await end(held)

        await queue(storage, *(a_job(f"user-{number}") for number in range(20)))

        with anyio.fail_after(60):
            report = await a_worker(storage, wait_for_the_first_mail, send, briefs=1).run(NINE)

        assert (report.briefs, report.mails) == ({"completed": 20}, {"completed": 20})

    async def test_each_type_has_a_limit_of_its_own_and_uses_it_up(self, storage: MemoryStorage) -> None:
        running, most = Counter[str](), Counter[str]()

        async def count(held: Held) -> Made:
            kind = held.job.type
            running[kind] += 1
            most[kind] = max(most[kind], running[kind])
            await anyio.sleep(1)
            running[kind] -= 1
            return await end(held)

        people = [f"user-{number}" for number in range(20)]
        await queue(storage, *(a_job(user_id, kind) for user_id in people for kind in (BRIEF, MAIL)))

        await a_worker(storage, count, count, briefs=4, mails=2).run(NINE)

        assert most == {BRIEF: 4, MAIL: 2}

    async def test_a_slow_mailer_keeps_no_brief_waiting(self, storage: MemoryStorage) -> None:
        made: list[float] = []

        async def note(held: Held) -> Made:
            made.append(anyio.current_time())
            return await make(held)

        begun = anyio.current_time()
        await queue(storage, *(a_job(f"user-{number}") for number in range(20)))

        report = await a_worker(storage, taking(1, note), taking(100, end), briefs=5, mails=1).run(NINE)

        assert report.mails == {"completed": 20}
        assert max(made) - begun == pytest.approx(4)


class TestTheEnd:
    async def test_the_mail_of_the_last_brief_is_sent_in_the_same_run(self, storage: MemoryStorage) -> None:
        await queue(storage, a_job())

        report = await a_worker(storage, taking(5, make), end).run(NINE)

        assert report.mails == {"completed": 1}

    async def test_the_mail_of_a_brief_that_another_worker_held_is_sent_too(self, storage: MemoryStorage) -> None:
        await queue(storage, a_job())
        other = await storage.claim(NINE, now=NINE, lease=LEASE, limit=1, types=[BRIEF])

        async def finish_elsewhere() -> None:
            await anyio.sleep(10)
            finish, follow_ups = await make(Held(other.claims[0], storage.heartbeat, lane))  # type: ignore[arg-type]
            assert await storage.finish(other.claims[0], finish, follow_ups)

        worker = a_worker(storage, make, end)
        lane = worker.lanes[0]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish_elsewhere)
            report = await worker.run(NINE)
            assert (report.briefs, report.mails) == ({}, {"completed": 1})

    async def test_a_brief_that_a_dead_worker_held_is_made_and_mailed_while_mails_go_on(
        self, storage: MemoryStorage
    ) -> None:
        await queue(storage, a_job("dead"), a_job("ada", MAIL), a_job("bob", MAIL))
        await storage.claim(NINE, now=NINE, lease=LEASE, limit=1, types=[BRIEF])

        report = await a_worker(storage, make, taking(20, end), mails=1).run(NINE)

        assert (report.briefs, report.mails) == ({"completed": 1}, {"completed": 3})

    async def test_a_run_of_one_slot_runs_nothing_else(self, storage: MemoryStorage) -> None:
        await queue(storage, a_job("ada"), a_job("bob"))

        report = await a_worker(storage, make, end).run(NINE, key=a_job("bob").dedup_key)

        assert (report.briefs, report.mails) == ({"completed": 1}, {})


class Failing(MemoryStorage):
    """A storage that cannot claim mails any more, once it is told so."""

    broken = False

    async def claim(self, due_by: datetime, *, types: Collection[str], **more: Any) -> Claims:
        if self.broken and MAIL in types:
            raise StorageUnavailable("the disk is gone")
        return await super().claim(due_by, types=types, **more)


class TestFailures:
    async def test_when_one_lane_breaks_the_others_finish_what_runs_and_begin_nothing_more(
        self, anyio_backend: Any
    ) -> None:
        begun: list[str] = []

        async def note(held: Held) -> Made:
            begun.append(held.job.user_id)
            failing.broken = True
            await anyio.sleep(1)
            return await make(held)

        async with Failing() as failing:
            await queue(failing, *(a_job(f"user-{number}") for number in range(6)))

            with pytest.raises(StorageUnavailable, match="the disk is gone"):
                await a_worker(failing, note, end, briefs=2).run(NINE)

            found = await failing.find([a_job(f"user-{number}").dedup_key for number in range(6)])

        assert 2 <= len(begun) < 6
        assert Counter(job.status for job in found.values()) == {"completed": len(begun), "pending": 6 - len(begun)}

    async def test_a_job_that_may_have_killed_its_workers_runs_with_nothing_of_any_type_beside_it(
        self, storage: MemoryStorage
    ) -> None:
        running: list[str] = []
        beside: list[list[str]] = []

        async def watch(held: Held) -> Made:
            name = f"{held.job.user_id} {held.job.type}"
            if held.is_alone:
                beside.append(list(running))
            running.append(name)
            await anyio.sleep(1)
            if held.is_alone:
                beside.append([other for other in running if other != name])
            running.remove(name)
            return await end(held)

        await queue(storage, *(a_job("suspect", kind) for kind in (BRIEF, MAIL)))
        for attempt in range(3):
            then = NINE - timedelta(hours=3 - attempt)
            await storage.claim(NINE, now=then, lease=LEASE, limit=10, types=[BRIEF, MAIL])
        people = [f"user-{number}" for number in range(8)]
        await queue(storage, *(a_job(user_id, kind) for user_id in people for kind in (BRIEF, MAIL)))

        with anyio.fail_after(600):
            report = await a_worker(storage, watch, watch, briefs=3, mails=2).run(NINE)

        assert beside == [[], [], [], []]
        assert (report.briefs, report.mails) == ({"completed": 9}, {"completed": 9})

    async def test_suspects_of_all_types_take_turns(self, storage: MemoryStorage) -> None:
        jobs = [a_job(f"user-{number}", kind) for number in range(3) for kind in (BRIEF, MAIL)]
        await queue(storage, *jobs)
        for attempt in range(3):
            then = NINE - timedelta(hours=3 - attempt)
            await storage.claim(NINE, now=then, lease=LEASE, limit=10, types=[BRIEF, MAIL])

        with anyio.fail_after(600):
            report = await a_worker(storage, taking(1, end), taking(1, end)).run(NINE)

        assert (report.briefs, report.mails) == ({"completed": 3}, {"completed": 3})


class TestLate:
    async def test_a_late_brief_gives_way_to_one_that_is_due_as_well(self, storage: MemoryStorage) -> None:
        now = NINE + timedelta(days=1, hours=1)
        today = evolve(a_job(), occurrence=Occurrence(now.date(), NINE + timedelta(days=1)))
        await queue(storage, a_job(), today)
        worker = a_worker(storage, end, end)
        worker = evolve(worker, screen=evolve(worker.screen, max_lateness=timedelta(days=7)))

        await worker.run(now)

        found = await storage.find([a_job().dedup_key, today.dedup_key])
        older, newer = found[a_job().dedup_key], found[today.dedup_key]
        assert (older.status, older.code, newer.status) == ("skipped", "newer_occurrence", "completed")
