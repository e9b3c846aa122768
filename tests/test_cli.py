"""The command line, as processes see it: what it prints where, what it answers the shell, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from command_line import (
    AS_OF,
    cli,
    command,
    environment,
    in_process,
    labelled,
    mails,
    read_until,
    rows,
    run,
    slots,
    started,
    told_to_stop,
    told_until,
    write_app,
)
from figures import Tell


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., Result]:
    return partial(in_process, tmp_path)


# run -----------------------------------------------------------------------------------------------------


def test_run_makes_and_mails_what_is_due_and_shows_who_got_what(tmp_path: Path) -> None:
    write_app(tmp_path, 'FAILING["bo", "gemini"] = RuntimeError("no signal")')
    ran = run(tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    told = labelled(ran.stdout)
    assert told["As of"] == "2026-11-23 09:00:00 UTC"
    assert told["Planned"] == "3 people, 2 due: 2 queued"
    assert told["Briefs"] == "2 completed (1 with failed sections)"
    assert told["Mails"] == "2 completed"
    assert rows(ran.stdout) == [
        ["ana", "2026-11-23", "2 sections", "outbox/daily_brief:2026-11-23:ana:1.eml".replace("/", os.sep)],
        [
            "bo",
            "2026-11-23",
            "2 sections, failed: Gemini (RuntimeError: no signal)",
            str(Path("outbox", "daily_brief:2026-11-23:bo:1.eml")),
        ],
    ]
    assert len(mails(tmp_path)) == 2


def test_running_twice_for_the_same_moment_says_already_done_and_sends_nothing(tmp_path: Path) -> None:
    write_app(tmp_path)
    run(tmp_path)
    before = {name: (tmp_path / "outbox" / name).stat().st_mtime_ns for name in mails(tmp_path)}
    again = run(tmp_path)
    assert again.returncode == 0
    told = labelled(again.stdout)
    assert told["Planned"] == "3 people, 2 due: 2 already done"
    assert told["Briefs"] == "nothing to make"
    assert told["Mails"] == "nothing to send"
    assert {name: (tmp_path / "outbox" / name).stat().st_mtime_ns for name in mails(tmp_path)} == before


def test_running_again_later_tells_what_is_done_of_the_last_day(tmp_path: Path) -> None:
    write_app(tmp_path)
    run(tmp_path)
    later = cli(tmp_path, "run", "myapp:briefs", "--as-of", "2026-11-23T09:05:00Z")
    assert labelled(later.stdout)["Planned"] == "3 people, 2 due: 2 already done"
    assert labelled(later.stdout)["Briefs"] == "nothing to make"
    dry = cli(tmp_path, "plan", "myapp:briefs", "--dry-run", "--as-of", "2026-11-23T09:05:00Z")
    assert ["bo", "2026-11-23", "2026-11-23 08:30:00", "already done"] in rows(dry.stdout)


def test_json_is_one_clean_document(tmp_path: Path) -> None:
    write_app(tmp_path, 'FAILING["bo", "gemini"] = RuntimeError("no signal")')
    ran = run(tmp_path, "--json")
    document = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert document["as_of"] == "2026-11-23T09:00:00+00:00"
    assert document["ok"] is True
    assert document["plan"]["enqueued"] == document["plan"]["due"] == 2
    assert document["plan"]["ok"] is True
    assert document["run"]["briefs"] == {"completed": 2}
    assert document["run"]["mails"] == {"completed": 2}
    assert document["run"]["partial"] == 1
    again = json.loads(run(tmp_path, "--json").stdout)
    assert again["plan"]["existing"] == {"completed": 2}
    assert again["run"]["briefs"] == again["run"]["mails"] == {}


def test_as_of_decides_what_is_due(tmp_path: Path) -> None:
    write_app(tmp_path, "briefs = make(look_back=timedelta(0))")
    early = cli(tmp_path, "run", "myapp:briefs", "--as-of", "2026-11-23T03:00:00+01:00")
    assert labelled(early.stdout)["As of"] == "2026-11-23 02:00:00 UTC"
    assert labelled(early.stdout)["Planned"] == ("3 people, nothing due before 2026-11-23 03:15:00 UTC")
    assert early.returncode == 0
    # At 08:50 both are planned since 02:00; bo's time has come, and ana's brief may be made but not mailed.
    later = cli(tmp_path, "run", "myapp:briefs", "--as-of", "2026-11-23T08:50:00Z")
    assert labelled(later.stdout)["Planned"] == "3 people, 2 due: 2 queued"
    assert mails(tmp_path) == ["daily_brief:2026-11-23:bo:1.eml"]


def test_without_as_of_the_moment_is_now_and_is_printed(tmp_path: Path) -> None:
    write_app(tmp_path)
    ran = cli(tmp_path, "run", "myapp:briefs")
    assert ran.returncode == 0
    assert labelled(ran.stdout)["As of"].endswith(" UTC")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("2026-11-23T08:00", "has no offset: write 2026-11-23T08:00:00Z for UTC"),
        ("2026-11-23", "has no offset: write 2026-11-23T00:00:00Z for UTC"),
        ("yesterday", "is no ISO 8601 instant, such as 2026-11-23T08:00+01:00"),
        ("", "is no ISO 8601 instant"),
        ("0001-01-01T00:00+01:00", "must be in the years 1970 to 8999"),
        ("9999-12-31T23:59-01:00", "must be in the years 1970 to 8999"),
    ],
)
def test_a_moment_that_is_none_is_refused_with_what_to_write(
    tmp_path: Path, inside: Callable[..., Result], given: str, advice: str
) -> None:
    write_app(tmp_path)
    for name in ("run", "plan"):
        refused = inside(name, "myapp:briefs", "--as-of", given)
        assert refused.exit_code == 2
        assert refused.stdout == ""
        assert f"'--as-of': {given!r}" in refused.stderr
        assert advice in refused.stderr
    assert not (tmp_path / "briefs.db").exists()


@pytest.mark.parametrize(
    "command", [("run", "1970-01-01T00:00Z"), ("plan", "--dry-run", "8999-12-31T23:59Z")], ids=["first", "last"]
)
def test_the_first_and_the_last_moment_work(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_app(tmp_path)
    name, *options, instant = command
    ran = cli(tmp_path, name, "myapp:briefs", *options, "--as-of", instant)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_moment_far_ahead_is_refused_since_all_before_it_would_count_as_planned(
    tmp_path: Path, inside: Callable[..., Result], command: str
) -> None:
    write_app(tmp_path)
    refused = inside(command, "myapp:briefs", "--as-of", "8000-01-01T00:00Z")
    assert refused.exit_code == 2
    assert "lies in the future" in refused.stderr
    assert not (tmp_path / "briefs.db").exists()


# exit status ---------------------------------------------------------------------------------------------


def test_a_brief_that_fails_for_good_is_told_by_name_and_status_1_the_others_get_theirs(tmp_path: Path) -> None:
    write_app(tmp_path, 'FAILING["bo"] = PermanentFailure("the account is closed")')
    ran = run(tmp_path)
    assert ran.returncode == 1
    assert labelled(ran.stdout)["Briefs"] == "1 completed, 1 failed"
    assert "bo: daily_brief:2026-11-23:bo: every section failed (2)" in labelled(ran.stderr)["Problem"]
    assert "the account is closed" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert mails(tmp_path) == ["daily_brief:2026-11-23:ana:1.eml"]
    again = run(tmp_path)
    assert labelled(again.stdout)["Planned"] == "3 people, 2 due: 1 already done, 1 failed before"
    assert again.returncode == 1


def test_a_brief_that_is_put_off_is_status_1(tmp_path: Path) -> None:
    write_app(tmp_path, 'FAILING["bo"] = RetryLater(60, "the model is overloaded")')
    ran = run(tmp_path, "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["run"]["retrying"] == 1
    assert json.loads(ran.stdout)["ok"] is False
    assert "the model is overloaded" in ran.stderr
    text = run(tmp_path)
    assert labelled(text.stdout)["Planned"] == "3 people, 2 due: 1 already done, 1 already queued"
    later = cli(tmp_path, "run", "myapp:briefs", "--as-of", "2026-11-23T10:00:00Z")
    assert labelled(later.stdout)["Put off"] == "1, to be tried again by a later run"
    assert rows(later.stdout) == [["bo", "2026-11-23", "put off", "-"]]
    assert later.returncode == 1


def test_an_invalid_preference_is_status_1_and_the_others_get_theirs(tmp_path: Path) -> None:
    write_app(tmp_path, 'PEOPLE.append(Preference(user_id="di", timezone="Mars/Base", time_of_day="25:00"))')
    for ran in (run(tmp_path), run(tmp_path)):
        assert ran.returncode == 1
        assert labelled(ran.stdout)["Skipped"] == "1 invalid schedule"
        assert labelled(ran.stderr)["Problem"].startswith("di: ")
        assert "'Mars/Base'" in ran.stderr
        assert "'25:00'" in ran.stderr
    assert len(mails(tmp_path)) == 2


def test_nobody_at_all_is_status_0(tmp_path: Path) -> None:
    write_app(tmp_path, "PEOPLE.clear()")
    ran = run(tmp_path)
    assert ran.returncode == 0
    assert labelled(ran.stdout)["Planned"].startswith("0 people, nothing due before ")


def test_without_a_mailer_briefs_are_made_and_none_is_mailed(tmp_path: Path) -> None:
    write_app(tmp_path, "briefs = make(mailer=None)")
    ran = run(tmp_path)
    assert ran.returncode == 0
    assert rows(ran.stdout)[0] == ["ana", "2026-11-23", "2 sections", "-"]


def test_a_host_whose_preferences_cannot_be_read_is_told_with_its_own_traceback(tmp_path: Path) -> None:
    broken = """
