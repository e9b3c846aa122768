"""Each claim of ``seed/phase1.md``, as a test of the shipped code. Time is virtual: nothing here waits.

The seed proved its claims with copies of its code and a stopwatch. Here ``Briefs``, ``SchedulePlanner``,
``BatchDeduplicator`` and ``gather_settled`` are called themselves, and speed is told by an event loop whose
clock jumps, or by counting calls. Each test names the line that it answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanout_briefs import (
    BackoffPolicy,
    BatchDeduplicator,
    Brief,
    BriefProgress,
    Briefs,
    Fulfilled,
    Job,
    JobStatus,
    Occurrence,
    PlanReport,
    Preference,
    Progress,
    Project,
    ProjectBrief,
    Rejected,
    RunReport,
    SchedulePlanner,
    SectionRequest,
    SkipReason,
    Window,
    gather_settled,
)
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.model import Enqueued
from virtual_time import in_virtual_time

NINE = datetime(2025, 9, 30, 9, tzinfo=UTC)
TODAY = date(2025, 9, 30)
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return in_virtual_time(request.param)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as opened:
        yield opened


def users(count: int) -> list[Preference]:
    return [Preference(user_id=f"user-{number:04}") for number in range(1, count + 1)]


# Parallel project briefs (tests/briefGenerator.test.ts)


class Workshop:
    """A host's projects and generator. Each section takes a tenth of a second; what happens is written down."""

    def __init__(self, count: int, fails: Callable[[int], bool] = lambda number: False) -> None:
        self.count = count
        self.fails = fails
        self.events: list[tuple[str, int, float]] = []

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project(str(number), f"Project {number}") for number in range(self.count)]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        number = int(request.project.id)
        self.events.append(("start", number, anyio.current_time()))
        try:
            await anyio.sleep(0.1)
            if self.fails(number):
                raise RuntimeError(f"Project {number} failed")
            return ProjectBrief(f"News of project {number}")
        finally:
            self.events.append(("end", number, anyio.current_time()))

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        moments = [moment for _, _, moment in self.events]
        return max(moments) - min(moments)


class Made:
    """What came of one user's brief."""

    def __init__(self, report: RunReport, brief: Brief | None, job: Job, progress: Sequence[Progress]) -> None:
        self.report = report
        self.brief = brief
        self.job = job
        self.progress = progress


async def make_brief(storage: MemoryStorage, workshop: Workshop, section_limit: int = 20) -> Made:
    """Plan and generate one user's brief as a host does."""
    progress: list[BriefProgress] = []
    await storage.preferences.put(users(1))
    briefs = Briefs(
        storage, projects=workshop, generator=workshop, section_limit=section_limit, on_progress=progress.append
    )
    async with briefs:
        await briefs.plan(NINE - 30 * MINUTE)
        report = await briefs.run_once(NINE)
        brief = await briefs.latest("user-0001")
    (job,) = (await storage.find([f"daily_brief:{TODAY}:user-0001"])).values()
    return Made(report, brief, job, [each.progress for each in progress])


async def test_five_projects_of_100_ms_take_about_100_ms(storage: MemoryStorage) -> None:
    """Seed: "should demonstrate speedup vs sequential processing - 5 projects: 500ms -> 100ms (5x speedup)"."""
    side_by_side, one_by_one = Workshop(5), Workshop(5)
    await make_brief(storage, side_by_side)
    async with MemoryStorage() as other:
        await make_brief(other, one_by_one, section_limit=1)

    assert side_by_side.seconds == pytest.approx(0.1)
    assert one_by_one.seconds == pytest.approx(0.5)


async def test_every_project_has_started_before_any_has_ended(storage: MemoryStorage) -> None:
    """Seed: "should process multiple projects in parallel - checks execution order (all start simultaneously)"."""
    workshop = Workshop(3)
    await make_brief(storage, workshop)

    assert [what for what, _, _ in workshop.events] == ["start"] * 3 + ["end"] * 3
    starts = [moment for what, _, moment in workshop.events if what == "start"]
    assert max(starts) - min(starts) < 0.02
    assert workshop.seconds < 0.3


