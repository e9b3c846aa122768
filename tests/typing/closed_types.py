"""Every closed list of the library can be told apart to its end, so that a new answer is seen by whoever told them all.

Read by type checkers; nobody runs it. Where a member is added, these fail as a host's own code would: say so in the
changelog, then add it here.
"""

from __future__ import annotations

from typing import assert_never, assert_type

from fanout_briefs import (
    CatchUp,
    Concern,
    Demand,
    Ended,
    EngagementDecision,
    Explanation,
    Frequency,
    JobOutcome,
    JobRun,
    JobStatus,
    Schedule,
    SkipReason,
    Status,
    Verdict,
)
from fanout_briefs.eligibility import Decision, Refusal
from fanout_briefs.explain import Code
from fanout_briefs.model import Change, Enqueued


def where_a_slot_stands(status: JobStatus) -> str:
    match status:
        case (
            JobStatus.PENDING
            | JobStatus.PROCESSING
            | JobStatus.COMPLETED
            | JobStatus.EMPTY
            | JobStatus.SKIPPED
            | JobStatus.CANCELLED
            | JobStatus.FAILED
            | JobStatus.UNKNOWN
        ):
            return status.value
        case _:
            assert_never(status)


def why_nobody_gets_a_brief(reason: SkipReason) -> str:
    match reason:
        case (
            SkipReason.NO_PREFERENCE
            | SkipReason.SWITCHED_OFF
            | SkipReason.INVALID_USER_ID
            | SkipReason.INVALID_SCHEDULE
            | SkipReason.DUPLICATE_USER
            | SkipReason.NOT_SCHEDULED
            | SkipReason.NOT_YET_EFFECTIVE
            | SkipReason.NOT_YET_DUE
            | SkipReason.TOO_LATE
            | SkipReason.MISSED
            | SkipReason.NEWER_OCCURRENCE
            | SkipReason.NEARBY_JOB
            | SkipReason.ENGAGEMENT
            | SkipReason.ENGAGEMENT_UNAVAILABLE
            | SkipReason.STORAGE_UNAVAILABLE
            | SkipReason.SUPERSEDED
            | SkipReason.PAUSED
            | SkipReason.WITHDRAWN
            | SkipReason.UNREACHABLE
            | SkipReason.OPTED_OUT
        ):
            return reason.value
        case _:
            assert_never(reason)


def what_a_person_asked(demand: Demand) -> str:
    match demand:
        case Demand.RUN | Demand.RESEND:
            return demand.value
        case _:
            assert_never(demand)


def what_became_of_a_job_that_was_enqueued(outcome: Enqueued) -> str:
    match outcome:
        case Enqueued.CREATED | Enqueued.TAKEN_UP | Enqueued.DUPLICATE | Enqueued.PAUSED:
            return outcome.value
        case _:
            assert_never(outcome)


def what_a_host_asks_of_slots(change: Change) -> str:
    match change:
        case Change.CANCEL | Change.RETRY | Change.REGENERATE | Change.RESEND:
            return change.value
        case _:
            assert_never(change)


def what_became_of_a_job_that_was_carried(outcome: JobOutcome) -> str:
    match outcome:
        case (
            JobOutcome.RAN
            | JobOutcome.LOST
            | JobOutcome.RELEASED
            | JobOutcome.TAKEN
            | JobOutcome.DONE
            | JobOutcome.CANCELLED
            | JobOutcome.PAUSED
            | JobOutcome.BLOCKED
            | JobOutcome.NOT_DUE
            | JobOutcome.MISSING
        ):
            return outcome.value
        case _:
            assert_never(outcome)


def why_a_status_wants_an_eye(concern: Concern) -> str:
    match concern:
        case (
            Concern.FAILED
            | Concern.UNKNOWN
            | Concern.ABANDONED
            | Concern.NEVER_PLANNED
            | Concern.PLAN_OVERDUE
            | Concern.WORK_OVERDUE
        ):
            return concern.value
        case _:
            assert_never(concern)


def what_happens_to_what_was_missed(policy: CatchUp) -> str:
    match policy:
        case CatchUp.SKIP | CatchUp.LATEST | CatchUp.EACH:
            return policy.value
        case _:
            assert_never(policy)


def how_often(frequency: Frequency) -> str:
    match frequency:
        case Frequency.DAILY | Frequency.WEEKDAYS | Frequency.WEEKLY | Frequency.CUSTOM | Frequency.MONTHLY:
            return frequency.value
        case _:
            assert_never(frequency)


def one_answer_less_is_not_all(status: JobStatus) -> bool:
    match status:
        case JobStatus.PENDING | JobStatus.PROCESSING:
            return False
        case JobStatus.COMPLETED | JobStatus.EMPTY | JobStatus.SKIPPED | JobStatus.CANCELLED | JobStatus.FAILED:
            return True
        case _:
            assert_never(status)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # unknown is left


def whether_a_brief_is_sent(decision: Decision) -> str:
    match decision:
        case EngagementDecision(reason=reason):
            return assert_type(reason, str)
        case Refusal(code, detail):
            assert_type(detail, str | None)
            return why_nobody_gets_a_brief(code)
        case _:
            assert_never(decision)


def isinstance_tells_a_refusal(decision: Decision) -> EngagementDecision:
    if isinstance(decision, Refusal):
        raise ValueError(why_nobody_gets_a_brief(decision.code))
    return assert_type(decision, EngagementDecision)


def the_one_answer_of_an_explanation(explanation: Explanation) -> str:
    code = explanation.code
    assert_type(code, Code)
    match code:
        case JobStatus() as status:
            return where_a_slot_stands(status)
        case SkipReason() as reason:
            return why_nobody_gets_a_brief(reason)
        case _:
            assert_never(code)


def a_verdict_may_have_neither_status_nor_code(verdict: Verdict) -> str:
    if verdict.code is not None:
        return why_nobody_gets_a_brief(verdict.code)
    if verdict.status is not None:
        return where_a_slot_stands(verdict.status)
    assert_type(verdict.code, None)
    assert_type(verdict.status, None)
    return where_a_slot_stands(verdict.status)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def what_ended_has_a_status_unless_it_was_lost(ended: Ended) -> str:
    return "lost" if ended.status is None else where_a_slot_stands(ended.status)


def what_an_engine_is_answered(run: JobRun) -> str:
    if run.outcome is JobOutcome.RAN and run.status is not None:
        return where_a_slot_stands(run.status)
    return what_became_of_a_job_that_was_carried(run.outcome)


def concerns_are_told_one_by_one(status: Status) -> list[str]:
    return [why_a_status_wants_an_eye(concern) for concern in status.concerns]


def a_schedule_tells_how_often(schedule: Schedule) -> str:
    return how_often(schedule.frequency)


def every_answer_is_a_string_too(
    every: JobStatus | SkipReason | Demand | Enqueued | Change | JobOutcome | Concern | CatchUp | Frequency,
) -> str:
    return every


def answers_are_not_taken_for_each_other(status: JobStatus, plain: str) -> str:
    why_nobody_gets_a_brief(status)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    where_a_slot_stands(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a string is no answer
    return where_a_slot_stands(JobStatus(plain))
