"""What a person sees and does by hand: status, retry, cancel, regenerate, pause and the others, on a real database."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from command_line import command, environment, in_process, labelled, mails, slots, write_app
from fanout_briefs.cli.show_status import next_steps
from fanout_briefs.cli.show_status import status as show_status
from fanout_briefs.model import JobStatus, Overview, SkipReason
from fanout_briefs.operate import Status

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)

Invoke = Callable[..., Result]

# Everybody lives where it is noon while the tests run, so their brief of midnight is due, and it stays the same date.
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
HOST = """
def daily(**changes):
    return make(**{"look_back": timedelta(hours=24), "max_lateness": timedelta(hours=25), **changes})


class Gone:
    idempotent = False

    async def send(self, mail, key):
        raise OSError("the line was cut")


class Unreadable:
    async def last_visits(self, user_ids):
        raise OSError("the log of visits is away")


del PEOPLE[2:]
PEOPLE[:] = [Preference(user_id=row.user_id, time_of_day="00:00", timezone=ZONE) for row in PEOPLE]
FIXED = HERE / "fixed"
briefs = daily()
unsure = daily(mailer=Gone())
silent = daily(mailer=None)
unseen = daily(engagement=Unreadable())
if not FIXED.exists():
    FAILING["bo"] = PermanentFailure("the account is closed")
"""
DAILY = f"ZONE = {ZONE!r}\n{HOST}"


@pytest.fixture
def inside(tmp_path: Path) -> Invoke:
    write_app(tmp_path, DAILY)
    return partial(in_process, tmp_path)


def counts(shown: str) -> dict[str, list[int]]:
    """The rows of a status: briefs and mails."""
    rows = (line[:22].strip() and (line[:22].strip(), line[22:40].split()) for line in shown.splitlines())
    return {
        row[0]: [int(count) for count in row[1]] for row in rows if row and all(map(str.isdigit, row[1])) and row[1]
    }


def document(ran: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def alter(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "briefs.db")) as database, database:
        database.execute(statement)


def abandoned(folder: Path) -> None:
    """As though a worker had died with every slot in its hands."""
    alter(folder, "UPDATE jobs SET status = 'processing', token = token + 1, attempts = 1, lease_until = 1")


# status --------------------------------------------------------------------------------------------------


class TestStatus:
    def test_before_the_first_plan_it_says_what_to_run(self, inside: Invoke) -> None:
        told = inside("status", "myapp:briefs")
        assert (told.exit_code, told.stderr) == (1, "")
        assert labelled(told.stdout)["Planned"] == "never"
        assert labelled(told.stdout)["Next"] == (
            "plan and run, every few minutes: fanout-briefs run myapp:briefs --every 5m"
        )

    def test_when_all_is_well_it_fits_a_screen_and_says_so(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        assert inside("run", "myapp:briefs").exit_code == 0
        told = inside("status", "myapp:briefs")
        assert told.exit_code == 0
        lines = told.stdout.splitlines()
        assert lines[0].startswith("daily_brief as of ")
        assert lines[0].endswith(": all is well")
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80
        assert counts(told.stdout)["completed"] == [2, 2]
        assert counts(told.stdout)["overdue"] == [0, 0]
        assert " ago, at 20" in labelled(told.stdout)["Planned"]

    def test_a_screen_is_enough_with_every_reason_there_is(self) -> None:
        reasons = {code: 1_000_000 + place for place, code in enumerate(SkipReason)}
        ended: dict[JobStatus, int] = dict.fromkeys(
            (JobStatus.COMPLETED, JobStatus.SKIPPED, JobStatus.CANCELLED), 9_999_999
        )
        slots = Overview(planned_at=NOW, mark=NOW, running=5, soon=9_999_999, ended=ended, codes=reasons)
        found = Status(
            name="daily_brief",
            now=NOW,
            since=NOW - timedelta(days=1),
            briefs=slots,
            mails=slots,
            horizon=timedelta(hours=1),
        )
        shown = StringIO()
        show_status(Console(file=shown, soft_wrap=True), found, next_steps(found, "myapp:briefs"))
        lines = shown.getvalue().splitlines()
        assert lines[-1].startswith("  other reasons")
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80

    def test_failures_are_told_by_error_with_what_to_do_and_status_1(self, inside: Invoke) -> None:
        assert inside("run", "myapp:briefs").exit_code == 1
        told = inside("status", "myapp:briefs")
        assert told.exit_code == 1
        assert told.stdout.splitlines()[0].endswith(": something needs a person's eye")
        assert counts(told.stdout)["failed"] == [1, 0]
        assert labelled(told.stdout)["Failed"].startswith("1 brief, the latest due 20")
        assert "the account is closed" in labelled(told.stdout)["Failed"]
        assert labelled(told.stdout)["Next"] == "mend what failed, then: fanout-briefs retry myapp:briefs --failed"
        wider = inside("status", "myapp:briefs", "--since", "48h")
        assert labelled(wider.stdout)["Next"].endswith("--failed --since 2d")

    def test_unknown_mails_are_told_with_what_that_means(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        assert inside("run", "myapp:unsure").exit_code == 1
        told = inside("status", "myapp:unsure")
        assert told.exit_code == 1
        assert counts(told.stdout)["unknown"] == [0, 2]
        assert labelled(told.stdout)["Unknown"].startswith("2 mails, the latest due ")
        assert "the line was cut" in labelled(told.stdout)["Unknown"]
        assert "may have been delivered" in told.stdout
        assert "fanout-briefs retry myapp:unsure --unknown\n" in told.stdout

    def test_what_dead_workers_left_is_status_1_until_it_is_put_right(self, tmp_path: Path, inside: Invoke) -> None:
        inside("plan", "myapp:briefs")
        abandoned(tmp_path)
        told = inside("status", "myapp:briefs")
        assert told.exit_code == 1
        assert counts(told.stdout)["left by dead workers"] == [2, 0]
        assert "fanout-briefs reconcile myapp:briefs" in labelled(told.stdout)["Next"]
        right = inside("reconcile", "myapp:briefs")
        assert (right.exit_code, labelled(right.stdout)["Done"]) == (0, "of what dead workers left, 2 put back")
        found = json.loads(inside("status", "myapp:briefs", "--json").stdout)
        assert "abandoned" not in found["concerns"]
        again = inside("reconcile", "myapp:briefs")
        assert (again.exit_code, labelled(again.stdout)["Nothing"]) == (0, "no dead worker has left anything")

    def test_work_that_nobody_does_is_told_with_its_age(self, inside: Invoke) -> None:
        inside("plan", "myapp:briefs")
        told = inside("status", "myapp:briefs", "--as-of", "2100-01-01T00:00Z")
        assert told.exit_code == 1
        assert counts(told.stdout)["overdue"] == [2, 0]
        assert "   the oldest waits for " in told.stdout
        assert "Next      work waits and nothing runs it: fanout-briefs worker myapp:briefs\n" in told.stdout
        assert "Next      plan at least every 1 h: fanout-briefs run myapp:briefs --every 5m\n" in told.stdout

    def test_a_plan_that_could_not_decide_everything_says_up_to_where_it_is_complete(self, inside: Invoke) -> None:
        inside("plan", "myapp:unseen")
        told = inside("status", "myapp:unseen")
        assert "; complete up to 20" in labelled(told.stdout)["Planned"]
        assert "fanout-briefs plan myapp:unseen --dry-run" in told.stdout

    def test_errors_cannot_act_on_the_terminal_nor_fill_it(self, tmp_path: Path) -> None:
        evil = """
