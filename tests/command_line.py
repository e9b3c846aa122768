"""The command line in a folder of its own: an application to name, processes, signals, and what they print."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import TracebackType

from typer.testing import CliRunner, Result

from fanout_briefs.cli.commands import app

AS_OF = "2026-11-23T09:00:00Z"
APP = """
from datetime import timedelta
from pathlib import Path
import anyio
from fanout_briefs import Briefs, Page, PermanentFailure, Preference, Project, ProjectBrief, Recipient, RetryLater
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.sqlite import SqliteStorage

HERE = Path(__file__).parent
PEOPLE = [Preference(user_id=name, time_of_day=at) for name, at in (("ana", "09:00"), ("bo", "08:30"), ("cy", "18:00"))]
FAILING = {}


class Host:
    async def page(self, cursor, limit):
        return Page(PEOPLE)

    async def of(self, user_id, window):
        return [Project(id=name, name=name.title()) for name in ("apollo", "gemini")]

    async def generate(self, request):
        error = FAILING.get((request.user_id, request.project.id)) or FAILING.get(request.user_id)
        if error is not None:
            raise error
        return ProjectBrief(text=f"{request.project.name} is well.")


class Users(Host):
    async def get(self, user_ids):
        return {row.user_id: row for row in PEOPLE if row.user_id in user_ids}


class Addresses:
    async def get(self, user_ids):
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}


def make(**changes):
    given = dict(projects=Host(), generator=Host(), preferences=Users(), recipients=Addresses(),
                 mailer=EmlMailer(HERE / "outbox"), look_back=timedelta(hours=12))
    return Briefs(SqliteStorage(HERE / "briefs.db"), **{**given, **changes})


briefs = make()
"""


def write_app(folder: Path, more: str = "", name: str = "myapp") -> None:
    (folder / f"{name}.py").write_text(f"{APP}\n{more}\n", encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "NO_COLOR", "COLUMNS"}}
    return {**kept, **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "fanout_briefs.cli", *arguments]


def cli(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def in_process(folder: Path, *arguments: str) -> Result:
    """Run a command in this process, where a process of its own would prove nothing more."""
    modules, path = set(sys.modules), list(sys.path)
    importlib.invalidate_caches()
    try:
        with contextlib.chdir(folder):
            return CliRunner().invoke(app, arguments, prog_name="fanout-briefs")
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
                del sys.modules[name]


def run(folder: Path, *more: str, application: str = "myapp:briefs") -> subprocess.CompletedProcess[str]:
    return cli(folder, "run", application, "--as-of", AS_OF, *more)


def mails(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "outbox").glob("*"))


def labelled(text: str) -> dict[str, str]:
    """The lines that begin with a label."""
    return {line[:9].strip(): line[10:] for line in text.splitlines() if line[:9].strip() and line[9:10] == " "}


def rows(text: str) -> list[list[str]]:
    """The table's cells."""
    table = text[text.index("\nuser ") :].strip().splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table[1:]]


class Started(subprocess.Popen[str]):
    """A process that does not outlive its ``with``, so that a failed assertion is told instead of waited for."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(kind, value, traceback)


def started(folder: Path, *arguments: str) -> Started:
    return Started(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def read_until(child: subprocess.Popen[str], begins: str) -> None:
    assert child.stdout is not None
    while not (line := child.stdout.readline()).startswith(begins):
        assert line, child.communicate()


def told_until(child: subprocess.Popen[str], pattern: str) -> str:
    """What it says, up to the line that the pattern is found in."""
    assert child.stdout is not None
    told = ""
    while not re.search(pattern, told):
        line = child.stdout.readline()
        assert line, (told, child.communicate())
        told += line
    return told


def told_to_stop(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal, and return when that was heard."""
    child.send_signal(number)
    assert child.stderr is not None
    assert child.stderr.readline().startswith("Stopping")


def slots(folder: Path, *columns: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "briefs.db")) as database:
        asked = f"SELECT {', '.join(columns)} FROM jobs WHERE type = 'daily_brief' ORDER BY user_id"
        return list(database.execute(asked))
