"""Schedules at every change of every clock, held against ``dateutil.rrule`` for dates and ``whenever`` for instants.

We differ from them in two things, on purpose:

- ``NEVER_WERE``: asked for 09:00 on a date that a zone skipped whole, ``whenever`` answers with 09:00 on the next, as
  for any gap. The next date has a brief of its own at that very instant, so the skipped one would be a second brief for
  one morning. A date that nobody there lived has none.
- Days of the month beyond its end: RFC 5545, and ``rrule`` with it, leaves out a month that has no 31st. Who asked for
  a brief a month wants one in February too: it comes on the last day, as RFC 7529 has it with SKIP=BACKWARD.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from time import perf_counter

import machine_zone
import pytest
from attrs import define, frozen
from dateutil.rrule import MONTHLY, rrule
from machine_zone import answers
from references import DEFAULTS, Rule, dates, dates_around, instant, rules_on
from zone_clocks import DAY, END, FIRST, Change, Clock, clocks, histories

from fanout_briefs.model import Occurrence
from fanout_briefs.schedule import Frequency, Schedule
from figures import Tell

NEVER_WERE = {
    date(1993, 8, 21): {"Kwajalein", "Pacific/Kwajalein"},
    date(1994, 12, 31): {"Pacific/Enderbury", "Pacific/Kanton", "Pacific/Kiritimati"},
    date(2011, 12, 30): {"Pacific/Apia", "Pacific/Fakaofo"},
}
# Enough to miss no change: see ``clocks``. The whole of it looks once a day.
OFTEN = 6 * DAY
INSTANT = timedelta(microseconds=1)
NINE = time(9)
# From 2 days before a date's start in UTC to 2 days after its end: no local date in it is further away.
NEAR = 3
# Hundreds of thousands of calls of the same lines, which tests/test_schedule.py covers; watched, each takes twice as long.
pytestmark = pytest.mark.no_cover


@frozen
class Trial:
    """A schedule and a date around which it is tried."""

    zone: str
    rule: Rule
    at: time
    day: date
    by_default: bool = False

    def schedule(self) -> Schedule:
        rule = self.rule
        frequency = None if self.by_default and rule.frequency is Frequency.DAILY else rule.frequency.value
        return Schedule.parse(frequency, None if self.by_default else self.at, self.zone, rule.day_of_week, rule.days)

    def expected(self) -> list[Occurrence]:
        """What comes in the window, by the references, and one occurrence on either side of it."""
        return [
            Occurrence(day, instant(self.zone, day, self.at))
            for day in dates_around(self.rule, self.day, NEAR)
            if self.zone not in NEVER_WERE.get(day, ())
        ]

    def window(self) -> tuple[datetime, datetime]:
        start = datetime.combine(self.day, time(), UTC) - 2 * DAY
        return start, start + 5 * DAY

    def check(self, change: Change) -> int:
        """Compare; give the number of occurrences in the window."""
        schedule, expected, (start, end) = self.schedule(), self.expected(), self.window()
        inside = [one for one in expected if start <= one.deliver_at < end]
        first = sum(one.deliver_at < start for one in expected)
        beyond = first + len(inside)
        assert 0 < first <= beyond < len(expected), self
        assert list(schedule.between(start, end)) == inside, self
        cursor = start - INSTANT
        for one in expected[first : beyond + 1]:
            assert schedule.next_after(cursor) == one, self
            cursor = one.deliver_at
        cursor = end
        for one in reversed(expected[first - 1 : beyond]):
            assert schedule.previous_before(cursor) == one, self
            cursor = one.deliver_at
        for moment in (change.at - INSTANT, change.at):
            assert schedule.next_after(moment) == next(one for one in expected if one.deliver_at > moment), self
            assert schedule.previous_before(moment) == [one for one in expected if one.deliver_at < moment][-1], self
        by_date = {one.local_date: one for one in expected}
        for day in (self.day + number * DAY for number in range(-NEAR, NEAR + 1)):
            assert schedule.on(day) == by_date.get(day), self
        return len(inside)


def all_trials(zone: str, _: int, change: Change) -> Iterator[Trial]:
    """Every time with every frequency, and every frequency with nothing else given."""
    for reading in change.readings():
        for rule in rules_on(reading.date()):
            yield Trial(zone, rule, reading.time(), reading.date())
    for rule in DEFAULTS:
        yield Trial(zone, rule, NINE, change.after.date(), by_default=True)


def trials_in_turn(zone: str, number: int, change: Change) -> Iterator[Trial]:
    """Every time, and the default one, each with one frequency; in five changes each time meets every frequency."""
    for turn, reading in enumerate(change.readings(), number):
        yield Trial(zone, rules_on(reading.date())[turn % 5], reading.time(), reading.date())
    yield Trial(zone, DEFAULTS[number % 5], NINE, change.after.date(), by_default=True)


@define
class Tally:
    """What was tried."""

    zones: int = 0
    changes: int = 0
    schedules: int = 0
    occurrences: int = 0

    def try_all(self, clock: Clock, trials: Callable[[str, int, Change], Iterator[Trial]]) -> None:
        self.zones += 1
        self.changes += len(clock.changes)
        for number, change in enumerate(clock.moments()):
            for trial in trials(clock.zone, number, change):
                self.schedules += 1
                self.occurrences += trial.check(change)

    def __str__(self) -> str:
        return (
            f"{self.zones} zones, {self.changes:,} changes x 5 times and the default x 5 frequencies,"
            f" {self.schedules:,} schedules, {self.occurrences:,} occurrences"
        )


@pytest.fixture
def tally(tell: Tell) -> Iterator[Tally]:
    begun, tally = perf_counter(), Tally()
    yield tally
    tell(f"time torture, tried: {tally}; {perf_counter() - begun:.0f} s")


def test_each_history_since_2000_keeps_every_change(tally: Tally) -> None:
    for alike in histories(clock.since(datetime(2000, 1, 1, tzinfo=UTC)) for clock in clocks(OFTEN)):
        tally.try_all(alike[0], trials_in_turn)
    assert tally.zones > 100


@pytest.mark.nightly
def test_every_zone_keeps_every_change_since_1970(tally: Tally) -> None:
    """Each history in full; a zone whose clock always showed the same as another's, with frequencies in turn."""
    everything = clocks(DAY)
    assert everything == clocks(OFTEN), "looking more often finds no more"
    for first, *others in histories(everything):
        tally.try_all(first, all_trials)
        for other in others:
            tally.try_all(other, trials_in_turn)
    assert tally.zones == len(everything)


