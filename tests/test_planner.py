"""What a plan promises: who is due, what is recorded, what is told, and what happens when something fails."""

from __future__ import annotations

import copy
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import anyio
import pytest
from anyio import Event, create_task_group
from attrs import evolve

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.model import (
    Activity,
    Change,
    EngagementDecision,
    Enqueued,
    Finish,
    Job,
    JobStatus,
    Occurrence,
    Page,
    Preference,
    SkipReason,
    Window,
)
from fanout_briefs.planner import SchedulePlanner
from fanout_briefs.plans import PlanReport, Verdict
from fanout_briefs.ports import Ledger
from fanout_briefs.timing import CatchUp, Timing
from slots import DAY, HOUR, AnyStorage, claim, claim_one, found

NAME = "daily_brief"
TODAY = date(2025, 9, 30)  # a Tuesday
NINE = datetime(2025, 9, 30, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)
UNUSABLE = (SkipReason.INVALID_USER_ID, SkipReason.INVALID_SCHEDULE, SkipReason.DUPLICATE_USER)


@pytest.fixture(params=["memory", "sqlite"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStorage]:
    opened = MemoryStorage() if request.param == "memory" else SqliteStorage(tmp_path / "briefs.db")
    async with opened:
        yield opened


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStorage]:
    """For what does not depend on the storage."""
    async with MemoryStorage() as opened:
        yield opened


def person(user_id: str = "ann", time_of_day: str | None = "09:00", **fields: Any) -> Preference:
    return Preference(user_id=user_id, time_of_day=time_of_day, **fields)


def people(count: int) -> list[Preference]:
    return [person(f"user{number:04}") for number in range(count)]