async def test_projects_wait_for_each_other_to_start_and_none_is_left_waiting() -> None:
    """Seed: "Projects processed concurrently instead of sequentially" - told by a rendezvous, without any clock."""
    met = anyio.Event()
    here: list[int] = []

    async def work(number: int) -> int:
        here.append(number)
        if len(here) == 5:
            met.set()
        await met.wait()
        return number

    outcomes = await gather_settled(work, range(5), limit=5)

    assert [outcome.value for outcome in outcomes if isinstance(outcome, Fulfilled)] == [0, 1, 2, 3, 4]


async def test_one_of_three_fails_and_two_complete(storage: MemoryStorage) -> None:
    """Seed: "should handle project failures gracefully without blocking others - 3 projects, 1 fails"."""
    workshop = Workshop(3, fails=lambda number: number == 1)
    made = await make_brief(storage, workshop)

    assert made.job.status is JobStatus.COMPLETED
    assert made.brief is not None
    assert [section.text for section in made.brief.sections] == ["News of project 0", "", "News of project 2"]
    # The seed dropped the failure silently; here the brief names it.
    assert [section.error for section in made.brief.failed] == ["RuntimeError: Project 1 failed"]
    assert made.report.partial == 1
    assert workshop.seconds == pytest.approx(0.1)


async def test_when_all_fail_all_complete_and_the_brief_is_tried_again_instead_of_being_empty(
    storage: MemoryStorage,
) -> None:
    """Seed: "should complete all projects even if all fail - returns empty array without throwing".

    All are carried to their end here too. But a brief without any section is no success: it stays queued, with
    what happened, and is tried again.
    """
    workshop = Workshop(3, fails=lambda number: True)
    made = await make_brief(storage, workshop)

    assert Counter(what for what, _, _ in workshop.events) == {"start": 3, "end": 3}
    assert made.brief is None
    assert made.job.status is JobStatus.PENDING
    assert "every section failed (3)" in str(made.job.error)
    assert all(f"Project {number} failed" in str(made.job.error) for number in range(3))
    assert made.report.retrying == 1
    assert not made.report.ok


async def test_gathering_gives_every_outcome_and_never_raises_though_all_fail() -> None:
    """Seed: "Chose Promise.allSettled - one failure doesn't crash entire batch, preserves partial results"."""

    async def fail(number: int) -> int:
        raise ValueError(number)

    outcomes = await gather_settled(fail, range(4), limit=2)

    assert [(outcome.index, outcome.item) for outcome in outcomes] == [(number, number) for number in range(4)]
    assert all(isinstance(outcome, Rejected) and isinstance(outcome.error, ValueError) for outcome in outcomes)


async def test_fifteen_projects_take_as_long_as_one(storage: MemoryStorage) -> None:
    """Seed: "should process 10+ projects efficiently - 15 projects in <200ms (vs 750ms sequential)"."""
    workshop = Workshop(15)
    made = await make_brief(storage, workshop)

    assert made.brief is not None
    assert len(made.brief.sections) == 15
    assert workshop.seconds == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (2, 1), (3, 1), (5, 1), (10, 2), (15, 2)])
async def test_light_medium_and_heavy_users_wait_for_rounds_not_for_projects(
    storage: MemoryStorage, count: int, rounds: int
) -> None:
    """Seed: "Brief Generation: light 1-2, medium 3-5, heavy 10+ projects" - here no more than eight at once."""
    workshop = Workshop(count)
    await make_brief(storage, workshop, section_limit=8)

    assert workshop.seconds == pytest.approx(0.1 * rounds)


