"""Starts runs of ``crash_app.py`` through the command line, kills them where they stand, and looks at what is left."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

HERE = Path(__file__).parent
AS_OF = "2026-11-23T09:30:00Z"
DATE = "2026-11-23"
USERS = [f"u{number:02}" for number in range(12)]
GUARD = 120.0
"""Seconds after which a child that says nothing is taken for hanging. Nothing is asserted about time."""

PHASES = (
    "open",
    "plan/mark",
    "plan/page",
    "plan/find",
    "plan/enqueue",
    "claim",
    "claim/recheck",
    "brief/projects",
    "brief/generate",
    "heartbeat",
    "brief/finish",
    "mail/address",
    "mail/sending",
    "mail/send",
    "mail/rename",
    "mail/finish",
)
"""In the order in which a run comes through them."""


@define
class Child:
    """One process that runs the command."""

    process: subprocess.Popen[str]
    marks: int
    _rest: bytes = b""
    passed: list[str] = field(factory=list[str])

    def reaches(self) -> str | None:
        """Wait for the point where it stands still, and give its phase; None when it ends without."""
        for line in self.lines():
            if line.startswith("here "):
                return line.removeprefix("here ")
        return None

    def lines(self) -> Iterator[str]:
        """The points as they are passed, until the process ends."""
        until = time.monotonic() + GUARD
        while True:
            ready, _, _ = select.select([self.marks], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"hangs after {self.passed[-5:]}"
            got = os.read(self.marks, 65536)
            if not got:
                return
            *whole, self._rest = (self._rest + got).split(b"\n")
            for line in whole:
                self.passed.append(line.decode().split(" ", 1)[1])
                yield line.decode()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=GUARD)
        assert self.process.returncode == -signal.SIGKILL

    def ends(self) -> tuple[int, str, str]:
        """Exit status, output and problems."""
        for _ in self.lines():
            pass
        output, problems = self.process.communicate(timeout=GUARD)
        return self.process.returncode, output, problems


@contextmanager
def child(folder: Path, at: str = "", app: str = "briefs", **more: str) -> Generator[Child]:
    """A run that has begun; ``at`` is ``phase:number of the point where it stands still``."""
    reading, writing = os.pipe()
    gates = [int(more["CRASH_GATE"])] if "CRASH_GATE" in more else []
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "fanout_briefs.cli"),
            *("run", app if ":" in app else f"crash_app:{app}", "--as-of", AS_OF, "--json"),
        ],
        cwd=HERE,
        env={**os.environ, "CRASH_FOLDER": str(folder), "CRASH_MARKS": str(writing), "CRASH_AT": at or ":0", **more},
        pass_fds=[writing, *gates],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    try:
        yield Child(process, reading)
    finally:
        os.close(reading)
        if process.poll() is None:
            process.kill()
            process.communicate()


def undisturbed(folder: Path, app: str = "briefs", **more: str) -> tuple[int, dict[str, Any], str]:
    """A run that nobody kills: exit status, its JSON, its problems."""
    with child(folder, app=app, **{**more, "CRASH_LEASE": "60"}) as running:
        status, output, problems = running.ends()
    assert output, problems
    return status, json.loads(output), problems


LOOK = r"""
import json, pathlib, sqlite3, sys
folder = pathlib.Path(sys.argv[1])
database = sqlite3.connect(folder / "briefs.db")
rows = lambda sql: [list(row) for row in database.execute(sql)]
print(json.dumps({
    "check": rows("PRAGMA integrity_check"),
    "orphans": rows("PRAGMA foreign_key_check"),
    "jobs": rows("SELECT type, user_id, local_date, status, epoch, dedup_key FROM jobs ORDER BY type, user_id"),
    "briefs": rows("SELECT type, user_id, local_date FROM briefs ORDER BY user_id"),
    "sections": [len(json.loads(body)["sections"]) for (body,) in database.execute("SELECT body FROM briefs")],
    "mails": sorted(path.name for path in folder.glob("outbox/*") if not path.name.startswith(".")),
    "temporary": sorted(path.name for path in folder.glob("outbox/.*")),
}))
"""


@frozen
class Left:
    """What a fresh process finds in the database file and the outbox folder."""

    found: dict[str, Any]

    @classmethod
    def by(cls, folder: Path) -> Left:
        looked = subprocess.run([sys.executable, "-c", LOOK, folder], capture_output=True, text=True, check=True)
        return cls(json.loads(looked.stdout))

    def is_sound(self) -> None:
        assert self.found["check"] == [["ok"]]
        assert self.found["orphans"] == []
        assert all(name.endswith(".tmp") for name in self.found["temporary"])

    def has_each_brief_once(self) -> None:
        self.is_sound()
        key = "daily_brief:{date}:{user}"
        jobs = [row for row in self.found["jobs"] if row[0] == "daily_brief"]
        assert jobs == [["daily_brief", user, DATE, "completed", 1, key.format(date=DATE, user=user)] for user in USERS]
        assert self.found["briefs"] == [["daily_brief", user, DATE] for user in USERS]
        assert self.found["sections"] == [3] * len(USERS)

    def has_each_mail_once(self) -> None:
        mails = [row[:5] for row in self.found["jobs"] if row[0] != "daily_brief"]
        assert mails == [["generate_brief_email.daily_brief", user, DATE, "completed", 1] for user in USERS]
        assert self.found["mails"] == [f"daily_brief:{DATE}:{user}:1.eml" for user in USERS]


def bytes_by_name(folder: Path) -> set[tuple[str, str]]:
    """Name and hash of every mail that any run has written, also of those that a later run wrote over."""
    noted = {tuple(line.split()) for line in (folder / "written").read_text(encoding="utf-8").splitlines()}
    there = {
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in (folder / "outbox").glob("[!.]*.eml")
    }
    return there | {(name, content) for name, content in noted}


def accepted(folder: Path) -> list[str]:
    """The keys of the mails that a provider has taken, in its order."""
    log = folder / "accepted"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []
