"""Builds one brief: generates its sections concurrently; a failing section never blocks another."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeAlias, cast

import anyio

from fanout_briefs.errors import BriefFailed, PermanentFailure, RetryLater
from fanout_briefs.model import (
    Brief,
    EngagementDecision,
    Job,
    Occurrence,
    Progress,
    Project,
    ProjectBrief,
    Rendered,
    Section,
    SectionRequest,
)
from fanout_briefs.ports import Generator, Projects
from fanout_briefs.settled import Fulfilled, Rejected, Settled, iter_settled

__all__ = ["BriefBuilder"]

_Settled: TypeAlias = Settled[Project, ProjectBrief | None]
_LONGEST_ERROR = 500
"""The most characters of an error that a section shows; some errors contain a whole response."""


class BriefBuilder:
    """Builds briefs from a host's projects and generator.

    Args:
        projects: What a user's brief is about.
        generator: Generates one section.
        render: Lays out the sections.
        section_limit: How many sections of one brief may be generated at once.
        section_timeout: How long one section may take before it is cancelled and marked as failed; None means no limit.
        deadline: How long the whole brief may take; sections missing by then are marked as failed. Zero means no limit.
    """

    def __init__(
        self,
        projects: Projects,
        generator: Generator,
        *,
        render: Callable[[Occurrence, Sequence[Section]], Rendered],
        section_limit: int,
        section_timeout: timedelta | None,
        deadline: timedelta,
    ) -> None:
        self._projects = projects
        self._generator = generator
        self._render = render
        self._section_limit = section_limit
        self._section_timeout = None if section_timeout is None else section_timeout.total_seconds()
        self._deadline = deadline.total_seconds() or math.inf

    async def build(
        self,
        job: Job,
        *,
        timezone: str,
        decision: EngagementDecision | None,
        on_progress: Callable[[Progress], object],
    ) -> Brief | None:
        """Build the brief of a slot.

        Args:
            job: The slot, its window fixed.
            timezone: The user's zone, for the generator.
            decision: The engagement policy's decision, for the generator.
            on_progress: Called at each step and each settled section; must not raise.

        Returns:
            The brief, with failed sections marked in their places; None if there is nothing to say.

        Raises:
            BriefFailed: Every section failed, or the projects could not be read within the deadline.
            RetryLater: Every section failed, and at least one asked for it; or ``projects`` raised it.
            PermanentFailure: Every section failed for good; or ``projects`` raised it.
            Exception: What ``projects`` or ``render`` raised.
        """

        async def generate(project: Project) -> ProjectBrief | None:
            request = SectionRequest(
                user_id=job.user_id,
                project=project,
                window=job.window,
                occurrence=job.occurrence,
                timezone=timezone,
                decision=decision,
            )
            return await self._generator.generate(request)

        if job.window.start >= job.window.end:
            return None  # A later brief was generated before this one, and covers all of it.
        on_progress(Progress("projects"))
        projects: Sequence[Project] = ()
        outcomes: dict[int, _Settled] = {}
        with anyio.move_on_after(self._deadline) as deadline:
            projects = _projects_of(await self._projects.of(job.user_id, job.window))
            await self._fan_out(generate, projects, outcomes, on_progress)
        if deadline.cancelled_caught and not projects:
            raise BriefFailed(f"the projects of user {job.user_id!r} did not come within {self._deadline:g} s")
        sections = [
            section
            for index, project in enumerate(projects)
            if (section := self._section(project, outcomes.get(index))) is not None
        ]
        if not sections:
            return None
        if all(section.error is not None for section in sections):
            raise _total_failure(sections, list(outcomes.values()))
        failed = sum(section.error is not None for section in sections)
        on_progress(Progress("composing", len(projects), len(projects), failed))
        return Brief(
            type=job.type,
            user_id=job.user_id,
            occurrence=job.occurrence,
            window=job.window,
            epoch=job.epoch,
            sections=sections,
            rendered=self._rendered(job.occurrence, sections),
        )

    def _rendered(self, occurrence: Occurrence, sections: Sequence[Section]) -> Rendered:
        rendered = cast("object", self._render(occurrence, sections))  # by the host's own code
        if not isinstance(rendered, Rendered):
            raise TypeError(f"render gave {type(rendered).__name__} instead of a Rendered")
        return rendered

    async def _fan_out(
        self,
        generate: Callable[[Project], Awaitable[ProjectBrief | None]],
        projects: Sequence[Project],
        outcomes: dict[int, _Settled],
        on_progress: Callable[[Progress], object],
    ) -> None:
        """Fill ``outcomes`` as sections settle, so that finished ones survive the deadline."""
        total, failed = len(projects), 0
        on_progress(Progress("sections", 0, total))
        async with iter_settled(
            generate, projects, limit=self._section_limit, item_timeout=self._section_timeout
        ) as settling:
            async for outcome in settling:
                outcomes[outcome.index] = outcome
                failed += isinstance(outcome, Rejected)
                on_progress(Progress("sections", len(outcomes), total, failed))

    def _section(self, project: Project, outcome: _Settled | None) -> Section | None:
        # Only text is saved: hosts may return ids of their own types, and lazily translated names.
        project_id, name = str(project.id), str(project.name)
        match outcome:
            case Fulfilled(value=None):
                return None
            case Fulfilled(value=ProjectBrief() as made):
                return Section(project_id=project_id, title=str(made.title or name), text=made.text, html=made.html)
            case Fulfilled(value=other):
                error = f"the generator gave {type(other).__name__} instead of a ProjectBrief or None"
            case Rejected(error=raised):
                error = _one_line(raised)
            case _:
                error = f"it was not ready when the brief's deadline of {self._deadline:g} s struck"
        return Section(project_id=project_id, title=name, error=error)


def _projects_of(answer: object) -> Sequence[Project]:
    """Check that the host's answer is a sequence of projects, and return it."""
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise TypeError(f"projects.of gave {type(answer).__name__} instead of a sequence of Project")
    projects = list(cast("Iterable[object]", answer))
    wrong = {type(each).__name__ for each in projects if not (hasattr(each, "id") and hasattr(each, "name"))}
    if wrong:
        raise TypeError(f"projects.of gave {' and '.join(sorted(wrong))} instead of Project")
    return cast("list[Project]", projects)


def _one_line(error: Exception) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # A badly written exception must not cost the user the other sections.
        text = "its message could not be read"
    if len(text) > _LONGEST_ERROR:
        text = f"{text[: _LONGEST_ERROR - 3]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _total_failure(
    sections: Sequence[Section], outcomes: Sequence[_Settled]
) -> BriefFailed | RetryLater | PermanentFailure:
    """Return the error for a brief whose sections all failed; its type says whether and when to retry."""
    reasons = "; ".join(dict.fromkeys(str(section.error) for section in sections))
    message = f"every section failed ({len(sections)}): {reasons}"
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Rejected)]
    waits = [error.seconds for error in errors if isinstance(error, RetryLater)]
    if waits:
        return RetryLater(max(waits), message)
    if len(errors) == len(sections) and all(isinstance(error, PermanentFailure) for error in errors):
        return PermanentFailure(message)
    return BriefFailed(message)
