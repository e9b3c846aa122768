"""Every clause of the smaller contracts is failed by some adapter that is wrong in just that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import get_cancelled_exc_class
from attrs import evolve

from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import JobRef, ProjectBrief, SectionRequest
from fanout_briefs.testing import check_dispatcher, check_engagement, check_generator
from fanout_briefs.testing.clauses import dispatcher_kit, engagement_kit, generator_kit
from fanout_briefs.testing.kit import BrokenClause, Kit

Visits = dict[str, datetime | None]
Trace = Callable[[str], None]


class Engagement:
    """A right one: a table of visits that is asked with one statement."""

    def __init__(self, visits: Mapping[str, datetime | None], trace: Trace | None = None) -> None:
        self.visits, self.trace = visits, trace or str

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        await anyio.lowlevel.checkpoint()
        return self.read(user_ids)

    def read(self, user_ids: Collection[str]) -> Visits:
        self.trace("SELECT")
        return {user_id: self.visits[user_id] for user_id in user_ids if user_id in self.visits}


class GivesOneMoment(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        latest = max(filter(None, self.visits.values()))
        return {user_id: at and latest for user_id, at in super().read(user_ids).items()}


class LeavesOutNever(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return {user_id: at for user_id, at in super().read(user_ids).items() if at is not None}


class GivesNaiveInstants(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return {user_id: at and at.replace(tzinfo=None) for user_id, at in super().read(user_ids).items()}


class CutsOffMicroseconds(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return {user_id: at and at.replace(microsecond=0) for user_id, at in super().read(user_ids).items()}


class GivesEverybodyForNobody(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return super().read(user_ids or self.visits)


class GivesNeighbours(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return super().read([*user_ids, "ann"] if user_ids and not {"ann", "never"} & {*user_ids} else user_ids)


class BreaksOnUnknownUsers(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        self.trace("SELECT")
        return {user_id: self.visits[user_id] for user_id in user_ids}


class IgnoresCase(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        self.trace("SELECT")
        known = {user_id.lower(): at for user_id, at in self.visits.items()}
        return {user_id: known[user_id.lower()] for user_id in user_ids if user_id.lower() in known}


class ReadsNoMoreThan999(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return super().read([*user_ids][:999])


class SharesItsAnswer(Engagement):
    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        self.asked = user_ids
        await anyio.lowlevel.checkpoint()
        return self.read(self.asked)


class SwallowsCancellation(Engagement):
    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        try:
            return await super().last_visits(user_ids)
        except get_cancelled_exc_class():
            return {}


class AsksOneByOne(Engagement):
    def read(self, user_ids: Collection[str]) -> Visits:
        return {user_id: at for each in user_ids for user_id, at in super(AsksOneByOne, self).read([each]).items()}


class Generator:
    """A right one."""

    made = 0

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        await anyio.lowlevel.checkpoint()
        return ProjectBrief(f"All is well with {request.project.name}.")


class GivesText(Generator):
    async def generate(self, request: SectionRequest) -> Any:
        return f"All is well with {request.project.name}."


class GivesEmptySections(Generator):
    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        return ProjectBrief(" ")


class ServesOneAtATime(Generator):
    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        if self.made:
            raise RuntimeError("busy")
        self.made = 1
        try:
            return await super().generate(request)
        finally:
            self.made = 0


class RefusesToBeAskedAgain(Generator):
    def __init__(self) -> None:
        self.asked: set[tuple[str, str, object]] = set()

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        section = await super().generate(request)
        if (asked := (request.user_id, request.project.id, request.window)) in self.asked:
            raise RuntimeError("asked before")
        self.asked.add(asked)
        return section


class CountsItsSections(Generator):
    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        section = await super().generate(request)
        self.made += 1
        return section and evolve(section, text=f"{section.text} {self.made}")


class DividesByTheWindow(Generator):
    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        rate = 1 / (request.window.end - request.window.start).total_seconds()
        return await super().generate(request) if rate else None


class AnswersWhenCancelled(Generator):
    async def generate(self, request: SectionRequest) -> Any:
        try:
            return await super().generate(request)
        except get_cancelled_exc_class():
            return "cancelled"


class Dispatcher:
    """A right one."""

    def __init__(self) -> None:
        self.carried: dict[str, JobRef] = {}
        self.busy = False

    @property
    def powers(self) -> DispatcherPowers:
        return DispatcherPowers(cancels=True)

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        await anyio.lowlevel.checkpoint()
        for job in jobs:
            self.carried.pop(job.dedup_key, None)

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        await anyio.lowlevel.checkpoint()
        self.carry(jobs)

    def carry(self, jobs: Sequence[JobRef]) -> None:
        self.carried.update((job.dedup_key, job) for job in jobs)


class SaysWhatItCanDo(Dispatcher):
    powers: Any = "everything"


class CannotTakeBackWhatItSaysItCan(Dispatcher):
    cancel: Any = None


class TakesBackOnlyWhatItHas(Dispatcher):
    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        for job in jobs:
            del self.carried[job.dedup_key]


class WantsJobs(Dispatcher):
    def carry(self, jobs: Sequence[JobRef]) -> None:
        super().carry([jobs[0], *jobs[1:]])


class RefusesJobsThatItHas(Dispatcher):
    def carry(self, jobs: Sequence[JobRef]) -> None:
        for job in jobs:
            if self.carried.get(job.dedup_key) == job:
                raise ValueError(job)
            super().carry([job])


class CarriesNoMoreThan999(Dispatcher):
    def carry(self, jobs: Sequence[JobRef]) -> None:
        if len(jobs) > 999:
            raise ValueError(len(jobs))


class SplitsKeys(Dispatcher):
    def carry(self, jobs: Sequence[JobRef]) -> None:
        for job in jobs:
            _kind, _date, _user = job.dedup_key.split(":")


class RefusesOldJobs(Dispatcher):
    def carry(self, jobs: Sequence[JobRef]) -> None:
        for job in jobs:
            if job.run_at.year < 2026:
                raise ValueError(job)


class ServesOneTask(Dispatcher):
    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        if self.busy:
            raise RuntimeError("busy")
        self.busy = True
        try:
            await super().dispatch(jobs)
        finally:
            self.busy = False


class StaysBusyWhenCancelled(Dispatcher):
    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        if self.busy:
            raise RuntimeError("busy")
        try:
            await super().dispatch(jobs)
        except get_cancelled_exc_class():
            self.busy = True
            raise


ENGAGEMENTS: Mapping[type[Engagement], set[str]] = {
    Engagement: set(),
    GivesOneMoment: {
        "engagement.aware",
        "engagement.awkward-ids",
        "engagement.last-visits",
        "engagement.many-tasks",
        "engagement.only-those",
        "engagement.thousands-at-once",
        "engagement.unknown-users",
    },
    LeavesOutNever: {"engagement.many-tasks", "engagement.never-is-none"},
    GivesNaiveInstants: {
        "engagement.aware",
        "engagement.awkward-ids",
        "engagement.cancellation",
        "engagement.last-visits",
        "engagement.many-tasks",
        "engagement.never-is-none",
        "engagement.only-those",
        "engagement.thousands-at-once",
        "engagement.unknown-users",
    },
    CutsOffMicroseconds: {"engagement.aware"},
    GivesEverybodyForNobody: {"engagement.nobody"},
    GivesNeighbours: {"engagement.last-visits", "engagement.many-tasks", "engagement.only-those"},
    BreaksOnUnknownUsers: {"engagement.unknown-users"},
    IgnoresCase: {"engagement.awkward-ids"},
    ReadsNoMoreThan999: {"engagement.thousands-at-once"},
    SharesItsAnswer: {"engagement.many-tasks"},
    SwallowsCancellation: {"engagement.cancellation"},
    AsksOneByOne: {"engagement.costs"},
}
GENERATORS: Mapping[type[Generator], set[str]] = {
    Generator: set(),
    GivesText: {
        "generator.again-does-no-harm",
        "generator.any-user-and-window",
        "generator.cancellation",
        "generator.many-at-once",
        "generator.section-or-none",
    },
    GivesEmptySections: {
        "generator.again-does-no-harm",
        "generator.any-user-and-window",
        "generator.cancellation",
        "generator.many-at-once",
        "generator.section-or-none",
    },
    ServesOneAtATime: {"generator.many-at-once", "generator.repeatable"},
    RefusesToBeAskedAgain: {"generator.again-does-no-harm", "generator.any-user-and-window", "generator.repeatable"},
    CountsItsSections: {"generator.repeatable"},
    DividesByTheWindow: {"generator.any-user-and-window"},
    AnswersWhenCancelled: {"generator.cancellation"},
}
DISPATCHERS: Mapping[type[Dispatcher], set[str]] = {
    Dispatcher: set(),
    SaysWhatItCanDo: {"dispatcher.powers"},
    CannotTakeBackWhatItSaysItCan: {"dispatcher.powers"},
    TakesBackOnlyWhatItHas: {"dispatcher.powers"},
    WantsJobs: {"dispatcher.nothing"},
    RefusesJobsThatItHas: {"dispatcher.again-does-no-harm", "dispatcher.many-tasks"},
    CarriesNoMoreThan999: {"dispatcher.thousands-at-once"},
    SplitsKeys: {"dispatcher.any-key-and-time"},
    RefusesOldJobs: {"dispatcher.any-key-and-time"},
    ServesOneTask: {"dispatcher.many-tasks"},
    StaysBusyWhenCancelled: {"dispatcher.cancellation"},
}


def opening(adapter: Callable[..., Any]) -> Callable[..., AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def open_adapter(*given: Any, **more: Any) -> AsyncGenerator[Any]:
        yield adapter(*given, **more)

    return open_adapter


CHECKS: list[tuple[Kit, Callable[..., Any], Mapping[Any, set[str]]]] = [
    (engagement_kit, partial(check_engagement, capabilities=["trace"]), ENGAGEMENTS),
    (generator_kit, partial(check_generator, capabilities=["repeatable"]), GENERATORS),
    (dispatcher_kit, check_dispatcher, DISPATCHERS),
]
ALL = [pytest.param(check, *each, id=each[0].__name__) for _, check, table in CHECKS for each in table.items()]


@pytest.mark.parametrize(("check", "adapter", "fails"), ALL)
async def test_a_wrong_adapter_fails_its_clauses_and_keeps_all_others(
    check: Callable[..., Any], adapter: type, fails: set[str]
) -> None:
    broken: Sequence[BrokenClause] = await check(opening(adapter))
    assert {clause.id for clause in broken} == fails


@pytest.mark.parametrize(("kit", "table"), [pytest.param(kit, table, id=kit.port) for kit, _, table in CHECKS])
def test_every_clause_is_failed_by_some_wrong_adapter(kit: Kit, table: Mapping[Any, set[str]]) -> None:
    assert {clause.id for clause in kit} == {clause for fails in table.values() for clause in fails}