class Rows:
    """Preferences in a list; a cursor is an index into it. It may fail at one of its pages."""

    def __init__(self, rows: Sequence[Preference], fail_at: int | None = None) -> None:
        self.rows = list(rows)
        self.fail_at = fail_at
        self.pages = 0

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        await anyio.lowlevel.checkpoint()
        begin = int(cursor or 0)
        if self.pages == self.fail_at:
            self.fail_at = None
            raise ConnectionError("the host's database went away")
        self.pages += 1
        end = begin + limit
        return Page(self.rows[begin:end], str(end) if end < len(self.rows) else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return {row.user_id: row for row in self.rows if row.user_id in user_ids}


class Visits:
    """Last visits in a dict; users who are not in it cannot be read."""

    def __init__(self, visits: Mapping[str, datetime | None], error: Exception | None = None) -> None:
        self.visits = dict(visits)
        self.error = error
        self.calls: list[list[str]] = []

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        self.calls.append(sorted(user_ids))
        if self.error is not None:
            raise self.error
        return {user_id: self.visits[user_id] for user_id in user_ids if user_id in self.visits}


class Watched:
    """A ledger that counts what it is asked, and asks before each call whether to fail or to wait."""

    def __init__(self, ledger: Ledger, before: Callable[[str, Any], object] | None = None) -> None:
        self.ledger = ledger
        self.before = before
        self.calls: Counter[str] = Counter()

    async def _ask(self, method: str, batch: object) -> None:
        self.calls[method] += 1
        if self.before is not None:
            waiting = self.before(method, batch)
            if isinstance(waiting, Event):
                await waiting.wait()

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        await self._ask("enqueue", jobs)
        return await self.ledger.enqueue(jobs)

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        answer = await self.ledger.find(keys)
        await self._ask("find", keys)
        return answer

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        await self._ask("last_briefs", before)
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
        await self._ask("advance", to)
        return await self.ledger.advance(name, to, start=start, planned_at=planned_at)

    async def forget(self, user_id: str) -> int:
        return await self.ledger.forget(user_id)


def fail_once(method: str, holds: Callable[[Any], bool] = bool) -> Callable[[str, Any], None]:
    """Make the first call fail whose batch ``holds``."""
    armed = [True]

    def before(called: str, batch: object) -> None:
        if called == method and armed and holds(batch):
            armed.clear()
            raise OSError("disk full")

    return before


class Follow:
    """A policy that sends, or does not send to some, and keeps what it was asked."""

    def __init__(self, refuse: Callable[[Activity, datetime], bool] = lambda activity, at: False) -> None:
        self.refuse = refuse
        self.asked: list[tuple[str, datetime, datetime | None]] = []

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        self.asked.append((activity.user_id, at, activity.last_brief))
        refused = self.refuse(activity, at)
        return EngagementDecision(not refused, is_reengagement=False, reason="refused" if refused else "followed")


def planner(
    ledger: Ledger,
    rows: Rows | Sequence[Preference],
    *,
    visits: Visits | Mapping[str, datetime | None] | None = None,
    policy: EngagementPolicy | None = None,
    page_size: int = 1000,
    tolerance: timedelta | None = None,
    **timing: Any,
) -> SchedulePlanner:
    return SchedulePlanner(
        preferences=rows if isinstance(rows, Rows) else Rows(rows),
        engagement=Visits(visits) if isinstance(visits, Mapping) else visits,
        ledger=ledger,
        policy=policy,
        page_size=page_size,
        tolerance=tolerance,
        timing=Timing(**timing) if timing else None,
    )


async def plan(ledger: Ledger, rows: Rows | Sequence[Preference], now: datetime, **how: Any) -> PlanReport:
    """Plan once, and hold the report to the law that every due slot is counted once."""
    dry_run = how.pop("dry_run", False)
    verdicts: list[Verdict] = []
    report = await planner(ledger, rows, **how).plan(now, dry_run, verdicts.append)
    assert_lawful(report, verdicts)
    return report


def assert_lawful(report: PlanReport, verdicts: Sequence[Verdict]) -> None:
    skipped = sum(count for code, count in report.skipped.items() if code not in UNUSABLE)
    assert report.due == report.enqueued + report.duplicates + report.failed + skipped
    assert sum(report.existing.values()) == report.duplicates
    assert report.enqueued == sum(verdict.is_new for verdict in verdicts)
    told = Counter((verdict.user_id, verdict.occurrence, verdict.code) for verdict in verdicts)
    assert set(told.values()) <= {1} or SkipReason.DUPLICATE_USER in report.skipped
    assert len({verdict.user_id for verdict in verdicts}) <= report.scanned


async def verdicts_of(ledger: Ledger, rows: Sequence[Preference], now: datetime, **how: Any) -> list[Verdict]:
    verdicts: list[Verdict] = []
    dry_run = how.pop("dry_run", False)
    assert_lawful(await planner(ledger, rows, **how).plan(now, dry_run, verdicts.append), verdicts)
    return verdicts


def key(user_id: str = "ann", day: int = 0, name: str = NAME) -> str:
    return f"{name}:{TODAY + day * DAY}:{user_id}"


async def slots_of(ledger: Ledger, user_ids: Collection[str] = ("ann",), days: int = 40) -> dict[str, Job]:
    """Give every slot of these users within ``days`` of today."""
    keys = [key(user_id, day) for user_id in user_ids for day in range(-days, days)]
    return dict(await ledger.find(keys))


async def states(ledger: Ledger, user_id: str = "ann") -> dict[int, str]:
    """Give the user's slots by the day they are for, counted from today, as status or code."""
    slots = (await slots_of(ledger, [user_id])).values()
    return {(slot.occurrence.local_date - TODAY).days: str(slot.code or slot.status) for slot in slots}


async def end(storage: AnyStorage, key: str, status: JobStatus, code: SkipReason | None = None) -> None:
    """Bring a pending slot into a state, as a worker would."""
    if status is JobStatus.PENDING:
        return
    held = await claim_one(storage, await found(storage, key))
    if status is not JobStatus.PROCESSING:
        assert await storage.finish(held, Finish(status=status, code=code))


def everything(storage: AnyStorage, folder: Path) -> object:
    """Give the whole content of a storage, to be compared."""
    if isinstance(storage, MemoryStorage):
        return copy.deepcopy({name: value for name, value in vars(storage).items() if name != "preferences"})
    connection = sqlite3.connect(folder / "briefs.db")
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


# Who is due


@pytest.mark.parametrize(
    ("now", "due"),
    [(NINE, 1), (NINE + TICK, 0), (NINE - 75 * MINUTE, 0), (NINE - 75 * MINUTE + TICK, 1), (NINE - HOUR, 1)],
    ids=["at its start", "past its start", "at its end", "before its end", "within"],
)
async def test_the_window_holds_its_start_and_not_its_end(storage: AnyStorage, now: datetime, due: int) -> None:
    report = await plan(storage, [person()], now)

    assert (report.due, report.enqueued) == (due, due)
    assert report.window == Window(now, now + 75 * MINUTE)
    assert len(await slots_of(storage)) == due


@pytest.mark.parametrize("lead", [0, 15, 90])
@pytest.mark.parametrize("horizon", [0, 60, 1500])
async def test_a_plan_looks_ahead_by_lead_and_horizon(memory: MemoryStorage, lead: int, horizon: int) -> None:
    ahead = (lead + horizon) * MINUTE
    report = await plan(memory, [person()], NINE - DAY, lead=lead * MINUTE, horizon=horizon * MINUTE)

    assert report.window.end == NINE - DAY + ahead
    assert sorted(await states(memory)) == [day for day in (-1, 0) if NINE + day * DAY < NINE - DAY + ahead]


async def test_windows_of_one_plan_after_another_meet_without_gap_or_overlap(storage: AnyStorage) -> None:
    reports = [await plan(storage, [person()], NINE - 3 * HOUR + ticks * 5 * MINUTE) for ticks in range(60)]

    assert sum(report.enqueued for report in reports) == 1
    assert [later.window.start for later in reports[1:]] == [earlier.now for earlier in reports[:-1]]


async def test_now_may_be_in_any_zone_and_is_told_in_utc(memory: MemoryStorage) -> None:
    report = await plan(memory, [person()], NINE.astimezone(timezone(timedelta(hours=-7))))

    assert report.now == NINE
    assert report.now.tzinfo is UTC
    assert report.enqueued == 1


async def test_the_phases_of_a_plan_of_one_page_took_no_longer_than_the_plan(memory: MemoryStorage) -> None:
    begun = perf_counter()
    report = await plan(memory, [person()], NINE)

    assert 0 < sum(phase.seconds for phase in report.phases.values()) <= perf_counter() - begun


async def test_a_plan_reports_its_phases_and_how_much_each_handled(memory: MemoryStorage) -> None:
    now = NINE - HOUR
    rows = [*people(5), person("late", "20:00"), person("off", is_active=False)]
    await plan(memory, rows[:2], now - MINUTE)
    visits: dict[str, datetime | None] = {row.user_id: now for row in rows}
    visits["user0004"] = now - 8 * DAY

    report = await plan(memory, rows, now, visits=visits, policy=Follow(lambda a, at: a.user_id == "user0004"))

    assert {name: phase.items for name, phase in report.phases.items()} == {
        "due": 5,
        "duplicates": 5,
        "engagement": 3,
        "enqueue": 3,
    }
    assert list(report.phases) == ["due", "duplicates", "engagement", "enqueue"]
    assert all(phase.seconds >= 0 for phase in report.phases.values())
    assert (report.scanned, report.due, report.enqueued, report.duplicates, report.failed) == (7, 5, 2, 2, 0)
    assert report.skipped == {SkipReason.ENGAGEMENT: 1}
    assert report.ok


async def test_a_slot_is_recorded_as_it_was_planned(storage: AnyStorage) -> None:
    await plan(storage, [person()], NINE - HOUR)

    slot = await found(storage, key())
    assert slot == Job(
        type=NAME,
        user_id="ann",
        occurrence=Occurrence(TODAY, NINE),
        run_at=Timing().generate_at(NAME, "ann", NINE),
        window=Window(NINE - DAY - 15 * MINUTE, NINE - 15 * MINUTE),
        reason="everyone",
    )


@pytest.mark.parametrize(
    ("fields", "days_back"),
    [({"frequency": "weekdays"}, 1), ({"frequency": "weekly", "day_of_week": 2}, 7), ({"frequency": "monthly"}, 29)],
)
async def test_content_begins_by_default_where_the_occurrence_before_was_cut_off(
    memory: MemoryStorage, fields: dict[str, Any], days_back: int
) -> None:
    fields = {"days": [30]} | fields if fields["frequency"] == "monthly" else fields
    await plan(memory, [person(**fields)], NINE - HOUR, lead=30 * MINUTE, deadline=MINUTE)

    cutoff = NINE - 30 * MINUTE
    expected = NINE - 31 * DAY if fields["frequency"] == "monthly" else NINE - days_back * DAY
    assert (await found(memory, key())).window == Window(expected - 30 * MINUTE, cutoff)


async def test_a_user_id_may_hold_colons_quotes_and_any_letter(storage: AnyStorage) -> None:
    ids = ["a:b", ":", "a:2025-09-30:b", "o'hara", "日本", "%_", " "]
    first = await plan(storage, [person(user_id) for user_id in ids], NINE - HOUR)
    again = await plan(storage, [person(user_id) for user_id in ids], NINE - HOUR)

    assert (first.enqueued, again.duplicates, again.enqueued) == (len(ids), len(ids), 0)
    assert {slot.user_id for slot in (await slots_of(storage, ids)).values()} == set(ids)


async def test_schedules_that_differ_in_their_day_alone_are_told_apart(storage: AnyStorage) -> None:
    rows = [person(f"user{day}", frequency="weekly", day_of_week=day) for day in range(7)]
    report = await plan(storage, rows, NINE)

    assert report.enqueued == 1
    assert await states(storage, "user2") == {0: "pending"}  # 0 is Sunday


async def test_a_plan_without_preferences_is_a_plan(storage: AnyStorage) -> None:
    report = await plan(storage, [], NINE)

    assert (report.scanned, report.due, report.mark) == (0, 0, NINE)
    assert report.ok


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 1000])
async def test_the_page_size_changes_nothing_but_the_number_of_pages(memory: MemoryStorage, page_size: int) -> None:
    rows = Rows(people(7))
    report = await plan(memory, rows, NINE, page_size=page_size)

    assert (report.scanned, report.enqueued) == (7, 7)
    assert rows.pages == -(-7 // page_size)


async def test_briefs_of_different_names_are_planned_apart(memory: MemoryStorage) -> None:
    for name in ("morning", "evening"):
        one = SchedulePlanner(preferences=Rows([person()]), ledger=memory, name=name)
        assert (await one.plan(NINE)).enqueued == 1
        assert (await memory.find([key(name=name)])).keys() == {key(name=name)}
        assert await memory.advance(name) == NINE


# The mark


async def test_the_first_plan_sets_the_mark_before_it_reads_anybody(memory: MemoryStorage) -> None:
    marks: list[datetime | None] = []

    class Looking(Rows):
        async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
            marks.append(await memory.advance(NAME))
            return await super().page(cursor, limit)

    await plan(memory, Looking([person()]), NINE - HOUR, look_back=2 * HOUR)
    await plan(memory, Looking([person()]), NINE)

    assert marks == [NINE - 3 * HOUR, NINE - HOUR]


async def test_the_mark_moves_to_now_and_never_back(storage: AnyStorage) -> None:
    marks = [(await plan(storage, [person()], NINE + hours * HOUR)).mark for hours in (0, 2, 1, 3)]

    assert marks == [NINE, NINE + 2 * HOUR, NINE + 2 * HOUR, NINE + 3 * HOUR]
    assert await storage.advance(NAME) == NINE + 3 * HOUR


async def test_a_plan_that_dies_leaves_the_mark_where_it_was(storage: AnyStorage) -> None:
    with pytest.raises(ConnectionError):
        await plan(storage, Rows([person()], fail_at=0), NINE - 2 * HOUR)
    assert await storage.advance(NAME) == NINE - 2 * HOUR

    report = await plan(storage, [person()], NINE + HOUR)

    assert report.window.start == NINE - 2 * HOUR
    assert report.enqueued == 1


async def test_a_slot_that_cannot_be_decided_holds_the_mark_until_it_is(storage: AnyStorage) -> None:
    visits = Visits({"bob": NINE})
    rows = [person(), person("bob", "09:30")]
    await plan(storage, rows, NINE - HOUR, visits=visits)
    assert await states(storage) == {}

    held = [(await plan(storage, rows, NINE + hours * HOUR, visits=visits)).mark for hours in (1, 2, 12)]
    assert held == [NINE, NINE, NINE]
    visits.visits["ann"] = NINE - HOUR
    released = await plan(storage, rows, NINE + 12 * HOUR, visits=visits)

    assert released.mark == NINE + 12 * HOUR
    assert await states(storage) == {0: "pending"}


async def test_the_mark_is_held_back_by_no_more_than_max_lateness_and_then_the_slot_is_too_late(
    storage: AnyStorage,
) -> None:
    rows, visits = [person()], Visits({})
    await plan(storage, rows, NINE - HOUR, visits=visits)
    marks = [(await plan(storage, rows, NINE + hours * HOUR, visits=visits)).mark for hours in (3, 11)]
    assert marks == [NINE, NINE]

    late = await plan(storage, rows, NINE + 13 * HOUR, visits=visits)

    assert late.skipped == {SkipReason.TOO_LATE: 1}
    assert late.mark == NINE + 13 * HOUR
    assert await states(storage) == {0: "too_late"}


async def test_a_held_mark_never_lies_further_back_than_max_lateness(memory: MemoryStorage) -> None:
    # The page fails although some of its slots are too late already.
    ledger = Watched(memory)
    await plan(ledger, [person()], NINE - HOUR)
    ledger.before = fail_once("enqueue")

    report = await plan(ledger, [person()], NINE + 2 * DAY + HOUR)

    assert report.mark == NINE + 2 * DAY + HOUR - 12 * HOUR
    assert report.failed == 3


async def test_a_slot_ahead_that_cannot_be_decided_does_not_hold_the_mark(memory: MemoryStorage) -> None:
    report = await plan(memory, [person()], NINE - HOUR, visits={})

    assert report.mark == NINE - HOUR
    assert report.skipped == {SkipReason.ENGAGEMENT_UNAVAILABLE: 1}


@pytest.mark.parametrize("planned_before", [False, True])
async def test_a_dry_run_decides_alike_and_writes_nothing_at_all(
    storage: AnyStorage, tmp_path: Path, planned_before: bool
) -> None:
    rows = [*people(3), person("away"), person("unread"), person("bad", "9 o'clock"), person("off", is_active=False)]
    visits: dict[str, datetime | None] = {row.user_id: NINE for row in rows if row.user_id != "unread"}
    visits["away"] = NINE - 8 * DAY
    policy = Follow(lambda activity, at: activity.user_id == "away")
    now = NINE + HOUR
    if planned_before:
        await plan(storage, people(1), NINE - HOUR, visits=visits, policy=policy)
    how: dict[str, Any] = {"visits": visits, "policy": policy, "look_back": 3 * HOUR}
    before = everything(storage, tmp_path)

    dry = await plan(storage, rows, now, dry_run=True, **how)
    assert everything(storage, tmp_path) == before
    real = await plan(storage, rows, now, **how)

    assert everything(storage, tmp_path) != before
    assert dry.dry_run
    assert not real.dry_run
    assert dry.mark == (NINE - HOUR if planned_before else None)
    same = evolve(dry, dry_run=False, mark=real.mark, phases=real.phases)
    assert same == real
    assert (dry.enqueued, dry.duplicates) == ((2, 1) if planned_before else (3, 0))


async def test_a_dry_run_gives_the_verdicts_that_the_plan_gives(memory: MemoryStorage) -> None:
    rows = [*people(2), person("past", "08:00"), person("later", "23:00"), person("off", is_active=False)]
    dry = await verdicts_of(memory, rows, NINE - HOUR + MINUTE, dry_run=True)

    assert dry == await verdicts_of(memory, rows, NINE - HOUR + MINUTE)


# Planning again


STATES: list[tuple[JobStatus, SkipReason | None]] = [
    (JobStatus.PENDING, None),
    (JobStatus.PROCESSING, None),
    (JobStatus.COMPLETED, None),
    (JobStatus.EMPTY, None),
    (JobStatus.FAILED, None),
    (JobStatus.UNKNOWN, None),
    (JobStatus.CANCELLED, SkipReason.WITHDRAWN),
]


@pytest.mark.parametrize(("status", "code"), STATES)
async def test_a_slot_that_is_there_is_a_duplicate_and_stays_as_it_is(
    storage: AnyStorage, status: JobStatus, code: SkipReason | None
) -> None:
    await plan(storage, [person(), person("bob", "09:10")], NINE - HOUR)
    await end(storage, key(), status, code)
    before = await found(storage, key())

    verdicts: list[Verdict] = []
    report = await planner(storage, [person()]).plan(NINE - 30 * MINUTE, on_verdict=verdicts.append)

    assert (report.due, report.enqueued, report.duplicates) == (1, 0, 1)
    assert report.existing == {status: 1}
    assert verdicts == [Verdict(user_id="ann", occurrence=before.occurrence, status=status, code=code)]
    assert await found(storage, key()) == before


async def test_a_plan_for_a_moment_planned_before_tells_what_is_done(storage: AnyStorage) -> None:
    rows = [*people(3), person("late", "20:00"), person("early", "21:30")]
    await plan(storage, rows, NINE - 12 * HOUR)
    await plan(storage, rows, NINE - HOUR)
    await end(storage, key("user0000"), JobStatus.COMPLETED)
    now = NINE + HOUR
    await plan(storage, rows, now)

    # Somebody who signed up since is not planned for what was before.
    again = await plan(storage, [*rows, person("new")], now)

    assert again.window.start == now - 12 * HOUR
    assert (again.due, again.enqueued, again.duplicates) == (3, 0, 3)
    assert again.existing == {JobStatus.COMPLETED: 1, JobStatus.PENDING: 2}
    assert await states(storage, "new") == {}
    assert again.mark == now


async def test_a_plan_for_a_moment_planned_before_looks_back_as_far_as_max_lateness(memory: MemoryStorage) -> None:
    await plan(memory, [person()], NINE - HOUR)
    await plan(memory, [person()], NINE + 12 * HOUR)
    assert (await plan(memory, [person()], NINE + 12 * HOUR)).duplicates == 1
    await plan(memory, [person()], NINE + 12 * HOUR + TICK)
    assert (await plan(memory, [person()], NINE + 12 * HOUR + TICK)).duplicates == 0


async def test_what_was_skipped_is_told_again_by_its_code_and_not_made_good(storage: AnyStorage) -> None:
    rows, now = [person(), person("bob", "11:00")], NINE + 2 * HOUR
    visits = Visits({"ann": NINE - 8 * DAY, "bob": NINE - 8 * DAY})
    policy = Follow(lambda activity, at: activity.last_visit is not None and at - activity.last_visit > DAY)
    await plan(storage, rows, NINE - HOUR, visits=visits, policy=policy)
    first = await plan(storage, rows, now, visits=visits, policy=policy)
    assert first.skipped == {SkipReason.ENGAGEMENT: 2}

    visits.visits["ann"] = now - MINUTE  # after her slot: too late for it
    again = await verdicts_of(storage, rows, now, visits=visits, policy=policy, catch_up=CatchUp.SKIP)

    assert [(verdict.user_id, verdict.status, verdict.code, verdict.detail) for verdict in again] == [
        ("ann", JobStatus.SKIPPED, SkipReason.ENGAGEMENT, "refused"),
        ("bob", JobStatus.SKIPPED, SkipReason.ENGAGEMENT, "refused"),
    ]
    assert await states(storage) == {0: "engagement"}


async def test_a_plan_for_an_earlier_moment_than_the_last_one_plans_from_that_moment(memory: MemoryStorage) -> None:
    await plan(memory, [], NINE + DAY)
    report = await plan(memory, [person(), person("past", "07:00")], NINE - HOUR)

    assert report.enqueued == 1
    assert report.mark == NINE + DAY
    assert await states(memory, "past") == {}


async def test_a_plan_for_an_earlier_moment_than_the_last_one_tells_what_was_done_before_it(
    memory: MemoryStorage,
) -> None:
    await plan(memory, [person(time_of_day="07:00")], NINE - 3 * HOUR)
    await plan(memory, [], NINE + HOUR)
    report = await plan(memory, [person(time_of_day="07:00")], NINE - HOUR)

    assert (report.due, report.duplicates) == (1, 1)


async def test_moving_a_time_within_a_day_makes_no_second_brief(storage: AnyStorage) -> None:
    await plan(storage, [person()], NINE - HOUR)
    await end(storage, key(), JobStatus.COMPLETED)

    for time_of_day in ("09:05", "10:00", "08:30", "09:00"):
        report = await plan(storage, [person(time_of_day=time_of_day)], NINE - 45 * MINUTE, horizon=2 * HOUR)
        assert (report.enqueued, report.duplicates) == (0, 1)
    assert await states(storage) == {0: "completed"}


async def test_changing_the_zone_may_make_two_briefs_but_one_a_local_date(storage: AnyStorage) -> None:
    await plan(storage, [person(timezone="Pacific/Auckland")], datetime(2025, 9, 29, 19, tzinfo=UTC))
    await plan(storage, [person(timezone="Asia/Tokyo")], datetime(2025, 9, 29, 23, tzinfo=UTC))
    assert await states(storage) == {0: "pending"}
    await plan(storage, [person(timezone="Pacific/Auckland")], datetime(2025, 9, 30, 19, tzinfo=UTC))
    assert await states(storage) == {0: "pending", 1: "pending"}


async def test_a_time_that_was_changed_after_planning_is_not_lost_while_the_old_slot_waits(
    storage: AnyStorage,
) -> None:
    # At 08:05 ann moves her brief from 09:10 to 08:30. The old slot is claimed, and cancelled, only at 08:55.
    await plan(storage, [person(time_of_day="09:10")], NINE - HOUR)
    moved = [person(time_of_day="08:30")]
    for minutes in range(10, 60, 5):
        assert (await plan(storage, moved, NINE - HOUR + minutes * MINUTE)).duplicates == 1
    await end(storage, key(), JobStatus.CANCELLED, SkipReason.SUPERSEDED)

    report = await plan(storage, moved, NINE)

    assert report.enqueued == 1
    slot = await found(storage, key())
    assert (slot.status, slot.epoch) == (JobStatus.PENDING, 2)
    assert slot.occurrence.deliver_at == NINE - 30 * MINUTE
    assert (await plan(storage, moved, NINE + MINUTE)).mark == NINE + MINUTE


@pytest.mark.parametrize("minutes", [-30, 30], ids=["earlier", "later"])
async def test_a_changed_time_holds_the_mark_until_the_old_slot_is_done(memory: MemoryStorage, minutes: int) -> None:
    await plan(memory, [person(time_of_day="09:10")], NINE - HOUR)
    at = NINE + minutes * MINUTE
    moved = [person(time_of_day=f"{at:%H:%M}")]
    assert (await plan(memory, moved, at + 10 * MINUTE)).mark == at
    await end(memory, key(), JobStatus.COMPLETED)
    assert (await plan(memory, moved, at + 20 * MINUTE)).mark == at + 20 * MINUTE


@pytest.mark.parametrize("code", [SkipReason.SUPERSEDED, SkipReason.PAUSED])
async def test_a_slot_that_was_superseded_or_paused_is_taken_up_again(storage: AnyStorage, code: SkipReason) -> None:
    await plan(storage, [person()], NINE - HOUR)
    await end(storage, key(), JobStatus.CANCELLED, code)

    report = await plan(storage, [person(time_of_day="09:20")], NINE - 30 * MINUTE)

    assert report.enqueued == 1
    slot = await found(storage, key())
    assert (slot.status, slot.code, slot.epoch) == (JobStatus.PENDING, None, 2)
    assert slot.occurrence.deliver_at == NINE + 20 * MINUTE


async def test_a_superseded_slot_that_the_policy_refuses_now_is_told_so_and_left_as_it_is(storage: AnyStorage) -> None:
    await plan(storage, [person()], NINE - HOUR)
    await end(storage, key(), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    before = await found(storage, key())

    refusing = Follow(lambda activity, at: True)
    report = await plan(storage, [person()], NINE - 30 * MINUTE, visits={"ann": NINE}, policy=refusing)

    assert (report.enqueued, report.skipped) == (0, {SkipReason.ENGAGEMENT: 1})
    assert await found(storage, key()) == before


# Catching up


OUTAGE_ENDS = NINE + 3 * DAY + 12 * HOUR  # the slots of days 1, 2 and 3 were missed, day 2 exactly 36 hours ago


@pytest.mark.parametrize(
    ("catch_up", "late", "expected"),
    [
        ("skip", timedelta(0), ["too_late", "missed", "missed"]),
        ("latest", timedelta(0), ["too_late", "newer_occurrence", "pending"]),
        ("each", timedelta(0), ["too_late", "pending", "pending"]),
        ("skip", TICK, ["too_late", "too_late", "missed"]),
        ("latest", TICK, ["too_late", "too_late", "pending"]),
        ("each", TICK, ["too_late", "too_late", "pending"]),
        ("latest", DAY + TICK, ["too_late", "too_late", "too_late", "pending"]),
    ],
)
async def test_missed_slots_are_caught_up_with_as_asked_and_each_has_its_row(
    storage: AnyStorage, catch_up: str, late: timedelta, expected: list[str]
) -> None:
    how: dict[str, Any] = {"catch_up": catch_up, "max_lateness": 36 * HOUR}
    await plan(storage, [person()], NINE - HOUR, **how)
    await plan(storage, [person()], NINE + MINUTE, **how)

    report = await plan(storage, [person()], OUTAGE_ENDS + late, **how)

    assert await states(storage) == {0: "pending"} | dict(enumerate(expected, 1))
    assert (report.due, report.duplicates) == (len(expected), 0)
    assert report.enqueued == expected.count("pending")
    assert report.skipped == Counter(SkipReason(code) for code in expected if code != "pending")
    again = await plan(storage, [person()], OUTAGE_ENDS + late, **how)
    assert again.enqueued == 0
    assert await states(storage) == {0: "pending"} | dict(enumerate(expected, 1))


async def test_slots_that_were_planned_before_the_outage_are_not_missed(storage: AnyStorage) -> None:
    await plan(storage, [person()], NINE - HOUR)
    report = await plan(storage, [person()], NINE + HOUR, catch_up=CatchUp.SKIP)

    assert (report.due, report.duplicates) == (1, 1)
    assert await states(storage) == {0: "pending"}


async def test_latest_is_told_for_each_user_apart_and_counts_what_is_there_already(storage: AnyStorage) -> None:
    rows = [person(), person("bob", "12:00"), person("cid", frequency="weekly", day_of_week=2)]
    await plan(storage, [], NINE - 2 * DAY + HOUR)
    # Another planner recorded ann's latest slot, and died.
    latest = Job(
        type=NAME, user_id="ann", occurrence=Occurrence(TODAY, NINE), run_at=NINE, window=Window(NINE - DAY, NINE)
    )
    await storage.enqueue([latest])

    report = await plan(storage, rows, NINE + 4 * HOUR, max_lateness=3 * DAY)

    assert await states(storage, "ann") == {-1: "newer_occurrence", 0: "pending"}
    assert await states(storage, "bob") == {-2: "newer_occurrence", -1: "newer_occurrence", 0: "pending"}
    assert await states(storage, "cid") == {0: "pending"}
    assert (report.due, report.enqueued, report.duplicates) == (6, 2, 1)


async def test_a_slot_at_this_very_moment_is_not_missed(memory: MemoryStorage) -> None:
    await plan(memory, [], NINE - DAY - HOUR)
    report = await plan(memory, [person()], NINE, catch_up="skip", max_lateness=2 * DAY)

    assert await states(memory) == {-1: "missed", 0: "pending"}
    assert (report.enqueued, report.skipped) == (1, {SkipReason.MISSED: 1})


@pytest.mark.parametrize("early", [timedelta(0), MINUTE], ids=["due now", "due soon"])
async def test_the_latest_that_was_missed_is_sent_also_where_the_next_is_due(
    memory: MemoryStorage, early: timedelta
) -> None:
    await plan(memory, [], NINE - DAY - HOUR)
    report = await plan(memory, [person()], NINE - early, catch_up="latest", max_lateness=2 * DAY)

    assert await states(memory) == {-1: "pending", 0: "pending"}
    assert report.enqueued == 2


@pytest.mark.parametrize(("max_lateness", "rows"), [(12 * HOUR, 31), (60 * DAY, 60), (200 * DAY, 100)])
async def test_a_long_outage_is_looked_back_at_for_31_days_or_max_lateness(
    memory: MemoryStorage, max_lateness: timedelta, rows: int
) -> None:
    await plan(memory, [], NINE - 100 * DAY - HOUR)
    report = await plan(memory, [person()], NINE + HOUR, catch_up="each", max_lateness=max_lateness)

    # One more where the outage, or the look back, ends within a day that holds its slot.
    assert report.due - rows in {0, 1}
    sent = sum(NINE - day * DAY >= NINE + HOUR - max_lateness for day in range(101))
    assert (report.enqueued, report.skipped[SkipReason.TOO_LATE]) == (sent, report.due - sent)


async def test_the_first_plan_may_look_back(storage: AnyStorage) -> None:
    report = await plan(storage, [person(), person("bob", "07:59")], NINE + HOUR, look_back=2 * HOUR)

    assert report.window.start == NINE - HOUR
    assert (report.due, report.enqueued) == (1, 1)


async def test_only_the_first_plan_looks_back(memory: MemoryStorage) -> None:
    await plan(memory, [], NINE + MINUTE)
    assert (await plan(memory, [person()], NINE + HOUR, look_back=2 * HOUR)).due == 0


@pytest.mark.parametrize(("since", "due"), [(NINE - TICK, 1), (NINE, 1), (NINE + TICK, 0)])
async def test_slots_before_a_preference_took_effect_were_not_missed(
    memory: MemoryStorage, since: datetime, due: int
) -> None:
    await plan(memory, [], NINE - HOUR)
    ann = person(effective_from=since.astimezone(timezone(timedelta(hours=5))))
    report = await plan(memory, [ann], NINE + HOUR)

    assert (report.due, report.enqueued) == (due, due)
    assert len(await slots_of(memory)) == due


async def test_who_is_switched_off_is_not_due(memory: MemoryStorage) -> None:
    report = await plan(memory, [person(is_active=False), person("bob", "nonsense", is_active=False)], NINE)

    assert (report.scanned, report.due, report.skipped) == (2, 0, {})
    assert report.ok


# Bad input


BAD_IDS: list[Any] = ["", "x" * 256, "a\0b", "a\x1bb", "a\x85b", "a\ud800b", 7, None, ["ann"], b"ann"]


@pytest.mark.parametrize("user_id", BAD_IDS, ids=ascii)
async def test_a_bad_user_id_is_reported_and_the_others_are_planned(storage: AnyStorage, user_id: Any) -> None:
    verdicts: list[Verdict] = []
    rows = [person("ann"), person(user_id), person("bob")]
    report = await planner(storage, rows).plan(NINE - HOUR, on_verdict=verdicts.append)

    assert (report.scanned, report.due, report.enqueued) == (3, 2, 2)
    assert report.skipped == {SkipReason.INVALID_USER_ID: 1}
    (problem,) = report.problems
    assert problem.code is SkipReason.INVALID_USER_ID
    assert problem.message.startswith("user_id=")
    assert " must " in problem.message
    told = verdicts[0]
    assert (told.user_id, told.code, told.status) == (repr(user_id)[:80], SkipReason.INVALID_USER_ID, None)
    assert told.user_id.isprintable()
    assert not report.ok
    assert report.mark == NINE - HOUR


async def test_a_user_id_of_255_characters_is_good(storage: AnyStorage) -> None:
    assert (await plan(storage, [person("é" * 255)], NINE)).enqueued == 1


async def test_a_preference_that_makes_no_schedule_is_reported_with_every_bad_field(storage: AnyStorage) -> None:
    bad = person(
        "bad",
        "25:00",
        frequency="hourly",
        timezone="Mars/Olympus",
        day_of_week=9,
        days=["x"],
        effective_from=datetime(2025, 9, 30),
    )
    report = await plan(storage, [person(), bad, person("bob")], NINE)

    assert (report.due, report.enqueued) == (2, 2)
    assert report.skipped == {SkipReason.INVALID_SCHEDULE: 1}
    (problem,) = report.problems
    assert (problem.user_id, problem.code) == ("bad", SkipReason.INVALID_SCHEDULE)
    for field in (
        "frequency='hourly'",
        "time_of_day='25:00'",
        "timezone='Mars/Olympus'",
        "day_of_week=9",
        "days=['x']",
    ):
        assert field in problem.message
    assert "effective_from=datetime.datetime(2025, 9, 30, 0, 0): must be aware" in problem.message


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency": ["daily"]},
        {"timezone": {"name": "UTC"}},
        {"days": 5},
        {"days": [[1]]},
        {"days": "12"},
        {"day_of_week": "Monday"},
        {"time_of_day": 9},
        {"effective_from": "2025-09-30"},
        {"effective_from": date(2025, 9, 30)},
        {"effective_from": datetime(2025, 9, 30)},
    ],
    ids=str,
)
async def test_a_value_of_a_wrong_type_is_that_users_problem_alone(memory: MemoryStorage, fields: Any) -> None:
    bad = evolve(person("bad"), **fields)
    report = await plan(memory, [person(), bad, person("bob")], NINE)

    assert (report.enqueued, report.skipped) == (2, {SkipReason.INVALID_SCHEDULE: 1})
    assert next(iter(fields)) in report.problems[0].message
    assert report.problems[0].user_id == "bad"


