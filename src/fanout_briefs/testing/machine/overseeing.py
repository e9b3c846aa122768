"""Steps of operators, of time and of changing preferences: ``ports.Oversight`` and what a storage keeps beside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import precondition

from fanout_briefs.errors import InvalidPreferences
from fanout_briefs.model import JobStatus, Page, Preference, Scheduled, ScheduleFields
from fanout_briefs.testing import strategies
from fanout_briefs.testing.checks import Broken, holds, same
from fanout_briefs.testing.machine.stage import Told, spoil
from fanout_briefs.testing.machine.story import (
    DATES,
    KEYS,
    TYPES,
    USERS,
    Story,
    as_told,
    offsets,
    some_types,
    step,
)
from fanout_briefs.testing.slots import DAY, HOUR

__all__ = ["OversightSteps", "PreferenceSteps", "TimeSteps"]

_MOST: Final = 99
"""More pages than anything in a story has."""

_rows = as_told(
    st.lists(
        strategies.preferences(st.sampled_from(USERS)) | strategies.odd_preferences(st.sampled_from(USERS)),
        max_size=3,
        unique_by=lambda row: row.user_id,
    )
)


class TimeSteps(Story):
    """Steps of the clock, and of the storage as a whole."""

    @step(by=as_told(st.sampled_from([HOUR, timedelta(minutes=5), DAY, -HOUR])))
    def wait(self, by: Told) -> None:
        """Let time pass, or set the clock back."""
        self.stage.say(f"(it is {self.clock.advance(by.value):%Y-%m-%d %H:%M} now)")

    @precondition(lambda self: not {"shared", "reopens"}.isdisjoint(self.capabilities))
    @step()
    def turn_to_the_other(self) -> None:
        """Open and close the storage once more, and make the next calls on the other one."""
        if "reopens" in self.capabilities:
            self.stage.open_once_more(self.turn)
        self.turn_on()


class OversightSteps(Story):
    """Steps of an operator: pausing, pruning, and reading."""

    def scan_all(self, limit: int) -> None:
        """Read what a storage keeps beside slots."""

    @step(types=some_types)
    def pause(self, types: Sequence[str]) -> None:
        """Pause job types."""
        self.hold(self.do("pause", [*types], self.clock()), self.oracle.pause(types, self.clock()))
        self._see_pauses()

    @step(types=some_types, since=as_told(offsets))
    def resume(self, types: Sequence[str], since: Told) -> None:
        """End a pause."""
        at = self.clock() + since.value
        self.hold(self.do("resume", [*types], since=at), self.oracle.resume(types, at))
        self._see_pauses()

    def _see_pauses(self) -> None:
        self.check("paused", [*TYPES, "other"], self.oracle.pauses)

    @step(types=some_types, before=as_told(st.just(9 * DAY) | offsets), limit=st.sampled_from([9, 1, 2]))
    def prune(self, types: Sequence[str], before: Told, limit: int) -> None:
        """Erase what is old."""
        self.erase(types, self.clock() + before.value, limit)

    prune_too = prune

    def erase(self, types: Sequence[str], before: datetime, limit: int) -> None:
        """Erase what is old."""
        erasable = self.oracle.prunable(types, before)
        same(self.do("prune", [*types], before, limit), min(limit, len(erasable)))
        there = self.do("find", [*KEYS])
        gone = self.oracle.rows.keys() - there.keys()
        if not gone <= erasable or len(gone) != min(limit, len(erasable)):
            raise Broken(f"came back: without {sorted(gone)}\npromised:  without {limit} at most of {sorted(erasable)}")
        self.oracle.prune(gone)

    @step(limit=st.sampled_from([2, 1, 9]), back=as_told(offsets))
    def look(self, limit: int, back: Told) -> None:
        """Look at everything that does not show in the slots."""
        self.look_around(limit, back.value)
        self.scan_all(limit)

    look_again = look

    def look_around(self, limit: int, back: timedelta) -> None:
        """Look at everything that does not show in the slots."""
        oracle, now = self.oracle, self.clock()
        since = now - back
        self._see_pauses()
        told = {kind: oracle.overview(kind, now, since) for kind in (*TYPES, "other")}
        self.hold(self.do("overview", [*told], now=now, since=since), told)
        before: dict[str, datetime] = dict.fromkeys(USERS, now + back)
        self.hold(self.do("last_briefs", "daily", dict(before)), oracle.last_briefs("daily", before))
        self.hold(self.do("advance", "daily"), oracle.marks.get("daily"))
        for user in USERS:
            self.hold(self.do("brief", "daily", user), oracle.latest_brief("daily", user))
            on = DATES[limit % len(DATES)]
            self.hold(self.do("brief", "daily", user, on), oracle.briefs.get(("daily", user, on)))
        statuses = [*JobStatus] if limit % 2 else [JobStatus.PENDING, JobStatus.FAILED, JobStatus.COMPLETED]
        items = self.pages("select", limit, [*TYPES], statuses, since=since)
        same([job.occurrence.deliver_at for job in items], sorted(job.occurrence.deliver_at for job in items))
        slots = {job.dedup_key: job for job in oracle.select(TYPES, statuses, since)}
        same(sorted(job.dedup_key for job in items), sorted(slots))
        self.hold({job.dedup_key: job for job in items}, slots)

    def pages(self, name: str, limit: int, *values: Any, **named: Any) -> list[Any]:
        """Return the contents of all pages of this size."""
        got: list[Any] = []
        cursor: str | None = None
        for _ in range(_MOST):
            page: Page[Any] = self.do(name, *values, **named, cursor=cursor, limit=limit)
            holds(len(page.items) <= limit, "no more than `limit` in a page")
            got += page.items
            cursor = page.next_cursor
            spoil(page.items)
            if cursor is None:
                return got
        raise Broken(f"came back: {_MOST} pages, and no last one\npromised:  an end")


class PreferenceSteps(OversightSteps):
    """Steps for the preferences that a storage keeps."""

    @precondition(lambda self: "preferences" in self.capabilities)
    @step(rows=_rows, bad=st.none() | as_told(strategies.refused_preferences(st.just("bad"))))
    def put(self, rows: Told, bad: Told | None) -> None:
        """Store preferences, including some that make no schedule; if one cannot be stored, none is."""
        given = [_with_list(row) for row in rows.value]
        if bad is None:
            self.do("preferences.put", given)
            self.oracle.put(rows.value)
        else:
            self.stage.refused(self.turn, InvalidPreferences, "preferences.put", [*given, bad.value])
        spoil(given)
        self._see_preferences()

    @precondition(lambda self: "preferences" in self.capabilities)
    @step(users=as_told(st.lists(st.sampled_from([*USERS, "nobody"]), max_size=2)))
    def remove(self, users: Told) -> None:
        """Remove preferences."""
        self.do("preferences.remove", [*users.value])
        self.oracle.remove(users.value)
        self._see_preferences()

    def scan_all(self, limit: int) -> None:
        """Read all preferences, page by page, and by schedule if the storage can."""
        if "preferences" in self.capabilities:
            same(_by_user(self.pages("preferences.page", limit)), [*sorted(self.oracle.preferences.items())])
        if "schedule_index" in self.capabilities:
            self._scan_by_schedule(limit)

    def _scan_by_schedule(self, limit: int) -> None:
        promised = self.oracle.schedules()
        listed: dict[str, ScheduleFields] = {**self.do("preferences.schedules")}
        same([fields for fields in promised if fields not in listed.values()], list[ScheduleFields]())
        for schedule, fields in listed.items():
            got = self.pages("preferences.page_for", limit, [schedule])
            same(_by_user(got), [self._scheduled(user, schedule) for user in sorted(promised.get(fields, ()))])
        active = {user: schedule for schedule, fields in listed.items() for user in promised.get(fields, ())}
        got = self.pages("preferences.page_for", limit, [*listed])
        same(_by_user(got), [self._scheduled(user, active[user]) for user in sorted(active)])

    def _scheduled(self, user: str, schedule: str) -> tuple[str, Scheduled]:
        return user, Scheduled(user, schedule, self.oracle.preferences[user].effective_from)

    def _see_preferences(self) -> None:
        self.check("preferences.get", [*USERS, "bad"], self.oracle.preferences)


def _by_user(rows: Sequence[Any]) -> list[tuple[str, Any]]:
    return sorted(((row.user_id, row) for row in rows), key=lambda pair: pair[0])


def _with_list(row: Preference) -> Preference:
    return row if row.days is None else evolve(row, days=[*row.days])
