"""Building one brief: its sections are made at once, and one that fails never costs the user another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

from fanout_briefs.builder import BriefBuilder
from fanout_briefs.errors import BriefFailed, PermanentFailure, RetryLater
from fanout_briefs.model import (
    Brief,
    EngagementDecision,
    Html,
    Job,
    Occurrence,
    Progress,
    Project,
    ProjectBrief,
    Rendered,
    Section,
    SectionRequest,
    Window,
)
from virtual_time import VirtualTimeLoop, in_virtual_time

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
OCCURRENCE = Occurrence(date(2026, 3, 9), NINE)
WINDOW = Window(NINE - timedelta(days=1), NINE - timedelta(minutes=15))
JOB = Job(type="daily_brief", user_id="ada", occurrence=OCCURRENCE, run_at=NINE, window=WINDOW, epoch=2)
DECISION = EngagementDecision(send=True, is_reengagement=True, reason="reengagement_day_4", days_inactive=4)

Act = Callable[[SectionRequest], Awaitable[ProjectBrief | None]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Virtual time: what hangs costs nothing, and durations are exact."""
    return in_virtual_time(request.param)


class Host:
    """A host's projects, and its generator."""

    def __init__(self, ids: Sequence[str], act: Act) -> None:
        self.asked: list[tuple[str, Window]] = []
        self.requests: list[SectionRequest] = []
        self.running = self.peak = 0
        self._ids = ids
        self._act = act

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await checkpoint()
        self.asked.append((user_id, window))
        return [Project(each, each.title()) for each in self._ids]

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        self.requests.append(request)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            return await self._act(request)
        finally:
            self.running -= 1


def render(occurrence: Occurrence, sections: Sequence[Section]) -> Rendered:
    return Rendered(str(occurrence.local_date), " ".join(section.title for section in sections), "<p>")


def a_builder(
    host: Host,
    *,
    projects: Any = None,
    section_limit: int = 8,
    section_timeout: float | None = 60,
    deadline: float = 300,
) -> BriefBuilder:
    return BriefBuilder(
        projects or host,
        host,
        render=render,
        section_limit=section_limit,
        section_timeout=None if section_timeout is None else timedelta(seconds=section_timeout),
        deadline=timedelta(seconds=deadline),
    )


async def built(
    builder: BriefBuilder, on_progress: Callable[[Progress], object] = lambda progress: None
) -> Brief | None:
    return await builder.build(JOB, timezone="Europe/Berlin", decision=DECISION, on_progress=on_progress)


async def brief_of(builder: BriefBuilder) -> Brief:
    brief = await built(builder)
    assert brief is not None
    return brief


def acting(**acts: Any) -> Act:
    """One behaviour a project: a value to return, an error to raise, or seconds to take before a plain section."""

    async def act(request: SectionRequest) -> ProjectBrief | None:
        await checkpoint()
        planned = acts[request.project.id]
        if isinstance(planned, Exception):
            raise planned
        if isinstance(planned, float | int):
            await anyio.sleep(planned)
            return ProjectBrief(f"made {request.project.id}")
        return cast("ProjectBrief | None", planned)

    return act


def host_of(**acts: Any) -> Host:
    return Host(list(acts), acting(**acts))


def errors_of(brief: Brief) -> dict[str, str]:
    return {section.project_id: section.error for section in brief.sections if section.error is not None}


class TestParallel:
    async def test_five_projects_of_100_ms_take_100_ms(self) -> None:
        host = host_of(a=0.1, b=0.1, c=0.1, d=0.1, e=0.1)
        begun = anyio.current_time()

        brief = await brief_of(a_builder(host))

        assert anyio.current_time() - begun == pytest.approx(0.1)
        assert host.peak == 5
        assert len(brief.sections) == 5

    async def test_the_limit_bounds_how_many_run_at_once(self) -> None:
        host = host_of(a=1, b=1, c=1, d=1, e=1)
        begun = anyio.current_time()

        await brief_of(a_builder(host, section_limit=2))

        assert anyio.current_time() - begun == pytest.approx(3)
        assert host.peak == 2

    async def test_sections_stand_in_the_order_of_the_projects_whatever_the_order_they_end_in(self) -> None:
        brief = await brief_of(a_builder(host_of(a=3, b=1, c=2)))

        assert [section.project_id for section in brief.sections] == ["a", "b", "c"]

    async def test_one_sections_context_variables_are_not_anothers(self) -> None:
        variable: ContextVar[str] = ContextVar("variable", default="clean")
        seen: list[str] = []

        async def act(request: SectionRequest) -> ProjectBrief:
            seen.append(variable.get())
            variable.set(request.project.id)
            await checkpoint()
            return ProjectBrief(variable.get())

        brief = await brief_of(a_builder(Host(["a", "b", "c"], act), section_limit=1))

        assert seen == ["clean"] * 3
        assert [section.text for section in brief.sections] == ["a", "b", "c"]
        assert variable.get() == "clean"


