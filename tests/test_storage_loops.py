"""A storage object is open in one event loop at a time, and says so in every other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.errors import StorageUnavailable
from services import Schema
from slots import job

Storage = SqliteStorage | PostgresStorage
ELSEWHERE = "is open in another event loop: give each event loop, and each process after a fork, a storage object"


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "sqlite":
        return SqliteStorage(tmp_path / "briefs.db")
    schema: Schema = request.getfixturevalue("postgres")
    return schema.storage()


async def in_another_loop(work: Callable[[], Awaitable[object]]) -> None:
    await to_thread.run_sync(anyio.run, work)


async def test_another_loop_cannot_open_it_and_the_first_goes_on(storage: Storage) -> None:
    async def opening() -> None:
        async with storage:
            raise AssertionError

    async with storage:
        with pytest.raises(StorageUnavailable, match=ELSEWHERE):
            await in_another_loop(opening)
        async with storage:
            await storage.enqueue([job()])
        assert list(await storage.find([job().dedup_key])) == [job().dedup_key]


async def test_another_loop_cannot_use_it_either(storage: Storage) -> None:
    async def using() -> None:
        await storage.find([job().dedup_key])

    async with storage:
        with pytest.raises(StorageUnavailable, match=ELSEWHERE):
            await in_another_loop(using)


async def test_loops_may_have_it_open_one_after_the_other(storage: Storage) -> None:
    async def enqueuing() -> None:
        async with storage:
            await storage.enqueue([job()])

    await in_another_loop(enqueuing)
    async with storage:
        assert list(await storage.find([job().dedup_key])) == [job().dedup_key]


def test_a_loop_that_was_closed_without_leaving_is_in_nobodys_way(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "briefs.db")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(storage.__aenter__())
    left = storage._sessions.session  # pyright: ignore[reportPrivateUsage]  # its connections are closed by nobody
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert left is not None

    async def enqueuing() -> None:
        async with storage:
            await storage.enqueue([job()])

    anyio.run(enqueuing)
    anyio.run(left.close)
