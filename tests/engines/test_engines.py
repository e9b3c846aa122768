"""Engines carry the jobs, in the workers that their own commands start; the ledger stays the truth whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from engine_harness import GUARD, LEASE, Figures, Scene

from carriers import CARRIERS, Carrier
from mail_server import MailServer
from services import Schema, Server, connect

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
        scene.until(lambda: scene.ended() == 2 * users, within=GUARD + users / 10)
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


@pytest.mark.nightly
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


async def test_with_a_mail_server_no_mail_is_sent_twice_and_none_is_forgotten(scene: Scene) -> None:
    await mailed_beside_a_kill(scene, 200)


@pytest.mark.nightly
async def test_with_a_mail_server_ten_thousand_mails_are_each_sent_once_or_unknown(scene: Scene) -> None:
    await mailed_beside_a_kill(scene, 10_000)


async def mailed_beside_a_kill(scene: Scene, users: int) -> None:
    """Two workers and a mail server that honours no keys; one worker is killed while it sends."""
    await scene.plan(users)
    with MailServer() as server:
        scene.environment["ENGINE_SMTP"] = str(server.port)
        begun = time.monotonic()
        with scene.at_work(2):
            # Mails come behind all briefs that were due before them.
            scene.until(lambda: len(server.accepted) >= users // 4, within=GUARD + users / 5)
            scene.workers[0].kill()
            scene.until(lambda: scene.ended() == 2 * users, within=GUARD + users / 5)
        seconds = time.monotonic() - begun
        found = scene.found()
        told = ", ".join(f"{count:,} {status}" for status, count in found.mails.items())
        print(f"\n{scene.carrier.name}: mails {told}; {2 * users / seconds:,.0f} jobs/s, load {os.getloadavg()[0]:.0f}")
        assert found.briefs == {"completed": users}
        assert set(found.mails) <= {"completed", "unknown"}
        assert found.mails.total() == users
        assert max(Counter(server.takers).values()) == 1
        # What is called sent was taken; of what is unknown nobody knows, and it may have been.
        assert found.mails["completed"] <= len(server.takers) <= users


async def test_a_worker_that_is_told_to_stop_gives_back_what_it_cannot_finish(scene: Scene) -> None:
    await scene.plan(20)
    scene.hold("u00003")
    with scene.at_work(2):
        pid = scene.holder("u00003")
        told, worker = time.monotonic(), scene.worker_of(pid)
        worker.send_signal(signal.SIGTERM)
        scene.until(lambda: scene.ended() == 40)
        # Its lease would have gone on for as long as the worker lives, since that sends heartbeats.
        taken_over = time.monotonic() - told
        worker.wait(30)
    print(f"\n{scene.carrier.name}: what a worker gave back ran elsewhere {taken_over:.1f} s after it was told to stop")
    ((attempts,),) = scene.run("SELECT attempts FROM jobs WHERE dedup_key LIKE 'daily_brief:%u00003'")
    assert attempts == 1  # The one that was given back does not count, as that of a dead worker would.


@pytest.mark.nightly
async def test_more_workers_make_more_briefs_a_second(scene: Scene) -> None:
    """Briefs that take a second each, as those that wait for a model; counted once every worker is at it."""
    scene.environment["ENGINE_TAKES"] = "1"
    rates = dict[int, float]()
    for workers in (1, 2, 4):
        users = 150 * workers
        with scene.at_work(workers):
            await everybody_begun(scene, workers)
            warm, begun = scene.ended(), time.monotonic()
            await scene.plan(users, f"w{workers}_")
            scene.until(partial(scene.has_ended, warm + 2 * users))
            rates[workers] = users / (time.monotonic() - begun)
    told = ", ".join(f"{rate:.0f} by {workers}" for workers, rate in rates.items())
    print(f"\n{scene.carrier.name}: of briefs that take a second each, 20 at once a worker, a second: {told}")
    assert rates[1] < rates[2] < rates[4]


async def everybody_begun(scene: Scene, workers: int) -> None:
    """Give workers something to do until each of them has done some of it, and all of it is done."""
    prefix, times = f"s{workers}_", 0
    at_it: set[int] = set()
    while len(at_it) < workers:
        await scene.plan(20 * workers, f"{prefix}{times}_")
        scene.until(scene.is_idle)
        at_it = {scene.worker_of(int(pid)).pid for user, pid in scene.lines("begun") if user.startswith(prefix)}
        times += 1


@pytest.mark.parametrize("name", list(CARRIERS))
async def test_a_server_that_is_restarted_while_jobs_run_loses_nothing(
    name: str, request: pytest.FixtureRequest, own_postgres: Server, tmp_path: Path
) -> None:
    users = 200
    with connect(own_postgres.dsn) as connection:
        ledger = Schema(own_postgres.dsn, "ledger", connection)
        ledger.make()
    carrier = CARRIERS[name](request, ledger)
    carrier.install()
    scene = Scene(carrier, ledger, tmp_path)
    await scene.plan(users)
    with scene.at_work(2):
        scene.until(lambda: scene.ended() > users // 4)
        for mode in ("immediate", "fast"):
            await anyio.to_thread.run_sync(own_postgres.stop, mode)
            await anyio.to_thread.run_sync(own_postgres.start)
        scene.until(lambda: scene.ended() == 2 * users, keeping=2)
    found = scene.found()
    assert (found.briefs, found.mails) == ({"completed": users}, {"completed": users})
    assert found.saved == (users, users)
    assert len({key for (key,) in scene.lines("sent")}) == users


@pytest.mark.nightly
async def test_figures_of_enqueueing_through_the_ledger_beside_the_engine_alone(scene: Scene) -> None:
    """Ten thousand slots a batch, beside the engine's own bulk call for as many messages."""
    rounds, slots = 3, 10_000
    through_ledger = max([await scene.plan(slots, f"r{number}_") for number in range(rounds)])
    alone = max(scene.alone(slots, number) for number in range(rounds))
    print(f"\n{scene.carrier.name}: {through_ledger:,.0f} slots/s through the ledger, {alone:,.0f} messages/s alone")
    assert scene.ledger.run("SELECT count(*) FROM jobs") == [(rounds * slots,)]
