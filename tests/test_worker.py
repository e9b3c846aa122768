"""Running due jobs: under leases, decided again, side by side; no result lost, none twice, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from attrs import evolve

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.eligibility import Eligibility
from fanout_briefs.engagement import BackoffPolicy
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater, StorageUnavailable
from fanout_briefs.held import Handler, Held, Lane
from fanout_briefs.model import (
    Brief,
    Claim,
    Claims,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    Progress,
    Rendered,
    Section,
    SkipReason,
    Window,
)
from fanout_briefs.planner import SchedulePlanner
from fanout_briefs.runs import Ended, RunReport
from fanout_briefs.screen import Screen
from fanout_briefs.testing.faults import Call, Fault, Faults, answer_lost, unavailable
from fanout_briefs.timing import CatchUp, Retrying
from fanout_briefs.worker import Worker
from virtual_time import in_virtual_time

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
LEASE = timedelta(seconds=30)
MINUTE = timedelta(minutes=1)
BRIEF, MAIL = "daily_brief", "generate_brief_email.daily_brief"
Storage = MemoryStorage | SqliteStorage
Made = tuple[Finish, Sequence[FollowUp]]


def a_job(
    user_id: str = "ada", kind: str = BRIEF, *, day: int = 9, run_at: datetime = NINE - 10 * MINUTE, **more: Any
) -> Job:
    at = NINE.replace(day=day)
    window = Window(at - timedelta(days=1), at)
    return Job(type=kind, user_id=user_id, occurrence=Occurrence(at.date(), at), run_at=run_at, window=window, **more)


def users(count: int) -> list[str]:
    return [f"user-{number:03}" for number in range(count)]


def a_brief(job: Job, *, error: str | None = None) -> Brief:
    return Brief(
        type=job.type,
        user_id=job.user_id,
        occurrence=job.occurrence,
        window=job.window,
        epoch=job.epoch,
        sections=[Section(project_id="1", title="One", text="text", error=error)],
        rendered=Rendered("subject", "text", "html"),
    )


async def make(held: Held) -> Made:
    await checkpoint()
    return Finish(status=JobStatus.COMPLETED, brief=a_brief(held.job)), ()


def raising(error: Exception) -> Handler:
    async def fail(held: Held) -> Made:
        await checkpoint()
        raise error

    return fail


class Clock:
    """The wall clock, in the test's hand."""

    def __init__(self, now: datetime = NINE) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def a_worker(
    storage: Any,
    handle: Handler = make,
    *,
    mail: Handler | None = None,
    preferences: Any = None,
    engagement: Any = None,
    is_unsettled: Callable[[Job], bool] = lambda job: False,
    concurrency: int = 10,
    retrying: Retrying | None = None,
    clock: Callable[[], datetime] | None = None,
    max_lateness: timedelta = timedelta(days=366),
    catch_up: CatchUp = CatchUp.EACH,
) -> Worker:
    handlers = {BRIEF: handle} | ({MAIL: mail} if mail else {})
    return Worker(
        work=storage,
        name=BRIEF,
        lanes=[Lane(kind, handler, concurrency, retrying or Retrying()) for kind, handler in handlers.items()],
        screen=Screen(
            name=BRIEF,
            preferences=preferences or storage.preferences,
            eligibility=Eligibility(engagement, storage, BackoffPolicy()),
            max_lateness=max_lateness,
            catch_up=catch_up,
        ),
        is_unsettled=is_unsettled,
        lease=LEASE,
        clock=clock or Clock(),
    )


