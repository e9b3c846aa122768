"""The contract kit asks for the port in types too, and gives back what it was given. Nobody runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import assert_type

import anyio
from port_types import AlwaysSomething, Queue, Visits

from fanout_briefs import Briefs, Preference, testing
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import Scheduled
from fanout_briefs.ports import Dispatcher, Engagement, Generator, Preferences, ScheduleIndex, Storage
from fanout_briefs.testing import (
    BrokenClause,
    Clock,
    DispatcherContract,
    EngagementContract,
    Faults,
    GeneratorContract,
    StorageContract,
    StorageMachine,
    check_dispatcher,
    check_engagement,
    check_generator,
    check_storage,
)
from fanout_briefs.testing.checks import refuses
from fanout_briefs.testing.faults import cancelled, delayed, unavailable
from fanout_briefs.testing.machine import run_stories
from fanout_briefs.testing.slots import scanned
from redis_briefs import RedisStorage


@asynccontextmanager
async def a_file(trace: object = None, beside: SqliteStorage | None = None) -> AsyncGenerator[SqliteStorage]:
    async with SqliteStorage("briefs.db") as storage:
        yield storage


@asynccontextmanager
async def visits(last: Mapping[str, datetime | None]) -> AsyncGenerator[Visits]:
    yield Visits()


@asynccontextmanager
async def something() -> AsyncGenerator[AlwaysSomething]:
    yield AlwaysSomething()


@asynccontextmanager
async def a_queue() -> AsyncGenerator[Queue]:
    yield Queue()


async def each_check_takes_an_opener_of_its_port() -> None:
    broken = await check_storage(a_file, capabilities=["preferences"])
    assert_type(broken, Sequence[BrokenClause])
    assert_type([each.promise for each in broken], list[str])
    await check_storage(MemoryStorage)
    await check_storage(lambda: RedisStorage("redis://localhost"))
    assert_type(await check_engagement(visits), Sequence[BrokenClause])
    assert_type(await check_generator(something), Sequence[BrokenClause])
    assert_type(await check_dispatcher(a_queue), Sequence[BrokenClause])
    run_stories(a_file)


async def each_check_refuses_another() -> None:
    await check_storage(visits)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_storage(MemoryStorage())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # open already
    await check_storage(Queue)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_engagement(a_file)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_generator(a_queue)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_dispatcher(something)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run_stories(something)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class TestFile(StorageContract, StorageMachine):
    capabilities = ("preferences",)

    def open_storage(self) -> AbstractAsyncContextManager[SqliteStorage]:
        return a_file()


class TestVisits(EngagementContract):
    def open_engagement(self, visits: Mapping[str, datetime | None]) -> AbstractAsyncContextManager[Engagement]:
        raise NotImplementedError


class TestSomething(GeneratorContract):
    def open_generator(self) -> AbstractAsyncContextManager[AlwaysSomething]:
        return something()


class TestQueue(DispatcherContract):
    def open_dispatcher(self) -> AbstractAsyncContextManager[Dispatcher]:
        return a_queue()


class TestNoStorage(StorageContract):
    def open_storage(self) -> AbstractAsyncContextManager[Generator]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return something()


class TestNotOpened(StorageContract):
    async def open_storage(self) -> Storage:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return MemoryStorage()


def what_goes_wrong_stays_what_it_is(faults: Faults, storage: SqliteStorage, scope: anyio.CancelScope) -> None:
    assert_type(faults.around(storage), SqliteStorage)
    assert_type(faults.around(Visits(), "visits."), Visits)
    Faults(unavailable, at=3)
    Faults(delayed(timedelta(seconds=1)), at=range(7, 20))
    Faults(cancelled(scope), at={1, 2})
    Faults("unavailable", at=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Faults(delayed, at=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # by how much?


def a_refusal_holds_the_error() -> None:
    with refuses(ValueError) as refusal:
        pass
    assert_type(refusal.error, ValueError)
    with refuses(str):  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        pass


async def a_scan_gives_what_is_on_the_pages(preferences: Preferences, index: ScheduleIndex) -> None:
    assert_type(scanned(preferences.page, 2), AsyncIterator[Preference])
    by_schedule = scanned(lambda cursor, limit: index.page_for(["9"], cursor, limit), 2)
    assert_type([each async for each in by_schedule], list[Scheduled])


def a_clock_tells_the_moment(clock: Clock) -> datetime:
    assert_type(clock(), datetime)
    assert_type(clock.advance(timedelta(hours=1)), datetime)
    Briefs(MemoryStorage(), projects=object(), generator=AlwaysSomething(), clock=clock)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return clock.now


def a_misspelt_name_is_no_name_of_the_kit() -> None:
    print(testing.StorageContrakt)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
