"""Every shipped adapter is taken where its port is asked for. Read by type checkers; nobody runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import jinja2
import procrastinate
import psycopg
from anyio import CapacityLimiter
from celery import Celery
from opentelemetry.metrics import MeterProvider
from pgqueuer import PgQueuer
from psycopg_pool import AsyncConnectionPool
from starlette.types import ASGIApp

from fanout_briefs import (
    BackoffPolicy,
    BriefProgress,
    Briefs,
    EngagementPolicy,
    JobRef,
    Mail,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    Window,
)
from fanout_briefs.adapters import celery as on_celery
from fanout_briefs.adapters import procrastinate as on_procrastinate
from fanout_briefs.adapters.celery import CeleryDispatcher
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.in_thread import (
    SyncDispatcher,
    SyncEngagement,
    SyncGenerator,
    SyncMailer,
    SyncPreferences,
    SyncProjects,
    SyncRecipients,
    SyncScheduleIndex,
    in_thread,
)
from fanout_briefs.adapters.jinja import JinjaGenerator
from fanout_briefs.adapters.memory import MemoryPreferences
from fanout_briefs.adapters.opentelemetry import Telemetry
from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher, carrying
from fanout_briefs.adapters.postgres import OnPending, PoolUse, PostgresPreferences, PostgresStorage
from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher, autocommit_pool
from fanout_briefs.adapters.smtp import OutcomeUnknown, SmtpMailer
from fanout_briefs.adapters.sqlite import SqlitePreferences
from fanout_briefs.adapters.unsubscribe import UnsubscribeLinks, UnsubscribePage
from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.ports import (
    CancellingDispatcher,
    Dispatcher,
    Engagement,
    Generator,
    Mailer,
    Preferences,
    Projects,
    Recipients,
    ScheduleIndex,
)
from fanout_briefs.testing.kits import IndexedPreferences
from redis_briefs import RedisPreferences


def preferences_of_storages_are_preferences(
    preferences: MemoryPreferences | SqlitePreferences | PostgresPreferences | RedisPreferences,
) -> tuple[Preferences, ScheduleIndex, IndexedPreferences]:
    return preferences, preferences, preferences


def mailers_are_mailers() -> Sequence[Mailer]:
    return [
        EmlMailer("outbox"),
        EmlMailer(Path("outbox"), sender="Briefs <briefs@example.com>"),
        SmtpMailer("mail.example.com", sender="briefs@example.com"),
        SmtpMailer("mail.example.com", 465, sender="briefs@example.com", security="tls", timeout=timedelta(seconds=5)),
    ]


def an_unknown_outcome_is_an_error(error: OutcomeUnknown) -> Exception:
    return error


def links_go_into_mails_and_the_page_answers_them(links: UnsubscribeLinks) -> ASGIApp:
    async def unsubscribe(user_id: str) -> None: ...
    def at_once(user_id: str) -> None: ...
    def link(user_id: str) -> str:
        return links.url(user_id)

    as_it_is_called: Callable[[Mail], str | None] = links
    EmlMailer("outbox", unsubscribe=as_it_is_called)
    SmtpMailer("localhost", sender="briefs@example.com", unsubscribe=links)
    EmlMailer("outbox", unsubscribe=lambda mail: assert_type(mail, Mail).user_id)
    EmlMailer("outbox", unsubscribe=link)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is given the mail
    UnsubscribePage(links, at_once)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is awaited
    UnsubscribeLinks("https://example.com/u", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no secret
    assert_type(links.user_of("token"), str | None)
    return UnsubscribePage(links, unsubscribe)


def a_generator_by_templates_is_a_generator() -> Sequence[Generator]:
    async def facts(request: SectionRequest) -> dict[str, object] | None:
        return {"name": request.project.name}

    def at_once(request: SectionRequest) -> dict[str, object]:
        return {}

    JinjaGenerator(at_once, text="")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is awaited
    return [
        JinjaGenerator(facts, text="{{ name }}", html="<p>{{ name }}"),
        JinjaGenerator(facts, text="brief.txt", templates=Path("templates")),
        JinjaGenerator(facts, text="brief.txt", templates=jinja2.DictLoader({})),
    ]


def dispatchers_are_dispatchers(
    app: Celery, pgqueuer: PgQueuerDispatcher, procrastinate: ProcrastinateDispatcher
) -> tuple[Sequence[Dispatcher], Sequence[CancellingDispatcher]]:
    on_brokers = CeleryDispatcher(app, priorities={"daily_brief": 3})
    return [on_brokers, pgqueuer, procrastinate], [pgqueuer, procrastinate]


def celery_takes_nothing_back(dispatcher: CeleryDispatcher) -> CancellingDispatcher:
    return dispatcher  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def dispatchers_join_the_transactions_of_the_ledger(
    pgqueuer: PgQueuerDispatcher, procrastinate: ProcrastinateDispatcher
) -> Sequence[PostgresStorage]:
    told: Sequence[OnPending] = [pgqueuer.within, procrastinate.within]
    return [PostgresStorage("", on_pending=within) for within in told]


def how_a_pool_is_used_is_told(storage: PostgresStorage) -> PoolUse:
    return assert_type(storage.pool_use(), PoolUse)


async def workers_of_engines_run_briefs(
    briefs: Briefs, app: Celery, pgq: PgQueuer, worker: procrastinate.App, dispatcher: ProcrastinateDispatcher
) -> None:
    on_celery.add_tasks(app, briefs, CeleryDispatcher(app))
    on_procrastinate.add_tasks(worker, briefs, dispatcher)
    async with carrying(pgq, briefs, every=None) as carried:
        assert_type(carried, PgQueuer)
    on_celery.add_tasks(app, briefs, dispatcher)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of another engine
    on_celery.add_tasks(app, app, CeleryDispatcher(app))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no briefs
    on_procrastinate.add_tasks(worker, briefs, dispatcher, plan=timedelta(minutes=5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a crontab


def procrastinate_takes_the_pool() -> procrastinate.BaseConnector:
    pool = autocommit_pool(kwargs={"autocommit": True}, open=False)
    assert_type(pool, AsyncConnectionPool[Any])
    return procrastinate.PsycopgConnector(pool_factory=autocommit_pool)


async def telemetry_takes_what_briefs_tell(
    telemetry: Telemetry, provider: MeterProvider, briefs: Briefs, now: datetime
) -> None:
    Telemetry("daily_brief", meter_provider=provider)
    telemetry.plan(await briefs.plan(now))
    telemetry.run(await briefs.run_once(now))
    telemetry.status(await briefs.status())
    await briefs.serve(on_round=telemetry.on_round)
    await briefs.serve(on_round=telemetry.plan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no plan is told
    telemetry.plan(await briefs.run_once(now))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no plan


def telemetry_takes_progress(telemetry: Telemetry) -> Callable[[BriefProgress], object]:
    return telemetry.on_progress


def policies_are_policies() -> Sequence[EngagementPolicy]:
    return [BackoffPolicy(), BackoffPolicy.phase1(), BackoffPolicy(active_days=3, slack=timedelta(0))]


def what_runs_in_threads_is_the_port(  # noqa: PLR0917  # as many as there are ports
    index: SyncScheduleIndex,
    preferences: SyncPreferences,
    projects: SyncProjects,
    generator: SyncGenerator,
    engagement: SyncEngagement,
    recipients: SyncRecipients,
    mailer: SyncMailer,
    dispatcher: SyncDispatcher,
) -> None:
    assert_type(in_thread(index), ScheduleIndex)
    assert_type(in_thread(preferences), Preferences)
    assert_type(in_thread(projects), Projects)
    assert_type(in_thread(generator), Generator)
    assert_type(in_thread(engagement), Engagement)
    assert_type(in_thread(recipients), Recipients)
    assert_type(in_thread(mailer), Mailer)
    assert_type(in_thread(dispatcher), Dispatcher)
    assert_type(in_thread(projects, limiter=4), Projects)
    assert_type(in_thread(projects, limiter=CapacityLimiter(4)), Projects)


class Django:
    """Plain methods, as a host writes them over its ORM."""

    def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        return Page([Preference(user_id="ann")])

    def get(self, user_ids: Collection[str]) -> dict[str, Preference]:
        return {}


class DjangoRecipients:
    def get(self, user_ids: Collection[str]) -> dict[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.com") for user_id in user_ids}


class DjangoMailer:
    idempotent = True

    def send(self, mail: Mail, key: str) -> Receipt:
        return Receipt(key)


class DjangoProjects:
    def of(self, user_id: str, window: Window) -> list[Project]:
        return []


class DjangoGenerator:
    def generate(self, request: SectionRequest) -> ProjectBrief:
        return ProjectBrief(text=request.project.name)


class DjangoVisits:
    def last_visits(self, user_ids: Collection[str]) -> dict[str, datetime | None]:
        return dict.fromkeys(user_ids)


class DjangoDispatcher:
    powers = DispatcherPowers(schedules=timedelta(0))

    def dispatch(self, jobs: Sequence[JobRef]) -> None: ...


def a_hosts_plain_classes_become_ports() -> None:
    assert_type(in_thread(Django()), Preferences)
    assert_type(in_thread(DjangoRecipients()), Recipients)
    assert_type(in_thread(DjangoMailer()), Mailer)
    assert_type(in_thread(DjangoProjects()), Projects)
    assert_type(in_thread(DjangoGenerator()), Generator)
    assert_type(in_thread(DjangoVisits()), Engagement)
    assert_type(in_thread(DjangoDispatcher()), Dispatcher)


class AsyncProjects:
    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return []


def what_is_no_synchronous_port_is_refused_by_in_thread() -> None:
    in_thread(AsyncProjects())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]  # async already
    in_thread(object())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    in_thread(DjangoProjects(), limiter="4")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def without_in_thread_it_is_no_port(gather: Callable[[Projects], object], send: Callable[[Mailer], object]) -> None:
    gather(DjangoProjects())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send(DjangoMailer())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_arguments_of_adapters_are_refused(app: Celery, connection: psycopg.Connection[Any]) -> None:
    SmtpMailer("localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no sender
    SmtpMailer("localhost", sender="a@b.example", security="ssl")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SmtpMailer("localhost", sender="a@b.example", timeout=30)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of what?
    CeleryDispatcher(app, ahead=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PgQueuerDispatcher(connection)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # how to reach it, not a connection
    DispatcherPowers(schedules=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    BackoffPolicy(slack=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def powers_and_promises_are_data(
    celery: CeleryDispatcher, pgqueuer: PgQueuerDispatcher, eml: EmlMailer, smtp: SmtpMailer
) -> Mapping[str, object]:
    assert_type(celery.powers, DispatcherPowers)
    assert_type(pgqueuer.powers, DispatcherPowers)
    assert_type(eml.idempotent, bool)
    assert_type(smtp.idempotent, bool)
    return {}
