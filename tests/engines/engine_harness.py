"""Starts an engine's own workers on a ledger, does them harm, and judges what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from carriers import Carrier
from fanout_briefs import Briefs, Preference
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.model import ENDED
from hosts import Host, Provider
from services import Schema, connect

__all__ = ["GUARD", "LEASE", "Figures", "Found", "Scene"]

LEASE = timedelta(seconds=3)
GUARD = 180.0
"""Seconds after which what does not come is taken for hanging."""
NAME = "daily_brief"


@frozen(kw_only=True)
class Found:
    """What is left in the end.

    Attributes:
        briefs: Brief slots by how they ended.
        mails: Mail slots by how they ended.
        saved: How many briefs are stored, and of how many users.
        begun: How often the section of each user was begun.
    """

    briefs: Counter[str]
    mails: Counter[str]
    saved: tuple[int, int]
    begun: Counter[str]


@define
class Figures:
    """A line of the table that is printed."""

    engine: str
    jobs: int = 0
    enqueued: float = 0
    ran: float = 0
    recovered: float | None = None

    def __str__(self) -> str:
        recovered = "-" if self.recovered is None else f"{self.recovered:.1f} s"
        rates = f"{self.enqueued:,.0f} slots/s enqueued, {self.ran:,.0f} jobs/s run"
        return f"{self.engine}: {self.jobs:,} jobs, {rates}, a killed worker's ran again after {recovered}"


@define
class Scene:
    """An engine, a ledger, people whose briefs are due, and workers."""

    carrier: Carrier
    ledger: Schema
    folder: Path
    concurrency: int = 20
    environment: dict[str, str] = field(factory=dict[str, str])
    workers: list[subprocess.Popen[bytes]] = field(factory=list[subprocess.Popen[bytes]])
    others: list[subprocess.Popen[bytes]] = field(factory=list[subprocess.Popen[bytes]])

    def __attrs_post_init__(self) -> None:
        for name in ("hold", "held"):
            (self.folder / name).mkdir()

    # what is to be done ------------------------------------------------------------------------------

    async def plan(self, users: int, prefix: str = "u", late: timedelta = timedelta(0)) -> float:
        """Queue a brief for each of so many people, all of them due; give how many slots a second that were."""
        due = datetime.now(UTC) - late + timedelta(seconds=1)  # in whole seconds, and not before the last plan
        people = [Preference(user_id=f"{prefix}{number:05}", time_of_day=f"{due:%H:%M:%S}") for number in range(users)]
        async with self.storage() as storage:
            await storage.preferences.put(people)
            report = await self.briefs(storage).plan(datetime.now(UTC))
        assert report.enqueued == users, report
        return users / report.phases["enqueue"].seconds

    def storage(self) -> PostgresStorage:
        within = getattr(self.carrier.dispatcher, "within", None)
        return PostgresStorage(self.ledger.dsn, schema=self.ledger.name, on_pending=within)

    def briefs(self, storage: PostgresStorage) -> Briefs:
        """The briefs as a process has them that plans and answers people, and runs nothing."""
        host = Host()
        return Briefs(
            storage,
            projects=host,
            generator=host,
            recipients=host,
            mailer=Provider(),
            dispatcher=self.carrier.dispatcher,
            lead=timedelta(0),
            look_back=timedelta(hours=6),
            page_size=10_000,  # one page, whose time is then told by the clock
        )

    def alone(self, messages: int, number: int) -> float:
        """Give how many messages a second the engine's own bulk call takes, in one transaction."""
        enqueue = self.carrier.bulk([f"alone{number}_{place:05}" for place in range(messages)])
        begun = time.monotonic()
        enqueue()
        return messages / (time.monotonic() - begun)

    def hold(self, *users: str) -> None:
        """Whoever makes the brief of these first stands still in the middle."""
        for user in users:
            (self.folder / "hold" / user).touch()

    def holder(self, user: str) -> int:
        """Wait until somebody stands still there, and give its process."""
        return int(self.until(lambda: [pid for name, pid in self.lines("holding") if name == user])[0])

    def worker_of(self, pid: int) -> subprocess.Popen[bytes]:
        """Give the worker that this process is, or is of."""
        parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        return next(worker for worker in self.workers if worker.pid in (pid, parent))

    # workers -----------------------------------------------------------------------------------------

    def _alike(self, count: int) -> Sequence[Sequence[str]]:
        return [self.carrier.worker(self.concurrency) for _ in range(count)]

    def _start(self, commands: Sequence[Sequence[str]]) -> None:
        self.workers += [self._begin(command) for command in commands]

    def _begin(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={
                    **os.environ,
                    **self.carrier.environment(),
                    "ENGINE_LEDGER": self.ledger.name,
                    "ENGINE_FOLDER": str(self.folder),
                    "ENGINE_LEASE": str(LEASE.total_seconds()),
                    **self.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def keep(self, count: int) -> None:
        """Start workers in place of those that ended, as a supervisor does."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        self._start(self._alike(count - len(self.workers)))

    @contextmanager
    def at_work(self, count: int) -> Generator[None]:
        with self.running(self._alike(count)):
            yield

    @contextmanager
    def running(self, commands: Sequence[Sequence[str]]) -> Generator[None]:
        """Have these workers, and what is needed beside them, until they are killed."""
        self.others += [self._begin(command) for command in self.carrier.beside()]
        self._start(commands)
        try:
            yield
        finally:
            for worker in (*self.workers, *self.others):
                if worker.poll() is None:
                    worker.send_signal(signal.SIGCONT)
                    worker.kill()
                worker.wait(30)

    # what came of it ---------------------------------------------------------------------------------

    def run(self, query: str) -> list[tuple[Any, ...]]:
        with connect(self.ledger.dsn) as connection:
            connection.execute(f'SET search_path TO "{self.ledger.name}"'.encode())
            return connection.execute(query.encode()).fetchall()

    def ended(self) -> int:
        among = ", ".join(f"'{status}'" for status in ENDED)
        ((count,),) = self.run(f"SELECT count(*) FROM jobs WHERE status IN ({among})")
        return int(count)

    def is_idle(self) -> bool:
        return self.run("SELECT count(*) FROM jobs") == [(self.ended(),)]

    def has_ended(self, slots: int) -> bool:
        return self.ended() == slots

    def until(self, look: Callable[[], Any], *, keeping: int = 0, within: float = GUARD, every: float = 0.05) -> Any:
        """Look again and again until there is something, and give that; meanwhile keep so many workers."""
        end = time.monotonic() + within
        while not (found := look()):
            assert time.monotonic() < end, f"{self.found()}\n{self.output()}"
            if keeping:
                self.keep(keeping)
            assert any(worker.poll() is None for worker in self.workers), self.output()
            time.sleep(every)
        return found

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]

    def lines(self, log: str) -> Sequence[Sequence[str]]:
        path = self.folder / log
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def found(self) -> Found:
        of = "SELECT status, count(*) FROM jobs WHERE type {} 'daily_brief' GROUP BY status"
        ((saved, users),) = self.run("SELECT count(*), count(DISTINCT user_id) FROM briefs")
        return Found(
            briefs=Counter(dict(self.run(of.format("=")))),
            mails=Counter(dict(self.run(of.format("<>")))),
            saved=(saved, users),
            begun=Counter(user for user, *_ in self.lines("begun")),
        )
