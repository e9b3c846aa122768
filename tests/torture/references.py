"""Two references that share no code with the library or with ``zoneinfo``: which dates, and at which instant.

Dates are those of ``dateutil.rrule``, which follows RFC 5545. Instants are those of ``whenever``, which reads the
zone files by itself and calls RFC 5545's reading of gaps and folds "compatible".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

from attrs import frozen
from dateutil.rrule import DAILY, FR, MO, MONTHLY, SA, SU, TH, TU, WE, WEEKLY, rrule, rruleset
from whenever import ZonedDateTime

from fanout_briefs.schedule import Frequency

WEEK = (SU, MO, TU, WE, TH, FR, SA)


@frozen
class Rule:
    """Preference fields that choose dates, and RFC 5545's words for the same."""

    frequency: Frequency
    day_of_week: int | None = None
    days: tuple[int, ...] | None = None

    def rfc5545(self) -> Sequence[dict[str, Any]]:
        """Give recurrence rules whose dates, merged, are the rule's.

        RFC 5545 leaves out the 31st where a month has none. We give that month's last day, as RFC 7529 does with
        SKIP=BACKWARD, which ``dateutil`` has not: said with BYSETPOS, the last there is of the 28th to the 31st.
        """
        match self.frequency:
            case Frequency.DAILY:
                return [{"freq": DAILY}]
            case Frequency.WEEKDAYS:
                return [{"freq": WEEKLY, "byweekday": WEEK[1:6]}]
            case Frequency.WEEKLY:
                return [{"freq": WEEKLY, "byweekday": WEEK[1 if self.day_of_week is None else self.day_of_week]}]
            case Frequency.CUSTOM:
                return [{"freq": WEEKLY, "byweekday": [WEEK[day] for day in self.days or range(7)]}]
            case Frequency.MONTHLY:
                return [
                    {"freq": MONTHLY, "bymonthday": range(min(day, 28), day + 1), "bysetpos": -1}
                    for day in self.days or [1]
                ]


def rules_on(day: date) -> list[Rule]:
    """One rule of each frequency; all but ``weekdays`` surely have this date."""
    weekday = day.isoweekday() % 7
    return [
        Rule(Frequency.DAILY),
        Rule(Frequency.WEEKDAYS),
        Rule(Frequency.WEEKLY, day_of_week=weekday),
        Rule(Frequency.CUSTOM, days=((weekday - 1) % 7, weekday)),
        Rule(Frequency.MONTHLY, days=(day.day, 31)),
    ]


DEFAULTS = [Rule(frequency) for frequency in Frequency]


def dates(rule: Rule, first: date, last: date) -> list[date]:
    """Every date of a rule, from ``first`` to ``last``, both included."""
    start, until = (datetime.combine(day, time()) for day in (first, last))
    merged = rruleset()
    for words in rule.rfc5545():
        merged.rrule(rrule(dtstart=start, until=until, **words))
    return [found.date() for found in merged]


@lru_cache(maxsize=100_000)
def dates_around(rule: Rule, day: date, near: int) -> list[date]:
    """A rule's dates at most ``near`` days from ``day``, and the next one on either side of these."""
    span = timedelta(days=near)
    found = dates(rule, day - span - timedelta(days=31), day + span + timedelta(days=31))
    inside = [index for index, one in enumerate(found) if abs(one - day) <= span]
    first = inside[0] if inside else sum(one < day for one in found)
    return found[first - 1 : first + len(inside) + 1]


@lru_cache(maxsize=10_000)
def instant(zone: str, day: date, at: time) -> datetime:
    """When a zone's clock shows ``at``: the first time where it does so twice, later by the gap where it never does."""
    shown = ZonedDateTime(
        day.year, day.month, day.day, at.hour, at.minute, at.second, tz=zone, disambiguation="compatible"
    )
    return datetime.fromtimestamp(shown.timestamp(), UTC)
