"""The connections of a PostgreSQL storage: how many, whose turn, what breaks, and a caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.rows import dict_row

from fanout_briefs.adapters import postgres_statements
from fanout_briefs.adapters.postgres import PoolUse, PostgresStorage
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Change, Claim, Enqueued, Finish, FollowUp, JobStatus, Preference, SkipReason
from services import Schema, connect, with_parts
from slots import DAY, HOUR, NOW, brief_of, bring, claim, claim_one, found, job
from sqlite_trace import Gate, Trace, reached

EVER = datetime(1, 1, 2, tzinfo=UTC)
NAME = "fanout_briefs pool test"
KEY = job().dedup_key


def named(schema: Schema, name: str = NAME) -> str:
    return with_parts(schema.dsn, application_name=name)


@pytest.fixture
def other(postgres: Schema) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection, to the tables."""
    with connect(postgres.dsn) as connection:
        connection.execute(f'SET search_path TO "{postgres.name}"'.encode())
        yield connection


OURS = f"FROM pg_stat_activity WHERE application_name = '{NAME}' AND datname = current_database()"


def connections(schema: Schema) -> list[int]:
    return [pid for (pid,) in schema.run(f"SELECT pid {OURS}")]


def are_gone(schema: Schema) -> bool:
    """Whether the server has ended the connections that a client has closed; it does so in its own time."""
    return any(not connections(schema) or not schema.run("SELECT pg_sleep(0.01)") for _ in range(1_000))


def cut(schema: Schema) -> None:
    """End all connections of the storage, as a server does that is being restarted."""
    schema.run(f"SELECT pg_terminate_backend(pid, 10000) {OURS}")
    assert not connections(schema)


