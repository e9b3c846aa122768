"""Whether slots are to be sent, asked in batches; and whether they still match the preference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from attrs import evolve

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.eligibility import EVERYONE, Decision, Eligibility, Refusal, local_date, parse, superseded
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.errors import InvalidSchedule
from fanout_briefs.model import (
    Activity,
    EngagementDecision,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    SkipReason,
    Standing,
    Window,
)
from slots import DAY, HOUR, bring

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)  # a Monday
TODAY = date(2026, 3, 2)
UNAVAILABLE = SkipReason.ENGAGEMENT_UNAVAILABLE


def slot(user_id: str = "ann", day: int = 0, status: JobStatus = JobStatus.PENDING, **fields: Any) -> Job:
    at = NINE + day * DAY
    return Job(
        type="daily",
        user_id=user_id,
        occurrence=Occurrence(TODAY + day * DAY, at),
        run_at=at,
        window=Window(at - DAY, at),
        status=status,
        **fields,
    )


class Visits:
    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[list[str]] = []

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        self.calls.append(list(user_ids))
        if isinstance(self.answer, Exception):
            raise self.answer
        return cast("Mapping[str, datetime | None]", self.answer)


class Scripted:
    """A policy that answers as it is told, and keeps what it was asked."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, datetime, datetime | None]] = []

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        self.asked.append((activity.user_id, at, activity.last_brief))
        answer = self.answers.get(activity.user_id, True)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bool):
            return EngagementDecision(answer, is_reengagement=False, reason="scripted")
        return cast("EngagementDecision", answer)


class Blind(Scripted):
    sends_when_unavailable = True


async def decide(
    jobs: Sequence[Job],
    visits: object,
    policy: EngagementPolicy | None = None,
    existing: Sequence[Job] = (),
    stored: Sequence[tuple[Job, JobStatus]] = (),
) -> Mapping[str, Decision]:
    async with MemoryStorage() as storage:
        for job, status in stored:
            await bring(storage, job, status)
        eligibility = Eligibility(Visits(visits), storage, policy or BackoffPolicy())
        return await eligibility.decide(jobs, standings(*existing), existing)


def standings(*jobs: Job) -> Mapping[str, Standing]:
    return {job.dedup_key: Standing.of(job) for job in jobs}


async def test_where_no_engagement_is_plugged_in_everyone_is_sent_to() -> None:
    async with MemoryStorage() as storage:
        eligibility = Eligibility(None, storage, Scripted({"ann": False}))
        decisions = await eligibility.decide([slot(), slot("bob")])
    assert decisions == {slot().dedup_key: EVERYONE, slot("bob").dedup_key: EVERYONE}
    assert (EVERYONE.send, EVERYONE.is_reengagement) == (True, False)


def test_today_is_where_the_user_is_and_in_utc_where_nobody_says_where_that_is() -> None:
    late = NINE + 10 * HOUR  # the next morning in Auckland
    assert local_date(Preference(user_id="ann", timezone="Pacific/Auckland"), late) == TODAY + DAY
    assert local_date(Preference(user_id="ann", timezone="Mars/Olympus"), late) == TODAY
    assert local_date(None, late) == TODAY


async def test_about_nothing_nobody_is_asked() -> None:
    visits = Visits({})
    storage = MemoryStorage()  # not even open
    assert await Eligibility(visits, storage, BackoffPolicy()).decide([]) == {}
    assert visits.calls == []


async def test_each_user_is_asked_about_once() -> None:
    visits = Visits({"ann": NINE, "bob": NINE})
    async with MemoryStorage() as storage:
        decisions = await Eligibility(visits, storage, BackoffPolicy()).decide([slot(), slot("bob"), slot(day=1)])
    assert visits.calls == [["ann", "bob"]]
    assert {key: isinstance(decision, EngagementDecision) for key, decision in decisions.items()} == {
        slot().dedup_key: True,
        slot(day=1).dedup_key: True,
        slot("bob").dedup_key: True,
    }


async def test_the_policy_judges_each_slot_by_its_own_instant() -> None:
    decisions = await decide([slot(day=day) for day in range(4)], {"ann": NINE})
    assert [cast("Any", decision).send for decision in list(decisions.values())[:3]] == [True, True, True]
    assert decisions[slot(day=3).dedup_key] == Refusal(SkipReason.ENGAGEMENT, "cooling_off")


