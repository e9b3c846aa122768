"""Clauses of ``ports.Storage`` about opening, closing and being told what a storage is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Change, Claim, Finish, JobStatus, Preference
from fanout_briefs.ports import Ledger, Oversight, Preferences, Storage, Work
from slots import HOUR, NOW, AnyStorage, claim, found, job

pytest_plugins = ["storages"]


def is_all_that_the_ports_ask_for(storage: AnyStorage) -> tuple[Ledger, Work, Oversight, Storage, Preferences]:
    """Read by type checkers."""
    return storage, storage, storage, storage, storage.preferences


_HELD = Claim(job=job(), token=1, until=NOW)
CALLS: dict[str, Callable[[AnyStorage], Awaitable[object]]] = {
    "enqueue": lambda storage: storage.enqueue([job()]),
    "enqueue nothing": lambda storage: storage.enqueue([]),
    "find": lambda storage: storage.find(["key"]),
    "last_briefs": lambda storage: storage.last_briefs("daily", {"ann": NOW}),
    "change": lambda storage: storage.change(["key"], Change.CANCEL),
    "advance": lambda storage: storage.advance("daily"),
    "start": lambda storage: storage.advance("daily", start=NOW),
    "forget": lambda storage: storage.forget("ann"),
    "claim": claim,
    "heartbeat": lambda storage: storage.heartbeat([_HELD], NOW),
    "finish": lambda storage: storage.finish(_HELD, Finish(status=JobStatus.EMPTY)),
    "retry": lambda storage: storage.retry(_HELD, NOW, "error"),
    "release": lambda storage: storage.release([_HELD]),
    "brief": lambda storage: storage.brief("daily", "ann"),
    "pause": lambda storage: storage.pause(["daily"], NOW),
    "resume": lambda storage: storage.resume(["daily"], since=NOW),
    "paused": lambda storage: storage.paused(["daily"]),
    "overview": lambda storage: storage.overview(["daily"], now=NOW, since=NOW),
    "select": lambda storage: storage.select(["daily"], [*JobStatus], since=NOW),
    "prune": lambda storage: storage.prune(["daily"], NOW, 1),
    "page": lambda storage: storage.preferences.page(None, 1),
    "get": lambda storage: storage.preferences.get(["ann"]),
    "put": lambda storage: storage.preferences.put([Preference(user_id="ann")]),
    "remove": lambda storage: storage.preferences.remove(["ann"]),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_storage_that_is_not_open_says_so(closed_storage: AnyStorage, name: str) -> None:
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="is not open: use it inside `async with storage:`"):
            await CALLS[name](closed_storage)
        async with closed_storage:
            await CALLS[name](closed_storage)


async def test_opening_twice_is_harmless_and_the_last_to_leave_closes(closed_storage: AnyStorage) -> None:
    async with closed_storage as first:
        async with closed_storage as second:
            assert first is second is closed_storage
        await closed_storage.enqueue([job()])
    with pytest.raises(StorageUnavailable):
        await closed_storage.find([])


async def test_closing_once_more_is_harmless(closed_storage: AnyStorage) -> None:
    async with closed_storage:
        pass
    await closed_storage.__aexit__(None, None, None)
    async with closed_storage:
        await closed_storage.enqueue([job()])


async def test_many_tasks_may_open_and_close_at_once(closed_storage: AnyStorage) -> None:
    async def visit(number: int) -> None:
        async with closed_storage:
            await closed_storage.enqueue([job(f"user{number}")])

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(visit, number)
    async with closed_storage:
        assert len((await claim(closed_storage)).claims) == 6


async def test_a_cancelled_opening_leaves_the_storage_closed_and_usable(closed_storage: AnyStorage) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with closed_storage:
            await anyio.sleep_forever()
    with pytest.raises(StorageUnavailable):
        await closed_storage.find([])
    async with closed_storage:
        await closed_storage.enqueue([job()])


async def test_leaving_while_being_cancelled_closes(closed_storage: AnyStorage) -> None:
    with anyio.CancelScope() as scope:
        async with closed_storage:
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(StorageUnavailable):
        await closed_storage.find([])


def test_a_storage_opens_again_in_another_event_loop_with_its_content(closed_storage: AnyStorage) -> None:
    async def plan(user_id: str) -> int:
        async with closed_storage:
            await closed_storage.enqueue([job(user_id)])
            return len(await closed_storage.find([job(name).dedup_key for name in "abc"]))

    assert anyio.run(plan, "a", backend="asyncio") == 1
    assert anyio.run(plan, "b", backend="trio") == 2
    assert anyio.run(plan, "c", backend="asyncio") == 3


async def test_reading_changes_nothing(storage: AnyStorage) -> None:
    await storage.enqueue([job()])
    before = await found(storage, job().dedup_key)
    for name in ("find", "last_briefs", "advance", "brief", "paused", "overview", "select", "page", "get"):
        await CALLS[name](storage)
    assert (await claim(storage, due_by=NOW - HOUR)).held_until is None
    assert await found(storage, job().dedup_key) == before
    assert await storage.advance("daily") is None
