"""What a person does to slots by hand, over the whole way from a preference to a mail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from fanout_briefs import Briefs, CatchUp, Concern, Preference, ProjectBrief, Retrying, SectionRequest, operate
from fanout_briefs.errors import BriefFailed, InvalidSchedule, NotSent, PermanentFailure, UnknownUser
from fanout_briefs.model import JobStatus, Progress
from fanout_briefs.runs import Reconciled
from fanout_briefs.testing import Clock
from hosts import Host, Provider
from services import STORAGES, make_storage
from slots import AnyStorage as Storage

TODAY = date(2026, 3, 9)
EIGHT, NINE = (datetime(2026, 3, 9, hour, tzinfo=UTC) for hour in (8, 9))
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEY = "daily_brief:2026-03-09:ada:1"


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Storage]:
    kept = make_storage(request, tmp_path)
    async with kept:
        await kept.preferences.put([Preference(user_id="ada")])
        yield kept


@pytest.fixture
def clock() -> Clock:
    return Clock(NINE)


def the_briefs(storage: Storage, clock: Clock, host: Host | None = None, mailer: Any = None, **options: Any) -> Briefs:
    host = host or Host()
    options = {"recipients": host, "mailer": mailer or Provider(), "look_back": HOUR, "clock": clock} | options
    return Briefs(storage, projects=host, generator=host, **options)


async def done(briefs: Briefs, clock: Clock, now: datetime = NINE) -> None:
    """Plan and run at a moment."""
    clock.now = now
    await briefs.plan(now)
    await briefs.run_once(now)


async def code(briefs: Briefs, on: date = TODAY, now: datetime = NINE) -> str:
    return (await briefs.explain("ada", on, now=now)).code.value


def refuse(request: SectionRequest) -> ProjectBrief:
    raise PermanentFailure("no such model")


def say_nothing(request: SectionRequest) -> None:
    return None


def say_anew(request: SectionRequest) -> ProjectBrief:
    return ProjectBrief("anew")


class TestRetry:
    async def test_a_failed_brief_is_made_by_the_next_run_and_mailed(self, storage: Storage, clock: Clock) -> None:
        host, mailer = Host(refuse), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        await done(briefs, clock)
        assert await code(briefs) == "failed"
        host.act = None

        assert await briefs.retry("ada", TODAY)
        await briefs.run_once(NINE)

        assert await code(briefs) == "completed"
        assert mailer.delivered == {"daily_brief:2026-03-09:ada:2": 1}

    async def test_the_date_is_today_where_the_user_is(self, storage: Storage, clock: Clock) -> None:
        await storage.preferences.put([Preference(user_id="ada", timezone="Pacific/Auckland")])
        briefs = the_briefs(storage, clock, Host(refuse))
        nine_there = datetime(2026, 3, 9, 20, tzinfo=UTC)  # Of the 10th.
        await done(briefs, clock, nine_there)

        assert await briefs.retry("ada", now=nine_there)

        assert await code(briefs, date(2026, 3, 10), nine_there) == "pending"

    async def test_it_is_today_in_utc_where_the_preference_does_not_say_where_that_is(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock, Host(refuse))
        await done(briefs, clock)
        await storage.preferences.put([Preference(user_id="ada", timezone="Mars/Olympus")])

        assert await briefs.retry("ada", now=NINE + HOUR)

    async def test_a_mail_that_failed_keeps_its_key_so_that_a_provider_that_has_it_does_not_deliver_it_twice(
        self, storage: Storage, clock: Clock
    ) -> None:
        mailer = Provider(fails=[NotSent("no such mailbox", permanent=True)])
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock)
        assert await code(briefs) == "failed"

        assert await briefs.retry("ada", TODAY)
        await briefs.run_once(NINE)

        assert (await code(briefs), mailer.delivered) == ("completed", {KEY: 1})

    async def test_an_unknown_mail_is_sent_again_only_when_it_is_asked_for(
        self, storage: Storage, clock: Clock
    ) -> None:
        mailer = Provider(idempotent=False, fails=[ConnectionError("reset")])
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock)
        assert await code(briefs) == "unknown"

        assert await briefs.retry_all(now=NINE) == 0
        assert await briefs.retry_all(statuses=[JobStatus.UNKNOWN], now=NINE) == 1
        await briefs.run_once(NINE)

        assert (await code(briefs), mailer.calls) == ("completed", {KEY: 1})

    async def test_it_runs_however_late_it_is(self, storage: Storage, clock: Clock) -> None:
        host = Host(refuse)
        briefs = the_briefs(storage, clock, host)
        await done(briefs, clock)
        host.act = None
        clock.now = NINE + 5 * DAY

        await briefs.retry("ada", TODAY)
        await briefs.run_once(clock.now)

        assert await code(briefs) == "completed"

    async def test_it_does_not_run_for_somebody_who_has_switched_off_since(
        self, storage: Storage, clock: Clock
    ) -> None:
        host = Host(refuse)
        briefs = the_briefs(storage, clock, host)
        await done(briefs, clock)
        host.act = None
        await storage.preferences.put([Preference(user_id="ada", is_active=False)])

        await briefs.retry("ada", TODAY)
        await briefs.run_once(NINE)

        assert await code(briefs) == "superseded"

    async def test_all_that_failed_are_retried_at_once_however_many(
        self, storage: Storage, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(operate, "_BATCH", 50)
        people = [f"user-{number:03}" for number in range(120)]
        await storage.preferences.put([Preference(user_id=user_id) for user_id in people])
        await storage.preferences.remove(["ada"])
        host = Host(refuse, projects=1)
        briefs = the_briefs(storage, clock, host)
        await done(briefs, clock)
        host.act = None

        assert await briefs.retry_all(since=timedelta(0), now=NINE) == 120
        assert (await briefs.run_once(NINE)).briefs == {JobStatus.COMPLETED: 120}

    async def test_what_is_older_than_asked_for_is_left_alone(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock, Host(refuse))
        await done(briefs, clock)

        assert await briefs.retry_all(since=timedelta(0), now=NINE + MINUTE) == 0

    async def test_how_far_back_is_a_length_of_time(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        bad: list[Any] = [NINE, 24, -DAY]
        for since in bad:
            with pytest.raises(ValueError, match=r"since=.*must be a timedelta of zero or more"):
                await briefs.retry_all(since=since)
            with pytest.raises(ValueError, match=r"since=.*must be a timedelta of zero or more"):
                await briefs.status(since=since)

    async def test_there_may_be_nothing_to_retry(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await done(briefs, clock)

        assert not await briefs.retry("ada", TODAY)
        assert not await briefs.retry("nobody", now=NINE)


class TestCancel:
    async def test_what_is_planned_is_not_made_and_not_planned_again(self, storage: Storage, clock: Clock) -> None:
        host = Host()
        briefs = the_briefs(storage, clock, host)
        await briefs.plan(EIGHT)

        assert await briefs.cancel("ada", TODAY)
        await done(briefs, clock)

        assert (await code(briefs), host.requests) == ("withdrawn", [])

    async def test_a_date_that_no_plan_has_reached_can_be_withdrawn_too(self, storage: Storage, clock: Clock) -> None:
        host = Host()
        briefs = the_briefs(storage, clock, host)

        assert await briefs.cancel("ada", TODAY + DAY, now=EIGHT)
        await done(briefs, clock)
        await done(briefs, clock, NINE + DAY)
        await done(briefs, clock, NINE + 2 * DAY)

        assert [await code(briefs, TODAY + day * DAY) for day in range(3)] == ["completed", "withdrawn", "completed"]
        starts = [request.window.start for request in host.requests if request.project.id == "p0"]
        assert starts == [NINE - DAY - 15 * MINUTE, NINE - 15 * MINUTE]  # The next brief covers that day as well.

    async def test_a_worker_that_looks_meanwhile_finds_nothing_to_make(self, storage: Storage, clock: Clock) -> None:
        host = Host()
        briefs: Briefs

        class Hurried:
            async def enqueue(self, jobs: Any) -> Any:
                answer = await storage.enqueue(jobs)
                await briefs.run_once(NINE)
                return answer

            def __getattr__(self, name: str) -> Any:
                return getattr(storage, name)

        briefs = the_briefs(Hurried(), clock, host)  # type: ignore[arg-type]  # by delegation
        assert await briefs.cancel("ada", TODAY)
        assert (await code(briefs), host.requests) == ("withdrawn", [])

    async def test_a_slot_that_was_superseded_stays_withdrawn_when_the_schedule_has_it_again(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        await storage.preferences.put([Preference(user_id="ada", is_active=False)])
        await briefs.run_once(EIGHT + 59 * MINUTE)
        await storage.preferences.put([Preference(user_id="ada")])

        assert await briefs.cancel("ada", TODAY)
        await done(briefs, clock)

        assert await code(briefs) == "withdrawn"

    async def test_a_mail_that_waits_for_its_time_is_withdrawn(self, storage: Storage, clock: Clock) -> None:
        mailer = Provider()
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock, NINE - MINUTE)

        assert await briefs.cancel("ada", TODAY)
        await done(briefs, clock)

        assert (await code(briefs), mailer.calls) == ("withdrawn", {})

    async def test_what_is_done_or_not_scheduled_is_not_there_to_be_withdrawn(
        self, storage: Storage, clock: Clock
    ) -> None:
        await storage.preferences.put([Preference(user_id="ada", frequency="weekly", day_of_week=1)])
        briefs = the_briefs(storage, clock)
        await done(briefs, clock)

        assert not await briefs.cancel("ada", TODAY)
        assert not await briefs.cancel("ada", TODAY + DAY)
        assert not await briefs.cancel("nobody", TODAY)

    async def test_a_schedule_that_cannot_be_read_is_told(self, storage: Storage, clock: Clock) -> None:
        await storage.preferences.put([Preference(user_id="ada", time_of_day="25:00")])

        with pytest.raises(InvalidSchedule, match="25:00"):
            await the_briefs(storage, clock).cancel("ada", TODAY)


class TestRegenerate:
    async def test_the_brief_is_made_again_for_the_same_window_and_not_mailed_again(
        self, storage: Storage, clock: Clock
    ) -> None:
        host, mailer = Host(), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        await done(briefs, clock)
        await done(briefs, clock, NINE + DAY)
        host.act = say_anew
        clock.now = NINE + DAY

        assert await briefs.regenerate("ada", TODAY)
        await briefs.run_once(NINE + DAY)

        made = await storage.brief("daily_brief", "ada", TODAY)
        assert made is not None
        assert (made.epoch, [section.text for section in made.sections]) == (2, ["anew", "anew"])
        assert host.requests[-1].window == host.requests[0].window
        assert mailer.delivered == {KEY: 1, "daily_brief:2026-03-10:ada:1": 1}

    async def test_it_is_mailed_again_when_that_is_asked_for(self, storage: Storage, clock: Clock) -> None:
        mailer = Provider()
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock)

        assert await briefs.regenerate("ada", TODAY, resend=True)
        await briefs.run_once(NINE)

        assert mailer.delivered == {KEY: 1, "daily_brief:2026-03-09:ada:2": 1}

    async def test_a_mail_that_never_went_out_goes_out_with_the_new_brief(self, storage: Storage, clock: Clock) -> None:
        mailer = Provider(fails=[NotSent("no such mailbox", permanent=True)])
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock)

        assert await briefs.regenerate("ada", TODAY)
        await briefs.run_once(NINE)

        assert mailer.delivered == {"daily_brief:2026-03-09:ada:2": 1}

    async def test_a_brief_that_is_not_finished_is_left_alone(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)

        assert not await briefs.regenerate("ada", TODAY)
        assert not await briefs.regenerate("ada", TODAY + DAY)


class TestGenerateNow:
    async def test_todays_brief_is_made_at_once_and_the_schedule_makes_no_second_one(
        self, storage: Storage, clock: Clock
    ) -> None:
        host, mailer = Host(), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        clock.now = EIGHT

        brief = await briefs.generate_now("ada", now=EIGHT)
        await done(briefs, clock)

        assert brief is not None
        assert (brief.occurrence.local_date, brief.window.end) == (TODAY, EIGHT)
        assert len(host.requests) == 2
        assert mailer.delivered == {KEY: 1}

    async def test_the_next_brief_begins_where_it_ended(self, storage: Storage, clock: Clock) -> None:
        host = Host()
        briefs = the_briefs(storage, clock, host)
        clock.now = EIGHT
        await briefs.generate_now("ada", now=EIGHT)

        await done(briefs, clock, NINE + DAY)

        assert host.requests[-1].window.start == EIGHT

    async def test_a_brief_that_is_queued_already_is_made_instead_of_it(self, storage: Storage, clock: Clock) -> None:
        host, mailer = Host(), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        await briefs.plan(EIGHT)
        clock.now = EIGHT

        await briefs.generate_now("ada", now=EIGHT)
        await done(briefs, clock)

        assert len(host.requests) == 2
        assert mailer.delivered == {"daily_brief:2026-03-09:ada:2": 1}

    async def test_one_that_was_mailed_is_mailed_again_only_if_that_is_asked_for(
        self, storage: Storage, clock: Clock
    ) -> None:
        mailer = Provider()
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock)
        clock.now = NINE + HOUR

        await briefs.generate_now("ada", now=NINE + HOUR)
        await briefs.run_once(NINE + HOUR)
        assert mailer.delivered == {KEY: 1}
        await briefs.generate_now("ada", now=NINE + HOUR, resend=True)
        await briefs.run_once(NINE + HOUR)

        assert mailer.delivered == {KEY: 1, "daily_brief:2026-03-09:ada:3": 1}

    async def test_schedule_and_engagement_are_not_asked(self, storage: Storage, clock: Clock) -> None:
        class CoolingOff:
            async def last_visits(self, user_ids: Any) -> dict[str, datetime | None]:
                return dict.fromkeys(user_ids, NINE - 3 * DAY)

        await storage.preferences.put([Preference(user_id="ada", frequency="monthly", days=[1])])
        briefs = the_briefs(storage, clock, engagement=CoolingOff())

        assert await briefs.generate_now("ada", now=NINE) is not None

    async def test_there_may_be_nothing_to_say(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock, Host(say_nothing))

        assert await briefs.generate_now("ada", now=NINE) is None

    async def test_a_failure_is_told_and_whether_it_is_tried_again(self, storage: Storage, clock: Clock) -> None:
        def fail(request: SectionRequest) -> ProjectBrief:
            raise OSError("the model is away")

        with pytest.raises(BriefFailed, match=r"(?s)is failed: .*no such model"):
            await the_briefs(storage, clock, Host(refuse)).generate_now("ada", now=NINE)
        briefs = the_briefs(storage, clock, Host(fail), name="other", retrying=Retrying(first=HOUR))
        with pytest.raises(BriefFailed, match=r"(?s)is pending, to be tried again at 2026-03-09 .*the model is away"):
            await briefs.generate_now("ada", now=NINE)

    async def test_why_it_cannot_be_made_now_is_told(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(NINE)
        with pytest.raises(BriefFailed, match="an earlier one of the user has to be made first"):
            await briefs.generate_now("ada", now=NINE + DAY)
        await briefs.pause(NINE)
        with pytest.raises(BriefFailed, match="briefs are paused, resume them first"):
            await briefs.generate_now("ada", now=NINE)
        await briefs.resume(NINE)
        await storage.preferences.put([Preference(user_id="ada", is_active=False)])
        with pytest.raises(BriefFailed, match="is cancelled: the brief was switched off"):
            await briefs.generate_now("ada", now=NINE)

    async def test_an_unknown_user_is_named(self, storage: Storage, clock: Clock) -> None:
        with pytest.raises(UnknownUser, match="bob"):
            await the_briefs(storage, clock).generate_now("bob", now=NINE)


class TestPause:
    async def test_nothing_is_made_and_nothing_is_sent_in_between(self, storage: Storage, clock: Clock) -> None:
        host, mailer = Host(), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        await briefs.plan(EIGHT)

        assert await briefs.pause(EIGHT)
        assert not await briefs.pause(EIGHT)
        await done(briefs, clock)

        assert (host.requests, mailer.calls) == ([], {})
        assert await code(briefs) == "paused"

    async def test_a_mail_that_was_queued_waits_too(self, storage: Storage, clock: Clock) -> None:
        mailer = Provider()
        briefs = the_briefs(storage, clock, mailer=mailer)
        await done(briefs, clock, NINE - MINUTE)
        await briefs.pause(NINE)
        await done(briefs, clock)
        assert mailer.calls == {}

        await briefs.resume(NINE + HOUR)
        await done(briefs, clock, NINE + HOUR)

        assert mailer.delivered == {KEY: 1}

    async def test_another_kind_of_brief_goes_on(self, storage: Storage, clock: Clock) -> None:
        other = the_briefs(storage, clock, name="other_brief")
        await the_briefs(storage, clock).pause(EIGHT)

        await done(other, clock)

        assert await code(other) == "completed"

    async def test_what_fell_into_a_short_pause_comes_after_it(self, storage: Storage, clock: Clock) -> None:
        host, mailer = Host(), Provider()
        briefs = the_briefs(storage, clock, host, mailer)
        await briefs.plan(EIGHT - HOUR)
        await briefs.pause(EIGHT - HOUR)
        await done(briefs, clock)
        assert await code(briefs) == "paused"

        assert await briefs.resume(NINE + 2 * HOUR) == 1
        await done(briefs, clock, NINE + 2 * HOUR)

        assert (await code(briefs), mailer.delivered) == ("completed", {"daily_brief:2026-03-09:ada:2": 1})

    @pytest.mark.parametrize(
        ("catch_up", "codes"),
        [
            (CatchUp.SKIP, ["paused", "paused", "paused"]),
            (CatchUp.LATEST, ["paused", "newer_occurrence", "completed"]),
            (CatchUp.EACH, ["paused", "completed", "completed"]),
        ],
    )
    async def test_a_long_pause_is_caught_up_with_as_an_outage_is(
        self, storage: Storage, clock: Clock, catch_up: CatchUp, codes: list[str]
    ) -> None:
        briefs = the_briefs(storage, clock, catch_up=catch_up, max_lateness=30 * HOUR)
        await briefs.pause(EIGHT)
        for day in range(3):
            await done(briefs, clock, NINE + day * DAY)
        back = NINE + 2 * DAY + HOUR

        await briefs.resume(back)
        await done(briefs, clock, back)

        assert [await code(briefs, TODAY + day * DAY, back) for day in range(3)] == codes

    async def test_what_was_queued_before_a_pause_and_is_too_late_after_it_says_so(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        await briefs.pause(EIGHT)

        assert await briefs.resume(NINE + 2 * DAY) == 0

        assert await code(briefs, now=NINE + 2 * DAY) == "paused"

    async def test_what_is_not_paused_cannot_be_resumed(self, storage: Storage, clock: Clock) -> None:
        assert await the_briefs(storage, clock).resume(NINE) is None


class TestStatus:
    async def test_all_numbers_are_there_and_all_is_well_once_somebody_plans(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock)

        fresh = await briefs.status(EIGHT)
        await briefs.plan(EIGHT)
        planned = await briefs.status(EIGHT)
        await done(briefs, clock)
        ran = await briefs.status(NINE)

        assert fresh.concerns == [Concern.NEVER_PLANNED]
        assert planned.ok
        assert (fresh.briefs.planned_at, fresh.briefs.soon, fresh.briefs.ended) == (None, 0, {})
        assert (planned.briefs.planned_at, planned.briefs.soon, planned.briefs.overdue) == (EIGHT, 1, 0)
        assert ran.mails is not None
        assert ran.ok
        assert (ran.briefs.ended, ran.mails.ended) == ({JobStatus.COMPLETED: 1}, {JobStatus.COMPLETED: 1})

    async def test_without_a_mailer_there_are_no_mails(self, storage: Storage, clock: Clock) -> None:
        host = Host()
        briefs = Briefs(storage, projects=host, generator=host)

        assert (await briefs.status(NINE)).mails is None

    async def test_what_is_overdue_is_told_and_since_when(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)

        late = (await briefs.status(NINE + HOUR)).briefs

        assert late.overdue == 1
        assert late.oldest is not None
        assert NINE - 15 * MINUTE <= late.oldest < NINE

    @pytest.mark.parametrize(
        ("host", "mailer", "error"),
        [
            (Host(refuse), Provider(), "no such model"),
            (Host(), Provider(fails=[NotSent("no such mailbox", permanent=True)]), "no such mailbox"),
            (Host(), Provider(idempotent=False, fails=[ConnectionError("reset")]), "reset"),
        ],
    )
    async def test_what_failed_or_is_unknown_is_told_by_its_error(
        self, storage: Storage, clock: Clock, host: Host, mailer: Provider, error: str
    ) -> None:
        briefs = the_briefs(storage, clock, host, Provider(idempotent=mailer.idempotent, fails=mailer.fails))
        await done(briefs, clock)

        status = await briefs.status(NINE)

        assert not status.ok
        assert status.mails is not None
        (trouble,) = [*status.briefs.troubles, *status.mails.troubles]
        assert (trouble.count, trouble.latest, error in str(trouble.error)) == (1, NINE, True)
        assert (await briefs.status(NINE + 2 * DAY)).concerns == [Concern.PLAN_OVERDUE]

    async def test_it_is_a_concern_that_nobody_plans_for_longer_than_a_plan_looks_ahead(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)

        in_time, late = await briefs.status(EIGHT + HOUR), await briefs.status(EIGHT + HOUR + MINUTE)

        assert (in_time.ok, in_time.horizon) == (True, HOUR)
        assert (late.ok, late.concerns) == (False, [Concern.PLAN_OVERDUE])

    async def test_it_is_a_concern_that_work_waits_for_longer_than_that_but_not_in_a_pause(
        self, storage: Storage, clock: Clock
    ) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        await briefs.plan(NINE + HOUR)

        late = await briefs.status(NINE + HOUR)
        await briefs.pause(NINE + HOUR)
        paused = await briefs.status(NINE + HOUR)

        assert late.concerns == [Concern.WORK_OVERDUE]
        assert paused.ok

    async def test_a_short_horizon_leaves_five_minutes_to_plan_and_to_work(
        self, storage: Storage, clock: Clock
    ) -> None:
        host = Host()
        briefs = Briefs(storage, projects=host, generator=host, horizon=timedelta(0), clock=clock)
        await briefs.plan(EIGHT)

        assert (await briefs.status(EIGHT + 5 * MINUTE)).ok
        assert (await briefs.status(EIGHT + 6 * MINUTE)).concerns == [Concern.PLAN_OVERDUE]


class TestReconcile:
    @pytest.fixture
    def abandon(self, storage: Storage) -> Callable[[str, int], Any]:
        async def abandon(type: str, times: int) -> None:  # noqa: A002  # as the port has it
            for _ in range(times):
                lease = timedelta(seconds=1)
                await storage.claim(NINE, now=NINE - HOUR, lease=lease, limit=10, types=[type])

        return abandon

    async def test_a_brief_that_a_dead_worker_left_is_put_back_and_made(
        self, storage: Storage, clock: Clock, abandon: Callable[[str, int], Any]
    ) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        await abandon("daily_brief", 1)
        assert (await briefs.status(NINE)).briefs.abandoned == 1

        found = await briefs.reconcile(NINE)

        assert (found.returned, found.unknown, found.failed, found.ok) == (1, 0, 0, True)
        assert (await briefs.status(NINE)).briefs.abandoned == 0
        assert (await storage.find(["daily_brief:2026-03-09:ada"]))["daily_brief:2026-03-09:ada"].attempts == 1
        await done(briefs, clock)
        assert await code(briefs) == "completed"

    async def test_what_is_held_by_a_worker_that_lives_is_left_alone(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        await storage.claim(NINE, now=NINE, lease=HOUR, limit=10, types=["daily_brief"])

        found = await briefs.reconcile(NINE)

        assert (found.returned, found.unknown, found.failed) == (0, 0, 0)
        assert (await briefs.status(NINE)).briefs.running == 1

    async def test_a_mail_that_may_have_left_becomes_unknown(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock, mailer=Provider(idempotent=False))
        await done(briefs, clock, NINE - MINUTE)
        lease = timedelta(seconds=1)
        got = await storage.claim(NINE, now=NINE, lease=lease, limit=1, types=["generate_brief_email.daily_brief"])
        await storage.heartbeat([evolve(got.claims[0], progress=Progress("sending"))], NINE + lease)

        found = await briefs.reconcile(NINE + HOUR)

        assert (found.returned, found.unknown, found.ok) == (0, 1, False)
        assert await code(briefs) == "unknown"

    async def test_a_job_whose_workers_keep_dying_is_given_up(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        await briefs.plan(EIGHT)
        lease = timedelta(seconds=1)
        got = await storage.claim(NINE, now=NINE, lease=lease, limit=1, types=["daily_brief"])
        await storage.heartbeat([evolve(got.claims[0], progress=Progress("starting", alone=True))], NINE + lease)

        found = await briefs.reconcile(NINE + HOUR)

        assert (found.returned, found.failed, found.ok) == (0, 1, False)
        assert await code(briefs) == "failed"


class TestPrune:
    async def test_all_but_the_latest_of_each_user_goes(self, storage: Storage, clock: Clock) -> None:
        briefs = the_briefs(storage, clock)
        for day in range(5):
            await done(briefs, clock, NINE + day * DAY)

        assert await briefs.prune(2 * DAY, now=NINE + 5 * DAY) == 6
        assert await briefs.prune(2 * DAY, now=NINE + 5 * DAY) == 0

        kept = [await storage.brief("daily_brief", "ada", TODAY + day * DAY) is not None for day in range(5)]
        assert kept == [False, False, False, True, True]
        assert await briefs.prune(2 * DAY, now=NINE + 50 * DAY) == 2
        assert await briefs.latest("ada") is not None

    async def test_it_keeps_what_a_plan_could_make_again(self, storage: Storage, clock: Clock) -> None:
        with pytest.raises(ValueError, match=r"older_than=12:00:00: must be more than 13:15:00"):
            await the_briefs(storage, clock).prune(12 * HOUR, now=NINE)


class TestClock:
    async def test_the_present_is_that_of_the_clock_that_was_given(self, storage: Storage, clock: Clock) -> None:
        clock.now = datetime(2020, 3, 9, 9, tzinfo=UTC)
        told: list[Any] = []

        async def ask() -> None:
            told.append(await briefs.reconcile())
            told.append((await briefs.status()).now)
            told.append((await briefs.explain("ada")).on)

        class Asking(Host):
            async def generate(self, request: SectionRequest) -> ProjectBrief | None:
                await ask()
                return await super().generate(request)

        briefs = the_briefs(storage, clock, Asking(projects=1))
        await briefs.plan(clock.now)
        report = await briefs.run_once(clock.now)
        assert (report.lost, report.briefs) == (0, {JobStatus.COMPLETED: 1})
        assert told == [Reconciled(), clock.now, date(2020, 3, 9)]