@pytest.mark.parametrize("bad", [[True], [1.0], b"\x01", {1: "x"}], ids=repr)
@pytest.mark.parametrize("bad_first", [True, False])
async def test_days_that_look_like_good_ones_neither_pass_for_them_nor_spoil_them(
    memory: MemoryStorage, bad: Any, bad_first: bool
) -> None:
    rows = [person("good", frequency="custom", days=[1]), person("bad", frequency="custom", days=bad)]
    monday = NINE - DAY
    report = await plan(memory, rows[::-1] if bad_first else rows, monday)

    assert (report.enqueued, report.skipped) == (1, {SkipReason.INVALID_SCHEDULE: 1})
    assert await states(memory, "good") == {-1: "pending"}


async def test_a_second_preference_of_a_user_in_one_page_is_reported_and_the_first_counts(
    storage: AnyStorage,
) -> None:
    report = await plan(storage, [person(), person(time_of_day="08:30"), person("bob")], NINE - HOUR)

    assert (report.due, report.enqueued) == (2, 2)
    assert report.skipped == {SkipReason.DUPLICATE_USER: 1}
    assert [(problem.user_id, problem.code) for problem in report.problems] == [("ann", SkipReason.DUPLICATE_USER)]
    assert (await found(storage, key())).occurrence.deliver_at == NINE