@pytest.fixture(params=["memory", "sqlite"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Storage]:
    kept = MemoryStorage() if request.param == "memory" else SqliteStorage(tmp_path / "briefs.db")
    async with kept:
        yield kept


async def queue(storage: Storage, *jobs: Job) -> None:
    """Enqueue jobs, and a preference for each user that they match."""
    await storage.preferences.put([Preference(user_id=user_id) for user_id in {job.user_id for job in jobs}])
    assert set(await storage.enqueue(jobs)) == {Enqueued.CREATED}


async def slot(storage: Storage, job: Job) -> Job:
    return (await storage.find([job.dedup_key]))[job.dedup_key]


async def statuses(storage: Storage, *jobs: Job) -> list[JobStatus]:
    return [(await slot(storage, job)).status for job in jobs]


async def take_over(storage: Storage, *, after: timedelta = timedelta(hours=1)) -> Claims:
    """Claim everything as another worker would that looks at the wall clock that much later."""
    return await storage.claim(NINE, now=NINE + after, lease=LEASE, limit=100, types=[BRIEF, MAIL])


class TestWhatIsRun:
    async def test_only_what_is_due_is_run(self, storage: Storage) -> None:
        due, now, later = a_job("ada"), a_job("bob", run_at=NINE), a_job("cy", run_at=NINE + timedelta(microseconds=1))
        await queue(storage, due, now, later)

        report = await a_worker(storage).run(NINE)

        assert report == RunReport(
            due_by=NINE,
            briefs={JobStatus.COMPLETED: 2},
            mails={},
            partial=0,
            retrying=0,
            lost=0,
            problems=[],
        )
        assert report.ok
        assert await statuses(storage, due, now, later) == ["completed", "completed", "pending"]
        assert await storage.brief(BRIEF, "ada") is not None

    async def test_other_types_are_left_to_other_workers(self, storage: Storage) -> None:
        other = a_job("ada", "weekly_brief")
        await queue(storage, other)

        assert (await a_worker(storage).run(NINE)).briefs == {}
        assert await statuses(storage, other) == ["pending"]

    async def test_what_is_enqueued_by_the_run_itself_is_run_too_if_it_is_due(self, storage: Storage) -> None:
        async def make_and_mail(held: Held) -> Made:
            at = NINE if held.job.user_id == "ada" else NINE + MINUTE
            mail = a_job(held.job.user_id, MAIL, run_at=at)
            return Finish(status=JobStatus.COMPLETED, brief=a_brief(held.job)), [FollowUp(mail, b"payload")]

        payloads: list[bytes | None] = []

        async def send(held: Held) -> Made:
            payloads.append(held.claim.payload)
            return Finish(status=JobStatus.COMPLETED, reason="receipt"), ()

        await queue(storage, a_job("ada"), a_job("bob"))

        report = await a_worker(storage, make_and_mail, mail=send).run(NINE)

        assert report.briefs == {JobStatus.COMPLETED: 2}
        assert report.mails == {JobStatus.COMPLETED: 1}
        assert payloads == [b"payload"]
        assert await statuses(storage, a_job("ada", MAIL), a_job("bob", MAIL)) == ["completed", "pending"]

    async def test_all_there_is_is_run_and_never_more_at_once_than_allowed(self, storage: Storage) -> None:
        running, peaks, full = 0, Counter[int](), anyio.Event()

        async def count(held: Held) -> Made:
            nonlocal running
            running += 1
            peaks[running] += 1
            if running == 3:
                full.set()
            await full.wait()
            await checkpoint()
            running -= 1
            return await make(held)

        await queue(storage, *map(a_job, users(25)))

        report = await a_worker(storage, count, concurrency=3).run(NINE)

        assert report.briefs == {JobStatus.COMPLETED: 25}
        assert max(peaks) == 3

    async def test_little_more_is_claimed_than_can_run_so_that_other_workers_get_their_share(
        self, storage: Storage
    ) -> None:
        jobs, held = list(map(a_job, users(20))), list[int]()

        async def count(each: Held) -> Made:
            slots = await storage.find([job.dedup_key for job in jobs])
            held.append(sum(job.status is JobStatus.PROCESSING for job in slots.values()))
            return await make(each)

        await queue(storage, *jobs)
        await a_worker(storage, count, concurrency=2).run(NINE)

        assert max(held) <= 4

    async def test_a_later_slot_of_the_same_user_waits_for_the_earlier_one(self, storage: Storage) -> None:
        order: list[int] = []

        async def note(held: Held) -> Made:
            order.append(held.job.occurrence.local_date.day)
            return await make(held)

        await queue(storage, a_job(day=9), a_job(day=8), a_job(day=7))

        await a_worker(storage, note).run(NINE)

        assert order == [7, 8, 9]
        windows = [
            brief.window for day in (7, 8, 9) if (brief := await storage.brief(BRIEF, "ada", date(2026, 3, day)))
        ]
        assert all(earlier.end == later.start for earlier, later in pairwise(windows))

    async def test_nothing_to_do_is_done_at_once(self, storage: Storage) -> None:
        report = await a_worker(storage).run(NINE)

        assert (report.briefs, report.mails, report.ok) == ({}, {}, True)

    async def test_whoever_asks_is_told_about_every_end(self, storage: Storage) -> None:
        async def act(held: Held) -> Made:
            if held.job.user_id == "bob":
                raise PermanentFailure("account closed")
            if held.job.user_id == "cy":
                raise OSError("gone")
            return Finish(status=JobStatus.COMPLETED, brief=a_brief(held.job, error="no")), ()

        await queue(storage, a_job("ada"), a_job("bob"), a_job("cy"))
        told: list[Ended] = []

        report = await a_worker(storage, act).run(NINE, told.append)

        assert {each.job.user_id: (each.status, each.detail) for each in told} == {
            "ada": (JobStatus.COMPLETED, None),
            "bob": (JobStatus.FAILED, "account closed"),
            "cy": (JobStatus.PENDING, "gone"),
        }
        assert {each.job.user_id for each in told if each.brief} == {"ada"}
        assert (report.partial, report.retrying, report.ok) == (1, 1, False)
        assert {problem.user_id: problem.message for problem in report.problems} == {
            "bob": "daily_brief:2026-03-09:bob: account closed",
            "cy": "daily_brief:2026-03-09:cy: gone",
        }

    async def test_only_the_first_hundred_problems_are_kept(self) -> None:
        async with MemoryStorage() as storage:
            await queue(storage, *map(a_job, users(120)))

            report = await a_worker(storage, raising(PermanentFailure("no"))).run(NINE)

        assert report.briefs == {JobStatus.FAILED: 120}
        assert len(report.problems) == 100

    async def test_two_workers_at_once_never_run_a_job_twice(self, storage: Storage) -> None:
        ran = Counter[str]()

        async def count(held: Held) -> Made:
            ran[held.job.user_id] += 1
            return await make(held)

        await queue(storage, *map(a_job, users(40)))
        reports: list[RunReport] = []

        async def run() -> None:
            reports.append(await a_worker(storage, count, concurrency=4).run(NINE))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            group.start_soon(run)

        assert ran == dict.fromkeys(users(40), 1)
        assert sum(report.briefs[JobStatus.COMPLETED] for report in reports) == 40
        assert [report.lost for report in reports] == [0, 0]


class TestDecidedAgain:
    @pytest.mark.parametrize(
        ("preference", "reason"),
        [
            pytest.param(None, "the preference is gone", id="gone"),
            pytest.param({"is_active": False}, "the brief was switched off", id="off"),
            pytest.param({"time_of_day": "10:00"}, "the schedule now says 2026-03-09 10:00:00 UTC", id="time"),
            pytest.param({"timezone": "Europe/Berlin"}, "the schedule now says 2026-03-09 08:00:00 UTC", id="zone"),
            pytest.param(
                {"frequency": "weekly", "day_of_week": 5}, "the schedule no longer has 2026-03-09", id="dates"
            ),
            pytest.param(
                {"frequency": "hourly"}, "the preference makes no schedule any more: frequency=", id="invalid"
            ),
        ],
    )
    async def test_what_no_longer_matches_the_preference_is_withdrawn(
        self, storage: Storage, preference: dict[str, Any] | None, reason: str
    ) -> None:
        await queue(storage, a_job("ada"), a_job("bob"))
        if preference is None:
            await storage.preferences.remove(["ada"])
        else:
            await storage.preferences.put([Preference(user_id="ada", **preference)])

        report = await a_worker(storage).run(NINE)

        withdrawn = await slot(storage, a_job("ada"))
        assert (withdrawn.status, withdrawn.code) == (JobStatus.CANCELLED, SkipReason.SUPERSEDED)
        assert withdrawn.reason is not None
        assert withdrawn.reason.startswith(reason)
        assert report.briefs == {JobStatus.CANCELLED: 1, JobStatus.COMPLETED: 1}
        assert report.ok

    async def test_the_next_plan_takes_a_withdrawn_slot_up_at_its_new_time(self, storage: Storage) -> None:
        await queue(storage, a_job())
        await storage.preferences.put([Preference(user_id="ada", time_of_day="09:20")])
        await a_worker(storage).run(NINE)
        ten = Occurrence(date(2026, 3, 9), NINE + 20 * MINUTE)

        plan = await SchedulePlanner(preferences=storage.preferences, ledger=storage).plan(NINE)
        report = await a_worker(storage).run(ten.deliver_at)

        assert plan.enqueued == 1
        assert report.briefs == {JobStatus.COMPLETED: 1}
        taken_up = await slot(storage, a_job())
        assert (taken_up.status, taken_up.epoch, taken_up.occurrence) == (JobStatus.COMPLETED, 2, ten)
        brief = await storage.brief(BRIEF, "ada")
        assert brief is not None
        assert brief.epoch == 2

    async def test_who_stays_away_since_the_plan_is_skipped_by_the_policys_own_word(self, storage: Storage) -> None:
        await queue(storage, a_job("ada"), a_job("bob"))

        report = await a_worker(storage, engagement=Visits(ada=NINE - timedelta(days=3), bob=NINE)).run(NINE)

        skipped = await slot(storage, a_job("ada"))
        assert (skipped.status, skipped.code, skipped.reason) == ("skipped", SkipReason.ENGAGEMENT, "cooling_off")
        assert report.briefs == {JobStatus.SKIPPED: 1, JobStatus.COMPLETED: 1}

    async def test_the_decision_reaches_the_handler_and_so_does_the_preference(self, storage: Storage) -> None:
        seen: list[tuple[object, object]] = []

        async def note(held: Held) -> Made:
            assert held.cleared is not None
            decision, preference = held.cleared.decision, held.cleared.preference
            seen.append((decision and decision.reason, preference and preference.user_id))
            return await make(held)

        await queue(storage, a_job())
        await a_worker(storage, note, engagement=Visits(ada=NINE)).run(NINE)

        assert seen == [("active", "ada")]

    async def test_activity_that_cannot_be_read_is_no_verdict(self, storage: Storage) -> None:
        await queue(storage, a_job("ada"), a_job("bob"))

        report = await a_worker(storage, engagement=Visits(bob=NINE)).run(NINE)

        put_off = await slot(storage, a_job("ada"))
        assert (put_off.status, report.retrying) == (JobStatus.PENDING, 1)
        assert put_off.error == "engagement_unavailable: the user's activity could not be read"
        assert await statuses(storage, a_job("bob")) == ["completed"]

    @pytest.mark.parametrize("port", ["engagement", "preferences"])
    async def test_an_outage_uses_up_no_attempts_except_of_what_was_asked_for_by_hand(
        self, storage: Storage, port: str
    ) -> None:
        class Away:
            async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
                raise OSError("gone")

            async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
                raise OSError("gone")

        away: dict[str, Any] = {port: Away()}
        by_hand = a_job("bob", demand=Demand.RUN)
        await queue(storage, a_job("ada"), by_hand)
        for turn in range(10):
            moment = NINE + timedelta(hours=turn)
            await a_worker(storage, clock=Clock(moment), **away).run(moment)

        waiting = await slot(storage, a_job("ada"))
        assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)
        # Engagement has no say in what is made by hand.
        assert await statuses(storage, by_hand) == ["completed" if port == "engagement" else "failed"]

    async def test_preferences_that_are_none_are_told_by_their_port_and_use_up_no_attempt(
        self, storage: Storage
    ) -> None:
        class Wrong:
            async def get(self, user_ids: Collection[str]) -> Any:
                return [Preference(user_id=user_id) for user_id in user_ids]

        await queue(storage, a_job("ada"))
        await a_worker(storage, preferences=Wrong()).run(NINE)

        waiting = await slot(storage, a_job("ada"))
        assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)
        assert waiting.error == "preferences.get gave list instead of a mapping of Preference by user"

    async def test_an_outage_ends_no_later_than_by_being_too_late(self, storage: Storage) -> None:
        class Away:
            async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
                raise OSError("gone")

        early, late = a_job("ada", day=8), a_job("bob", day=9)
        await queue(storage, early, late)
        await a_worker(storage, preferences=Away(), max_lateness=timedelta(hours=12)).run(NINE)

        ended = await slot(storage, early)
        assert (ended.status, ended.code) == (JobStatus.SKIPPED, SkipReason.TOO_LATE)
        waiting = await slot(storage, late)
        assert (waiting.status, waiting.attempts, waiting.error) == (JobStatus.PENDING, 0, "gone")

    async def test_preferences_that_cannot_be_read_put_briefs_and_mails_off(self, storage: Storage) -> None:
        class Unreadable:
            async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
                await checkpoint()
                raise OSError("the users table is locked")

        async def send(held: Held) -> Made:
            return Finish(status=JobStatus.COMPLETED), ()

        await queue(storage, a_job("ada"), a_job("bob"), a_job("cy", MAIL))

        report = await a_worker(storage, mail=send, preferences=Unreadable()).run(NINE)

        assert (report.retrying, report.mails) == (3, {})
        put_off = [a_job("ada"), a_job("bob"), a_job("cy", MAIL)]
        assert [(await slot(storage, each)).error for each in put_off] == ["the users table is locked"] * 3

    @pytest.mark.parametrize("preference", [None, {"is_active": False}], ids=["gone", "off"])
    async def test_switching_off_stops_a_mail_that_is_queued_already(
        self, storage: Storage, preference: dict[str, Any] | None
    ) -> None:
        async def send(held: Held) -> Made:
            return Finish(status=JobStatus.COMPLETED), ()

        await queue(storage, a_job("ada", MAIL), a_job("bob", MAIL))
        if preference is None:
            await storage.preferences.remove(["ada"])
        else:
            await storage.preferences.put([Preference(user_id="ada", **preference)])
        await storage.preferences.put([Preference(user_id="bob", time_of_day="17:00")])  # a new time stops no mail

        report = await a_worker(storage, mail=send).run(NINE)

        assert report.mails == {JobStatus.COMPLETED: 1, JobStatus.CANCELLED: 1}
        stopped = await slot(storage, a_job("ada", MAIL))
        assert (stopped.status, stopped.code) == (JobStatus.CANCELLED, SkipReason.SUPERSEDED)

    @pytest.mark.parametrize("kind", [BRIEF, MAIL])
    async def test_what_was_queued_before_a_long_outage_is_not_sent_when_it_is_too_late(
        self, storage: Storage, kind: str
    ) -> None:
        async def send(held: Held) -> Made:
            return Finish(status=JobStatus.COMPLETED), ()

        at_the_limit = timedelta(hours=12)
        await queue(storage, a_job("ada", kind))
        worker = a_worker(storage, mail=send, max_lateness=at_the_limit - timedelta(microseconds=1))

        report = await worker.run(NINE + at_the_limit)

        ended = await slot(storage, a_job("ada", kind))
        assert (ended.status, ended.code) == (JobStatus.SKIPPED, SkipReason.TOO_LATE)
        assert report.ok
        await queue(storage, a_job("bob", kind))
        in_time = await a_worker(storage, mail=send, max_lateness=at_the_limit).run(NINE + at_the_limit)
        assert {**in_time.briefs, **in_time.mails} == {JobStatus.COMPLETED: 1}


