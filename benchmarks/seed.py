"""The tables of the report that this library started from, measured: briefs by projects, and plans by users.

    uv run --group bench python benchmarks/seed.py [--quick] [--docs PAGE]

The report's figures of production were projections, and those of its tests came from sleeping in a copy of the code. Here
``Briefs`` itself makes briefs of sections that wait for a tenth of a second, one after another and side by side, on SQLite;
and plans are made by the library and by both of the report's ways, on a real database. Results are checked.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import anyio
import psycopg
from attrs import frozen

from _planning.bed import AFTER, BEFORE, OURS
from _planning.postgres import Missing, PostgresBed, server_for_figures
from _planning.sqlite import SqliteBed
from _planning.world import INVALID, NOW, World, Wrong
from _report import setting, table, write_page
from fanout_briefs import Briefs, Preference, Project, ProjectBrief, SectionRequest, Window
from fanout_briefs.adapters.sqlite import SqliteStorage
from planner import Figures, measure, quiet

SECTION = 0.1
PROFILES = {"light": (1, 2), "medium": (3, 5), "heavy": (10, 15)}
USERS = (10, 100, 1_000)


@frozen
class Workshop:
    """A host whose users have so many projects; each section takes a tenth of a second, as a question to somebody may."""

    projects: int

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002  # all have as many
        return [Project(str(number), f"Project {number}") for number in range(self.projects)]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        await anyio.sleep(SECTION)
        return ProjectBrief(f"News of {request.project.name}")


async def seconds_for_a_brief(path: Path, projects: int, section_limit: int) -> float:
    """Plan, claim, generate and save one brief; give what that took from the claim on."""
    workshop, storage = Workshop(projects), SqliteStorage(path)
    briefs = Briefs(storage, projects=workshop, generator=workshop, section_limit=section_limit)
    at = NOW.replace(hour=9, minute=0, second=0)
    async with briefs:
        await storage.preferences.put([Preference(user_id="ana")])
        await briefs.plan(at - timedelta(minutes=30))
        begun = perf_counter()
        await briefs.run_once(at)
        seconds = perf_counter() - begun
        brief = await briefs.latest("ana")
    if brief is None or len(brief.sections) != projects or brief.failed:
        raise Wrong(f"{projects} projects came to {brief}")
    return seconds


def briefs_by_projects(folder: Path, rounds: int, most: int) -> str:
    rows: list[str] = []
    for profile, projects in PROFILES.items():
        for count in (each for each in projects if each <= most):
            took: dict[int, float] = {}
            for limit in (1, 8, 20):
                runs = [
                    asyncio.run(seconds_for_a_brief(folder / f"{count}-{limit}-{turn}.db", count, limit))
                    for turn in range(rounds)
                ]
                took[limit] = median(runs)
            cells = " | ".join(f"{took[limit]:.2f}" for limit in (1, 8, 20))
            rows.append(f"| {profile} | {count} | {cells} | {took[1] / took[20]:.1f} |")
    head = [
        "user",
        "projects",
        "one by one: s",
        "eight at once (the default): s",
        "twenty at once: s",
        "one by one / twenty",
    ]
    return table(head, rows)


def plans_by_users(folder: Path, rounds: int, most: int) -> tuple[str, str | None]:
    figures, missing = Figures(), None
    worlds = [World(users, users - round(users * INVALID)) for users in USERS if users <= most]
    with ExitStack() as stack:
        server = None
        try:
            server = stack.enter_context(server_for_figures())
        except (Missing, psycopg.Error) as error:
            missing = str(error)
        for world in worlds:
            with quiet(world), closing(SqliteBed(folder / f"{world.users}.db", world)) as sqlite:
                measure(sqlite, rounds, figures, {OURS, BEFORE, AFTER})
            if server is not None:
                with quiet(world), closing(PostgresBed(*server, world)) as postgres:
                    measure(postgres, rounds, figures, {OURS, BEFORE, AFTER})
    kinds = [kind for kind in (PostgresBed.kind, SqliteBed.kind) if any(key[0] == kind for key in figures.seconds)]
    rows: list[str] = []
    for kind in kinds:
        for world in worlds:
            cells = [
                f"{(figures.time(kind, world, step) or 0) * 1000:.0f} ({figures.calls[kind, world, step]:,})"
                for step in (BEFORE, AFTER, OURS)
            ]
            ratio = figures.ratio(kind, world, BEFORE, OURS) or 0
            rows.append(f"| {kind} | {world.users:,} | {' | '.join(cells)} | {ratio:.1f} |")
    head = [
        "database",
        "users, all due",
        f"{BEFORE}: ms (statements)",
        f"{AFTER}: ms",
        "this library: ms",
        "before / this",
    ]
    return table(head, rows), missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of few users, for a smoke test")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the figures into this page")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that a run that is ended leaves no server behind.
    random.seed(5)
    rounds = 1 if arguments.quick else 7
    with tempfile.TemporaryDirectory(prefix="fb-seed-") as name:
        folder = Path(name)
        made = briefs_by_projects(folder, min(rounds, 3), 5 if arguments.quick else 15)
        planned, missing = plans_by_users(folder, rounds, 100 if arguments.quick else 1_000)
    parts = [
        setting({"anyio", "psycopg"}),
        *([f"PostgreSQL was left out: {missing}"] if missing else []),
        made,
        planned,
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if arguments.docs:
        write_page(arguments.docs, "seed", text)


if __name__ == "__main__":
    main()
