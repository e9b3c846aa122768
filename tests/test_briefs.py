"""The whole way from a preference to a mail: at its time, once, and whatever happens in between."""

from __future__ import annotations

import functools
import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.in_thread import in_thread
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.briefs import BriefProgress, Briefs
from fanout_briefs.errors import InvalidSchedule, NotSent, StorageUnavailable, UnknownUser
from fanout_briefs.model import (
    Brief,
    Change,
    Job,
    JobStatus,
    Mail,
    Occurrence,
    Page,
    Preference,
    Progress,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    Rendered,
    Section,
    SectionRequest,
    Window,
)
from fanout_briefs.runs import RunReport
from fanout_briefs.testing import Clock
from fanout_briefs.timing import Retrying
from hosts import Host, Provider
from services import STORAGES, make_storage
from slots import AnyStorage as Storage
from virtual_time import in_virtual_time

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MAIL = "generate_brief_email.daily_brief"


def the_briefs(storage: Any, host: Host | None = None, mailer: Any = None, **options: Any) -> Briefs:
    host = host or Host()
    wired: dict[str, Any] = {
        "projects": host,
        "generator": host,
        "recipients": host if mailer else None,
        "mailer": mailer,
        "look_back": HOUR,
    }
    wired.update(options)
    return Briefs(storage, **wired)


def key(user_id: str, *, name: str = "daily_brief", epoch: int = 1) -> str:
    return f"{name}:2026-03-09:{user_id}:{epoch}"


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Storage]:
    kept = make_storage(request, tmp_path)
    async with kept:
        yield kept


async def sign_up(storage: Storage, *user_ids: str, **fields: Any) -> None:
    await storage.preferences.put([Preference(user_id=user_id, **fields) for user_id in user_ids])


async def planned_and_run(briefs: Briefs, now: datetime = NINE) -> RunReport:
    await briefs.plan(now)
    return await briefs.run_once(now)


class TestInTime:
    async def test_a_brief_is_made_before_its_time_and_delivered_at_it(self, storage: Storage) -> None:
        mailer = Provider()
        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=mailer) as briefs:
            await briefs.plan(NINE - 40 * MINUTE)
            too_early = await briefs.run_once(NINE - 16 * MINUTE)
            made = await briefs.run_once(NINE - MINUTE)
            waiting = await briefs.run_once(NINE - timedelta(microseconds=1))
            sent = await briefs.run_once(NINE)

        assert (too_early.briefs, too_early.mails) == ({}, {})
        assert (made.briefs, made.mails) == ({JobStatus.COMPLETED: 1}, {})
        assert (waiting.briefs, waiting.mails) == ({}, {})
        assert (sent.briefs, sent.mails) == ({}, {JobStatus.COMPLETED: 1})
        assert mailer.delivered == {key("ada"): 1}

    async def test_the_same_moment_twice_sends_nothing_twice(self, storage: Storage) -> None:
        mailer, host = Provider(idempotent=False), Host()
        await sign_up(storage, "ada", "bob")
        async with the_briefs(storage, host, mailer) as briefs:
            first = await planned_and_run(briefs)
            asked = len(host.requests)
            plan = await briefs.plan(NINE)
            second = await briefs.run_once(NINE)

        assert first.mails == {JobStatus.COMPLETED: 2}
        assert (plan.enqueued, plan.existing) == (0, {JobStatus.COMPLETED: 2})
        assert (second.briefs, second.mails, second.ok) == ({}, {}, True)
        assert mailer.delivered == {key("ada"): 1, key("bob"): 1}
        assert len(host.requests) == asked

    async def test_the_next_days_brief_begins_where_the_last_one_ended(self, storage: Storage) -> None:
        host = Host()
        await sign_up(storage, "ada")
        async with the_briefs(storage, host) as briefs:
            await planned_and_run(briefs)
            first = await briefs.latest("ada")
            await planned_and_run(briefs, NINE + DAY)
            second = await briefs.latest("ada")

        assert first is not None
        assert second is not None
        assert first.window == Window(NINE - DAY - 15 * MINUTE, NINE - 15 * MINUTE)
        assert second.window == Window(first.window.end, NINE + DAY - 15 * MINUTE)
        assert second.occurrence == Occurrence(date(2026, 3, 10), NINE + DAY)

    async def test_a_moment_in_any_zone_is_the_same_moment(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage) as briefs:
            await briefs.plan(NINE)
            report = await briefs.run_once(NINE.astimezone(ZoneInfo("America/New_York")))

        assert report.due_by == NINE
        assert report.due_by.tzinfo is UTC
        assert report.briefs == {JobStatus.COMPLETED: 1}

    @pytest.mark.parametrize("method", ["plan", "run_once"])
    async def test_a_naive_moment_is_refused(self, method: str) -> None:
        async with the_briefs(MemoryStorage()) as briefs:
            with pytest.raises(ValueError, match=r"now=datetime.*must be aware"):
                await getattr(briefs, method)(NINE.replace(tzinfo=None))

    @pytest.mark.parametrize("method", ["explain", "preview"])
    async def test_a_naive_moment_is_refused_where_one_asks_too(self, storage: Storage, method: str) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage) as briefs:
            with pytest.raises(ValueError, match=r"now=datetime.*must be aware"):
                await getattr(briefs, method)("ada", now=NINE.replace(tzinfo=None))


