"""Who is due: which preferences a plan reads, and the occurrences of each distinct schedule, computed once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import cast

from attrs import define, frozen

from fanout_briefs.eligibility import parse
from fanout_briefs.errors import InvalidSchedule
from fanout_briefs.model import Occurrence, Preference, ScheduleFields, Window, slot_key
from fanout_briefs.ports import Preferences, ScheduleIndex
from fanout_briefs.schedule import Schedule
from fanout_briefs.timing import Timing

__all__ = ["Calendar", "Candidate", "Due", "DueSlot", "pages"]

_KEPT_SCHEDULES = 10_000


@frozen
class DueSlot:
    """One occurrence of a schedule, and what its brief covers; ``key`` is the slot's without the user."""

    occurrence: Occurrence
    window: Window
    key: str

    def of(self, type: str, user_id: str) -> Candidate:  # noqa: A002  # as of a job
        """Give one user's slot."""
        return Candidate(type, user_id, self.occurrence, self.window, self.key + user_id)


@define
class Candidate:
    """A slot that is due and may become a job. Not frozen: one is made for every due user."""

    type: str
    user_id: str
    occurrence: Occurrence
    window: Window
    dedup_key: str


@frozen
class Due:
    """What of one schedule is due."""

    schedule: Schedule
    slots: Sequence[DueSlot]


class Calendar:
    """What is due within a window: computed once a distinct schedule, not once a user.

    Args:
        name: The brief's.
        timing: Gives the windows of content.
        window: The span of delivery times to look at.
    """

    def __init__(self, name: str, timing: Timing, window: Window) -> None:
        self._name = name
        self._timing = timing
        self._window = window
        self._known: dict[object, Due | InvalidSchedule] = {}

    def of(self, fields: ScheduleFields | Preference) -> Due | InvalidSchedule:
        """Give the occurrences of a schedule, or what is wrong with its fields."""
        days = fields.days
        raw = (fields.frequency, fields.time_of_day, fields.timezone, fields.day_of_week)
        try:
            # Types count: True and 1.0 equal 1, but make no schedule.
            listed = None if days is None else (tuple(days), tuple(map(type, days)))
            key = (raw, type(fields.day_of_week), type(days), listed)
            found = self._known.get(key)
        except TypeError:  # a list where a string belongs; parsing names it
            return self._compute(fields)
        if found is None:
            if len(self._known) >= _KEPT_SCHEDULES:
                self._known.clear()
            found = self._known[key] = self._compute(fields)
        return found

    def concerns(self, fields: ScheduleFields) -> bool:
        """Whether people with this schedule are due, or are to be told that it is none."""
        due = self.of(fields)
        return isinstance(due, InvalidSchedule) or bool(due.slots)

    def _compute(self, fields: ScheduleFields | Preference) -> Due | InvalidSchedule:
        try:
            schedule = parse(fields)
        except InvalidSchedule as error:
            return error
        slots = [
            DueSlot(
                occurrence,
                self._timing.window(occurrence, schedule.previous_before(occurrence.deliver_at)),
                slot_key(self._name, occurrence.local_date, ""),
            )
            for occurrence in schedule.between(self._window.start, self._window.end)
        ]
        return Due(schedule, slots)


async def pages(
    preferences: Preferences, calendar: Calendar, limit: int, *, everybody: bool
) -> AsyncIterator[Sequence[Preference]]:
    """Read preferences in pages: those that the calendar concerns where they can be read so, else all.

    Args:
        preferences: Read by schedule where ``schedule_index`` says that it can be.
        calendar: What is due.
        limit: How many at a time.
        everybody: Read all of them in any case.

    Raises:
        ValueError: A cursor came twice.
        Exception: What ``preferences`` raises.
    """
    read = preferences.page
    if getattr(preferences, "schedule_index", False) and not everybody:
        index = cast("ScheduleIndex", preferences)
        schedules = await index.schedules()
        concerned = [schedule for schedule, fields in schedules.items() if calendar.concerns(fields)]
        if not concerned:
            return
        read = partial(index.page_for, concerned)
    cursor: str | None = None
    seen: set[str] = set()
    while True:
        page = await read(cursor, limit)
        yield page.items
        cursor = page.next_cursor
        if cursor is None:
            return
        if cursor in seen:
            raise ValueError(f"preferences gave the cursor {cursor!r} twice, so the scan would never end")
        seen.add(cursor)