class Visits:
    """When users were last seen; whoever is not named cannot be read."""

    def __init__(self, **seen: datetime | None) -> None:
        self._seen = seen

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        await checkpoint()
        return {user_id: self._seen[user_id] for user_id in user_ids if user_id in self._seen}


class TestRetrying:
    async def test_the_wait_counts_from_the_failure_and_not_from_the_beginning_of_the_run(
        self, storage: Storage
    ) -> None:
        clock = Clock()

        async def fail_late(held: Held) -> Made:
            clock.now += timedelta(minutes=3)
            raise RetryLater(60)

        await queue(storage, a_job())

        await a_worker(storage, fail_late, clock=clock).run(NINE)

        assert (await slot(storage, a_job())).run_at == NINE + timedelta(minutes=4)

    async def test_a_missing_key_is_told_as_what_it_is(self, storage: Storage) -> None:
        await queue(storage, a_job())

        await a_worker(storage, raising(KeyError("ada"))).run(NINE)

        assert (await slot(storage, a_job())).error == "KeyError('ada')"

    async def test_a_failed_attempt_is_put_off_on_the_schedules_timeline_and_keeps_its_error(
        self, storage: Storage
    ) -> None:
        await queue(storage, a_job())
        wall = Clock(NINE + timedelta(days=400))

        report = await a_worker(storage, raising(OSError("gone")), clock=wall).run(NINE)

        failed = await slot(storage, a_job())
        assert (failed.status, failed.attempts, failed.error) == (JobStatus.PENDING, 1, "gone")
        assert NINE + 0.75 * MINUTE <= failed.run_at <= NINE + 1.25 * MINUTE
        assert (report.retrying, report.briefs, report.ok) == (1, {}, False)

    async def test_waits_double_and_the_last_attempt_ends_it(self, storage: Storage) -> None:
        await queue(storage, a_job())
        now, waits = NINE, list[timedelta]()

        for _ in range(2):
            await a_worker(storage, raising(OSError("gone"))).run(now)
            at = (await slot(storage, a_job())).run_at
            waits.append(at - now)
            now = at
        report = await a_worker(storage, raising(OSError("gone for good"))).run(now)

        assert 1.5 * MINUTE <= waits[1] <= 2.5 * MINUTE
        assert report.briefs == {JobStatus.FAILED: 1}
        ended = await slot(storage, a_job())
        assert (ended.status, ended.attempts, ended.error) == (JobStatus.FAILED, 3, "gone for good")
        assert (await a_worker(storage).run(now + timedelta(days=9))).briefs == {}

    async def test_a_job_may_say_when_to_try_again(self, storage: Storage) -> None:
        await queue(storage, a_job())

        await a_worker(storage, raising(RetryLater(4000, "rate limited"))).run(NINE)

        put_off = await slot(storage, a_job())
        assert put_off.run_at == NINE + timedelta(seconds=4000)
        assert put_off.error == "rate limited"

    async def test_what_asks_for_at_once_comes_in_a_later_run_so_that_this_one_ends(self, storage: Storage) -> None:
        await queue(storage, a_job())

        report = await a_worker(storage, raising(RetryLater(0))).run(NINE)

        assert (report.retrying, report.briefs) == (1, {})
        assert (await slot(storage, a_job())).run_at == NINE + timedelta(seconds=1)

    async def test_being_asked_to_come_later_uses_up_no_attempts(self, storage: Storage) -> None:
        await queue(storage, a_job())

        for turn in range(20):
            moment = NINE + timedelta(minutes=turn)
            await a_worker(storage, raising(RetryLater(60)), clock=Clock(moment)).run(moment)

        waiting = await slot(storage, a_job())
        assert (waiting.status, waiting.attempts) == (JobStatus.PENDING, 0)

    async def test_of_what_was_asked_for_by_hand_it_does_since_that_is_never_too_late(self, storage: Storage) -> None:
        await queue(storage, a_job(demand=Demand.RUN))

        for turn in range(5):
            moment = NINE + timedelta(minutes=2 * turn)
            await a_worker(storage, raising(RetryLater(60, "rate limited")), clock=Clock(moment)).run(moment)

        ended = await slot(storage, a_job())
        assert (ended.status, ended.attempts, ended.error) == (JobStatus.FAILED, 3, "rate limited")

    async def test_a_job_that_asks_to_come_later_without_end_ends_as_too_late(self, storage: Storage) -> None:
        await queue(storage, a_job())
        late = NINE + timedelta(hours=13)

        await a_worker(storage, raising(RetryLater(60)), max_lateness=timedelta(hours=12)).run(NINE)
        await a_worker(storage, raising(RetryLater(60)), max_lateness=timedelta(hours=12), clock=Clock(late)).run(late)

        ended = await slot(storage, a_job())
        assert (ended.status, ended.code) == (JobStatus.SKIPPED, SkipReason.TOO_LATE)

    @pytest.mark.parametrize("seconds", [1e12, 1e300, float("inf")])
    async def test_a_wait_beyond_the_calendar_is_a_year_and_harms_no_other_job(
        self, storage: Storage, seconds: float
    ) -> None:
        async def act(held: Held) -> Made:
            if held.job.user_id == "ada":
                raise RetryLater(seconds)
            return await make(held)

        await queue(storage, a_job("ada"), a_job("bob"))

        await a_worker(storage, act).run(NINE)

        assert (await slot(storage, a_job("ada"))).run_at == NINE + timedelta(days=366)
        assert await statuses(storage, a_job("bob")) == ["completed"]

    async def test_a_permanent_failure_is_not_tried_again(self, storage: Storage) -> None:
        await queue(storage, a_job())

        report = await a_worker(storage, raising(PermanentFailure("account closed"))).run(NINE)

        assert report.briefs == {JobStatus.FAILED: 1}
        assert (await slot(storage, a_job())).error == "account closed"

    async def test_an_error_without_words_is_told_by_its_type(self, storage: Storage) -> None:
        await queue(storage, a_job())

        await a_worker(storage, raising(KeyError())).run(NINE)

        assert (await slot(storage, a_job())).error == "KeyError()"

    async def test_an_error_that_cannot_be_read_ends_no_run(self, storage: Storage) -> None:
        class Broken(Exception):
            def __str__(self) -> str:
                return str(self.args[0])

        await queue(storage, a_job())

        await a_worker(storage, raising(Broken())).run(NINE)

        assert (await slot(storage, a_job())).error == "Broken, whose message could not be read"

    async def test_a_job_whose_workers_died_is_not_ended_for_that_but_run_with_nothing_beside_it(
        self, storage: Storage
    ) -> None:
        names = users(3)
        await queue(storage, *(a_job(name) for name in names))
        for hour in range(3):
            assert len((await take_over(storage, after=timedelta(hours=hour))).claims) == 3
        await queue(storage, a_job("new"))
        running, beside = set[str](), dict[str, int]()

        async def make_and_look(held: Held) -> Made:
            running.add(held.job.user_id)
            await checkpoint()
            await checkpoint()
            beside[held.job.user_id] = len(running) - 1
            if held.job.user_id != "new":
                recorded = (await slot(storage, held.job)).progress
                assert recorded is not None
                assert recorded.alone
            running.remove(held.job.user_id)
            return await make(held)

        report = await a_worker(storage, make_and_look, clock=Clock(NINE + timedelta(hours=4))).run(NINE)

        assert report.briefs == {JobStatus.COMPLETED: 4}
        assert beside == {**dict.fromkeys(names, 0), "new": 0}

    async def test_a_job_that_its_worker_died_of_with_nothing_beside_it_is_ended(self, storage: Storage) -> None:
        await queue(storage, a_job())
        for hour in range(3):
            await take_over(storage, after=timedelta(hours=hour))
        (claim,) = (await take_over(storage, after=timedelta(hours=3))).claims
        await storage.heartbeat([evolve(claim, progress=Progress("sections", alone=True))], claim.until)

        report = await a_worker(storage, clock=Clock(NINE + timedelta(hours=5))).run(NINE)

        assert report.briefs == {JobStatus.FAILED: 1}
        assert (await slot(storage, a_job())).error == (
            "no attempts left: its workers died, the last one with no other job in hand"
        )

    async def test_a_poison_job_keeps_the_last_error_it_ever_had(self, storage: Storage) -> None:
        await queue(storage, a_job())
        await a_worker(storage, raising(OSError("gone"))).run(NINE)
        later = NINE + 10 * MINUTE
        got = [
            await storage.claim(later, now=NINE + timedelta(hours=hour), lease=LEASE, limit=1, types=[BRIEF])
            for hour in range(3)
        ]
        (claim,) = got[-1].claims
        await storage.heartbeat([evolve(claim, progress=Progress("starting", alone=True))], claim.until)

        await a_worker(storage, clock=Clock(NINE + timedelta(hours=4))).run(later)

        error = (await slot(storage, a_job())).error
        assert error is not None
        assert error.endswith("with no other job in hand; the last error before that: gone")

    async def test_a_job_that_is_lost_before_it_could_run_alone_is_not_run(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await queue(storage, a_job())
        for hour in range(3):
            await take_over(storage, after=timedelta(hours=hour))
        told: list[Ended] = []
        clock = Clock(NINE + timedelta(hours=4))
        beat = storage.heartbeat

        async def stolen_first(claims: Collection[Claim], until: datetime) -> Collection[str]:
            if clock.now < NINE + timedelta(hours=5):
                await take_over(storage, after=timedelta(hours=5))
                clock.now = NINE + timedelta(hours=6)
            return await beat(claims, until)

        monkeypatch.setattr(storage, "heartbeat", stolen_first)
        await a_worker(storage, clock=clock).run(NINE, told.append)

        assert [ended.status for ended in told] == [None, JobStatus.COMPLETED]

    @pytest.mark.parametrize(("attempt", "minutes"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (50, 60), (5000, 60)])
    def test_back_off_doubles_up_to_the_longest(self, attempt: int, minutes: int) -> None:
        delays = [Retrying().delay(attempt) for _ in range(200)]

        assert all(0.75 * minutes * MINUTE <= delay <= 1.25 * minutes * MINUTE for delay in delays)
        assert len(set(delays)) > 1

    @pytest.mark.parametrize(
        "bad",
        [
            {"attempts": 0},
            {"first": -MINUTE},
            {"longest": -MINUTE},
            {"longest": timedelta(days=367)},
        ],
    )
    def test_what_makes_no_back_off_is_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(bad))):
            Retrying(**bad)

    @pytest.mark.parametrize("concurrency", [0, -1])
    def test_a_worker_needs_room_for_a_job(self, concurrency: int) -> None:
        with pytest.raises(ValueError, match="concurrency"):
            a_worker(MemoryStorage(), concurrency=concurrency)