class TestComposition:
    async def test_two_kinds_of_brief_in_one_storage_keep_apart(self, storage: Storage) -> None:
        mailer = Provider(idempotent=False)
        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=mailer) as daily:
            weekly = the_briefs(storage, mailer=mailer, name="weekly_brief", title="The week")
            async with weekly:
                daily_report = await planned_and_run(daily)
                weekly_report = await planned_and_run(weekly)
                made = [await briefs.latest("ada") for briefs in (daily, weekly)]

        assert daily_report.mails == weekly_report.mails == {JobStatus.COMPLETED: 1}
        assert mailer.delivered == {key("ada"): 1, key("ada", name="weekly_brief"): 1}
        assert [brief.rendered.subject for brief in made if brief] == [
            "Daily brief for Monday, 9 March 2026",
            "The week for Monday, 9 March 2026",
        ]

    async def test_without_a_mailer_briefs_are_made_and_kept(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage) as briefs:
            report = await planned_and_run(briefs)
            kept = await briefs.latest("ada")

        assert (report.briefs, report.mails) == ({JobStatus.COMPLETED: 1}, {})
        assert kept is not None
        assert await storage.find([f"{MAIL}:2026-03-09:ada"]) == {}

    async def test_there_is_no_latest_brief_before_the_first(self, storage: Storage) -> None:
        async with the_briefs(storage) as briefs:
            assert await briefs.latest("ada") is None

    async def test_a_render_of_the_hosts_own_is_used(self, storage: Storage) -> None:
        def render(occurrence: Occurrence, sections: Sequence[Section]) -> Rendered:
            return Rendered(f"{len(sections)} for {occurrence.local_date}", "text", "html")

        await sign_up(storage, "ada")
        async with the_briefs(storage, render=render) as briefs:
            await planned_and_run(briefs)
            brief = await briefs.latest("ada")

        assert brief is not None
        assert brief.rendered == Rendered("2 for 2026-03-09", "text", "html")

    @pytest.mark.parametrize(
        ("gives", "problem"),
        [
            (lambda: Rendered(7, "text", "html"), "subject must be a string, not int"),  # type: ignore[arg-type]
            (lambda: "text", "render gave str instead of a Rendered"),
        ],
        ids=["a number", "a text"],
    )
    async def test_a_render_that_gives_what_cannot_be_saved_fails_that_brief_alone(
        self, storage: Storage, gives: Callable[[], Any], problem: str
    ) -> None:
        def render(occurrence: Occurrence, sections: Sequence[Section]) -> Rendered:
            return gives() if "ada" in sections[0].text else Rendered("subject", "text", "html")

        host = Host(act=lambda request: ProjectBrief(request.user_id))
        await sign_up(storage, "ada")
        await sign_up(storage, "bob")
        async with the_briefs(storage, host, render=render, concurrency=1, retrying=Retrying(attempts=1)) as briefs:
            report = await planned_and_run(briefs)

        assert report.briefs == {JobStatus.FAILED: 1, JobStatus.COMPLETED: 1}
        assert problem in report.problems[0].message

    async def test_nothing_new_makes_no_brief_and_no_mail(self, storage: Storage) -> None:
        mailer = Provider()
        await sign_up(storage, "ada")
        async with the_briefs(storage, Host(act=lambda request: None), mailer) as briefs:
            report = await planned_and_run(briefs)
            latest = await briefs.latest("ada")

        assert (report.briefs, report.mails) == ({JobStatus.EMPTY: 1}, {})
        assert latest is None
        assert mailer.calls == {}

    async def test_the_generator_is_told_the_users_zone_and_utc_where_none_is_given(self, storage: Storage) -> None:
        host = Host(projects=1)
        await sign_up(storage, "ada")
        await sign_up(storage, "bob", timezone="Europe/Berlin", time_of_day="10:00")
        async with the_briefs(storage, host) as briefs:
            await planned_and_run(briefs)

        assert {request.user_id: request.timezone for request in host.requests} == {
            "ada": "UTC",
            "bob": "Europe/Berlin",
        }
        assert {request.decision.reason for request in host.requests if request.decision} == {"everyone"}

    async def test_preferences_of_the_hosts_own_are_used_even_while_there_are_none(self, storage: Storage) -> None:
        """An empty collection is falsy, and still the host's answer to who wants a brief."""

        class Nobody(Sequence[Preference]):
            def __len__(self) -> int:
                return 0

            def __getitem__(self, index: Any) -> Any:
                raise IndexError

            async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
                await checkpoint()
                return Page([])

            async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
                await checkpoint()
                return {}

        await sign_up(storage, "ada")
        async with the_briefs(storage, preferences=Nobody()) as briefs:
            assert (await briefs.plan(NINE)).scanned == 0

    def test_a_storage_without_preferences_needs_some(self) -> None:
        with pytest.raises(ValueError, match="preferences=None: Bare keeps none of its own, so pass preferences="):
            the_briefs(Bare(MemoryStorage(), preferences=False))

    async def test_a_storage_that_needs_no_opening_is_used_as_it_is(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(Bare(storage)) as briefs:
            assert (await planned_and_run(briefs)).briefs == {JobStatus.COMPLETED: 1}

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"mailer": Provider(), "recipients": None}, "recipients=None: a mailer needs recipients"),
            ({"section_limit": 0}, "section_limit=0: must be an int of at least 1"),
            ({"section_timeout": timedelta(0)}, "section_timeout=.*: must be a timedelta of more than zero, or None"),
            ({"concurrency": 0}, "concurrency"),
            ({"lease": timedelta(0)}, "lease"),
            ({"deadline": -MINUTE}, "deadline"),
            ({"catch_up": "all"}, "catch_up='all': must be one of skip, latest, each"),
            ({"send_timeout": timedelta(0)}, "send_timeout=.*: must be a timedelta of more than zero"),
            ({"preferences": object()}, "preferences=.*: object has no get and no page; see fanout_briefs.ports"),
            ({"engagement": "visits"}, "engagement='visits': str has no last_visits; see fanout_briefs.ports"),
            ({"name": "daily:brief"}, "name='daily:brief'"),
            ({"page_size": 0}, "page_size=0"),
            ({"tolerance": -MINUTE}, "tolerance"),
        ],
    )
    def test_a_bad_argument_is_named_before_anything_happens(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            the_briefs(MemoryStorage(), **options)

    def test_all_bad_arguments_are_told_at_once(self) -> None:
        wrong: dict[str, Any] = {
            "name": 7,
            "title": 7,
            "lead": 15,
            "deadline": "5m",
            "horizon": None,
            "max_lateness": -MINUTE,
            "look_back": 1.5,
            "catch_up": 7,
            "tolerance": timedelta(days=32),
            "page_size": True,
            "concurrency": 0,
            "mail_concurrency": "5",
            "section_limit": None,
            "section_timeout": 60,
            "send_timeout": None,
            "lease": timedelta(0),
            "redispatch_after": timedelta(0),
            "retrying": 3,
            "mail_retrying": 12,
            "projects": None,
            "generator": 7,
            "clock": NINE,
        }
        with pytest.raises(ValueError, match="recipients=None") as refused:
            the_briefs(MemoryStorage(), mailer=Provider(), recipients=None, **wrong)
        told = str(refused.value)
        assert [name for name, value in wrong.items() if f"{name}={value!r}: " not in told] == []

    @pytest.mark.parametrize("argument", ["render", "on_progress", "clock"])
    def test_a_hook_that_is_async_would_never_run_and_is_refused(self, argument: str) -> None:
        async def hook(*_: object) -> None: ...

        options: dict[str, Any] = {argument: hook}
        with pytest.raises(ValueError, match=f"{argument}=.*: must be a plain function"):
            the_briefs(MemoryStorage(), **options)

    @pytest.mark.parametrize(("method", "argument"), [("plan", "on_verdict"), ("run_once", "on_ended")])
    async def test_so_is_one_of_a_single_call(self, method: str, argument: str) -> None:
        async def hook(*_: object) -> None: ...

        async with the_briefs(MemoryStorage()) as briefs:
            with pytest.raises(ValueError, match=f"{argument}=.*: must be a plain function"):
                await getattr(briefs, method)(NINE, **{argument: hook})

    def test_a_policy_that_is_async_would_always_say_yes_and_is_refused(self) -> None:
        class Asynchronous:
            async def decide(self, activity: object, at: datetime) -> bool:
                return False

        wrong: Any = Asynchronous()
        with pytest.raises(ValueError, match=r"policy=.*: Asynchronous.decide must be a plain def"):
            the_briefs(MemoryStorage(), policy=wrong)

    def test_what_a_port_lacks_is_told_with_where_it_is_described(self) -> None:
        wrong: Any = object()
        with pytest.raises(ValueError, match=r"object has no decide; see fanout_briefs.engagement") as refused:
            the_briefs(MemoryStorage(), policy=wrong, projects=wrong)
        assert "object has no of; see fanout_briefs.ports" in str(refused.value)

    @pytest.mark.parametrize("user_id", [7, "", "x" * 256, "a\nb", "\ud800"])
    @pytest.mark.parametrize(
        "method", ["next", "preview", "latest", "generate_now", "regenerate", "retry", "cancel", "forget"]
    )
    async def test_an_id_that_nobody_can_have_is_refused(self, method: str, user_id: Any) -> None:
        storage = MemoryStorage()
        async with the_briefs(storage) as briefs:
            await sign_up(storage, "7")
            await briefs.plan(NINE)
            with pytest.raises(ValueError, match=r"^user_id=.*: must "):
                await getattr(briefs, method)(user_id)
            assert (await briefs.explain("7", NINE.date(), now=NINE)).code is JobStatus.PENDING

    @pytest.mark.parametrize("method", ["plan", "run_once", "status", "pause", "reconcile"])
    @pytest.mark.parametrize("now", ["2026-03-09", NINE.date(), 7, datetime(2026, 3, 9)])
    async def test_a_moment_that_is_none_is_refused_by_name(self, method: str, now: Any) -> None:
        async with the_briefs(MemoryStorage()) as briefs:
            with pytest.raises(ValueError, match=r"^now=.*: must be (an )?aware"):
                await getattr(briefs, method)(now)

    async def test_a_clock_that_is_naive_is_told_where_it_is_read(self) -> None:
        async with the_briefs(MemoryStorage(), clock=lambda: datetime(2026, 3, 9)) as briefs:
            with pytest.raises(ValueError, match=r"^clock\(\)=.*: must be aware"):
                await briefs.status()
            with pytest.raises(ValueError, match=r"^clock\(\)=.*: must be aware"):
                await briefs.run_once(NINE)

    @pytest.mark.parametrize("argument", ["storage", "projects", "generator", "mailer"])
    def test_a_class_in_place_of_an_object_is_refused(self, argument: str) -> None:
        options: dict[str, Any] = {"storage": MemoryStorage(), argument: {"storage": MemoryStorage}.get(argument, Host)}
        with pytest.raises(ValueError, match=f"{argument}=.*: must be an object, not a class: "):
            the_briefs(options.pop("storage"), **options)

    def test_methods_that_are_not_async_are_named_with_what_makes_them_so(self) -> None:
        class Synchronous:
            def of(self, user_id: str, window: Window) -> Sequence[Project]:
                return ()

            def generate(self, request: SectionRequest) -> ProjectBrief | None:
                return None

        wrong: Any = Synchronous()
        with pytest.raises(ValueError, match=r"projects=.*: Synchronous.of must be async def; .*in_thread") as refused:
            the_briefs(MemoryStorage(), projects=wrong, generator=wrong)
        assert "Synchronous.generate must be async def" in str(refused.value)
        the_briefs(MemoryStorage(), projects=in_thread(wrong), generator=in_thread(wrong))

    def test_what_cannot_be_called_is_no_method_of_a_port(self) -> None:
        wrong: Any = SimpleNamespace(of=["apollo"])
        with pytest.raises(ValueError, match=r"projects=.*: SimpleNamespace.of must be async def"):
            the_briefs(MemoryStorage(), projects=wrong)

    def test_whatever_may_give_an_awaitable_is_a_method_of_a_port(self) -> None:
        async def of(user_id: str, window: Window) -> Sequence[Project]:
            return ()

        class Called:
            async def __call__(self, user_id: str, window: Window) -> Sequence[Project]:
                return ()

        class Handing:
            def of(self, user_id: str, window: Window) -> Coroutine[Any, Any, Sequence[Project]]:
                return of(user_id, window)

        @functools.wraps(of)
        def decorated(*args: Any) -> Any:
            return of(*args)

        for method in (of, Called(), functools.partial(of), Handing().of, decorated):
            given: Any = SimpleNamespace(of=method)
            the_briefs(MemoryStorage(), projects=given)

    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    def test_constructing_does_nothing_and_needs_no_event_loop(self, kind: str, tmp_path: Path) -> None:
        the_briefs(MemoryStorage() if kind == "memory" else SqliteStorage(tmp_path / "briefs.db"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("kind", ["memory", "sqlite"])
    @pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("trio", "trio"), ("asyncio", "trio")])
    def test_it_can_be_opened_again_also_in_another_event_loop(
        self, kind: str, backends: tuple[str, str], tmp_path: Path
    ) -> None:
        storage = MemoryStorage() if kind == "memory" else SqliteStorage(tmp_path / "briefs.db")
        briefs = the_briefs(storage, mailer=EmlMailer(tmp_path / "outbox"))

        async def day(number: int) -> RunReport:
            async with briefs:
                await sign_up(storage, "ada")
                return await planned_and_run(briefs, NINE + number * DAY)

        for number, backend in enumerate(backends):
            report = anyio.run(day, number, backend=backend)
            assert report.mails == {JobStatus.COMPLETED: 1}

        assert len(list((tmp_path / "outbox").iterdir())) == 2

    async def test_it_can_be_opened_twice_at_once(self, storage: Storage) -> None:
        briefs = the_briefs(storage)
        async with briefs, briefs:
            await briefs.plan(NINE)
        assert await storage.find([]) == {}

    async def test_outside_of_async_with_it_says_so(self, tmp_path: Path) -> None:
        for kept in (MemoryStorage(), SqliteStorage(tmp_path / "briefs.db")):
            with pytest.raises(StorageUnavailable, match="not open"):
                await the_briefs(kept).run_once(NINE)

    async def test_forgetting_a_user_erases_all_there_is(self, storage: Storage) -> None:
        mailer = Provider()
        await sign_up(storage, "ada", "bob")
        async with the_briefs(storage, mailer=mailer) as briefs:
            await planned_and_run(briefs)
            rows = await briefs.forget("ada")
            latest = [await briefs.latest(each) for each in ("ada", "bob")]

        assert rows == 5  # preference, two slots, the mail's bytes, the brief
        assert [brief is None for brief in latest] == [True, False]
        assert set(await storage.preferences.get(["ada", "bob"])) == {"bob"}


class Bare:
    """A storage that is no context manager, with or without preferences of its own."""

    def __init__(self, inner: Any, *, preferences: bool = True) -> None:
        self._inner = inner
        if preferences:
            self.preferences = inner.preferences

    def __getattr__(self, name: str) -> Any:
        if name == "preferences":
            raise AttributeError(name)
        return getattr(self._inner, name)


class TestPreview:
    async def test_it_makes_the_next_brief_and_saves_and_sends_nothing(self, storage: Storage) -> None:
        mailer, host = Provider(), Host()
        await sign_up(storage, "ada", timezone="Europe/Berlin")
        async with the_briefs(storage, host, mailer) as briefs:
            brief = await briefs.preview("ada", now=NINE)
            assert await briefs.latest("ada") is None

        assert brief is not None
        assert brief.occurrence == Occurrence(date(2026, 3, 10), NINE + DAY - HOUR)
        assert brief.window == Window(NINE - HOUR - 15 * MINUTE, NINE)
        assert "Project 1 since 09 07:45" in brief.rendered.text
        assert {request.timezone for request in host.requests} == {"Europe/Berlin"}
        assert {request.decision for request in host.requests} == {None}
        assert mailer.calls == {}
        assert await storage.find([f"daily_brief:2026-03-{day:02}:ada" for day in (8, 9, 10)]) == {}

    async def test_it_begins_where_the_last_saved_brief_ended(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage) as briefs:
            await planned_and_run(briefs)
            brief = await briefs.preview("ada", now=NINE + 3 * HOUR)
            # A moment before that brief's own end has nothing to do with it.
            earlier = await briefs.preview("ada", now=NINE - HOUR)

        assert brief is not None
        assert brief.window == Window(NINE - 15 * MINUTE, NINE + 3 * HOUR)
        assert earlier is not None
        assert earlier.window == Window(NINE - DAY - 15 * MINUTE, NINE - HOUR)

    async def test_it_is_for_now_where_no_moment_is_given(self, storage: Storage) -> None:
        await sign_up(storage, "ada", is_active=False)
        async with the_briefs(storage) as briefs:
            brief = await briefs.preview("ada")

        assert brief is not None
        assert abs(brief.window.end - datetime.now(UTC)) < HOUR

    async def test_there_may_be_nothing_to_show(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage, Host(projects=0)) as briefs:
            assert await briefs.preview("ada", now=NINE) is None

    async def test_an_unknown_user_is_named(self, storage: Storage) -> None:
        async with the_briefs(storage) as briefs:
            with pytest.raises(UnknownUser, match="'ada'"):
                await briefs.preview("ada", now=NINE)

    async def test_a_preference_that_makes_no_schedule_is_told_field_by_field(self, storage: Storage) -> None:
        await sign_up(storage, "ada", timezone="Mars/Olympus", time_of_day="25:00")
        async with the_briefs(storage) as briefs:
            with pytest.raises(InvalidSchedule) as failure:
                await briefs.preview("ada", now=NINE)

        assert {problem.field for problem in failure.value.problems} == {"timezone", "time_of_day"}

    async def test_it_is_equal_to_the_one_that_is_saved_but_for_whose_slot_it_is(self, storage: Storage) -> None:
        await sign_up(storage, "ada")
        async with the_briefs(storage) as briefs:
            previewed = await briefs.preview("ada", now=NINE - MINUTE)
            await planned_and_run(briefs, NINE)
            saved = await briefs.latest("ada")

        assert previewed is not None
        assert saved is not None
        assert hash(previewed) == hash(
            evolve(saved, window=previewed.window, sections=previewed.sections, rendered=previewed.rendered)
        )
        assert type(previewed.sections) is type(saved.sections) is tuple


class TestProgress:
    async def test_every_step_is_told_in_order(self, storage: Storage) -> None:
        seen: list[BriefProgress] = []
        await sign_up(storage, "ada")
        async with the_briefs(storage, on_progress=seen.append) as briefs:
            await planned_and_run(briefs)

        assert {each.job.user_id for each in seen} == {"ada"}
        assert [each.progress for each in seen] == [
            Progress("projects"),
            Progress("sections", 0, 2),
            Progress("sections", 1, 2),
            Progress("sections", 2, 2),
            Progress("composing", 2, 2),
            Progress("saving", 2, 2),
        ]

    async def test_a_hook_that_fails_is_reported_and_loses_no_brief(
        self, storage: Storage, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(progress: BriefProgress) -> None:
            raise OSError("the socket is closed")

        mailer = Provider()
        await sign_up(storage, *(f"user-{number}" for number in range(30)))
        async with the_briefs(storage, mailer=mailer, on_progress=fail) as briefs:
            with caplog.at_level(logging.CRITICAL, logger="fanout_briefs"):
                report = await planned_and_run(briefs)
            again = await briefs.run_once(NINE)

        assert (report.briefs, report.mails) == ({JobStatus.COMPLETED: 30}, {JobStatus.COMPLETED: 30})
        assert not report.ok
        assert len(report.problems) == 100
        assert {problem.message for problem in report.problems} == {
            "the progress hook failed: OSError('the socket is closed')"
        }
        assert report.problems[0].user_id is not None
        assert again.ok

    async def test_a_hook_that_fails_is_reported_by_the_run_that_it_failed_in_and_by_no_other(
        self, storage: Storage
    ) -> None:
        def fail(progress: BriefProgress) -> None:
            raise OSError("the socket is closed")

        await sign_up(storage, "ada", "bob")
        async with the_briefs(storage, on_progress=fail, clock=lambda: NINE) as briefs:
            await briefs.plan(NINE)
            assert (await briefs.run_job("daily_brief:2026-03-09:ada")).status is JobStatus.COMPLETED
            report = await briefs.run_once(NINE)

        assert {problem.user_id for problem in report.problems} == {"bob"}

    async def test_a_hook_that_fails_in_a_preview_is_logged(
        self, storage: Storage, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(progress: BriefProgress) -> None:
            raise OSError("the socket is closed")

        await sign_up(storage, "ada")
        async with the_briefs(storage, on_progress=fail) as briefs:
            assert await briefs.preview("ada", now=NINE) is not None
            assert (await briefs.run_once(NINE)).ok

        assert "the progress hook failed for daily_brief:2026-03-10:ada" in caplog.text


class TestMail:
    async def test_sending_is_committed_before_the_mailer_is_called(self, storage: Storage) -> None:
        seen: list[Job] = []

        class Looks(Provider):
            async def send(self, mail: Mail, key: str) -> Receipt:
                slots = await storage.find([f"{MAIL}:2026-03-09:{mail.user_id}"])
                seen.extend(slots.values())
                return await super().send(mail, key)

        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=Looks()) as briefs:
            await planned_and_run(briefs)

        assert [(job.status, job.progress) for job in seen] == [(JobStatus.PROCESSING, Progress("sending"))]
        sent = (await storage.find([f"{MAIL}:2026-03-09:ada"]))[f"{MAIL}:2026-03-09:ada"]
        assert (sent.status, sent.reason) == (JobStatus.COMPLETED, f"message-{key('ada')}")

    async def test_a_mail_that_did_not_leave_is_sent_later_with_the_same_key(self, storage: Storage) -> None:
        mailer = Provider(idempotent=False, fails=[NotSent("mailbox full"), NotSent("mailbox full")])
        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=mailer) as briefs:
            reports = [await planned_and_run(briefs)]
            reports += [await briefs.run_once(NINE + hours * HOUR) for hours in (1, 2, 3)]

        assert [report.retrying for report in reports] == [1, 1, 0, 0]
        assert [report.mails for report in reports] == [{}, {}, {JobStatus.COMPLETED: 1}, {}]
        assert mailer.delivered == {key("ada"): 1}

    @pytest.mark.parametrize("idempotent", [False, True])
    async def test_a_mail_whose_outcome_nobody_knows_is_sent_again_only_if_that_delivers_once(
        self, storage: Storage, idempotent: bool
    ) -> None:
        mailer = Provider(idempotent=idempotent, fails=[ConnectionError("reset")])
        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=mailer) as briefs:
            first = await planned_and_run(briefs)
            second = await briefs.run_once(NINE + HOUR)

        if idempotent:
            assert (first.retrying, second.mails) == (1, {JobStatus.COMPLETED: 1})
        else:
            assert (first.mails, second.mails) == ({JobStatus.UNKNOWN: 1}, {})
        assert mailer.delivered == ({key("ada"): 1} if idempotent else {})

    async def test_a_brief_made_again_is_not_mailed_again(self, storage: Storage) -> None:
        mailer = Provider(idempotent=False)
        await sign_up(storage, "ada")
        async with the_briefs(storage, mailer=mailer) as briefs:
            await planned_and_run(briefs)
            await storage.change(["daily_brief:2026-03-09:ada"], Change.REGENERATE)
            report = await briefs.run_once(NINE)
            latest = await briefs.latest("ada")

        assert report.briefs == {JobStatus.COMPLETED: 1}
        assert latest is not None
        assert latest.epoch == 2
        assert mailer.delivered == {key("ada"): 1}


