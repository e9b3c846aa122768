"""Every user and date has an answer, it is the ledger's, and what is foretold is what the next plan records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from attrs import frozen

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.briefs import Briefs
from fanout_briefs.errors import InvalidSchedule, PermanentFailure, UnknownUser
from fanout_briefs.explain import Code, Explanation, Stage
from fanout_briefs.model import (
    Change,
    Finish,
    JobStatus,
    Mail,
    Occurrence,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    SkipReason,
    Window,
)
from fanout_briefs.plans import Verdict
from fanout_briefs.timing import CatchUp

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
TODAY = date(2026, 3, 9)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KEY = "daily_brief:2026-03-09:ada"
Storage = MemoryStorage | SqliteStorage


class Host:
    """A host application of one user's; a test sets what is to go wrong."""

    idempotent = False

    def __init__(self) -> None:
        self.projects: Sequence[Project] = [Project("p", "Project")]
        self.recipients: Mapping[str, Recipient] = {"ada": Recipient("ada@example.com")}
        self.visits: Mapping[str, datetime | None] = {"ada": None}
        self.generates: Exception | None = None
        self.sends: Exception | None = None

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await checkpoint()
        return self.projects

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        await checkpoint()
        if self.generates is not None:
            raise self.generates
        return ProjectBrief("text")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await checkpoint()
        return self.recipients

    async def send(self, mail: Mail, key: str) -> Receipt:
        await checkpoint()
        if self.sends is not None:
            raise self.sends
        return Receipt("message-1")

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        await checkpoint()
        return self.visits