class TestLostClaims:
    async def test_a_result_that_comes_after_the_lease_has_ended_changes_nothing(self, storage: Storage) -> None:
        clock = Clock()

        async def lose(held: Held) -> Made:
            if clock.now > NINE:
                raise PermanentFailure("the second time is another story")
            await take_over(storage)
            clock.now = NINE + timedelta(hours=2)  # when the other worker's lease has ended, too
            mail = a_job("ada", MAIL)
            return Finish(status=JobStatus.COMPLETED, brief=a_brief(held.job)), [FollowUp(mail, b"")]

        await queue(storage, a_job())
        told: list[Ended] = []

        report = await a_worker(storage, lose, clock=clock).run(NINE, told.append)

        assert report.lost == 1
        assert told[0].status is None
        assert (told[0].brief, told[0].detail) == (None, "the lease ended before the work did")
        assert await storage.brief(BRIEF, "ada") is None
        assert await storage.find([a_job("ada", MAIL).dedup_key]) == {}

    async def test_a_failure_after_the_lease_has_ended_changes_nothing(self, storage: Storage) -> None:
        async def lose(held: Held) -> Made:
            await storage.forget("ada")
            raise OSError("gone")

        await queue(storage, a_job())

        report = await a_worker(storage, lose).run(NINE)

        assert (report.lost, report.retrying, report.problems) == (1, 0, [])
        assert await storage.find([a_job().dedup_key]) == {}

    async def test_a_step_cannot_be_recorded_under_a_lost_claim(self, storage: Storage) -> None:
        effects: list[str] = []

        async def act(held: Held) -> Made:
            await storage.forget("ada")
            await held.record(Progress("sending"))
            effects.append("sent")
            return await make(held)

        await queue(storage, a_job())

        report = await a_worker(storage, act).run(NINE)

        assert (report.lost, effects) == (1, [])

    async def test_a_step_is_committed_before_the_work_goes_on(self, storage: Storage) -> None:
        seen: list[Progress | None] = []

        async def act(held: Held) -> Made:
            await held.record(Progress("sending"))
            seen.append((await slot(storage, held.job)).progress)
            return await make(held)

        await queue(storage, a_job())
        await a_worker(storage, act).run(NINE)

        assert seen == [Progress("sending")]

    async def test_a_worker_that_wakes_from_sleep_may_take_its_own_job_over(self, storage: Storage) -> None:
        """Its heartbeats stood still, too; the older claim is stale, and ends as lost."""
        clock = Clock()
        began, asleep = Counter[str](), anyio.Event()

        async def act(held: Held) -> Made:
            began[held.job.user_id] += 1
            if held.job.user_id == "bob":
                await asleep.wait()
                clock.now = NINE + timedelta(hours=1)
            elif began["ada"] == 1:
                asleep.set()
                await anyio.sleep_forever()
            return await make(held)

        await queue(storage, a_job("ada"), a_job("bob"))

        with anyio.fail_after(20):
            report = await a_worker(storage, act, concurrency=2, clock=clock).run(NINE)

        assert began["ada"] == 2
        assert report.lost == sum(began.values()) - 2  # also of bob's, if it was claimed once more before it ended
        assert report.briefs == {JobStatus.COMPLETED: 2}
        assert (await slot(storage, a_job("ada"))).attempts == 2


