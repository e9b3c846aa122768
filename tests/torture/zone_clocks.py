"""What the clocks of the installed zones did since 1970: each change of an offset, found by looking at the clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from attrs import frozen

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
STILL = datetime(2000, 1, 1, tzinfo=UTC)

# The system's directory holds these besides.
NOT_IANA = {"localtime", "posixrules", "Factory"}


@frozen
class Change:
    """A moment from which on a zone's clock has another offset.

    Attributes:
        at: The first second of the new offset, in UTC.
        before: What the clock would have shown at that second by the old offset; naive.
        after: What it did show; naive. Later than ``before`` in a gap, earlier in a fold.
    """

    at: datetime
    before: datetime
    after: datetime

    def readings(self) -> list[datetime]:
        """What clocks show just before, at the start of, inside, and just before and at the end of the gap or fold."""
        low, high = sorted((self.before, self.after))
        middle = (low + (high - low) / 2).replace(microsecond=0)
        return [low - SECOND, low, middle, high - SECOND, high]

    def skipped_dates(self) -> list[date]:
        """The dates of which the clock showed no second."""
        midnight = datetime.combine(self.before - timedelta(microseconds=1), datetime.min.time()) + DAY
        return [midnight.date()] if midnight + DAY <= self.after else []


@frozen
class Clock:
    """A zone, its offset when the look began, and every change from then on."""

    zone: str
    offset: timedelta
    changes: tuple[Change, ...]

    def since(self, start: datetime) -> Clock:
        earlier = [change for change in self.changes if change.at < start]
        offset = earlier[-1].after - earlier[-1].at.replace(tzinfo=None) if earlier else self.offset
        return Clock(self.zone, offset, self.changes[len(earlier) :])

    def moments(self) -> Sequence[Change]:
        """Every change; of a clock that never had one, the start of 2000, when nothing happened."""
        shown = STILL.replace(tzinfo=None) + self.offset
        return self.changes or [Change(STILL, shown, shown)]


@cache
def clocks(every: timedelta) -> Sequence[Clock]:
    """Look at the clock of each installed zone, older names included, once ``every`` so often.

    An offset that lasts as long as that is not missed. The shortest from 1970 on was a week less an hour, in Brazil
    in 2000.
    """
    looks = [FIRST + number * every for number in range((END - FIRST) // every + 1)]
    zones = sorted(available_timezones() - NOT_IANA)
    return [Clock(zone, _offset(looks[0], ZoneInfo(zone)), tuple(_changes(ZoneInfo(zone), looks))) for zone in zones]


def histories(found: Iterable[Clock]) -> list[list[Clock]]:
    """Put together the clocks that always showed the same."""
    alike: defaultdict[tuple[timedelta, tuple[Change, ...]], list[Clock]] = defaultdict(list)
    for clock in found:
        alike[clock.offset, clock.changes].append(clock)
    return list(alike.values())


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _changes(zone: ZoneInfo, looks: Sequence[datetime]) -> Iterator[Change]:
    seen = [_offset(look, zone) for look in looks]
    for (start, was), (end, now) in pairwise(zip(looks, seen, strict=True)):
        if was != now:
            at = _first_second_without(was, zone, start, end)
            naive = at.replace(tzinfo=None)
            yield Change(at, naive + was, naive + _offset(at, zone))


def _first_second_without(offset: timedelta, zone: ZoneInfo, start: datetime, end: datetime) -> datetime:
    while end - start > SECOND:
        middle = start + (end - start) // SECOND // 2 * SECOND
        start, end = (middle, end) if _offset(middle, zone) == offset else (start, middle)
    return end
