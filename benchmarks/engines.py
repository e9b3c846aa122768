"""Task queues that carry the jobs: how fast slots go into ledger and engine, and what a job costs their workers.

    uv run --group bench python benchmarks/engines.py [--quick] [--json FILE] [--jobs N] [--engine NAME ...]

Each engine takes messages by its own bulk call, and as many slots through the ledger, in rounds that alternate: the
ratio of the medians means something on a busy machine, the rates less. Then, unless this is quick, two workers that the
engine's own command starts make briefs and send mails; of these it tells jobs a second by the wall clock, and how much
processor time a job took of the workers and of PostgreSQL. Servers are the benchmark's own. What is missing is listed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psycopg
from attrs import asdict, frozen

from _planning.postgres import Missing, Statements, server_for_figures
from _report import Bar, claims, setting, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engines"))

from engine_harness import Scene  # beside the tests' other helpers, which _planning.postgres has made importable

from carriers import Carrier, PgQueuerCarrier, ProcrastinateCarrier
from celery_carrier import CeleryCarrier
from services import Schema, connect, own_redis_server

PACKAGES = {"celery", "pgqueuer", "procrastinate", "psycopg", "anyio"}
WORKERS = 2
# What is wanted: so many slots a second, or else so much of what the engine's own call takes.
WANTED = {"pgqueuer": 10_000, "procrastinate": 5_000}
SHARE = 0.7
MAKERS: dict[str, Callable[[Schema, str], Carrier]] = {
    "procrastinate": lambda ledger, _: ProcrastinateCarrier(ledger),
    "pgqueuer": lambda ledger, _: PgQueuerCarrier(ledger),
    "celery": lambda ledger, redis: CeleryCarrier(ledger, redis, "threads"),
}


@frozen(kw_only=True)
class Enqueued:
    """What going in came to, a second: slots through the ledger, and messages by the engine's own bulk call."""

    engine: str
    ledger: float
    alone: float

    @property
    def ratio(self) -> float:
        return self.ledger / self.alone

    @property
    def bars(self) -> list[Bar]:
        wanted = WANTED.get(self.engine)
        if wanted is None or self.ledger >= wanted:
            return [] if wanted is None else [Bar(f"{self.engine}: slots a second", self.ledger, wanted, at_least=True)]
        return [Bar(f"{self.engine}: of what its own bulk call takes", self.ratio, SHARE, at_least=True)]

    def __str__(self) -> str:
        return f"| {self.engine} | {self.ledger:,.0f} | {self.alone:,.0f} | {self.ratio:.2f} |"


@frozen(kw_only=True)
class Ran:
    """What running came to: jobs a second by the wall clock, milliseconds of processor time a job, statements a job."""

    engine: str
    rate: float
    worker_ms: float
    server_ms: float
    statements: float
    load: float

    def __str__(self) -> str:
        return (
            f"| {self.engine} | {self.rate:.0f} | {self.worker_ms:.1f} | {self.server_ms:.1f} | {self.statements:.1f} "
            f"| {self.load:.1f} |"
        )


def processor_seconds(*pids: int) -> float:
    """Give the processor time of these processes and of all that came from them, as Linux tells it."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            children = [each.read_text(encoding="utf-8") for each in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        total += processor_seconds(*(int(child) for line in children for child in line.split()))
    return total


@frozen
class Bed:
    """An empty ledger on a server that counts statements, and an engine beside it."""

    dsn: str
    statements: Statements
    ledger: Schema
    carrier: Carrier
    folder: Path

    def scene(self, name: str) -> Scene:
        folder = self.folder / name
        folder.mkdir()
        return Scene(self.carrier, self.ledger, folder)

    @property
    def server(self) -> int:
        """The process of which all of the server's come."""
        pid = self.ledger.connection.info.backend_pid
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


@contextmanager
def bed_of(engine: str, dsn: str, statements: Statements) -> Generator[Bed]:
    with ExitStack() as stack:
        ledger = Schema(dsn, f"ledger_{engine}", stack.enter_context(connect(dsn)))
        ledger.make()
        redis = stack.enter_context(own_redis_server()) if engine == "celery" else ""
        carrier = MAKERS[engine](ledger, redis)
        carrier.install()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-engines-")))
        yield Bed(dsn, statements, ledger, carrier, folder)


def enqueue(bed: Bed, engine: str, slots: int, rounds: int) -> Enqueued:
    scene = bed.scene("enqueue")
    through: list[float] = []
    alone: list[float] = []
    for number in range(rounds + 1):
        alone.append(scene.alone(slots, number))
        through.append(asyncio.run(scene.plan(slots, f"r{number}_")))
    # In the first round, caches are cold.
    return Enqueued(engine=engine, ledger=median(through[1:]), alone=median(alone[1:]))


def run(bed: Bed, engine: str, jobs: int) -> Ran:
    bed.ledger.empty()
    bed.carrier.install()
    scene = bed.scene("run")
    asyncio.run(scene.plan(jobs // 2))
    bed.ledger.run("ANALYZE")
    with bed.statements.count() as calls, scene.at_work(WORKERS):
        scene.until(lambda: scene.ended() >= jobs // 10, within=600, every=0.5)
        workers = [worker.pid for worker in scene.workers]
        first = scene.ended(), time.monotonic(), processor_seconds(*workers), processor_seconds(bed.server)
        scene.until(lambda: scene.ended() >= jobs * 9 // 10, within=1800, every=0.5)
        last = scene.ended(), time.monotonic(), processor_seconds(*workers), processor_seconds(bed.server)
        scene.until(lambda: scene.ended() == jobs, within=600, every=0.5)
    done, seconds, of_workers, of_server = (after - before for before, after in zip(first, last, strict=True))
    return Ran(
        engine=engine,
        rate=done / seconds,
        worker_ms=1000 * of_workers / done,
        server_ms=1000 * of_server / done,
        statements=calls[0] / jobs,
        load=os.getloadavg()[0],
    )


def report(entered: Sequence[Enqueued], ran: Sequence[Ran], missing: Sequence[str]) -> str:
    parts = [setting(PACKAGES), *missing, claims(bar for each in entered for bar in each.bars)]
    parts.append(table(["engine", "slots/s through the ledger", "messages/s by itself", "ratio"], map(str, entered)))
    if ran:
        head = ["engine", "jobs/s", "ms of the workers", "ms of PostgreSQL", "statements a job", "load"]
        parts.append(table(head, map(str, ran)))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few slots and no workers, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--jobs", type=int, default=2_000, metavar="N", help="how many jobs workers run")
    parser.add_argument("--engine", nargs="+", choices=list(MAKERS), default=list(MAKERS), help="leave out the others")
    arguments = parser.parse_args()
    # So that a run that is ended leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    slots, rounds = (1_000, 2) if arguments.quick else (10_000, 5)
    entered: list[Enqueued] = []
    ran: list[Ran] = []
    missing: list[str] = []
    with ExitStack() as stack:
        try:
            dsn, statements = stack.enter_context(server_for_figures())
        except (Missing, psycopg.Error) as error:
            print(f"All were left out: there is no PostgreSQL: {error}")
            return
        for engine in arguments.engine:
            try:
                with bed_of(engine, dsn, statements) as bed:
                    entered.append(enqueue(bed, engine, slots, rounds))
                    if not arguments.quick:
                        ran.append(run(bed, engine, arguments.jobs))
            except Missing as error:
                missing.append(f"{engine} was left out: {error}")
    print(report(entered, ran, missing))
    if arguments.json is not None:
        found = {"setting": setting(PACKAGES), "enqueued": list(map(asdict, entered)), "ran": list(map(asdict, ran))}
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