class TestInVirtualTime:
    """Leases and heartbeats by a clock that jumps; the wall clock goes with the event loop's."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return in_virtual_time(request.param)

    @pytest.fixture
    async def storage(self, anyio_backend: Any) -> AsyncIterator[MemoryStorage]:
        async with MemoryStorage() as kept:
            yield kept

    async def test_a_job_that_a_dead_worker_holds_is_waited_for_and_taken_over(self, storage: MemoryStorage) -> None:
        await queue(storage, a_job())
        await take_over(storage, after=timedelta(0))
        begun = anyio.current_time()

        report = await a_worker(storage, clock=wall_clock()).run(NINE)

        assert anyio.current_time() - begun == pytest.approx(30)
        assert report.briefs == {JobStatus.COMPLETED: 1}
        assert (await slot(storage, a_job())).attempts == 2

    async def test_a_job_that_another_worker_ends_is_waited_for_no_longer(self, storage: MemoryStorage) -> None:
        await queue(storage, a_job())
        (claim,) = (await take_over(storage, after=timedelta(0))).claims
        begun = anyio.current_time()

        async def end() -> None:
            await anyio.sleep(4.5)
            assert await storage.finish(claim, Finish(status=JobStatus.EMPTY))

        async with anyio.create_task_group() as group:
            group.start_soon(end)
            assert (await a_worker(storage, clock=wall_clock()).run(NINE)).briefs == {}

        assert anyio.current_time() - begun == pytest.approx(5)

    async def test_heartbeats_hold_a_long_job_and_carry_its_progress(self, storage: MemoryStorage) -> None:
        seen: list[tuple[float, Progress | None]] = []

        async def long(held: Held) -> Made:
            for step in range(10):
                held.progress = Progress("sections", step, 10)
                await anyio.sleep(10.5)
                seen.append((step, (await slot(storage, held.job)).progress))
                assert not (await storage.claim(NINE, now=clock(), lease=LEASE, limit=1, types=[BRIEF])).claims
            return await make(held)

        clock = wall_clock()
        await queue(storage, a_job())

        report = await a_worker(storage, long, clock=clock).run(NINE)

        assert report.briefs == {JobStatus.COMPLETED: 1}
        assert seen == [(step, Progress("sections", step, 10)) for step in range(10)]

    async def test_work_under_a_lost_lease_is_cancelled_at_the_next_heartbeat(self, storage: MemoryStorage) -> None:
        ended: list[float] = []

        async def hang(held: Held) -> Made:
            if held.job.user_id == "bob":
                return await make(held)
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(anyio.current_time() - begun)
            raise AssertionError

        await queue(storage, a_job("ada"), a_job("bob"))
        begun = anyio.current_time()

        async def forget() -> None:
            await anyio.sleep(15)
            await storage.forget("ada")

        async with anyio.create_task_group() as group:
            group.start_soon(forget)
            report = await a_worker(storage, hang, clock=wall_clock()).run(NINE)
            assert (report.lost, report.briefs) == (1, {JobStatus.COMPLETED: 1})

        assert ended == [pytest.approx(20)]

    async def test_work_that_answers_a_cancel_with_an_error_is_lost_all_the_same(self, storage: MemoryStorage) -> None:
        async def hang(held: Held) -> Made:
            await storage.forget("ada")
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("connection closed")

        await queue(storage, a_job())

        report = await a_worker(storage, hang, clock=wall_clock()).run(NINE)

        assert (report.lost, report.retrying) == (1, 0)

    async def test_a_claim_that_is_lost_before_its_turn_is_never_run(self, storage: MemoryStorage) -> None:
        ran: list[str] = []

        async def slow(held: Held) -> Made:
            ran.append(held.job.user_id)
            await anyio.sleep(5)
            await storage.forget("user-001")
            await anyio.sleep(20)
            return await make(held)

        # The second batch of one waits, claimed, behind the job that runs.
        await queue(storage, *map(a_job, users(2)))

        report = await a_worker(storage, slow, concurrency=1, clock=wall_clock()).run(NINE)

        assert ran == ["user-000"]
        assert (report.briefs, report.lost) == ({JobStatus.COMPLETED: 1}, 1)

    async def test_while_heartbeats_fail_work_goes_on_as_long_as_its_lease(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        ended: list[float] = []

        async def hang(held: Held) -> Made:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(anyio.current_time() - begun)
            raise AssertionError

        async with Beatless(fail_from=0) as storage:
            await queue(storage, a_job())
            begun = anyio.current_time()
            with anyio.move_on_after(35):
                await a_worker(storage, hang, clock=wall_clock()).run(NINE)

        assert ended[0] == pytest.approx(30)
        assert "a heartbeat failed" in caplog.text

    async def test_heartbeats_that_fail_for_less_than_a_lease_cost_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def long(held: Held) -> Made:
            await anyio.sleep(55)
            return await make(held)

        async with Beatless(fail_from=1, fail_to=3) as storage:
            await queue(storage, a_job())
            report = await a_worker(storage, long, clock=wall_clock()).run(NINE)

        assert (report.briefs, report.lost) == ({JobStatus.COMPLETED: 1}, 0)
        assert caplog.text.count("a heartbeat failed") == 2

    async def test_what_is_made_all_the_same_counts_while_nobody_else_has_the_job(self) -> None:
        async def deaf(held: Held) -> Made:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(35)
            return Finish(status=JobStatus.EMPTY), ()

        async with Beatless(fail_from=0) as storage:
            await queue(storage, a_job())
            report = await a_worker(storage, deaf, clock=wall_clock()).run(NINE)

        assert (report.briefs, report.lost) == ({JobStatus.EMPTY: 1}, 0)

    async def test_an_error_that_follows_from_being_given_up_is_not_the_jobs_own(self) -> None:
        calls: list[str] = []

        async def hang_once(held: Held) -> Made:
            calls.append(held.job.user_id)
            if len(calls) > 1:
                return await make(held)
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("connection closed")

        async with Beatless(fail_from=0, fail_to=3) as storage:
            await queue(storage, a_job())
            worker = a_worker(storage, hang_once, clock=wall_clock(), retrying=Retrying(attempts=1))
            report = await worker.run(NINE)
            ended = await slot(storage, a_job())

        assert (report.lost, report.briefs) == (1, {JobStatus.COMPLETED: 1})
        assert ended.error is None

    async def test_nobody_beats_for_an_empty_hand(self) -> None:
        async with Beatless() as storage:
            await queue(storage, a_job())
            await take_over(storage, after=timedelta(0))
            await a_worker(storage, clock=wall_clock()).run(NINE)

        assert storage.beats == 0

    async def test_what_ends_while_claiming_is_seen_at_once(self) -> None:
        """A follow-up that was enqueued meanwhile is not found by that claim, nor is a second lost by waiting."""
        async with SlowClaims() as storage:

            async def make_and_mail(held: Held) -> Made:
                storage.slow = anyio.Event()
                await storage.waiting.wait()
                return Finish(status=JobStatus.COMPLETED), [FollowUp(a_job("ada", MAIL), b"")]

            async def send(held: Held) -> Made:
                return Finish(status=JobStatus.COMPLETED), ()

            def ended(each: Ended) -> None:
                if storage.slow is not None:
                    storage.slow.set()

            await queue(storage, a_job())
            begun = anyio.current_time()
            report = await a_worker(storage, make_and_mail, mail=send).run(NINE, ended)

        assert (report.briefs, report.mails) == ({JobStatus.COMPLETED: 1}, {JobStatus.COMPLETED: 1})
        assert anyio.current_time() == begun

    async def test_a_release_that_hangs_is_given_up_after_a_lease(self) -> None:
        async with Unreleasing() as storage:
            await queue(storage, a_job())
            begun = anyio.current_time()
            with anyio.move_on_after(5):
                await a_worker(storage, sleeping, clock=wall_clock()).run(NINE)

        assert anyio.current_time() - begun == pytest.approx(5 + 30)


def wall_clock() -> Callable[[], datetime]:
    begun = anyio.current_time()
    return lambda: NINE + timedelta(seconds=anyio.current_time() - begun)


async def sleeping(held: Held) -> Made:
    await anyio.sleep_forever()
    raise AssertionError


class Beatless(MemoryStorage):
    """A storage some of whose heartbeats fail."""

    def __init__(self, fail_from: int = 1000, fail_to: int = 1000) -> None:
        super().__init__()
        self.beats = 0
        self._failing = range(fail_from, fail_to)

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        self.beats += 1
        if self.beats - 1 in self._failing:
            raise StorageUnavailable("the network is down")
        return await super().heartbeat(claims, until)


class SlowClaims(MemoryStorage):
    """A storage whose answer to a claim is long on its way, when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: anyio.Event | None = None
        self.waiting = anyio.Event()

    async def claim(self, *args: Any, **more: Any) -> Claims:
        got = await super().claim(*args, **more)
        if self.slow is None:
            await checkpoint()
        else:
            self.waiting.set()
            await self.slow.wait()
        return got


