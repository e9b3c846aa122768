"""What goes into ``Briefs`` and its like, and what comes out. Read by type checkers; nobody runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import assert_type

import anyio
from celery import Celery
from port_types import Addresses, Always, AlwaysSomething, Lists, Post, Queue, Users, UsersBySchedule, Visits

import fanout_briefs
from fanout_briefs import (
    BackoffPolicy,
    Brief,
    BriefProgress,
    Briefs,
    CatchUp,
    Concern,
    Ended,
    Explanation,
    Job,
    JobRun,
    JobStatus,
    Occurrence,
    Overview,
    PlanReport,
    Progress,
    Reconciled,
    Rendered,
    Retrying,
    RunReport,
    Schedule,
    SchedulePlanner,
    Section,
    SkipReason,
    Status,
    Timing,
    Verdict,
)
from fanout_briefs.adapters.celery import CeleryDispatcher
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.in_thread import SyncProjects, in_thread
from fanout_briefs.adapters.jinja import JinjaGenerator
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.opentelemetry import Telemetry
from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher
from fanout_briefs.adapters.smtp import SmtpMailer
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import Problem
from fanout_briefs.plans import Phase
from fanout_briefs.render import render_brief
from fanout_briefs.serve import Round
from fanout_briefs.testing import Clock
from redis_briefs import RedisStorage


def two_ports_are_enough() -> Briefs:
    return Briefs(MemoryStorage(), projects=Lists(), generator=AlwaysSomething())


def each_port_takes_a_hosts_own() -> Sequence[Briefs]:
    return [
        Briefs(
            SqliteStorage("briefs.db"),
            projects=Lists(),
            generator=AlwaysSomething(),
            preferences=preferences,
            engagement=Visits(),
            recipients=Addresses(),
            mailer=Post(),
            dispatcher=Queue(),
            policy=Always(),
        )
        for preferences in (Users(), UsersBySchedule())
    ]


def each_port_takes_the_shipped_ones(
    projects: SyncProjects,
    generator: JinjaGenerator,
    mailer: EmlMailer | SmtpMailer,
    app: Celery,
    now: datetime,
) -> Sequence[Briefs]:
    tables = PgQueuerDispatcher("")
    return [
        Briefs(
            storage,
            projects=in_thread(projects),
            generator=generator,
            recipients=Addresses(),
            mailer=mailer,
            dispatcher=dispatcher,
            policy=BackoffPolicy.phase1(),
            on_progress=Telemetry().on_progress,
            clock=Clock(now),
        )
        for storage in (
            MemoryStorage(),
            SqliteStorage(""),
            PostgresStorage("", on_pending=tables.within),
            RedisStorage(""),
        )
        for dispatcher in (CeleryDispatcher(app), tables, ProcrastinateDispatcher(""), None)
    ]


def catching_up_is_told_by_name_or_member(storage: MemoryStorage) -> Sequence[Briefs]:
    return [
        Briefs(storage, projects=Lists(), generator=AlwaysSomething(), catch_up=catch_up, retrying=Retrying(attempts=2))
        for catch_up in (CatchUp.EACH, "each")
    ]


def hooks_are_given_what_they_say(storage: MemoryStorage) -> None:
    def render(occurrence: Occurrence, sections: Sequence[Section]) -> Rendered:
        return render_brief("Daily", occurrence, sections)

    def note(told: BriefProgress) -> None:
        assert_type(told.job, Job)
        assert_type(told.progress, Progress)

    Briefs(storage, projects=Lists(), generator=AlwaysSomething(), render=render, on_progress=note)
    Briefs(
        storage,
        projects=Lists(),
        generator=AlwaysSomething(),
        render=lambda occurrence, sections: Rendered(str(occurrence.local_date), sections[0].text, ""),
        on_progress=lambda told: assert_type(told, BriefProgress),
    )


def the_planner_takes_ports_alone(storage: SqliteStorage) -> SchedulePlanner:
    SchedulePlanner(preferences=Users(), ledger=storage)
    return SchedulePlanner(
        preferences=storage.preferences, ledger=storage, engagement=Visits(), policy=Always(), timing=Timing()
    )


class Ours(Briefs):
    """A host's own kind."""


async def what_is_entered_is_the_same(briefs: Briefs, ours: Ours) -> None:
    async with briefs as opened, ours as our_own:
        assert_type(opened, Briefs)
        assert_type(our_own, Ours)
        assert_type(opened, fanout_briefs.Briefs)


