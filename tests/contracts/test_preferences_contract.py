"""Clauses of ``ports.Preferences``, and of ``put`` and ``remove`` of the storages that keep preferences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from fanout_briefs.errors import InvalidPreferences
from fanout_briefs.model import Preference
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
