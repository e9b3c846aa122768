"""Planning beside its floors and its rivals: time, statements and memory, on PostgreSQL and on SQLite.

    uv run --group bench python benchmarks/planner.py [--quick] [--json FILE] [--docs PAGE]

Everybody plans the same made-up users, in rounds of a shuffled order, and the medians of their rounds are compared:
ratios mean something on a busy machine, seconds less. After each run the slots in the database are compared, user by
user, with what is right; a wrong one ends the run. PostgreSQL is a server of the benchmark's own, and counts the
statements itself. Whatever is missing, server or rival, is listed as missing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
from attrs import define, field, frozen

from _planning.bed import AFTER, AGAIN, BEFORE, COPY, FOUR, MANY, OURS, PIPELINED, SINGLE, SMALL, Bed, planner_of
from _planning.peers import APSCHEDULER_ADD, APSCHEDULER_RUN, PACKAGES, PROCRASTINATE, SINGLY
from _planning.postgres import OPTIONS, Missing, PostgresBed, Statements, connect, server_for_figures
from _planning.postgres import Visits as PostgresVisits
from _planning.sqlite import SqliteBed
from _planning.sqlite import Visits as SqliteVisits
from _planning.world import INVALID, NOW, World
from _report import Bar, Entry, claims, is_installed, peak_kib, plot, setting, table, write_page
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage

ENOUGH = 20.0  # seconds: a rival that has used them up in one world gets no more rounds there
STEPS = (
    *(OURS, AGAIN, SMALL, FOUR, SINGLE, MANY, COPY, BEFORE, AFTER, PIPELINED),
    *(APSCHEDULER_ADD, APSCHEDULER_RUN, PROCRASTINATE, SINGLY),
)
FLOORS = {OURS, FOUR}


@frozen
class Scale:
    """Which worlds are planned.

    Attributes:
        users: How many users there are, of whom one 24th is due; everybody plans these. With rounds.
        at_once: How many are due at once of hardly more users; everybody plans these, too.
        due: How many are due of a fixed number of users: only we and the floor plan these.
        others: How many users there are of whom a fixed number is due: likewise.
    """

    users: dict[int, int]
    at_once: int
    due: tuple[int, list[int]]
    others: tuple[int, list[int]]

    @property
    def main(self) -> list[World]:
        return [World(users, round(users / 24)) for users in self.users]

    @property
    def biggest(self) -> World:
        return self.main[-1]

    @property
    def crowd(self) -> World:
        return World(round(self.at_once / (1 - INVALID)), self.at_once)

    @property
    def by_due(self) -> list[World]:
        return [World(self.due[0], due) for due in self.due[1]]

    @property
    def by_others(self) -> list[World]:
        return [World(users, self.others[0]) for users in self.others[1]]

    @property
    def worlds(self) -> dict[World, int]:
        """Every world once, with its rounds; those that everybody plans first."""
        rounds = dict.fromkeys([*self.by_due, *self.by_others], 2)
        return {**dict(zip(self.main, self.users.values(), strict=True)), self.crowd: 2} | {
            world: number for world, number in rounds.items() if world not in {*self.main, self.crowd}
        }


FULL = Scale(
    users={1_000: 9, 10_000: 5, 100_000: 3, 1_000_000: 3},
    at_once=100_000,
    due=(100_000, [1_000, 4_167, 16_667, 41_667, 99_000]),
    others=(41_667, [100_000, 300_000, 1_000_000]),
)
QUICK = Scale(users={240: 2, 960: 2}, at_once=400, due=(960, [40, 160, 640]), others=(40, [240, 960]))


# Measuring


@define
class Figures:
    """Seconds and statements, by (kind of database, world, step); phases of our plans; MiB by kind."""

    seconds: dict[tuple[str, World, str], list[float]] = field(factory=dict[tuple[str, World, str], list[float]])
    calls: dict[tuple[str, World, str], int] = field(factory=dict[tuple[str, World, str], int])
    phases: dict[tuple[str, World], dict[str, float]] = field(factory=dict[tuple[str, World], dict[str, float]])
    memory: dict[str, float] = field(factory=dict[str, float])

    def time(self, kind: str, world: World, step: str) -> float | None:
        found = self.seconds.get((kind, world, step))
        return median(found) if found else None

    def ratio(self, kind: str, world: World, step: str, to: str) -> float | None:
        one, other = self.time(kind, world, step), self.time(kind, world, to)
        return None if one is None or other is None else one / other


def measure(bed: Bed, rounds: int, figures: Figures, only: Iterable[str] | None) -> None:
    world = bed.world
    rivals = {
        name: rival
        for name, rival in bed.rivals().items()
        if world.users <= rival.most_users and world.due <= rival.most_due and (only is None or name in only)
    }
    spent = dict.fromkeys(rivals, 0.0)
    for _ in range(rounds):
        for name in random.sample(list(rivals), len(rivals)):
            if spent[name] > ENOUGH:
                continue
            bed.reset()
            with rivals[name].steps() as steps:
                for step in steps:
                    gc.collect()
                    with bed.count() as counted:
                        begun = perf_counter()
                        result = step.run()
                        seconds = perf_counter() - begun
                    step.check(result)
                    spent[name] += seconds
                    key = (bed.kind, world, step.name)
                    figures.seconds.setdefault(key, []).append(seconds)
                    (figures.calls[key],) = counted
                    if step.name == OURS:
                        phases = {phase: each.seconds for phase, each in result.phases.items()}
                        figures.phases[bed.kind, world] = {**phases, "in all": seconds}
    bed.reset()


@contextmanager
def quiet(world: World) -> Generator[None]:
    """Keep our own record of the users from being looked through by the garbage collector while others plan."""
    world.people, world.expected  # noqa: B018
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run(
    scale: Scale,
    figures: Figures,
    server: tuple[str, Statements] | None,
    folder: Path,
    keep: Callable[[Figures], None],
) -> None:
    """Measure world by world; after each, ``keep`` is given what there is, since a run is long."""
    for world, rounds in scale.worlds.items():
        print(f"{world.label} …", file=sys.stderr)
        only = None if world in {*scale.main, scale.crowd} else FLOORS
        fresh = World(world.users, world.due)  # whose users are gone with it
        path = folder / f"{world.users}-{world.due}.db"
        with quiet(fresh), closing(SqliteBed(path, fresh)) as sqlite:
            measure(sqlite, rounds, figures, only)
            if world == scale.biggest:
                figures.memory[sqlite.kind] = memory_apart(world, "--path", str(path))
        for left in folder.glob(f"{path.name}*"):
            left.unlink()
        if server is not None:
            with quiet(fresh), closing(PostgresBed(*server, fresh)) as postgres:
                measure(postgres, rounds, figures, only)
                if world == scale.biggest:
                    figures.memory[postgres.kind] = memory_apart(world, "--dsn", server[0])
        keep(figures)


# Memory, of a process that does nothing else


def memory_apart(world: World, *where: str) -> float:
    command = [sys.executable, __file__, "--memory", str(world.due), *where]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def print_memory(due: int, dsn: str | None, path: Path | None) -> None:
    """Print the peak in MiB above that of a process in which everything is open and warm, but for the plan."""
    with ExitStack() as stack:
        storage: PostgresStorage | SqliteStorage
        visits: PostgresVisits | SqliteVisits
        if dsn is not None:
            storage, visits = PostgresStorage(dsn), PostgresVisits(stack.enter_context(connect(dsn)))
        else:
            storage = SqliteStorage(path or "")
            visits = SqliteVisits(stack.enter_context(closing(SqliteBed.connect_to(path or Path()))))
        print(asyncio.run(planned_mib(storage, visits, due)))


async def planned_mib(
    storage: PostgresStorage | SqliteStorage, visits: PostgresVisits | SqliteVisits, due: int
) -> float:
    async with storage:
        await storage.advance("warm")
        before = peak_kib()
        report = await planner_of(storage, visits).plan(NOW)
        after = peak_kib()
    if report.due != due or report.failed:
        raise SystemExit(f"planned {report}")
    return (after - before) / 1024


# What is printed


def cell(figures: Figures, kind: str, world: World, step: str) -> str:
    seconds = figures.time(kind, world, step)
    return "-" if seconds is None else f"{seconds:.3f} ({figures.calls[kind, world, step]:,})"


def times(figures: Figures, kind: str, worlds: Sequence[World]) -> str:
    rows = [
        f"| {step} | " + " | ".join(cell(figures, kind, world, step) for world in worlds) + " |"
        for step in STEPS
        if any((kind, world, step) in figures.seconds for world in worlds)
    ]
    return table([f"{kind}: seconds (statements)", *(world.label for world in worlds)], rows)


def costs(figures: Figures, kind: str, worlds: Sequence[World], per: Callable[[World], int], unit: str) -> str:
    rows: list[str] = []
    for world in worlds:
        seconds, floor = figures.time(kind, world, OURS), figures.time(kind, world, FOUR)
        if seconds is not None and floor is not None:
            each = seconds / per(world) * 1e6
            rows.append(f"| {world.users:,} | {world.due:,} | {seconds:.3f} | {each:.1f} | {seconds / floor:.1f} |")
    return table(["users", "due", f"{kind}: seconds", f"µs {unit}", "ratio to the four raw statements"], rows)


def spent(figures: Figures, world: World) -> str:
    found = {kind: phases for (kind, of), phases in figures.phases.items() if of == world}
    names = list(next(iter(found.values())))
    rows = [
        f"| {kind} | " + " | ".join(f"{phases[name]:.3f}" for name in names) + " |" for kind, phases in found.items()
    ]
    return table([f"{world.label}: seconds by phase, of the last round", *names], rows)


def over(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def bars(figures: Figures, scale: Scale) -> list[Bar]:
    """Give the claims; those about worlds that are bigger than the ones that were planned decide nothing."""
    big, crowd, kind = scale.biggest, scale.crowd, PostgresBed.kind
    of_crowd = partial(figures.ratio, kind, crowd)
    calls = figures.calls.get((kind, crowd, OURS))
    few, many = scale.by_due[0], scale.by_due[-1]
    linear = over(figures.time(kind, many, OURS), figures.time(kind, few, OURS))
    less, more = scale.by_others[0], scale.by_others[-1]
    flat = over(figures.time(kind, more, OURS), figures.time(kind, less, OURS))
    all_of, at_once = f"{big.users:,} users", f"{scale.at_once:,} due at once"
    is_big, is_crowd = big == FULL.biggest, crowd == FULL.crowd
    first_to_second = figures.ratio(kind, big, OURS, AGAIN)
    return [
        Bar(f"{all_of}, one 24th due: seconds", figures.time(kind, big, OURS), 2.5, tried=is_big),
        Bar(f"{all_of}: ratio to the four raw statements", figures.ratio(kind, big, OURS, FOUR), 1.8, tried=is_big),
        Bar(f"{all_of}: first pass / second", first_to_second, 2.5, at_least=True, tried=is_big),
        Bar(f"{at_once}: the seed's before / ours", of_crowd(BEFORE, OURS), 12, at_least=True, tried=is_crowd),
        Bar(f"{at_once}: the seed's after / ours", of_crowd(AFTER, OURS), 4, at_least=True, tried=is_crowd),
        Bar(f"{at_once}: statements", None if calls is None else float(calls), 59, tried=is_crowd),
        Bar(f"{all_of}: MiB above start, PostgreSQL", figures.memory.get(kind), 150, tried=is_big),
        Bar(f"{all_of}: MiB above start, SQLite", figures.memory.get(SqliteBed.kind), 150, tried=is_big),
        Bar(
            f"{more.due:,} due: seconds of {more.users:,} users / of {less.users:,}",
            flat,
            1.25,
            tried=more == FULL.by_others[-1],
        ),
        Bar(
            f"{many.users:,} users: seconds a due user, {many.due:,} due / {few.due:,}",
            None if linear is None else linear * few.due / many.due,
            1.25,
            tried=many == FULL.by_due[-1],
        ),
    ]


def report(figures: Figures, scale: Scale, server: Statements | None, missing: str | None) -> str:
    """Everything that was measured, as Markdown."""
    kinds = [kind for kind in (PostgresBed.kind, SqliteBed.kind) if any(key[0] == kind for key in figures.seconds)]
    parts = [setting({*PACKAGES, "psycopg", "anyio"}), claims(bars(figures, scale))]
    if server is None:
        parts.insert(1, f"PostgreSQL was left out: {missing}")
    else:
        given = ", ".join(f"{name} {value}" for name, value in OPTIONS.items())
        parts.insert(1, f"PostgreSQL {server.version}, stock settings but {given}; statements by {server.how}.")
    if scale.worlds != FULL.worlds:
        parts.insert(2, "Where nothing says whether a claim is met, it is about more users than were planned.")
    absent = [package for package in PACKAGES if not is_installed(package)]
    if absent:
        parts.insert(2, f"Not installed, so left out: {', '.join(absent)}.")
    for kind in kinds:
        parts += [times(figures, kind, scale.main), times(figures, kind, [scale.crowd])]
    for kind in kinds:
        parts.append(costs(figures, kind, scale.by_due, lambda world: world.due, "a due user"))
        parts.append(costs(figures, kind, scale.by_others, lambda world: world.users, "a user"))
    parts.append(spent(figures, scale.biggest))
    rows = [f"| {kind} | {mib:.0f} |" for kind, mib in figures.memory.items()]
    parts.append(table([f"{scale.biggest.label}", "MiB above start"], rows))
    return "\n\n".join(parts) + "\n"


def picture(figures: Figures, scale: Scale) -> str:
    groups: list[tuple[str, list[Entry]]] = []
    for kind in (PostgresBed.kind, SqliteBed.kind):
        for world in (scale.crowd, scale.biggest):
            found = [(step, figures.time(kind, world, step)) for step in STEPS]
            entries = [
                Entry(seconds, step, step in {OURS, AGAIN, SMALL}) for step, seconds in found if seconds is not None
            ]
            if entries:
                groups.append((f"{kind}, {world.label}", entries))
    lowest = min(entry.value for _, entries in groups for entry in entries) / 2
    return plot("Seconds for a plan, logarithmic scale", groups, lowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of few users, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument(
        "--docs", type=Path, metavar="PAGE", help="put the figures into this page, and a plot beside it"
    )
    parser.add_argument("--users", type=int, help="leave out worlds of more users than this, which is 100,000 or more")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dsn", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory is not None:
        print_memory(arguments.memory, arguments.dsn, arguments.path)
        return
    if arguments.users is not None and arguments.users < FULL.due[0]:
        parser.error(f"--users {arguments.users}: must be {FULL.due[0]} or more; for less there is --quick")
    # So that a run that is ended leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    random.seed(5)
    scale = limited(QUICK if arguments.quick else FULL, arguments.users)
    figures, missing = Figures(), None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fb-figures-")))
        server: tuple[str, Statements] | None = None
        try:
            server = stack.enter_context(server_for_figures())
        except (Missing, psycopg.Error) as error:
            missing = str(error)
        run(scale, figures, server, folder, partial(write_json, arguments.json))
        text = report(figures, scale, server and server[1], missing)
    print(text)
    if arguments.docs:
        write_page(arguments.docs, "planner", text, picture(figures, scale))


def limited(scale: Scale, most: int | None) -> Scale:
    """Leave out worlds that are too big."""
    if most is None:
        return scale
    users = {number: rounds for number, rounds in scale.users.items() if number <= most}
    return Scale(users, scale.at_once, scale.due, (scale.others[0], [each for each in scale.others[1] if each <= most]))


def write_json(file: Path | None, figures: Figures) -> None:
    if file is not None:
        file.write_text(json.dumps(everything(figures), indent=1), encoding="utf-8")


def everything(figures: Figures) -> dict[str, Any]:
    return {
        "setting": setting({*PACKAGES, "psycopg", "anyio"}),
        "seconds": [
            {
                "on": kind,
                "users": world.users,
                "due": world.due,
                "what": step,
                "seconds": seconds,
                "statements": figures.calls[kind, world, step],
            }
            for (kind, world, step), seconds in figures.seconds.items()
        ],
        "phases": [
            {"on": kind, "users": world.users, "due": world.due, **phases}
            for (kind, world), phases in figures.phases.items()
        ],
        "MiB": figures.memory,
    }


if __name__ == "__main__":
    main()