async def plans_and_runs_report(briefs: Briefs, planner: SchedulePlanner, now: datetime) -> None:
    report = await briefs.plan(now, on_verdict=lambda verdict: assert_type(verdict, Verdict))
    assert_type(report, PlanReport)
    assert_type(await planner.plan(now), PlanReport)
    assert_type(report.skipped, Mapping[SkipReason, int])
    assert_type(report.existing, Mapping[JobStatus, int])
    assert_type(report.phases, Mapping[str, Phase])
    assert_type(report.problems, Sequence[Problem])
    assert_type(report.mark, datetime | None)
    run = await briefs.run_once(now, lambda ended: assert_type(ended, Ended), draining=anyio.Event())
    assert_type(run, RunReport)
    assert_type(run.mails, Mapping[JobStatus, int])
    assert_type(await briefs.run_job("key"), JobRun)
    await briefs.serve(on_round=lambda told: assert_type(told, Round))
    assert_type(await briefs.reconcile(), Reconciled)


async def questions_have_answers(briefs: Briefs, on: date) -> None:
    explanation = await briefs.explain("ann", on)
    assert_type(explanation, Explanation)
    assert_type(explanation.job, Job | None)
    assert_type(explanation.occurrence, Occurrence | None)
    assert_type(await briefs.next("ann"), Explanation)
    assert_type(await briefs.preview("ann"), Brief | None)
    assert_type(await briefs.latest("ann"), Brief | None)
    status = await briefs.status(since=timedelta(days=2))
    assert_type(status, Status)
    assert_type(status.mails, Overview | None)
    assert_type(status.concerns, Sequence[Concern])
    assert_type(briefs.job_types, Mapping[str, int])


async def what_a_person_does_by_hand_says_what_it_did(briefs: Briefs) -> None:
    assert_type(await briefs.generate_now("ann", resend=True), Brief | None)
    assert_type(await briefs.regenerate("ann"), bool)
    assert_type(await briefs.retry("ann"), bool)
    assert_type(await briefs.retry_all(statuses=[JobStatus.UNKNOWN]), int)
    assert_type(await briefs.cancel("ann"), bool)
    assert_type(await briefs.pause(), bool)
    assert_type(await briefs.resume(), int | None)
    assert_type(await briefs.prune(timedelta(days=90)), int)
    assert_type(await briefs.forget("ann"), int)


def a_schedule_gives_occurrences(schedule: Schedule, now: datetime) -> None:
    assert_type(Schedule.parse("weekly", time_of_day="09:00", day_of_week=1), Schedule)
    assert_type(schedule.next_after(now), Occurrence)
    assert_type([each.local_date for each in schedule.between(now, now)], list[date])
    assert_type(schedule.on(now.date()), Occurrence | None)
    assert_type(schedule.look(now, now), tuple[list[Occurrence], datetime])


def a_brief_may_be_none(brief: Brief | None) -> str:
    return brief.rendered.text  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]  # there may be nothing to say


def what_is_in_the_wrong_place_is_refused(storage: MemoryStorage) -> None:
    Briefs(storage, projects=Lists())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no generator
    Briefs(storage, Lists(), AlwaysSomething())  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]  # without names
    Briefs(
        storage,
        name=None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        projects=AlwaysSomething(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        generator=Lists(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        preferences=Addresses(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        engagement=Always(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        recipients=Users(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        mailer=Queue(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        dispatcher=Post(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        policy=BackoffPolicy,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the class
        render=render_brief,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # takes a title first
        lead=15,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of what?
        catch_up=None,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        retrying=3,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        clock=datetime.now(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # noqa: DTZ005  # not called
    )
    SchedulePlanner(preferences=Users(), ledger=Queue())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def what_is_asked_wrongly_is_refused(briefs: Briefs, now: datetime) -> None:
    def of_a_plan(report: PlanReport) -> None: ...

    await briefs.plan()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # it reads no clock
    await briefs.plan(now.date())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await briefs.plan(now, on_verdict=of_a_plan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await briefs.run_once(now, of_a_plan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await briefs.serve(every=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await briefs.serve(on_round=of_a_plan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await briefs.retry_all(statuses=["failed"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await briefs.prune(90)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with briefs:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]  # async
        pass
