"""Sets scenes, starts the command line in them, and judges what is left: database, outbox, and what a server took.

A scene is a folder, a wall clock and some people, each due at a moment of their own, so that there is something to
plan, to make and to send all the time. The database keeps a log of its own, by triggers: what was saved twice, or
changed after it had ended, shows even where the second write was the same as the first.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
import fault_app
import pytest
from attrs import define, evolve, field, frozen
from fault_app import BEGIN, Settings

from fanout_briefs import JobStatus, Preference, SkipReason
from fanout_briefs.adapters.sqlite import SqliteStorage
from mail_server import MailServer

__all__ = ["GUARD", "Child", "Found", "Scene", "needs_posix", "scene", "side_by_side"]

HERE = Path(__file__).parent
GUARD = 120.0
"""Seconds after which what does not come is taken for hanging. Nothing is asserted about time."""
DATE = BEGIN.date()
MAILS = "generate_brief_email.daily_brief"
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, SIGSTOP and inherited pipes are POSIX")
_T = TypeVar("_T")
_Item = TypeVar("_Item")

_LOG = """
CREATE TABLE witness (seq INTEGER PRIMARY KEY, what TEXT, key TEXT, before TEXT, after TEXT);
CREATE TRIGGER brief_saved AFTER INSERT ON briefs BEGIN
    INSERT INTO witness (what, key) VALUES ('brief', NEW.user_id || ' ' || NEW.local_date);
END;
CREATE TRIGGER brief_saved_again AFTER UPDATE ON briefs BEGIN
    INSERT INTO witness (what, key) VALUES ('brief', NEW.user_id || ' ' || NEW.local_date);
END;
CREATE TRIGGER job_moved AFTER UPDATE OF status ON jobs WHEN NEW.status IS NOT OLD.status BEGIN
    INSERT INTO witness (what, key, before, after) VALUES ('job', NEW.dedup_key, OLD.status, NEW.status);
END;
"""
_LOOK = r"""
import json, pathlib, sqlite3, sys
database, outbox = sqlite3.connect(sys.argv[1]), pathlib.Path(sys.argv[2])
rows = lambda sql: [list(row) for row in database.execute(sql)]
print(json.dumps({
    "check": rows("PRAGMA integrity_check") + rows("PRAGMA foreign_key_check"),
    "jobs": rows("SELECT type, user_id, local_date, status, epoch, code, error FROM jobs ORDER BY type, user_id"),
    "briefs": rows("SELECT type, user_id, local_date FROM briefs ORDER BY user_id"),
    "sections": [
        [section["text"] for section in json.loads(body)["sections"]]
        for (body,) in database.execute("SELECT body FROM briefs ORDER BY user_id")
    ],
    "witness": rows("SELECT what, key, before, after FROM witness ORDER BY seq"),
    "files": sorted(path.name for path in outbox.glob("[!.]*")),
    "unfinished": sorted(path.name for path in outbox.glob(".*")),
}))
"""


@define
class Child:
    """One process of the command line, read all the time, so that it never waits for its reader."""

    process: subprocess.Popen[bytes]
    orders: int
    marks: list[str] = field(factory=list[str])
    output: str = ""
    problems: str = ""
    _changed: threading.Condition = field(factory=threading.Condition)
    _is_over: bool = False

    def order(self, what: str) -> None:
        os.write(self.orders, f"{what}\n".encode())

    def reaches(self, what: str, times: int = 1, since: int = 0) -> None:
        """Wait until it has told this so often, after its first ``since`` marks."""
        self.comes_to(lambda: self.marks[since:].count(what) >= times, f"{what} x {times}")

    def passes(self, count: int) -> None:
        """Wait until it has told that much, whatever it was."""
        self.comes_to(lambda: len(self.marks) >= count, f"{count} marks")

    def complains(self, pattern: str, times: int = 1, since: int = 0) -> None:
        """Wait until that stands so often in its problems, after the first ``since`` characters."""
        self.comes_to(lambda: len(re.findall(pattern, self.problems[since:])) >= times, f"{pattern} x {times}")

    def comes_to(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: condition() or self._is_over, GUARD)
            assert came, f"hangs before {what}, after {self.marks[-5:]}: {self.problems[-2000:]}"
            assert condition(), f"ended before {what}, after {self.marks[-5:]}: {self.problems[-2000:]}"

    def signals(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def is_stopped(self) -> None:
        """Wait until it stands still."""
        _, how = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)

    def ends(self) -> int:
        """Wait for its end; the exit status, or less than zero the signal."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_over, GUARD), f"does not end, after {self.marks[-5:]}"
        return self.process.wait(GUARD)

    def killed(self) -> None:
        self.signals(signal.SIGKILL)
        assert self.ends() == -signal.SIGKILL

    def terminated(self) -> None:
        """Stop it as a service manager does; it ends well, and nothing it ever said was a traceback of its own."""
        self.signals(signal.SIGTERM)
        assert self.ends() == 0, self.problems[-2000:]

    def listen(self, marks: int) -> None:
        """Read all it says until its end; runs in a thread."""
        rests = {"marks": b"", "output": b"", "problems": b""}
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with selectors.DefaultSelector() as ready:
            for source, name in (
                (marks, "marks"),
                (self.process.stdout.fileno(), "output"),
                (self.process.stderr.fileno(), "problems"),
            ):
                ready.register(source, selectors.EVENT_READ, name)
            while ready.get_map():
                for key, _ in ready.select():
                    got = os.read(key.fd, 65536)
                    if got:
                        self._hear(key.data, got, rests)
                    else:
                        ready.unregister(key.fd)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _hear(self, name: str, got: bytes, rests: dict[str, bytes]) -> None:
        *whole, rests[name] = (rests[name] + got).split(b"\n")
        with self._changed:
            if name == "marks":
                self.marks += [line.decode() for line in whole]
            else:
                text = "".join(f"{line.decode()}\n" for line in whole)
                setattr(self, name, getattr(self, name) + text)
            self._changed.notify_all()


