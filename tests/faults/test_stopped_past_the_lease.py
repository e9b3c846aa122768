"""A worker stands still, by SIGSTOP, until another one has taken over what it held; then it wakes.

It wakes as if nothing had happened, in the middle of whatever it did, and must neither write nor send anything twice.
"""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_harness import Child, Scene, needs_posix, scene, side_by_side

from figures import Tell
from mail_server import HOLD, MailServer

SEED = 20260310
ONE = "u003"
pytestmark = [pytest.mark.slow, needs_posix]


def overtaken(town: Scene, sleeper: Child) -> None:
    """Let the sleeper sleep until somebody else has done everything, then wake it and see that it changes nothing."""
    sleeper.order("stop outside")
    sleeper.is_stopped()
    other = town.worker()
    for held in ("everybody", ONE):
        (town.wings / held).unlink(missing_ok=True)
    town.settles()
    other.terminated()
    if town.server is not None:
        town.server.let_go()
    before = town.looked().rows
    asleep = len(sleeper.marks)
    sleeper.signals(signal.SIGCONT)
    sleeper.reaches("turn", 3, since=asleep)
    sleeper.terminated()
    after = town.looked().rows
    # A file that was being written when the process fell asleep is then given its name, in place of the same one.
    assert {**after, "unfinished": []} == {**before, "unfinished": []}, "the woken worker wrote"
    assert after["unfinished"] == []


def test_a_worker_that_sleeps_past_its_lease_at_any_moment_wakes_to_find_the_work_done(
    tmp_path: Path, tell: Tell
) -> None:
    def play(name: str) -> str:
        rng = random.Random(f"{SEED} {name}")
        with ExitStack() as stack:
            server = stack.enter_context(MailServer()) if name.startswith("smtp") else None
            town = stack.enter_context(scene(tmp_path / name, people=36, last=5, server=server))
            sleeper = town.worker()
            moment = rng.randint(100, 500)
            sleeper.passes(moment)
            overtaken(town, sleeper)
            return f"{name} after {moment} marks: 36 briefs, {dict(town.judged().counts)}"

    told = side_by_side(play, ["eml", "smtp", "smtp again"])
    tell(f"stopped under serve, seed {SEED}: {'; '.join(told)}")


def test_a_worker_that_sleeps_in_the_middle_of_a_mail_wakes_to_send_it_at_most_once(tmp_path: Path) -> None:
    def play(stage: str) -> None:
        with (
            MailServer({(stage, ONE): [HOLD]}) as server,
            scene(tmp_path / stage, people=12, last=3, server=server, mail_timeout=100, send_timeout=110) as town,
        ):
            sleeper = town.worker()
            server.waits_for(stage, ONE)
            overtaken(town, sleeper)
            found = town.judged()
            assert found.mails[ONE] == "unknown"  # which is what one could know when the lease had ended
            assert found.takers.count(ONE) == 1  # by the sleeper, which sent it when it woke, or had sent it before
            assert server.reached.count((stage, ONE)) == 1

    side_by_side(play, ["RCPT", "DATA"])


def test_a_worker_that_sleeps_while_it_makes_a_brief_wakes_and_saves_nothing(tmp_path: Path) -> None:
    def play(mailer: str) -> None:
        with ExitStack() as stack:
            server = stack.enter_context(MailServer()) if mailer == "smtp" else None
            town = stack.enter_context(scene(tmp_path / mailer, people=12, last=3, server=server))
            town.hold(ONE)
            sleeper = town.worker()
            sleeper.reaches(f"generate {ONE}", 2)  # both sections
            overtaken(town, sleeper)
            assert town.judged().mails[ONE] == "completed"
            assert "send " + ONE not in sleeper.marks

    side_by_side(play, ["eml", "smtp"])


def test_a_worker_that_sleeps_inside_a_transaction_blocks_the_others_only_until_it_wakes(tmp_path: Path) -> None:
    def play(mailer: str) -> None:
        with ExitStack() as stack:
            server = stack.enter_context(MailServer()) if mailer == "smtp" else None
            town = stack.enter_context(scene(tmp_path / mailer, people=24, last=4, server=server, busy=0.5))
            sleeper, other = town.worker(), town.worker()
            other.passes(100)
            sleeper.passes(100)
            sleeper.order("stop inside")
            sleeper.is_stopped()
            awake = len(other.marks)
            other.reaches("turn failed", 2, since=awake)
            assert "another connection has kept the file locked for 0.5 s" in other.problems
            sleeper.signals(signal.SIGCONT)
            town.settles()
            sleeper.terminated()
            other.terminated()
            town.finish()
            town.judged()

    side_by_side(play, ["eml", "smtp"])
