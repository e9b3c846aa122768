"""The preferences that a Redis storage keeps: in order of their user ids, and by schedule."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping

from fanout_briefs.model import Page, Preference, Scheduled, ScheduleFields
from fanout_briefs.rules import check_limit, is_storable, storable
from redis_briefs.rows import from_preference, packed, present, to_preference, to_schedule, to_scheduled
from redis_briefs.server import Session

__all__ = ["RedisPreferences"]


class RedisPreferences:
    """The preferences that a ``RedisStorage`` keeps, in order of their user ids; they can be read by schedule."""

    schedule_index = True

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        session = self._session()
        check_limit(limit)
        # One row more than asked for tells whether this page is the last.
        asked = present(limit=limit + 1, after=cursor)
        rows = await session.script("page_preferences", packed(asked))
        items = [to_preference(user.decode(), row) for user, row in rows[:limit]]
        return Page(items, items[-1].user_id if len(rows) > limit else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        session = self._session()
        asked = [*filter(is_storable, user_ids)]
        rows: list[bytes | None] = await session.command("HMGET", "preferences", *asked) if asked else []
        return {user: to_preference(user, row) for user, row in zip(asked, rows, strict=True) if row is not None}

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        schedules = await self._session().command("HKEYS", "schedules")
        return {schedule.decode(): to_schedule(schedule) for schedule in schedules}

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        session = self._session()
        check_limit(limit)
        last, after = ("", None) if cursor is None else json.loads(cursor)
        left = sorted(schedule for schedule in set(schedules) if schedule >= last and is_storable(schedule))
        asked = present(limit=limit + 1, schedules=left, last=last, after=after)
        rows = await session.script("page_for_schedules", packed(asked))
        items = [to_scheduled(user.decode(), row) for user, row in rows[:limit]]
        return Page(items, json.dumps([items[-1].schedule, items[-1].user_id]) if len(rows) > limit else None)

    async def put(self, preferences: Iterable[Preference]) -> None:
        """Store these preferences, each in place of what was stored for its user; all of them or none.

        Raises:
            InvalidPreferences: Some hold values that cannot be stored. Whether they make a schedule is the
                planner's question.
        """
        session = self._session()
        rows = [*map(from_preference, storable(preferences))]
        await session.script("put_preferences", packed(rows))

    async def remove(self, user_ids: Collection[str]) -> None:
        """Remove the preferences of these users; the others stay, and so do slots and briefs."""
        await self._session().script("remove_preferences", packed([*filter(is_storable, user_ids)]))
