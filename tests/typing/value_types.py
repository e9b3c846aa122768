"""Values keep the types of what is in them, and are frozen. Read by type checkers; nobody runs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import assert_type

from attrs import evolve, frozen

import fanout_briefs
from fanout_briefs import (
    Activity,
    BadValue,
    BatchDeduplicator,
    Brief,
    EngagementDecision,
    Html,
    InvalidPreferences,
    InvalidSchedule,
    Job,
    JobRef,
    JobStatus,
    NotSent,
    Occurrence,
    Page,
    PlanReport,
    Preference,
    Progress,
    Project,
    ProjectBrief,
    RetryLater,
    SchemaTooNew,
    Section,
    SectionRequest,
    SkipReason,
    StorageUnavailable,
    UnknownUser,
    Window,
)
from fanout_briefs.model import Scheduled, Slot, Standing


@frozen
class Wish:
    """A slot of a host's own, which is no job yet."""

    type: str
    user_id: str
    occurrence: Occurrence
    note: bytes = b""

    @property
    def dedup_key(self) -> str:
        return f"{self.type}:{self.occurrence.local_date}:{self.user_id}"


class UrgentWish(Wish):
    """Narrower still."""


@frozen
class WithoutKey:
    type: str
    user_id: str
    occurrence: Occurrence


def slots_are_told_by_their_shape(job: Job, wish: Wish) -> Sequence[Slot]:
    return [job, wish]


def duplicates_and_fresh_ones_keep_their_type(
    existing: Iterable[Job], jobs: list[Job], wishes: tuple[Wish, ...], urgent: Iterable[UrgentWish]
) -> None:
    told = BatchDeduplicator(existing, tolerance=timedelta(minutes=30))
    assert_type(told.split(jobs), tuple[list[Job], list[Job]])
    assert_type(told.split(wishes), tuple[list[Wish], list[Wish]])
    assert_type(told.split(urgent), tuple[list[UrgentWish], list[UrgentWish]])
    assert_type(BatchDeduplicator.of_keys(["key"]), BatchDeduplicator)
    fresh, duplicates = BatchDeduplicator.of_keys(["key"]).split(wish for wish in wishes)
    assert_type([each.note for each in fresh], list[bytes])
    assert_type(duplicates, list[Wish])


def duplicates_and_fresh_ones_may_be_mixed(told: BatchDeduplicator, either: list[Job | Wish]) -> None:
    fresh, _ = told.split(either)
    assert_type(fresh, list[Job | Wish])


def what_is_no_slot_is_refused(
    told: BatchDeduplicator, refs: list[JobRef], bare: list[WithoutKey], wishes: list[Wish]
) -> None:
    told.split(refs)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    told.split(bare)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    BatchDeduplicator(wishes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what exists are jobs
    BatchDeduplicator([], tolerance=30)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of what?


def pages_keep_what_is_on_them(preference: Preference, scheduled: Scheduled) -> None:
    assert_type(Page([preference]), Page[Preference])
    assert_type(Page((scheduled,), "next").items, Sequence[Scheduled])
    assert_type(Page([preference]).next_cursor, str | None)


def another_page_is_refused(page: Page[Preference]) -> Page[Scheduled]:
    Page([], 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a cursor is a string
    return page  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def a_job_tells(job: Job, standing: Standing, ref: JobRef) -> None:
    assert_type(job.status, JobStatus)
    assert_type(job.code, SkipReason | None)
    assert_type(job.occurrence.local_date, date)
    assert_type(job.window, Window)
    assert_type(job.progress, Progress | None)
    assert_type(job.dedup_key, str)
    assert_type(job.can_be_taken_up, bool)
    assert_type(Standing.of(job), Standing)
    assert_type(standing.deliver_at, datetime)
    assert_type(JobRef.of(job), JobRef)
    assert_type(ref.id, str)
    assert_type(evolve(job, epoch=2), Job)


def what_a_generator_is_given_tells(request: SectionRequest) -> ProjectBrief:
    assert_type(request.project, Project)
    assert_type(request.window.end, datetime)
    assert_type(request.decision, EngagementDecision | None)
    return ProjectBrief(request.project.name, html=Html("<p>"), title="Aurora")


def a_brief_tells(brief: Brief) -> None:
    assert_type(brief.sections, Sequence[Section])
    assert_type(brief.failed, Sequence[Section])
    assert_type([section.html for section in brief.sections], list[Html | None])


def markup_is_said_to_be_that(request: SectionRequest) -> None:
    ProjectBrief("text", html="<p>")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ProjectBrief(b"text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ProjectBrief(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def errors_tell_what_they_are_about(
    schedule: InvalidSchedule, preferences: InvalidPreferences, new: SchemaTooNew, user: UnknownUser, later: RetryLater
) -> tuple[ValueError, ValueError, StorageUnavailable, LookupError]:
    assert_type(schedule.problems, tuple[BadValue, ...])
    assert_type(preferences.problems, tuple[BadValue, ...])
    assert_type(schedule.problems[0].value, object)
    assert_type(new.found, int)
    assert_type(user.user_id, str)
    assert_type(later.seconds, float)
    assert_type(NotSent("no such address", permanent=True).permanent, bool)
    return schedule, preferences, new, user


def values_are_frozen(  # noqa: PLR0917  # as many as there are kinds
    job: Job,
    preference: Preference,
    scheduled: Scheduled,
    standing: Standing,
    activity: Activity,
    decision: EngagementDecision,
    occurrence: Occurrence,
    page: Page[str],
    report: PlanReport,
) -> None:
    # The first six are frozen for type checkers alone.
    job.epoch = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    preference.is_active = False  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    scheduled.schedule = ""  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    standing.code = None  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    activity.last_visit = None  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    decision.send = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    occurrence.local_date = date.min  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    page.next_cursor = None  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    report.due = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    report.skipped[SkipReason.MISSED] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]  # nor are mappings there to be changed


def values_take_their_fields_by_name(now: datetime) -> None:
    Preference("ann")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Preference(user_id="ann", frequenzy="daily")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Preference(user_id=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Activity("ann", last_visit="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Window(now.date(), now)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_misspelt_name_is_no_name_of_the_package() -> None:
    print(fanout_briefs.Brifs)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
