"""What a world lies in, and what is measured there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Protocol

from attrs import frozen

from fanout_briefs import SchedulePlanner
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import JobStatus, SkipReason
from fanout_briefs.plans import PlanReport
from fanout_briefs.ports import Engagement
from fanout_briefs.timing import Timing

from .world import LATER, LEAD, NAME, NOW, SPAN, World, Wrong

TIMING = Timing(lead=LEAD, horizon=SPAN - LEAD)
PAGE_SIZE = 20_000
OURS, AGAIN, SMALL = "ours", "ours, all planned already", "ours, pages of 1,000 (the default)"
FOUR, COPY, SINGLE = "floor: the four raw statements", "floor: the same rows by COPY", "floor: by one INSERT"
MANY = "floor: the same rows by executemany"
BEFORE, AFTER = "the seed's before: a loop", "the seed's after: in parallel"
PIPELINED = "the seed's after, pipelined by psycopg"


@frozen
class Step:
    """Something that is timed, and what has to be true of it."""

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]


@frozen
class Rival:
    """A way to plan: ``steps`` gives them with everything open and warm. ``most`` is up to how many it is asked for."""

    steps: Callable[[], AbstractContextManager[Sequence[Step]]]
    most_users: int = 10_000_000
    most_due: int = 10_000_000


class Bed(Protocol):
    """A database with a world in it."""

    kind: str
    world: World

    def rivals(self) -> Mapping[str, Rival]:
        """Give everybody who can plan here."""
        ...

    def reset(self) -> None:
        """Forget what was planned."""
        ...

    def states(self) -> dict[str, str]:
        """Give the state of each planned slot by user."""
        ...

    def count(self) -> AbstractContextManager[list[int]]:
        """Count statements: the list holds their number once the block is left."""
        ...


def must_be(bed: Bed, *, only: str | None = None) -> Callable[[object], None]:
    """Check the slots in the database; the seed made none of those who are skipped."""

    def check(_: object) -> None:
        right = {user: state for user, state in bed.world.expected.items() if only in {None, state}}
        found = bed.states()
        if found != right:
            differing = sum(found.get(user) != right.get(user) for user in found.keys() | right.keys())
            raise Wrong(f"{len(found)} slots where {len(right)} belong; {differing} users differ")

    return check


def planner_of(
    storage: PostgresStorage | SqliteStorage, engagement: Engagement, page_size: int = PAGE_SIZE
) -> SchedulePlanner:
    """Give the planner as a host with many users would make it."""
    return SchedulePlanner(
        preferences=storage.preferences,
        engagement=engagement,
        ledger=storage,
        name=NAME,
        timing=TIMING,
        page_size=page_size,
    )


@contextmanager
def ours(
    bed: Bed, storage: PostgresStorage | SqliteStorage, engagement: Engagement, page_size: int = PAGE_SIZE
) -> Generator[list[Step]]:
    """Plan by this library: twice, or with other pages than ours once."""
    planner, is_right, world = planner_of(storage, engagement, page_size), must_be(bed), bed.world

    def first(report: PlanReport) -> None:
        expect(report, due=world.due, enqueued=world.sent, duplicates=0, failed=0)
        refused = {SkipReason.ENGAGEMENT: world.skipped, SkipReason.INVALID_SCHEDULE: world.invalid}
        if dict(report.skipped) != {code: number for code, number in refused.items() if number}:
            raise Wrong(f"skipped {report.skipped}, should be {refused}")
        is_right(None)

    def second(report: PlanReport) -> None:
        expect(report, due=world.due, enqueued=0, duplicates=world.sent, failed=0)
        if report.existing != {JobStatus.PENDING: world.sent}:
            raise Wrong(f"found {report.existing}")
        is_right(None)

    with asyncio.Runner() as runner:

        def plan(now: datetime) -> PlanReport:
            return runner.run(planner.plan(now))

        runner.run(storage.__aenter__())
        try:
            if page_size == PAGE_SIZE:
                yield [Step(OURS, lambda: plan(NOW), first), Step(AGAIN, lambda: plan(LATER), second)]
            else:
                yield [Step(SMALL, lambda: plan(NOW), first)]
        finally:
            runner.run(storage.__aexit__(None, None, None))


def expect(report: PlanReport, **figures: int) -> None:
    """Compare a report with what it has to say."""
    wrong = {name: getattr(report, name) for name, right in figures.items() if getattr(report, name) != right}
    if wrong:
        raise Wrong(f"the report says {wrong}, should say {figures}; {report.problems[:2]}")