class Unreleasing(MemoryStorage):
    async def release(self, claims: Collection[Claim]) -> None:
        await anyio.sleep_forever()


class TestStorageFailures:
    """By a clock that jumps: a result is handed in again for as long as a lease lasts."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return in_virtual_time(request.param)

    @pytest.mark.parametrize("fault", [unavailable, answer_lost])
    @pytest.mark.parametrize("at", [1, range(1, 8)])
    async def test_a_result_waits_for_a_storage_that_is_away_for_a_while(self, fault: Fault, at: Any) -> None:
        async with MemoryStorage() as kept:
            handing_in = Faults(fault, at)
            storage = Only(handing_in, kept, "finish")
            await queue(kept, a_job())

            async def send(held: Held) -> Made:
                await held.record(Progress("sending"))
                return await make(held)

            async def act(held: Held) -> Made:
                finish, _ = await make(held)
                return finish, [FollowUp(a_job(kind=MAIL, run_at=NINE), b"")]

            report = await a_worker(storage, act, mail=send, is_unsettled=is_sending).run(NINE)

            assert (report.briefs, report.mails) == ({JobStatus.COMPLETED: 1}, {JobStatus.COMPLETED: 1})
            assert report.ok
            assert handing_in.happened == (1 if at == 1 else 7)

    @pytest.mark.parametrize("fault", [unavailable, answer_lost])
    @pytest.mark.parametrize(("error", "attempts"), [(OSError("gone"), 1), (RetryLater(5), 0)])
    async def test_so_does_what_is_put_off(self, fault: Fault, error: Exception, attempts: int) -> None:
        async with MemoryStorage() as kept:
            await queue(kept, a_job())

            report = await a_worker(Only(Faults(fault, 1), kept, "retry"), raising(error)).run(NINE)

            assert (report.retrying, report.lost) == (1, 0)
            put_off = await slot(kept, a_job())
            assert (put_off.status, put_off.attempts) == (JobStatus.PENDING, attempts)

    async def test_what_somebody_else_took_over_meanwhile_is_lost_also_if_it_ended_alike(self) -> None:
        async with MemoryStorage() as kept:

            async def taken_over(call: Call) -> Any:
                (claim,) = (await take_over(kept)).claims
                assert await kept.finish(claim, Finish(status=JobStatus.COMPLETED, brief=a_brief(claim.job)))
                return await unavailable(call)

            await queue(kept, a_job())

            report = await a_worker(Only(Faults(taken_over, 1), kept, "finish")).run(NINE)

            assert (report.lost, report.briefs) == (1, {})
            assert (await slot(kept, a_job())).attempts == 2

    async def test_whoever_stops_the_run_does_not_wait_for_a_storage_that_is_away(self) -> None:
        async with Failing("finish") as storage:
            await queue(storage, a_job())

            with anyio.move_on_after(1) as scope:
                await a_worker(storage).run(NINE)

            assert scope.cancelled_caught
            assert anyio.current_time() == pytest.approx(scope.deadline)
            assert (await slot(storage, a_job())).status is JobStatus.PENDING

    async def test_a_result_that_cannot_be_stored_surfaces_as_itself_once_the_rest_has_ended(self) -> None:
        """The mail is on its way when the run is given up, and is known to have left all the same."""
        storage = Failing("finish")

        async def send(held: Held) -> Made:
            if held.job.user_id == "ada":
                return await make(held)
            await held.record(Progress("sending"))
            await anyio.sleep(LEASE.total_seconds() + 10)
            storage.failing = ()
            return await make(held)

        async with storage:
            mails = [a_job(each, MAIL) for each in ("ada", "bob", "cy")]
            await queue(storage, *mails)
            clock = wall_clock()

            with pytest.raises(StorageUnavailable) as failure:
                await a_worker(storage, mail=send, is_unsettled=is_sending, concurrency=2, clock=clock).run(NINE)

            assert failure.value is storage.error
            ada, bob, cy = [await slot(storage, mail) for mail in mails]
            assert (ada.status, ada.attempts, cy.status, cy.attempts) == (JobStatus.PENDING, 0, JobStatus.PENDING, 0)
            assert bob.status is JobStatus.COMPLETED

    async def test_a_retry_that_cannot_be_stored_surfaces_as_itself(self) -> None:
        async with Failing("retry") as storage:
            await queue(storage, a_job())

            with pytest.raises(StorageUnavailable) as failure:
                await a_worker(storage, raising(OSError("gone"))).run(NINE)

            assert failure.value is storage.error
            assert (await slot(storage, a_job())).attempts == 0

    async def test_a_claim_that_fails_surfaces_as_itself_with_its_cause(self) -> None:
        async with Failing("claim") as storage:
            with pytest.raises(StorageUnavailable) as failure:
                await a_worker(storage).run(NINE)

            assert failure.value is storage.error
            assert isinstance(failure.value.__cause__, ConnectionError)

    async def test_what_runs_while_a_claim_fails_is_run_to_its_end(self) -> None:
        async with Failing() as storage:
            await queue(storage, *map(a_job, users(3)))

            async def act(held: Held) -> Made:
                storage.failing = "claim"
                await wait_all_tasks_blocked()
                return await make(held)

            with pytest.raises(StorageUnavailable):
                await a_worker(storage, act, concurrency=3).run(NINE)

            assert await statuses(storage, *map(a_job, users(3))) == ["completed"] * 3

    async def test_ending_what_is_refused_may_fail_too(self) -> None:
        async with Failing("finish") as storage:
            await queue(storage, a_job("ada"), a_job("bob"))
            await storage.preferences.remove(["ada", "bob"])

            with pytest.raises(StorageUnavailable):
                await a_worker(storage).run(NINE)

            assert await statuses(storage, a_job("ada"), a_job("bob")) == ["pending", "pending"]

    async def test_when_releasing_fails_as_well_the_first_error_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        async with Failing("finish", "release") as storage:
            await queue(storage, a_job("ada"), a_job("bob"))

            with pytest.raises(StorageUnavailable) as failure:
                await a_worker(storage).run(NINE)

            assert failure.value is storage.error
        assert "claims could not be released; their leases will end" in caplog.text

    async def test_a_step_that_cannot_be_recorded_puts_the_job_off(self) -> None:
        async with Failing("heartbeat") as storage:
            await queue(storage, a_job())

            async def act(held: Held) -> Made:
                await held.record(Progress("sending"))
                return await make(held)

            await a_worker(storage, act, is_unsettled=is_sending).run(NINE)

            put_off = await slot(storage, a_job())
            assert (put_off.status, put_off.error) == (JobStatus.PENDING, "the network is down")


async def test_whoever_is_told_and_fails_stops_the_run_and_what_runs_is_run_to_its_end(storage: Storage) -> None:
    is_sent, is_told = anyio.Event(), anyio.Event()

    async def send(held: Held) -> Made:
        if held.job.user_id == "bob":
            await held.record(Progress("sending"))
            is_sent.set()
            await is_told.wait()
            await wait_all_tasks_blocked()
        await is_sent.wait()
        return await make(held)

    def tell(ended: Ended) -> None:
        is_told.set()
        raise RuntimeError(f"the progress bar broke at {ended.job.user_id}")

    mails = [a_job(each, MAIL) for each in ("ada", "bob", "cy")]
    await queue(storage, *mails)

    with pytest.raises(RuntimeError, match="the progress bar broke at ada"):
        await a_worker(storage, mail=send, is_unsettled=is_sending, concurrency=2).run(NINE, tell)

    assert await statuses(storage, *mails) == ["completed", "completed", "pending"]


class Only:
    """A storage of which one method goes through faults."""

    def __init__(self, faults: Faults, storage: MemoryStorage, method: str) -> None:
        self._storage = storage
        setattr(self, method, getattr(faults.around(storage), method))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class Failing(MemoryStorage):
    """A storage whose network is down for some methods."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing: Collection[str] = failing
        self.error = StorageUnavailable("the network is down")
        self.error.__cause__ = ConnectionError("no route to host")

    def _check(self, method: str) -> None:
        if method in self.failing:
            raise self.error

    async def claim(self, *args: Any, **more: Any) -> Claims:
        self._check("claim")
        return await super().claim(*args, **more)

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        self._check("heartbeat")
        return await super().heartbeat(claims, until)

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        self._check("finish")
        return await super().finish(claim, finish, follow_ups)

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        self._check("retry")
        return await super().retry(claim, at, error, counted=counted)

    async def release(self, claims: Collection[Claim]) -> None:
        self._check("release")
        await super().release(claims)


