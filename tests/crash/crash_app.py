"""The application whose runs are killed: it tells each point it passes, and stands still where it is told to.

It is configured by environment variables, since it lives in processes of its own; ``crash_harness.py`` sets them.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import anyio
import anyio.to_thread

from fanout_briefs import Briefs, Page, Preference, Project, ProjectBrief, Recipient
from fanout_briefs.adapters import sqlite_connection
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.delivery import SENDING
from fanout_briefs.model import (
    Claim,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    Mail,
    Receipt,
    SectionRequest,
    Standing,
    Window,
)

_T = TypeVar("_T")

FOLDER = Path(os.environ["CRASH_FOLDER"])
MARKS = int(os.environ.get("CRASH_MARKS", "-1"))
"""The pipe to the parent: one line a point."""
PHASE, _, PLACE = os.environ.get("CRASH_AT", ":0").partition(":")
"""Where to stand still: the phase, and how many of its points to pass before."""
STOPS = os.environ.get("CRASH_STOPS") == "1"
"""Stop the process by SIGSTOP there, to be continued, instead of standing still until it is killed."""
LEASE = timedelta(seconds=float(os.environ.get("CRASH_LEASE", "0.6")))
"""Short where a kill is to come, for the next run waits for its end; long where a slow machine must not lose it."""
GATE = int(os.environ.get("CRASH_GATE", "-1"))
"""A pipe to wait for before anything begins, so that several processes begin at once."""
USERS = [f"u{number:02}" for number in range(12)]
PROJECTS = [Project(id=name, name=name.title()) for name in ("apollo", "gemini", "mercury")]

_phase: ContextVar[str] = ContextVar("_phase", default="open")
_passed: Counter[str] = Counter()
_one_at_a_time = threading.Lock()
_no_transaction = threading.Lock()


def point(phase: str | None = None) -> None:
    """Tell that this point is reached; stand still if it is the one, and let no other thread pass any point."""
    phase = phase or _phase.get()
    if MARKS < 0:
        return
    with _one_at_a_time:
        _passed[phase] += 1
        here = phase == PHASE and _passed[phase] == int(PLACE)
        os.write(MARKS, f"{'here' if here else 'past'} {phase}\n".encode())
        if here and not STOPS:
            threading.Event().wait()
    if here:
        with _no_transaction:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def transaction(connection: sqlite3.Connection, unit: Any) -> Any:
    """A process that is stopped inside a transaction keeps the file locked, as SQLite has it; so it is not there."""
    with _no_transaction:
        return _transaction(connection, unit)


_transaction: Any = sqlite_connection.transaction
sqlite_connection.transaction = transaction


class Storage(SqliteStorage):
    """Points before and after each call, and before each statement in it: COMMIT is one, so a kill may fall before it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, trace=lambda _: point())

    async def __aenter__(self) -> Any:
        return await within("open", super().__aenter__)

    async def advance(self, *given: Any, **more: Any) -> datetime | None:
        return await within("plan/mark", super().advance, *given, **more)

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        return await within("plan/find", super().standings, keys)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await within("plan/enqueue", super().enqueue, jobs)

    async def claim(self, *given: Any, **more: Any) -> Any:
        return await within("claim", super().claim, *given, **more)

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        sending = any(claim.progress is not None and claim.progress.step == SENDING for claim in claims)
        if not sending:
            _beaten.set()
        return await within("mail/sending" if sending else "heartbeat", super().heartbeat, claims, until)

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        phase = "brief/finish" if claim.job.type == briefs.name else "mail/finish"
        return await within(phase, super().finish, claim, finish, follow_ups)


async def within(phase: str, work: Callable[..., Awaitable[_T]], *given: Any, **more: Any) -> _T:
    before = _phase.set(phase)
    try:
        point()
        result = await work(*given, **more)
        point()
        return result
    finally:
        _phase.reset(before)


class Host:
    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        point("plan/page")
        return Page([Preference(user_id=user_id) for user_id in USERS])

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        point("brief/projects")
        return PROJECTS

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        point("brief/generate")
        if request.user_id == USERS[0] and timedelta(seconds=1) > LEASE:
            await _beaten.wait()  # so that every run that makes this brief passes a heartbeat
        return ProjectBrief(text=f"{request.project.name} of {request.user_id} until {request.window.end}")


class Poison(Host):
    async def generate(self, request: SectionRequest) -> ProjectBrief:
        if request.user_id == USERS[3]:
            signal.pthread_kill(threading.get_ident(), signal.SIGKILL)
        return await super().generate(request)


class Users(Host):
    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        point("claim/recheck")
        return {user_id: Preference(user_id=user_id) for user_id in user_ids}


class Addresses:
    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        point("mail/address")
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}


class Outbox(EmlMailer):
    """Folder and bytes of every mail that is about to take its final name are noted, whichever process writes it."""

    async def send(self, mail: Mail, key: str) -> Receipt:
        point("mail/send")
        receipt = await super().send(mail, key)
        point("mail/send")
        return receipt


class Log:
    """A provider that takes every mail it is given, also one that it was given before."""

    idempotent = False

    async def send(self, mail: Mail, key: str) -> Receipt:
        point("mail/send")
        await anyio.to_thread.run_sync(note, "accepted", key)
        point("mail/send")
        return Receipt(key)


def note(name: str, line: str) -> None:
    """Append one line in one write, which no kill can cut in two."""
    log = os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(log, f"{line}\n".encode())
    finally:
        os.close(log)


def replace(source: Path, target: Path) -> None:
    point("mail/rename")
    note("written", f"{target.name} {hashlib.sha256(source.read_bytes()).hexdigest()}")
    _replace(source, target)
    point("mail/rename")


_replace: Callable[[Path, Path], None] = os.replace
mock.patch.object(os, "replace", replace).start()
_beaten = anyio.Event()


def make(mailer: Any, *, storage: Any = None, **changes: Any) -> Briefs:
    given: dict[str, Any] = {
        "projects": Host(),
        "generator": Host(),
        "preferences": Users(),
        "recipients": Addresses(),
        "look_back": timedelta(hours=6),
        "lease": LEASE,
    }
    return Briefs(storage or Storage(FOLDER / "briefs.db"), mailer=mailer, **{**given, **changes})


briefs = make(Outbox(FOLDER / "outbox"))
logged = make(Log())
poisoned = make(Outbox(FOLDER / "outbox"), generator=Poison())

if GATE >= 0:
    os.write(MARKS, b"past gate\n")
    os.read(GATE, 1)
