"""What a SQLite storage runs, and what becomes of it when that fails."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from fanout_briefs.adapters import sqlite_statements
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Change, Enqueued, Finish, FollowUp, JobStatus, Preference, SkipReason
from slots import DAY, NOW, brief_of, bring, claim, claim_one, found, job
from sqlite_trace import Gate, Trace, reached


def raising(code: int, message: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


async def test_a_locked_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path, busy_timeout=timedelta(milliseconds=30)) as storage:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(
                StorageUnavailable, match=r"kept the file locked for 0.03 s; find the program"
            ) as caught:
                await storage.enqueue([job()])
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert await storage.find([job().dedup_key]) == {}
            other.execute("ROLLBACK")
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_LOCKED])
async def test_a_busy_error_is_tried_again_by_whole_transaction(tmp_path: Path, code: int) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        failures = iter(("BEGIN IMMEDIATE", "COMMIT"))
        waiting = [next(failures)]

        def fail(statement: str) -> None:
            if waiting and statement == waiting[0]:
                waiting[:] = [*failures][:1]
                raise raising(code, "database is locked")

        trace.take()
        trace.at = fail
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]
        trace.at = None
        assert trace.take().count("BEGIN IMMEDIATE") == 3
        assert await found(storage, job().dedup_key) == job()


async def test_a_busy_error_that_does_not_end_is_told_after_the_busy_timeout(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace, busy_timeout=timedelta(seconds=0.3)) as storage:

        def fail(statement: str) -> None:
            raise raising(sqlite3.SQLITE_BUSY, "database is locked")

        trace.take()
        trace.at = fail
        with pytest.raises(StorageUnavailable, match="database is locked"):
            await storage.enqueue([job()])
        trace.at = None
        tried = trace.take()
        assert set(tried) == {"BEGIN IMMEDIATE"}
        assert len(tried) > 1


async def test_whoever_is_cancelled_while_the_file_is_busy_does_not_wait_for_the_busy_timeout(tmp_path: Path) -> None:
    path, trace = tmp_path / "briefs.db", Trace()
    async with SqliteStorage(path, busy_timeout=timedelta(days=1), trace=trace) as storage:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            gate = trace.at = Gate("BEGIN IMMEDIATE")
            gate.open.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(storage.enqueue, [job()])
                await reached(gate)
                tasks.cancel_scope.cancel()
            other.execute("ROLLBACK")
        assert await storage.find([job().dedup_key]) == {}


async def test_a_full_disk_is_told_and_stores_nothing(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        slot = job()
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        session = storage._open_session()  # pyright: ignore[reportPrivateUsage]  # the only way to a small disk
        writer = session.writer.connection
        assert writer is not None
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot, text="x" * 100_000))
        with pytest.raises(StorageUnavailable, match="the disk is full and nothing of this was stored"):
            await storage.finish(held, end)
        assert await found(storage, slot.dedup_key) == held.job
        assert await storage.brief("daily", "ann") is None
        writer.execute("PRAGMA max_page_count = 1000000")
        assert await storage.finish(held, end)


async def test_an_error_without_advice_is_told_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path) as storage:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("CREATE TRIGGER no BEFORE INSERT ON jobs BEGIN SELECT raise(ABORT, 'not today'); END")
        with pytest.raises(StorageUnavailable, match=f"{path}: not today: this is what SQLite says"):
            await storage.enqueue([job()])


@pytest.mark.parametrize("number", range(6))
async def test_a_finish_that_fails_at_any_statement_leaves_the_old_state(tmp_path: Path, number: int) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        slot, mail = job(), job(type="mail")
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))
        trace.take()

        def fail(statement: str) -> None:
            if len(trace.statements) == number + 1:
                raise KeyboardInterrupt(statement)

        trace.at = fail
        with pytest.raises(KeyboardInterrupt):
            await storage.finish(held, end, [FollowUp(mail, b"mail")])
        trace.at = None
        assert await found(storage, slot.dedup_key) == held.job
        assert await storage.find([mail.dedup_key]) == {}
        assert await storage.brief("daily", "ann") is None
        assert await storage.finish(held, end, [FollowUp(mail, b"mail")])
        assert (await claim_one(storage, mail)).payload == b"mail"


async def test_a_page_costs_one_statement_whatever_its_size(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        jobs = [job(f"user{number}") for number in range(5_000)]
        await storage.enqueue(jobs)
        keys, ids = [slot.dedup_key for slot in jobs], [slot.user_id for slot in jobs]
        trace.take()
        assert len(await storage.find(keys)) == 5_000
        assert len(trace.take()) == 1
        assert len(await storage.last_briefs("daily", dict.fromkeys(ids, NOW + DAY))) == 5_000
        assert len(trace.take()) == 1
        await storage.preferences.get(ids)
        assert len(trace.take()) == 1
        await storage.preferences.page(None, 5_000)
        assert len(trace.take()) == 1


async def test_what_operators_ask_costs_as_many_statements_whatever_the_number_of_slots(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.pause(["daily"], NOW),
            lambda: storage.resume(["daily"], since=NOW),
            lambda: storage.overview(["daily"], now=NOW, since=NOW),
            lambda: storage.select(["daily"], [JobStatus.SKIPPED], since=NOW, limit=9_000),
            lambda: storage.prune(["daily"], NOW + 99 * DAY, 9_000),
        ]
        costs: list[list[int]] = []
        for number in (1, 3_000):
            ids = [f"user{each}" for each in range(number)]
            await storage.enqueue(
                [job(each, day, status=JobStatus.SKIPPED, code=SkipReason.MISSED) for each in ids for day in (0, 1)]
            )
            costs.append([])
            for ask in asked:
                trace.take()
                await ask()
                costs[-1].append(len(trace.take()))
        assert costs[0] == costs[1]
        assert max(costs[0]) <= 8


async def test_long_batches_are_written_in_chunks_in_order_of_their_keys(tmp_path: Path) -> None:
    trace = Trace()
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path, trace=trace) as storage:
        jobs = [job(f"user{number:05}") for number in range(9_000)]
        random.Random(1).shuffle(jobs)
        trace.take()
        await storage.enqueue(jobs)
        assert trace.take().count("COMMIT") == 3
        with closing(sqlite3.connect(path)) as connection:
            stored = [user_id for (user_id,) in connection.execute("SELECT user_id FROM jobs ORDER BY seq")]
        assert stored == sorted(stored)


async def test_every_write_is_a_transaction_that_locks_first_and_every_read_is_none(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        await storage.enqueue([job(), job("bob")])
        await storage.advance("daily", start=NOW)
        held, other = (await claim(storage)).claims
        trace.take()
        writes: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.enqueue([job("cid")]),
            lambda: storage.change([job().dedup_key], Change.CANCEL),
            lambda: storage.advance("daily", NOW + DAY),
            lambda: storage.heartbeat([held], NOW + DAY),
            lambda: storage.finish(held, Finish(status=JobStatus.EMPTY)),
            lambda: storage.release([other]),
            lambda: claim(storage),
            lambda: storage.retry(other, NOW, "error"),
            lambda: storage.forget("ann"),
            lambda: storage.pause(["daily"], NOW),
            lambda: storage.resume(["daily"], since=NOW),
            lambda: storage.resume(["daily"], since=NOW),
            lambda: storage.prune(["daily"], NOW, 1),
            lambda: storage.preferences.put([Preference(user_id="ann")]),
            lambda: storage.preferences.remove(["ann"]),
        ]
        for write in writes:
            await write()
            statements = trace.take()
            if statements[-1] == "PRAGMA wal_checkpoint(TRUNCATE)":  # After the transaction in which it forgets.
                statements.pop()
            first, *_, last = statements
            assert (first, last) == ("BEGIN IMMEDIATE", "COMMIT")
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.find([job().dedup_key]),
            lambda: storage.last_briefs("daily", {"ann": NOW}),
            lambda: storage.advance("daily"),
            lambda: storage.brief("daily", "ann"),
            lambda: storage.paused(["daily"]),
            lambda: storage.preferences.get(["ann"]),
            lambda: storage.preferences.page(None, 1),
        ]
        for read in reads:
            await read()
            (statement,) = trace.take()
            assert statement.startswith("SELECT")
        # What takes several statements is of one moment all the same, and keeps no writer waiting.
        snapshots: list[Callable[[], Awaitable[object]]] = [
            lambda: storage.overview(["daily", "mail"], now=NOW, since=NOW),
            lambda: storage.select(["daily", "mail"], [*JobStatus], since=NOW),
        ]
        for read in snapshots:
            await read()
            begin, *statements = trace.take()
            assert begin == "BEGIN"
            assert all(statement.startswith("SELECT") for statement in statements)


async def test_the_trace_never_shows_values(tmp_path: Path) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", trace=trace) as storage:
        await bring(storage, job("secret"), JobStatus.CANCELLED, SkipReason.PAUSED)
        await storage.find([job("secret").dedup_key])
        await storage.forget("secret")
    assert not [statement for statement in trace.take() if "secret" in statement]


async def test_claims_and_look_ups_use_indexes_in_order(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path):
        pass
    pending, expired = sqlite_statements.DUE
    parameters = [
        "type",
        "due_by",
        "now",
        "until",
        "limit",
        "key",
        "keys",
        "seqs",
        "before",
        "claims",
        "applies_to",
        "to",
        "code",
        "token",
    ]
    values = dict.fromkeys(parameters, 1)
    expected = {
        pending: ["jobs_due", "jobs_of_user"],
        expired: ["jobs_held", "jobs_of_user"],
        **{statement: ["dedup_key=?", "jobs_of_user"] for statement in sqlite_statements.DUE_OF_THESE},
        sqlite_statements.HELD_OF_THESE: ["dedup_key=?"],
        sqlite_statements.HELD: ["jobs_held"],
        sqlite_statements.LAST_BRIEFS: ["COVERING INDEX jobs_of_user (user_id=? AND type=? AND deliver_at<?)"],
        sqlite_statements.TAKE: ["COVERING INDEX briefs_of_user"],
        sqlite_statements.CHANGE: ["dedup_key=?"],
        sqlite_statements.BEAT: ["dedup_key=?"],
        sqlite_statements.RELEASE: ["dedup_key=?"],
    }
    with closing(sqlite3.connect(path)) as connection:
        for statement, parts in expected.items():
            plan = "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))
            assert all(part in plan for part in parts), plan
            assert "SCAN jobs" not in plan, plan
            sorts_few = {expired, sqlite_statements.HELD_OF_THESE, *sqlite_statements.DUE_OF_THESE}
            assert "TEMP B-TREE" not in plan or statement in sorts_few, plan
        for statement in (sqlite_statements.FIND, sqlite_statements.STATES):
            plan = "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", ("[]",)))
            assert "dedup_key=?" in plan, plan


def plan_of(connection: sqlite3.Connection, statement: str) -> str:
    values = dict.fromkeys(re.findall(r":(\w+)", statement), "[]")
    asked = values or ("[]",) * statement.count("?")
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", asked))


async def test_what_operators_ask_uses_indexes_too(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path):
        pass
    by_delivery = "jobs_by_delivery (type=? AND deliver_at"
    live = {JobStatus.PENDING: "jobs_due (type=?)", JobStatus.PROCESSING: "jobs_held (type=?)"}
    expected = {
        sqlite_statements.STANDING: [*live.values()],
        sqlite_statements.ENDINGS: [f"COVERING INDEX {by_delivery}>?)"],
        sqlite_statements.TROUBLE: [f"{by_delivery}>?)"],
        sqlite_statements.PRUNABLE: [f"{by_delivery}<?)", "jobs_of_user", "COVERING INDEX briefs_of_user"],
        sqlite_statements.RESUME: [f"{by_delivery}>?)"],
        # Every pending slot of the type is looked at: far fewer than there are slots, and once a pause.
        sqlite_statements.TOO_OLD_TO_RESUME: ["jobs_due (type=?)"],
        sqlite_statements.MARK_OF: ["PRIMARY KEY"],
        sqlite_statements.PAUSES: ["PRIMARY KEY"],
        sqlite_statements.UNPAUSE: ["PRIMARY KEY"],
        sqlite_statements.PRUNE_FENCE: ["jobs USING INTEGER PRIMARY KEY"],
        sqlite_statements.PRUNE[0]: ["outbox USING INTEGER PRIMARY KEY"],
        sqlite_statements.PRUNE[1]: ["briefs USING INDEX", "jobs USING INTEGER PRIMARY KEY"],
        sqlite_statements.PRUNE[2]: ["jobs USING INTEGER PRIMARY KEY"],
        **{sqlite_statements.SELECT[status]: [live.get(status, f"{by_delivery}>?)")] for status in JobStatus},
    }
    with closing(sqlite3.connect(path)) as connection:
        for statement, parts in expected.items():
            plan = plan_of(connection, statement)
            assert all(part in plan for part in parts), (statement, plan)
            assert not re.search(r"SCAN (jobs|newer|briefs|outbox)", plan), (statement, plan)
        # A prune goes through the oldest in order and stops at its limit; it never sorts them all first.
        assert "TEMP B-TREE" not in plan_of(connection, sqlite_statements.PRUNABLE)


async def test_what_was_erased_is_neither_in_the_file_nor_in_its_log(tmp_path: Path) -> None:
    def on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        slot = job("user-to-forget")
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        brief = brief_of(slot, text="very private " * 2_000)
        mail = FollowUp(job("user-to-forget", type="mail"), b"very private too")
        assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief), [mail])
        await storage.preferences.put([Preference(user_id="user-to-forget", timezone="very private zone")])
        assert b"very private" in on_disk()
        await storage.forget("user-to-forget")
        assert b"very private" not in on_disk()
        assert b"user-to-forget" not in on_disk()


async def test_erasing_does_not_wait_for_the_log_of_one_who_reads(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path, busy_timeout=timedelta(0)) as storage:
        await storage.enqueue([job("user-to-forget")])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            assert await storage.forget("user-to-forget") == 1
        assert await storage.forget("nobody") == 0
    assert b"user-to-forget" not in path.read_bytes()