def test_the_dates_that_never_were_are_those_that_a_clock_skipped_whole() -> None:
    skipped: defaultdict[date, set[str]] = defaultdict(set)
    for clock in clocks(OFTEN):
        for day in chain.from_iterable(change.skipped_dates() for change in clock.changes):
            skipped[day].add(clock.zone)
    assert skipped == NEVER_WERE


@pytest.mark.parametrize(("zone", "day"), [(zone, day) for day, zones in NEVER_WERE.items() for zone in sorted(zones)])
def test_where_the_reference_doubles_a_morning_for_a_date_that_never_was_we_have_none(zone: str, day: date) -> None:
    schedule = Schedule.parse(timezone=zone)
    assert instant(zone, day, NINE) == instant(zone, day + DAY, NINE)
    assert schedule.on(day) is None
    assert schedule.on(day + DAY) == Occurrence(day + DAY, instant(zone, day, NINE))


@pytest.mark.parametrize(("day", "clamped"), [(28, 0), (29, 51), (30, 68), (31, 5 * 68)])
def test_days_beyond_a_months_end_are_all_that_we_have_and_rfc_5545_has_not(day: int, clamped: int) -> None:
    start, until = (moment.replace(tzinfo=None) for moment in (FIRST, END - DAY))
    literal = {found.date() for found in rrule(MONTHLY, start, bymonthday=day, until=until)}
    ours = {one.local_date for one in Schedule.parse("monthly", days=[day]).between(FIRST, END)}
    assert literal <= ours
    assert len(ours) == 68 * 12
    assert len(ours - literal) == clamped
    assert all((extra + DAY).day == 1 for extra in ours - literal)


@pytest.mark.parametrize("rule", DEFAULTS, ids=lambda rule: rule.frequency)
def test_by_default_a_frequency_has_each_of_its_dates_at_nine_in_utc(rule: Rule) -> None:
    expected = dates(rule, FIRST.date(), END.date() - DAY)
    found = list(Schedule.parse(rule.frequency).between(FIRST, END))
    assert found == [Occurrence(day, datetime.combine(day, NINE, UTC)) for day in expected]


@pytest.mark.skipif(sys.platform == "win32", reason="TZ does not change the zone of a process there")
def test_the_machines_own_zone_never_matters() -> None:
    """The last change of each history, with every frequency, in processes that believe to be elsewhere."""
    sample = [(alike[0].zone, alike[0].moments()[-1]) for alike in histories(clocks(OFTEN))]
    asked = [[zone, change.at.isoformat(), *map(str, map(datetime.time, change.readings()))] for zone, change in sample]
    here = answers(asked)
    machines: set[str] = set()
    for machine in ("UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "XYZ-5:37ZYX,M3.2.0/2,M11.1.0/2"):
        done = subprocess.run(
            [sys.executable, machine_zone.__file__],
            env={**os.environ, "TZ": machine, "PYTHONPATH": os.pathsep.join(sys.path)},
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
        )
        believed, there = json.loads(done.stdout)
        machines.add(believed)
        assert there == here, machine
    assert len(machines) == 5, "the processes believed to be in five zones"