async def test_only_the_first_hundred_problems_are_kept_and_all_are_counted(memory: MemoryStorage) -> None:
    rows = [person(f"u{number}", "never") for number in range(250)]
    report = await plan(memory, rows, NINE, page_size=60)

    assert report.skipped == {SkipReason.INVALID_SCHEDULE: 250}
    assert [problem.user_id for problem in report.problems] == [f"u{number}" for number in range(100)]


async def test_more_distinct_schedules_than_are_kept_are_planned_all_the_same(
    memory: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fanout_briefs.scan._KEPT_SCHEDULES", 3)
    rows = [person(f"u{number}", f"09:{number:02}") for number in range(10)]
    assert (await plan(memory, rows, NINE - MINUTE)).enqueued == 10


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("", "empty"),
        ("a:b", "colon"),
        (":", "colon"),
        ("a\0b", "control characters"),
        ("a\ud800", "lone surrogates"),
        ("a" * 256, "at most 255 characters"),
        (7, "must be a string"),
    ],
)
async def test_a_bad_name_is_refused(memory: MemoryStorage, name: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"name=.*{wrong}"):
        SchedulePlanner(preferences=Rows([]), ledger=memory, name=name)


@pytest.mark.parametrize("page_size", [0, -1])
async def test_a_bad_page_size_is_refused(memory: MemoryStorage, page_size: int) -> None:
    with pytest.raises(ValueError, match=r"page_size=.*at least 1"):
        planner(memory, [], page_size=page_size)