class TestWhatTheGeneratorIsAsked:
    async def test_the_request_says_whose_when_and_what_the_policy_decided(self) -> None:
        host = host_of(a=0)

        await built(a_builder(host))

        assert host.requests == [
            SectionRequest(
                user_id="ada",
                project=Project("a", "A"),
                window=WINDOW,
                occurrence=OCCURRENCE,
                timezone="Europe/Berlin",
                decision=DECISION,
            )
        ]
        assert host.asked == [("ada", WINDOW)]

    async def test_the_brief_says_what_slot_it_was_made_for(self) -> None:
        brief = await brief_of(a_builder(host_of(a=0)))

        assert brief == Brief(
            type="daily_brief",
            user_id="ada",
            occurrence=OCCURRENCE,
            window=WINDOW,
            epoch=2,
            sections=[Section(project_id="a", title="A", text="made a")],
            rendered=Rendered("2026-03-09", "A", "<p>"),
        )

    async def test_a_generators_title_and_markup_are_taken_over(self) -> None:
        made = ProjectBrief("text", html=Html("<b>text</b>"), title="Better")

        brief = await brief_of(a_builder(host_of(a=made)))

        assert brief.sections == (Section(project_id="a", title="Better", text="text", html=Html("<b>text</b>")),)


class TestNothingToSay:
    async def test_projects_with_nothing_new_are_left_out(self) -> None:
        brief = await brief_of(a_builder(host_of(a=None, b=0, c=None)))

        assert [section.project_id for section in brief.sections] == ["b"]

    async def test_without_projects_there_is_no_brief(self) -> None:
        assert await built(a_builder(host_of())) is None

    async def test_what_a_later_brief_has_told_already_is_not_asked_for_again(self) -> None:
        told = evolve(JOB, window=Window(WINDOW.end, WINDOW.end))
        builder = a_builder(host_of(a=AssertionError("asked")))

        assert await builder.build(told, timezone="UTC", decision=None, on_progress=lambda progress: None) is None

    async def test_with_nothing_new_anywhere_there_is_no_brief(self) -> None:
        assert await built(a_builder(host_of(a=None, b=None))) is None


