"""Engines carry the jobs, in the workers that their own commands start; the ledger stays the truth whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from engine_harness import LEASE, Figures, Scene

from carriers import Carrier
from services import Schema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


@pytest.fixture
def anyio_backend() -> str:
    """Workers of these engines run on asyncio; planning is tested on both elsewhere."""
    return "asyncio"


@pytest.fixture
def scene(carrier: Carrier, postgres: Schema, tmp_path: Path) -> Scene:
    return Scene(carrier, postgres, tmp_path)


async def killed_in_mid_job(scene: Scene, users: int) -> Figures:
    """Two workers, one killed in the middle of a job; everything is made all the same, and once."""
    figures = Figures(scene.carrier.name, users)
    figures.enqueued = await scene.plan(users)
    victim_user = f"u{users // 20:05}"
    scene.hold(victim_user)
    begun = time.monotonic()
    with scene.at_work(2):
        pid = scene.holder(victim_user)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        scene.until(lambda: Counter(user for user, *_ in scene.lines("begun"))[victim_user] > 1)
        figures.recovered = time.monotonic() - killed
        scene.until(lambda: scene.ended() == 2 * users)
        figures.ran = 2 * users / (time.monotonic() - begun)
    found = scene.found()
    assert found.briefs == {"completed": users}
    assert found.mails == {"completed": users}
    assert found.saved == (users, users)
    assert len({key for (key,) in scene.lines("sent")}) == users
    print(f"\n{figures}")
    assert figures.recovered <= 2 * LEASE.total_seconds()
    return figures


async def test_a_worker_that_is_killed_in_mid_job_costs_nothing_but_time(scene: Scene) -> None:
    await killed_in_mid_job(scene, 300)


@pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="takes minutes: HYPOTHESIS_PROFILE=nightly"
)
async def test_ten_thousand_jobs_and_a_worker_that_is_killed(scene: Scene) -> None:
    await killed_in_mid_job(scene, 10_000)


async def test_a_worker_that_sleeps_past_its_lease_writes_nothing_when_it_wakes(scene: Scene) -> None:
    await scene.plan(20)
    scene.hold("u00003")
    with scene.at_work(2):
        pid = scene.holder("u00003")
        os.kill(pid, signal.SIGSTOP)
        scene.until(lambda: scene.ended() == 40)
        bodies = scene.run("SELECT user_id, body FROM briefs ORDER BY user_id")
        rows = scene.run("SELECT * FROM jobs ORDER BY dedup_key")
        os.kill(pid, signal.SIGCONT)
        assert f"made by {pid}".encode() not in dict(bodies)["u00003"]
        # It is awake once it has noticed that it lost what it held, or once it takes something new.
        await scene.plan(20, "v")
        scene.until(lambda: scene.ended() == 80)
    assert scene.run("SELECT user_id, body FROM briefs WHERE user_id < 'v' ORDER BY user_id") == bodies
    assert scene.run("SELECT * FROM jobs WHERE user_id < 'v' ORDER BY dedup_key") == rows
