"""Laws of schedules, against an oracle that asks a zone only what its clock shows at an instant."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.errors import InvalidSchedule
from fanout_briefs.model import Occurrence
from fanout_briefs.schedule import Frequency, Schedule
from fanout_briefs.testing.strategies import moments_of_change, schedules, times_of_day

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def is_eligible(schedule: Schedule, day: date) -> bool:
    if schedule.frequency is Frequency.MONTHLY:
        is_last = (day + DAY).month != day.month
        return day.day in schedule.days or (is_last and any(wanted > day.day for wanted in schedule.days))
    if schedule.frequency is Frequency.WEEKDAYS:
        return day.isoweekday() <= 5
    return schedule.frequency is Frequency.DAILY or day.isoweekday() % 7 in schedule.days


class Scan:
    """What a zone's clock shows, read once a minute around some dates: no folds, offsets or local arithmetic."""

    def __init__(self, zone: ZoneInfo, first: date, last: date, second: int) -> None:
        start = datetime(first.year, first.month, first.day, tzinfo=UTC) - 2 * DAY + timedelta(seconds=second)
        minutes = ((last - first).days + 5) * 24 * 60
        self.instants = [start + number * MINUTE for number in range(minutes)]
        self.shown = [instant.astimezone(zone).replace(tzinfo=None, fold=0) for instant in self.instants]

    def deliver_at(self, day: date, at: time) -> datetime | None:
        wanted = datetime.combine(day, at)
        if wanted in self.shown:
            return self.instants[self.shown.index(wanted)]
        if all(shown.date() != day for shown in self.shown):
            return None
        for index, (before, after) in enumerate(pairwise(self.shown), start=1):
            if before < wanted < after:
                gap = after - before - MINUTE
                return self.instants[index] + (wanted + gap - after)
        raise AssertionError("a date that was there has every time, or a gap where it is missing")


@given(moments_of_change(), st.integers(0, 3), st.data())
def test_there_is_one_occurrence_for_each_eligible_date_that_the_zone_had(
    place: tuple[str, date], more: int, data: st.DataObject
) -> None:
    zone, first = place
    schedule = data.draw(schedules(zone))
    days = [first + number * DAY for number in range(more + 1)]
    scan = Scan(schedule.zone, first, days[-1], schedule.time.second)
    expected: list[Occurrence] = []
    for day in days:
        at = scan.deliver_at(day, schedule.time) if is_eligible(schedule, day) else None
        occurrence = None if at is None else Occurrence(day, at)
        assert schedule.on(day) == occurrence
        if occurrence:
            expected.append(occurrence)
    window = scan.instants[0] - DAY, scan.instants[-1] + DAY
    assert [one for one in schedule.between(*window) if one.local_date in days] == expected


@given(st.data(), st.dates(date(1990, 1, 1), date(2100, 1, 1)), st.integers(1, 800))
def test_every_eligible_date_of_a_long_window_is_there_once(data: st.DataObject, first: date, length: int) -> None:
    schedule = data.draw(schedules("UTC"))
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    found = [one.local_date for one in schedule.between(start, start + length * DAY)]
    days = [first + number * DAY for number in range(length)]
    assert found == [day for day in days if is_eligible(schedule, day)]


@st.composite
def walks(draw: st.DrawFn) -> tuple[Schedule, datetime, datetime]:
    """A schedule and a window of up to 40 days near a date of interest, both ends at any second."""
    zone, day = draw(moments_of_change())
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    start = noon + timedelta(seconds=draw(st.integers(-3 * 86_400, 86_400)))
    return draw(schedules(zone)), start, start + timedelta(seconds=draw(st.integers(0, 40 * 86_400)))


def by_next_after(schedule: Schedule, start: datetime, end: datetime) -> Iterator[Occurrence]:
    occurrence = schedule.next_after(start - timedelta(microseconds=1))
    while occurrence.deliver_at < end:
        yield occurrence
        occurrence = schedule.next_after(occurrence.deliver_at)


@given(walks())
def test_a_window_is_what_repeated_next_after_finds(walk: tuple[Schedule, datetime, datetime]) -> None:
    schedule, start, end = walk
    assert list(schedule.between(start, end)) == list(by_next_after(schedule, start, end))