class TestFailures:
    async def test_a_failed_section_is_marked_in_its_place_and_the_others_are_whole(self) -> None:
        brief = await brief_of(a_builder(host_of(a=1, b=OSError("repository is corrupt"), c=2)))

        assert list(brief.sections) == [
            Section(project_id="a", title="A", text="made a"),
            Section(project_id="b", title="B", error="OSError: repository is corrupt"),
            Section(project_id="c", title="C", text="made c"),
        ]
        assert brief.rendered.text == "A B C"

    async def test_nothing_new_beside_a_failure_is_a_failure(self) -> None:
        with pytest.raises(BriefFailed, match=r"every section failed \(1\): OSError: gone"):
            await built(a_builder(host_of(a=None, b=OSError("gone"))))

    async def test_when_all_fail_the_brief_does_and_names_each_reason_once(self) -> None:
        with pytest.raises(BriefFailed) as failure:
            await built(a_builder(host_of(a=OSError("gone"), b=OSError("gone"), c=KeyError("id"))))

        assert str(failure.value) == "every section failed (3): OSError: gone; KeyError: 'id'"

    async def test_when_all_fail_and_some_ask_for_later_the_longest_wait_counts(self) -> None:
        with pytest.raises(RetryLater) as failure:
            await built(a_builder(host_of(a=RetryLater(30), b=RetryLater(90), c=PermanentFailure("no"))))

        assert failure.value.seconds == 90

    async def test_when_all_fail_for_good_the_brief_does(self) -> None:
        with pytest.raises(PermanentFailure, match="account closed"):
            await built(a_builder(host_of(a=PermanentFailure("account closed"), b=PermanentFailure("no"))))

    async def test_when_some_fail_for_good_and_others_may_recover_the_brief_may(self) -> None:
        with pytest.raises(BriefFailed):
            await built(a_builder(host_of(a=PermanentFailure("no"), b=OSError("gone"))))
        with pytest.raises(BriefFailed):
            await built(a_builder(host_of(a=PermanentFailure("no"), b="no brief")))

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (None, "projects.of gave NoneType instead of a sequence of Project"),
            ("apollo", "projects.of gave str instead of a sequence of Project"),
            (["apollo", 7], "projects.of gave int and str instead of Project"),
            ([None], "projects.of gave NoneType instead of Project"),
        ],
    )
    async def test_projects_that_are_none_are_told_by_their_port(self, given: object, told: str) -> None:
        class Wrong:
            async def of(self, user_id: str, window: Window) -> Any:
                return given

        with pytest.raises(TypeError, match=told):
            await built(a_builder(host_of(), projects=Wrong()))

    async def test_projects_may_come_in_any_iterable(self) -> None:
        class Lazy:
            async def of(self, user_id: str, window: Window) -> Any:
                return (Project(each, each.upper()) for each in "ab")

        brief = await brief_of(a_builder(host_of(a=0, b=0), projects=Lazy()))
        assert [section.title for section in brief.sections] == ["A", "B"]

    @pytest.mark.parametrize(("given", "named"), [("text", "str"), (7.5j, "complex"), ({}, "dict")])
    async def test_a_generator_that_gives_something_else_is_told_so(self, given: object, named: str) -> None:
        brief = await brief_of(a_builder(host_of(a=0, b=given)))

        assert errors_of(brief) == {"b": f"the generator gave {named} instead of a ProjectBrief or None"}

    async def test_a_generators_own_timeout_is_a_failure_like_any_other(self) -> None:
        brief = await brief_of(a_builder(host_of(a=0, b=TimeoutError("the provider took too long"))))

        assert errors_of(brief) == {"b": "TimeoutError: the provider took too long"}

    async def test_a_group_of_errors_is_one_sections_failure(self) -> None:
        async def act(request: SectionRequest) -> ProjectBrief:
            if request.project.id == "b":
                async with anyio.create_task_group() as group:
                    group.start_soon(fail)
                    group.start_soon(anyio.sleep_forever)
            return ProjectBrief("fine")

        async def fail() -> None:
            await checkpoint()
            raise OSError("gone")

        brief = await brief_of(a_builder(Host(["a", "b", "c"], act)))

        assert list(errors_of(brief)) == ["b"]
        assert "ExceptionGroup" in errors_of(brief)["b"]

    async def test_an_error_is_told_on_one_line_and_not_at_any_length(self) -> None:
        long = "Traceback\n  line 1\r\n\tline 2 " + "x" * 10_000

        error = errors_of(await brief_of(a_builder(host_of(a=0, b=RuntimeError(long)))))["b"]

        assert error.startswith("RuntimeError: Traceback line 1 line 2 xxx")
        assert error.endswith("x...")
        assert len(error) == len("RuntimeError: ") + 500

    async def test_an_error_without_words_is_told_by_its_type(self) -> None:
        assert errors_of(await brief_of(a_builder(host_of(a=0, b=KeyError())))) == {"b": "KeyError"}

    async def test_an_error_that_cannot_be_read_costs_nobody_a_brief(self) -> None:
        class Broken(Exception):
            def __str__(self) -> str:
                return str(self.args[0])

        brief = await brief_of(a_builder(host_of(a=0, b=Broken())))

        assert errors_of(brief) == {"b": "Broken: its message could not be read"}

    async def test_what_is_saved_is_text_whatever_type_the_host_gives(self) -> None:
        class Projects:
            async def of(self, user_id: str, window: Window) -> Sequence[Any]:
                await checkpoint()
                return [SimpleNamespace(id=7, name=None), SimpleNamespace(id=8, name=date(2026, 3, 9))]

        async def act(request: SectionRequest) -> ProjectBrief:
            await checkpoint()
            if request.project.id == cast("Any", 7):
                raise OSError
            return ProjectBrief("text")

        brief = await brief_of(a_builder(Host([], act), projects=Projects()))

        assert list(brief.sections) == [
            Section(project_id="7", title="None", error="OSError"),
            Section(project_id="8", title="2026-03-09", text="text"),
        ]

    @pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualTimeLoop})], ids=["asyncio"])
    async def test_a_section_that_awaits_something_cancelled_fails_alone(self) -> None:
        async def act(request: SectionRequest) -> ProjectBrief:
            if request.project.id == "b":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            await checkpoint()
            return ProjectBrief("fine")

        brief = await brief_of(a_builder(Host(["a", "b", "c"], act)))

        assert list(errors_of(brief)) == ["b"]