async def page(cursor, limit):
    raise ConnectionError("the users table is away")
users = Users()
users.page = page
briefs = make(preferences=users)
"""
    write_app(tmp_path, broken)
    ran = run(tmp_path)
    assert ran.returncode == 1
    assert "myapp.py" in ran.stderr
    assert labelled(ran.stderr)["Error"] == "stopped by ConnectionError: the users table is away"


def test_many_people_are_counted_and_only_some_are_named(tmp_path: Path) -> None:
    write_app(tmp_path, 'PEOPLE[:] = [Preference(user_id=f"u{n:02}", time_of_day="09:00") for n in range(25)]')
    ran = run(tmp_path)
    assert len(rows(ran.stdout)) == 21
    assert ran.stdout.endswith("and 5 more\n")
    assert len(mails(tmp_path)) == 25


def test_names_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    write_app(
        tmp_path, 'PEOPLE[:] = [Preference(user_id=name) for name in ("a\\x1b[2Jb", "[red]c[/red]", "d\\nuser e")]'
    )
    planned = cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF)
    assert "\x1b" not in planned.stdout + planned.stderr
    assert "[red]c[/red]" in planned.stdout
    assert "a\\x1b[2Jb" in planned.stdout
    assert "d\\nuser e" in planned.stdout
    assert len(rows(planned.stdout)) == 3
    assert planned.returncode == 1


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_terminal_that_cannot_show_a_name_is_no_failure(tmp_path: Path, json_too: Sequence[str]) -> None:
    write_app(tmp_path, 'PEOPLE[:] = [Preference(user_id="Zoë 你", time_of_day="09:00")]\nbriefs = make(mailer=None)')
    ran = cli(tmp_path, "run", "myapp:briefs", "--as-of", AS_OF, *json_too, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ran.returncode == 0, ran.stderr
    assert "Zo\\xeb \\u4f60  2026-11-23  2 sections" in ran.stdout or json_too


# plan ----------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_a_row_for_each_person_and_queues_nothing(tmp_path: Path) -> None:
    write_app(tmp_path, 'PEOPLE += [Preference(user_id="di", is_active=False), Preference(user_id="", timezone="x")]')
    dry = cli(tmp_path, "plan", "myapp:briefs", "--dry-run", "--as-of", AS_OF)
    assert dry.returncode == 1
    assert labelled(dry.stdout)["As of"] == "2026-11-23 09:00:00 UTC"
    assert labelled(dry.stdout)["Planned"] == "5 people, 2 due: 2 would be queued"
    assert "\nuser  date        delivered (UTC)      verdict  why\n" in dry.stdout
    told = {row[0]: row[1:] for row in rows(dry.stdout)}
    assert told["ana"] == ["2026-11-23", "2026-11-23 09:00:00", "due"]
    assert told["bo"] == ["2026-11-23", "2026-11-23 08:30:00", "due"]
    assert told["cy"] == ["2026-11-23", "2026-11-23 18:00:00", "not due", "not yet due"]
    assert told["di"] == ["-", "-", "not due", "switched off"]
    assert "user_id='': must not be empty" in dry.stdout
    with contextlib.closing(sqlite3.connect(tmp_path / "briefs.db")) as database:
        assert database.execute("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM marks)").fetchone() == (0, 0)


def test_a_plan_queues_and_a_second_one_says_so(tmp_path: Path) -> None:
    write_app(tmp_path)
    first = cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF)
    assert labelled(first.stdout)["Planned"] == "3 people, 2 due: 2 queued"
    second = cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF)
    assert labelled(second.stdout)["Planned"] == "3 people, 2 due: 2 already queued"
    assert (first.returncode, second.returncode) == (0, 0)
    assert ["ana", "2026-11-23", "2026-11-23 09:00:00", "already queued"] in rows(second.stdout)
    assert mails(tmp_path) == []


def test_long_reasons_are_not_cut_off_in_a_log(tmp_path: Path) -> None:
    write_app(tmp_path, 'PEOPLE.append(Preference(user_id="di", timezone="Middle/Of/Nowhere" * 8))')
    planned = cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF, COLUMNS="40")
    (line,) = [line for line in planned.stdout.splitlines() if line.startswith("di")]
    assert "Middle/Of/Nowhere" in line
    assert len(line) > 100


def test_the_json_of_a_plan_holds_every_verdict(tmp_path: Path) -> None:
    write_app(tmp_path)
    document = json.loads(cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF, "--dry-run", "--json").stdout)
    assert document["plan"]["dry_run"] is True
    verdicts = {verdict["user_id"]: verdict for verdict in document["verdicts"]}
    assert verdicts["ana"]["occurrence"] == {"local_date": "2026-11-23", "deliver_at": "2026-11-23T09:00:00+00:00"}
    assert (verdicts["ana"]["status"], verdicts["ana"]["is_new"]) == ("pending", True)
    assert verdicts["cy"]["code"] == "not_yet_due"


# explain, preview ----------------------------------------------------------------------------------------


def test_explain_tells_each_stage_of_what_became_of_a_brief(tmp_path: Path) -> None:
    write_app(tmp_path)
    run(tmp_path)
    told = cli(tmp_path, "explain", "myapp:briefs", "ana", "--on", "2026-11-23")
    assert told.returncode == 0
    assert told.stdout.startswith("ana on 2026-11-23: completed\n  preference  daily at 09:00:00 in UTC\n  slot ")
    assert "daily_brief:2026-11-23:ana:1.eml" in told.stdout
    found = json.loads(cli(tmp_path, "explain", "myapp:briefs", "ana", "--on", "2026-11-23", "--json").stdout)
    assert found["explanation"]["code"] == "completed"
    assert found["explanation"]["job"]["status"] == "completed"
    assert [stage["name"] for stage in found["explanation"]["stages"]] == ["preference", "slot", "mail"]


def test_explain_answers_for_today_and_for_strangers(tmp_path: Path) -> None:
    write_app(tmp_path)
    assert "cy on 2026-11-23: not yet due" in cli(tmp_path, "explain", "myapp:briefs", "cy", "--as-of", AS_OF).stdout
    stranger = cli(tmp_path, "explain", "myapp:briefs", "zed")
    assert stranger.returncode == 0
    assert ": no preference\n" in stranger.stdout
    refused = cli(tmp_path, "explain", "myapp:briefs", "cy", "--on", "tomorrow")
    assert refused.returncode == 2
    assert "'tomorrow' is no date, such as 2026-11-23" in refused.stderr


def test_preview_prints_the_next_brief_and_leaves_nothing(tmp_path: Path) -> None:
    write_app(tmp_path, 'FAILING["ana", "gemini"] = RuntimeError("no signal")')
    shown = cli(tmp_path, "preview", "myapp:briefs", "ana", "--as-of", AS_OF, "--html", "ana.html")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Daily brief for Tuesday, 24 November 2026\n")
    assert "Apollo is well." in shown.stdout
    assert labelled(shown.stderr)["Problem"] == "sections that could not be made: Gemini (RuntimeError: no signal)"
    assert "<!doctype html>" in (tmp_path / "ana.html").read_text(encoding="utf-8")
    assert mails(tmp_path) == []
    assert json.loads(cli(tmp_path, "preview", "myapp:briefs", "ana", "--json").stdout)["brief"]["user_id"] == "ana"
    with contextlib.closing(sqlite3.connect(tmp_path / "briefs.db")) as database:
        assert database.execute("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM briefs)").fetchone() == (
            0,
            0,
        )


def test_preview_of_nothing_of_nobody_and_of_a_failure(tmp_path: Path) -> None:
    silent = """