async def test_sections_keep_the_order_of_the_projects_however_they_finish(storage: MemoryStorage) -> None:
    """Seed: "projectBriefResults .filter(...) .map(...)" keeps the order of the projects."""

    class Uneven(Workshop):
        async def generate(self, request: SectionRequest) -> ProjectBrief:
            await anyio.sleep((7 * int(request.project.id)) % 5)
            return await super().generate(request)

    workshop = Uneven(5)
    made = await make_brief(storage, workshop)

    assert [number for what, number, _ in workshop.events if what == "end"] != [0, 1, 2, 3, 4]
    assert made.brief is not None
    assert [section.project_id for section in made.brief.sections] == ["0", "1", "2", "3", "4"]


async def test_progress_is_told_step_by_step_and_never_goes_back(storage: MemoryStorage) -> None:
    """Seed: "Progress tracking preserved"."""
    made = await make_brief(storage, Workshop(5, fails=lambda number: number == 3))

    sections = [progress for progress in made.progress if progress.step == "sections"]
    assert [(progress.completed, progress.total) for progress in sections] == [(count, 5) for count in range(6)]
    assert sections[-1].failed == 1
    steps = list(dict.fromkeys(progress.step for progress in made.progress))
    assert steps == ["projects", "sections", "composing", "saving"]


async def test_no_project_costs_more_memory_than_the_limit_lets_run() -> None:
    """Seed: "Memory usage - parallel processing may use slightly more memory": here the limit bounds it."""
    running, most = 0, 0

    async def work(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.1)
        running -= 1

    begun = anyio.current_time()
    await gather_settled(work, range(100), limit=10)

    assert most == 10
    assert anyio.current_time() - begun == pytest.approx(1.0)


# Batch scheduler (tests/scheduler-parallel.test.ts)


class Counting(MemoryStorage):
    """Counts what the ledger is asked; each answer takes a tenth of a second, as a query over a network may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.keys = 0

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        self.asked["find"] += 1
        self.keys += len(keys)
        await anyio.sleep(0.1)
        return await super().find(keys)

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        self.asked["last_briefs"] += 1
        await anyio.sleep(0.1)
        return await super().last_briefs(type, before)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        self.asked["enqueue"] += 1
        await anyio.sleep(0.1)
        return await super().enqueue(jobs)


class Visits:
    """A host's engagement: one answer takes a tenth of a second, whoever it is about."""

    def __init__(self, unreadable: Collection[str] = ()) -> None:
        self.unreadable = unreadable
        self.calls: list[int] = []

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        self.calls.append(len(user_ids))
        await anyio.sleep(0.1)
        return {user_id: NINE for user_id in user_ids if user_id not in self.unreadable}


@pytest.fixture
async def counting() -> AsyncIterator[Counting]:
    async with Counting() as opened:
        yield opened


async def plan(storage: MemoryStorage, count: int, visits: Visits | None = None, **how: Any) -> PlanReport:
    await storage.preferences.put(users(count))
    planner = SchedulePlanner(preferences=storage.preferences, engagement=visits, ledger=storage, **how)
    return await planner.plan(NINE - 30 * MINUTE)


async def test_ten_users_engagement_is_read_in_the_time_of_one(counting: Counting) -> None:
    """Seed: "should check engagement status for all users in parallel - 10 users in <150ms (vs 500ms sequential)"."""
    visits = Visits()
    begun = anyio.current_time()
    report = await plan(counting, 10, visits, policy=BackoffPolicy.phase1())

    assert visits.calls == [10]
    assert report.enqueued == 10
    assert anyio.current_time() - begun == pytest.approx(0.4)  # the read, and three looks at the ledger


@pytest.mark.parametrize(("policy", "enqueued", "put_off"), [(BackoffPolicy.phase1(), 3, 0), (BackoffPolicy(), 2, 1)])
async def test_an_engagement_check_that_fails_for_one_user_affects_no_other(
    counting: Counting, policy: BackoffPolicy, enqueued: int, put_off: int
) -> None:
    """Seed: "should handle engagement check failures without blocking other users - 1 failure out of 3 users"."""
    report = await plan(counting, 3, Visits(unreadable=["user-0002"]), policy=policy)

    assert (report.due, report.enqueued, report.failed) == (3, enqueued, 0)
    assert report.skipped.get(SkipReason.ENGAGEMENT_UNAVAILABLE, 0) == put_off
    assert {"user-0001", "user-0003"} <= {job.user_id for job in (await slots(counting, 3)).values()}


