"""What a service manager does to a worker: SIGTERM, SIGINT, and once more when it takes too long."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fault_harness import MAILS, needs_posix, scene, side_by_side

from mail_server import HOLD, STALL, MailServer

LONG = 3600.0
"""A lease that nobody waits for: what the next worker gets before it ends was given back."""
BOTH = [signal.SIGTERM, signal.SIGINT]
ONE = "u003"
pytestmark = [pytest.mark.slow, needs_posix]


def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_gives_the_rest_back_at_once(tmp_path: Path) -> None:
    def play(number: signal.Signals) -> None:
        # Two at a time, and everybody due at once: most are claimed or waiting, and never begun.
        with scene(tmp_path / number.name, people=12, last=1, lease=LONG, concurrency=2) as town:
            town.hold()
            worker = town.worker()
            worker.comes_to(lambda: len({line for line in worker.marks if "generate" in line}) == 2, "two briefs")
            begun = {line.split()[1] for line in worker.marks if "generate" in line}
            worker.signals(number)
            worker.complains("nothing more is begun")
            town.let_go()
            assert worker.ends() == 0
            assert {line.split()[1] for line in worker.marks if "generate" in line} == begun
            saved = town.rows("SELECT user_id FROM briefs")
            assert {user for (user,) in saved} == begun
            assert town.rows("SELECT count(*) FROM jobs WHERE status = 'processing'") == [(0,)]
            town.finish()
            assert town.judged().counts == {"completed": 12}

    side_by_side(play, BOTH)


def test_what_does_not_finish_within_the_grace_is_given_back_and_the_next_worker_need_not_wait(tmp_path: Path) -> None:
    def play(number: signal.Signals) -> None:
        with scene(tmp_path / number.name, people=8, last=1, lease=LONG, grace=0.2) as town:
            town.hold(ONE)
            worker = town.worker()
            worker.reaches(f"generate {ONE}", 2)
            town.until(f"SELECT count(*) FROM jobs WHERE type = '{MAILS}' AND status = 'completed'", 7)
            worker.signals(number)
            assert worker.ends() == 0
            assert town.rows(f"SELECT status, attempts FROM jobs WHERE user_id = '{ONE}'") == [("pending", 0)]
            town.let_go(ONE)
            town.finish()
            assert town.judged().counts == {"completed": 8}

    side_by_side(play, BOTH)


def test_a_second_signal_ends_it_at_once_and_what_it_held_comes_with_the_end_of_its_lease(tmp_path: Path) -> None:
    def play(number: signal.Signals) -> None:
        with scene(tmp_path / number.name, people=8, last=1, grace=LONG) as town:
            town.hold()
            worker = town.worker()
            worker.comes_to(lambda: any("generate" in line for line in worker.marks), "a brief")
            worker.signals(number)
            worker.complains("once more ends it at once")
            worker.signals(number)
            assert worker.ends() == 128 + number
            town.let_go()
            town.finish()
            assert town.judged().counts == {"completed": 8}

    side_by_side(play, BOTH)


def test_a_mail_in_the_hands_of_the_server_is_waited_for_and_if_it_does_not_answer_is_unknown(tmp_path: Path) -> None:
    def play(answers: str) -> None:
        answers_at_last = answers == "answers"
        with ExitStack() as stack:
            server = stack.enter_context(MailServer({("DATA", ONE): [HOLD if answers_at_last else STALL]}))
            given: dict[str, Any] = {"grace": LONG} if answers_at_last else {"grace": 0.2, "mail_timeout": 3.0}
            town = stack.enter_context(scene(tmp_path / answers, people=8, last=1, server=server, **given))
            worker = town.worker()
            server.waits_for("DATA", ONE)
            worker.signals(signal.SIGTERM)
            worker.complains("nothing more is begun")
            server.let_go()
            assert worker.ends() == 0, worker.problems
            town.finish()
            found = town.judged()
            assert found.mails[ONE] == ("completed" if answers_at_last else "unknown")
            assert found.takers.count(ONE) == answers_at_last

    side_by_side(play, ["answers", "stalls"])