# Whatever happens at whatever moment: one brief, one mail ------------------------------------------------


USERS = ("ada", "bob")


async def whole(storage: Any, mailer: Provider) -> None:
    """Assert that everybody has exactly one brief and one mail, or an honest word about the mail."""
    briefs = await storage.find([f"daily_brief:2026-03-09:{user}" for user in USERS])
    mails = await storage.find([f"{MAIL}:2026-03-09:{user}" for user in USERS])
    assert {job.user_id: (job.status, job.epoch) for job in briefs.values()} == dict.fromkeys(
        USERS, (JobStatus.COMPLETED, 1)
    )
    saved: list[Brief] = [await storage.brief("daily_brief", user) for user in USERS]
    assert [len(brief.sections) for brief in saved] == [2, 2]
    for mail in mails.values():
        delivered = mailer.delivered[key(mail.user_id)]
        if mail.status is JobStatus.UNKNOWN:
            assert not mailer.idempotent
            assert delivered <= 1
        else:
            assert (mail.status, delivered) == (JobStatus.COMPLETED, 1)
    assert len(mails) == 2


@pytest.mark.parametrize("idempotent", [True, False])
class TestAtAnyMoment:
    async def test_a_run_may_be_cancelled_and_run_again(self, idempotent: bool) -> None:
        unknown = turns = 0
        for turns in count():
            storage, mailer, clock = MemoryStorage(), Provider(idempotent=idempotent), Clock(NINE)
            async with the_briefs(storage, mailer=mailer, clock=clock, concurrency=2) as briefs:
                await sign_up(storage, *USERS)
                await briefs.plan(NINE)
                is_done = await cancelled_after(turns, briefs)
                if idempotent:  # Everything was given back: nobody has to wait for a lease.
                    slots = await storage.find(
                        [f"{kind}:2026-03-09:{u}" for kind in ("daily_brief", MAIL) for u in USERS]
                    )
                    assert all(job.status is not JobStatus.PROCESSING for job in slots.values())
                clock.now += HOUR
                report = await briefs.run_once(NINE)
                assert (report.lost, report.retrying) == (0, 0)
                unknown += report.mails.get(JobStatus.UNKNOWN, 0)
                await whole(storage, mailer)
            if is_done:
                break
        assert turns > 20
        assert (unknown > 0) is not idempotent  # Some of the cancels did come while the mailer had a mail.

    @pytest.mark.slow
    @pytest.mark.parametrize("happens", ["cancelled", "disk fails"])
    async def test_that_holds_at_each_statement_to_a_database(
        self, idempotent: bool, happens: str, tmp_path: Path
    ) -> None:
        planned = SqliteStorage(tmp_path / "planned.db")
        async with the_briefs(planned, mailer=Provider(idempotent=idempotent)) as briefs:
            await sign_up(planned, *USERS)
            await briefs.plan(NINE)
        number = 0
        for number in count(1):
            tripwire = Tripwire()
            copied = shutil.copy(tmp_path / "planned.db", tmp_path / f"{number}.db")
            storage = SqliteStorage(copied, trace=tripwire)
            mailer, clock = Provider(idempotent=idempotent), Clock(NINE)
            async with the_briefs(storage, mailer=mailer, clock=clock, concurrency=2) as briefs:
                with anyio.CancelScope() as scope:
                    tripwire.set(number, fail if happens == "disk fails" else cancel(scope))
                    with suppress(StorageUnavailable):
                        await briefs.run_once(NINE)
                is_over = not tripwire.is_sprung
                tripwire.left = 0
                clock.now += HOUR
                # What could not be recorded was put off like any other failed attempt.
                await briefs.run_once(NINE)
                await briefs.run_once(NINE + HOUR)
                await whole(storage, mailer)
            if is_over:
                break
        assert number > 25