async def slots(storage: MemoryStorage, count: int) -> Mapping[str, Job]:
    return await storage.find([f"daily_brief:{TODAY}:{user.user_id}" for user in users(count)])


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
async def test_existing_jobs_are_looked_up_with_one_query_for_all_users(counting: Counting, count: int) -> None:
    """Seed: "should check for existing jobs with single query for all users - 100 users = 1 query (not 100)"."""
    await plan(counting, count, Visits())

    assert counting.asked == {"find": 1, "last_briefs": 1, "enqueue": 1}
    assert counting.keys == count


async def test_users_with_existing_jobs_are_filtered_out_by_an_index() -> None:
    """Seed: "should efficiently filter users with existing jobs - Map-based lookup for O(1) checking"."""
    looked_at = Counter[str]()

    class Existing(list[Job]):
        def __iter__(self) -> Any:
            looked_at["existing"] += 1
            return super().__iter__()

    def job(user_id: str, at: datetime, status: JobStatus = JobStatus.PENDING) -> Job:
        return Job(
            type="daily_brief",
            user_id=user_id,
            occurrence=Occurrence(TODAY, at),
            run_at=at,
            window=Window(at, at),
            status=status,
        )

    existing = Existing([job("user-0002", NINE + 5 * MINUTE)])
    candidates = [job(user.user_id, NINE) for user in users(3)]
    deduplicator = BatchDeduplicator(existing, tolerance=30 * MINUTE)
    fresh, duplicates = deduplicator.split(candidates)

    assert [each.user_id for each in fresh] == ["user-0001", "user-0003"]
    assert [each.user_id for each in duplicates] == ["user-0002"]
    for _ in range(1000):
        deduplicator.split(candidates)
    assert looked_at["existing"] <= 2  # read when it was made, and never again


async def test_a_planner_leaves_out_who_has_a_job_already(counting: Counting) -> None:
    """Seed: "Phase 3: Single DB query for all duplicate checks", then only ``usersToQueue`` are queued."""
    await plan(counting, 40)
    report = await plan(counting, 100)

    assert (report.due, report.enqueued, report.duplicates) == (100, 60, 40)
    assert report.existing == {JobStatus.PENDING: 40}


async def test_fifty_jobs_are_queued_in_the_time_of_one(counting: Counting) -> None:
    """Seed: "should queue multiple jobs in parallel - 50 users in <100ms (vs 1000ms sequential)"."""
    begun = anyio.current_time()
    report = await plan(counting, 50)

    assert report.enqueued == 50
    assert counting.asked["enqueue"] == 1
    assert anyio.current_time() - begun == pytest.approx(0.2)  # one look-up and one bulk insert


async def test_successes_and_failures_are_reported_apart() -> None:
    """Seed: "should report successes and failures separately - 4 jobs: 2 succeed, 2 fail, detailed tracking"."""

    class HalfBroken(Counting):
        async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
            if jobs[0].user_id in {"user-0002", "user-0003"}:
                raise OSError("queue error")
            return await super().enqueue(jobs)

    async with HalfBroken() as storage:
        report = await plan(storage, 4, page_size=1)

        assert (report.due, report.enqueued, report.failed) == (4, 2, 2)
        assert ["queue error" in problem.message for problem in report.problems] == [True, True]
        assert sorted(job.user_id for job in (await slots(storage, 4)).values()) == ["user-0001", "user-0004"]