class Silent(Host):
    async def of(self, user_id, window):
        return []
briefs = make(projects=Silent())
noisy = make()
FAILING["bo"] = RuntimeError("no signal")
"""
    write_app(tmp_path, silent)
    nothing = cli(tmp_path, "preview", "myapp:briefs", "ana", "--html", "ana.html")
    assert nothing.stdout == "There is nothing to say: no projects, or nothing new in any.\n"
    assert not (tmp_path / "ana.html").exists()
    assert json.loads(cli(tmp_path, "preview", "myapp:briefs", "ana", "--json").stdout) == {"brief": None}
    nobody = cli(tmp_path, "preview", "myapp:briefs", "zed")
    assert nobody.returncode == 2
    assert "no preference is known for user 'zed'" in nobody.stderr
    failed = cli(tmp_path, "preview", "myapp:noisy", "bo")
    assert failed.returncode == 1
    assert labelled(failed.stderr)["Error"] == "every section failed (2): RuntimeError: no signal"
    unwritable = cli(tmp_path, "preview", "myapp:noisy", "ana", "--html", "nowhere/ana.html")
    assert unwritable.returncode == 2
    assert "nowhere/ana.html: No such file or directory; name a file that you may write to" in unwritable.stderr


# naming an application -----------------------------------------------------------------------------------


def test_an_application_may_be_a_factory_and_an_attribute_of_an_attribute(tmp_path: Path) -> None:
    write_app(tmp_path, "class Settings:\n    briefs = make()\n")
    assert run(tmp_path, application="myapp:make").returncode == 0
    assert labelled(run(tmp_path, application="myapp:Settings.briefs").stdout)["Planned"].endswith("2 already done")
    package = tmp_path / "pack" / "inner"
    package.mkdir(parents=True)
    write_app(package, name="myapp")
    assert run(tmp_path, application="pack.inner.myapp:briefs").returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("myapp", "'myapp' names no application: write module:attribute, such as myapp:briefs"),
        (":briefs", "':briefs' names no application: write module:attribute"),
        ("myapp:", "'myapp:' names no application: write module:attribute"),
        ("my app:briefs", "names no application: write module:attribute"),
        ("myapp:briefs:x", "names no application: write module:attribute"),
        (".myapp:briefs", "names no application: write module:attribute"),
        ("myapp.py:briefs", "'myapp.py' is a file, and its module is 'myapp'"),
        ("nothere:briefs", "there is no module 'nothere' in "),
        ("myapp.inner:briefs", "there is no module 'myapp.inner' in "),
        ("myapp:nothere", "module 'myapp' has no attribute 'nothere'; it has briefs"),
        ("myapp:briefs.x.y", "module 'myapp' has no attribute 'briefs.x.y'"),
        ("myapp:HERE", "'myapp:HERE' is a "),
        ("myapp:Users", "'myapp:Users' returns a Users: give the name of a Briefs, or of a function that returns one"),
        ("myapp:later", "'myapp:later' returns a coroutine"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_is_missing(
    tmp_path: Path, inside: Callable[..., Result], name: str, message: str
) -> None:
    write_app(tmp_path, "async def later():\n    return briefs\n")
    refused = inside("run", name, "--as-of", AS_OF)
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert message in labelled(refused.stderr)["Error"]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def deep():\n    return 1 / 0\ndeep()", "importing 'broken' failed: ZeroDivisionError: division by zero"),
        ("import brokenx", "importing 'broken' failed: ModuleNotFoundError: No module named 'brokenx'"),
        # Its name is how the application's begins, which must not be taken for the application itself.
        ("import bro", "importing 'broken' failed: ModuleNotFoundError: No module named 'bro'"),
        ("def f(:", "importing 'broken' failed: SyntaxError"),
        ("raise SystemExit(0)", "importing 'broken' failed: SystemExit: 0"),
        ("def briefs():\n    raise KeyError('TOKEN')", "calling 'broken:briefs' failed: KeyError: 'TOKEN'"),
        ("def briefs(settings):\n    pass", "calling 'broken:briefs' failed: TypeError: "),
    ],
)
def test_an_application_that_fails_is_named_with_its_own_traceback(
    tmp_path: Path, inside: Callable[..., Result], source: str, message: str
) -> None:
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    refused = inside("run", "broken:briefs")
    assert refused.exit_code == 2
    assert message in labelled(refused.stderr)["Error"]
    frames = [line for line in refused.stderr.splitlines() if line.lstrip().startswith("File ")]
    assert all("broken.py" in frame for frame in frames), refused.stderr
    assert "typer" not in refused.stderr


# terminals, logs, pipes, Ctrl-C --------------------------------------------------------------------------


def on_a_terminal(folder: Path, *arguments: str) -> str:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(TERM="xterm"), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says EIO when the last writer is gone.
        while got := os.read(ours, 65536):
            shown += got
    os.close(ours)
    assert child.wait(60) == 0, shown
    return shown.decode()


def test_a_terminal_sees_a_bar_and_a_log_does_not(tmp_path: Path) -> None:
    write_app(tmp_path)
    shown = on_a_terminal(tmp_path, "run", "myapp:briefs", "--as-of", AS_OF)
    assert "briefs and mails" in shown
    assert "4/4" in shown
    assert "2 sections" in shown
    ran = run(tmp_path)
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "briefs and mails" not in ran.stdout + ran.stderr


def test_long_work_tells_plain_lines_in_a_log(tmp_path: Path) -> None:
    # A line every two seconds; the test turns that into one at each job.
    impatient = "import fanout_briefs.cli.show_run as show\nshow._SECONDS_BETWEEN_LINES = 0"
    write_app(tmp_path, impatient)
    ran = run(tmp_path)
    assert ran.stderr.splitlines()[0] == "So far    1 of 2 briefs, 0 mails"
    assert ran.stderr.splitlines()[-1] == "So far    2 of 2 briefs, 2 mails"


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_nobody_reading_the_output_is_no_failure_and_stops_no_work(tmp_path: Path, more: Sequence[str]) -> None:
    write_app(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    child = subprocess.run(
        command("run", "myapp:briefs", "--as-of", AS_OF, *more),
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert child.stderr == ""
    assert len(mails(tmp_path)) == 2
    assert child.returncode == 0


HANGING = """
class Hanging(Host):
    async def generate(self, request):
        print("begun", flush=True)
        await anyio.sleep_forever()
