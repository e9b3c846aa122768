"""What ``fanout-briefs init`` writes: it runs as it is, shows something at once, and is worth reading."""

from __future__ import annotations

import ast
import contextlib
import email
import email.policy
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fanout_briefs.cli", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def outbox(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "outbox").iterdir()}


def test_the_first_run_delivers_something_to_see_and_the_second_has_nothing_to_do(tmp_path: Path) -> None:
    written = cli(tmp_path, "init", "mybriefs")
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout == (
        f"wrote {Path('mybriefs', 'app.py')}\n\nNow run:  cd mybriefs && fanout-briefs run app:briefs\n"
    )
    folder = tmp_path / "mybriefs"
    first = cli(folder, "run", "app:briefs")
    assert (first.returncode, first.stderr) == (0, "")
    mails = outbox(folder)
    assert {name.split("%3A" if os.name == "nt" else ":")[2] for name in mails} == {"ana", "bo"}
    assert all(str(Path("outbox", name)) in first.stdout for name in mails)
    mail = email.message_from_bytes((folder / "outbox" / min(mails)).read_bytes(), policy=email.policy.default)
    body = mail.get_body(("plain",))
    assert body is not None
    assert "UTC  app.py" in body.get_content()
    second = cli(folder, "run", "app:briefs")
    assert (second.returncode, second.stderr) == (0, "")
    assert "already done" in second.stdout
    assert "Mails     nothing to send" in second.stdout
    assert outbox(folder) == mails


def test_every_command_in_the_starters_head_works(tmp_path: Path) -> None:
    cli(tmp_path, "init")
    head = ast.get_docstring(ast.parse((tmp_path / "app.py").read_text(encoding="utf-8"))) or ""
    commands = [line.split("  ")[0].split() for line in map(str.strip, head.splitlines()) if "fanout-briefs " in line]
    assert [words[1] for words in commands] == ["run", "plan", "explain", "preview"]
    for _, *arguments in commands:
        ran = cli(tmp_path, *arguments)
        assert (ran.returncode, ran.stderr) == (0, ""), arguments
        assert ran.stdout


def test_twice_for_the_same_moment_says_already_done(tmp_path: Path) -> None:
    cli(tmp_path, "init")
    for said in ("2 people, 2 due: 2 queued", "2 people, 2 due: 2 already done"):
        ran = cli(tmp_path, "run", "app:briefs", "--as-of", "2026-11-23T17:00:00Z")
        assert ran.returncode == 0
        assert f"Planned   {said}\n" in ran.stdout


@pytest.mark.parametrize("moment", ["2026-10-25T06:00:00Z", "2026-10-25T07:29:00Z", "2026-11-01T13:30:00Z"])
def test_there_is_something_to_see_on_days_of_25_hours_too(tmp_path: Path, moment: str) -> None:
    cli(tmp_path, "init")
    assert cli(tmp_path, "run", "app:briefs", "--as-of", moment).returncode == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "briefs.db")) as database:
        mailed = database.execute("SELECT user_id FROM jobs WHERE type LIKE '%email%' AND status = 'completed'")
        assert sorted(mailed) == [("ana",), ("bo",)]


def test_the_starter_can_be_read_in_a_minute(tmp_path: Path) -> None:
    cli(tmp_path, "init")
    lines = (tmp_path / "app.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 90
    assert max(map(len, lines)) <= 120
    tree = ast.parse("\n".join(lines))
    assert all(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.ClassDef))


def test_the_starter_is_clean_to_linters(tmp_path: Path) -> None:
    cli(tmp_path, "init")
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff belongs to the group lint")
    checked = subprocess.run(
        [ruff, "check", "--isolated", "--line-length=120", "--select=E,F,I,B,UP,RUF", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine = True\n", encoding="utf-8")
    refused = cli(tmp_path, "init")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == (
        "Error     app.py exists already, and was left as it is: move it, or name another folder\n"
    )
    assert (tmp_path / "app.py").read_text(encoding="utf-8") == "mine = True\n"


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious", encoding="utf-8")
    for folder in ("mine", "mine/deeper"):
        refused = cli(tmp_path, "init", folder)
        assert refused.returncode == 2
        assert labels(refused.stderr) == ["Error"]
        assert "name a" in refused.stderr
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "precious"


def labels(text: str) -> list[str]:
    return [line[:9].strip() for line in text.splitlines()]
