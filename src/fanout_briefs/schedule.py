"""When a brief is due: wall-clock schedules with one occurrence for each eligible local date.

Pure, and based on ``zoneinfo`` alone: the machine's own zone and clock are never read.
"""

from __future__ import annotations

import calendar
import datetime as dt
import enum
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import Attribute, field, frozen

from fanout_briefs.errors import BadValue, InvalidSchedule
from fanout_briefs.model import Occurrence, check_aware

__all__ = ["Frequency", "Schedule"]

_T = TypeVar("_T")

_WEEK = range(7)
_LAST_ORDINAL = dt.date.max.toordinal()
# Where the calendar ends when walked forwards (1) and backwards (-1).
_DAYS_END = {1: _LAST_ORDINAL + 1, -1: 0}
_MONTHS_END = {1: 10_000 * 12, -1: 11}
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_ZONE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}")
_NOT_ZONES = re.compile(r"(localtime|posixrules|factory|(posix|right)/.*)", re.IGNORECASE)


class Frequency(enum.StrEnum):
    """How often a brief is due."""

    DAILY = "daily"
    """Every day."""
    WEEKDAYS = "weekdays"
    """Monday to Friday."""
    WEEKLY = "weekly"
    """One weekday, ``day_of_week``."""
    CUSTOM = "custom"
    """The weekdays in ``days``; every day if there are none."""
    MONTHLY = "monthly"
    """The days of the month in ``days``; a day beyond the month's end falls on its last day."""


_FIXED_DAYS = {Frequency.DAILY: frozenset(_WEEK), Frequency.WEEKDAYS: frozenset(range(1, 6))}

_WEEKDAY_REASON = "must be a whole number from 0 = Sunday to 6 = Saturday"
_DAYS_RULES = {
    Frequency.CUSTOM: (_WEEK, "must be a list of weekdays, each a whole number from 0 = Sunday to 6 = Saturday"),
    Frequency.MONTHLY: (range(1, 32), "must be a list of days of the month, each a whole number from 1 to 31"),
}
_UNUSED_DAYS_RULE = (range(32), "must be a list of whole numbers from 0 to 31")


def _whole_seconds(_: object, __: Attribute[Any], value: dt.time) -> None:
    if value.tzinfo is not None or value.microsecond or value.fold:
        raise ValueError(f"time={value!r}: must be naive, in whole seconds and with fold 0; use Schedule.parse")


def _fits(schedule: Schedule, _: Attribute[Any], value: frozenset[int]) -> None:
    frequency = schedule.frequency
    allowed = range(1, 32) if frequency is Frequency.MONTHLY else _WEEK
    right = (
        bool(value)
        and all(day in allowed for day in cast("Collection[object]", value))
        and value == _FIXED_DAYS.get(frequency, value)
    )
    if not right or (frequency is Frequency.WEEKLY and len(value) != 1):
        raise ValueError(f"days={value!r}: do not make a {frequency} schedule; use Schedule.parse")


