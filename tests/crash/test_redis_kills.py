"""Runs on Redis that are killed at random points, alone or with their server: every brief and every mail is there once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from crash_harness import HERE, USERS, Left, bytes_by_name, child, undisturbed

from redis_server import RedisServer, own_redis

SEED = 20261125
KILLS = 4
APP = "redis_app:briefs"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and inherited pipes are POSIX"),
]


def on(server: RedisServer) -> dict[str, str]:
    """What tells the application its server. Its leases are short, for the next run waits for their end."""
    source = HERE.parents[1] / "examples" / "redis_briefs" / "src"
    return {"CRASH_REDIS": server.url, "CRASH_LEASE": "1", "PYTHONPATH": str(source)}


def census(folder: Path) -> list[str]:
    """The points that an undisturbed run passes, in its order."""
    folder.mkdir()
    with own_redis() as server, child(folder, app=APP, **on(server)) as running:
        status, _, problems = running.ends()
    assert status == 0, problems
    return running.passed


def drawn(rng: random.Random, passed: list[str]) -> list[str]:
    """Phases to be killed in, in the order in which a run comes through them, so that each still has work to do."""
    return sorted(rng.sample(sorted(set(passed)), KILLS), key=passed.index)


def left(folder: Path, server: RedisServer) -> Left:
    environment = {**os.environ, **on(server), "CRASH_FOLDER": str(folder)}
    command = [sys.executable, "redis_app.py"]
    looked = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=True)
    return Left(json.loads(looked.stdout))


def test_runs_killed_alone_or_with_their_server_leave_each_brief_and_each_mail_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    passed = census(tmp_path / "census")
    folder = tmp_path / "killed"
    folder.mkdir()
    told: list[str] = []
    with own_redis() as server:
        for number, phase in enumerate(drawn(rng, passed)):
            # Of the first points of its phase, since later runs find some of the work done.
            point = rng.randint(1, max(1, passed.count(phase) // (2 * KILLS)))
            with child(folder, f"{phase}:{point}", APP, **on(server)) as running:
                assert running.reaches() == phase
                running.kill()
            if number % 2:
                server.kill()
                server.start()
            told.append(f"{phase}{' with the server' if number % 2 else ''}")
        with capsys.disabled():
            sys.stdout.write(f"\nkilled at {', '.join(told)}\n")
        status, _, problems = undisturbed(folder, APP, **on(server))
        assert status == 0, problems
        found = left(folder, server)
        found.has_each_brief_once()
        found.has_each_mail_once()
        written = bytes_by_name(folder)
        assert len(written) == len({name for name, _ in written}) == len(USERS)
        again, report, _ = undisturbed(folder, APP, **on(server))
        assert (again, report["run"]["briefs"], report["run"]["mails"]) == (0, {}, {})
