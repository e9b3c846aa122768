"""Which preferences a plan reads: everybody's, or those of people who may be due, and how many at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.eligibility import parse
from fanout_briefs.model import Enqueued, Job, Page, Preference, Scheduled, ScheduleFields, SkipReason, Window
from fanout_briefs.planner import SchedulePlanner
from fanout_briefs.plans import PlanReport, Verdict
from fanout_briefs.ports import Preferences, ScheduleIndex
from fanout_briefs.scan import Calendar, Due, Known
from fanout_briefs.schedule import Schedule
from fanout_briefs.testing.strategies import schedules
from fanout_briefs.timing import Timing
from slots import DAY, HOUR, AnyStorage

NINE = datetime(2025, 9, 30, 9, tzinfo=UTC)  # a Tuesday
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["memory", "sqlite"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStorage]:
    opened = MemoryStorage() if request.param == "memory" else SqliteStorage(tmp_path / "briefs.db")
    async with opened:
        yield opened


class Everybody:
    """The same preferences, of a host that cannot read them by schedule."""

    def __init__(self, preferences: Preferences) -> None:
        self.page = preferences.page
        self.get = preferences.get


class Watched:
    """Preferences by schedule that note what is asked of them, and may fail."""

    schedule_index = True

    def __init__(self, preferences: ScheduleIndex, failing: str | None = None) -> None:
        self._preferences = preferences
        self._failing = failing
        self.get = preferences.get
        self.asked: list[str] = []
        self.given: list[str] = []

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        self._note("schedules")
        return await self._preferences.schedules()

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        self._note("page")
        return await self._preferences.page(cursor, limit)

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        self._note("page_for")
        page = await self._preferences.page_for(schedules, cursor, limit)
        self.given += [person.user_id for person in page.items]
        return page

    def _note(self, method: str) -> None:
        self.asked.append(method)
        if method == self._failing:
            raise ConnectionError(f"{method} is out of order")


def person(user_id: str, time_of_day: str = "09:00", **fields: Any) -> Preference:
    return Preference(user_id=user_id, time_of_day=time_of_day, **fields)


async def plan(storage: Any, preferences: Any, now: datetime = NINE, **more: Any) -> PlanReport:
    return await SchedulePlanner(preferences=preferences, ledger=storage, **more).plan(now)


async def test_a_plan_reads_only_people_who_are_due_and_those_whose_schedule_is_none(storage: AnyStorage) -> None:
    rows = [person(f"{hour:02}-{copy}", f"{hour:02}:30") for hour in range(24) for copy in range(3)]
    await storage.preferences.put([*rows, person("bad", "25:00"), person("off", "09:30", is_active=False)])
    watched = Watched(storage.preferences)
    report = await plan(storage, watched)
    assert sorted(watched.given) == ["09-0", "09-1", "09-2", "bad"]
    assert watched.asked == ["schedules", "page_for"]
    assert (report.scanned, report.due, report.enqueued, report.skipped) == (
        4,
        3,
        3,
        {SkipReason.INVALID_SCHEDULE: 1},
    )


async def test_where_nobody_is_due_nobody_is_read(storage: AnyStorage) -> None:
    await storage.preferences.put([person("ann", "18:00")])
    watched = Watched(storage.preferences)
    assert (await plan(storage, watched)).scanned == 0
    assert watched.asked == ["schedules"]


async def test_after_downtime_everybody_who_was_missed_is_read(storage: AnyStorage) -> None:
    await plan(storage, storage.preferences)
    await storage.preferences.put([person(f"{hour:02}", f"{hour:02}:30") for hour in range(24)])
    watched = Watched(storage.preferences)
    assert (await plan(storage, watched, NINE + 5 * HOUR)).enqueued == 6
    assert sorted(watched.given) == ["09", "10", "11", "12", "13", "14"]


async def test_a_schedule_is_read_once_for_all_plans_of_a_planner_and_a_bad_one_is_told_each_time(
    storage: AnyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str | None] = []

    def note_and_parse(fields: Preference | ScheduleFields) -> Schedule:
        read.append(fields.frequency)
        return parse(fields)

    monkeypatch.setattr("fanout_briefs.scan.parse", note_and_parse)
    await storage.preferences.put(
        [
            *(person(name, frequency="daily") for name in ("ann", "bob")),
            person("cas", frequency="custom", days=(1, 2)),
            person("bad", "25:00", frequency="custom", days=(1, 2)),
        ]
    )
    planner = SchedulePlanner(preferences=storage.preferences, ledger=storage)
    reports = [await planner.plan(NINE + number * DAY) for number in range(3)]
    assert [report.enqueued for report in reports] == [3, 2, 2]
    assert [report.skipped for report in reports] == [{SkipReason.INVALID_SCHEDULE: 1}] * 3
    assert sorted(map(str, read)) == ["custom"] * 4 + ["daily"]


@given(st.lists(schedules(), min_size=1, max_size=3), st.lists(st.tuples(st.integers(-9, 40), st.integers(0, 30))))
def test_what_is_known_of_a_schedule_never_changes_what_is_due(
    made: list[Schedule], windows: list[tuple[int, int]]
) -> None:
    fields = [
        ScheduleFields(
            each.frequency, each.time.isoformat(), each.zone.key, days=tuple(each.days) if each.days else None
        )
        for each in made
        if each.frequency in {"custom", "monthly", "daily"}
    ]
    known: dict[object, Known] = {}
    start = NINE
    for hours, length in windows:  # mostly forwards, as plans come one after the other
        start += hours * HOUR
        window = Window(start, start + length * HOUR)
        with_it, afresh = (Calendar("daily", Timing(), window, each) for each in (known, dict[object, Known]()))
        assert [with_it.of(each) for each in fields] == [afresh.of(each) for each in fields]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "preferences gave NoneType instead of a Page"),
        ([Preference(user_id="ann")], "preferences gave list instead of a Page"),
        (Page(["ann"]), "something other than Preference: 'str' object has no attribute 'is_active'"),
        (Page(cast("Any", None)), "something other than Preference: 'NoneType' object is not iterable"),
    ],
)
async def test_preferences_of_a_wrong_type_are_told_by_their_port_before_anything_is_planned(
    storage: AnyStorage, answer: object, told: str
) -> None:
    class Wrong:
        async def page(self, cursor: str | None, limit: int) -> Any:
            return answer

    with pytest.raises(TypeError, match=told):
        await plan(storage, Wrong(), NINE)
    assert await storage.advance("daily_brief") == NINE


def test_no_more_than_ten_thousand_schedules_are_remembered() -> None:
    clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in range(24 * 60)]
    places = ["UTC", "Asia/Tokyo", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "Europe/Paris", "Europe/Rome"]
    wishes = (ScheduleFields("daily", time, zone) for zone in places for time in clock)
    known: dict[object, Known] = {}
    calendar = Calendar("daily", Timing(), Window(NINE, NINE + HOUR), known)

    kept = [len(known) for fields in islice(wishes, 10_001) if isinstance(calendar.of(fields), Due)]

    assert kept[9_999] == 10_000
    assert kept[10_000] == 1


async def test_who_listens_to_verdicts_hears_of_everybody(storage: AnyStorage) -> None:
    await storage.preferences.put([person("ann"), person("bob", "18:00")])
    watched = Watched(storage.preferences)
    verdicts: list[Verdict] = []
    await SchedulePlanner(preferences=watched, ledger=storage).plan(NINE, on_verdict=verdicts.append)
    assert sorted(verdict.user_id for verdict in verdicts) == ["ann", "bob"]
    assert watched.asked == ["page"]


async def test_a_host_may_say_that_it_has_no_index(storage: AnyStorage) -> None:
    await storage.preferences.put([person("ann"), person("bob", "18:00")])
    watched = Watched(storage.preferences)
    watched.schedule_index = False
    assert (await plan(storage, watched)).scanned == 2
    assert watched.asked == ["page"]


@pytest.mark.parametrize("failing", ["schedules", "page_for"])
async def test_an_index_that_fails_stops_the_plan_and_holds_the_mark(storage: AnyStorage, failing: str) -> None:
    await storage.preferences.put([person("ann")])
    with pytest.raises(ConnectionError, match=failing):
        await plan(storage, Watched(storage.preferences, failing))
    assert (await plan(storage, storage.preferences, NINE + HOUR)).enqueued == 1


async def test_cursors_of_an_index_that_come_again_end_the_plan(storage: AnyStorage) -> None:
    class Circle(Watched):
        async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
            return evolve(await super().page_for(schedules, None, limit), next_cursor="again")

    await storage.preferences.put([person("ann")])
    with pytest.raises(ValueError, match="'again' twice"):
        await plan(storage, Circle(storage.preferences))


async def test_an_index_that_gives_people_with_other_schedules_than_it_was_asked_for_ends_the_plan(
    storage: AnyStorage,
) -> None:
    class Careless(Watched):
        async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
            return Page([Scheduled("ann", "another")])

    await storage.preferences.put([person("ann")])
    with pytest.raises(ValueError, match="schedule 'another', which was not asked for"):
        await plan(storage, Careless(storage.preferences))


async def test_at_most_four_pages_are_in_memory_however_many_there_are() -> None:
    class Slow(MemoryStorage):
        """Counts how far reading is ahead of recording."""

        recorded = 0

        async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            self.recorded += len(jobs)
            ahead.append(len(watched.given) - self.recorded)
            return await super().enqueue(jobs)

    ahead: list[int] = []
    async with Slow() as storage:
        await storage.preferences.put([person(f"{number:03}") for number in range(200)])
        watched = Watched(storage.preferences)
        assert (await plan(storage, watched, page_size=10)).enqueued == 200
    assert 0 < max(ahead) <= 40


TIMES = ["00:00", "08:59", "09:00", "09:30", "10:15", "23:59", "24:00", None]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Mars/Olympus", None]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(TIMES),
            st.sampled_from(ZONES),
            st.sampled_from(["daily", "weekly", "custom", "monthly", "hourly", None]),
            st.sampled_from([None, (), (1, 2), (2, 30), (9,), (31, 31)]),
            st.booleans(),
            st.sampled_from([None, NINE - DAY, NINE + MINUTE]),
        ),
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_reading_by_schedule_plans_the_same_as_reading_everybody(rows: list[tuple[Any, ...]], page_size: int) -> None:
    people = [
        Preference(
            user_id=f"user{number}",
            time_of_day=time,
            timezone=zone,
            frequency=frequency,
            days=days,
            is_active=active,
            effective_from=since,
        )
        for number, (time, zone, frequency, days, active, since) in enumerate(rows)
    ]

    async def planned(everybody: bool) -> tuple[list[object], set[str]]:
        told: list[object] = []
        async with MemoryStorage() as storage:
            await storage.preferences.put(people)
            preferences = Everybody(storage.preferences) if everybody else storage.preferences
            for now in (NINE, NINE + 30 * MINUTE, NINE + 9 * HOUR, NINE + 4 * DAY):
                report = await plan(storage, preferences, now, page_size=page_size)
                told.append((report.due, report.enqueued, report.duplicates, report.skipped, report.mark))
                told.append(sorted(problem.user_id or "" for problem in report.problems))
            days = [NINE.date() + number * DAY for number in range(-2, 8)]
            keys = [f"daily_brief:{day}:{one.user_id}" for day in days for one in people]
            return told, {f"{key} {job.status} {job.code}" for key, job in (await storage.find(keys)).items()}

    assert anyio.run(planned, True) == anyio.run(planned, False)
