"""Clauses of ``ports.ScheduleIndex``, for storages whose preferences can be read by schedule."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from attrs import asdict

from fanout_briefs.model import Preference, Scheduled, ScheduleFields
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import StorageWithScheduleIndex, storage_kit
from fanout_briefs.testing.slots import scanned

_NEEDS = ("preferences", "schedule_index")
_MORNING = ScheduleFields(time_of_day="07:00", timezone="Europe/Vienna")
_ALIKE = [
    ScheduleFields(),
    ScheduleFields(frequency=""),
    ScheduleFields(time_of_day=""),
    ScheduleFields(timezone=""),
    ScheduleFields(timezone="NULL"),
    ScheduleFields(timezone="'"),
    ScheduleFields(timezone="\\"),
    ScheduleFields(frequency="a", time_of_day="b"),
    ScheduleFields(frequency="ab"),
    ScheduleFields(frequency="a' 'b"),
    ScheduleFields(day_of_week=1),
    ScheduleFields(day_of_week=-1),
    ScheduleFields(day_of_week=11),
    ScheduleFields(day_of_week=1, days=(1,)),
    ScheduleFields(days=()),
    ScheduleFields(days=(1,)),
    ScheduleFields(days=(1, 1)),
    ScheduleFields(days=(11,)),
    ScheduleFields(days=(2**63 - 1, -(2**63))),
    ScheduleFields(frequency="custom", days=(2, 1)),
    ScheduleFields(frequency="custom", days=(1, 2)),
    ScheduleFields(frequency="Ä", timezone="😀"),
]


def _having(user_id: str, fields: ScheduleFields, **more: Any) -> Preference:
    return Preference(user_id=user_id, **asdict(fields), **more)


async def _people_of(
    storage: StorageWithScheduleIndex, schedules: Collection[str], limit: int = 100
) -> list[Scheduled]:
    return [person async for person in scanned(partial(storage.preferences.page_for, schedules), limit)]


@storage_kit.clause("schedule-index.each-schedule-once", needs=_NEEDS)
async def _each_distinct_schedule_is_listed_once(storage: StorageWithScheduleIndex) -> None:
    """Each distinct combination of fields is listed once, however many have it and however alike it is to another."""
    same(storage.preferences.schedule_index, True)
    same(await storage.preferences.schedules(), {})
    rows = [_having(f"{copy}-{place}", fields) for copy in range(3) for place, fields in enumerate(_ALIKE)]
    await storage.preferences.put(rows)
    listed = await storage.preferences.schedules()
    same(sorted(map(repr, listed.values())), sorted(map(repr, _ALIKE)))
    for schedule, fields in listed.items():
        place = _ALIKE.index(fields)
        theirs = [Scheduled(row.user_id, schedule) for row in rows if row.user_id.endswith(f"-{place}")]
        same(await _people_of(storage, [schedule]), theirs)


@storage_kit.clause("schedule-index.as-things-are-now", needs=_NEEDS)
async def _schedules_are_those_of_active_preferences_as_they_are_now(storage: StorageWithScheduleIndex) -> None:
    """Schedules are those of active preferences as they are now: changed, switched off and removed ones are gone."""
    await storage.preferences.put([_having("ann", _MORNING), _having("bob", _ALIKE[0], is_active=False)])
    same(list((await storage.preferences.schedules()).values()), [_MORNING])
    await storage.preferences.put([_having("ann", _ALIKE[0])])
    listed = await storage.preferences.schedules()
    same(list(listed.values()), [_ALIKE[0]])
    same(await _people_of(storage, [*listed]), [Scheduled("ann", next(iter(listed)))])
    await storage.preferences.remove(["ann"])
    same(await storage.preferences.schedules(), {})
    same(await _people_of(storage, [*listed]), [])


@storage_kit.clause("schedule-index.page-for.each-user-once", needs=_NEEDS, each=[1, 2, 3, 5, 100])
async def _pages_for_schedules_give_everybody_who_has_one_of_them_once(
    storage: StorageWithScheduleIndex, limit: int
) -> None:
    """Pages of any size give everybody who is active and has one of the schedules, once and in a steady order."""
    times = [ScheduleFields(time_of_day=f"0{hour}:00") for hour in range(4)]
    ids = ["z", "a", "Ä", "😀", "\ue000", "a'b", "A"]
    rows = [_having(f"{user_id}{place}", fields) for user_id in ids for place, fields in enumerate(times)]
    await storage.preferences.put([*rows, _having("off", times[0], is_active=False), _having("off1", times[1])])
    await storage.preferences.put([_having("off1", times[1], is_active=False)])
    listed = await storage.preferences.schedules()
    asked = [schedule for schedule, fields in listed.items() if fields in times[1:3]]
    having = {row.user_id: times[int(row.user_id[-1])] for row in rows if row.user_id[-1] in "12"}
    people = await _people_of(storage, [*asked, "unknown", "nul\0", "\ud800"], limit)
    same({person.user_id: listed.get(person.schedule) for person in people}, having)
    same(len(people), len(having))
    same(await _people_of(storage, set(asked), 100), people)
    same(await _people_of(storage, []), [])


@storage_kit.clause("schedule-index.page-for.since-when", needs=_NEEDS)
async def _pages_for_schedules_tell_since_when_they_hold(storage: StorageWithScheduleIndex) -> None:
    """Pages for schedules tell since when somebody's preference holds: the same instant that was stored, or None."""
    since = datetime(2025, 3, 30, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    await storage.preferences.put([_having("ann", _MORNING, effective_from=since), _having("bob", _MORNING)])
    people = await _people_of(storage, [*await storage.preferences.schedules()])
    same([(person.user_id, person.effective_from) for person in people], [("ann", since), ("bob", None)])


@storage_kit.clause("schedule-index.page-for.rows-come-and-go", needs=_NEEDS)
async def _a_scan_by_schedule_goes_on_when_rows_come_and_go_meanwhile(storage: StorageWithScheduleIndex) -> None:
    """A scan by schedule goes on when rows come and go meanwhile."""
    await storage.preferences.put([_having(user_id, _MORNING) for user_id in "bdfh"])
    schedules = list(await storage.preferences.schedules())
    page = await storage.preferences.page_for(schedules, None, 2)
    await storage.preferences.remove(["d", "unknown"])
    await storage.preferences.put([_having(user_id, _MORNING) for user_id in ("a", "aa", "g")])
    rest = await storage.preferences.page_for(schedules, page.next_cursor, 9)
    same([row.user_id for row in rest.items], ["f", "g", "h"])


@storage_kit.clause("schedule-index.fields-of-any-length", needs=_NEEDS, each=[239, 240, 3_000, 100_000])
async def _fields_of_any_length_make_a_schedule_of_their_own(storage: StorageWithScheduleIndex, length: int) -> None:
    """Fields of any length make a schedule of their own."""
    long = [ScheduleFields(timezone="😀" * length + end) for end in ("", "x", "y")]
    user = "😀" * 254
    await storage.preferences.put([_having(f"{user}{place}", fields) for place, fields in enumerate(long)])
    listed = await storage.preferences.schedules()
    same(sorted(map(str, listed.values())), sorted(map(str, long)))
    for schedule, fields in listed.items():
        same(await _people_of(storage, [schedule]), [Scheduled(f"{user}{long.index(fields)}", schedule)])


@storage_kit.clause("schedule-index.page-for.limit-below-one-refused", needs=_NEEDS, each=[0, -3])
async def _a_page_of_nothing_for_schedules_is_refused(storage: StorageWithScheduleIndex, limit: int) -> None:
    """A page of nothing for schedules is refused."""
    with refuses(ValueError):
        await storage.preferences.page_for([], None, limit)


@storage_kit.clause("schedule-index.forgotten-leave-none", needs=_NEEDS)
async def _somebody_forgotten_leaves_no_schedule(storage: StorageWithScheduleIndex) -> None:
    """Somebody who is forgotten leaves no schedule."""
    await storage.preferences.put([_having("ann", _MORNING)])
    listed = await storage.preferences.schedules()
    same(await storage.forget("ann"), 1)
    same(await storage.preferences.schedules(), {})
    same(await _people_of(storage, [*listed]), [])


@storage_kit.clause("costs.schedule-index", needs=(*_NEEDS, "trace"))
async def _reading_by_schedule_costs_as_many_statements(
    storage: StorageWithScheduleIndex, statements: list[str]
) -> None:
    """Reading by schedule costs as many statements however many people have one."""
    costs: list[tuple[int, int]] = []
    for size in (2, 1_000):
        times = [ScheduleFields(time_of_day=f"0{number % 2}:00") for number in range(size)]
        await storage.preferences.put([_having(f"user{number}", fields) for number, fields in enumerate(times)])
        statements.clear()
        listed = await storage.preferences.schedules()
        listing = len(statements)
        await storage.preferences.page_for([*listed], None, size)
        costs.append((listing, len(statements) - listing))
    holds(min(costs[0]) > 0, "`trace` is called with each statement")
    same(costs[1], costs[0])
