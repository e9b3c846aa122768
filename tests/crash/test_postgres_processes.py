"""Many planners on one PostgreSQL, planners that are killed, and a server that is."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.briefs import Briefs
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Page, Preference
from fanout_briefs.plans import PlanReport
from hosts import Host
from services import Schema, Server, connect
from slots import NOW, claim
from sqlite_trace import A_WHILE, Trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]

SPAWN = get_context("spawn")
NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)


class Users:
    """Many people who all want their brief at nine, in an order of this object's own."""

    def __init__(self, count: int) -> None:
        self.ids = [f"user{number:06}" for number in range(count)]
        random.shuffle(self.ids)

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        begin = int(cursor or 0)
        ids = self.ids[begin : begin + limit]
        return Page([Preference(user_id=name) for name in ids], str(begin + limit) if len(ids) == limit else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return {user_id: Preference(user_id=user_id) for user_id in user_ids}


async def plan(dsn: str, schema: str, users: int, trace: Callable[[str], None] | None = None) -> PlanReport:
    storage = PostgresStorage(dsn, schema=schema, trace=trace)
    host = Host()
    briefs = Briefs(storage, projects=host, generator=host, preferences=Users(users), page_size=5_000)
    async with briefs:
        return await briefs.plan(NINE - timedelta(minutes=30))


def _plan(dsn: str, schema: str, users: int, begun: Any, results: Any) -> None:
    begun.wait(A_WHILE)
    report = anyio.run(partial(plan, dsn, schema, users))
    results.put((report.enqueued, report.duplicates, [str(problem) for problem in report.problems]))


def slots(schema: Schema) -> tuple[int, int]:
    """How many slots there are, and how many users have one."""
    ((rows, users),) = schema.run("SELECT count(*), count(DISTINCT user_id) FROM jobs")
    return rows, users


def test_four_planners_at_once_make_each_of_fifty_thousand_slots_once(postgres: Schema) -> None:
    users = 50_000
    before = postgres.run("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    barrier, results = SPAWN.Barrier(4), SPAWN.Queue()
    arguments = (postgres.dsn, postgres.name, users, barrier, results)
    processes = [SPAWN.Process(target=_plan, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=2 * A_WHILE) for _ in processes]
    for process in processes:
        process.join(A_WHILE)
        assert process.exitcode == 0
    assert slots(postgres) == (users, users)
    assert sum(enqueued for enqueued, _, _ in answers) == users
    assert [enqueued + duplicates for enqueued, duplicates, _ in answers] == [users] * 4
    assert [problems for _, _, problems in answers] == [[]] * 4
    # Keys in order: nobody even had to be tried again.
    assert postgres.run("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == before


def _plan_until_killed(dsn: str, schema: str, users: int, statements: Any) -> None:
    anyio.run(partial(plan, dsn, schema, users, lambda statement: statements.release()))


def test_planners_killed_at_random_leave_what_one_more_run_completes(postgres: Schema) -> None:
    users = 10_000
    left: list[int] = []
    for _ in range(20):
        statements = SPAWN.Semaphore(0)
        process = SPAWN.Process(target=_plan_until_killed, args=(postgres.dsn, postgres.name, users, statements))
        process.start()
        for _ in range(random.randint(1, 4)):
            assert statements.acquire(timeout=A_WHILE)
        # Somewhere between that statement and the next ones.
        process.join(random.uniform(0, 0.1))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(A_WHILE)
        rows, people = slots(postgres)
        assert rows == people
        left.append(rows)
        if rows == users:
            postgres.empty()
    anyio.run(partial(plan, postgres.dsn, postgres.name, users))
    assert slots(postgres) == (users, users), left


@pytest.fixture
def server(own_postgres: Server) -> Iterator[Schema]:
    with connect(own_postgres.dsn) as connection:
        schema = Schema(own_postgres.dsn, "fanout_briefs", connection)
        schema.make()
        yield schema


@pytest.mark.parametrize("at", [2, 5, 8])
async def test_a_server_that_dies_in_the_middle_of_a_plan_loses_nothing_that_the_next_does_not_make(
    own_postgres: Server, server: Schema, at: int
) -> None:
    users = 20_000
    trace = Trace()

    def die(statement: str) -> None:
        if len(trace.statements) == at:
            own_postgres.stop("immediate")
            own_postgres.start()

    trace.at = die
    problems: list[str] = []
    try:
        report = await plan(server.dsn, server.name, users, trace)
        problems += [problem.message for problem in report.problems]
    except StorageUnavailable as error:
        problems.append(str(error))
    assert problems
    assert all("the connection was lost in the middle" in problem for problem in problems)
    trace.at = None
    await plan(server.dsn, server.name, users)
    with connect(server.dsn) as connection:
        schema = Schema(server.dsn, server.name, connection)
        schema.run("SET search_path TO fanout_briefs")
        assert slots(schema) == (users, users)


async def test_the_next_call_after_a_restart_works(own_postgres: Server, server: Schema) -> None:
    async with PostgresStorage(server.dsn, pool_size=3) as storage:
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(claim, storage)
        for mode in ("immediate", "fast"):
            await anyio.to_thread.run_sync(own_postgres.stop, mode)
            with pytest.raises(StorageUnavailable, match="check host, port"):
                await claim(storage)
            await anyio.to_thread.run_sync(own_postgres.start)
            assert not (await claim(storage)).claims
            assert not await storage.heartbeat([], NOW)