def is_sending(job: Job) -> bool:
    return job.progress is not None and job.progress.step == "sending"


async def run_until(worker: Worker, is_reached: anyio.Event) -> None:
    """Run, and cancel the run once the event is set, as Ctrl-C would."""
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run, NINE)
        with anyio.fail_after(20):
            await is_reached.wait()
        group.cancel_scope.cancel()


class TestCancelled:
    async def test_claims_are_given_back_at_once_and_the_attempt_does_not_count(self, storage: Storage) -> None:
        running, all_run = 0, anyio.Event()

        async def hang(held: Held) -> Made:
            nonlocal running
            held.progress = Progress("sections", 1, 2)
            running += 1
            if running == 2:
                all_run.set()
            return await sleeping(held)

        jobs = list(map(a_job, users(6)))
        await queue(storage, *jobs)

        # Two run, and two more are claimed and wait for their turn.
        await run_until(a_worker(storage, hang, concurrency=2), all_run)

        slots = [await slot(storage, job) for job in jobs]
        assert [(each.status, each.attempts, each.progress) for each in slots] == [("pending", 0, None)] * 6
        assert (await a_worker(storage).run(NINE)).briefs == {JobStatus.COMPLETED: 6}

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_a_cancel_by_asyncio_itself_gives_them_back_too(self, storage: Storage) -> None:
        reached = anyio.Event()

        async def hang(held: Held) -> Made:
            reached.set()
            return await sleeping(held)

        await queue(storage, a_job())
        task = asyncio.create_task(a_worker(storage, hang).run(NINE))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        given_back = await slot(storage, a_job())
        assert (given_back.status, given_back.attempts) == (JobStatus.PENDING, 0)

    async def test_what_may_have_left_is_not_given_back(self, storage: Storage) -> None:
        sending = anyio.Event()

        async def send(held: Held) -> Made:
            if held.job.user_id == "ada":
                await held.record(Progress("sending"))
                sending.set()
            return await sleeping(held)

        await queue(storage, a_job("ada", MAIL), a_job("bob", MAIL))

        await run_until(a_worker(storage, mail=send, is_unsettled=is_sending), sending)

        ada, bob = [await slot(storage, a_job(each, MAIL)) for each in ("ada", "bob")]
        assert (ada.status, ada.progress) == (JobStatus.PROCESSING, Progress("sending"))
        assert (bob.status, bob.attempts) == (JobStatus.PENDING, 0)

    async def test_what_may_be_sent_again_is_given_back_also_while_it_is_sent(self, storage: Storage) -> None:
        sending = anyio.Event()

        async def send(held: Held) -> Made:
            await held.record(Progress("sending"))
            sending.set()
            return await sleeping(held)

        await queue(storage, a_job("ada", MAIL))

        await run_until(a_worker(storage, mail=send), sending)

        ada = await slot(storage, a_job("ada", MAIL))
        assert (ada.status, ada.attempts, ada.progress) == (JobStatus.PENDING, 0, None)

    async def test_what_was_about_to_be_announced_when_the_cancel_came_is_given_back(self) -> None:
        class SlowBeats(MemoryStorage):
            async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
                lost = await super().heartbeat(claims, until)
                announced.set()
                await anyio.sleep_forever()
                return lost

        announced = anyio.Event()

        async def send(held: Held) -> Made:
            await held.record(Progress("sending"))
            raise AssertionError

        async with SlowBeats() as storage:
            await queue(storage, a_job("ada", MAIL))
            await run_until(a_worker(storage, mail=send, is_unsettled=is_sending), announced)

            ada = await slot(storage, a_job("ada", MAIL))
            assert (ada.status, ada.attempts, ada.progress) == (JobStatus.PENDING, 0, None)

    @pytest.mark.parametrize(
        ("error", "status"),
        [(None, JobStatus.COMPLETED), (NotSent("mailbox full"), JobStatus.PENDING), (OSError(), JobStatus.UNKNOWN)],
    )
    async def test_what_is_known_by_then_is_recorded(
        self, storage: Storage, error: Exception | None, status: JobStatus
    ) -> None:
        """As when Ctrl-C comes while a thread sends a mail: how that ended is not to be forgotten."""
        with anyio.CancelScope() as scope:

            async def send(held: Held) -> Made:
                await held.record(Progress("sending"))
                scope.cancel()
                if error is not None:
                    raise error
                return Finish(status=JobStatus.COMPLETED, reason="receipt"), ()

            await queue(storage, a_job("ada", MAIL))
            await a_worker(storage, mail=send, is_unsettled=is_sending).run(NINE)

        assert scope.cancelled_caught
        assert (await slot(storage, a_job("ada", MAIL))).status is status


