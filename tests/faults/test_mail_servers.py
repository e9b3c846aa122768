"""A worker serves while its mail server misbehaves: every brief is saved, and each mail's end says what is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_harness import needs_posix, scene

from figures import Tell
from mail_server import DROP, HOLD, STALL, TAKE_AND_DROP, MailServer

pytestmark = [pytest.mark.slow, needs_posix]
BUSY = "451 4.3.2 try again later"
NOBODY = "550 5.1.1 no such user"


def test_each_way_a_server_misbehaves_ends_as_stated_and_nobody_elses_mail_suffers(tmp_path: Path, tell: Tell) -> None:
    script = {
        ("RCPT", "u001"): [NOBODY],
        ("RCPT", "u003"): [STALL],
        ("DATA", "u005"): [STALL],
        ("RCPT", "u007"): [DROP],
        ("DATA", "u009"): [DROP],
        ("DATA", "u011"): [TAKE_AND_DROP],
        ("RCPT", "u013"): [BUSY, BUSY, BUSY],
        ("DATA", "u015"): [BUSY, BUSY],
        ("DATA", "u017"): ["554 5.7.1 refused"],
        ("DATA", "u021"): ["354 go on"],
    }
    with MailServer(script) as server, scene(tmp_path, people=24, last=4, server=server, mail_timeout=4) as town:
        worker = town.worker()
        town.settles()
        worker.terminated()
        town.finish()
        found = town.judged(failed=["u001", "u017"])
    unknown = {user for user, status in found.mails.items() if status == "unknown"}
    assert unknown == {"u005", "u009", "u011", "u021"}
    assert found.counts == {"completed": 18, "unknown": 4, "failed": 2}
    # What surely had not left was tried again, and what may have left was not.
    tries = {user: [place for place in server.reached if place == (stage, user)] for stage, user in script}
    assert {user: len(times) for user, times in tries.items() if len(times) > 1} == {
        "u003": 2,
        "u007": 2,
        "u013": 4,
        "u015": 3,
    }
    assert {"u011", "u003", "u013", "u015"} <= set(found.takers)
    assert not {"u005", "u009", "u021"} & set(found.takers)
    tell(f"mail server misbehaves: 24 briefs, {dict(found.counts)}, {len(found.takers)} accepted")


def test_a_server_that_defers_everybody_for_a_while_gets_every_mail_once_it_recovers(tmp_path: Path) -> None:
    script = {("RCPT", f"u{number:03}"): [BUSY] * 4 for number in range(16)}
    with MailServer(script) as server, scene(tmp_path, people=16, last=2, server=server) as town:
        worker = town.worker()
        town.settles()
        worker.terminated()
        found = town.judged()
    assert found.counts == {"completed": 16}
    assert sorted(found.takers) == town.users
    assert len(server.reached) == 16 * (4 + 1 + 1)


def test_a_server_that_restarts_in_the_middle_takes_each_mail_at_most_once(tmp_path: Path) -> None:
    held = {("RCPT", "u003"): [HOLD], ("DATA", "u004"): [HOLD]}
    with MailServer(held) as server, scene(tmp_path, people=24, last=4, server=server) as town:
        worker = town.worker()
        server.waits_for("RCPT", "u003")
        server.waits_for("DATA", "u004")
        server.wait_until_taken(3)
        with server.away():
            worker.complains("refuses connections", 5)
        server.let_go()
        town.settles()
        worker.terminated()
        found = town.judged()
    assert found.mails["u004"] == "unknown"
    assert found.mails["u003"] == "completed"
    assert found.counts["completed"] + found.counts["unknown"] == 24