class World:
    """A host, its storage, and the brief between them."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.host = Host()

    def briefs(self, **options: Any) -> Briefs:
        host = self.host
        wired: dict[str, Any] = {"look_back": HOUR, "recipients": host, "mailer": host, "engagement": host}
        return Briefs(self.storage, projects=host, generator=host, **(wired | options))

    async def prefer(self, **fields: Any) -> None:
        await self.storage.preferences.put([Preference(user_id="ada", **fields)])

    async def plan(self, now: datetime = NINE, **options: Any) -> None:
        await self.briefs(**options).plan(now)

    async def run(self, now: datetime = NINE, **options: Any) -> None:
        await self.plan(now, **options)
        await self.briefs(**options).run_once(now)


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[World]:
    storage = MemoryStorage() if request.param == "memory" else SqliteStorage(tmp_path / "briefs.db")
    async with storage:
        yield World(storage)


# How each answer comes about; each leaves the world such that ada's brief of the 9th has it --------------

Scenario = Callable[[World], Awaitable[None]]


async def no_preference(world: World) -> None:
    await world.plan()


async def switched_off(world: World) -> None:
    await world.prefer(is_active=False)
    await world.plan()


async def switched_off_and_unusable(world: World) -> None:
    await world.prefer(is_active=False, frequency="hourly")
    await world.plan()


async def unusable(world: World) -> None:
    await world.prefer(timezone="Mars/Olympus")
    await world.plan()


async def not_that_day(world: World) -> None:
    await world.prefer(frequency="weekly", day_of_week=5)
    await world.plan()


async def effective_later(world: World) -> None:
    await world.prefer(effective_from=NINE + HOUR)
    await world.plan()


async def signed_up_after_the_plan(world: World) -> None:
    await world.plan(NINE + MINUTE)
    await world.prefer()


async def before_the_first_plan(world: World) -> None:
    await world.prefer(time_of_day="07:59")


async def beyond_the_horizon(world: World) -> None:
    await world.prefer(time_of_day="10:15")
    await world.plan()


async def within_the_horizon_but_not_planned(world: World) -> None:
    await world.prefer(time_of_day="10:14")


async def stayed_away(world: World) -> None:
    world.host.visits = {"ada": NINE - 3 * DAY}
    await world.prefer()
    await world.plan()


async def would_have_stayed_away(world: World) -> None:
    world.host.visits = {"ada": NINE - 3 * DAY}
    await world.prefer()


async def stayed_away_since(world: World) -> None:
    await world.prefer()
    await world.plan()
    world.host.visits = {"ada": NINE - 3 * DAY}
    await world.briefs().run_once(NINE)


async def activity_unreadable(world: World) -> None:
    world.host.visits = {}
    await world.prefer()
    await world.plan()


async def changed_since(world: World) -> None:
    await world.prefer()
    await world.plan()
    await world.prefer(time_of_day="09:01")
    await world.briefs().run_once(NINE)


async def withdrawn(world: World) -> None:
    await world.prefer()
    await world.plan()
    await world.storage.change([KEY], Change.CANCEL)


async def paused(world: World) -> None:
    await world.prefer()
    await world.plan()
    claims = await world.storage.claim(NINE, now=NINE, lease=MINUTE, limit=1, types=["daily_brief"])
    await world.storage.finish(claims.claims[0], Finish(status=JobStatus.CANCELLED, code=SkipReason.PAUSED))


async def long_missed(world: World) -> None:
    await world.plan(NINE - HOUR)
    await world.prefer()
    await world.plan(NINE + 13 * HOUR)


async def missed(world: World) -> None:
    await world.plan(NINE - 3 * HOUR, catch_up="skip")
    await world.prefer()
    await world.plan(NINE + HOUR, catch_up="skip")


async def missed_before_another(world: World) -> None:
    await world.plan(NINE - HOUR, max_lateness=3 * DAY)
    await world.prefer()
    await world.plan(NINE + DAY + HOUR, max_lateness=3 * DAY)


async def another_nearby(world: World) -> None:
    await world.prefer(timezone="Etc/GMT-14", time_of_day="00:30")  # the 10th there, half past ten of the 9th in UTC
    await world.plan(NINE + HOUR / 2, tolerance=HOUR)
    await world.prefer(time_of_day="10:00")
    await world.plan(NINE + HOUR / 2, tolerance=HOUR)


async def unreachable(world: World) -> None:
    world.host.recipients = {}
    await world.prefer()
    await world.run()


async def opted_out(world: World) -> None:
    world.host.recipients = {"ada": Recipient("ada@example.com", opted_out=True)}
    await world.prefer()
    await world.run()


async def planned(world: World) -> None:
    await world.prefer()
    await world.plan()


async def made_but_not_yet_sent(world: World) -> None:
    await world.prefer()
    await world.run(NINE - MINUTE)


async def being_made(world: World) -> None:
    await world.prefer()
    await world.plan()
    await world.storage.claim(NINE, now=NINE, lease=MINUTE, limit=1, types=["daily_brief"])


async def sent(world: World) -> None:
    await world.prefer()
    await world.run()


async def made_without_a_mailer(world: World) -> None:
    await world.prefer()
    await world.run(mailer=None)


async def nothing_to_say(world: World) -> None:
    world.host.projects = []
    await world.prefer()
    await world.run()


async def making_failed(world: World) -> None:
    world.host.generates = PermanentFailure("account closed")
    await world.prefer()
    await world.run()


async def sending_failed(world: World) -> None:
    world.host.sends = PermanentFailure("blocked")
    await world.prefer()
    await world.run()


async def nobody_knows(world: World) -> None:
    world.host.sends = ConnectionError("reset")
    await world.prefer()
    await world.run()


async def sent_and_switched_off_since(world: World) -> None:
    await sent(world)
    await world.prefer(is_active=False)


async def sent_and_preference_gone_since(world: World) -> None:
    await sent(world)
    await world.storage.preferences.remove(["ada"])


SCENARIOS: list[tuple[Scenario, Code, str, str]] = [
    # what happened, the code, the last stage, and words in it
    (no_preference, SkipReason.NO_PREFERENCE, "preference", "none is known"),
    (switched_off, SkipReason.SWITCHED_OFF, "preference", "switched off"),
    (switched_off_and_unusable, SkipReason.SWITCHED_OFF, "preference", "switched off"),
    (unusable, SkipReason.INVALID_SCHEDULE, "preference", "unusable: timezone='Mars/Olympus'"),
    (not_that_day, SkipReason.NOT_SCHEDULED, "due", "no occurrence on this date"),
    (effective_later, SkipReason.NOT_YET_EFFECTIVE, "window", "before the preference took effect at 2026-03-09T10:00"),
    (
        signed_up_after_the_plan,
        SkipReason.NOT_YET_EFFECTIVE,
        "window",
        "plans have passed it, up to 2026-03-09 09:01:00 UTC",
    ),
    (before_the_first_plan, SkipReason.NOT_YET_EFFECTIVE, "window", "before 2026-03-09 08:00:00 UTC, where the first"),
    (beyond_the_horizon, SkipReason.NOT_YET_DUE, "window", "plans see it from 2026-03-09 09:00:00 UTC on"),
    (within_the_horizon_but_not_planned, SkipReason.NOT_YET_DUE, "slot", "no plan has recorded it yet"),
    (stayed_away, SkipReason.ENGAGEMENT, "slot", "skipped, engagement, cooling_off"),
    (would_have_stayed_away, SkipReason.ENGAGEMENT, "engagement", "engagement: cooling_off"),
    (stayed_away_since, SkipReason.ENGAGEMENT, "slot", "skipped, engagement, cooling_off"),
    (activity_unreadable, SkipReason.ENGAGEMENT_UNAVAILABLE, "engagement", "activity could not be read"),
    (changed_since, SkipReason.SUPERSEDED, "slot", "cancelled, superseded, the schedule now says"),
    (withdrawn, SkipReason.WITHDRAWN, "slot", "cancelled, withdrawn"),
    (paused, SkipReason.PAUSED, "slot", "cancelled, paused"),
    (long_missed, SkipReason.TOO_LATE, "slot", "skipped, too_late"),
    (missed, SkipReason.MISSED, "slot", "skipped, missed"),
    (missed_before_another, SkipReason.NEWER_OCCURRENCE, "slot", "skipped, newer_occurrence"),
    (another_nearby, SkipReason.NEARBY_JOB, "slot", "skipped, nearby_job, another job lies within 1:00:00"),
    (unreachable, SkipReason.UNREACHABLE, "mail", "skipped, unreachable"),
    (opted_out, SkipReason.OPTED_OUT, "mail", "skipped, opted_out"),
    (planned, JobStatus.PENDING, "slot", "pending, no_last_visit, starts at 2026-03-09 08:"),
    (made_but_not_yet_sent, JobStatus.PENDING, "mail", "pending, starts at 2026-03-09 09:00:00 UTC (epoch 1"),
    (being_made, JobStatus.PROCESSING, "slot", "running (epoch 1, attempts 1)"),
    (sent, JobStatus.COMPLETED, "mail", "completed, message-1"),
    (made_without_a_mailer, JobStatus.COMPLETED, "mail", "none was queued: the brief was saved without a mailer"),
    (nothing_to_say, JobStatus.EMPTY, "slot", "empty"),
    (making_failed, JobStatus.FAILED, "slot", "account closed"),
    (sending_failed, JobStatus.FAILED, "mail", "blocked"),
    (nobody_knows, JobStatus.UNKNOWN, "mail", "the mailer failed half-way"),
    (sent_and_switched_off_since, JobStatus.COMPLETED, "mail", "completed"),
    (sent_and_preference_gone_since, JobStatus.COMPLETED, "mail", "completed"),
]


@pytest.mark.parametrize(
    ("scenario", "code", "stage", "words"), SCENARIOS, ids=[scenario.__name__ for scenario, *_ in SCENARIOS]
)
async def test_each_way_has_its_answer_and_the_ledger_agrees(
    world: World, scenario: Scenario, code: Code, stage: str, words: str
) -> None:
    await scenario(world)

    told = await world.briefs().explain("ada", TODAY, now=NINE)

    assert told.code == code
    assert (told.user_id, told.on) == ("ada", TODAY)
    assert told.stages[-1].name == stage
    assert words in told.stages[-1].verdict
    slots = await world.storage.find([KEY, f"generate_brief_email.{KEY}"])
    assert (told.job, told.mail) == (slots.get(KEY), slots.get(f"generate_brief_email.{KEY}"))
    recorded = told.mail or told.job
    if recorded is not None:
        assert code == (recorded.code or recorded.status)
        assert told.occurrence == Occurrence(TODAY, recorded.occurrence.deliver_at)


def test_there_is_a_scenario_for_every_code_that_can_be_an_answer() -> None:
    elsewhere = {
        SkipReason.INVALID_USER_ID,  # below
        SkipReason.STORAGE_UNAVAILABLE,  # of a plan; here, what the storage raises surfaces
        SkipReason.DUPLICATE_USER,  # of a page; the user has an answer all the same
        JobStatus.SKIPPED,  # always with a code
        JobStatus.CANCELLED,  # likewise
    }
    answered = {code for _, code, _, _ in SCENARIOS}
    assert answered == {*JobStatus, *SkipReason} - elsewhere


class TestTheNextOne:
    async def test_it_is_the_first_after_the_moment_and_has_the_ledgers_answer(self, world: World) -> None:
        await world.prefer(time_of_day="09:00", timezone="Europe/Paris")
        briefs, eight = world.briefs(), NINE - HOUR  # which is nine in Paris
        planned_ahead = await briefs.next("ada", now=eight - MINUTE)
        assert (planned_ahead.on, planned_ahead.code) == (TODAY, SkipReason.NOT_YET_DUE)
        await world.plan(eight - MINUTE)
        queued = await briefs.next("ada", now=eight - MINUTE)
        assert queued.occurrence == Occurrence(TODAY, eight)
        assert queued.code is JobStatus.PENDING
        assert (await briefs.next("ada", now=eight)).occurrence == Occurrence(TODAY + DAY, eight + DAY)

    async def test_who_has_none_is_told_why(self, world: World) -> None:
        with pytest.raises(UnknownUser):
            await world.briefs().next("ada", now=NINE)
        await world.prefer(is_active=False)
        assert (await world.briefs().next("ada", now=NINE)).code is SkipReason.SWITCHED_OFF
        await world.prefer(frequency="hourly")
        with pytest.raises(InvalidSchedule):
            await world.briefs().next("ada", now=NINE)

    async def test_without_a_moment_it_is_after_now(self, world: World) -> None:
        await world.prefer()
        found = await world.briefs().next("ada")
        assert found.occurrence is not None
        assert found.occurrence.deliver_at > datetime.now(UTC)


@pytest.mark.parametrize("user_id", ["", "a" * 256, "a\nb", "a\x00b", "\ud800"])
async def test_an_id_that_nobody_can_have_is_told_why(world: World, user_id: str) -> None:
    told = await world.briefs().explain(user_id, None, now=NINE)

    assert told.code is SkipReason.INVALID_USER_ID
    assert told.on == TODAY
    assert told.stages[0].verdict.startswith("the id must ")


class TestWhichDate:
    async def test_without_a_date_it_is_today_in_the_users_own_zone(self, world: World) -> None:
        await world.prefer(timezone="Pacific/Kiritimati")

        told = await world.briefs().explain("ada", now=NINE + 3 * HOUR)

        assert told.on == date(2026, 3, 10)
        assert told.occurrence == Occurrence(date(2026, 3, 10), NINE + 10 * HOUR)

    async def test_without_a_schedule_it_is_today_in_utc(self, world: World) -> None:
        assert (await world.briefs().explain("ada", now=NINE)).on == TODAY

    async def test_without_a_moment_it_is_now(self, world: World) -> None:
        told = await world.briefs().explain("ada")

        assert abs(told.on - datetime.now(UTC).date()) <= DAY

    async def test_a_date_that_the_zone_never_had_has_no_occurrence(self, world: World) -> None:
        await world.prefer(timezone="Pacific/Apia")

        told = await world.briefs().explain("ada", date(2011, 12, 30), now=NINE)

        assert (told.code, told.occurrence) == (SkipReason.NOT_SCHEDULED, None)


class TestStages:
    async def test_they_lead_from_preference_to_mail(self, world: World) -> None:
        await sent(world)

        told = await world.briefs().explain("ada", TODAY, now=NINE)

        assert told.stages[0] == Stage("preference", "daily at 09:00:00 in UTC")
        assert [stage.name for stage in told.stages] == ["preference", "slot", "mail"]

    async def test_what_is_foretold_is_shown_step_by_step(self, world: World) -> None:
        await world.prefer()

        told = await world.briefs().explain("ada", TODAY, now=NINE)

        assert told == Explanation(
            user_id="ada",
            on=TODAY,
            occurrence=Occurrence(TODAY, NINE),
            code=SkipReason.NOT_YET_DUE,
            stages=[
                Stage("preference", "daily at 09:00:00 in UTC"),
                Stage("due", "to be delivered at 2026-03-09 09:00:00 UTC"),
                Stage("engagement", "would be sent: no_last_visit"),
                Stage("slot", "no plan has recorded it yet"),
            ],
        )

    async def test_who_makes_briefs_without_a_mailer_is_not_told_about_mail(self, world: World) -> None:
        await sent(world)

        told = await world.briefs(mailer=None).explain("ada", TODAY, now=NINE)

        assert [stage.name for stage in told.stages] == ["preference", "slot"]
        assert told.code is JobStatus.COMPLETED


@frozen
class Fixed:
    """A host's own preferences, whatever stands in them."""

    preference: Preference

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        await checkpoint()
        return Page([self.preference])

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        await checkpoint()
        return {self.preference.user_id: self.preference}


