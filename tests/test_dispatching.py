"""What becomes pending is handed to a dispatcher, once it is committed; what is lost there is handed over again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from fanout_briefs import Briefs, DispatcherPowers, JobRef, JobStatus, Preference, RetryLater
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.dispatching import Carrier, DispatchingStorage
from fanout_briefs.model import Change, Finish, FollowUp
from fanout_briefs.serve import Round
from hosts import Host, Provider
from services import STORAGES, Schema, make_storage
from slots import DAY, HOUR, NOW, AnyStorage, claim, job

MINUTE = timedelta(minutes=1)
NINE = NOW + HOUR
BRIEF, MAIL = "daily_brief:2026-03-02:ann", "generate_brief_email.daily_brief:2026-03-02:ann"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Engine:
    """An engine that keeps what it is given, until somebody takes it."""

    def __init__(self, powers: DispatcherPowers | None = None) -> None:
        self.powers = powers or DispatcherPowers()
        self.waiting: list[JobRef] = []
        self.cancelled: list[JobRef] = []
        self.is_away = False

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        if self.is_away:
            raise ConnectionError("the broker is away")
        self.waiting += jobs

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        self.cancelled += jobs

    def take(self) -> list[str]:
        """Give the keys of what waits, and forget it."""
        taken, self.waiting = [ref.dedup_key for ref in self.waiting], []
        return taken


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStorage]:
    async with make_storage(request, tmp_path) as opened:
        await opened.preferences.put([Preference(user_id="ann")])
        yield opened


def the_briefs(storage: AnyStorage, engine: Engine, clock: Clock, **more: Any) -> Briefs:
    host = more.pop("host", None) or Host()
    wired: dict[str, Any] = {"recipients": host, "mailer": Provider(), "clock": clock} | more
    return Briefs(storage, projects=host, generator=host, dispatcher=engine, **wired)


async def test_each_step_of_a_slot_hands_over_the_next(storage: AnyStorage, engine: Engine, clock: Clock) -> None:
    fails = [RetryLater(60)]

    def act(request: object) -> None:
        if fails:
            raise fails.pop()

    briefs = the_briefs(storage, engine, clock, host=Host(act))
    await briefs.plan(NOW)
    (brief,) = engine.waiting
    assert NOW + 45 * MINUTE <= brief.run_at <= NINE
    assert engine.take() == [BRIEF]
    clock.now = brief.run_at
    await briefs.run_job(BRIEF)
    assert [(ref.dedup_key, ref.run_at) for ref in engine.waiting] == [(BRIEF, brief.run_at + MINUTE)]
    assert engine.take() == [BRIEF]
    clock.now += MINUTE
    assert (await briefs.run_job(BRIEF)).status is JobStatus.EMPTY
    assert engine.take() == []
    assert await briefs.regenerate("ann", now=NOW)
    assert engine.take() == [BRIEF]


async def test_a_finished_brief_hands_over_its_mail_and_a_released_job_itself(
    storage: AnyStorage, engine: Engine, clock: Clock
) -> None:
    briefs = the_briefs(storage, engine, clock)
    await briefs.plan(NOW)
    engine.take()
    clock.now = NINE
    draining = anyio.Event()
    draining.set()
    await briefs.run_job(BRIEF, draining=draining)
    assert engine.take() == []
    assert (await briefs.run_job(BRIEF)).status is JobStatus.COMPLETED
    assert [(ref.dedup_key, ref.run_at) for ref in engine.waiting] == [(MAIL, NINE)]
    await briefs.plan(NOW)
    assert engine.take() == [MAIL]


async def test_an_engine_that_is_away_costs_nothing_but_time(storage: AnyStorage, engine: Engine, clock: Clock) -> None:
    engine.is_away = True
    briefs = the_briefs(storage, engine, clock)
    assert (await briefs.plan(NOW)).enqueued == 1
    clock.now = NINE
    assert (await briefs.run_job(BRIEF)).status is JobStatus.COMPLETED
    with pytest.raises(ConnectionError):
        await briefs.reconcile(NINE + MINUTE)
    engine.is_away = False
    assert (await briefs.reconcile(NINE)).dispatched == 0
    assert (await briefs.reconcile(NINE + MINUTE)).dispatched == 1
    assert engine.take() == [MAIL]


class Reads:
    """A storage that counts how often its slots are read through."""

    def __init__(self, storage: AnyStorage) -> None:
        self._storage = storage
        self.selects = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def select(self, *given: Any, **more: Any) -> Any:
        self.selects += 1
        return await self._storage.select(*given, **more)


async def test_who_reconciles_very_often_reads_what_waits_less_often_and_misses_nothing(
    storage: AnyStorage, engine: Engine, clock: Clock
) -> None:
    reads: Any = Reads(storage)
    briefs = the_briefs(reads, engine, clock)
    await briefs.plan(NOW)
    engine.take()
    run_at = (await storage.find([BRIEF]))[BRIEF].run_at
    moments = [run_at + timedelta(seconds=5 * step) for step in range(23)]
    for last, now in pairwise(moments):
        await briefs.reconcile(now, last=last)
    assert engine.take() == [BRIEF]  # A minute after its time; the next would be after two.
    assert reads.selects <= 4


async def test_what_a_dead_worker_left_is_handed_over_again(storage: AnyStorage, engine: Engine, clock: Clock) -> None:
    briefs = the_briefs(storage, engine, clock)
    await briefs.plan(NOW)
    await storage.enqueue([job("bo", type="daily_brief"), job("cy", day=3, type="daily_brief")])
    await claim(
        storage, now=NINE, due_by=NINE, lease=HOUR, types=["daily_brief"], key=job("bo", type="daily_brief").dedup_key
    )
    engine.take()
    await claim(storage, now=NINE, due_by=NINE, lease=MINUTE, types=["daily_brief"])
    assert (await briefs.reconcile(NINE)).returned == 0
    assert engine.take() == []
    clock.now = NINE + MINUTE
    found = await briefs.reconcile(NINE + MINUTE)
    assert found.returned == 1
    assert set(engine.take()) == {BRIEF}


@pytest.mark.parametrize("reports_duplicates", [True, False])
async def test_a_copy_of_what_may_be_in_line_still_does_not_go_ahead_of_what_was_lost(
    reports_duplicates: bool, storage: AnyStorage, clock: Clock
) -> None:
    engine = Engine(DispatcherPowers(reports_duplicates=reports_duplicates))
    briefs = the_briefs(storage, engine, clock)
    await briefs.plan(NOW)
    await briefs.reconcile(NINE + MINUTE)
    assert [ref.again for ref in engine.waiting] == [False, reports_duplicates]


async def test_paused_jobs_are_handed_over_when_they_are_resumed(
    storage: AnyStorage, engine: Engine, clock: Clock
) -> None:
    briefs = the_briefs(storage, engine, clock)
    await briefs.plan(NOW)
    engine.take()
    await briefs.pause(NOW)
    assert (await briefs.reconcile(NINE + HOUR)).dispatched == 0
    await briefs.resume(NINE)
    assert engine.take() == [BRIEF]


async def test_what_is_cancelled_is_taken_back_where_the_engine_can(storage: AnyStorage, clock: Clock) -> None:
    for cancels in (False, True):
        engine = Engine(DispatcherPowers(cancels=cancels))
        briefs = the_briefs(storage, engine, clock)
        await briefs.plan(NOW)
        assert await briefs.cancel("ann", now=NOW)
        assert [ref.dedup_key for ref in engine.cancelled] == [BRIEF] * cancels
        await briefs.retry("ann", now=NOW)


async def test_a_job_that_cannot_be_taken_back_is_cancelled_all_the_same(clock: Clock) -> None:
    class Broken(Engine):
        async def cancel(self, jobs: Sequence[JobRef]) -> None:
            raise ConnectionError("the broker is away")

    async with MemoryStorage() as storage:
        await storage.preferences.put([Preference(user_id="ann")])
        briefs = the_briefs(storage, Broken(DispatcherPowers(cancels=True)), clock)
        await briefs.plan(NOW)
        assert await briefs.cancel("ann", now=NOW)
        assert (await storage.find([BRIEF]))[BRIEF].status is JobStatus.CANCELLED


async def test_what_a_worker_lost_hands_nothing_over(clock: Clock, engine: Engine) -> None:
    async with MemoryStorage() as storage:
        carrier = Carrier(dispatcher=engine, grace=MINUTE, clock=clock)
        told = DispatchingStorage(storage, carrier)
        await told.enqueue([job()])
        ((held),) = (await claim(storage)).claims
        await storage.forget("ann")
        engine.take()
        assert not await told.finish(held, Finish(status=JobStatus.EMPTY), [FollowUp(job(type="mail"), b"mail")])
        assert not await told.retry(held, NOW, "late")
        assert engine.take() == []


def test_a_dispatcher_that_is_none_is_refused_at_once(engine: Engine, clock: Clock) -> None:
    wrong: Any = object()
    with pytest.raises(ValueError, match=r"dispatcher=.*: object has no dispatch and no powers"):
        the_briefs(MemoryStorage(), wrong, clock)
    with pytest.raises(
        ValueError, match=r"redispatch_after=datetime.timedelta\(0\): must be a timedelta of more than zero"
    ):
        the_briefs(MemoryStorage(), engine, clock, redispatch_after=timedelta(0))


async def test_an_engine_with_a_short_reach_gets_jobs_as_they_come_near(clock: Clock, tmp_path: Path) -> None:
    engine = Engine(DispatcherPowers(schedules=10 * MINUTE))
    async with MemoryStorage() as storage:
        await storage.preferences.put([Preference(user_id="ann")])
        briefs = the_briefs(storage, engine, clock)
        await briefs.plan(NOW)
        run_at = (await storage.find([BRIEF]))[BRIEF].run_at
        assert engine.take() == []
        assert (await briefs.reconcile(run_at - 11 * MINUTE)).dispatched == 0
        assert (await briefs.reconcile(run_at - 10 * MINUTE)).dispatched == 1
        assert engine.take() == [BRIEF]


@pytest.mark.parametrize(
    ("late", "times"), [(-99, 0), (0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (8, 4), (16, 5), (33, 6)]
)
def test_a_late_job_is_handed_over_each_time_its_lateness_has_doubled(late: int, times: int) -> None:
    clock = Clock()
    carrier = Carrier(dispatcher=Engine(), grace=MINUTE, clock=clock)
    moments = [NOW + minute * MINUTE for minute in range(-120, late + 1)]
    wanted = [carrier.is_wanted(NOW, at, last) for last, at in pairwise(moments)]
    assert sum(wanted) == times
    assert carrier.is_wanted(NOW, NOW + late * MINUTE, None) is (late >= 1)


async def test_a_server_with_an_engine_plans_and_reconciles_and_leaves_running_to_its_workers() -> None:
    begun = anyio.current_time()
    engine, host, rounds = Engine(), Host(), list[Round]()
    engine.is_away = True

    def now() -> datetime:
        return NINE + timedelta(seconds=anyio.current_time() - begun)

    async with MemoryStorage() as storage:
        await storage.preferences.put([Preference(user_id="ann")])
        await storage.enqueue([job("bo", run_at=NOW, type="daily_brief")])
        briefs = Briefs(
            storage, projects=host, generator=host, dispatcher=engine, clock=now, lease=timedelta(milliseconds=30)
        )
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                def told(done: Round) -> None:
                    rounds.append(done)
                    engine.is_away = engine.is_away and not done.errors
                    if any(each.reconciled for each in rounds) and any(each.plan for each in rounds):
                        tasks.cancel_scope.cancel()

                await briefs.serve(on_round=told, poll=timedelta(milliseconds=5))
    assert not host.requests
    assert [str(error) for each in rounds for error in each.errors] == ["the broker is away"]
    assert sum(each.reconciled.dispatched for each in rounds if each.reconciled) == 1
    assert "daily_brief:2026-03-02:bo" in engine.take()


@pytest.mark.parametrize("at", ["enqueue", "finish", "retry", "release", "change", "resume"])
async def test_postgres_tells_what_becomes_pending_in_the_transaction_that_makes_it_so(
    postgres: Schema, at: str
) -> None:
    told: list[tuple[str, datetime, bool]] = []

    def on_pending(connection: psycopg.Connection[Any], jobs: Sequence[JobRef]) -> None:
        in_transaction = connection.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS
        told.extend((ref.dedup_key, ref.run_at, in_transaction) for ref in jobs)
        if fails:
            raise LookupError("the engine refuses")

    fails = False
    async with postgres.storage(on_pending=on_pending) as storage:
        slot = job()
        key, again = slot.dedup_key, NOW + HOUR
        expected = [(key, slot.run_at, True)]
        if at != "enqueue":
            await storage.enqueue([slot])
        do: Any = None
        held: Any = None
        if at in ("finish", "retry", "release"):
            ((held),) = (await claim(storage)).claims
        if at == "enqueue":
            do = lambda: storage.enqueue([slot])  # noqa: E731
        elif at == "retry":
            do, expected = lambda: storage.retry(held, again, "x"), [(key, again, True)]
        elif at == "release":
            do = lambda: storage.release([held])  # noqa: E731
        elif at == "change":
            await storage.change([key], Change.CANCEL)
            do = lambda: storage.change([key], Change.RETRY)  # noqa: E731
        elif at == "resume":
            await storage.pause(["daily"], NOW)
            other = job("bo", run_at=again)
            await storage.enqueue([other])
            do, expected = lambda: storage.resume(["daily"], since=NOW - DAY), [(other.dedup_key, again, True)]
        else:
            mail = job(type="mail")
            expected = [(mail.dedup_key, mail.run_at, True)]
            do = lambda: storage.finish(held, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"x")])  # noqa: E731
        told.clear()
        fails = True
        before = await storage.find([key])
        with pytest.raises(LookupError):
            await do()
        assert await storage.find([key]) == before
        told.clear()
        fails = False
        await do()
        assert told == expected


async def test_a_storage_that_tells_the_engine_itself_is_not_told_of_twice(
    postgres: Schema, engine: Engine, clock: Clock
) -> None:
    within: list[str] = []

    def on_pending(connection: object, jobs: Sequence[JobRef]) -> None:
        within.extend(ref.dedup_key for ref in jobs)

    storage: PostgresStorage = postgres.storage(on_pending=on_pending)
    async with storage:
        await storage.preferences.put([Preference(user_id="ann")])
        await the_briefs(storage, engine, clock).plan(NOW)
    assert (within, engine.take()) == ([BRIEF], [])