hanging = make(generator=Hanging(), lease=timedelta(hours=1))
"""
# One section at a time, which says that it has begun and waits for a file; the deadline is far off.
SLOW = """
class Slow(Host):
    async def generate(self, request):
        if not (HERE / "begun").exists():
            (HERE / "begun").touch()
            print("begun", flush=True)
        while not (HERE / "go").exists():
            await anyio.sleep(0.01)
        return ProjectBrief(text="done")

slow = make(generator=Slow(), concurrency=1, look_back=timedelta(days=1), max_lateness=timedelta(days=1))
"""
SLOW_USERS = """
class SlowUsers(Users):
    async def page(self, cursor, limit):
        print("begun", flush=True)
        while not (HERE / "go").exists():
            await anyio.sleep(0.01)
        return Page(PEOPLE)

slow = make(preferences=SlowUsers())
"""
BLOCKING = """
import time

class Blocking(Host):
    async def generate(self, request):
        print("begun", flush=True)
        while True:  # as a host's code does that should be in a thread
            time.sleep(0.01)  # Not once and long: Python misses a signal in the moment before its call to the system.

blocking = make(generator=Blocking())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
class TestBeingToldToStop:
    """Of a single run. Each process says by a line how far it is, so nothing is waited for."""

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_run_lets_what_runs_finish_begins_nothing_more_and_reports(
        self, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        write_app(tmp_path, SLOW)
        with started(tmp_path, "run", "myapp:slow", "--as-of", AS_OF) as child:
            read_until(child, "begun")
            told_to_stop(child, number)
            (tmp_path / "go").touch()
            shown, problems = child.communicate(timeout=60)
        assert (child.returncode, problems) == (status, "")
        assert labelled(shown)["Briefs"] == "1 completed"
        assert [row[2] for row in rows(shown)] == ["2 sections"]
        done, *left = sorted(slots(tmp_path, "status", "attempts"))
        assert (done, set(left)) == (("completed", 1), {("pending", 0)})
        assert labelled(cli(tmp_path, "run", "myapp:slow", "--as-of", AS_OF).stdout)["Briefs"] == (
            f"{len(left)} completed"
        )

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_when_the_time_to_finish_is_up_what_still_runs_is_given_back(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        write_app(tmp_path, HANGING)
        with started(tmp_path, "run", "myapp:hanging", "--as-of", AS_OF, "--grace", "0s") as child:
            read_until(child, "begun")
            told_to_stop(child, number)
            shown, problems = child.communicate(timeout=60)
        assert child.returncode == 128 + number
        assert labelled(shown)["Briefs"] == "nothing to make"
        assert labelled(problems)["Stopped"].startswith("the time to finish was up: what still ran was given back")
        assert "Traceback" not in problems
        # The lease was an hour long, so this proves that it was given back; and the attempt does not count.
        assert labelled(run(tmp_path).stdout)["Briefs"] == "2 completed"
        assert set(slots(tmp_path, "status", "attempts")) == {("completed", 1)}

    def test_what_was_done_before_is_told_also_of_a_run_that_was_cut_short(self, tmp_path: Path) -> None:
        one_hangs = """
class OneHangs(Host):
    async def generate(self, request):
        if request.user_id == "bo":
            while not (HERE / "outbox").exists():
                await anyio.sleep(0.01)
            print("begun", flush=True)
            await anyio.sleep_forever()
        return ProjectBrief(text="done")
hanging = make(generator=OneHangs())
"""
        write_app(tmp_path, one_hangs)
        with started(tmp_path, "run", "myapp:hanging", "--as-of", AS_OF, "--grace", "0s", "--json") as child:
            read_until(child, "begun")
            told_to_stop(child, signal.SIGTERM)
            shown, _ = child.communicate(timeout=60)
        document = json.loads(shown[shown.index("{") :])
        assert (document["ok"], child.returncode) == (False, 143)
        assert document["plan"]["enqueued"] == 2
        assert document["run"]["briefs"] == {"completed": 1}

    def test_a_plan_is_finished_and_told(self, tmp_path: Path) -> None:
        write_app(tmp_path, SLOW_USERS)
        with started(tmp_path, "plan", "myapp:slow", "--as-of", AS_OF) as child:
            read_until(child, "begun")
            told_to_stop(child, signal.SIGTERM)
            (tmp_path / "go").touch()
            shown, problems = child.communicate(timeout=60)
        assert (child.returncode, problems) == (143, "")
        assert labelled(shown)["Planned"] == "3 people, 2 due: 2 queued"

    def test_a_run_that_still_plans_makes_nothing_of_it(self, tmp_path: Path) -> None:
        write_app(tmp_path, SLOW_USERS)
        with started(tmp_path, "run", "myapp:slow", "--as-of", AS_OF) as child:
            read_until(child, "begun")
            told_to_stop(child, signal.SIGINT)
            (tmp_path / "go").touch()
            shown, problems = child.communicate(timeout=60)
        assert (child.returncode, problems) == (130, "")
        assert labelled(shown)["Planned"] == "3 people, 2 due: 2 queued"
        assert labelled(shown)["Briefs"] == "nothing to make"
        assert set(slots(tmp_path, "status", "attempts")) == {("pending", 0)}

    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path) -> None:
        write_app(tmp_path, SLOW)
        with started(tmp_path, "run", "myapp:slow", "--as-of", AS_OF) as child:
            read_until(child, "begun")
            told_to_stop(child, signal.SIGTERM)
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)
        assert child.returncode == 130

    def test_a_second_signal_ends_it_also_while_the_hosts_code_blocks_everything(self, tmp_path: Path) -> None:
        write_app(tmp_path, BLOCKING)
        with started(tmp_path, "run", "myapp:blocking", "--as-of", AS_OF) as child:
            read_until(child, "begun")
            told_to_stop(child, signal.SIGINT)
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)
        assert child.returncode == 130

    def test_a_terminal_gets_its_cursor_back(self, tmp_path: Path) -> None:
        pty = pytest.importorskip("pty")
        write_app(tmp_path, BLOCKING)
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            command("run", "myapp:blocking", "--as-of", AS_OF),
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        for word in (b"begun", b"Stopping"):
            while word not in shown:
                shown += os.read(ours, 65536)
            child.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer is gone.
            while got := os.read(ours, 65536):
                shown += got
        os.close(ours)
        assert child.wait(60) == 130
        assert b"\x1b[?25l" in shown
        assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def test_help_fits_and_names_every_command(tmp_path: Path) -> None:
    told = cli(tmp_path, "--help")
    assert told.returncode == 0
    assert "..." not in told.stdout.replace("[ARGS]...", "")
    listed = told.stdout[told.stdout.index("Commands:") :].splitlines()[1:]
    assert [line.split()[0] for line in listed] == [
        *("init", "run", "worker", "plan", "status", "explain", "preview"),
        *("retry", "cancel", "regenerate", "generate-now", "pause", "resume", "reconcile", "prune", "forget"),
    ]
    page = (Path(__file__).parent.parent / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in (line.split()[0] for line in listed) if f"fanout-briefs {name} " not in page] == []
    assert cli(tmp_path).returncode == 2