@pytest.mark.parametrize(
    "fields",
    [
        {"effective_from": NINE.replace(tzinfo=None)},
        {"effective_from": "2026-01-01"},
        {"time_of_day": "25:00", "effective_from": NINE},
        {"days": "weekdays"},
    ],
)
async def test_a_hosts_own_unusable_preference_has_the_planners_answer(world: World, fields: dict[str, Any]) -> None:
    briefs = world.briefs(preferences=Fixed(Preference(user_id="ada", **fields)))

    told = await briefs.explain("ada", TODAY, now=NINE)
    report = await briefs.plan(NINE)

    assert told.code is SkipReason.INVALID_SCHEDULE
    assert report.skipped == {SkipReason.INVALID_SCHEDULE: 1}
    assert told.stages[0].verdict == f"unusable: {report.problems[0].message}"


@pytest.mark.parametrize("catch_up", CatchUp)
@pytest.mark.parametrize(
    "last_plan", [None, MINUTE, 2 * HOUR, 11 * HOUR, DAY, 3 * DAY], ids=lambda gap: f"planned-{gap}-ago"
)
async def test_what_is_foretold_is_what_the_next_plan_records(catch_up: CatchUp, last_plan: timedelta | None) -> None:
    """For each date around now and each time of day, explained before a plan and again after it."""
    clock_times = ["00:00", "03:00", "08:00", "08:59", "09:00", "09:01", "10:14", "10:15", "23:59"]
    for at, away in product(clock_times, (None, 3 * DAY)):
        async with MemoryStorage() as storage:
            world = World(storage)
            world.host.visits = {"ada": None if away is None else NINE - away}
            briefs = world.briefs(catch_up=catch_up, max_lateness=DAY + 6 * HOUR)
            if last_plan is not None:
                await briefs.plan(NINE - last_plan)
            await world.prefer(time_of_day=at)
            dates = [TODAY + days * DAY for days in range(-4, 3)]
            before = {on: await briefs.explain("ada", on, now=NINE) for on in dates}
            verdicts: list[Verdict] = []
            await briefs.plan(NINE, on_verdict=verdicts.append)
            after = {on: await briefs.explain("ada", on, now=NINE) for on in dates}

        for on in dates:
            awaited: Code = before[on].code
            if before[on].stages[-1] == Stage("slot", "no plan has recorded it yet"):
                awaited = JobStatus.PENDING
            assert after[on].code == awaited, (at, on, before[on], after[on])
        told = {verdict.occurrence.local_date: verdict for verdict in verdicts if verdict.occurrence}
        for on, verdict in told.items():
            if on in after and verdict.status is not None:
                assert after[on].code == (verdict.code or verdict.status)


