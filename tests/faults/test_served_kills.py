"""Workers that serve are killed at moments a seed has drawn, again and again, and started anew each time.

The process goes on while the signal is on its way, so where exactly it dies is anybody's guess; what is left must be
right wherever that is.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_harness import needs_posix, scene, side_by_side

from figures import Tell
from mail_server import HOLD, MailServer

SEED = 20260309
KILLS = 8
HELD = "u020"
pytestmark = [pytest.mark.slow, needs_posix]


def test_a_worker_that_is_killed_again_and_again_leaves_each_brief_once_and_no_mail_twice(
    tmp_path: Path, tell: Tell
) -> None:
    def play(mailer: str) -> str:
        rng = random.Random(f"{SEED} {mailer}")
        with ExitStack() as stack:
            server = stack.enter_context(MailServer({("DATA", HELD): [HOLD]})) if mailer == "smtp" else None
            town = stack.enter_context(scene(tmp_path / mailer, people=48, last=10, server=server))
            for number in range(KILLS):
                worker = town.worker()
                if server is not None and number == KILLS // 2:
                    server.waits_for("DATA", HELD)
                # Half of them early, while it opens and claims what the one before had in its hands.
                worker.passes(rng.choice([rng.randint(1, 60), rng.randint(60, 900)]))
                worker.killed()
            town.finish_and_idle()
            found = town.judged()
            if server is None:
                assert found.counts == {"completed": 48}
            else:
                assert found.mails[HELD] == "unknown"
            return f"{mailer}: {KILLS} kills, 48 briefs, {dict(found.counts)}"

    told = side_by_side(play, ["eml", "smtp"])
    tell(f"killed under serve, seed {SEED}: {'; '.join(told)}")