def test_a_missing_extra_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['typer'] = None; from fanout_briefs.cli import main; main()"
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "fanout-briefs needs typer: pip install 'fanout-briefs[cli]'\n"


def test_the_script_is_the_same_as_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("fanout-briefs")
    if not script.exists():
        pytest.skip("the package's scripts are not installed beside this Python")
    told: Any = subprocess.run([script, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert told.stdout == cli(tmp_path, "--help").stdout


# a thousand people ---------------------------------------------------------------------------------------

THOUSAND = """
PEOPLE[:] = [Preference(user_id=f"u{number:04}", time_of_day="09:00") for number in range(1000)]
PROJECTS = 15


class Many(Host):
    async def of(self, user_id, window):
        return [Project(id=str(number), name=f"Project {number}") for number in range(PROJECTS)]

    async def generate(self, request):
        number = int(request.project.id)
        if (int(request.user_id[1:]) * PROJECTS + number) % 20 == 0:
            raise RuntimeError("the tracker is down")
        if number == 7:
            await anyio.sleep_forever()
        return ProjectBrief(text=f"{request.project.name} is well.")


briefs = make(projects=Many(), generator=Many(), section_timeout=timedelta(seconds=0.2), concurrency=25)
"""

JUDGE = r"""
import email, email.policy, json, pathlib, sqlite3
wrong = []
rows = sqlite3.connect("briefs.db").execute("SELECT user_id, body FROM briefs ORDER BY user_id").fetchall()
for user_id, body in rows:
    failed = {}
    for place, section in enumerate(json.loads(body)["sections"]):
        if section["project_id"] != str(place):
            wrong.append([user_id, place])
        if section["error"] is not None:
            failed[place] = section["error"]
    person = int(user_id[1:])
    raising = {n for n in range(15) if (person * 15 + n) % 20 == 0}
    if set(failed) != raising | {7} or place != 14:
        wrong.append([user_id, failed])
    if any("the tracker is down" not in failed[n] for n in raising):
        wrong.append([user_id, failed])
    path = pathlib.Path("outbox", f"daily_brief:2026-11-23:{user_id}:1.eml")
    text = email.message_from_bytes(path.read_bytes(), policy=email.policy.default).get_body(("plain",)).get_content()
    if text.count("This section could not be made") != len(failed) or f"{len(failed)} of 15 sections" not in text:
        wrong.append([user_id, text])
print(json.dumps({"briefs": len(rows), "mails": len(list(pathlib.Path("outbox").glob("*.eml"))), "wrong": wrong[:3]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the files of the outbox have other names there")
def test_a_thousand_people_with_failing_and_hanging_projects_all_get_their_brief(tmp_path: Path, tell: Tell) -> None:
    write_app(tmp_path, THOUSAND)
    begun = time.monotonic()
    ran = run(tmp_path, "--json")
    took = time.monotonic() - begun
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["plan"]["enqueued"] == 1000
    assert report["run"]["briefs"] == report["run"]["mails"] == {"completed": 1000}
    assert report["run"]["partial"] == 1000
    judged = subprocess.run([sys.executable, "-c", JUDGE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(judged.stdout) == {"briefs": 1000, "mails": 1000, "wrong": []}
    tell(f"1,000 people x 15 projects, 1 in 20 raising, 1 in 15 hanging for 0.2 s: {took:.1f} s")


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
@pytest.mark.parametrize("how", [("run", "--every", "1m"), ("worker",)], ids=["run --every", "worker"])
class TestServing:
    """``run --every`` and ``worker`` are told to stop alike."""

    def serve(self, folder: Path, how: tuple[str, ...], *more: str) -> subprocess.Popen[str]:
        """Start it on slots that a plan has queued, and return when it has begun the first."""
        write_app(folder, SLOW + HANGING)
        assert cli(folder, "plan", "myapp:slow").returncode == 0
        name, *options = how
        server = started(folder, name, "myapp:slow", *options, *more)
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving   daily_brief, ")
        assert server.stdout.readline() == "begun\n"
        return server

    def test_it_lets_what_runs_finish(self, tmp_path: Path, how: tuple[str, ...]) -> None:
        with self.serve(tmp_path, how) as server:
            told_to_stop(server, signal.SIGINT)
            (tmp_path / "go").touch()
            server.communicate(timeout=60)
        assert server.returncode == 0
        assert [status for (status,) in slots(tmp_path, "status")].count(
            "completed"
        ) == 1  # The others were given back.

    def test_when_the_time_to_finish_is_up_it_gives_back_what_runs(self, tmp_path: Path, how: tuple[str, ...]) -> None:
        with self.serve(tmp_path, how, "--grace", "0s", "--poll", "1s") as server:
            told_to_stop(server, signal.SIGTERM)
            server.communicate(timeout=60)
        assert server.returncode == 0
        assert set(slots(tmp_path, "status", "attempts")) == {("pending", 0)}

    def test_a_second_signal_ends_it_at_once(self, tmp_path: Path, how: tuple[str, ...]) -> None:
        with self.serve(tmp_path, how) as server:
            told_to_stop(server, signal.SIGINT)
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
        assert server.returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
def test_run_every_plans_and_runs_until_it_is_told_to_stop_and_ends_well(tmp_path: Path) -> None:
    write_app(tmp_path, "briefs = make(look_back=timedelta(days=1), max_lateness=timedelta(days=1))")
    with started(tmp_path, "run", "myapp:briefs", "--every", "1m") as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving   daily_brief, planning every 0:01:00")
        told = told_until(server, r"mails: \d completed\n")
        assert re.search(r"UTC queued: \d\n", told)
        assert re.search(r"briefs: \d completed", told)
        told_to_stop(server, signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0
    assert mails(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
def test_a_worker_runs_what_others_planned_and_plans_nothing(tmp_path: Path) -> None:
    write_app(tmp_path, "briefs = make(look_back=timedelta(days=1), max_lateness=timedelta(days=1))")
    with started(tmp_path, "worker", "myapp:briefs", "--poll", "1s") as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Serving   daily_brief, running what is due and planning nothing")
        assert cli(tmp_path, "plan", "myapp:briefs").returncode == 0
        assert "briefs: " in told_until(server, r"mails: \d completed\n")
        told_to_stop(server, signal.SIGTERM)
        server.communicate(timeout=60)
    assert server.returncode == 0
    assert mails(tmp_path)


class TestTimes:
    @pytest.mark.parametrize("time", ["", "5", "m", "-5m", "5 m", "5w", "1.5h", "\N{ARABIC-INDIC DIGIT FIVE}m"])
    def test_a_time_that_is_none_is_refused(self, inside: Callable[..., Result], time: str) -> None:
        for option in ("--every", "--poll", "--grace"):
            refused = inside("run", "myapp:briefs", f"{option}={time}")
            assert refused.exit_code == 2
            assert "write a whole number and s, m, h or d, such as 5m" in refused.stderr

    @pytest.mark.parametrize("time", ["36501d", "999999999999999d", "9" * 5000 + "s"])
    def test_a_time_beyond_the_calendar_is_refused(self, inside: Callable[..., Result], time: str) -> None:
        refused = inside("run", "myapp:briefs", f"--grace={time}")
        assert refused.exit_code == 2
        assert "is too long: at most 36500d" in refused.stderr

    def test_never_is_no_time_but_no_grace_is_one(self, tmp_path: Path, inside: Callable[..., Result]) -> None:
        write_app(tmp_path)
        assert "must be more than zero, such as 5m" in inside("run", "myapp:briefs", "--every", "0m").stderr
        assert inside("run", "myapp:briefs", "--grace", "0s").exit_code == 0

    def test_every_goes_by_the_clock_only(self, inside: Callable[..., Result]) -> None:
        refused = inside("run", "myapp:briefs", "--every", "5m", "--as-of", AS_OF)
        assert refused.exit_code == 2
        assert "leave out --as-of and --json" in refused.stderr

    def test_poll_is_for_every_only(self, inside: Callable[..., Result]) -> None:
        refused = inside("run", "myapp:briefs", "--poll", "5s")
        assert refused.exit_code == 2
        assert "--poll is for --every" in refused.stderr

    def test_a_time_longer_than_the_horizon_is_refused(self, tmp_path: Path, inside: Callable[..., Result]) -> None:
        write_app(tmp_path)
        refused = inside("run", "myapp:briefs", "--every", "2h")
        assert refused.exit_code == 2
        assert "must not be longer than the horizon" in refused.stderr
