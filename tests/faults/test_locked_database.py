"""Another program locks the database for a minute, which is longer than anybody waits, in the middle of everything.

Nothing can be planned, claimed or saved; heartbeats cannot be written, so all leases run out, while sections are being
made and mails are in the hands of the server. Afterwards two workers find themselves holding the same things.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_harness import GUARD, needs_posix, scene, side_by_side

from figures import Tell
from mail_server import HOLD, MailServer

MADE, ASKED, GIVEN = "u004", "u005", "u006"
pytestmark = [pytest.mark.slow, needs_posix]

_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute(f"BEGIN {sys.argv[2]}")
print("locked", flush=True)
time.sleep(60)
connection.execute("ROLLBACK")
print("open", flush=True)
"""


def test_a_database_that_is_locked_for_a_minute_delays_everything_and_loses_nothing(tmp_path: Path, tell: Tell) -> None:
    def play(mailer: str) -> str:
        with ExitStack() as stack:
            held = {("RCPT", ASKED): [HOLD], ("DATA", GIVEN): [HOLD]}
            server = stack.enter_context(MailServer(held)) if mailer == "smtp" else None
            town = stack.enter_context(
                scene(
                    tmp_path / mailer,
                    people=40,
                    last=60,
                    together=(MADE, ASKED, GIVEN),
                    server=server,
                    mail_timeout=100,
                    send_timeout=110,
                )
            )
            town.hold(MADE)
            workers = [town.worker(), town.worker()]
            for worker in workers:
                worker.passes(100)  # Both have opened the database; one that cannot ends and says so.
            workers[0].comes_to(lambda: any(f"generate {MADE}" in each.marks for each in workers), "a brief")
            if server is not None:
                server.waits_for("RCPT", ASKED)
                server.waits_for("DATA", GIVEN)
            kind = "EXCLUSIVE" if server is None else "IMMEDIATE"
            locker = subprocess.Popen(
                [sys.executable, "-c", _LOCK, town.settings.database, kind], stdout=subprocess.PIPE, text=True
            )
            stack.callback(locker.communicate)
            stack.callback(locker.kill)
            assert locker.stdout is not None
            assert locker.stdout.readline() == "locked\n"
            town.let_go(MADE)
            if server is not None:
                server.let_go()
            planned = town.rows("SELECT count(*) FROM jobs WHERE type = 'daily_brief'")
            for worker in workers:
                worker.complains("kept the file locked for 30 s")
                worker.complains("a heartbeat failed|the next turn tries again")
            assert town.rows("SELECT count(*) FROM jobs WHERE type = 'daily_brief'") == planned
            assert locker.stdout.readline() == "open\n"
            assert locker.wait(GUARD) == 0
            town.settles()
            for worker in workers:
                worker.terminated()
            town.finish_and_idle()
            found = town.judged()
            assert planned[0][0] < 40
            if server is None:
                assert found.counts == {"completed": 40}
            else:
                # Both were handed over while nobody could write down what became of them.
                assert {found.mails[ASKED], found.mails[GIVEN]} == {"unknown"}
                assert {ASKED, GIVEN} <= set(found.takers)
            return f"{mailer}: {planned[0][0]} planned before, 40 briefs, {dict(found.counts)}"

    told = side_by_side(play, ["eml", "smtp"])
    tell(f"locked for a minute: {'; '.join(told)}")
