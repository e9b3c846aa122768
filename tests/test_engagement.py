"""Backing off: the first system's table to the letter, and the windows that replace its exact days."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fanout_briefs import engagement
from fanout_briefs.engagement import Activity, BackoffPolicy, EngagementDecision, EngagementPolicy

AT = datetime(2026, 11, 23, 9, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
PHASE1, WINDOWS = BackoffPolicy.phase1(), BackoffPolicy()


def decide(policy: EngagementPolicy, away: timedelta | None, since_brief: timedelta | None) -> EngagementDecision:
    visit = None if away is None else AT - away
    brief = None if since_brief is None else AT - since_brief
    return policy.decide(Activity("ann", visit, brief), AT)


def answer(decision: EngagementDecision) -> tuple[bool, bool, str, int]:
    return decision.send, decision.is_reengagement, decision.reason, decision.days_inactive


ACTIVE = (True, False, "active")
COOLING = (False, False, "cooling_off")
DAY_4 = (True, True, "reengagement_day_4")
DAY_10 = (True, True, "reengagement_day_10")
RECURRING = (True, True, "reengagement_recurring_31")
TOO_SOON = (False, False, "default")
FIRST = (False, False, "first_backoff")
SECOND = (False, False, "second_backoff")
WAITING = (False, False, "waiting_31_day_interval")

BOTH = [
    (-3 * DAY, 0 * DAY, ACTIVE),
    (0 * DAY, 0 * DAY, ACTIVE),
    (2 * DAY, TICK, ACTIVE),
    (3 * DAY - TICK, None, ACTIVE),
    (3 * DAY, None, COOLING),
    (4 * DAY - TICK, 99 * DAY, COOLING),
    (31 * DAY, 31 * DAY, RECURRING),
    (31 * DAY, None, RECURRING),
    (400 * DAY, 40 * DAY, RECURRING),
    (31 * DAY, 21 * DAY, WAITING),
    (400 * DAY, 30 * DAY, WAITING),
    (400 * DAY, -DAY, WAITING),
]
ONLY_PHASE1 = [
    (4 * DAY, 2 * DAY, DAY_4),
    (4 * DAY, None, DAY_4),
    (5 * DAY - TICK, 400 * DAY, DAY_4),
    (4 * DAY, 2 * DAY - TICK, TOO_SOON),
    (4 * DAY, -DAY, TOO_SOON),
    (5 * DAY, 3 * DAY, FIRST),
    (10 * DAY - TICK, None, FIRST),
    (10 * DAY, 6 * DAY, DAY_10),
    (10 * DAY, None, DAY_10),
    (11 * DAY - TICK, 6 * DAY, DAY_10),
    (10 * DAY, 6 * DAY - TICK, TOO_SOON),
    (11 * DAY, 9 * DAY, SECOND),
    (31 * DAY - TICK, None, SECOND),
    (31 * DAY, 31 * DAY - TICK, WAITING),
]
HOURS = timedelta(hours=1)
ONLY_WINDOWS = [
    (4 * DAY, 2 * DAY, DAY_4),
    (4 * DAY, None, DAY_4),
    (4 * DAY, 46 * HOURS, DAY_4),
    (4 * DAY, 46 * HOURS - TICK, FIRST),
    (9 * DAY, 7 * DAY, DAY_4),
    (10 * DAY - TICK, None, DAY_4),
    (9 * DAY, 5 * DAY, FIRST),
    (9 * DAY, 5 * DAY + TICK, DAY_4),
    (6 * DAY, 2 * DAY, FIRST),
    (9 * DAY, -DAY, FIRST),
    (10 * DAY, 6 * DAY, DAY_10),
    (10 * DAY, None, DAY_10),
    (10 * DAY, 142 * HOURS, DAY_10),
    (10 * DAY, 142 * HOURS - TICK, SECOND),
    (30 * DAY, 20 * DAY, SECOND),
    (30 * DAY, 20 * DAY + TICK, DAY_10),
    (31 * DAY - TICK, 26 * DAY, DAY_10),
    (31 * DAY - TICK, 5 * DAY, SECOND),
    (31 * DAY, 742 * HOURS, RECURRING),
    (31 * DAY, 742 * HOURS - TICK, WAITING),
]


@pytest.mark.parametrize(("away", "since_brief", "expected"), BOTH + ONLY_PHASE1)
def test_phase1_is_the_first_systems_table(away: timedelta, since_brief: timedelta | None, expected: Any) -> None:
    assert answer(decide(PHASE1, away, since_brief)) == (*expected, away // DAY)


@pytest.mark.parametrize(("away", "since_brief", "expected"), BOTH + ONLY_WINDOWS)
def test_the_default_reminds_once_in_each_window(away: timedelta, since_brief: timedelta | None, expected: Any) -> None:
    assert answer(decide(WINDOWS, away, since_brief)) == (*expected, away // DAY)


@pytest.mark.parametrize("policy", [PHASE1, WINDOWS])
@pytest.mark.parametrize("since_brief", [None, TICK, 40 * DAY])
def test_somebody_who_never_visited_is_sent_everything(policy: BackoffPolicy, since_brief: timedelta | None) -> None:
    assert answer(decide(policy, None, since_brief)) == (True, False, "no_last_visit", 0)


def test_only_phase1_sends_where_activity_cannot_be_read() -> None:
    assert PHASE1.sends_when_unavailable
    assert not WINDOWS.sends_when_unavailable


@pytest.mark.parametrize("visit", [None, AT - DAY])
def test_a_naive_instant_is_refused(visit: datetime | None) -> None:
    with pytest.raises(ValueError, match=r"^at=.*aware"):
        WINDOWS.decide(Activity("ann", visit), AT.replace(tzinfo=None))


@pytest.mark.parametrize("policy", [PHASE1, WINDOWS])
def test_days_are_elapsed_ones_also_where_all_instants_share_a_zone(policy: BackoffPolicy) -> None:
    # 09:00 to 09:00 over the night when clocks go forward is an hour short of three days.
    berlin = ZoneInfo("Europe/Berlin")
    visit, at = datetime(2027, 3, 26, 9, tzinfo=berlin), datetime(2027, 3, 29, 9, tzinfo=berlin)
    assert answer(policy.decide(Activity("ann", visit), at)) == (*ACTIVE, 2)
    assert policy.decide(Activity("ann", visit), at) == policy.decide(Activity("ann", visit), at.astimezone(UTC))


def simulate(policy: EngagementPolicy, visit: datetime, occurrences: Iterable[datetime]) -> list[tuple[datetime, str]]:
    """Visit once, stay away, and collect what is sent."""
    sent: list[tuple[datetime, str]] = []
    for at in occurrences:
        decision = policy.decide(Activity("ann", visit, sent[-1][0] if sent else None), at)
        if decision.send:
            sent.append((at, decision.reason))
    return sent


def nines(start: str, days: int, zone: str = "Europe/Berlin") -> list[datetime]:
    first = datetime.fromisoformat(f"{start}T09:00").replace(tzinfo=ZoneInfo(zone))
    return [(first + day * DAY).astimezone(UTC) for day in range(days)]


def shown(sent: Iterable[tuple[datetime, str]]) -> list[str]:
    short = {"active": "active", "reengagement_day_4": "4", "reengagement_day_10": "10"}
    return [f"{at.date()} {short.get(reason, 'recurring')}" for at, reason in sent]


AUTUMN_TO_SPRING = """
2026-10-21 active, 2026-10-22 active, 2026-10-23 active, 2026-10-25 4, 2026-10-31 10, 2026-12-01 recurring,
2027-01-01 recurring, 2027-02-01 recurring, 2027-03-04 recurring, 2027-04-04 recurring, 2027-05-05 recurring
"""


def table(text: str) -> list[str]:
    return [row.strip() for row in text.replace("\n", " ").split(",")]


def test_a_daily_user_in_berlin_over_200_days_and_both_changes_of_the_clock() -> None:
    # Last seen in the evening of 20 October 2026; clocks go back on the 25th, forward on 28 March 2027.
    visit = datetime(2026, 10, 20, 20, tzinfo=ZoneInfo("Europe/Berlin"))
    assert shown(simulate(WINDOWS, visit, nines("2026-10-21", 200))) == table(AUTUMN_TO_SPRING)


SPRING = "2027-03-24 active, 2027-03-25 active, 2027-03-26 active, 2027-03-28 4, 2027-04-03 10, 2027-05-04 recurring"
SPRING_PHASE1 = SPRING.replace("2027-03-28 4, ", "")
SPRING_STRICT = SPRING.replace("03-28", "03-29").replace("04-03", "04-04").replace("05-04", "05-05")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (WINDOWS, SPRING),
        (BackoffPolicy(slack=timedelta(0)), SPRING_STRICT),
        (PHASE1, SPRING_PHASE1),
    ],
)
def test_slack_keeps_the_day_4_reminder_on_the_morning_the_clock_went_forward(
    policy: BackoffPolicy, expected: str
) -> None:
    # 26 March 09:00 to 28 March 09:00 is 47 hours.
    visit = datetime(2027, 3, 23, 20, tzinfo=ZoneInfo("Europe/Berlin"))
    assert shown(simulate(policy, visit, nines("2027-03-24", 60))) == table(expected)


@pytest.mark.parametrize("policy", [PHASE1, WINDOWS])
def test_the_day_4_reminder_goes_out_to_a_daily_user(policy: BackoffPolicy) -> None:
    sent = simulate(policy, AT - timedelta(hours=13), nines("2026-11-23", 80, "UTC"))
    assert shown(sent) == [
        "2026-11-23 active",
        "2026-11-24 active",
        "2026-11-25 active",
        "2026-11-27 4",
        "2026-12-03 10",
        "2027-01-03 recurring",
        "2027-02-03 recurring",
    ]


def test_judged_at_the_tick_before_the_brief_as_the_first_system_did_it_did_not() -> None:
    # The brief of day 2 was finished after its own tick, so at the tick of day 4 it was short of two days old.
    tick, finished = AT - timedelta(minutes=30), AT - 2 * DAY - timedelta(minutes=1)
    visit = AT - 4 * DAY - timedelta(hours=13)
    assert PHASE1.decide(Activity("ann", visit, finished), tick).reason == "default"
    assert PHASE1.decide(Activity("ann", visit, AT - 2 * DAY), AT).reason == "reengagement_day_4"


@pytest.mark.parametrize(
    ("missed", "first", "second"),
    [(3, 4, 10), (4, 5, 11), (5, 4, 10), (9, 4, 10), (10, 4, 11), (11, 4, 10), (30, 4, 10)],
)
def test_a_missed_tick_loses_no_one_the_next_one_reminds(missed: int, first: int, second: int) -> None:
    occurrences = nines("2026-11-23", 31, "UTC")
    visit = occurrences[0] - HOURS
    del occurrences[missed]
    reminders = [((at - visit) // DAY, reason) for at, reason in simulate(WINDOWS, visit, occurrences)][3:]
    assert reminders == [(first, "reengagement_day_4"), (second, "reengagement_day_10")]


@pytest.mark.parametrize(
    ("first_day", "expected"),
    [
        (0, [0, 7, 14, 49]),
        (1, [1, 8, 15, 50]),
        (2, [2, 9, 16, 51]),
        (3, [10, 45]),
        (4, [4, 11, 46]),
        (5, [5, 12, 47]),
        (6, [6, 13, 48]),
    ],
)
def test_a_weekly_user_is_reminded_whatever_the_weekday_of_the_last_visit(first_day: int, expected: list[int]) -> None:
    weekly = nines("2026-11-23", 55, "UTC")[first_day::7]
    visit = nines("2026-11-23", 1, "UTC")[0] - HOURS
    assert [(at - visit) // DAY for at, _ in simulate(WINDOWS, visit, weekly)] == expected


def test_another_visit_starts_over() -> None:
    sent = AT - 2 * DAY
    assert WINDOWS.decide(Activity("ann", AT - 6 * DAY, sent), AT).reason == "first_backoff"
    assert WINDOWS.decide(Activity("ann", AT - HOURS, sent), AT).reason == "active"
    assert WINDOWS.decide(Activity("ann", sent + HOURS, sent), sent + HOURS + 4 * DAY).reason == "reengagement_day_4"


def test_the_days_may_be_others_and_the_reasons_name_them() -> None:
    # The first system's later numbers.
    policy = BackoffPolicy(second_day=14, second_gap=10, recurring_day=60, recurring_gap=90)
    assert decide(policy, 13 * DAY, None).reason == "reengagement_day_4"
    assert decide(policy, 14 * DAY, 10 * DAY).reason == "reengagement_day_14"
    assert decide(policy, 60 * DAY, 46 * DAY).reason == "waiting_90_day_interval"
    assert decide(policy, 104 * DAY, 90 * DAY).reason == "reengagement_recurring_90"


def test_all_bad_parameters_are_named_at_once() -> None:
    bad: Any = {
        "active_days": -1,
        "first_day": True,
        "first_gap": 0,
        "second_day": "10",
        "second_gap": 1.5,
        "recurring_day": None,
        "recurring_gap": 0,
        "slack": 2,
        "exact_days": 1,
        "sends_when_unavailable": "no",
    }
    with pytest.raises(ValueError, match="must be") as caught:
        BackoffPolicy(**bad)
    named = [sentence.split("=")[0] for sentence in str(caught.value).split("; ")]
    assert sorted(named) == sorted(bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackoffPolicy(active_days=4), "first_day=4: must be greater than active_days=4"),
        (lambda: BackoffPolicy(first_day=10), "second_day=10: must be greater than first_day=10"),
        (lambda: BackoffPolicy(second_day=32), "recurring_day=31: must be greater than second_day=32"),
        (lambda: BackoffPolicy(slack=-TICK), "slack=.*: must be a timedelta of zero or more, under a day"),
        (lambda: BackoffPolicy(slack=DAY), "slack=.*: must be a timedelta of zero or more, under a day"),
        (lambda: BackoffPolicy(slack=2 * DAY), "slack=.*: must be a timedelta of zero or more, under a day"),
        (lambda: BackoffPolicy(second_gap=0), "second_gap=0: must be a whole number of days, 1 or more"),
        (lambda: BackoffPolicy(second_day=1), "second_day=1: must be greater than first_day=4"),
        (lambda: BackoffPolicy(recurring_day=1), "recurring_day=1: must be greater than second_day=10"),
    ],
)
def test_parameters_that_make_no_sense_together_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(("name", "earlier"), [("first_day", 2), ("second_day", 4), ("recurring_day", 10)])
def test_a_day_that_is_both_too_small_and_out_of_order_is_told_both(name: str, earlier: int) -> None:
    bad: Any = {name: 0}
    with pytest.raises(ValueError, match=f"^{name}=0: .* 1 or more; {name}=0: must be greater than .*={earlier}$"):
        BackoffPolicy(**bad)


def test_the_smallest_numbers_make_a_policy() -> None:
    # One active day, then a reminder on each of the days after it, and every day from the third on.
    policy = BackoffPolicy(
        active_days=0, first_day=1, first_gap=1, second_day=2, second_gap=1, recurring_day=3, recurring_gap=1
    )
    assert [decide(policy, day * DAY, DAY).reason for day in range(5)] == [
        "active",
        "reengagement_day_1",
        "reengagement_day_2",
        "reengagement_recurring_1",
        "reengagement_recurring_1",
    ]


def test_the_parameters_are_given_by_name() -> None:
    positional: Any = BackoffPolicy
    with pytest.raises(TypeError, match="positional"):
        positional(2)


def test_a_policy_is_a_value() -> None:
    assert BackoffPolicy() == BackoffPolicy(active_days=2)
    assert hash(BackoffPolicy.phase1()) == hash(BackoffPolicy.phase1())
    assert BackoffPolicy() != BackoffPolicy.phase1()


def test_what_a_policy_author_needs_is_in_one_place() -> None:
    assert {"Activity", "EngagementDecision", "EngagementPolicy"} < set(engagement.__all__)
