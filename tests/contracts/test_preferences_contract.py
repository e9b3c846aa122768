"""Clauses of ``ports.Preferences``, and of ``put`` and ``remove`` of the storages that keep preferences."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import asdict

from fanout_briefs.errors import InvalidPreferences
from fanout_briefs.model import Preference, ScheduleFields
from slots import DAY, NOW, AnyStorage, claim, job

pytest_plugins = ["storages"]


async def scan(storage: AnyStorage, limit: int) -> list[Preference]:
    items: list[Preference] = []
    cursor: str | None = None
    while True:
        page = await storage.preferences.page(cursor, limit)
        assert len(page.items) <= limit
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items


FULL = Preference(
    user_id="ann",
    frequency="custom",
    time_of_day="07:30",
    timezone="Europe/Vienna",
    day_of_week=3,
    days=(1, 5),
    is_active=False,
    effective_from=NOW,
)


async def test_a_preference_comes_back_as_it_was_put(storage: AnyStorage) -> None:
    rows = [FULL, Preference(user_id="bob"), Preference(user_id="cid", days=())]
    await storage.preferences.put(iter(rows))
    assert await storage.preferences.get(["ann", "bob", "cid", "nobody"]) == {row.user_id: row for row in rows}
    assert await scan(storage, 10) == rows


async def test_days_come_back_as_a_tuple_and_instants_in_utc(storage: AnyStorage) -> None:
    tokyo = timezone(timedelta(hours=9))
    await storage.preferences.put([Preference(user_id="ann", days=[2, 1], effective_from=NOW.astimezone(tokyo))])
    back = (await storage.preferences.get(["ann"]))["ann"]
    assert back == Preference(user_id="ann", days=(2, 1), effective_from=NOW)
    assert back.effective_from is not None
    assert back.effective_from.tzinfo is UTC


async def test_values_that_make_no_schedule_are_stored_and_given_as_they_are(storage: AnyStorage) -> None:
    odd = Preference(user_id="ann", frequency="hourly", time_of_day="25:99", timezone="Mars", day_of_week=9, days=(77,))
    await storage.preferences.put([odd])
    assert await scan(storage, 1) == [odd]


async def test_putting_again_replaces_the_row(storage: AnyStorage) -> None:
    await storage.preferences.put([FULL, Preference(user_id="bob", frequency="weekly")])
    await storage.preferences.put([Preference(user_id="ann")])
    assert await scan(storage, 10) == [Preference(user_id="ann"), Preference(user_id="bob", frequency="weekly")]
    await storage.preferences.put([])


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
async def test_a_scan_gives_each_user_once_in_a_steady_order(storage: AnyStorage, limit: int) -> None:
    ids = ["z", "a", "Ä", "😀", "\ue000", "a'b", "A"]
    await storage.preferences.put([Preference(user_id=user_id) for user_id in ids])
    first = [row.user_id for row in await scan(storage, limit)]
    assert sorted(first) == sorted(ids)
    assert [row.user_id for row in await scan(storage, 100)] == first


async def test_a_page_ends_the_scan_exactly_when_no_rows_are_left(storage: AnyStorage) -> None:
    empty = await storage.preferences.page(None, 5)
    assert (list(empty.items), empty.next_cursor) == ([], None)
    await storage.preferences.put([Preference(user_id=user_id) for user_id in "abcd"])
    page = await storage.preferences.page(None, 2)
    assert page.next_cursor is not None
    assert (await storage.preferences.page(page.next_cursor, 2)).next_cursor is None


async def test_a_scan_goes_on_when_rows_come_and_go_meanwhile(storage: AnyStorage) -> None:
    await storage.preferences.put([Preference(user_id=user_id) for user_id in "bdfh"])
    page = await storage.preferences.page(None, 2)
    await storage.preferences.remove(["d", "unknown"])
    await storage.preferences.put([Preference(user_id="a"), Preference(user_id="g")])
    rest = await storage.preferences.page(page.next_cursor, 9)
    assert [row.user_id for row in rest.items] == ["f", "g", "h"]


@pytest.mark.parametrize("limit", [0, -3])
async def test_a_page_of_nothing_is_refused(storage: AnyStorage, limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await storage.preferences.page(None, limit)


BAD: dict[str, list[Any]] = {
    "user_id": ["", "x" * 256, "tab\t", 7, None, [1], "\ud800"],
    "frequency": [1, b"daily", "\ud800", "nul\0"],
    "time_of_day": [9, datetime(2026, 1, 1, tzinfo=UTC).time()],
    "timezone": [UTC, 5],
    "day_of_week": ["1", 1.0, True, 2**63],
    "days": ["12", b"12", 5, [1, "2"], [None], [True], {1, 2}, [2**64]],
    "is_active": [None, 1, "yes"],
    "effective_from": [
        "2026-01-01",
        NOW.replace(tzinfo=None),
        NOW.date(),
        datetime.min.replace(tzinfo=timezone(DAY / 2)),
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
async def test_what_cannot_be_stored_is_refused(storage: AnyStorage, field: str, value: Any) -> None:
    fields: dict[str, Any] = {"user_id": "ann", field: value}
    with pytest.raises(InvalidPreferences) as caught:
        await storage.preferences.put([Preference(user_id="good"), Preference(**fields)])
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == (field, value)
    assert problem.user_id == (None if field == "user_id" else "ann")
    assert await scan(storage, 10) == []


async def test_all_bad_values_of_a_batch_are_named_at_once(storage: AnyStorage) -> None:
    unchecked: Any = Preference
    with pytest.raises(InvalidPreferences, match="4 bad values") as caught:
        await storage.preferences.put(
            [
                unchecked(user_id="ann", day_of_week="1", days="12"),
                Preference(user_id="twice"),
                Preference(user_id="twice"),
                Preference(user_id=""),
            ]
        )
    assert sorted((problem.field, problem.user_id) for problem in caught.value.problems if problem.user_id) == [
        ("day_of_week", "ann"),
        ("days", "ann"),
    ]
    assert "appears twice" in str(caught.value)


async def test_removing_preferences_leaves_other_users_and_slots_alone(storage: AnyStorage) -> None:
    await storage.preferences.put([Preference(user_id="ann"), Preference(user_id="bob")])
    await storage.enqueue([job("ann")])
    await storage.preferences.remove(["ann", "nobody", "nul\0"])
    await storage.preferences.remove([])
    assert await scan(storage, 10) == [Preference(user_id="bob")]
    assert [held.job.user_id for held in (await claim(storage)).claims] == ["ann"]


async def test_forgetting_a_user_erases_the_preference(storage: AnyStorage) -> None:
    await storage.preferences.put([Preference(user_id="ann"), Preference(user_id="bob")])
    assert await storage.forget("ann") == 1
    assert await scan(storage, 10) == [Preference(user_id="bob")]


async def test_thousands_of_preferences_are_put_and_got_at_once(storage: AnyStorage) -> None:
    ids = [f"user{number:05}" for number in range(9_000)]
    await storage.preferences.put([Preference(user_id=user_id) for user_id in reversed(ids)])
    assert len(await storage.preferences.get(ids)) == 9_000
    assert [row.user_id for row in await scan(storage, 4_000)] == ids


# Preferences by schedule: the capability ``schedule_index``.


async def people_of(storage: AnyStorage, schedules: Collection[str], limit: int = 100) -> list[Preference]:
    """Read everybody who has one of these schedules."""
    found: list[Preference] = []
    cursor: str | None = None
    while True:
        page = await storage.preferences.page_for(schedules, cursor, limit)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


MORNING = ScheduleFields(time_of_day="07:00", timezone="Europe/Vienna")
ALIKE = [
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


def having(user_id: str, fields: ScheduleFields, **more: Any) -> Preference:
    return Preference(user_id=user_id, **asdict(fields), **more)


async def test_each_distinct_schedule_is_listed_once_however_many_have_it(storage: AnyStorage) -> None:
    assert storage.preferences.schedule_index
    assert await storage.preferences.schedules() == {}
    rows = [having(f"{copy}-{place}", fields) for copy in range(3) for place, fields in enumerate(ALIKE)]
    await storage.preferences.put(rows)
    listed = await storage.preferences.schedules()
    assert sorted(map(repr, listed.values())) == sorted(map(repr, ALIKE))
    for schedule, fields in listed.items():
        assert await people_of(storage, [schedule]) == [
            row for row in rows if row.user_id.endswith(f"-{ALIKE.index(fields)}")
        ]


async def test_schedules_are_those_of_active_preferences_as_they_are_now(storage: AnyStorage) -> None:
    await storage.preferences.put([having("ann", MORNING), having("bob", ALIKE[0], is_active=False)])
    assert list((await storage.preferences.schedules()).values()) == [MORNING]
    await storage.preferences.put([having("ann", ALIKE[0])])
    ((schedule, fields),) = (await storage.preferences.schedules()).items()
    assert fields == ALIKE[0]
    assert await people_of(storage, [schedule]) == [having("ann", ALIKE[0])]
    await storage.preferences.remove(["ann"])
    assert await storage.preferences.schedules() == {}
    assert await people_of(storage, [schedule]) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_pages_for_schedules_give_everybody_who_has_one_of_them_once(storage: AnyStorage, limit: int) -> None:
    times = [ScheduleFields(time_of_day=f"0{hour}:00") for hour in range(4)]
    ids = ["z", "a", "Ä", "😀", "\ue000", "a'b", "A"]
    rows = [having(f"{user_id}{place}", fields) for user_id in ids for place, fields in enumerate(times)]
    await storage.preferences.put([*rows, having("off", times[0], is_active=False)])
    listed = await storage.preferences.schedules()
    asked = [schedule for schedule, fields in listed.items() if fields in times[1:3]]
    found = await people_of(storage, [*asked, "unknown", "nul\0", "\ud800"], limit)
    wanted = [row for row in rows if row.user_id[-1] in "12"]
    assert sorted(found, key=lambda row: row.user_id) == sorted(wanted, key=lambda row: row.user_id)
    assert await people_of(storage, set(asked), 100) == found
    assert await people_of(storage, []) == []


async def test_a_scan_by_schedule_goes_on_when_rows_come_and_go_meanwhile(storage: AnyStorage) -> None:
    await storage.preferences.put([having(user_id, MORNING) for user_id in "bdfh"])
    schedules = list(await storage.preferences.schedules())
    page = await storage.preferences.page_for(schedules, None, 2)
    await storage.preferences.remove(["d", "unknown"])
    await storage.preferences.put([having("a", MORNING), having("g", MORNING)])
    rest = await storage.preferences.page_for(schedules, page.next_cursor, 9)
    assert [row.user_id for row in rest.items] == ["f", "g", "h"]
    assert rest.next_cursor is None


@pytest.mark.parametrize("length", [239, 240, 3_000, 100_000])
async def test_fields_of_any_length_make_a_schedule_of_their_own(storage: AnyStorage, length: int) -> None:
    long = [ScheduleFields(timezone="😀" * length + end) for end in ("", "x", "y")]
    user = "😀" * 254
    await storage.preferences.put([having(f"{user}{place}", fields) for place, fields in enumerate(long)])
    listed = await storage.preferences.schedules()
    assert sorted(map(str, listed.values())) == sorted(map(str, long))
    for schedule, fields in listed.items():
        assert await people_of(storage, [schedule]) == [having(f"{user}{long.index(fields)}", fields)]


@pytest.mark.parametrize("limit", [0, -3])
async def test_a_page_of_nothing_for_schedules_is_refused(storage: AnyStorage, limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await storage.preferences.page_for([], None, limit)


async def test_somebody_forgotten_leaves_no_schedule(storage: AnyStorage) -> None:
    await storage.preferences.put([having("ann", MORNING)])
    assert await storage.forget("ann") == 1
    assert await storage.preferences.schedules() == {}
