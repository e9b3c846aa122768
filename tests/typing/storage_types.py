"""Every storage is all that the ports ask for, and less than that is refused. Read by type checkers; nobody runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Self, assert_type

import psycopg

from fanout_briefs import Briefs, Job, JobRef
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import Claim, Finish, FollowUp, Page, Preference, Standing
from fanout_briefs.ports import (
    Generator,
    Ledger,
    Oversight,
    Preferences,
    Projects,
    ScheduleIndex,
    StandingLedger,
    Storage,
    Work,
)
from fanout_briefs.testing.kits import (
    KeptPreferences,
    OpenableStorage,
    OpenableStorageWithPreferences,
    StorageWithPreferences,
    StorageWithScheduleIndex,
    StorageWithStandings,
)
from redis_briefs import RedisStorage
from slots import AnyStorage


def is_a_storage(
    storage: AnyStorage | RedisStorage,
) -> tuple[Ledger, Work, Oversight, Storage, StorageWithPreferences, StorageWithScheduleIndex]:
    return storage, storage, storage, storage, storage, storage


def keeps_preferences(storage: AnyStorage | RedisStorage) -> tuple[Preferences, KeptPreferences, ScheduleIndex]:
    return storage.preferences, storage.preferences, storage.preferences


def can_be_opened(
    storage: AnyStorage | RedisStorage,
) -> tuple[AbstractAsyncContextManager[Storage], OpenableStorage, OpenableStorageWithPreferences]:
    return storage, storage, storage


def tells_standings(
    storage: SqliteStorage | PostgresStorage | RedisStorage,
) -> tuple[StandingLedger, StorageWithStandings]:
    return storage, storage


async def what_is_opened_is_the_storage_itself(
    memory: MemoryStorage, sqlite: SqliteStorage, postgres: PostgresStorage, redis: RedisStorage
) -> None:
    async with memory as a, sqlite as b, postgres as c, redis as d:
        assert_type(a, MemoryStorage)
        assert_type(b, SqliteStorage)
        assert_type(c, PostgresStorage)
        assert_type(d, RedisStorage)


def in_a_callers_transaction_it_is_a_storage_too(
    storage: PostgresStorage, connection: psycopg.Connection[tuple[Any, ...]]
) -> Storage:
    return assert_type(storage.on(connection), PostgresStorage)


async def what_comes_back_has_its_type(storage: Storage, standings: StandingLedger, since: datetime) -> None:
    assert_type(await storage.find(["key"]), Mapping[str, Job])
    assert_type(await standings.standings(["key"]), Mapping[str, Standing])
    assert_type((await storage.select(["brief"], [], since=since)).items, Sequence[Job])
    assert_type(await storage.advance("brief"), datetime | None)


async def pages_keep_what_is_on_them(preferences: Preferences, index: ScheduleIndex) -> None:
    assert_type((await preferences.page(None, 10)).items, Sequence[Preference])
    assert_type((await preferences.page(None, 10)).next_cursor, str | None)
    assert_type([each.schedule for each in (await index.page_for([], None, 10)).items], list[str])


def pages_are_covariant(page: Page[Preference]) -> Page[object]:
    return page


def in_its_transactions_it_tells_what_is_pending() -> None:
    def note(connection: psycopg.Connection[Any], jobs: Sequence[JobRef]) -> None: ...
    def whole(connection: psycopg.Connection[Any], jobs: Sequence[Job]) -> None: ...
    async def later(connection: psycopg.AsyncConnection[Any], jobs: Sequence[JobRef]) -> None: ...

    PostgresStorage("", on_pending=note)
    PostgresStorage("", on_pending=whole)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is given references
    PostgresStorage("", on_pending=later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # on a connection that is synchronous


class Synchronous(MemoryStorage):
    def find(self, keys: Collection[str]) -> Mapping[str, Job]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return {}


class WithoutAnswer(MemoryStorage):
    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Does not say whether the claim was lost."""


class Forgetful:
    """A ledger but for one method."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    enqueue = MemoryStorage.enqueue
    find = MemoryStorage.find
    last_briefs = MemoryStorage.last_briefs
    change = MemoryStorage.change
    advance = MemoryStorage.advance


def half_a_storage_is_none(ledger: Ledger, work: Work, take: Callable[[Storage], object]) -> None:
    take(ledger)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(work)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_wrong_storage_is_refused(projects: Projects, generator: Generator) -> None:
    Briefs(Synchronous(), projects=projects, generator=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Briefs(WithoutAnswer(), projects=projects, generator=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Briefs(Forgetful(), projects=projects, generator=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Briefs("briefs.db", projects=projects, generator=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Briefs(SqliteStorage, projects=projects, generator=generator)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the class


def wrong_arguments_of_storages_are_refused() -> None:
    SqliteStorage("briefs.db", durability="none")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SqliteStorage("briefs.db", busy_timeout=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # seconds or minutes?
    PostgresStorage("", statement_timeout=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PostgresStorage()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
