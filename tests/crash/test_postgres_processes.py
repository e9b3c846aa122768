"""A PostgreSQL server that dies while it is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest
from planner_harness import plan, slots

from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.errors import StorageUnavailable
from places import Tables
from services import Schema, Server, connect
from slots import NOW, claim
from sqlite_trace import Trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


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
    tables = Tables(server.dsn, server.name)
    trace = Trace()

    def die(statement: str) -> None:
        if len(trace.statements) == at:
            own_postgres.stop("immediate")
            own_postgres.start()

    trace.at = die
    problems: list[str] = []
    try:
        report = await plan(tables, users, trace)
        problems += [problem.message for problem in report.problems]
    except StorageUnavailable as error:
        problems.append(repr(error))
    # Of two pages at once, one may be in the middle and the other may find no server.
    assert any("the connection was lost in the middle" in problem for problem in problems)
    assert all("StorageUnavailable(" in problem for problem in problems)
    trace.at = None
    await plan(tables, users)
    assert slots(tables) == (users, users)


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