class TestTime:
    async def test_a_section_that_takes_too_long_is_really_cancelled(self) -> None:
        ended: list[float] = []
        begun = anyio.current_time()

        async def act(request: SectionRequest) -> ProjectBrief:
            if request.project.id == "hangs":
                try:
                    await anyio.sleep_forever()
                finally:
                    ended.append(anyio.current_time() - begun)
            await checkpoint()
            return ProjectBrief("fine")

        brief = await brief_of(a_builder(Host(["a", "hangs", "c"], act), section_timeout=2))

        assert ended == [pytest.approx(2)]
        assert list(errors_of(brief)) == ["hangs"]
        assert "TimeoutError" in errors_of(brief)["hangs"]
        assert [section.text for section in brief.sections] == ["fine", "", "fine"]

    async def test_at_the_deadline_what_is_there_stays_and_the_rest_is_marked(self) -> None:
        host = host_of(a=1, b=50, c=2, d=OSError("gone"))
        begun = anyio.current_time()

        brief = await brief_of(a_builder(host, section_timeout=None, deadline=10))

        assert anyio.current_time() - begun == pytest.approx(10)
        assert host.running == 0
        assert [section.text for section in brief.sections] == ["made a", "", "made c", ""]
        assert errors_of(brief) == {
            "b": "it was not ready when the brief's deadline of 10 s struck",
            "d": "OSError: gone",
        }

    async def test_what_was_not_even_begun_at_the_deadline_is_marked_too(self) -> None:
        brief = await brief_of(a_builder(host_of(a=9, b=9, c=9), section_limit=1, deadline=10))

        assert list(errors_of(brief)) == ["b", "c"]

    async def test_when_nothing_is_there_at_the_deadline_the_brief_failed(self) -> None:
        with pytest.raises(
            BriefFailed, match=r"every section failed \(2\): it was not ready when the brief's deadline"
        ):
            await built(a_builder(host_of(a=50, b=50), section_timeout=None, deadline=10))

    async def test_projects_that_never_come_fail_the_brief(self) -> None:
        class Hung:
            async def of(self, user_id: str, window: Window) -> Sequence[Project]:
                await anyio.sleep_forever()
                raise AssertionError

        with pytest.raises(BriefFailed, match="the projects of user 'ada' did not come within 10 s"):
            await built(a_builder(host_of(), projects=Hung(), deadline=10))

    async def test_a_deadline_of_zero_is_none(self) -> None:
        brief = await brief_of(a_builder(host_of(a=100_000), section_timeout=None, deadline=0))

        assert errors_of(brief) == {}

    @pytest.mark.parametrize("error", [OSError("gone"), RetryLater(5), PermanentFailure("no"), TimeoutError("slow")])
    async def test_what_reading_the_projects_raises_surfaces_as_it_is(self, error: Exception) -> None:
        class Failing:
            async def of(self, user_id: str, window: Window) -> Sequence[Project]:
                await checkpoint()
                raise error

        with pytest.raises(type(error)) as failure:
            await built(a_builder(host_of(), projects=Failing()))
        assert failure.value is error

    async def test_a_cancel_from_outside_leaves_nothing_running(self) -> None:
        host = host_of(a=50, b=50)

        with anyio.move_on_after(1) as scope:
            await built(a_builder(host))

        assert scope.cancelled_caught
        assert len(host.requests) == 2
        assert host.running == 0


class TestProgress:
    async def test_it_counts_completions_and_ends_at_the_total(self) -> None:
        seen: list[Progress] = []

        await built(a_builder(host_of(a=3, b=OSError("gone"), c=1)), seen.append)

        assert seen == [
            Progress("projects"),
            Progress("sections", 0, 3),
            Progress("sections", 1, 3, 1),
            Progress("sections", 2, 3, 1),
            Progress("sections", 3, 3, 1),
            Progress("composing", 3, 3, 1),
        ]

    async def test_it_never_goes_back_also_when_the_deadline_strikes(self) -> None:
        seen: list[Progress] = []
        acts = {f"p{number}": (number * 7) % 20 for number in range(30)}

        await built(a_builder(host_of(**acts), section_limit=4, deadline=25), seen.append)

        assert [each.completed for each in seen] == sorted(each.completed for each in seen)
        assert [each.failed for each in seen] == sorted(each.failed for each in seen)
        assert seen[-1] == evolve(seen[-1], step="composing", completed=30, total=30)
        assert 0 < seen[-2].completed < 30