async def test_a_bad_tolerance_is_refused(memory: MemoryStorage) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        planner(memory, [], tolerance=-MINUTE)
    with pytest.raises(ValueError, match=r"tolerance=.*: must be a timedelta of zero or more, and at most 31 days"):
        planner(memory, [], tolerance=31 * DAY + TICK)
    planner(memory, [], tolerance=31 * DAY)


@pytest.mark.parametrize("name", ["lead", "deadline", "horizon", "max_lateness", "look_back"])
def test_spans_of_time_are_not_negative(name: str) -> None:
    spans: dict[str, Any] = {name: -TICK}
    with pytest.raises(ValueError, match=name):
        Timing(**spans)


def test_an_unknown_way_of_catching_up_is_refused() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        Timing(catch_up="sometimes")


async def test_a_naive_now_is_refused_before_anything_is_read(memory: MemoryStorage) -> None:
    rows = Rows([person()])
    with pytest.raises(ValueError, match="must be aware"):
        await plan(memory, rows, datetime(2025, 9, 30, 9))
    assert rows.pages == 0
    assert await memory.advance(NAME) is None


async def test_a_review_and_a_hook_that_cannot_be_used_are_refused_before_anything_is_read(
    memory: MemoryStorage,
) -> None:
    async def awaited(verdict: Verdict) -> None:
        raise AssertionError(verdict)

    rows = Rows([person()])
    with pytest.raises(
        ValueError, match=r"^review=-1: must be a timedelta .*; on_verdict=.*: must be a plain function"
    ):
        await planner(memory, rows).plan(NINE, on_verdict=awaited, review=cast("Any", -1))
    assert rows.pages == 0


# Engagement


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_page_costs_one_call_of_each_kind_whatever_its_size(storage: AnyStorage, count: int) -> None:
    ledger, visits = Watched(storage), Visits({row.user_id: NINE for row in people(count)})
    report = await plan(ledger, people(count), NINE - HOUR, visits=visits)

    assert report.enqueued == count
    assert len(visits.calls) == 1
    assert ledger.calls == {"find": 1, "last_briefs": 1, "enqueue": 1, "advance": 3}
    await plan(ledger, people(count), NINE - 30 * MINUTE, visits=visits)
    assert len(visits.calls) == 1  # nobody is left to be asked about
    assert ledger.calls == {"find": 2, "last_briefs": 1, "enqueue": 1, "advance": 5}


async def test_nobody_due_costs_no_call_at_all(memory: MemoryStorage) -> None:
    ledger, visits = Watched(memory), Visits({})
    await plan(ledger, [person(time_of_day="20:00")], NINE, visits=visits)

    assert visits.calls == []
    assert ledger.calls == {"advance": 3}


async def test_only_those_who_are_due_are_asked_about(memory: MemoryStorage) -> None:
    rows = [person(), person("bob"), person("later", "20:00"), person("off", is_active=False), person("bad", "x")]
    await plan(memory, [person("bob")], NINE - HOUR)
    visits = Visits({"ann": NINE})
    await plan(memory, rows, NINE - HOUR, visits=visits)

    assert visits.calls == [["ann"]]


async def test_who_is_refused_leaves_a_row_with_the_policys_own_word(storage: AnyStorage) -> None:
    report = await plan(storage, [person(), person("bob")], NINE, visits={"ann": NINE - 3 * DAY, "bob": NINE})

    assert (report.enqueued, report.skipped) == (1, {SkipReason.ENGAGEMENT: 1})
    assert report.ok
    slot = await found(storage, key())
    assert (slot.status, slot.code, slot.reason) == (JobStatus.SKIPPED, SkipReason.ENGAGEMENT, "cooling_off")
    assert (await found(storage, key("bob"))).reason == "active"


async def test_who_cannot_be_read_is_put_off_and_the_others_are_not_affected(storage: AnyStorage) -> None:
    verdicts: list[Verdict] = []
    one = planner(storage, [person(), person("bob")], visits={"bob": NINE})
    report = await one.plan(NINE, on_verdict=verdicts.append)

    assert (report.enqueued, report.skipped) == (1, {SkipReason.ENGAGEMENT_UNAVAILABLE: 1})
    assert await states(storage) == {}
    assert await states(storage, "bob") == {0: "pending"}
    assert not report.ok
    (problem,) = report.problems
    assert (problem.user_id, problem.code) == ("ann", SkipReason.ENGAGEMENT_UNAVAILABLE)
    assert verdicts[0] == Verdict(
        user_id="ann",
        occurrence=Occurrence(TODAY, NINE),
        code=SkipReason.ENGAGEMENT_UNAVAILABLE,
        detail="the user's activity could not be read",
    )


async def test_the_seeds_policy_sends_to_those_who_cannot_be_read(storage: AnyStorage) -> None:
    report = await plan(storage, [person(), person("bob")], NINE, visits={"bob": NINE}, policy=BackoffPolicy.phase1())

    assert report.enqueued == 2
    assert report.ok
    assert (await found(storage, key())).reason == "engagement_unavailable"


@pytest.mark.parametrize("policy", [BackoffPolicy(), BackoffPolicy.phase1()], ids=["default", "phase1"])
async def test_engagement_that_raises_reads_nobody(memory: MemoryStorage, policy: BackoffPolicy) -> None:
    visits = Visits({}, error=TimeoutError("no answer"))
    report = await plan(memory, people(3), NINE, visits=visits, policy=policy)

    if policy.sends_when_unavailable:
        assert (report.enqueued, report.problems) == (3, [])
    else:
        assert (report.enqueued, report.skipped) == (0, {SkipReason.ENGAGEMENT_UNAVAILABLE: 3})
        assert "TimeoutError('no answer')" in report.problems[0].message
    assert report.failed == 0


