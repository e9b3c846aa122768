"""The threads of a SQLite storage: who waits for whom, and what cancellation leaves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.adapters.sqlite_connection import Database, Session
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Enqueued
from slots import DAY, NOW, claim_one, found, job
from sqlite_trace import Gate, Trace, names, reached


async def test_reads_and_heartbeats_do_not_queue_behind_a_write(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
        trace.at = gate = Gate("BEGIN")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.enqueue, [job("bob")])
            await reached(gate)
            assert await found(storage, job().dedup_key) == held.job
            assert not await storage.heartbeat([held], NOW + DAY)
            gate.open.set()


async def test_a_read_does_not_wait_for_a_transaction(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        trace.at = gate = Gate("COMMIT")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.enqueue, [job()])
            await reached(gate)
            assert await storage.find([job().dedup_key]) == {}
            gate.open.set()
        assert await found(storage, job().dedup_key) == job()


async def test_a_write_cancelled_in_the_middle_ends_first(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        trace.at = gate = Gate("INSERT")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(storage.enqueue, [job()])
                await reached(gate)
                scope.cancel()
                gate.open.set()
        assert await found(storage, job().dedup_key) == job()
        assert list(await storage.enqueue([job("bob")])) == [Enqueued.CREATED]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_write_whose_task_asyncio_cancels_ends_before_the_next_one(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        trace.at = gate = Gate("INSERT")
        task = asyncio.ensure_future(storage.enqueue([job()]))
        await reached(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        following = asyncio.ensure_future(storage.enqueue([job(), job("bob")]))
        await asyncio.sleep(0)
        gate.open.set()
        assert list(await following) == [Enqueued.DUPLICATE, Enqueued.CREATED]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closing_waits_for_a_write_whose_task_asyncio_cancelled(tmp_path: Path) -> None:
    trace = Trace()
    storage = SqliteStorage(tmp_path / "briefs.db", trace=trace)
    async with storage:
        trace.at = gate = Gate("COMMIT")
        task = asyncio.ensure_future(storage.enqueue([job()]))
        await reached(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().call_soon(gate.open.set)
    async with storage:
        assert await found(storage, job().dedup_key) == job()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_opening_whose_task_asyncio_cancels_leaves_no_connection(tmp_path: Path) -> None:
    trace = Trace()
    trace.at = gate = Gate("PRAGMA journal_mode")
    storage = SqliteStorage(tmp_path / "briefs.db", trace=trace)
    task = asyncio.ensure_future(storage.__aenter__())
    await reached(gate)
    task.cancel()
    asyncio.get_running_loop().call_later(0, gate.open.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == ["briefs.db"]
    async with storage:
        await storage.enqueue([job()])


async def test_work_that_waits_while_the_storage_closes_is_refused(tmp_path: Path) -> None:
    trace = Trace()
    storage = SqliteStorage(tmp_path / "briefs.db", trace=trace)
    refusals: list[str] = []

    async def late() -> None:
        with pytest.raises(StorageUnavailable) as refusal:
            await storage.enqueue([job("bob")])
        refusals.append(str(refusal.value))

    async with anyio.create_task_group() as tasks, storage:
        session = storage._open_session()  # pyright: ignore[reportPrivateUsage]  # closes it as a race would
        trace.at = gate = Gate("COMMIT")
        tasks.start_soon(storage.enqueue, [job()])
        await reached(gate)
        tasks.start_soon(late)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(session.close)
        await anyio.wait_all_tasks_blocked()
        gate.open.set()
    (refusal,) = refusals
    assert "is not open" in refusal
    async with SqliteStorage(tmp_path / "briefs.db") as again:
        assert await again.find([job().dedup_key, job("bob").dedup_key]) == {job().dedup_key: job()}


async def test_an_opening_that_comes_after_the_closing_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    session = Session(Database(path=path, durability="normal", busy_timeout=timedelta(seconds=1), trace=None))
    await session.close()
    await session.open()
    assert session.writer.connection is None
    assert names(tmp_path) == []
