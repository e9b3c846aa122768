"""What schedules answer around given changes; run as a script, in a process that may believe to be anywhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from fanout_briefs.schedule import Frequency, Schedule

SPAN = timedelta(days=4)


def answers(asked: Iterable[Sequence[str]]) -> list[str]:
    """Answer for each zone, instant and times of day, with every frequency, and with nothing but a zone."""
    return [" ".join(_answer(zone, datetime.fromisoformat(at), times)) for zone, at, *times in asked]


def _answer(zone: str, at: datetime, times: Sequence[str]) -> Iterator[str]:
    named = [Schedule.parse(frequency, of_day, zone) for frequency in Frequency for of_day in times]
    for schedule in [*named, Schedule.parse(timezone=zone)]:
        found = schedule.between(at - SPAN, at + SPAN)
        for one in (*found, schedule.previous_before(at), schedule.next_after(at), schedule.on(at.date())):
            yield f"{one.local_date} {one.deliver_at.isoformat()}" if one else "none"


if __name__ == "__main__":
    time.tzset()
    noons = [time.localtime(number * 91 * 86_400).tm_hour for number in range(4)]
    json.dump([f"{time.tzname} {noons}", answers(json.load(sys.stdin))], sys.stdout)