for name in ("ana", "bo"):
    FAILING[name] = PermanentFailure("\\x1b[2J[red]x[/red]\\nNext      rm -rf /\\r" + name + "long " * 500)
"""
        write_app(tmp_path, DAILY + evil)
        in_process(tmp_path, "run", "myapp:silent")
        told = in_process(tmp_path, "status", "myapp:silent")
        assert "\x1b" not in told.stdout
        assert "\r" not in told.stdout
        assert "[red]x[/red]" in told.stdout
        assert [line for line in told.stdout.splitlines() if "rm -rf" in line and not line.startswith("Failed")] == []
        assert len(told.stdout) < 3000

    def test_many_errors_are_cut_to_the_most_frequent(self, tmp_path: Path) -> None:
        many = """
PEOPLE[:] = [Preference(user_id=f"u{number}", time_of_day="00:00", timezone=ZONE) for number in range(9)]
FAILING.update({row.user_id: PermanentFailure(f"error {row.user_id}") for row in PEOPLE})
"""
        write_app(tmp_path, DAILY + many)
        in_process(tmp_path, "run", "myapp:briefs")
        told = in_process(tmp_path, "status", "myapp:briefs")
        assert told.stdout.count("\nFailed ") == 5
        assert "          and 4 other errors, which --json tells\n" in told.stdout

    def test_json_tells_all(self, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        found = json.loads(inside("status", "myapp:briefs", "--json").stdout)
        assert found["ok"] is found["status"]["ok"] is False
        assert found["status"]["briefs"]["ended"] == {"completed": 1, "failed": 1}
        assert found["status"]["briefs"]["troubles"][0]["status"] == "failed"
        assert found["concerns"] == ["failed"]
        assert found["next"] == ["mend what failed, then: fanout-briefs retry myapp:briefs --failed"]
        assert json.loads(inside("status", "myapp:silent", "--json").stdout)["status"]["mails"] is None

    def test_without_a_mailer_there_is_one_column(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        inside("run", "myapp:silent")
        assert counts(inside("status", "myapp:silent").stdout)["completed"] == [2]


# retry ---------------------------------------------------------------------------------------------------


class TestRetry:
    def test_one_users_failed_brief_is_made_by_the_next_run(self, tmp_path: Path, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        (tmp_path / "fixed").touch()
        told = inside("retry", "myapp:briefs", "bo")
        assert (told.exit_code, told.stderr) == (0, "")
        assert labelled(told.stdout)["Done"].startswith("the brief of bo for 20")
        assert labelled(told.stdout)["Done"].endswith(", which was failed, is queued again")
        assert labelled(told.stdout)["Next"].endswith("fanout-briefs run myapp:briefs")
        assert inside("run", "myapp:briefs").exit_code == 0
        assert len(mails(tmp_path)) == 2

    def test_an_unknown_mail_comes_with_a_warning(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        inside("run", "myapp:unsure")
        told = inside("retry", "myapp:unsure", "ana")
        assert labelled(told.stdout)["Done"].startswith("the mail of ana for ")
        assert labelled(told.stderr)["Warning"].startswith("that mail may have been delivered already")
        everybody = inside("retry", "myapp:unsure", "--unknown")
        assert labelled(everybody.stdout)["Done"] == "1 slot is queued again: 1 unknown"
        assert "may have been delivered already" in labelled(everybody.stderr)["Warning"]

    def test_all_that_failed_are_queued_again_and_the_second_time_there_is_nothing(self, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        told = inside("retry", "myapp:briefs", "--failed", "--unknown")
        assert (told.exit_code, told.stderr) == (0, "")
        assert labelled(told.stdout)["Done"] == "1 slot is queued again: 1 failed"
        again = inside("retry", "myapp:briefs", "--failed", "--since", "36h")
        assert again.exit_code == 0
        assert labelled(again.stdout)["Nothing"] == "nothing is failed of what was to be delivered in the last 36h"
        assert document(inside("retry", "myapp:briefs", "--failed", "--unknown", "--json")) == {
            "retried": 0,
            "failed": 0,
            "unknown": 0,
        }

    def test_what_is_done_cannot_be_retried_and_explain_is_pointed_to(self, tmp_path: Path, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        told = inside("retry", "myapp:briefs", "ana", "--json")
        assert told.exit_code == 1
        assert document(told) == {"retried": 0}
        assert " is completed; fanout-briefs explain myapp:briefs --on 20" in labelled(told.stderr)["Error"]
        never = inside("retry", "myapp:briefs", "it's me", "--on", "2020-01-01")
        assert "fanout-briefs explain myapp:briefs --on 2020-01-01 'it'\"'\"'s me'" in labelled(never.stderr)["Error"]

    @pytest.mark.parametrize(
        ("arguments", "advice"),
        [
            ((), "say what to try again: a USER, --failed, --unknown"),
            (("ana", "--failed"), "--failed and --unknown are for everybody"),
            (("ana", "--unknown"), "--failed and --unknown are for everybody"),
            (("ana", "--since", "2d"), "--since is for --failed and --unknown"),
            (("--failed", "--on", "2026-11-23"), "--on is for one USER"),
            (("",), "'': must not be empty"),
            (("a\x1bb",), r"'a\x1bb': must hold no control characters"),
        ],
    )
    def test_what_is_unclear_is_refused(self, inside: Invoke, arguments: tuple[str, ...], advice: str) -> None:
        refused = inside("retry", "myapp:briefs", *arguments)
        assert refused.exit_code == 2
        assert advice in refused.stderr
        assert "\x1b" not in refused.stderr


# one user's ----------------------------------------------------------------------------------------------


class TestOneUser:
    def test_a_withdrawn_brief_is_not_made_until_it_is_retried(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        inside("plan", "myapp:briefs")
        told = inside("cancel", "myapp:briefs", "ana")
        assert told.exit_code == 0
        assert labelled(told.stdout)["Done"].endswith(" is withdrawn")
        inside("run", "myapp:briefs")
        assert slots(tmp_path, "user_id", "status") == [("ana", "cancelled"), ("bo", "completed")]
        undo = labelled(told.stdout)["Next"].removeprefix("to undo that: fanout-briefs ")
        assert inside(*undo.split()).exit_code == 0
        inside("run", "myapp:briefs")
        assert slots(tmp_path, "user_id", "status") == [("ana", "completed"), ("bo", "completed")]

    def test_what_is_done_cannot_be_withdrawn(self, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        told = inside("cancel", "myapp:briefs", "ana", "--json")
        assert (told.exit_code, document(told)) == (1, {"cancelled": False})
        assert "there is nothing to withdraw: ana on 20" in labelled(told.stderr)["Error"]

    def test_a_brief_made_again_is_mailed_again_only_if_that_is_asked_for(self, tmp_path: Path, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        quiet = inside("regenerate", "myapp:briefs", "ana")
        assert labelled(quiet.stdout)["Done"].endswith("made again, and not mailed again if it was mailed")
        inside("run", "myapp:briefs")
        assert len(mails(tmp_path)) == 1
        loud = inside("regenerate", "myapp:briefs", "ana", "--resend", "--json")
        assert document(loud) == {"regenerated": True}
        inside("run", "myapp:briefs")
        assert len(mails(tmp_path)) == 2
        failed = inside("regenerate", "myapp:briefs", "bo")
        assert failed.exit_code == 1
        assert "there is no finished brief to make again: bo on 20" in labelled(failed.stderr)["Error"]

    def test_a_brief_is_made_at_once_printed_and_mailed_by_the_next_run(self, tmp_path: Path, inside: Invoke) -> None:
        told = inside("generate-now", "myapp:briefs", "ana")
        assert told.exit_code == 0
        assert told.stdout.startswith("Daily brief for ")
        assert "Apollo is well." in told.stdout
        assert labelled(told.stderr)["Mail"].startswith("is queued; ")
        assert mails(tmp_path) == []
        inside("run", "myapp:briefs")
        assert len([name for name in mails(tmp_path) if ":ana:" in name]) == 1
        again = inside("generate-now", "myapp:briefs", "ana", "--json")
        assert json.loads(again.stdout)["brief"]["user_id"] == "ana"
        assert labelled(again.stderr)["Mail"].startswith("is completed since before")

    def test_a_brief_that_cannot_be_made_now_says_why(self, inside: Invoke) -> None:
        failed = inside("generate-now", "myapp:briefs", "bo")
        assert failed.exit_code == 1
        assert "is failed: every section failed" in labelled(failed.stderr)["Error"]
        nobody = inside("generate-now", "myapp:briefs", "zed")
        assert nobody.exit_code == 2
        inside("pause", "myapp:briefs")
        assert "briefs are paused" in labelled(inside("generate-now", "myapp:briefs", "ana").stderr)["Error"]

    def test_forgetting_takes_a_yes_and_happens_once(self, tmp_path: Path, inside: Invoke) -> None:
        inside("run", "myapp:briefs")
        refused = inside("forget", "myapp:briefs", "ana")
        assert refused.exit_code == 2
        assert labelled(refused.stderr)["Error"].startswith("nobody can be asked, since this is no terminal: say --yes")
        told = inside("forget", "myapp:briefs", "ana", "--yes")
        assert told.exit_code == 0
        assert labelled(told.stdout)["Done"].endswith(" rows about ana were erased")
        assert [user for (user,) in slots(tmp_path, "user_id")] == ["bo"]
        again = inside("forget", "myapp:briefs", "ana", "--yes", "--json")
        assert (again.exit_code, document(again)) == (1, {"erased": 0})
        assert labelled(again.stderr)["Error"] == "nothing is stored about ana: check the id"

    @pytest.mark.parametrize(("answer", "status", "left"), [("y", 0, ["bo"]), ("n", 1, ["ana", "bo"])])
    def test_a_terminal_is_asked_before_anything_is_forgotten(
        self, tmp_path: Path, inside: Invoke, answer: str, status: int, left: list[str]
    ) -> None:
        pty = pytest.importorskip("pty")
        inside("plan", "myapp:briefs")
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            command("forget", "myapp:briefs", "ana"),
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.write(ours, f"{answer}\n".encode())
        _, asked = child.communicate(timeout=60)
        os.close(theirs)
        os.close(ours)
        assert child.returncode == status
        assert b"Erase every slot, brief and mail of 'ana'" in asked
        assert [user for (user,) in slots(tmp_path, "user_id")] == left


# everybody's ---------------------------------------------------------------------------------------------


class TestEverybody:
    def test_a_pause_keeps_everything_until_it_is_resumed(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        inside("plan", "myapp:briefs")
        told = inside("pause", "myapp:briefs")
        assert labelled(told.stdout)["Done"] == "daily_brief is paused; what runs is finished"
        assert labelled(told.stdout)["Next"] == "nothing is begun until: fanout-briefs resume myapp:briefs"
        again = inside("pause", "myapp:briefs")
        assert (again.exit_code, labelled(again.stdout)["Nothing"]) == (0, "daily_brief was paused already")
        inside("run", "myapp:briefs")
        assert mails(tmp_path) == []
        status = inside("status", "myapp:briefs")
        assert status.exit_code == 0
        assert status.stdout.splitlines()[0].endswith(": paused")
        assert "fanout-briefs resume myapp:briefs" in labelled(status.stdout)["Paused"]
        resumed = inside("resume", "myapp:briefs")
        assert labelled(resumed.stdout)["Done"] == "daily_brief goes on"
        inside("run", "myapp:briefs")
        assert len(mails(tmp_path)) == 2
        over = inside("resume", "myapp:briefs")
        assert (over.exit_code, labelled(over.stdout)["Nothing"]) == (0, "daily_brief was not paused")

    def test_what_was_planned_in_a_pause_is_queued_when_it_ends(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        assert document(inside("pause", "myapp:briefs", "--json")) == {"paused": True}
        inside("plan", "myapp:briefs")
        assert {status for (status,) in slots(tmp_path, "status")} == {"skipped"}
        assert document(inside("resume", "myapp:briefs", "--json")) == {"resumed": 2}
        assert {status for (status,) in slots(tmp_path, "status")} == {"pending"}
        assert document(inside("resume", "myapp:briefs", "--json")) == {"resumed": None}

    def test_what_reconciling_cannot_put_back_is_status_1(self, tmp_path: Path, inside: Invoke) -> None:
        (tmp_path / "fixed").touch()
        inside("run", "myapp:unsure")
        alter(
            tmp_path,
            "UPDATE jobs SET status = 'processing', token = token + 1, attempts = 1, lease_until = 1, "
            """progress = '["sending", 0, 0, 0, false]' WHERE type LIKE '%email%'""",
        )
        told = inside("reconcile", "myapp:unsure")
        assert told.exit_code == 1
        assert labelled(told.stdout)["Done"] == "of what dead workers left, 2 unknown"
        assert labelled(told.stdout)["Next"] == "fanout-briefs status myapp:unsure"

    def test_old_slots_are_erased_but_not_what_a_plan_could_make_again(self, tmp_path: Path, inside: Invoke) -> None:
        inside("run", "myapp:briefs", "--as-of", "2020-01-01T12:00Z")
        inside("run", "myapp:briefs", "--as-of", "2020-01-02T12:00Z")
        before = len(slots(tmp_path, "user_id"))
        refused = inside("prune", "myapp:briefs", "--older-than", "1d")
        assert refused.exit_code == 2
        assert "or slots could be planned again" in refused.stderr
        assert inside("prune", "myapp:briefs").exit_code == 2
        told = inside("prune", "myapp:briefs", "--older-than", "400d")
        assert told.exit_code == 0
        assert labelled(told.stdout)["Done"].endswith("older than 400d were erased")
        assert 0 < len(slots(tmp_path, "user_id")) < before
        again = inside("prune", "myapp:briefs", "--older-than", "400d")
        assert labelled(again.stdout)["Nothing"] == "nothing that may be erased is older than 400d"
        assert document(inside("prune", "myapp:briefs", "--older-than", "400d", "--json")) == {"erased": 0}

    @pytest.mark.parametrize(
        "arguments",
        [
            ("status",),
            ("retry", "--failed"),
            ("cancel", "ana"),
            ("regenerate", "ana"),
            ("generate-now", "ana"),
            ("pause",),
            ("resume",),
            ("reconcile",),
            ("prune", "--older-than", "400d"),
            ("forget", "ana", "--yes"),
        ],
        ids=lambda arguments: str(arguments[0]),
    )
    def test_a_storage_that_cannot_be_opened_is_status_2(
        self, tmp_path: Path, inside: Invoke, arguments: tuple[str, ...]
    ) -> None:
        (tmp_path / "briefs.db").write_bytes(b"this is no database, though it is long enough to be taken for one" * 99)
        name, *more = arguments
        refused = inside(name, "myapp:briefs", *more)
        assert refused.exit_code == 2
        assert "briefs.db" in labelled(refused.stderr)["Error"]
        assert refused.stdout == ""