async def test_a_policy_that_raises_for_one_user_and_a_naive_visit_affect_nobody_else(memory: MemoryStorage) -> None:
    def refuse(activity: Activity, at: datetime) -> bool:
        return bool(1 // (activity.user_id != "ann")) and False

    visits = {"ann": NINE, "bob": datetime(2025, 9, 30), "cid": NINE}
    report = await plan(memory, [person(user) for user in visits], NINE, visits=visits, policy=Follow(refuse))

    assert (report.enqueued, report.skipped) == (1, {SkipReason.ENGAGEMENT_UNAVAILABLE: 2})
    assert "ZeroDivisionError" in report.problems[0].message
    assert "must be aware" in report.problems[1].message


async def test_a_policy_whose_reason_is_no_text_affects_nobody_else(memory: MemoryStorage) -> None:
    class Numbers:
        def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
            reason: Any = 7 if activity.user_id == "ann" else "seven"
            return EngagementDecision(True, is_reengagement=False, reason=reason)

    visits = {"ann": NINE, "bob": NINE}
    report = await plan(memory, [person(user) for user in visits], NINE, visits=visits, policy=Numbers())

    assert (report.enqueued, report.skipped) == (1, {SkipReason.ENGAGEMENT_UNAVAILABLE: 1})
    assert "reason must be a string, not int" in report.problems[0].message


async def test_slots_of_one_user_in_one_window_see_each_other_as_last_brief(storage: AnyStorage) -> None:
    policy = Follow(lambda activity, at: at.day == 1)
    now = NINE + 3 * DAY + HOUR
    await plan(storage, [], NINE - HOUR)
    await plan(storage, [person()], now, visits={"ann": NINE}, policy=policy, catch_up="each", max_lateness=9 * DAY)

    nines = [NINE + day * DAY for day in range(4)]
    # The one of 1 October was refused, so it is nobody's last brief.
    before = [None, nines[0], nines[0], nines[2]]
    assert policy.asked == [("ann", at, last) for at, last in zip(nines, before, strict=True)]
    assert await states(storage) == {0: "pending", 1: "engagement", 2: "pending", 3: "pending"}


async def test_the_last_brief_is_looked_for_among_planned_and_finished_slots(storage: AnyStorage) -> None:
    rows = [person(user) for user in ("ann", "bob", "cid", "new")]
    await plan(storage, rows[:3], NINE - HOUR)
    await end(storage, key("ann"), JobStatus.COMPLETED)
    await end(storage, key("bob"), JobStatus.FAILED)
    policy = Follow()
    visits = {row.user_id: NINE for row in rows}
    await plan(storage, rows, NINE + DAY - HOUR, visits=visits, policy=policy, max_lateness=timedelta(0))

    assert policy.asked == [
        (user, NINE + DAY, NINE if user in {"ann", "cid"} else None) for user in ("ann", "bob", "cid", "new")
    ]


async def test_who_becomes_active_before_the_slot_is_taken_up_again(storage: AnyStorage) -> None:
    visits = Visits({"ann": NINE - 3 * DAY})
    policy = Follow(lambda activity, at: activity.last_visit is not None and at - activity.last_visit > DAY)
    first = await plan(storage, [person()], NINE - HOUR, visits=visits, policy=policy)
    assert first.skipped == {SkipReason.ENGAGEMENT: 1}
    visits.visits["ann"] = NINE - 50 * MINUTE

    second = await plan(storage, [person()], NINE - 45 * MINUTE, visits=visits, policy=policy)

    assert (second.enqueued, second.skipped) == (1, {})
    slot = await found(storage, key())
    assert (slot.status, slot.code, slot.reason, slot.epoch) == (JobStatus.PENDING, None, "followed", 2)


async def test_a_visit_before_the_slot_counts_also_when_the_plan_comes_after_it(storage: AnyStorage) -> None:
    visits = Visits({"ann": NINE - 3 * DAY})
    await plan(storage, [person()], NINE - HOUR, visits=visits)
    visits.visits["ann"] = NINE - MINUTE

    assert (await plan(storage, [person()], NINE + HOUR, visits=visits)).enqueued == 1


@pytest.mark.parametrize("catch_up", CatchUp)
async def test_a_failure_for_one_user_changes_nothing_for_another(storage: AnyStorage, catch_up: CatchUp) -> None:
    # Bob cannot be read, which holds the mark, so that ann's slot is looked at again after it has passed.
    visits = Visits({"ann": NINE - 3 * DAY})
    rows = [person(), person("bob", "08:30")]
    await plan(storage, rows, NINE - HOUR, visits=visits, catch_up=catch_up)
    visits.visits["ann"] = NINE + 5 * HOUR

    report = await plan(storage, rows, NINE + 6 * HOUR, visits=visits, catch_up=catch_up)

    assert report.window.start == NINE - HOUR
    assert report.enqueued == 0
    assert await states(storage) == {0: "engagement"}
    assert report.skipped[SkipReason.ENGAGEMENT] == 1


# Failures


@pytest.mark.parametrize("method", ["find", "last_briefs", "enqueue"])
async def test_a_page_whose_storage_fails_is_counted_and_completed_by_the_next_plan(
    storage: AnyStorage, method: str
) -> None:
    rows, now = people(9), NINE - MINUTE
    visits: dict[str, datetime | None] = {row.user_id: NINE for row in rows}
    second = fail_once(method, lambda batch: any("user0004" in str(each) for each in batch))

    report = await plan(Watched(storage, second), rows, now, page_size=3, visits=visits)

    assert (report.due, report.enqueued, report.failed) == (9, 6, 3)
    assert [problem.user_id for problem in report.problems] == [None]
    assert "3 due slots" in report.problems[0].message
    assert "disk full" in report.problems[0].message
    assert not report.ok
    assert sorted(slot.user_id for slot in (await slots_of(storage, [row.user_id for row in rows])).values()) == [
        f"user000{number}" for number in (0, 1, 2, 6, 7, 8)
    ]

    whole = await plan(Watched(storage), rows, NINE + HOUR, page_size=3, visits=visits)

    assert (whole.due, whole.enqueued, whole.duplicates, whole.failed) == (9, 3, 6, 0)
    assert whole.mark == NINE + HOUR


@pytest.mark.parametrize(
    ("method", "handled"),
    [
        ("find", {"due": 2, "duplicates": 0, "engagement": 0, "enqueue": 0}),
        ("enqueue", {"due": 2, "duplicates": 2, "engagement": 2, "enqueue": 0}),
    ],
)
async def test_a_phase_that_fails_has_handled_nothing(
    memory: MemoryStorage, method: str, handled: Mapping[str, int]
) -> None:
    report = await plan(Watched(memory, fail_once(method)), people(2), NINE)
    assert {name: phase.items for name, phase in report.phases.items()} == handled


async def test_a_ledger_that_answers_for_fewer_jobs_than_it_was_given_fails_the_page(memory: MemoryStorage) -> None:
    class Short(Watched):
        async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
            return (await super().enqueue(jobs))[1:]

    report = await plan(Short(memory), people(3), NINE)
    assert (report.enqueued, report.failed) == (0, 3)


async def test_what_is_paused_is_told_so_and_not_enqueued(storage: AnyStorage) -> None:
    await storage.pause([NAME], NINE - HOUR)
    report = await plan(storage, people(3), NINE)
    assert (report.enqueued, report.skipped) == (0, {SkipReason.PAUSED: 3})


async def test_a_failed_page_holds_the_mark_at_its_first_slot(storage: AnyStorage) -> None:
    rows = [person(), person("bob", "09:30"), person("cid", "09:15")]
    ledger = Watched(storage)
    await plan(ledger, [], NINE - HOUR)
    ledger.before = fail_once("find", lambda keys: key("bob") in keys)

    report = await plan(ledger, rows, NINE + HOUR, page_size=1)

    assert report.mark == NINE + 30 * MINUTE
    assert (report.enqueued, report.failed) == (2, 1)
    assert (await plan(ledger, rows, NINE + 2 * HOUR, page_size=1)).mark == NINE + 2 * HOUR
    assert await states(storage, "bob") == {0: "pending"}


async def test_a_page_that_fails_without_anybody_due_holds_nothing(memory: MemoryStorage) -> None:
    await plan(memory, [person()], NINE + HOUR)
    ledger = Watched(memory, fail_once("find"))
    # Nine o'clock is only looked at to tell what is done.
    verdicts = await verdicts_of(ledger, [person()], NINE + HOUR)

    assert [(verdict.user_id, verdict.code) for verdict in verdicts] == [("ann", SkipReason.NOT_YET_DUE)]
    assert await memory.advance(NAME) == NINE + HOUR


async def test_an_enqueue_that_fails_after_it_was_done_makes_no_second_slot(storage: AnyStorage) -> None:
    class Deaf(Watched):
        async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
            await super().enqueue(jobs)
            raise ConnectionError("no answer")

    report = await plan(Deaf(storage), people(2), NINE)
    assert (report.enqueued, report.failed) == (0, 2)

    again = await plan(storage, people(2), NINE + MINUTE)
    assert (again.enqueued, again.duplicates) == (0, 2)


async def test_preferences_that_fail_stop_the_plan_and_earlier_pages_stay(storage: AnyStorage) -> None:
    rows = Rows(people(6), fail_at=1)
    with pytest.raises(ConnectionError, match="went away"):
        await plan(storage, rows, NINE - MINUTE, page_size=2)
    ids = [row.user_id for row in people(6)]
    assert {slot.user_id for slot in (await slots_of(storage, ids)).values()} == {"user0000", "user0001"}
    assert await storage.advance(NAME) == NINE - MINUTE

    report = await plan(storage, rows, NINE + HOUR, page_size=2)

    assert (report.enqueued, report.duplicates) == (4, 2)


class Wheel(Rows):
    """Gives cursors that come round."""

    def __init__(self, cursors: Sequence[str]) -> None:
        super().__init__([])
        self.cursors = cursors

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        self.pages += 1
        return Page([person(f"u{self.pages}")], self.cursors[(self.pages - 1) % len(self.cursors)])


@pytest.mark.parametrize("cursors", [["same"], [""], ["one", "two", "three"]])
async def test_cursors_that_come_again_end_the_plan(memory: MemoryStorage, cursors: Sequence[str]) -> None:
    rows = Wheel(cursors)
    with pytest.raises(ValueError, match="cursor"):
        await plan(memory, rows, NINE)
    assert rows.pages == len(cursors) + 1


async def test_pages_may_be_empty_before_the_last(memory: MemoryStorage) -> None:
    class Sparse(Rows):
        async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
            step = int(cursor or 0)
            return Page([person()] if step == 2 else [], str(step + 1) if step < 3 else None)

    assert (await plan(memory, Sparse([]), NINE)).enqueued == 1


async def test_a_cancelled_plan_is_no_outcome(memory: MemoryStorage) -> None:
    never = Event()
    ledger = Watched(memory, lambda method, batch: never if method == "enqueue" else None)
    with anyio.CancelScope() as scope:
        async with create_task_group() as tasks:
            tasks.start_soon(plan, ledger, [person()], NINE - MINUTE)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert await memory.advance(NAME) == NINE - MINUTE
    assert (await plan(memory, [person()], NINE + MINUTE)).enqueued == 1


# Verdicts


async def test_everybody_gets_a_verdict_and_those_who_are_not_due_their_next_occurrence(storage: AnyStorage) -> None:
    await plan(storage, [person("there")], NINE - HOUR)
    rows = [
        person(),
        person("there"),
        person("away"),
        person("edge", "09:45"),
        person("past", "08:15"),
        person("monthly", frequency="monthly"),
        person("off", is_active=False),
        person("new", effective_from=NINE + MINUTE),
        person("bad", "x"),
    ]
    visits: dict[str, datetime | None] = {row.user_id: NINE for row in rows}
    visits["away"] = NINE - 8 * DAY
    await plan(storage, [], NINE - 30 * MINUTE)

    verdicts = await verdicts_of(storage, rows, NINE - 30 * MINUTE, visits=visits, policy=BackoffPolicy.phase1())

    today, not_yet = Occurrence(TODAY, NINE), SkipReason.NOT_YET_DUE
    next_month = Occurrence(date(2025, 10, 1), NINE + DAY)
    by_user = {verdict.user_id: verdict for verdict in verdicts}
    assert len(verdicts) == len(by_user) == len(rows)
    assert by_user.pop("bad").code is SkipReason.INVALID_SCHEDULE
    assert list(by_user.values()) == [
        Verdict(user_id="edge", occurrence=Occurrence(TODAY, NINE + 45 * MINUTE), code=not_yet),
        Verdict(user_id="monthly", occurrence=next_month, code=not_yet),
        Verdict(user_id="off", code=SkipReason.SWITCHED_OFF),
        Verdict(user_id="new", occurrence=today, code=SkipReason.NOT_YET_EFFECTIVE),
        Verdict(user_id="past", occurrence=Occurrence(TODAY + DAY, NINE + 23.25 * HOUR), code=not_yet),
        Verdict(user_id="there", occurrence=today, status=JobStatus.PENDING),
        Verdict(user_id="ann", occurrence=today, status=JobStatus.PENDING, is_new=True),
        Verdict(
            user_id="away",
            occurrence=today,
            status=JobStatus.SKIPPED,
            code=SkipReason.ENGAGEMENT,
            detail="first_backoff",
        ),
    ]


async def test_without_a_hook_people_who_are_not_due_are_only_counted(memory: MemoryStorage) -> None:
    rows = [person(is_active=False), person("bob", "20:00"), person("cid", effective_from=NINE + MINUTE)]
    report = await planner(memory, rows).plan(NINE)

    assert (report.scanned, report.due, report.skipped, report.problems) == (3, 0, {}, [])


async def test_each_occurrence_in_the_window_gets_its_own_verdict(memory: MemoryStorage) -> None:
    await plan(memory, [], NINE - 3 * DAY)
    ann = person(effective_from=NINE - DAY)
    verdicts = await verdicts_of(memory, [ann], NINE + HOUR, max_lateness=3 * DAY)

    told = [((v.occurrence.local_date - TODAY).days, v.code or v.status) for v in verdicts if v.occurrence]
    assert told == [
        (-3, SkipReason.NOT_YET_EFFECTIVE),
        (-2, SkipReason.NOT_YET_EFFECTIVE),
        (0, JobStatus.PENDING),
        (-1, SkipReason.NEWER_OCCURRENCE),
    ]


async def test_verdicts_of_a_failed_page_say_what_failed(memory: MemoryStorage) -> None:
    verdicts = await verdicts_of(Watched(memory, fail_once("enqueue")), [person(), person("bob", "20:00")], NINE)

    assert verdicts[0].code is SkipReason.NOT_YET_DUE
    assert verdicts[1] == Verdict(
        user_id="ann",
        occurrence=Occurrence(TODAY, NINE),
        code=SkipReason.STORAGE_UNAVAILABLE,
        detail="OSError('disk full')",
    )


async def test_a_review_tells_what_exists_further_back_and_changes_nothing(storage: AnyStorage) -> None:
    rows = [person(), person("bob", "20:00")]
    await plan(storage, rows, NINE)
    await plan(storage, rows, NINE + 2 * HOUR)
    late = [*rows, person("late")]  # signed up meanwhile: 09:00 was never promised
    seen: list[Verdict] = []
    report = await planner(storage, late).plan(NINE + 3 * HOUR, on_verdict=seen.append, review=4 * HOUR)

    assert (report.due, report.enqueued, report.duplicates) == (1, 0, 1)
    assert report.existing == {JobStatus.PENDING: 1}
    assert {verdict.user_id: verdict.status or verdict.code for verdict in seen} == {
        "ann": JobStatus.PENDING,
        "bob": SkipReason.NOT_YET_DUE,
        "late": SkipReason.NOT_YET_DUE,
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus.COMPLETED, None),
        (JobStatus.FAILED, None),
        (JobStatus.CANCELLED, SkipReason.SUPERSEDED),
        (JobStatus.SKIPPED, SkipReason.ENGAGEMENT),
    ],
)
async def test_a_review_takes_up_nothing_from_before_the_promise(
    storage: AnyStorage, status: JobStatus, code: SkipReason | None
) -> None:
    for now in (NINE, NINE + 2 * HOUR):
        await plan(storage, [person()], now)
    await end(storage, key(), status, code)
    before = await found(storage, key())
    report = await planner(storage, [person()]).plan(NINE + 3 * HOUR, review=4 * HOUR)

    assert await found(storage, key()) == before
    is_skipped = status is JobStatus.SKIPPED
    assert report.existing == ({} if is_skipped else {status: 1})
    assert report.skipped == ({code: 1} if is_skipped else {})


