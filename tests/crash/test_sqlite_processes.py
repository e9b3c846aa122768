"""Many processes on one SQLite file, and processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fanout_briefs.adapters import sqlite_schema
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import Claim, Enqueued, Finish, FollowUp, JobStatus
from slots import NOW, brief_of, claim, claim_one, found, job
from sqlite_trace import A_WHILE, Trace, header

SPAWN = get_context("spawn")


def _open_at_once(path: Path, barrier: Any, results: Any) -> None:
    async def open_and_plan() -> list[str]:
        barrier.wait(A_WHILE)
        async with SqliteStorage(path) as storage:
            return [str(outcome) for outcome in await storage.enqueue([job()])]

    results.put(anyio.run(open_and_plan))


def _plan_shuffled(path: Path, barrier: Any, results: Any) -> None:
    async def plan() -> int:
        jobs = [job(f"user{number}") for number in range(5_000)]
        random.Random(os.getpid()).shuffle(jobs)
        async with SqliteStorage(path) as storage:
            barrier.wait(A_WHILE)
            return (await storage.enqueue(jobs)).count(Enqueued.CREATED)

    results.put(anyio.run(plan))


def _claim_all(path: Path, barrier: Any, results: Any) -> None:
    async def work() -> list[str]:
        got: list[str] = []
        async with SqliteStorage(path) as storage:
            barrier.wait(A_WHILE)
            while claims := (await claim(storage, limit=13)).claims:
                got += [held.job.user_id for held in claims]
        return got

    results.put(anyio.run(work))


def in_four_processes(target: Callable[[Path, Any, Any], None], path: Path) -> list[Any]:
    barrier, results = SPAWN.Barrier(4), SPAWN.Queue()
    processes = [SPAWN.Process(target=target, args=(path, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=A_WHILE) for _ in processes]
    for process in processes:
        process.join(A_WHILE)
        assert process.exitcode == 0
    return answers


@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_open_a_fresh_file_at_once_all_succeed(tmp_path: Path, attempt: int) -> None:
    outcomes = in_four_processes(_open_at_once, tmp_path / "briefs.db")
    assert sorted(outcomes) == [["created"], ["duplicate"], ["duplicate"], ["duplicate"]]


def test_processes_that_plan_the_same_slots_make_each_once(tmp_path: Path) -> None:
    assert sum(in_four_processes(_plan_shuffled, tmp_path / "briefs.db")) == 5_000
    with closing(sqlite3.connect(tmp_path / "briefs.db")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (5_000,)


def test_processes_that_claim_all_jobs_share_them_out(tmp_path: Path) -> None:
    async def plan() -> None:
        async with SqliteStorage(tmp_path / "briefs.db") as storage:
            await storage.enqueue([job(f"user{number}") for number in range(1_000)])

    anyio.run(plan)
    got = [user_id for part in in_four_processes(_claim_all, tmp_path / "briefs.db") for user_id in part]
    assert (len(got), len(set(got))) == (1_000, 1_000)


def _until_killed(path: Path, doing: str, at: str, times: int, reached: Any) -> None:
    seen = 0

    def stop(statement: str) -> None:
        nonlocal seen
        seen += statement.strip().startswith(at)
        if seen == times:
            reached.set()
            threading.Event().wait()

    trace = Trace()

    async def work() -> None:
        trace.at = stop if doing == "open" else None
        async with SqliteStorage(path, trace=trace) as storage:
            trace.at = stop
            if doing == "enqueue":
                await storage.enqueue([job(f"user{number:05}") for number in range(9_000)])
            held = Claim(job=job(), token=1, until=NOW)
            end = Finish(status=JobStatus.COMPLETED, brief=brief_of(job()))
            await storage.finish(held, end, [FollowUp(job(type="mail"), b"mail")])

    anyio.run(work)


def kill(path: Path, doing: str, at: str, times: int = 1) -> None:
    stopped = SPAWN.Event()
    process = SPAWN.Process(target=_until_killed, args=(path, doing, at, times, stopped))
    process.start()
    assert stopped.wait(A_WHILE)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(A_WHILE)


needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@needs_kill
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "at", ["UPDATE jobs", "INSERT INTO briefs", "INSERT INTO jobs", "INSERT INTO outbox", "COMMIT"]
)
async def test_a_process_killed_inside_a_finish_leaves_the_old_state(tmp_path: Path, at: str) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path) as storage:
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
    await anyio.to_thread.run_sync(kill, path, "finish", at)
    async with SqliteStorage(path) as storage:
        assert await found(storage, job().dedup_key) == held.job
        assert await storage.brief("daily", "ann") is None
        assert await storage.find([job(type="mail").dedup_key]) == {}
        assert await storage.finish(held, Finish(status=JobStatus.EMPTY))


@needs_kill
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_process_killed_inside_an_enqueue_leaves_whole_chunks_and_the_next_completes_it(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    await anyio.to_thread.run_sync(kill, path, "enqueue", "COMMIT", 2)
    jobs = [job(f"user{number:05}") for number in range(9_000)]
    async with SqliteStorage(path) as storage:
        outcomes = await storage.enqueue(jobs)
        assert list(outcomes) == [Enqueued.DUPLICATE] * 4_000 + [Enqueued.CREATED] * 5_000


@needs_kill
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("at", ["CREATE TABLE marks", "COMMIT", "PRAGMA journal_mode"])
async def test_a_process_killed_while_making_the_file_leaves_one_that_opens(tmp_path: Path, at: str) -> None:
    path = tmp_path / "briefs.db"
    await anyio.to_thread.run_sync(kill, path, "open", at)
    async with SqliteStorage(path) as storage:
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]
    assert header(path) == (sqlite_schema.APPLICATION_ID, 1)