class TestUnsettled:
    """A job by whose progress an effect may have happened that must not happen twice."""

    async def test_it_is_never_ended_as_failed_for_want_of_attempts(self, storage: Storage) -> None:
        await queue(storage, a_job("ada", MAIL))
        for hour in range(3):
            (claim,) = (await take_over(storage, after=timedelta(hours=hour))).claims
            await storage.heartbeat(
                [Claim(job=claim.job, token=claim.token, until=claim.until, progress=Progress("sending"))], claim.until
            )

        async def send(held: Held) -> Made:
            return Finish(status=JobStatus.UNKNOWN, error="a worker died"), ()

        worker = a_worker(storage, mail=send, is_unsettled=is_sending, clock=Clock(NINE + timedelta(hours=4)))
        report = await worker.run(NINE)

        assert report.mails == {JobStatus.UNKNOWN: 1}
        assert not report.ok

    async def test_whatever_else_it_fails_with_leaves_it_unknown(self, storage: Storage) -> None:
        async def send(held: Held) -> Made:
            await held.record(Progress("sending"))
            raise OSError("gone")

        await queue(storage, a_job("ada", MAIL))

        report = await a_worker(storage, mail=send, is_unsettled=is_sending).run(NINE)

        assert report.mails == {JobStatus.UNKNOWN: 1}
        assert (await slot(storage, a_job("ada", MAIL))).error == "gone"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestCancelledFromWithin:
    """Only on asyncio can awaiting a cancelled future look like a cancel."""

    async def stray(self, held: Held) -> Made:
        if held.job.user_id != "ada":
            return await make(held)
        if held.job.type == MAIL:
            await held.record(Progress("sending"))
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        raise AssertionError

    async def test_it_is_that_jobs_failure_alone(self, storage: Storage) -> None:
        await queue(storage, a_job("ada"), a_job("bob"))

        report = await a_worker(storage, self.stray).run(NINE)

        assert (report.retrying, report.briefs) == (1, {JobStatus.COMPLETED: 1})
        assert "cancelled from within" in str((await slot(storage, a_job("ada"))).error)

    async def test_what_may_have_left_is_unknown(self, storage: Storage) -> None:
        await queue(storage, a_job("ada", MAIL))

        report = await a_worker(storage, mail=self.stray, is_unsettled=is_sending).run(NINE)

        assert report.mails == {JobStatus.UNKNOWN: 1}


@pytest.mark.parametrize("status", JobStatus)
def test_a_report_is_well_unless_something_needs_an_eye(status: JobStatus) -> None:
    report = RunReport(due_by=NINE, briefs={}, mails={status: 1}, partial=1, retrying=0, lost=1, problems=[])

    assert report.ok is (status not in {JobStatus.FAILED, JobStatus.UNKNOWN})