async def test_a_review_tells_of_the_first_preference_of_a_user_who_is_there_twice(memory: MemoryStorage) -> None:
    for now in (NINE, NINE + 2 * HOUR):
        await plan(memory, [], now)
    seen: list[Verdict] = []
    rows = [person("late"), person("late", "08:50")]
    await planner(memory, rows).plan(NINE + 3 * HOUR, on_verdict=seen.append, review=4 * HOUR)

    assert [(verdict.code, verdict.occurrence) for verdict in seen] == [
        (SkipReason.DUPLICATE_USER, None),
        (SkipReason.NOT_YET_DUE, Occurrence(TODAY + DAY, NINE + DAY)),
    ]


async def test_verdicts_come_once_their_page_is_recorded(memory: MemoryStorage) -> None:
    known: list[int] = []
    ids = [row.user_id for row in people(3)]
    ledger = Watched(memory)
    one = planner(ledger, people(3), page_size=1)
    await one.plan(NINE, on_verdict=lambda verdict: known.append(ledger.calls["enqueue"]))

    assert known == [1, 2, 3]
    assert len(await slots_of(memory, ids)) == 3


async def test_a_hook_that_raises_stops_the_plan_before_the_mark_moves(memory: MemoryStorage) -> None:
    await plan(memory, [], NINE - HOUR)

    def tell(verdict: Verdict) -> None:
        raise RuntimeError(verdict.user_id)

    with pytest.raises(RuntimeError, match="ann"):
        await planner(memory, [person()]).plan(NINE, on_verdict=tell)
    assert await memory.advance(NAME) == NINE - HOUR
    assert await states(memory) == {0: "pending"}


# Jobs nearby


