"""The application that goes through faults: served by the command line, in processes of its own.

It tells what it does through one pipe and takes orders through another, so that a test can strike at a moment it
knows. Its wall clock begins where the test says and can be set while it runs. ``fault_harness.py`` starts it.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from attrs import asdict, frozen

from fanout_briefs import Briefs, Mail, Project, ProjectBrief, Receipt, Recipient, SectionRequest, Window
from fanout_briefs.adapters import sqlite_connection
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.smtp import SmtpMailer
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.ports import Mailer
from fanout_briefs.serve import Round

BEGIN = datetime(2026, 3, 9, 9, tzinfo=UTC)
"""What the wall clock says when a scene begins."""
PROJECTS = [Project(id=name, name=name.title()) for name in ("apollo", "gemini")]
_SECOND = timedelta(seconds=1)


@frozen(kw_only=True)
class Settings:
    """How one scene is set; seconds where it is about time.

    Attributes:
        database: The file.
        outbox: Where mails go as files, unless there is a port.
        wings: Where the test leaves what may change while the application runs: the clock, who is to wait.
        port: Of the mail server; 0 writes files instead.
        began: ``time.monotonic()`` at which the clock said ``BEGIN``; it is the same for all processes.
    """

    database: str
    outbox: str
    wings: str
    began: float
    port: int = 0
    lease: float = 1.5
    busy: float = 30
    poll: float = 0.1
    grace: float = 30
    mail_timeout: float = 10
    send_timeout: float = 30
    concurrency: int = 6
    attempts: int = 50
    horizon: float = 2

    def dumped(self) -> str:
        return json.dumps(asdict(self))

    def clock(self) -> datetime:
        """The wall clock; a file may say how many seconds it has been set forward or back."""
        try:
            shift = float(Path(self.wings, "clock").read_text(encoding="ascii"))
        except FileNotFoundError:
            shift = 0.0
        return BEGIN + timedelta(seconds=time.monotonic() - self.began + shift)


MARKS = int(os.environ.get("FAULT_MARKS", "-1"))
ORDERS = int(os.environ.get("FAULT_ORDERS", "-1"))
_outside = threading.Lock()
_stops_inside = threading.Event()


def mark(what: str) -> None:
    """Tell that this is reached, in one write."""
    if MARKS >= 0:
        os.write(MARKS, f"{what}\n".encode())


def _stop() -> None:
    # To this thread, which then gets no further; sent to the process, another thread may take it a little later.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _traced(statement: str) -> None:
    mark("sql")
    if statement == "COMMIT" and _stops_inside.is_set():
        _stops_inside.clear()
        _stop()


def _transaction(connection: sqlite3.Connection, unit: Any) -> Any:
    """A process that is stopped inside a transaction keeps the file locked; so it is there only where that is meant."""
    with _outside:
        return _real_transaction(connection, unit)


_real_transaction: Any = sqlite_connection.transaction


def _no_file_grows(limit: int) -> None:
    # Python ignores SIGXFSZ, so that writing beyond it is an error like any other.
    import resource  # There is none on Windows.

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _obey() -> None:
    """Do as the test orders, in a thread."""
    with os.fdopen(ORDERS) as orders:
        for order in map(str.strip, orders):
            if order == "stop outside":
                with _outside:
                    _stop()
            elif order == "stop inside":
                _stops_inside.set()
            elif order == "full":
                _no_file_grows(0)
                mark("full")
            elif order == "room":
                _no_file_grows(-1)
                mark("room")


class Host:
    """Whose sections wait as long as a file with the user's name lies in the wings, or one that says ``everybody``."""

    def __init__(self, settings: Settings) -> None:
        self._wings = Path(settings.wings)

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return PROJECTS

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        mark(f"generate {request.user_id}")
        while any((self._wings / name).exists() for name in (request.user_id, "everybody")):  # noqa: ASYNC110 - a file
            await anyio.sleep(0.01)
        return ProjectBrief(text=f"{request.project.name} of {request.user_id} until {request.window.end}")


class Addresses:
    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}


class Told:
    """A mailer that tells when it is called, and when it returns; it waits as long as ``mails`` lies in the wings."""

    def __init__(self, mailer: Mailer, settings: Settings) -> None:
        self.idempotent = mailer.idempotent
        self._mailer = mailer
        self._wait = Path(settings.wings, "mails")

    async def send(self, mail: Mail, key: str) -> Receipt:
        mark(f"send {mail.user_id}")
        while self._wait.exists():  # noqa: ASYNC110 - a file
            await anyio.sleep(0.01)
        receipt = await self._mailer.send(mail, key)
        mark(f"sent {mail.user_id}")
        return receipt


class Served(Briefs):
    """Tells each turn. The command line has no options for what is shortened here."""

    settings: Settings

    async def serve(self, *, on_round: Callable[[Round], object] | None = None, **more: Any) -> None:
        def told(done: Round) -> None:
            if on_round is not None:
                on_round(done)
            mark("turn failed" if done.errors else "turn")

        more |= {"poll": self.settings.poll * _SECOND, "grace": self.settings.grace * _SECOND}
        await super().serve(on_round=told, **more)


def build(settings: Settings) -> Briefs:
    """The application of a scene, also for a judge."""
    mailer: Mailer = EmlMailer(settings.outbox)
    if settings.port:
        mailer = SmtpMailer(
            "127.0.0.1",
            settings.port,
            sender="Briefs <briefs@example.org>",
            security="none",
            timeout=settings.mail_timeout * _SECOND,
            local_hostname="localhost",
        )
    host = Host(settings)
    retrying = Retrying(attempts=settings.attempts, first=0.2 * _SECOND, longest=_SECOND)
    built = Served(
        SqliteStorage(settings.database, busy_timeout=settings.busy * _SECOND, trace=_traced),
        projects=host,
        generator=host,
        recipients=Addresses(),
        mailer=Told(mailer, settings),
        lead=0 * _SECOND,
        deadline=120 * _SECOND,
        section_timeout=None,
        horizon=settings.horizon * _SECOND,
        look_back=60 * _SECOND,
        concurrency=settings.concurrency,
        lease=settings.lease * _SECOND,
        send_timeout=settings.send_timeout * _SECOND,
        retrying=retrying,
        mail_retrying=retrying,
        clock=settings.clock,
    )
    built.settings = settings
    return built


def briefs() -> Briefs:
    """What the command line serves."""
    sqlite_connection.transaction = _transaction
    if ORDERS >= 0:
        threading.Thread(target=_obey, daemon=True).start()
    return build(Settings(**json.loads(os.environ["FAULT_SETTINGS"])))
