"""Finds who is due: the preferences that a plan reads, and each distinct schedule's occurrences, computed once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from attrs import define, frozen

from fanout_briefs.eligibility import parse
from fanout_briefs.errors import InvalidSchedule
from fanout_briefs.model import (
    Occurrence,
    Page,
    Preference,
    Scheduled,
    ScheduleFields,
    Window,
    frozen_by_convention,
    slot_key,
)
from fanout_briefs.ports import Preferences, ScheduleIndex
from fanout_briefs.schedule import Schedule
from fanout_briefs.timing import Timing

__all__ = ["Calendar", "Candidate", "Due", "DueSlot", "Known", "Wishes", "pages"]

_T = TypeVar("_T")
_KEPT_SCHEDULES = 10_000
_LAST = datetime.max.replace(tzinfo=UTC)


@frozen
class DueSlot:
    """One occurrence of a schedule, and the window of its brief; ``key`` is the slot's key without the user."""

    type: str
    occurrence: Occurrence
    window: Window
    key: str

    def of(self, user_id: str) -> Candidate:
        """Return one user's slot."""
        return Candidate(self.type, user_id, self.occurrence, self.window, self.key + user_id)


@frozen_by_convention
class Candidate:
    """A slot that is due and may become a job."""

    type: str
    user_id: str
    occurrence: Occurrence
    window: Window
    dedup_key: str


@frozen
class Due:
    """The due slots of one schedule."""

    schedule: Schedule
    slots: Sequence[DueSlot]


@define
class Known:
    """A schedule that earlier plans have seen, and a span, maybe empty, without any occurrence.

    The span is a single value, so a plan in another thread sees it change atomically.
    """

    nothing: Due
    span: tuple[datetime, datetime] = (_LAST, _LAST)


class Calendar:
    """What is due within a window: computed once per distinct schedule, not once per user.

    Most schedules have no occurrence in most windows. Once that is known, a schedule is not computed again until its
    next occurrence.

    Args:
        name: The name of the brief.
        timing: Determines the windows of content.
        window: The span of delivery times to look at.
        known: The schedules that earlier calendars found, by their fields; this one adds its own.
    """

    def __init__(self, name: str, timing: Timing, window: Window, known: dict[object, Known]) -> None:
        self._name = name
        self._timing = timing
        self._window = window
        self._known = known
        self._due: dict[object, Due | InvalidSchedule] = {}

    def of(self, fields: ScheduleFields | Preference) -> Due | InvalidSchedule:
        """Return the occurrences of a schedule, or what is wrong with its fields."""
        days, day_of_week = fields.days, fields.day_of_week
        key: object = (fields.frequency, fields.time_of_day, fields.timezone)
        try:
            if days is not None or day_of_week is not None:
                # Types count: True and 1.0 equal 1, but are not valid in a schedule.
                listed = None if days is None else (tuple(days), tuple(map(type, days)))
                key = (key, day_of_week, type(day_of_week), type(days), listed)
            found = self._due.get(key)
        except TypeError:  # a list where a string belongs; parsing reports it
            return self._compute(fields, object())
        if found is None:
            found = _keep(self._due, key, self._compute(fields, key))
        return found

    def _compute(self, fields: ScheduleFields | Preference, key: object) -> Due | InvalidSchedule:
        known = self._known.get(key)
        if known is None:
            try:
                known = _keep(self._known, key, Known(Due(parse(fields), ())))
            except InvalidSchedule as error:
                return error
        start, end = self._window.start, self._window.end
        since, until = known.span
        if since <= start and end <= until:
            return known.nothing
        schedule = known.nothing.schedule
        occurrences, until = schedule.look(start, end)
        known.span = (end if occurrences else start, until)
        return Due(schedule, [self._slot(schedule, each) for each in occurrences]) if occurrences else known.nothing

    def _slot(self, schedule: Schedule, occurrence: Occurrence) -> DueSlot:
        return DueSlot(
            self._name,
            occurrence,
            self._timing.window(occurrence, schedule.previous_before(occurrence.deliver_at)),
            slot_key(self._name, occurrence.local_date, ""),
        )


def _keep(among: dict[object, _T], key: object, value: _T) -> _T:
    """Remember a value; when the limit is reached, forget all others."""
    if len(among) >= _KEPT_SCHEDULES:
        among.clear()
    among[key] = value
    return value


@frozen
class Wishes:
    """A page of people, and for each of them what is due; None if the brief is switched off."""

    people: Sequence[Preference | Scheduled]
    due: Sequence[Due | InvalidSchedule | None]

    def __iter__(self) -> Iterator[tuple[Preference | Scheduled, Due | InvalidSchedule | None]]:
        return zip(self.people, self.due, strict=True)


async def pages(preferences: Preferences, calendar: Calendar, limit: int, *, everybody: bool) -> AsyncIterator[Wishes]:
    """Read people and what is due for them, in pages; if possible, only people whose schedule is due or invalid.

    Args:
        preferences: Read by schedule if ``schedule_index`` allows it.
        calendar: What is due.
        limit: The most people per page.
        everybody: Read all people in any case.

    Raises:
        ValueError: ``preferences`` returned a cursor twice, or a schedule that was not asked for.
        TypeError: ``preferences`` returned something other than a page of people.
        Exception: Raised by ``preferences``.
    """
    read: Callable[[str | None, int], Awaitable[object]] = preferences.page
    understand: Callable[[Sequence[Any]], Wishes] = partial(_by_fields, calendar)
    if getattr(preferences, "schedule_index", False) and not everybody:
        index = cast("ScheduleIndex", preferences)
        listed = {schedule: calendar.of(fields) for schedule, fields in (await index.schedules()).items()}
        # Includes people with invalid schedules, which the plan reports.
        concerned = {schedule: due for schedule, due in listed.items() if isinstance(due, InvalidSchedule) or due.slots}
        if not concerned:
            return
        read = partial(index.page_for, list(concerned))
        understand = partial(_by_schedule, concerned)
    cursor: str | None = None
    seen: set[str] = set()
    while True:
        page = _page_of(await read(cursor, limit))
        yield understand(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return
        if cursor in seen:
            raise ValueError(f"preferences gave the cursor {cursor!r} twice, so the scan would never end")
        seen.add(cursor)


def _page_of(answer: object) -> Page[Any]:
    if not issubclass(type(answer), Page):
        raise TypeError(f"preferences gave {type(answer).__name__} instead of a Page")
    return cast("Page[Any]", answer)


def _by_fields(calendar: Calendar, people: Sequence[Preference]) -> Wishes:
    try:
        return Wishes(people, [calendar.of(each) if each.is_active else None for each in people])
    except (AttributeError, TypeError) as error:
        raise TypeError(f"preferences gave a page of something other than Preference: {error}") from error


def _by_schedule(due: Mapping[str, Due | InvalidSchedule], people: Sequence[Scheduled]) -> Wishes:
    try:
        return Wishes(people, [due[each.schedule] for each in people])
    except KeyError as unknown:
        raise ValueError(f"page_for gave somebody with the schedule {unknown}, which was not asked for") from None