@pytest.mark.parametrize(
    ("time_of_day", "nearby"),
    [("19:29", False), ("19:30", True), ("20:00", True), ("20:30", True), ("20:31", False)],
)
async def test_with_a_tolerance_another_live_job_nearby_counts_whatever_its_date(
    storage: AnyStorage, time_of_day: str, nearby: bool
) -> None:
    # Nine o'clock in Auckland on the 1st is eight in the evening of the 30th in UTC.
    now = datetime(2025, 9, 30, 19, 15, tzinfo=UTC)
    await plan(storage, [person(timezone="Pacific/Auckland")], now)
    assert await states(storage) == {1: "pending"}

    moved = [person(time_of_day=time_of_day)]
    report = await plan(storage, moved, now, tolerance=30 * MINUTE, horizon=3 * HOUR)

    assert await states(storage) == {0: "nearby_job" if nearby else "pending", 1: "pending"}
    assert report.enqueued == (not nearby)
    assert report.skipped == ({SkipReason.NEARBY_JOB: 1} if nearby else {})


@pytest.mark.parametrize("turn", [1, -1], ids=["two dates back", "two dates on"])
async def test_a_job_nearby_may_be_of_two_dates_before_or_after(memory: MemoryStorage, turn: int) -> None:
    # When it is half past midnight on the 2nd on Kiritimati, it is half past ten in the evening of the 30th on Baker Island.
    rows = [
        person(time_of_day="00:30", timezone="Pacific/Kiritimati"),
        person(time_of_day="22:30", timezone="Etc/GMT+12"),
    ]
    first, moved = rows[::turn]
    now = datetime(2025, 10, 1, 10, tzinfo=UTC)
    await plan(memory, [first], now)
    report = await plan(memory, [moved], now, tolerance=timedelta(0))

    assert report.skipped == {SkipReason.NEARBY_JOB: 1}
    assert len(await states(memory)) == 2


@pytest.mark.parametrize("turn", [1, -1], ids=["three dates back", "three dates on"])
@pytest.mark.parametrize("apart", [timedelta(0), MINUTE], ids=["within a day and two", "just beyond"])
async def test_a_job_within_a_longer_tolerance_may_lie_more_dates_away(
    memory: MemoryStorage, turn: int, apart: timedelta
) -> None:
    # The 30th at 23:59 on Baker Island, and 22 hours and a minute later the 3rd at midnight on Kiritimati.
    rows = [
        person(time_of_day="23:59", timezone="Etc/GMT+12"),
        person(time_of_day="00:00", timezone="Pacific/Kiritimati"),
    ]
    moments = [datetime(2025, 10, 1, 11, tzinfo=UTC), datetime(2025, 10, 2, 9, tzinfo=UTC)]
    tolerance = timedelta(hours=22, minutes=1) - apart
    first, second = list(zip(rows, moments, strict=True))[::turn]
    await plan(memory, [first[0]], first[1], tolerance=tolerance)
    report = await plan(memory, [second[0]], second[1], tolerance=tolerance)

    assert report.skipped.get(SkipReason.NEARBY_JOB, 0) == (0 if apart else 1)


@pytest.mark.parametrize("days", [1, 3, 7, 31])
async def test_a_tolerance_of_days_is_kept_to_the_day(memory: MemoryStorage, days: int) -> None:
    later = person(effective_from=NINE + days * DAY)  # so that there is no slot between the two
    await plan(memory, [person()], NINE - HOUR)
    report = await plan(memory, [later], NINE + days * DAY - HOUR, tolerance=days * DAY)
    assert (report.enqueued, await states(memory)) == (0, {0: "pending", days: "nearby_job"})

    await memory.forget("ann")
    await plan(memory, [person()], NINE - HOUR)
    report = await plan(memory, [later], NINE + days * DAY - HOUR, tolerance=days * DAY - TICK)
    assert (report.enqueued, await states(memory)) == (1, {0: "pending", days: "pending"})


async def test_a_job_nearby_that_is_done_does_not_count(storage: AnyStorage) -> None:
    now = datetime(2025, 9, 30, 19, 15, tzinfo=UTC)
    await plan(storage, [person(timezone="Pacific/Auckland")], now)
    moved = [person(time_of_day="20:10")]
    await plan(storage, moved, now, tolerance=30 * MINUTE)
    assert await states(storage) == {0: "nearby_job", 1: "pending"}
    await end(storage, key(day=1), JobStatus.COMPLETED)

    assert (await plan(storage, moved, now, tolerance=30 * MINUTE)).enqueued == 1
    assert await states(storage) == {0: "pending", 1: "completed"}


async def test_with_a_tolerance_too_a_slot_has_one_row_and_other_users_do_not_count(storage: AnyStorage) -> None:
    rows = [*people(3), person("bob", "09:10")]
    first = await plan(storage, rows, NINE - HOUR, tolerance=30 * MINUTE)
    again = await plan(storage, rows, NINE - HOUR, tolerance=30 * MINUTE)

    assert (first.enqueued, again.enqueued, again.duplicates) == (4, 0, 4)


# Many planners


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("page_size", [1, 7, 100])
async def test_any_number_of_planners_make_exactly_one_job_a_slot(
    storage: AnyStorage, count: int, page_size: int
) -> None:
    rows, ids = people(40), [row.user_id for row in people(40)]
    reports: list[PlanReport] = []

    async def run(seed: int) -> None:
        shuffled = random.Random(seed).sample(rows, len(rows))
        reports.append(await plan(storage, shuffled, NINE - seed * MINUTE, page_size=page_size))

    async with create_task_group() as tasks:
        for seed in range(count):
            tasks.start_soon(run, seed)

    assert sum(report.enqueued for report in reports) == 40
    assert sum(report.duplicates for report in reports) == 40 * (count - 1)
    slots = await slots_of(storage, ids)
    assert len(slots) == 40
    assert {(slot.status, slot.epoch) for slot in slots.values()} == {(JobStatus.PENDING, 1)}
    assert await storage.advance(NAME) == NINE


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("skipped_before", [False, True])
async def test_planners_that_all_see_a_slot_missing_make_one_of_it(
    storage: AnyStorage, count: int, skipped_before: bool
) -> None:
    if skipped_before:
        stayed_away: dict[str, datetime | None] = {row.user_id: NINE - 3 * DAY for row in people(5)}
        await plan(storage, people(5), NINE - HOUR, visits=stayed_away)
    reports: list[PlanReport] = []
    met, all_looked = [0], Event()

    def before(method: str, batch: object) -> Event | None:
        if method != "find":
            return None
        met[0] += 1
        if met[0] == count:
            all_looked.set()
        return all_looked

    async def run() -> None:
        reports.append(await plan(Watched(storage, before), people(5), NINE - 50 * MINUTE))

    async with create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(run)

    assert sorted(report.enqueued for report in reports) == [0] * (count - 1) + [5]
    assert sum(report.existing.get(JobStatus.PENDING, 0) for report in reports) == 5 * (count - 1)
    slots = await slots_of(storage, [row.user_id for row in people(5)])
    assert {(slot.status, slot.epoch) for slot in slots.values()} == {(JobStatus.PENDING, 1 + skipped_before)}


async def test_planners_with_storages_of_their_own_on_one_file_agree(tmp_path: Path) -> None:
    rows = people(60)
    reports: list[PlanReport] = []

    async def run(seed: int) -> None:
        async with SqliteStorage(tmp_path / "briefs.db") as storage:
            shuffled = random.Random(seed).sample(rows, len(rows))
            reports.append(await plan(storage, shuffled, NINE, page_size=9))

    async with create_task_group() as tasks:
        for seed in range(3):
            tasks.start_soon(run, seed)

    assert sum(report.enqueued for report in reports) == 60
    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        assert len((await claim(storage, types=[NAME], due_by=NINE, limit=1000)).claims) == 60


# Spread


USERS = [f"user{number}" for number in range(4000)]


def test_generation_is_spread_evenly_between_the_cutoff_and_the_last_moment_to_begin() -> None:
    timing = Timing(lead=30 * MINUTE, deadline=10 * MINUTE)
    starts = [timing.generate_at(NAME, user_id, NINE) for user_id in USERS]

    assert min(starts) >= NINE - 30 * MINUTE
    assert max(starts) <= NINE - 10 * MINUTE
    shares = Counter((start - (NINE - 30 * MINUTE)) // (2 * MINUTE) for start in starts)
    assert len(shares) == 10
    # Ten buckets of 400, standard deviation 19: five of them.
    assert all(abs(count - 400) < 95 for count in shares.values())


def test_generation_starts_at_the_same_moment_for_the_same_user_always() -> None:
    assert Timing().generate_at(NAME, "ann", NINE) == datetime(2025, 9, 30, 8, 50, 1, 499580, tzinfo=UTC)
    assert Timing().generate_at(NAME, "ann", NINE + DAY) - DAY == Timing().generate_at(NAME, "ann", NINE)
    assert Timing().generate_at("weekly", "ann", NINE) != Timing().generate_at(NAME, "ann", NINE)


@pytest.mark.parametrize(("lead", "deadline"), [(0, 0), (0, 5), (5, 5), (5, 60), (15, 0)])
def test_generation_never_starts_after_delivery_nor_before_the_cutoff(lead: int, deadline: int) -> None:
    timing = Timing(lead=lead * MINUTE, deadline=deadline * MINUTE)
    for user_id in USERS[:500]:
        start = timing.generate_at(NAME, user_id, NINE)
        assert NINE - lead * MINUTE <= start <= NINE
        assert start <= max(NINE - deadline * MINUTE, NINE - lead * MINUTE)
