"""Laws of planning: random people, moments, failures and interleavings, against an oracle written anew."""

from __future__ import annotations

import random
from calendar import monthrange
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import anyio
from anyio.lowlevel import checkpoint
from attrs import define, evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.engagement import BackoffPolicy
from fanout_briefs.model import Activity, Change, Enqueued, Job, Page, Preference
from fanout_briefs.planner import SchedulePlanner
from fanout_briefs.plans import PlanReport
from fanout_briefs.ports import Ledger
from fanout_briefs.timing import Timing

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NAME = "daily_brief"

# Moments about which some of the zones change their clocks.
SPRING, AUTUMN, SOUTH = (
    datetime(2024, 3, 9, tzinfo=UTC),
    datetime(2024, 10, 26, tzinfo=UTC),
    datetime(2025, 4, 4, tzinfo=UTC),
)
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Kiritimati"]


@frozen
class Person:
    """One user of the oracle; ``joins`` is the first plan that reads their preference."""

    user_id: str
    frequency: str
    at: time
    zone: str
    days: frozenset[int]
    joins: int
    since: datetime | None
    last_visit: datetime | None

    def preference(self) -> Preference:
        return Preference(
            user_id=self.user_id,
            frequency=self.frequency,
            time_of_day=self.at.isoformat(),
            timezone=self.zone,
            day_of_week=min(self.days, default=0) % 7,
            days=sorted(self.days) if self.frequency in {"custom", "monthly"} else None,
            effective_from=self.since,
        )

    def has(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        match self.frequency:
            case "weekdays":
                return weekday in {1, 2, 3, 4, 5}
            case "weekly":
                return weekday == min(self.days, default=0) % 7
            case "custom":
                return weekday in self.days or not self.days
            case "monthly":
                last = monthrange(day.year, day.month)[1]
                return day.day in {min(wanted, last) for wanted in self.days or {1}}
            case _:
                return True

    def occurrences(self, start: datetime, end: datetime) -> Iterator[tuple[date, datetime]]:
        day = start.date() - 2 * DAY
        while day <= end.date() + 2 * DAY:
            at = datetime.combine(day, self.at, ZoneInfo(self.zone)).astimezone(UTC)
            if self.has(day) and start <= at < end and (self.since is None or at >= self.since):
                yield day, at
            day += DAY


@frozen
class World:
    people: Sequence[Person]
    moments: Sequence[datetime]
    timing: Timing
    engaged: bool


@define
class Slot:
    at: datetime
    state: str


@define
class Counts:
    due: int = 0
    enqueued: int = 0
    duplicates: int = 0
    skipped: Counter[str] = None  # type: ignore[assignment]  # set at once

    def __attrs_post_init__(self) -> None:
        self.skipped = Counter()


class Oracle:
    """Plans one person and one occurrence after the other, from dicts alone."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.slots: dict[str, dict[date, Slot]] = {person.user_id: {} for person in world.people}
        self.mark: datetime | None = None

    def plan(self, turn: int, now: datetime) -> Counts:
        timing, counts = self.world.timing, Counts()
        furthest = now - max(31 * DAY, timing.max_lateness)
        start = now - timing.look_back if self.mark is None else self.mark
        start = max(start, furthest)
        for person in self.world.people:
            if person.joins <= turn:
                due = list(person.occurrences(start, now + timing.lead + timing.horizon))
                missed = [at for _, at in due if at < now]
                for day, at in due:
                    state = self.judge(person, at, now, max(missed, default=None))
                    self.record(self.slots[person.user_id], day, Slot(at, state), counts)
        self.mark = now
        return counts

    def record(self, slots: dict[date, Slot], day: date, judged: Slot, counts: Counts) -> None:
        counts.due += 1
        known = slots.get(day)
        if known is not None and known.state == "pending":
            counts.duplicates += 1
        elif judged.state == "pending":
            counts.enqueued += 1
            slots[day] = judged
        else:
            counts.skipped[slots.setdefault(day, judged).state] += 1

    def judge(self, person: Person, at: datetime, now: datetime, latest: datetime | None) -> str:
        timing = self.world.timing
        if at < now:
            if now - at > timing.max_lateness:
                return "too_late"
            if timing.catch_up == "skip":
                return "missed"
            if timing.catch_up == "latest" and at != latest:
                return "newer_occurrence"
        if not self.world.engaged:
            return "pending"
        sent = [slot.at for slot in self.slots[person.user_id].values() if slot.state == "pending" and slot.at < at]
        activity = Activity(person.user_id, person.last_visit, max(sent, default=None))
        return "pending" if BackoffPolicy().decide(activity, at).send else "engagement"


class Rows:
    def __init__(self, people: Sequence[Person], turn: int = 10**6, seed: int | None = None) -> None:
        self.rows = [person.preference() for person in people if person.joins <= turn]
        if seed is not None:
            random.Random(seed).shuffle(self.rows)

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        begin = int(cursor or 0)
        end = begin + limit
        return Page(self.rows[begin:end], str(end) if end < len(self.rows) else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return {row.user_id: row for row in self.rows if row.user_id in user_ids}


class Visits:
    def __init__(self, people: Sequence[Person]) -> None:
        self.visits = {person.user_id: person.last_visit for person in people}

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        return {user_id: self.visits[user_id] for user_id in user_ids}


class Rough:
    """A ledger that loses its turn, and fails, as a seed has it; a failing enqueue may have been done."""

    def __init__(self, ledger: Ledger, seed: int, failing: float = 0.0) -> None:
        self.ledger = ledger
        self.chance = random.Random(seed)
        self.failing = failing

    async def _stumble(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await checkpoint()
        if self.chance.random() < self.failing:
            raise OSError("disk full")

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        await self._stumble()
        outcomes = await self.ledger.enqueue(jobs)
        await self._stumble()
        return outcomes

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        await self._stumble()
        return await self.ledger.find(keys)

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        await self._stumble()
        return await self.ledger.last_briefs(type, before)

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        return await self.ledger.change(keys, change)

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        return await self.ledger.advance(name, to, start=start, planned_at=planned_at)

    async def forget(self, user_id: str) -> int:
        return await self.ledger.forget(user_id)


# What there is to plan

SPANS = st.sampled_from([timedelta(0), 5 * MINUTE, HOUR, 26 * HOUR])
TIMINGS = st.builds(
    Timing,
    lead=st.sampled_from([timedelta(0), 15 * MINUTE, 3 * HOUR]),
    horizon=SPANS,
    catch_up=st.sampled_from(["skip", "latest", "each"]),
    max_lateness=st.sampled_from([timedelta(0), HOUR, 12 * HOUR, 3 * DAY, 40 * DAY]),
    look_back=SPANS,
)
GAPS = st.one_of(
    st.integers(1, 7200).map(lambda seconds: timedelta(seconds=seconds)),
    st.sampled_from([timedelta(microseconds=1), 15 * MINUTE, HOUR, DAY, 3 * DAY + HOUR, 45 * DAY]),
)


@st.composite
def persons(draw: st.DrawFn, user_id: str, start: datetime) -> Person:
    frequency = draw(st.sampled_from(["daily", "daily", "weekdays", "weekly", "custom", "monthly"]))
    return Person(
        user_id=user_id,
        frequency=frequency,
        at=draw(st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))),
        zone=draw(st.sampled_from(ZONES)),
        days=draw(st.frozensets(st.integers(1, 31) if frequency == "monthly" else st.integers(0, 6), max_size=4)),
        joins=draw(st.sampled_from([0, 0, 0, 1, 2])),
        since=draw(st.none() | st.integers(-48, 96).map(lambda hours: start + hours * HOUR)),
        last_visit=draw(st.none() | st.integers(0, 800).map(lambda hours: start - 2 * DAY - hours * HOUR)),
    )


@st.composite
def worlds(draw: st.DrawFn, gaps: st.SearchStrategy[timedelta] = GAPS) -> World:
    moment = draw(st.sampled_from([SPRING, AUTUMN, SOUTH])) + draw(st.integers(0, 72 * 60)) * MINUTE
    people = [draw(persons(f"u{number}:x", moment)) for number in range(draw(st.integers(1, 5)))]
    moments = [moment]
    for gap in draw(st.lists(gaps, max_size=7)):
        moment += gap
        moments.append(moment)
    return World(people, moments, draw(TIMINGS), draw(st.booleans()))


def planner(world: World, ledger: Ledger, rows: Rows, page_size: int = 2) -> SchedulePlanner:
    return SchedulePlanner(
        preferences=rows,
        engagement=Visits(world.people) if world.engaged else None,
        ledger=ledger,
        timing=world.timing,
        page_size=page_size,
    )


async def all_slots(world: World, ledger: Ledger) -> dict[str, Job]:
    first = world.moments[0].date() - 40 * DAY
    days = range((world.moments[-1].date() - first).days + 10)
    keys = [f"{NAME}:{first + day * DAY}:{person.user_id}" for person in world.people for day in days]
    return dict(await ledger.find(keys))


def counted(report: PlanReport) -> tuple[int, int, int, int, dict[str, int]]:
    skipped = {code.value: count for code, count in report.skipped.items()}
    return report.due, report.enqueued, report.duplicates, report.failed, skipped


@given(worlds())
def test_every_plan_decides_and_counts_as_the_oracle_does(world: World) -> None:
    async def check() -> None:
        oracle = Oracle(world)
        async with MemoryStorage() as ledger:
            for turn, now in enumerate(world.moments):
                report = await planner(world, ledger, Rows(world.people, turn)).plan(now)
                expected = oracle.plan(turn, now)
                assert counted(report) == (
                    expected.due,
                    expected.enqueued,
                    expected.duplicates,
                    0,
                    dict(expected.skipped),
                )
                assert report.mark == oracle.mark
            slots = await all_slots(world, ledger)
        told = {key: (str(slot.code or slot.status), slot.occurrence.deliver_at) for key, slot in slots.items()}
        assert told == {
            f"{NAME}:{day}:{user_id}": (slot.state, slot.at)
            for user_id, slots_of in oracle.slots.items()
            for day, slot in slots_of.items()
        }

    anyio.run(check)


@given(worlds())
def test_every_occurrence_from_the_first_plan_to_the_last_has_exactly_one_row(world: World) -> None:
    world = evolve(world, people=[evolve(person, joins=0) for person in world.people])

    async def check() -> None:
        async with MemoryStorage() as ledger:
            for now in world.moments:
                await planner(world, ledger, Rows(world.people)).plan(now)
            slots = await all_slots(world, ledger)
        timing = world.timing
        end = world.moments[-1] + timing.lead + timing.horizon
        unseen: list[tuple[datetime, datetime]] = []  # before a plan that came more than a month after the last
        for earlier, later in zip(world.moments, world.moments[1:], strict=False):
            unseen.append((earlier + timing.lead + timing.horizon, later - max(31 * DAY, timing.max_lateness)))
        for person in world.people:
            for day, at in person.occurrences(world.moments[0], end):
                slot = slots.get(f"{NAME}:{day}:{person.user_id}")
                if slot is None:
                    assert any(begin <= at < stop for begin, stop in unseen)
                else:
                    assert slot.occurrence.deliver_at == at
                    assert slot.status == "pending" or (slot.status == "skipped" and slot.code is not None)

    anyio.run(check)


@given(worlds(), st.integers(0, 2**32))
def test_planning_the_same_moment_again_changes_nothing(world: World, seed: int) -> None:
    async def check() -> None:
        async with MemoryStorage() as ledger:
            for now in world.moments:
                await planner(world, ledger, Rows(world.people)).plan(now)
                before = await all_slots(world, ledger)
                again = await planner(world, ledger, Rows(world.people, seed=seed), page_size=3).plan(now)
                assert again.enqueued == again.failed == 0
                assert again.mark == now
                assert await all_slots(world, ledger) == before

    anyio.run(check)


@given(worlds())
def test_a_dry_run_foretells_the_plan_and_leaves_no_trace(world: World) -> None:
    async def check() -> None:
        async with MemoryStorage() as ledger:
            for now in world.moments:
                before = await all_slots(world, ledger), await ledger.advance(NAME)
                dry = await planner(world, ledger, Rows(world.people)).plan(now, dry_run=True)
                assert (await all_slots(world, ledger), await ledger.advance(NAME)) == before
                real = await planner(world, ledger, Rows(world.people)).plan(now)
                assert counted(dry) == counted(real)
                assert dry.window == real.window

    anyio.run(check)


@settings(max_examples=settings.get_profile("ci").max_examples // 2)
@given(worlds(), st.integers(2, 4), st.integers(0, 2**32))
def test_the_union_of_interleaved_planners_is_what_one_planner_makes(world: World, count: int, seed: int) -> None:
    async def alone() -> tuple[dict[str, Job], int]:
        async with MemoryStorage() as ledger:
            reports = [await planner(world, ledger, Rows(world.people)).plan(now) for now in world.moments]
            return await all_slots(world, ledger), sum(report.enqueued for report in reports)

    async def together() -> tuple[dict[str, Job], int]:
        enqueued = [0]

        async def run(ledger: Ledger, number: int, now: datetime) -> None:
            rows = Rows(world.people, seed=seed + number)
            report = await planner(world, Rough(ledger, seed * 7 + number), rows, page_size=1 + number).plan(now)
            enqueued[0] += report.enqueued

        async with MemoryStorage() as ledger:
            for now in world.moments:
                async with anyio.create_task_group() as tasks:
                    for number in range(count):
                        tasks.start_soon(run, ledger, number, now)
            return await all_slots(world, ledger), enqueued[0]

    assert anyio.run(together, backend="trio") == anyio.run(alone)


SHORT: Any = st.integers(1, 90).map(lambda minutes: minutes * MINUTE)


@given(worlds(SHORT), st.integers(0, 2**32), st.sampled_from([0.1, 0.5, 0.9]))
def test_whatever_fails_in_between_the_first_whole_plan_has_lost_nothing(
    world: World, seed: int, failing: float
) -> None:
    # All within half a day, so that nothing is too late by the end.
    timing = evolve(world.timing, max_lateness=2 * DAY, catch_up="each", look_back=timedelta(0))
    world = evolve(world, timing=timing, engaged=False, people=[evolve(person, joins=0) for person in world.people])

    async def check() -> None:
        async with MemoryStorage() as ledger:
            rough = Rough(ledger, seed, failing)
            marks: list[datetime] = []
            for now in world.moments:
                report = await planner(world, rough, Rows(world.people, seed=seed), page_size=1).plan(now)
                assert report.due == report.enqueued + report.duplicates + report.failed
                assert report.mark is not None
                assert report.mark <= now
                marks.append(report.mark)
            assert marks == sorted(marks)
            now = world.moments[-1] + MINUTE
            report = await planner(world, ledger, Rows(world.people)).plan(now)
            assert (report.failed, report.mark) == (0, now)
            slots = await all_slots(world, ledger)
        end = now + timing.lead + timing.horizon
        expected = {
            f"{NAME}:{day}:{person.user_id}": at
            for person in world.people
            for day, at in person.occurrences(world.moments[0], end)
        }
        assert {key: slot.occurrence.deliver_at for key, slot in slots.items()} == expected
        assert {slot.status for slot in slots.values()} <= {"pending"}

    anyio.run(check)