async def test_somebody_who_never_visited_is_not_somebody_who_cannot_be_read() -> None:
    decisions = await decide([slot(), slot("bob")], {"ann": None})
    assert cast("EngagementDecision", decisions[slot().dedup_key]).reason == "no_last_visit"
    assert decisions[slot("bob").dedup_key] == Refusal(
        UNAVAILABLE, "the user's activity could not be read", retryable=True
    )


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (OSError("down"), "reading activity failed: OSError('down')"),
        (None, "reading activity failed: TypeError"),
        (7, "reading activity failed: TypeError"),
    ],
)
async def test_a_failing_engagement_is_a_retryable_decision_about_everybody(answer: object, detail: str) -> None:
    for decision in (await decide([slot(), slot("bob")], answer)).values():
        assert isinstance(decision, Refusal)
        assert (decision.code, decision.retryable) == (UNAVAILABLE, True)
        assert str(decision.detail).startswith(detail)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (ValueError("bug"), "deciding failed: ValueError('bug')"),
        (None, "the policy gave NoneType instead of an EngagementDecision"),
        ("yes", "the policy gave str instead of an EngagementDecision"),
    ],
    ids=["an error", "nothing", "a text"],
)
async def test_a_policy_that_fails_for_one_user_fails_for_nobody_else(answer: object, detail: str) -> None:
    visits = {"ann": NINE, "bob": NINE}
    decisions = await decide([slot(), slot("bob")], visits, Scripted({"ann": answer}))
    refusal = decisions[slot().dedup_key]
    assert isinstance(refusal, Refusal)
    assert refusal.retryable
    assert refusal.detail == detail
    assert isinstance(decisions[slot("bob").dedup_key], EngagementDecision)


async def test_a_naive_visit_is_told_as_what_it_is() -> None:
    (refusal,) = (await decide([slot()], {"ann": datetime(2026, 3, 2)})).values()
    assert isinstance(refusal, Refusal)
    assert "must be aware" in str(refusal.detail)


@pytest.mark.parametrize("policy", [BackoffPolicy.phase1(), Blind({"bob": ValueError("bug")})], ids=["phase1", "own"])
async def test_a_policy_may_ask_to_send_to_those_who_cannot_be_decided_about(policy: EngagementPolicy) -> None:
    visits = {} if isinstance(policy, BackoffPolicy) else {"bob": NINE}
    decisions = await decide([slot(), slot("bob")], visits, policy)
    sent = EngagementDecision(send=True, is_reengagement=False, reason="engagement_unavailable")
    assert list(decisions.values()) == [sent, sent]


async def test_a_policy_that_says_nothing_of_it_does_not_send_blindly() -> None:
    (decision,) = (await decide([slot()], {}, Scripted({}))).values()
    assert decision == Refusal(UNAVAILABLE, "the user's activity could not be read", retryable=True)


# The last brief


@pytest.mark.parametrize("status", JobStatus)
async def test_a_slot_counts_as_last_brief_while_it_is_alive_or_when_it_was_delivered(status: JobStatus) -> None:
    counts = status in {"pending", "processing", "completed"}
    code = SkipReason.MISSED if status is JobStatus.SKIPPED else None
    stored = evolve(slot(), occurrence=Occurrence(TODAY, NINE))
    policy = Scripted({})
    async with MemoryStorage() as storage:
        await bring(storage, stored, status, code)
        await Eligibility(Visits({"ann": NINE}), storage, policy).decide([slot(day=1)])
        # Also where the caller has read it already, between two slots it asks about.
        known = evolve(slot(day=3), status=status, code=code)
        await Eligibility(Visits({"ann": NINE}), storage, policy).decide(
            [slot(day=2), slot(day=4)], standings(known), [known]
        )
    last = NINE if counts else None
    assert policy.asked == [
        ("ann", NINE + DAY, last),
        ("ann", NINE + 2 * DAY, last),
        ("ann", NINE + 4 * DAY, NINE + (3 if counts else 2) * DAY),
    ]


async def test_the_slots_of_one_user_are_decided_earliest_first_and_see_each_other() -> None:
    policy = Scripted({})
    jobs = [slot(day=2), slot("bob", 1), slot(day=0), slot(day=1)]
    await decide(jobs, {"ann": NINE, "bob": NINE}, policy)
    assert sorted(policy.asked, key=lambda asked: asked[0]) == [  # of one user, in the order in which they were asked
        ("ann", NINE, None),
        ("ann", NINE + DAY, NINE),
        ("ann", NINE + 2 * DAY, NINE + DAY),
        ("bob", NINE + DAY, None),
    ]


async def test_a_slot_that_is_refused_is_nobodys_last_brief() -> None:
    policy = Scripted({"ann": False})
    await decide([slot(day=0), slot(day=1)], {"ann": NINE}, policy)
    assert [last for *_, last in policy.asked] == [None, None]


async def test_a_slot_is_not_its_own_last_brief_when_it_is_asked_about_again_at_the_claim() -> None:
    policy = Scripted({})
    await decide([slot()], {"ann": NINE}, policy, stored=[(slot(), JobStatus.PROCESSING)])
    assert policy.asked == [("ann", NINE, None)]


async def test_later_slots_and_those_of_other_briefs_and_users_are_no_last_brief() -> None:
    policy = Scripted({})
    other = evolve(slot(day=-1), type="weekly")
    async with MemoryStorage() as storage:
        await storage.enqueue([slot(day=1), slot("bob", -1), other])
        await Eligibility(Visits({"ann": NINE}), storage, policy).decide([slot()])
    assert policy.asked == [("ann", NINE, None)]