@frozen
class Schedule:
    """A wall-clock time in a zone, and the dates it applies to. Create one with ``parse``.

    There is one occurrence for each eligible local date. A time that the clock skips on that date (a gap) is shifted
    forward by the gap's length, as in RFC 5545, section 3.3.5: 02:30 becomes 03:30. If a time occurs twice (a fold),
    the first one counts. A date that the zone never had, such as 2011-12-30 in Apia, has no occurrence. An occurrence
    keeps its nominal date, even if a gap at midnight moves the instant to the next date.

    Equal schedules have the same occurrences: fields that the frequency does not use are not kept.

    Attributes:
        frequency: How often a brief is due.
        time: Wall-clock time in ``zone``, in whole seconds.
        zone: The IANA zone; compared by its key.
        days: Days of the month 1 to 31 for ``monthly``, otherwise weekdays from 0 = Sunday to 6 = Saturday.
    """

    frequency: Frequency
    time: dt.time = field(validator=_whole_seconds)
    zone: ZoneInfo = field(eq=attrgetter("key"))
    days: frozenset[int] = field(validator=_fits)

    @classmethod
    def parse(
        cls,
        frequency: str | None = None,
        time_of_day: str | dt.time | None = None,
        timezone: str | None = None,
        day_of_week: int | None = None,
        days: Collection[int] | None = None,
    ) -> Schedule:
        """Create a schedule from raw preference fields; None means the default.

        Fields that the frequency does not use are checked, then ignored.

        Args:
            frequency: ``daily`` (default), ``weekdays``, ``weekly``, ``custom`` or ``monthly``.
            time_of_day: Wall-clock time in ``timezone``: ``HH:MM[:SS]``, or a naive ``datetime.time`` in whole
                seconds. Default 09:00.
            timezone: A name in the IANA database, older names included. Default UTC.
            day_of_week: For ``weekly``: 0 = Sunday to 6 = Saturday. Default 1, Monday.
            days: For ``custom``: weekdays as in ``day_of_week``; if empty or None, every day. For ``monthly``: days of
                the month 1 to 31, clamped to the month's last day and merged; if empty or None, the first.

        Raises:
            InvalidSchedule: Fields are bad; ``problems`` names all of them.
        """
        problems: list[BadValue] = []
        kind = _read(problems, "frequency", frequency, Frequency.DAILY, _frequency)
        time = _read(problems, "time_of_day", time_of_day, dt.time(9), _time)
        zone = _read(problems, "timezone", "UTC" if timezone is None else timezone, None, _zone)
        weekday = _read(problems, "day_of_week", day_of_week, 1, partial(_int_in, _WEEK, _WEEKDAY_REASON))
        chosen = _read(problems, "days", days, frozenset[int](), partial(_days, kind))
        if problems or zone is None:
            raise InvalidSchedule(problems)
        return cls(kind, time, zone, _eligible_days(kind, weekday, chosen))

    def next_after(self, instant: dt.datetime) -> Occurrence:
        """Return the first occurrence strictly after ``instant``.

        Args:
            instant: Aware, in any zone.

        Raises:
            ValueError: ``instant`` is naive.
            OverflowError: There is none before the calendar ends with the year 9999.
        """
        moment = _utc("instant", instant)
        for day, at in self._walk(moment, 1):
            if at > moment:
                return Occurrence(day, at)
        raise OverflowError(f"instant={instant!r}: the calendar ends with the year 9999, without another occurrence")

    def previous_before(self, instant: dt.datetime) -> Occurrence:
        """Return the last occurrence strictly before ``instant``.

        Args:
            instant: Aware, in any zone.

        Raises:
            ValueError: ``instant`` is naive.
            OverflowError: There is none since the calendar began with the year 1.
        """
        moment = _utc("instant", instant)
        for day, at in self._walk(moment, -1):
            if at < moment:
                return Occurrence(day, at)
        raise OverflowError(f"instant={instant!r}: the calendar begins with the year 1, without an earlier occurrence")

    def between(self, start: dt.datetime, end: dt.datetime) -> Iterator[Occurrence]:
        """Iterate over occurrences with ``start <= deliver_at < end``, earliest first; none if ``end <= start``.

        The arguments are checked at once; the occurrences are computed lazily.

        Args:
            start: Aware, in any zone.
            end: Aware, in any zone.

        Raises:
            ValueError: ``start`` or ``end`` is naive.
            OverflowError: ``start`` or ``end`` is outside the years 1 to 9999 in UTC.
        """
        return self._between(_utc("start", start), _utc("end", end))

    def look(self, start: dt.datetime, end: dt.datetime) -> tuple[list[Occurrence], dt.datetime]:
        """Return the occurrences of ``between``, and an instant: there is none from ``end`` up to it.

        Raises:
            ValueError: As for ``between``.
            OverflowError: As for ``between``.
        """
        found: list[Occurrence] = []
        walk = self._between(_utc("start", start), _utc("end", end))
        while True:
            try:
                found.append(next(walk))
            except StopIteration as over:
                return found, over.value

    def on(self, local_date: dt.date) -> Occurrence | None:
        """Return the occurrence of one nominal date in the schedule's zone.

        Returns:
            None if the date is not eligible, the zone never had it, or its instant is outside the years 1 to 9999.

        Raises:
            TypeError: ``local_date`` is a datetime, so it is unclear which zone's date is meant.
        """
        if isinstance(local_date, dt.datetime):
            raise TypeError(f"local_date={local_date!r}: must be a plain date; use .date() in the schedule's zone")
        if not self._is_eligible(local_date):
            return None
        at = self._deliver_at(local_date)
        return None if at is None else Occurrence(local_date, at)

    def _between(self, start: dt.datetime, end: dt.datetime) -> Generator[Occurrence, None, dt.datetime]:
        """Yield the occurrences; return the instant of the next one, or of the calendar's end."""
        for day, at in self._walk(start, 1):
            if at >= end:
                return at
            if at >= start:
                yield Occurrence(day, at)
        return dt.datetime.max.replace(tzinfo=dt.UTC)

    def _walk(self, moment: dt.datetime, step: int) -> Iterator[tuple[dt.date, dt.datetime]]:
        """Yield dates and their instants, forwards from just before ``moment`` if ``step`` is 1, backwards if -1.

        A clock never jumps by more than a day. So a date two before the local one is over, and a date two after it has
        not begun. The dates next to it may lie on either side: in St. John's the clock once went from 00:01 back to
        23:01, so the brief of 00:00 came before half of the evening before.
        """
        for day in self._dates_from(_shift(_local_date(moment, self.zone), -step), step):
            at = self._deliver_at(day)
            if at is not None:
                yield day, at

    def _dates_from(self, start: dt.date, step: int) -> Iterator[dt.date]:
        """Return the eligible dates from ``start`` on, forwards if ``step`` is 1, backwards if -1."""
        if self.frequency is Frequency.MONTHLY:
            return self._month_dates_from(start, step)
        ordinals = range(start.toordinal(), _DAYS_END[step], step)
        return (dt.date.fromordinal(ordinal) for ordinal in ordinals if ordinal % 7 in self.days)

    def _month_dates_from(self, start: dt.date, step: int) -> Iterator[dt.date]:
        first = step * start.toordinal()
        for number in range(start.year * 12 + start.month - 1, _MONTHS_END[step], step):
            year, month = divmod(number, 12)
            for day in sorted(self._month_days(year, month + 1))[::step]:
                date = dt.date(year, month + 1, day)
                if step * date.toordinal() >= first:
                    yield date

    def _month_days(self, year: int, month: int) -> set[int]:
        last = calendar.monthrange(year, month)[1]
        return {min(day, last) for day in self.days}

    def _is_eligible(self, date: dt.date) -> bool:
        if self.frequency is Frequency.MONTHLY:
            return date.day in self._month_days(date.year, date.month)
        # Day 1 of the calendar was a Monday, so this counts from 0 = Sunday.
        return date.toordinal() % 7 in self.days

    def _deliver_at(self, date: dt.date) -> dt.datetime | None:
        """Return the instant; None for a date that the zone never had, or an instant outside the calendar.

        With fold 0, PEP 495 uses the offset before a gap, and the first pass of a fold, which are our two rules.
        """
        try:
            at = dt.datetime.combine(date, self.time, self.zone).astimezone(dt.UTC)
            if at.astimezone(self.zone).date() == date or _exists(date, self.zone):
                return at
        except OverflowError:
            pass
        return None


