"""Tasks in the hands of dead workers of Procrastinate's are taken back; and what it and PgQueuer may be given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import procrastinate
import pytest
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from carriers import ProcrastinateCarrier
from fanout_briefs import Briefs
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher, carrying
from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher, add_tasks, autocommit_pool
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import JobRef
from hosts import Host
from services import Schema, connect

MINUTE = timedelta(minutes=1)
PLAN = "fanout_briefs.plan.daily"


@pytest.fixture
def carrier(postgres: Schema) -> ProcrastinateCarrier:
    made = ProcrastinateCarrier(postgres)
    made.install()
    return made


def doing(carrier: ProcrastinateCarrier, worker: str, lock: str, task: str = "fanout_briefs.daily") -> int:
    """A task that is in the hands of a worker: ``alive``, ``dead`` for two minutes, or ``pruned``."""
    heartbeat = datetime.now(UTC) - (2 * MINUTE if worker == "dead" else timedelta(0))
    ((holder,),) = carrier.run("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (%s) RETURNING id", heartbeat)
    ((number,),) = carrier.run(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, status, worker_id) "
        "VALUES ('daily', %s, %s, 'doing', %s) RETURNING id",
        task,
        lock,
        holder,
    )
    if worker == "pruned":
        carrier.run("DELETE FROM procrastinate_workers WHERE id = %s RETURNING id", holder)
    return int(number)


def statuses(carrier: ProcrastinateCarrier) -> list[str]:
    return [status for (status,) in carrier.run("SELECT status FROM procrastinate_jobs ORDER BY id")]


async def test_tasks_of_dead_workers_wait_again_and_those_of_living_ones_are_left_alone(
    carrier: ProcrastinateCarrier,
) -> None:
    doing(carrier, "dead", "one")
    doing(carrier, "pruned", "two")
    doing(carrier, "alive", "three")
    doing(carrier, "dead", "four", task="somebody.elses")
    await carrier.dispatcher.rescue(["fanout_briefs.daily"], MINUTE)
    assert statuses(carrier) == ["todo", "todo", "doing", "doing"]


async def test_what_waits_again_already_and_what_comes_by_itself_is_ended(carrier: ProcrastinateCarrier) -> None:
    doing(carrier, "dead", "twice")
    doing(carrier, "dead", "twice")
    doing(carrier, "dead", PLAN, task=PLAN)
    doing(carrier, "dead", "waits")
    carrier.run(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock) "
        "VALUES ('daily', 'fanout_briefs.daily', 'waits') RETURNING id"
    )
    await carrier.dispatcher.rescue(["fanout_briefs.daily", PLAN], MINUTE)
    assert statuses(carrier) == ["failed", "todo", "failed", "failed", "todo"]


async def test_nobody_waits_for_a_row_that_a_stopped_worker_keeps_locked(carrier: ProcrastinateCarrier) -> None:
    locked, free = doing(carrier, "dead", "one"), doing(carrier, "dead", "two")
    with connect(carrier.dsn) as stopped, stopped.transaction():
        stopped.execute("SELECT FROM procrastinate_jobs WHERE id = %s FOR UPDATE", (locked,))
        await carrier.dispatcher.rescue(["fanout_briefs.daily"], MINUTE)
    assert statuses(carrier) == ["doing", "todo"]
    assert locked < free


@pytest.mark.parametrize("dispatcher", [PgQueuerDispatcher, ProcrastinateDispatcher])
async def test_a_password_is_not_told_by_a_dsn_that_is_none_and_by_a_server_that_is_away(
    dispatcher: type[PgQueuerDispatcher | ProcrastinateDispatcher],
) -> None:
    job = JobRef("daily:2026-03-02:ann", "daily", datetime.now(UTC))
    with pytest.raises(StorageUnavailable, match="percent-encode special characters of a password") as refused:
        await dispatcher("postgresql://ann:cor rect@127.0.0.1/briefs").dispatch([job])
    assert "rect" not in str(refused.value)
    with pytest.raises(StorageUnavailable, match=r"PostgreSQL database 'briefs' at 127\.0\.0\.1:1: ") as refused:
        await dispatcher("postgresql://ann:correct@127.0.0.1:1/briefs").dispatch([job])
    assert "correct" not in str(refused.value)


@pytest.mark.parametrize("dispatcher", [PgQueuerDispatcher, ProcrastinateDispatcher])
def test_dispatchers_name_every_bad_argument(dispatcher: type[PgQueuerDispatcher | ProcrastinateDispatcher]) -> None:
    wrong: Any = None
    with pytest.raises(
        ValueError, match=r"^dsn: must be .*; schema='': must be .*; priorities\['daily'\]='high': must"
    ):
        dispatcher(wrong, schema="", priorities={"daily": cast("Any", "high"), "mail": 5})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_of_pgqueuer_names_every_bad_argument(carrier: ProcrastinateCarrier) -> None:
    host = Host()
    briefs = Briefs(MemoryStorage(), projects=host, generator=host)
    async with await AsyncConnection.connect(carrier.dsn, autocommit=True) as connection:
        with pytest.raises(
            ValueError, match=r"^every=.*days=-1.*; grace=10: .*; concurrency_limits\['daily_brief'\]=-1: "
        ) as told:
            async with carrying(
                PgQueuer(PsycopgDriver(connection)),
                briefs,
                every=-MINUTE,
                grace=cast("Any", 10),
                concurrency_limits={"daily_brief": -1, "dayly": 1},
            ):
                raise AssertionError
    assert "concurrency_limits['dayly']: these briefs have no such job type; theirs are daily_brief" in str(told.value)


def test_how_often_to_reconcile_has_to_divide_a_minute() -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector())
    dispatcher, host = ProcrastinateDispatcher("dbname=nowhere"), Host()
    briefs = Briefs(MemoryStorage(), projects=host, generator=host, dispatcher=dispatcher)
    with pytest.raises(
        ValueError, match=r"reconcile=0:00:07: must be whole seconds that divide a minute, such as 0:00:06"
    ):
        add_tasks(app, briefs, dispatcher, reconcile=timedelta(seconds=7))
    add_tasks(app, briefs, dispatcher)
    loosely: Any = app
    assert {"fanout_briefs.daily_brief", "fanout_briefs.plan.daily_brief"} <= loosely.tasks.keys()
    crons = {task.cron for task in loosely.periodic_registry.periodic_tasks.values()}
    assert crons == {"*/5 * * * *", "* * * * * */10"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_statement_of_its_pool_commits_by_itself_also_beside_a_configuration_of_yours(
    carrier: ProcrastinateCarrier,
) -> None:
    configured: list[AsyncConnection[Any]] = []

    async def configure(connection: AsyncConnection[Any]) -> None:
        configured.append(connection)

    connector = procrastinate.PsycopgConnector(
        conninfo=carrier.dsn, pool_factory=autocommit_pool, configure=configure, min_size=1
    )
    await connector.open_async()
    try:
        async with connector.pool.connection() as connection:
            await connection.execute("SELECT 1")
            assert connection.info.transaction_status == TransactionStatus.IDLE
            assert configured == [connection]
    finally:
        await connector.close_async()
