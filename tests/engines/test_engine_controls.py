"""What a host says of its jobs holds in the engines' own workers: which come first, how many at once, cancel, pause."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from engine_harness import Scene

from carriers import Carrier
from services import Schema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the harness starts and kills processes as POSIX does"),
]


@pytest.fixture
def anyio_backend() -> str:
    """Workers of these engines run on asyncio."""
    return "asyncio"


@pytest.fixture
def scene(carrier: Carrier, postgres: Schema, tmp_path: Path) -> Scene:
    return Scene(carrier, postgres, tmp_path)


def order(scene: Scene) -> list[tuple[str, str]]:
    """What workers did, one after the other: ``begin`` and ``end`` of briefs, and ``mail``, each with its user."""
    return [(what, user) for what, user in scene.lines("order")]


@pytest.mark.parametrize(("priority", "comes_first"), [(0, "briefs"), (6, "mails")])
async def test_mails_leave_behind_all_briefs_that_are_due_unless_they_have_priority(
    scene: Scene, priority: int, comes_first: str
) -> None:
    users = 40
    scene.concurrency = 2
    scene.environment |= {"ENGINE_TAKES": "0.05", "ENGINE_MAIL_PRIORITY": str(priority)}
    await scene.plan(users)
    with scene.at_work(1):
        scene.until(lambda: scene.ended() == 2 * users)
    done = [what for what, _ in order(scene)]
    last_brief = len(done) - 1 - done[::-1].index("begin")
    before = done[:last_brief].count("mail")
    print(
        f"\n{scene.carrier.name}: with {comes_first} first, {before} of {users} mails left before the last brief began"
    )
    # Some are on their way into a worker while it takes the next.
    assert before >= users - 10 if comes_first == "mails" else before <= 10


async def test_no_more_briefs_run_at_once_than_are_allowed_and_mails_do_not_wait_for_them(scene: Scene) -> None:
    users, allowed = 20, 2
    scene.environment |= {
        "ENGINE_TAKES": "0.1",
        "ENGINE_BRIEFS_AT_ONCE": str(allowed),
        "ENGINE_WAITS_FOR_A_MAIL": "1",  # So this ends only if mails do not wait, however late their worker starts.
    }
    commands = scene.carrier.limited(allowed)
    await scene.plan(users)
    with scene.running(commands):
        scene.until(lambda: scene.ended() == 2 * users)
    running, most = 0, 0
    for what, _ in order(scene):
        running += {"begin": 1, "end": -1}.get(what, 0)
        most = max(most, running)
    assert most == allowed
    done = [what for what, _ in order(scene)]
    assert done[: done.index("mail")].count("end") <= allowed


async def test_what_was_cancelled_is_taken_back_where_it_can_be_and_begun_nowhere(scene: Scene) -> None:
    users, cancelled = 20, {"u00003", "u00007"}
    await scene.plan(users)
    ((on,),) = scene.run("SELECT DISTINCT local_date FROM jobs")
    assert isinstance(on, date)
    async with scene.briefs(scene.storage()) as briefs:
        for user in cancelled:
            assert await briefs.cancel(user, on)
    waiting = {key.rpartition(":")[2] for key, *_ in scene.carrier.waiting()}
    assert waiting & cancelled == (set() if scene.carrier.dispatcher.powers.cancels else cancelled)
    with scene.at_work(1):
        scene.until(lambda: scene.ended() == 2 * users - len(cancelled))
        scene.until(lambda: not scene.carrier.waiting())
    assert scene.found().briefs == {"completed": users - len(cancelled), "cancelled": len(cancelled)}
    assert {user for what, user in order(scene) if what == "begin"}.isdisjoint(cancelled)


async def test_a_pause_holds_in_every_worker_and_what_it_kept_back_runs_after_it(scene: Scene) -> None:
    users = 60
    scene.concurrency = 4
    scene.environment["ENGINE_TAKES"] = "0.1"
    await scene.plan(users)
    async with scene.briefs(scene.storage()) as briefs:
        with scene.at_work(2):
            scene.until(lambda: scene.ended() > 5)
            assert await briefs.pause()
            scene.until(lambda: scene.run("SELECT count(*) FROM jobs WHERE status = 'processing'") == [(0,)])
            begun = Counter(order(scene))
            # Workers are told of each message that came meanwhile that it is not to be run.
            scene.until(lambda: not scene.carrier.waiting())
            assert Counter(order(scene)) == begun
            assert scene.ended() < 2 * users
            assert await briefs.resume() is not None
            scene.until(lambda: scene.ended() == 2 * users)
    assert scene.found().briefs == {"completed": users}
    assert set(Counter(order(scene)).values()) == {1}