def _utc(name: str, instant: dt.datetime) -> dt.datetime:
    check_aware(name, instant)
    try:
        return instant.astimezone(dt.UTC)
    except OverflowError:
        raise OverflowError(f"{name}={instant!r}: is outside the years 1 to 9999 in UTC") from None


def _local_date(moment: dt.datetime, zone: ZoneInfo) -> dt.date:
    try:
        return moment.astimezone(zone).date()
    except OverflowError:
        # Outside the calendar in that zone, though not in UTC: the date in UTC is the calendar's first or last.
        return moment.date()


def _shift(date: dt.date, days: int) -> dt.date:
    return dt.date.fromordinal(min(max(date.toordinal() + days, 1), _LAST_ORDINAL))


def _exists(date: dt.date, zone: ZoneInfo) -> bool:
    """Whether the zone had this date: a gap that swallows it moves even its midnight to another date."""
    midnight = dt.datetime.combine(date, dt.time(), zone)
    return midnight.astimezone(dt.UTC).astimezone(zone).date() == date


def _read(problems: list[BadValue], name: str, value: object, default: _T, convert: Callable[[object], _T]) -> _T:
    if value is None:
        return default
    try:
        return convert(value)
    except ValueError as refusal:
        problems.append(BadValue(name, value, str(refusal)))
        return default


def _frequency(value: object) -> Frequency:
    for frequency in Frequency:
        if isinstance(value, str) and frequency.value == value:
            return frequency
    raise ValueError(f"must be one of {', '.join(Frequency)}")


def _time(value: object) -> dt.time:
    if isinstance(value, dt.time) and value.tzinfo is None and not value.microsecond:
        return dt.time(value.hour, value.minute, value.second)
    if isinstance(value, str) and (match := _TIME.fullmatch(value)):
        hour, minute, second = match.groups("0")
        return dt.time(int(hour), int(minute), int(second))
    raise ValueError("must be HH:MM or HH:MM:SS from 00:00 to 23:59:59, or a naive datetime.time without microseconds")


def _zone(value: object) -> ZoneInfo:
    match = _ZONE_NAME.fullmatch(value) if isinstance(value, str) else None
    zone = _load_zone(match.group()) if match else None
    if zone is None:
        raise ValueError(
            "must be the name of a zone in this machine's IANA database, such as Europe/Berlin or UTC"
            " (where the machine has none, install tzdata)"
        )
    return zone


@lru_cache(maxsize=2048)
def _load_zone(name: str) -> ZoneInfo | None:
    """Load a zone, cached. Temporary failures, such as too many open files, are raised and not cached.

    A folder of the database, such as America, causes an IsADirectoryError, or a PermissionError on Windows.
    """
    if _NOT_ZONES.fullmatch(name):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError, PermissionError):
        return None


def _int_in(accepted: range, reason: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in accepted:
        return value
    raise ValueError(reason)


def _days(frequency: Frequency, value: object) -> frozenset[int]:
    accepted, reason = _DAYS_RULES.get(frequency, _UNUSED_DAYS_RULE)
    if not isinstance(value, Collection) or isinstance(value, (str, bytes, bytearray, Mapping)):
        raise ValueError(reason)  # noqa: TRY004  # Collected with the others into one InvalidSchedule.
    return frozenset(_int_in(accepted, reason, day) for day in cast("Collection[object]", value))


def _eligible_days(frequency: Frequency, weekday: int, days: frozenset[int]) -> frozenset[int]:
    if frequency is Frequency.WEEKLY:
        return frozenset({weekday})
    if frequency is Frequency.MONTHLY:
        return days or frozenset({1})
    return _FIXED_DAYS.get(frequency) or days or frozenset(_WEEK)
