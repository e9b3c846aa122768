"""Clauses of ``ports.Preferences``, and of ``put`` and ``remove`` of storages that keep them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from fanout_briefs.errors import InvalidPreferences, StorageUnavailable
from fanout_briefs.model import Preference
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import OpenableStorageWithPreferences, StorageWithPreferences, storage_kit
from fanout_briefs.testing.slots import DAY, NOW, claim, job, scanned


async def _scan(storage: StorageWithPreferences, limit: int) -> list[Preference]:
    return [preference async for preference in scanned(storage.preferences.page, limit)]


_FULL = Preference(
    user_id="ann",
    frequency="custom",
    time_of_day="07:30",
    timezone="Europe/Vienna",
    day_of_week=3,
    days=(1, 5),
    is_active=False,
    effective_from=NOW,
)


_BAD: dict[str, list[Any]] = {
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


@storage_kit.clause("preferences.put.comes-back", needs=("preferences",))
async def _a_preference_comes_back_as_it_was_put(storage: StorageWithPreferences) -> None:
    """A preference comes back as it was put."""
    rows = [_FULL, Preference(user_id="bob"), Preference(user_id="cid", days=())]
    await storage.preferences.put(iter(rows))
    same(await storage.preferences.get(["ann", "bob", "cid", "nobody"]), {row.user_id: row for row in rows})
    same(await storage.preferences.get(["bob"]), {"bob": rows[1]})
    same(await storage.preferences.get([]), {})
    same(await _scan(storage, 10), rows)


@storage_kit.clause("preferences.put.normal-form", needs=("preferences",))
async def _days_come_back_as_a_tuple_and_instants_in_utc(storage: StorageWithPreferences) -> None:
    """Days come back as a tuple, and instants in UTC."""
    tokyo = timezone(timedelta(hours=9))
    await storage.preferences.put([Preference(user_id="ann", days=[2, 1], effective_from=NOW.astimezone(tokyo))])
    back = (await storage.preferences.get(["ann"]))["ann"]
    same(back, Preference(user_id="ann", days=(2, 1), effective_from=NOW))
    same(getattr(back.effective_from, "tzinfo", None), UTC)
    same(type(back.days), tuple)


@storage_kit.clause("preferences.put.odd-values-stay", needs=("preferences",))
async def _values_that_make_no_schedule_are_stored_and_given_as_they_are(storage: StorageWithPreferences) -> None:
    """Values that make no schedule are stored, and given as they are."""
    odd = Preference(user_id="ann", frequency="hourly", time_of_day="25:99", timezone="Mars", day_of_week=9, days=(77,))
    await storage.preferences.put([odd])
    same(await _scan(storage, 1), [odd])


@storage_kit.clause("preferences.put.again-replaces", needs=("preferences",))
async def _putting_again_replaces_the_row(storage: StorageWithPreferences) -> None:
    """Putting again replaces the row, and no other."""
    await storage.preferences.put([_FULL, Preference(user_id="bob", frequency="weekly")])
    await storage.preferences.put([Preference(user_id="ann")])
    same(await _scan(storage, 10), [Preference(user_id="ann"), Preference(user_id="bob", frequency="weekly")])
    await storage.preferences.put([])


@storage_kit.clause("preferences.page.each-user-once", needs=("preferences",), each=[1, 2, 3, 5, 7, 100])
async def _a_scan_gives_each_user_once_in_a_steady_order(storage: StorageWithPreferences, limit: int) -> None:
    """A scan gives each user once, in a steady order."""
    ids = ["z", "a", "Ä", "😀", "\ue000", "a'b", "A"]
    await storage.preferences.put([Preference(user_id=user_id) for user_id in ids])
    first = [row.user_id for row in await _scan(storage, limit)]
    same(sorted(first), sorted(ids))
    same([row.user_id for row in await _scan(storage, 100)], first)


@storage_kit.clause("preferences.page.ends-when-none-are-left", needs=("preferences",))
async def _a_scan_goes_on_while_rows_are_left_and_ends_then(storage: StorageWithPreferences) -> None:
    """A scan goes on while rows are left, and ends then, if need be after a page of none."""
    same(await _scan(storage, 5), [])
    await storage.preferences.put([Preference(user_id=user_id) for user_id in "abcd"])
    page = await storage.preferences.page(None, 2)
    holds(page.next_cursor is not None, "rows are left, so there is a cursor")
    same(len(await _scan(storage, 2)), 4)


@storage_kit.clause("preferences.page.rows-come-and-go", needs=("preferences",))
async def _a_scan_goes_on_when_rows_come_and_go_meanwhile(storage: StorageWithPreferences) -> None:
    """A scan goes on when rows come and go meanwhile."""
    await storage.preferences.put([Preference(user_id=user_id) for user_id in "bdfh"])
    page = await storage.preferences.page(None, 2)
    await storage.preferences.remove(["d", "unknown"])
    await storage.preferences.put([Preference(user_id=user_id) for user_id in ("a", "aa", "g")])
    rest = await storage.preferences.page(page.next_cursor, 9)
    same([row.user_id for row in rest.items], ["f", "g", "h"])


@storage_kit.clause("preferences.page.limit-below-one-refused", needs=("preferences",), each=[0, -3])
async def _a_page_of_nothing_is_refused(storage: StorageWithPreferences, limit: int) -> None:
    """A page of nothing is refused."""
    with refuses(ValueError):
        await storage.preferences.page(None, limit)


@storage_kit.clause(
    "preferences.put.refuses-bad-values",
    needs=("preferences",),
    each=[(field, value) for field, values in _BAD.items() for value in values],
)
async def _what_cannot_be_stored_is_refused(storage: StorageWithPreferences, field: str, value: Any) -> None:
    """What cannot be stored is refused, with the field, the value and whose it is; nothing of the batch is stored."""
    fields: dict[str, Any] = {"user_id": "ann", field: value}
    with refuses(InvalidPreferences) as caught:
        await storage.preferences.put([Preference(user_id="good"), Preference(**fields)])
    (problem,) = caught.error.problems
    same((problem.field, problem.value), (field, value))
    same(problem.user_id, None if field == "user_id" else "ann")
    same(await _scan(storage, 10), [])


@storage_kit.clause("preferences.put.names-all-bad-values", needs=("preferences",))
async def _all_bad_values_of_a_batch_are_named_at_once(storage: StorageWithPreferences) -> None:
    """All bad values of a batch are named at once."""
    unchecked: Any = Preference
    with refuses(InvalidPreferences) as caught:
        await storage.preferences.put(
            [
                unchecked(user_id="ann", day_of_week="1", days="12"),
                unchecked(user_id="bob", days="12"),
                Preference(user_id="twice"),
                Preference(user_id="twice"),
                Preference(user_id=""),
            ]
        )
    same(
        sorted((problem.field, problem.user_id or "") for problem in caught.error.problems),
        [("day_of_week", "ann"), ("days", "ann"), ("days", "bob"), ("user_id", ""), ("user_id", "")],
    )


@storage_kit.clause("preferences.remove.only-those", needs=("preferences",))
async def _removing_preferences_leaves_other_users_and_slots_alone(storage: StorageWithPreferences) -> None:
    """Removing preferences leaves other users, and slots, alone."""
    await storage.preferences.put([Preference(user_id="ann"), Preference(user_id="bob")])
    await storage.enqueue([job("ann")])
    await storage.preferences.remove(["ann", "nobody", "nul\0"])
    await storage.preferences.remove([])
    same(await _scan(storage, 10), [Preference(user_id="bob")])
    same([held.job.user_id for held in (await claim(storage)).claims], ["ann"])


@storage_kit.clause("preferences.forget.erases", needs=("preferences",))
async def _forgetting_a_user_erases_the_preference(storage: StorageWithPreferences) -> None:
    """Forgetting a user erases the preference, too, and counts it."""
    await storage.preferences.put([Preference(user_id="ann"), Preference(user_id="bob")])
    same(await storage.forget("ann"), 1)
    same(await _scan(storage, 10), [Preference(user_id="bob")])


@storage_kit.clause("preferences.thousands-at-once", needs=("preferences",))
async def _thousands_of_preferences_are_put_and_got_at_once(storage: StorageWithPreferences) -> None:
    """Thousands of preferences are put and got at once."""
    ids = [f"user{number:05}" for number in range(5_000)]
    await storage.preferences.put([Preference(user_id=user_id) for user_id in reversed(ids)])
    same(len(await storage.preferences.get(ids)), 5_000)
    same([row.user_id for row in await _scan(storage, 4_000)], ids)


_READS: Mapping[str, Callable[[StorageWithPreferences], Awaitable[object]]] = {
    "page": lambda storage: storage.preferences.page(None, 1),
    "get": lambda storage: storage.preferences.get(["ann"]),
}
_CALLS: Mapping[str, Callable[[StorageWithPreferences], Awaitable[object]]] = {
    **_READS,
    "put": lambda storage: storage.preferences.put([Preference(user_id="ann")]),
    "remove": lambda storage: storage.preferences.remove(["ann"]),
}


@storage_kit.clause("preferences.reading-changes-nothing", needs=("preferences",))
async def _reading_preferences_changes_nothing(storage: StorageWithPreferences) -> None:
    """Reading preferences changes neither them nor slots."""
    await storage.enqueue([job()])
    await storage.preferences.put([_FULL])
    before = await storage.find([job().dedup_key])
    for call in _READS.values():
        await call(storage)
    same(await _scan(storage, 10), [_FULL])
    same(await storage.find([job().dedup_key]), before)


@storage_kit.clause("preferences.closed-says-so", needs=("preferences", "reopens"), each=_CALLS)
async def _preferences_of_a_storage_that_is_not_open_say_so(storage: OpenableStorageWithPreferences, name: str) -> None:
    """Preferences of a storage that is not open say so, whatever is asked of them, and can be used once it is again."""
    for _ in range(2):
        await storage.__aexit__(None, None, None)
        with refuses(StorageUnavailable):
            await _CALLS[name](storage)
        await storage.__aenter__()
        await _CALLS[name](storage)