async def test_a_slot_that_is_delivered_at_the_same_instant_or_later_is_not_the_last_brief() -> None:
    policy = Scripted({})
    same_instant = evolve(slot(day=0), occurrence=Occurrence(TODAY + DAY, NINE))
    await decide([slot()], {"ann": NINE}, policy, existing=[same_instant, slot(day=2)])
    assert policy.asked == [("ann", NINE, None)]


async def test_what_the_ledger_raises_is_raised() -> None:
    class Broken(MemoryStorage):
        async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
            raise OSError("disk full")

    async with Broken() as storage:
        with pytest.raises(OSError, match="disk full"):
            await Eligibility(Visits({"ann": NINE}), storage, BackoffPolicy()).decide([slot()])


# A word that was given


@pytest.mark.parametrize(
    ("visit", "recorded", "sent"),
    [
        (NINE + HOUR, NINE, False),
        (NINE + timedelta(microseconds=1), NINE, False),
        (NINE, NINE, True),
        (NINE - HOUR, NINE, True),
        (NINE + HOUR, NINE - HOUR, True),
        (NINE + HOUR, NINE + HOUR, True),
    ],
    ids=["after it", "just after it", "at it", "before it", "the slot was moved later", "the slot was moved earlier"],
)
async def test_a_recorded_refusal_is_not_taken_back_for_a_visit_after_the_slot(
    visit: datetime, recorded: datetime, sent: bool
) -> None:
    skipped = slot(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT, reason="cooling_off")
    skipped = evolve(skipped, occurrence=Occurrence(TODAY, recorded))
    (decision,) = (await decide([slot()], {"ann": visit}, existing=[skipped])).values()
    if sent:
        assert isinstance(decision, EngagementDecision)
    else:
        assert decision == Refusal(SkipReason.ENGAGEMENT, "cooling_off")


@pytest.mark.parametrize("code", [SkipReason.MISSED, SkipReason.NEARBY_JOB])
async def test_a_slot_that_was_skipped_for_another_reason_is_decided_afresh(code: SkipReason) -> None:
    skipped = slot(status=JobStatus.SKIPPED, code=code)
    (decision,) = (await decide([slot()], {"ann": NINE + HOUR}, existing=[skipped])).values()
    assert isinstance(decision, EngagementDecision)


async def test_a_recorded_refusal_changes_nothing_for_somebody_who_never_visited() -> None:
    skipped = slot(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)
    (decision,) = (await decide([slot()], {"ann": None}, existing=[skipped])).values()
    assert isinstance(decision, EngagementDecision)


# Superseded


def test_a_slot_that_matches_the_preference_is_not_superseded() -> None:
    assert superseded(slot(), Preference(user_id="ann", time_of_day="09:00")) is None
    assert superseded(slot(), Preference(user_id="ann", time_of_day="10:00", timezone="Europe/Berlin")) is None


@pytest.mark.parametrize(
    ("preference", "detail"),
    [
        (None, "the preference is gone"),
        (Preference(user_id="ann", is_active=False), "the brief was switched off"),
        (Preference(user_id="ann", time_of_day="9", timezone="Mars"), "no schedule any more: time_of_day='9'"),
        (Preference(user_id="ann", frequency="weekly", day_of_week=2), "the schedule no longer has 2026-03-02"),
        (Preference(user_id="ann", time_of_day="10:30"), "the schedule now says 2026-03-02 10:30:00 UTC"),
        (Preference(user_id="ann", timezone="Asia/Tokyo"), "the schedule now says 2026-03-02 00:00:00 UTC"),
    ],
    ids=["gone", "off", "invalid", "other day", "other time", "other zone"],
)
def test_a_slot_that_no_longer_matches_is_superseded_and_says_why(preference: Preference | None, detail: str) -> None:
    refusal = superseded(slot(), preference)
    assert refusal is not None
    assert (refusal.code, refusal.retryable) == (SkipReason.SUPERSEDED, False)
    assert detail in str(refusal.detail)


def test_a_preference_is_parsed_with_all_of_its_fields() -> None:
    fields: dict[str, Any] = {
        "frequency": "custom",
        "time_of_day": "07:30",
        "timezone": "Asia/Tokyo",
        "day_of_week": 3,
        "days": [1, 5],
    }
    schedule = parse(Preference(user_id="ann", **fields))
    assert (schedule.frequency, str(schedule.time), schedule.zone.key) == ("custom", "07:30:00", "Asia/Tokyo")
    assert schedule.days == {1, 5}
    with pytest.raises(InvalidSchedule, match=r"time_of_day=.*; timezone=.*; day_of_week="):
        parse(Preference(user_id="ann", time_of_day="x", timezone="x", day_of_week=7))