async def test_a_hundred_users_take_as_long_as_one(counting: Counting) -> None:
    """Seed: "should demonstrate 10x speedup vs sequential processing - 100 users: 9000ms -> 90ms"."""
    begun = anyio.current_time()
    await plan(counting, 100, Visits())
    hundred = anyio.current_time() - begun
    async with Counting() as other:
        begun = anyio.current_time()
        await plan(other, 1, Visits())
        one = anyio.current_time() - begun

    assert hundred == pytest.approx(one)
    assert hundred == pytest.approx(0.4)  # one duplicate check, one engagement read, one look at briefs, one insert


@pytest.mark.parametrize("count", [10, 100, 1000, 1001, 2500])
async def test_a_thousand_users_and_more_are_planned_a_page_at_a_time(counting: Counting, count: int) -> None:
    """Seed: "Edge cases: ... 1000+ users", and its table "10, 100, 1000 users" of the scheduler."""
    visits = Visits()
    report = await plan(counting, count, visits)

    pages = -(-count // 1000)
    assert (report.scanned, report.due, report.enqueued) == (count, count, count)
    assert counting.asked == {"find": pages, "last_briefs": pages, "enqueue": pages}
    assert len(visits.calls) == pages


async def test_a_single_user_is_planned(counting: Counting) -> None:
    """Seed: "Edge cases: empty list, single user, 1000+ users"."""
    report = await plan(counting, 1, Visits())

    assert (report.scanned, report.due, report.enqueued) == (1, 1, 1)


async def test_nobody_at_all_is_planned_without_a_query(counting: Counting) -> None:
    """Seed: "Edge cases: empty list, single user, 1000+ users"."""
    visits = Visits()
    report = await plan(counting, 0, visits)

    assert (report.scanned, report.due, report.enqueued, report.ok) == (0, 0, 0, True)
    assert counting.asked == {}
    assert visits.calls == []


async def test_a_plan_tells_its_four_phases_with_counts_and_times(counting: Counting) -> None:
    """Seed: "4-Phase Parallel" and "Detailed logging for success/failure tracking"."""
    report = await plan(counting, 7, Visits())

    assert {name: phase.items for name, phase in report.phases.items()} == dict.fromkeys(
        ("due", "duplicates", "engagement", "enqueue"), 7
    )


async def test_many_briefs_are_generated_side_by_side_as_well(storage: MemoryStorage) -> None:
    """Seed: "3-5x speedup for multi-project users and 10x faster scheduling for 100+ users", both at once."""
    workshop = Workshop(5)
    await storage.preferences.put(users(10))
    begun = anyio.current_time()
    async with Briefs(storage, projects=workshop, generator=workshop, concurrency=10) as briefs:
        plan_report = await briefs.plan(NINE - 30 * MINUTE)
        report = await briefs.run_once(NINE)

    assert (plan_report.enqueued, report.briefs) == (10, {JobStatus.COMPLETED: 10})
    assert len(workshop.events) == 2 * 10 * 5
    assert anyio.current_time() - begun == pytest.approx(0.1)  # fifty sections of 100 ms


async def test_a_failed_brief_is_made_by_a_later_run(storage: MemoryStorage) -> None:
    """Seed: "Backward compatible, error handling preserved"; a failure is not the end of a brief here."""
    failing = [True]
    workshop = Workshop(2, fails=lambda number: failing[0])
    made = await make_brief(storage, workshop)
    assert made.job.status is JobStatus.PENDING
    failing[0] = False

    async with Briefs(storage, projects=workshop, generator=workshop) as briefs:
        report = await briefs.run_once(NINE + 10 * MINUTE)

    assert report.briefs == {JobStatus.COMPLETED: 1}


async def test_outcomes_settle_without_any_clock_too() -> None:
    """Seed: "Error isolation: one project failure doesn't block others"."""

    async def work(number: int) -> int:
        await checkpoint()
        return 10 // number

    outcomes = await gather_settled(work, [1, 0, 2], limit=3)

    kinds: list[type] = [type(outcome) for outcome in outcomes]
    assert kinds == [Fulfilled, Rejected, Fulfilled]
    assert isinstance(outcomes[1], Rejected)
    assert isinstance(outcomes[1].error, ZeroDivisionError)