@frozen
class Found:
    """What fresh processes find in the end, and what the server had counted by then."""

    rows: Mapping[str, Any]
    accepted: Sequence[str]
    takers: Sequence[str]

    @property
    def mails(self) -> Mapping[str, str]:
        """How each user's mail ended."""
        return {user_id: status for kind, user_id, _, status, *_ in self.rows["jobs"] if kind == MAILS}

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.mails.values())


@define
class Scene:
    """One folder, one clock, some people; and what each fault must leave."""

    folder: Path
    settings: Settings
    server: MailServer | None
    users: list[str]
    _stack: ExitStack

    @property
    def wings(self) -> Path:
        return Path(self.settings.wings)

    def hold(self, name: str = "everybody") -> None:
        """Let the generator wait for this user, or for all."""
        (self.wings / name).touch()

    def let_go(self, name: str = "everybody") -> None:
        (self.wings / name).unlink()

    def set_clock(self, shift: float) -> None:
        """Set the wall clock of all processes, in seconds from what it was at first."""
        new = self.wings / "new clock"
        new.write_text(str(shift), encoding="ascii")
        new.replace(self.wings / "clock")

    def sign_up(self, times: Mapping[str, str]) -> None:
        """More people want a brief, each at their time of day."""
        _sign_up(self.settings, times)
        self.users = sorted({*self.users, *times})

    def worker(self, **changes: Any) -> Child:
        """Start the command line; it is ended with the scene, if not before."""
        return self._stack.enter_context(_started(evolve(self.settings, **changes)))

    def rows(self, statement: str) -> list[Any]:
        """Look into the database without writing to it, also while somebody else has locked it."""
        with closing(sqlite3.connect(f"file:{self.settings.database}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(statement).fetchall()

    def until(self, statement: str, wanted: int, guard: float = GUARD) -> None:
        """Wait until a count has come that far."""
        end = time.monotonic() + guard
        while (count := self.rows(statement)[0][0]) < wanted:
            assert time.monotonic() < end, f"{statement}: {count} of {wanted}; {self.rows(_STATES)}"
            time.sleep(0.05)

    def settles(self, who: str = "") -> None:
        """Wait until everybody's mail, or that of all whose names begin so, has ended one way or another."""
        ended = f"SELECT count(*) FROM jobs WHERE type = '{MAILS}' AND status NOT IN ('pending', 'processing')"
        wanted = sum(user.startswith(who) for user in self.users)
        self.until(f"{ended} AND user_id LIKE '{who}%'", wanted)

    def finish(self) -> None:
        """A fresh process does what is left."""
        last = self.worker()
        last.reaches("turn")
        self.settles()
        last.terminated()

    def finish_and_idle(self) -> None:
        """A fresh process does what is left; then another one finds nothing to do."""
        self.finish()
        before = self.looked()
        idle = self.worker()
        idle.reaches("turn", 2)
        idle.terminated()
        assert self.looked() == before

    def judged(self, *, failed: Sequence[str] = (), lost: Sequence[str] = ()) -> Found:
        """Find what is left, and hold it to what holds after every fault.

        Args:
            failed: Whose mail was refused for good.
            lost: Whose mail ended unknown although the server never took it. Nobody else's may be missing.
        """
        found = self.looked()
        rows = found.rows
        assert rows["check"] == [["ok"]]
        date = DATE.isoformat()
        jobs = [row for row in rows["jobs"] if row[0] == "daily_brief"]
        assert [row[:5] for row in jobs] == [["daily_brief", user, date, "completed", 1] for user in self.users]
        assert rows["briefs"] == [["daily_brief", user, date] for user in self.users]
        saved = [key for what, key, *_ in rows["witness"] if what == "brief"]
        assert sorted(saved) == [f"{user} {date}" for user in self.users], "saved twice, or never"
        for user, texts in zip(self.users, rows["sections"], strict=True):
            expected = [f"Apollo of {user}", f"Gemini of {user}"]
            assert [text.split(" until ")[0] for text in texts] == expected, texts
        self._no_end_was_undone(rows)
        self._mails_are_right(found, failed)
        assert self._not_taken(found) <= {*failed, *lost}
        self._everybody_has_a_code(found)
        return found

    def _no_end_was_undone(self, rows: Mapping[str, Any]) -> None:
        moves = [(before, after) for what, _, before, after in rows["witness"] if what == "job"]
        assert {before for before, _ in moves} <= {"pending", "processing"}, "what had ended was changed"
        ended = [key for what, key, _, after in rows["witness"] if what == "job" and after not in _LIVE]
        assert len(ended) == len(set(ended)) == 2 * len(self.users)

    def _mails_are_right(self, found: Found, failed: Sequence[str]) -> None:
        mails = found.mails
        assert sorted(mails) == self.users
        assert {user for user, status in mails.items() if status == "failed"} == set(failed)
        assert set(mails.values()) <= {"completed", "unknown", "failed"}
        completed = {user for user, status in mails.items() if status == "completed"}
        if self.server is None:
            assert completed == set(self.users)
            assert found.rows["files"] == [f"daily_brief:{DATE}:{user}:1.eml" for user in self.users]
            assert all(name.endswith(".tmp") for name in found.rows["unfinished"])
        else:
            assert Counter(found.accepted).total() == len(set(found.accepted)), "a mail was taken twice"
            assert len(found.takers) == len(set(found.takers)) == len(found.accepted)
            assert completed <= set(found.takers), "a mail is said to be sent that nobody has"
            assert set(found.takers) <= completed | {user for user in mails if mails[user] == "unknown"}

    def _not_taken(self, found: Found) -> set[str]:
        there = {name.split(":")[2] for name in found.rows["files"]} if self.server is None else set(found.takers)
        # What nobody can know may or may not have left; that is not for a test to say, save where it knows.
        return {user for user in self.users if user not in there and found.mails[user] != "unknown"}

    def _everybody_has_a_code(self, found: Found) -> None:
        briefs = fault_app.build(self.settings)

        async def codes() -> None:
            async with briefs:
                for user in self.users:
                    for day in range(-1, 2):
                        on = DATE + timedelta(days=day)
                        answer = await briefs.explain(user, on, now=self.settings.clock())
                        if day:
                            assert isinstance(answer.code, SkipReason)
                        else:
                            assert answer.code is JobStatus(found.mails[user])
                status = await briefs.status(self.settings.clock(), since=timedelta(days=2))
            assert status.mails is not None
            assert status.mails.ended == Counter(map(JobStatus, found.mails.values()))
            troubles = Counter[JobStatus]()
            for trouble in status.mails.troubles:
                troubles[trouble.status] += trouble.count
            doubtful = (JobStatus.UNKNOWN, JobStatus.FAILED)
            assert troubles == {kind: status.mails.ended[kind] for kind in doubtful if status.mails.ended.get(kind)}
            assert status.briefs.running == status.briefs.abandoned == status.briefs.overdue == 0

        anyio.run(codes)

    def looked(self) -> Found:
        looked = subprocess.run(
            [sys.executable, "-c", _LOOK, self.settings.database, self.settings.outbox],
            capture_output=True,
            text=True,
            check=True,
        )
        accepted, takers = ([], []) if self.server is None else (self.server.accepted, self.server.takers)
        return Found(json.loads(looked.stdout), list(accepted), list(takers))


_LIVE = ("pending", "processing")
_STATES = "SELECT type, status, count(*), min(error) FROM jobs GROUP BY type, status"


@contextmanager
def scene(
    folder: Path,
    *,
    people: int = 24,
    first: int = 1,
    last: int = 8,
    together: Collection[str] = (),
    server: MailServer | None = None,
    **settings: Any,
) -> Generator[Scene]:
    """Set a scene; its clock begins to go at once.

    Args:
        folder: Made here.
        people: How many, due one after the other.
        first: When the first is due, in seconds from the beginning of the clock.
        last: When the last one is.
        together: Who is due at the same moment, which is that of the first of them.
        server: Takes the mails; None writes them as files.
        settings: As the application has them.
    """
    folder.mkdir(exist_ok=True)
    (folder / "wings").mkdir()
    given = Settings(
        database=settings.pop("database", str(folder / "briefs.db")),
        outbox=settings.pop("outbox", str(folder / "outbox")),
        wings=str(folder / "wings"),
        began=time.monotonic(),
        port=0 if server is None else server.port,
        **settings,
    )
    users = [f"u{number:03}" for number in range(people)]
    seconds = {user: first + (last - first) * number // max(people - 1, 1) for number, user in enumerate(users)}
    seconds |= dict.fromkeys(together, min((seconds[user] for user in together), default=0))
    times = {user: f"{BEGIN + timedelta(seconds=after):%H:%M:%S}" for user, after in seconds.items()}
    _sign_up(given, times)
    with closing(sqlite3.connect(given.database)) as connection:
        connection.executescript(_LOG)
    with ExitStack() as stack:
        # What is set up takes its time, and nobody shall have been due before.
        yield Scene(folder, evolve(given, began=time.monotonic()), server, users, stack)


def _sign_up(settings: Settings, times: Mapping[str, str]) -> None:
    async def put() -> None:
        async with SqliteStorage(settings.database) as storage:
            await storage.preferences.put(
                Preference(user_id=user, time_of_day=time_of_day) for user, time_of_day in times.items()
            )

    anyio.run(put)


@contextmanager
def _started(settings: Settings) -> Generator[Child]:
    reading, marks = os.pipe()
    orders, writing = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "fanout_briefs.cli"),
            *("run", "fault_app:briefs", "--every", "1s"),
        ],
        cwd=HERE,
        env={
            **os.environ,
            "FAULT_SETTINGS": settings.dumped(),
            "FAULT_MARKS": str(marks),
            "FAULT_ORDERS": str(orders),
        },
        pass_fds=[marks, orders],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(marks)
    os.close(orders)
    child = Child(process, writing)
    listener = threading.Thread(target=child.listen, args=(reading,))
    listener.start()
    try:
        yield child
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(GUARD)
        listener.join(GUARD)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        os.close(reading)
        os.close(writing)


def side_by_side(play: Callable[[_Item], _T], items: Sequence[_Item]) -> list[_T]:
    """Play scenes that have nothing to do with each other at the same time."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(play, items))
