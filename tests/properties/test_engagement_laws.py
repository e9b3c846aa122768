"""Laws of backing off, against both policies written anew as tables and plain sentences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from math import inf

from hypothesis import example, given
from hypothesis import strategies as st

from fanout_briefs.engagement import Activity, BackoffPolicy, EngagementDecision
from fanout_briefs.testing.strategies import spans_of_days

AT = datetime(2026, 11, 23, 9, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
PHASE1, WINDOWS = BackoffPolicy.phase1(), BackoffPolicy()


@st.composite
def policies(draw: st.DrawFn) -> BackoffPolicy:
    if draw(st.booleans()):
        return draw(st.sampled_from([PHASE1, WINDOWS]))
    steps = draw(st.lists(st.integers(1, 9) | st.integers(1, 10**9), min_size=4, max_size=4))
    gaps = draw(st.lists(st.integers(1, 9) | st.integers(1, 10**30), min_size=3, max_size=3))
    return BackoffPolicy(
        active_days=steps[0],
        first_day=sum(steps[:2]),
        second_day=sum(steps[:3]),
        recurring_day=sum(steps),
        first_gap=gaps[0],
        second_gap=gaps[1],
        recurring_gap=gaps[2],
        slack=timedelta(hours=draw(st.integers(0, 23))),
        exact_days=draw(st.booleans()),
    )


ANY_INSTANT = st.datetimes(timezones=st.timezones() | st.just(UTC))

# Days since the visit, days since the last brief (from, to), send, re-engagement, reason: as the seed has it.
SEED = [
    (-inf, 2, -inf, inf, True, False, "active"),
    (3, 3, -inf, inf, False, False, "cooling_off"),
    (4, 4, 2, inf, True, True, "reengagement_day_4"),
    (4, 4, -inf, 1, False, False, "default"),
    (5, 9, -inf, inf, False, False, "first_backoff"),
    (10, 10, 6, inf, True, True, "reengagement_day_10"),
    (10, 10, -inf, 5, False, False, "default"),
    (11, 30, -inf, inf, False, False, "second_backoff"),
    (31, inf, 31, inf, True, True, "reengagement_recurring_31"),
    (31, inf, -inf, 30, False, False, "waiting_31_day_interval"),
]


def whole_days(span: timedelta) -> int:
    microseconds = (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
    return microseconds // 86_400_000_000


def by_the_seed(away: timedelta | None, since_brief: timedelta | None) -> tuple[bool, bool, str, int]:
    if away is None:
        return True, False, "no_last_visit", 0
    days, brief = whole_days(away), 999 if since_brief is None else whole_days(since_brief)
    (row,) = [row for row in SEED if row[0] <= days <= row[1] and row[2] <= brief <= row[3]]
    return row[4], row[5], row[6], days


def answer(decision: EngagementDecision) -> tuple[bool, bool, str, int]:
    return decision.send, decision.is_reengagement, decision.reason, decision.days_inactive


def ago(span: timedelta | None) -> datetime | None:
    return None if span is None else AT - span


@given(st.none() | spans_of_days(), st.none() | spans_of_days())
def test_phase1_is_the_seeds_table(away: timedelta | None, since_brief: timedelta | None) -> None:
    assert answer(PHASE1.decide(Activity("u", ago(away), ago(since_brief)), AT)) == by_the_seed(away, since_brief)


def sends_by_windows(visit: datetime, brief: datetime | None, at: datetime) -> bool:
    """The default policy in instants instead of days."""

    def rested(days: int) -> bool:
        return brief is None or brief <= at - days * DAY + 2 * HOUR

    if at < visit + 3 * DAY:
        return True
    for opens, closes, gap in ((4, 10, 2), (10, 31, 6)):
        if visit + opens * DAY <= at < visit + closes * DAY:
            return rested(gap) and not (brief is not None and brief >= visit + opens * DAY)
    return at >= visit + 31 * DAY and rested(31)


@given(spans_of_days(), st.none() | spans_of_days())
@example(4 * DAY, 2 * DAY - 2 * HOUR)
@example(5 * DAY, DAY)
def test_the_default_sends_by_its_windows(away: timedelta, since_brief: timedelta | None) -> None:
    visit, brief = AT - away, ago(since_brief)
    decision = WINDOWS.decide(Activity("u", visit, brief), AT)
    assert decision.send == sends_by_windows(visit, brief, AT)
    assert decision.is_reengagement == (decision.send and away >= 3 * DAY)


@given(policies(), st.none() | ANY_INSTANT, st.none() | ANY_INSTANT, ANY_INSTANT)
def test_every_policy_answers_for_any_aware_instants(
    policy: BackoffPolicy, visit: datetime | None, brief: datetime | None, at: datetime
) -> None:
    activity = Activity("u", visit, brief)
    decision = policy.decide(activity, at)
    assert decision.reason
    assert decision.send or not decision.is_reengagement
    assert decision == policy.decide(activity, at), "the answer is always the same"


@given(policies(), spans_of_days(), st.none() | spans_of_days(), st.timezones(), st.timezones())
def test_the_zone_of_an_instant_does_not_matter(
    policy: BackoffPolicy, away: timedelta, since_brief: timedelta | None, one: tzinfo, other: tzinfo
) -> None:
    visit, brief = AT - away, ago(since_brief)
    expected = policy.decide(Activity("u", visit, brief), AT)
    for first, second, third in ((one, one, one), (one, other, one), (UTC, one, other)):
        local = Activity("u", visit.astimezone(first), None if brief is None else brief.astimezone(second))
        assert policy.decide(local, AT.astimezone(third)) == expected


def simulate(occurrences: list[timedelta]) -> list[tuple[timedelta, EngagementDecision]]:
    """Visit at AT, never again, and take the occurrences as they come after it."""
    sent: list[tuple[timedelta, EngagementDecision]] = []
    for away in occurrences:
        decision = WINDOWS.decide(Activity("u", AT, AT + sent[-1][0] if sent else None), AT + away)
        if decision.send:
            sent.append((away, decision))
    return sent


OCCURRENCES = st.sets(st.integers(0, 24 * 120), max_size=120).map(lambda hours: [hour * HOUR for hour in sorted(hours)])


@given(OCCURRENCES)
def test_the_default_never_reminds_twice_in_one_window(occurrences: list[timedelta]) -> None:
    reminders = [away for away, decision in simulate(occurrences) if decision.is_reengagement]
    assert sum(4 * DAY <= away < 10 * DAY for away in reminders) <= 1
    assert sum(10 * DAY <= away < 31 * DAY for away in reminders) <= 1
    recurring = [away for away in reminders if away >= 31 * DAY]
    assert all(later - one >= 31 * DAY - 2 * HOUR for one, later in pairwise(recurring))
    assert all(away >= 4 * DAY for away in reminders)


@given(OCCURRENCES)
def test_the_default_misses_no_window_that_has_an_occurrence_late_enough(occurrences: list[timedelta]) -> None:
    sent = [away for away, _ in simulate(occurrences)]
    for opens, closes, gap in ((4, 10, 2), (10, 31, 6)):
        window = [away for away in occurrences if opens * DAY <= away < closes * DAY]
        earlier = max((away for away in sent if away < opens * DAY), default=None)
        good = [away for away in window if earlier is None or away - earlier >= gap * DAY]
        assert not good or any(opens * DAY <= away <= good[0] for away in sent)


@given(st.integers(0, 23), st.sets(st.integers(0, 60), max_size=25))
def test_a_daily_user_is_reminded_whichever_ticks_are_missed(hour: int, missed: set[int]) -> None:
    occurrences = [day * DAY + hour * HOUR for day in range(61) if day not in missed]
    sent = simulate(occurrences)
    days = {away // DAY for away in occurrences}
    if days & set(range(4, 10)):
        assert any(decision.reason == "reengagement_day_4" for _, decision in sent)
    if days & set(range(15, 31)):
        assert any(decision.reason == "reengagement_day_10" for _, decision in sent)