@pytest.mark.parametrize("method", ["explain", "retry", "cancel", "regenerate"])
@pytest.mark.parametrize("on", ["2026-03-09", NINE, 20260309])
async def test_a_date_that_is_none_is_refused_by_name(method: str, on: object) -> None:
    async with MemoryStorage() as storage:
        briefs = World(storage).briefs()
        with pytest.raises(ValueError, match=r"on=.*: must be a datetime.date without a time, or None"):
            await getattr(briefs, method)("ada", on)


@pytest.mark.parametrize("method", ["explain", "retry", "cancel", "regenerate"])
@pytest.mark.parametrize("on", [date.min, date.max])
async def test_a_date_at_the_end_of_the_calendar_is_refused(method: str, on: date) -> None:
    async with MemoryStorage() as storage:
        briefs = World(storage).briefs()
        with pytest.raises(ValueError, match=r"on=.*: must be in the years 2 to 9998"):
            await getattr(briefs, method)("ada", on)


@pytest.mark.parametrize("method", ["explain", "preview", "next", "retry", "cancel", "regenerate", "generate_now"])
async def test_preferences_that_are_none_are_told_by_their_port(method: str) -> None:
    class Wrong:
        async def page(self, cursor: str | None, limit: int) -> Any:
            raise AssertionError

        async def get(self, user_ids: Collection[str]) -> Any:
            return {"ada": "09:00"}

    async with MemoryStorage() as storage:
        briefs = World(storage).briefs(preferences=Wrong())
        with pytest.raises(TypeError, match=r"preferences.get gave str instead of Preference"):
            await getattr(briefs, method)("ada")
