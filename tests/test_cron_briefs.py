"""The recipe for cron, as cron starts it: a process that plans, runs and exits."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "cron_briefs"
PATIENCE = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the recipe, as a user makes one."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "briefs", ignore=shutil.ignore_patterns("briefs.db*", "outbox")))


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "briefs.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path) -> tuple[int | None, str, str]:
    process = start(folder)
    said, complained = process.communicate(timeout=PATIENCE)
    return process.returncode, said, complained


def write_people(folder: Path, lists: Sequence[str]) -> None:
    """One person a list, whose brief was due half a day ago, so that no other comes due while the test runs."""
    due = datetime.now(UTC) - timedelta(hours=12)
    people = [
        f'[{name}]\nemail = "{name}@example.org"\ntime = "{due:%H:%M:%S}"\nlists = ["{name}"]\n' for name in lists
    ]
    (folder / "people.toml").write_text("\n".join(people))


def mails(folder: Path) -> Counter[str]:
    """How many mails there are for each person."""
    return Counter(path.name.split("%3A" if os.name == "nt" else ":")[2] for path in (folder / "outbox").iterdir())


def test_the_recipe_for_cron_mails_everybody_as_it_stands_there(folder: Path) -> None:
    status, said, complained = run(folder)
    assert (status, complained) == (0, "")
    assert said.endswith(" briefs done, 2 mails done\n")
    assert set(mails(folder)) == {"ana", "bo"}
    (ana,) = (folder / "outbox").glob("*ana*")
    assert "Call the landlord: overdue since Monday, 02 March 2026" in ana.read_text()


def test_the_recipe_for_cron_makes_nothing_twice(folder: Path) -> None:
    write_people(folder, ["house", "taxes"])
    assert run(folder)[1].endswith(": 2 queued, 2 briefs done, 2 mails done\n")
    sent = {path: path.stat().st_mtime_ns for path in (folder / "outbox").iterdir()}
    status, said, complained = run(folder)
    assert (status, complained) == (0, "")
    assert said.endswith(": 0 queued, 0 briefs done, 0 mails done\n")
    assert {path: path.stat().st_mtime_ns for path in (folder / "outbox").iterdir()} == sent


def test_a_list_that_cannot_be_read_costs_its_own_section_and_is_told(folder: Path) -> None:
    write_people(folder, ["house", "gone"])
    people = folder / "people.toml"
    people.write_text(people.read_text().replace('["gone"]', '["taxes", "gone"]'))
    status, said, complained = run(folder)
    assert status == 1
    assert said.endswith(": 2 queued, 2 briefs done, 2 mails done\n")
    assert complained.startswith("gone: Gone could not be made: FileNotFoundError")
    assert mails(folder) == {"house": 1, "gone": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in its folders")
def test_two_calls_at_once_share_the_work(folder: Path) -> None:
    # A list that is a named pipe is being read until the test has written it. One call makes ten briefs at a time, so
    # twenty are being read only when both are at it.
    names = [f"list{number}" for number in range(60)]
    write_people(folder, names)
    for name in names:
        os.mkfifo(folder / "todo" / f"{name}.txt")
    calls = [start(folder), start(folder)]
    try:
        waiting = set(names)
        pipes: list[int] = []
        for _ in looks():
            pipes += begun(folder / "todo", waiting)
            if len(pipes) == 20:
                break
        write(pipes)
        for _ in looks():
            write(begun(folder / "todo", waiting))
            if not waiting:
                break
        answers = [call.communicate(timeout=PATIENCE) for call in calls]
    finally:
        for call in calls:
            call.kill()
    assert [call.returncode for call in calls] == [0, 0], answers
    assert mails(folder) == dict.fromkeys(names, 1)
    done = [int(said.split(" queued, ")[1].split(" briefs")[0]) for said, _ in answers]
    assert sum(done) == 60
    assert all(done)


def looks() -> Iterator[None]:
    """Look again and again, but not for ever."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(0.01)
    pytest.fail("nobody reads what is left")


def begun(folder: Path, waiting: set[str]) -> list[int]:
    """Open the lists that somebody has begun to read, and take them from those that are waiting."""
    found: list[int] = []
    for name in sorted(waiting):
        try:
            found.append(os.open(folder / f"{name}.txt", os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:  # Nobody reads it yet.
                raise
        else:
            waiting.remove(name)
    return found


def write(pipes: list[int]) -> None:
    """Let the readers of these go on."""
    while pipes:
        pipe = pipes.pop()
        os.write(pipe, b"2026-03-01 Share the work\n")
        os.close(pipe)