class TestPool:
    async def test_it_is_never_larger_than_its_size(self, postgres: Schema) -> None:
        seen: list[int] = []

        def look(statement: str) -> None:
            seen.append(len(connections(postgres)))

        storage = PostgresStorage(named(postgres), schema=postgres.name, pool_size=3, trace=look)
        async with storage:
            await storage.enqueue([job()])
            held = await claim_one(storage, job())
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(storage.enqueue, [job(f"user{number}")])
                    tasks.start_soon(storage.heartbeat, [held], NOW + HOUR)
            use = storage.pool_use()
        assert max(seen) <= 3
        assert use == PoolUse(size=3, open=use.open, busy=0, waiting=0)
        assert 1 <= use.open <= 3
        assert are_gone(postgres)
        with pytest.raises(StorageUnavailable, match="is not open"):
            storage.pool_use()

    async def test_it_tells_who_works_and_who_waits(self, postgres: Schema) -> None:
        trace = Trace()
        async with postgres.storage(pool_size=2, trace=trace) as storage:
            trace.at = gate = Gate("SELECT")
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(storage.find, [KEY])
                await reached(gate)
                await anyio.wait_all_tasks_blocked()
                assert storage.pool_use() == PoolUse(size=2, open=1, busy=1, waiting=2)
                gate.open.set()

    async def test_heartbeats_do_not_queue_behind_other_work(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        trace = Trace()
        async with postgres.storage(pool_size=3, trace=trace) as storage:
            await storage.enqueue([job(), job("bob")])
            held = await claim_one(storage, job())
            async with anyio.create_task_group() as tasks:
                with other.transaction():
                    other.execute("SELECT FROM jobs WHERE user_id = 'bob' FOR UPDATE")
                    for _ in range(4):
                        tasks.start_soon(storage.change, [job("bob").dedup_key], Change.CANCEL)
                    await anyio.wait_all_tasks_blocked()
                    assert not await storage.heartbeat([held], NOW + DAY)
        assert (await_state := postgres.run("SELECT status FROM jobs WHERE user_id = 'bob'")) == [("cancelled",)], (
            await_state
        )


class TestFaults:
    async def test_connections_that_a_server_ended_meanwhile_are_replaced(self, postgres: Schema) -> None:
        async with PostgresStorage(named(postgres), schema=postgres.name) as storage:
            async with anyio.create_task_group() as tasks:
                for number in range(9):
                    tasks.start_soon(storage.enqueue, [job(f"user{number}")])
            for _ in range(3):
                cut(postgres)
                assert list(await storage.enqueue([job()])) in ([Enqueued.CREATED], [Enqueued.DUPLICATE])
                assert not await storage.heartbeat([], NOW)

    async def test_a_connection_that_is_lost_in_the_middle_is_told_and_nothing_is_half_done(
        self, postgres: Schema
    ) -> None:
        trace = Trace()
        async with PostgresStorage(named(postgres), schema=postgres.name, trace=trace) as storage:
            await storage.enqueue([job()])

            def fail(statement: str) -> None:
                if statement.startswith("WITH mails"):
                    cut(postgres)

            trace.at = fail
            with pytest.raises(StorageUnavailable, match="nobody knows whether this was still stored; call again"):
                await storage.forget("ann")
            trace.at = None
            assert await storage.forget("ann") == 1

    async def test_a_batch_in_which_some_come_as_paused_is_recorded_as_a_whole_or_not_at_all(
        self, postgres: Schema
    ) -> None:
        """Those have a statement of their own."""
        trace = Trace()
        batch = [job("ann"), job("bob", status=JobStatus.SKIPPED, code=SkipReason.PAUSED)]
        async with PostgresStorage(named(postgres), schema=postgres.name, trace=trace) as storage:

            def fail(statement: str) -> None:
                if "DO NOTHING" in statement:
                    cut(postgres)

            trace.at = fail
            with pytest.raises(StorageUnavailable):
                await storage.enqueue(batch)
            trace.at = None
            assert await storage.find([each.dedup_key for each in batch]) == {}
            assert list(await storage.enqueue(batch)) == [Enqueued.CREATED] * 2

    @pytest.mark.parametrize("error", [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure])
    async def test_what_lost_against_another_transaction_is_tried_again_as_a_whole(
        self, postgres: Schema, error: type[psycopg.Error]
    ) -> None:
        trace = Trace()
        async with postgres.storage(trace=trace) as storage:
            await storage.enqueue([job()])
            failures = [error("lost"), error("lost")]

            def fail(statement: str) -> None:
                if statement.startswith("WITH mails") and failures:
                    raise failures.pop()

            trace.at = fail
            trace.take()
            assert await storage.forget("ann") == 1
            assert [statement.split()[0] for statement in trace.take()] == ["SELECT", "WITH"] * 3

    async def test_what_loses_for_ever_is_told_after_the_timeout(self, postgres: Schema) -> None:
        trace = Trace()
        async with postgres.storage(trace=trace, statement_timeout=timedelta(milliseconds=300)) as storage:

            def fail(statement: str) -> None:
                raise psycopg.errors.DeadlockDetected("deadlock detected")

            trace.at = fail
            with pytest.raises(StorageUnavailable, match=r"other transactions were in the way for 0\.3 s"):
                await storage.enqueue([job()])
            trace.at = None
            assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]

    async def test_a_lock_that_somebody_keeps_is_told_with_what_to_do(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        async with postgres.storage(statement_timeout=timedelta(milliseconds=200)) as storage:
            await storage.enqueue([job()])
            with other.transaction():
                other.execute("SELECT FROM jobs FOR UPDATE")
                with pytest.raises(StorageUnavailable, match="kept rows or tables locked; find it in pg_stat_activity"):
                    await storage.change([KEY], Change.CANCEL)
            assert await storage.change([KEY], Change.CANCEL) == {KEY}

    async def test_a_slow_statement_is_ended_and_told(self, postgres: Schema) -> None:
        postgres.run("CREATE VIEW slow AS SELECT marks.* FROM marks CROSS JOIN pg_sleep(60)")
        try:
            async with postgres.storage(statement_timeout=timedelta(milliseconds=100)) as storage:
                await storage.advance("daily", start=NOW)
                slow = "SELECT instant FROM @slow WHERE name = %(name)b"
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(postgres_statements, "MARK", slow)
                    with pytest.raises(StorageUnavailable, match=r"longer than the statement_timeout of 0\.1 s"):
                        await storage.advance("daily")
                assert await storage.advance("daily") == NOW
        finally:
            postgres.run("DROP VIEW slow")


class TestCancellation:
    async def test_a_call_that_is_cancelled_ends_no_later_than_its_statement(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        trace = Trace()
        told: list[str] = []

        async def change() -> None:
            with pytest.raises(StorageUnavailable) as caught:
                await storage.change([KEY], Change.CANCEL)
            told.append(str(caught.value))

        async with postgres.storage(trace=trace, statement_timeout=timedelta(milliseconds=300)) as storage:
            await storage.enqueue([job()])
            with other.transaction():
                # As long as this is not over, nobody else lets the call go on.
                other.execute("SELECT FROM jobs FOR UPDATE")
                trace.at = gate = Gate("WITH chosen")
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(change)
                    await reached(gate)
                    gate.open.set()
                    tasks.cancel_scope.cancel()
                assert storage.pool_use().busy == 0
            assert len(told) == 1
            assert await found(storage, KEY) == job()

    async def test_a_write_cancelled_in_the_middle_ends_first(self, postgres: Schema) -> None:
        trace = Trace()
        async with postgres.storage(trace=trace) as storage:
            await storage.enqueue([job()])
            trace.at = gate = Gate("WITH mails")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(storage.forget, "ann")
                    await reached(gate)
                    scope.cancel()
                    gate.open.set()
            assert await storage.find([KEY]) == {}

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_closing_waits_for_a_thread_whose_task_asyncio_cancelled(self, postgres: Schema) -> None:
        trace = Trace()
        storage = PostgresStorage(named(postgres), schema=postgres.name, pool_size=2, trace=trace)
        async with storage:
            trace.at = gate = Gate("WITH asked")
            task = asyncio.ensure_future(storage.enqueue([job()]))
            await reached(gate)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            later = asyncio.ensure_future(storage.find([KEY]))
            await anyio.wait_all_tasks_blocked()
            gate.open.set()
        assert are_gone(postgres)
        await asyncio.wait([later])
        refusal = later.exception()
        assert refusal is None or "is not open" in str(refusal)
        async with storage:
            assert await found(storage, KEY) == job()


async def statements(storage: PostgresStorage, trace: Trace, users: int) -> list[int]:
    """How many statements each call costs for so many users."""
    slots = [job(f"{users} {number}") for number in range(users)]
    keys, ids = [slot.dedup_key for slot in slots], [slot.user_id for slot in slots]
    mails = [FollowUp(job(user_id, type="mail"), b"mail") for user_id in ids]
    first = job(f"{users} first", type="first")
    await storage.enqueue([first])
    held = await claim_one(storage, first)
    claims: list[Claim] = []

    async def take() -> None:
        claims.extend((await claim(storage, limit=2_000)).claims)

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.enqueue(slots),
        lambda: storage.enqueue(slots),
        lambda: storage.find(keys),
        lambda: storage.last_briefs("daily", dict.fromkeys(ids, NOW + DAY)),
        take,
        lambda: storage.heartbeat(claims, NOW + DAY),
        lambda: storage.release(claims),
        lambda: storage.change(keys, Change.CANCEL),
        lambda: storage.select(["daily"], [*JobStatus], since=NOW),
        lambda: storage.overview(["daily"], now=NOW, since=NOW),
        lambda: storage.finish(held, Finish(status=JobStatus.EMPTY), mails),
        lambda: storage.preferences.put([Preference(user_id=user_id, days=[1]) for user_id in ids]),
        lambda: storage.preferences.get(ids),
        lambda: storage.preferences.page(None, 2_000),
        lambda: storage.preferences.remove(ids),
        lambda: storage.prune(["daily"], NOW + 9 * DAY, 2_000),
        lambda: storage.forget(ids[0]),
    ]
    counts: list[int] = []
    trace.take()
    for call in calls:
        await call()
        counts.append(len(trace.take()))
    assert len(claims) == users
    return counts


class TestStatements:
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_a_call_costs_the_same_statements_for_one_user_and_for_a_thousand(self, postgres: Schema) -> None:
        trace = Trace()
        async with postgres.storage(trace=trace) as storage:
            one, thousand = [await statements(storage, trace, users) for users in (1, 1_000)]
        assert one == thousand == [1] * 9 + [6] + [1] * 5 + [2, 2]

    async def test_a_conflict_with_a_slot_that_nobody_saw_is_decided_by_the_slot(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        outcomes: list[Enqueued] = []
        skipped = job("bob", status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)
        paused, paused_too = (
            job(user_id, status=JobStatus.SKIPPED, code=SkipReason.PAUSED) for user_id in ("cid", "eve")
        )
        async with postgres.storage() as storage:

            async def plan() -> None:
                outcomes.extend(await storage.enqueue([job(), job("bob"), paused, job("dan"), paused_too]))

            async with anyio.create_task_group() as tasks:
                with other.transaction():
                    await storage.on(other).enqueue([job(), skipped, job("cid"), paused_too])
                    tasks.start_soon(plan)
                    await anyio.wait_all_tasks_blocked()
            taken_up_or_new = [Enqueued.DUPLICATE, Enqueued.TAKEN_UP, Enqueued.DUPLICATE, Enqueued.CREATED]
            assert outcomes == [*taken_up_or_new, Enqueued.DUPLICATE]

    async def test_a_slot_enqueued_while_its_user_is_being_forgotten_begins_above_the_fence(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        async with postgres.storage() as storage:
            await storage.enqueue([job()])
            stale = [await claim_one(storage, job(), now=NOW + turn * DAY) for turn in range(3)]
            async with anyio.create_task_group() as tasks:
                with other.transaction():
                    assert await storage.on(other).forget("ann") == 1
                    tasks.start_soon(storage.enqueue, [job()])
                    await anyio.wait_all_tasks_blocked()
            new = await claim_one(storage, job())
            assert all(new.token > old.token for old in stale)

    async def test_the_end_of_a_pause_finds_what_a_planner_is_just_recording(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        async with postgres.storage() as storage:
            await storage.pause(["daily"], NOW)
            resumed: list[int | None] = []

            async def resume() -> None:
                resumed.append(await storage.resume(["daily"], since=EVER))

            async with anyio.create_task_group() as tasks:
                with other.transaction():
                    assert list(await storage.on(other).enqueue([job()])) == [Enqueued.PAUSED]
                    tasks.start_soon(resume)
                    await anyio.wait_all_tasks_blocked()
                    assert resumed == []
            assert resumed == [1]
            assert (await found(storage, KEY)).status is JobStatus.PENDING

    async def test_the_trace_never_shows_values(self, postgres: Schema) -> None:
        trace = Trace()
        async with postgres.storage(trace=trace) as storage:
            await bring(storage, job("secret"), JobStatus.CANCELLED, SkipReason.PAUSED)
            await storage.find([job("secret").dedup_key])
            await storage.forget("secret")
        assert not [statement for statement in trace.take() if "secret" in statement]

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_no_statement_of_every_day_reads_the_whole_table(self, postgres: Schema) -> None:
        async with postgres.storage() as storage:
            await storage.enqueue([job(f"user{number}", day) for number in range(1_000) for day in range(3)])
            postgres.run("ANALYZE jobs")
            values: dict[str, Any] = {
                "types": ["daily"], "key": KEY, "token": 1, "now": NOW, "due_by": NOW, "until": NOW, "limit": 5,
                "keys": [KEY], "tokens": [1], "progress": [None], "applies_to": ["pending"], "to": "pending",
                "code": None, "demand": None, "users": ["user7"], "before": [NOW], "type": "daily", "user": "ann",
                "on": NOW.date(), "at": NOW, "error": None, "uncounted": 0,
            }  # fmt: skip
            for statement in ("CLAIM", "CLAIM_THESE", "BEAT", "RELEASE", "RETRY", "CHANGE", "LAST_BRIEFS", "FORGET"):
                text = getattr(postgres_statements, statement).replace("@", f'"{postgres.name}".')
                with connect(postgres.dsn) as connection:
                    lines = connection.execute(f"EXPLAIN {text}".encode(), values).fetchall()
                plan = "\n".join(line for (line,) in lines)
                assert "Seq Scan on jobs" not in plan, plan


class TestCallersConnection:
    async def test_what_it_does_is_part_of_the_callers_transaction(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        other.execute("SET search_path TO pg_catalog")
        other.row_factory = dict_row
        async with postgres.storage() as storage:
            joined = storage.on(other)
            for keeps in (False, True):
                with other.transaction(force_rollback=not keeps):
                    assert list(await joined.enqueue([job()])) == [Enqueued.CREATED]
                    assert await found(joined, KEY) == job()
                    held = await claim_one(joined, job())
                    assert not await joined.heartbeat([held], NOW + DAY)
                    mail = FollowUp(job(type="mail"), b"mail")
                    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(job()))
                    assert await joined.finish(held, end, [mail])
                    assert (await joined.overview(["daily"], now=NOW, since=EVER))["daily"].ended == {"completed": 1}
                    await joined.preferences.put([Preference(user_id="ann")])
                    assert await storage.find([KEY]) == {}
                assert list(await storage.find([KEY])) == [KEY] * keeps
            assert await storage.brief("daily", "ann") == brief_of(job())

    async def test_it_neither_commits_nor_closes(self, postgres: Schema) -> None:
        with psycopg.connect(postgres.dsn) as mine:
            joined = PostgresStorage("dbname=", schema=postgres.name).on(mine)
            async with joined:
                await joined.enqueue([job()])
                assert await joined.forget("ann") == 1
                await joined.enqueue([job("bob")])
            assert mine.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS
            assert postgres.run("SELECT user_id FROM jobs") == []
            mine.commit()
        assert postgres.run("SELECT user_id FROM jobs") == [("bob",)]

    async def test_a_connection_without_a_transaction_is_refused(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        with pytest.raises(ValueError, match=r"use the storage inside `with connection.transaction\(\):`"):
            await postgres.storage().on(other).enqueue([job()])

    async def test_the_drivers_own_errors_surface_and_nothing_is_tried_again(
        self, postgres: Schema, other: psycopg.Connection[Any]
    ) -> None:
        trace = Trace()
        joined = postgres.storage(trace=trace).on(other)
        other.execute("SET lock_timeout = 1")
        with connect(postgres.dsn) as rival, rival.transaction():
            rival.execute(f'LOCK TABLE "{postgres.name}".jobs'.encode())
            with pytest.raises(psycopg.errors.LockNotAvailable), other.transaction():
                await joined.enqueue([job()])
        assert len(trace.take()) == 1
        with other.transaction():
            assert list(await joined.enqueue([job()])) == [Enqueued.CREATED]
