"""Clauses of ``ports.Generator``. Each is given the projects that the author says it can write about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
from attrs import evolve

from fanout_briefs.model import EngagementDecision, Occurrence, Project, ProjectBrief, SectionRequest, Window
from fanout_briefs.ports import Generator
from fanout_briefs.testing.checks import Broken, same, shown
from fanout_briefs.testing.kits import generator_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, TODAY


def _request(project: Project, user_id: str = "ann") -> SectionRequest:
    return SectionRequest(
        user_id=user_id,
        project=project,
        window=Window(NOW - DAY, NOW),
        occurrence=Occurrence(TODAY, NOW + HOUR),
        timezone="UTC",
    )


def _is_a_section(answer: object) -> None:
    if answer is None:
        return
    if not isinstance(answer, ProjectBrief):
        raise Broken(f"came back: {shown(answer)}\npromised:  a ProjectBrief, or None where there is nothing new")
    if not answer.text.strip():
        raise Broken(f"came back: {shown(answer)}\npromised:  some text; None says that there is nothing new")


@generator_kit.clause("generator.section-or-none")
async def _a_section_or_none(generator: Generator, projects: Sequence[Project]) -> None:
    """A section comes back, with text, or None where there is nothing new."""
    for project in projects:
        _is_a_section(await generator.generate(_request(project)))


@generator_kit.clause("generator.many-at-once")
async def _many_sections_at_once(generator: Generator, projects: Sequence[Project]) -> None:
    """Many sections may be made at once, of one user and of several."""
    answers: list[object] = []

    async def write(request: SectionRequest) -> None:
        answers.append(await generator.generate(request))

    async with anyio.create_task_group() as tasks:
        for user_id in ("ann", "bob", "cid"):
            for project in projects:
                tasks.start_soon(write, _request(project, user_id))
    same(len(answers), 3 * len(projects))
    for answer in answers:
        _is_a_section(answer)


@generator_kit.clause("generator.again-does-no-harm")
async def _asking_again_does_no_harm(generator: Generator, projects: Sequence[Project]) -> None:
    """The same request may be made again, as after a failed attempt, and what was given before stays as it was."""
    first = await generator.generate(_request(projects[0]))
    kept = None if first is None else evolve(first)
    _is_a_section(await generator.generate(_request(projects[0])))
    same(first, kept)


@generator_kit.clause("generator.repeatable", needs=("repeatable",))
async def _the_same_request_comes_to_the_same(generator: Generator, projects: Sequence[Project]) -> None:
    """The same request comes to the same section, whatever was made in between, also at the same time."""
    alone = [await generator.generate(_request(project)) for project in projects]
    answers: dict[str, ProjectBrief | None] = {}

    async def write(project: Project) -> None:
        answers[project.id] = await generator.generate(_request(project))

    async with anyio.create_task_group() as tasks:
        for project in reversed(projects):
            tasks.start_soon(write, project)
    same([answers[project.id] for project in projects], alone)


@generator_kit.clause("generator.any-user-and-window")
async def _any_user_window_and_zone(generator: Generator, projects: Sequence[Project]) -> None:
    """Any user id, window, zone and decision will do: a window may be empty, and a date far off."""
    usual = _request(projects[0])
    decision = EngagementDecision(send=True, is_reengagement=True, reason="away", days_inactive=31)
    for request in (
        evolve(usual, user_id="日本語 '\" {} %s 😀"),
        evolve(usual, window=Window(NOW, NOW)),
        evolve(usual, window=Window(NOW - 3_000 * DAY, NOW)),
        evolve(usual, timezone="Pacific/Apia", occurrence=Occurrence(date(2026, 3, 3), NOW)),
        evolve(usual, occurrence=Occurrence(date(2024, 2, 29), NOW.astimezone(ZoneInfo("Asia/Tokyo")))),
        evolve(usual, decision=decision),
    ):
        _is_a_section(await generator.generate(request))


@generator_kit.clause("generator.cancellation")
async def _cancellation_is_let_through(generator: Generator, projects: Sequence[Project]) -> None:
    """A call that is cancelled ends, gives no wrong answer, and the next one works."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        _is_a_section(await generator.generate(_request(projects[0])))
        await anyio.lowlevel.checkpoint()
    same(scope.cancelled_caught, True)
    _is_a_section(await generator.generate(_request(projects[0])))
