"""Many planners at once on one database, and planners that are killed: exactly one row a slot, whatever happens."""

from __future__ import annotations

import os
import random
import signal
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anyio
import pytest
from planner_harness import plan, slots

from places import File, Place, Tables
from services import Schema
from sqlite_trace import A_WHILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]

SPAWN = get_context("spawn")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return File(tmp_path / "briefs.db")
    schema: Schema = request.getfixturevalue("postgres")
    return Tables(schema.dsn, schema.name)


def _plan(place: Place, users: int, begun: Any, results: Any) -> None:
    begun.wait(A_WHILE)
    report = anyio.run(partial(plan, place, users))
    results.put((report.enqueued, report.duplicates, [str(problem) for problem in report.problems]))


def test_four_planners_at_once_make_each_of_fifty_thousand_slots_once(place: Place) -> None:
    users = 50_000
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = place.ask(deadlocks) if isinstance(place, Tables) else []
    barrier, results = SPAWN.Barrier(4), SPAWN.Queue()
    processes = [SPAWN.Process(target=_plan, args=(place, users, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=2 * A_WHILE) for _ in processes]
    for process in processes:
        process.join(A_WHILE)
        assert process.exitcode == 0
    assert slots(place) == (users, users)
    assert sum(enqueued for enqueued, _, _ in answers) == users
    assert [enqueued + duplicates for enqueued, duplicates, _ in answers] == [users] * 4
    assert [problems for _, _, problems in answers] == [[]] * 4
    # Keys in order: nobody even had to be tried again.
    assert (place.ask(deadlocks) if isinstance(place, Tables) else []) == before


def _plan_until_killed(place: Place, users: int, statements: Any) -> None:
    anyio.run(partial(plan, place, users, lambda statement: statements.release()))


def test_planners_killed_at_random_leave_what_one_more_run_completes(place: Place) -> None:
    users = 10_000
    left: list[int] = []
    anyio.run(partial(plan, place, 0))
    for _ in range(20):
        statements = SPAWN.Semaphore(0)
        process = SPAWN.Process(target=_plan_until_killed, args=(place, users, statements))
        process.start()
        for _ in range(random.randint(1, 8 if isinstance(place, File) else 4)):
            assert statements.acquire(timeout=A_WHILE)
        # Somewhere between that statement and the next ones.
        process.join(random.uniform(0, 0.1))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(A_WHILE)
        rows, people = slots(place)
        assert rows == people
        left.append(rows)
        if rows == users:
            place.ask("DELETE FROM jobs")
    anyio.run(partial(plan, place, users))
    assert slots(place) == (users, users), left