@given(walks())
def test_a_look_also_tells_when_the_next_one_is(walk: tuple[Schedule, datetime, datetime]) -> None:
    schedule, start, end = walk
    found, until = schedule.look(start, end)
    assert found == list(schedule.between(start, end))
    assert until == schedule.next_after(end - timedelta(microseconds=1)).deliver_at


@given(walks())
def test_previous_before_walks_the_same_way_back(walk: tuple[Schedule, datetime, datetime]) -> None:
    schedule, start, end = walk
    back: list[Occurrence] = []
    occurrence = schedule.previous_before(end)
    while occurrence.deliver_at >= start:
        back.append(occurrence)
        occurrence = schedule.previous_before(occurrence.deliver_at)
    assert back[::-1] == list(schedule.between(start, end))


@given(walks(), st.floats(0, 1))
def test_adjacent_windows_leave_no_hole_and_do_not_overlap(
    walk: tuple[Schedule, datetime, datetime], share: float
) -> None:
    schedule, start, end = walk
    whole = list(schedule.between(start, end))
    cuts = [start + share * (end - start), *(one.deliver_at for one in whole)]
    for cut in cuts:
        assert [*schedule.between(start, cut), *schedule.between(cut, end)] == whole


@given(walks())
def test_occurrences_ascend_in_date_and_in_instant(walk: tuple[Schedule, datetime, datetime]) -> None:
    schedule, start, end = walk
    found = list(schedule.between(start, end))
    assert found == sorted(set(found), key=lambda one: one.local_date)
    assert found == sorted(set(found), key=lambda one: one.deliver_at)


@given(walks(), st.timezones())
def test_the_zone_of_an_argument_does_not_matter(walk: tuple[Schedule, datetime, datetime], zone: ZoneInfo) -> None:
    schedule, start, end = walk
    assert schedule.next_after(start.astimezone(zone)) == schedule.next_after(start)
    assert schedule.previous_before(start.astimezone(zone)) == schedule.previous_before(start)
    assert list(schedule.between(start.astimezone(zone), end.astimezone(zone))) == list(schedule.between(start, end))


def is_iana(zone: ZoneInfo) -> bool:
    """Leave out what the system directory holds besides."""
    return zone.key not in {"localtime", "posixrules", "Factory"} and zone.key.split("/")[0] not in {"posix", "right"}


@given(st.timezones().filter(is_iana), times_of_day(), st.datetimes(), st.sampled_from(Frequency))
def test_any_zone_and_any_year_has_a_neighbour_or_says_that_the_calendar_ends(
    zone: ZoneInfo, at: time, moment: datetime, frequency: str
) -> None:
    instant = moment.replace(tzinfo=UTC)
    schedule = Schedule.parse(frequency, at, zone.key)
    try:
        following = schedule.next_after(instant)
    except OverflowError:
        assert moment.year == 9999
    else:
        assert following.deliver_at > instant
        assert schedule.on(following.local_date) == following
        assert not list(schedule.between(instant + timedelta(microseconds=1), following.deliver_at))


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.times()
    | st.times(timezones=st.just(UTC))
    | st.sampled_from([*Frequency, "Europe/Berlin", "posix/UTC", "America", "09:00", "25:00", object(), int]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)
FIELDS = ("frequency", "time_of_day", "timezone", "day_of_week", "days")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JUNK)))
def test_whatever_is_given_becomes_a_schedule_or_a_report_of_each_bad_field(fields: dict[str, Any]) -> None:
    try:
        schedule = Schedule.parse(**fields)
    except InvalidSchedule as refused:
        named = [problem.field for problem in refused.problems]
        assert named
        assert named == [name for name in FIELDS if name in named]
        for problem in refused.problems:
            assert problem.value is fields[problem.field]
        # With the bad fields gone, the rest is good; but for days, whose meaning hangs on the frequency.
        good = {name: value for name, value in fields.items() if name not in named}
        if "frequency" in named:
            good.pop("days", None)
        Schedule.parse(**good)
    else:
        assert schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)).local_date.year == 2026
