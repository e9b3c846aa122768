"""``fanout_briefs.testing.faults``: which call goes wrong, how, and what is left as it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from fanout_briefs import Briefs, Preference
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Enqueued
from fanout_briefs.testing import Faults
from fanout_briefs.testing.faults import Call, answer_lost, broken, cancelled, delayed, unavailable
from hosts import Host, Provider
from slots import NOW, claim_one, job
from virtual_time import in_virtual_time

KEY = job().dedup_key


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return in_virtual_time(request.param)


async def test_the_call_of_that_number_fails_and_the_others_do_not() -> None:
    faults = Faults(unavailable, at=2)
    async with faults.around(MemoryStorage()) as storage:
        await storage.enqueue([job()])
        with pytest.raises(StorageUnavailable, match="call 2, enqueue, was made to fail and changed nothing"):
            await storage.enqueue([job("bob")])
        assert list(await storage.enqueue([job("bob")])) == [Enqueued.CREATED]
    assert faults.calls == ["enqueue"] * 3
    assert faults.happened == 1


async def test_an_answer_that_is_lost_was_given() -> None:
    faults = Faults(answer_lost, at=1)
    async with faults.around(MemoryStorage()) as storage:
        with pytest.raises(StorageUnavailable, match="call 1, enqueue, was made, and its answer lost"):
            await storage.enqueue([job()])
        assert list(await storage.find([KEY])) == [KEY]


async def test_a_break_is_no_error_of_the_librarys() -> None:
    async with Faults(broken, at=1).around(MemoryStorage()) as storage:
        with pytest.raises(ConnectionResetError, match="call 1, find, was made to break"):
            await storage.find([KEY])


async def test_several_calls_in_a_row_may_go_wrong() -> None:
    faults = Faults(unavailable, at=range(1, 4))
    async with faults.around(MemoryStorage()) as storage:
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await storage.find([KEY])
        assert await storage.find([KEY]) == {}
    assert faults.happened == 3


async def test_without_a_fault_calls_are_counted_and_that_is_all() -> None:
    faults = Faults()
    async with faults.around(MemoryStorage()) as storage:
        await storage.enqueue([job()])
        assert (await claim_one(storage, job())).job.user_id == "ann"
    assert faults.calls == ["enqueue", "claim"]
    assert not faults.happened


async def test_the_preferences_of_a_storage_and_other_adapters_count_together() -> None:
    faults = Faults(unavailable, at=3)
    host = faults.around(Host(), "host.")
    async with faults.around(MemoryStorage()) as storage:
        await storage.preferences.put([Preference(user_id="ann")])
        await host.get(["ann"])
        with pytest.raises(StorageUnavailable):
            await storage.preferences.get(["ann"])
    assert faults.calls == ["preferences.put", "host.get", "preferences.get"]


async def test_what_is_no_call_is_passed_on() -> None:
    faults = Faults(unavailable, at=range(9))
    memory = MemoryStorage()
    async with faults.around(memory) as storage:
        assert storage.preferences.schedule_index is True
        assert faults.around(Provider(idempotent=False)).idempotent is False
        with pytest.raises(AttributeError):
            getattr(storage, "nothing")  # noqa: B009  # No type checker is to be asked.
    assert faults.calls == []


async def test_a_delayed_call_is_made_in_the_end() -> None:
    async with Faults(delayed(timedelta(minutes=3)), at=1).around(MemoryStorage()) as storage:
        begun = anyio.current_time()
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]
        assert anyio.current_time() - begun == 180


async def test_a_cancelled_call_meets_the_cancellation() -> None:
    memory = MemoryStorage()
    with anyio.CancelScope() as scope:
        async with Faults(cancelled(scope), at=1).around(memory) as storage:
            await storage.enqueue([job()])
    assert scope.cancelled_caught
    async with memory:
        assert await memory.find([KEY]) == {}


async def test_a_fault_of_ones_own_is_given_the_call() -> None:
    seen: list[tuple[int, str, Any]] = []

    async def twice(call: Call) -> Any:
        seen.append((call.number, call.name, call.values))
        await call.go()
        return await call.go()

    async with Faults(twice, at=1).around(MemoryStorage()) as storage:
        assert list(await storage.enqueue([job()])) == [Enqueued.DUPLICATE]
    assert seen == [(1, "enqueue", ([job()],))]


async def test_briefs_take_a_storage_with_faults_for_a_storage() -> None:
    faults = Faults(unavailable, at=6)
    host, memory = Host(), MemoryStorage()
    async with memory:
        await memory.preferences.put([Preference(user_id="ann")])
    async with Briefs(faults.around(memory), projects=host, generator=host, look_back=timedelta(hours=1)) as briefs:
        planned = await briefs.plan(NOW + timedelta(hours=1))
        assert (planned.enqueued, planned.failed, faults.happened) == (0, 1, 1)
        assert (await briefs.plan(NOW + timedelta(hours=1))).enqueued == 1