async def cancelled_after(turns: int, briefs: Briefs) -> bool:
    """Run, and cancel that after so many turns of the event loop; say whether it was over by then."""
    is_done = False

    async def run() -> None:
        nonlocal is_done
        await briefs.run_once(NINE)
        is_done = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(turns):
            await checkpoint()
        group.cancel_scope.cancel()
    return is_done


class Tripwire:
    """Does something at the n-th statement."""

    def __init__(self) -> None:
        self.left = 0
        self.is_sprung = False
        self._act: Callable[[], object] = int

    def set(self, left: int, act: Callable[[], object]) -> None:
        self.left, self._act = left, act

    def __call__(self, statement: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.is_sprung = True
            self._act()


def fail() -> None:
    raise sqlite3.OperationalError("disk I/O error")


def cancel(scope: anyio.CancelScope) -> Callable[[], object]:
    return lambda: anyio.from_thread.run_sync(scope.cancel)


# Many --------------------------------------------------------------------------------------------------


PEOPLE = [f"user-{number:04}" for number in range(1000)]


class Crowd:
    """A thousand people with fifteen projects each: one project in twenty raises, one of each person's hangs."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await checkpoint()
        return [Project(f"p{number:02}", f"Project {number}") for number in range(15)]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        # What does not hang does not suspend either, so that no busy machine makes it time out.
        if request.project.id == self.hanging(request.user_id):
            await anyio.sleep_forever()
        if request.project.id in self.raising(request.user_id):
            raise OSError(f"{request.project.id} is corrupt")
        return ProjectBrief(f"{request.user_id} {request.project.id}")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await checkpoint()
        return {user_id: Recipient(f"{user_id}@example.com") for user_id in user_ids}

    def hanging(self, user_id: str) -> str:
        return f"p{PEOPLE.index(user_id) % 15:02}"

    def raising(self, user_id: str) -> set[str]:
        first = PEOPLE.index(user_id) * 15
        found = {f"p{number:02}" for number in range(15) if (first + number) % 20 == 7}
        return found - {self.hanging(user_id)}


async def a_thousand(storage: Storage, **options: Any) -> tuple[RunReport, Provider]:
    crowd, mailer = Crowd(), Provider(idempotent=False)
    briefs = Briefs(
        storage,
        projects=crowd,
        generator=crowd,
        recipients=crowd,
        mailer=mailer,
        look_back=HOUR,
        retrying=Retrying(attempts=1),
        **options,
    )
    async with briefs:
        await sign_up(storage, *PEOPLE)
        assert (await briefs.plan(NINE)).enqueued == 1000
        report = await briefs.run_once(NINE)
        for user_id in PEOPLE:
            brief = await briefs.latest(user_id)
            assert brief is not None
            assert [section.project_id for section in brief.sections] == [f"p{number:02}" for number in range(15)]
            failed = {section.project_id: str(section.error) for section in brief.failed}
            assert failed.keys() == crowd.raising(user_id) | {crowd.hanging(user_id)}
            assert "TimeoutError" in failed[crowd.hanging(user_id)]
            assert all("is corrupt" in failed[each] for each in crowd.raising(user_id))
    return report, mailer


def check_thousand(report: RunReport, mailer: Provider) -> None:
    assert (report.briefs, report.mails) == ({JobStatus.COMPLETED: 1000}, {JobStatus.COMPLETED: 1000})
    assert (report.partial, report.ok) == (1000, True)
    assert mailer.delivered == {key(user_id): 1 for user_id in PEOPLE}


class TestAThousandPeople:
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Virtual time, so that what hangs costs nothing."""
        return in_virtual_time(request.param)

    @pytest.mark.slow
    async def test_everybody_gets_a_brief_that_names_what_failed_within_the_deadline(self, anyio_backend: Any) -> None:
        begun = anyio.current_time()
        async with MemoryStorage() as storage:
            check_thousand(*await a_thousand(storage, concurrency=50, section_timeout=timedelta(seconds=10)))

        # Twenty rounds of fifty, each as long as its one hanging section.
        assert anyio.current_time() - begun == pytest.approx(200, rel=0.1)


@pytest.mark.slow
async def test_a_thousand_people_on_a_database(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        check_thousand(*await a_thousand(storage, concurrency=100, section_timeout=timedelta(seconds=0.2)))
