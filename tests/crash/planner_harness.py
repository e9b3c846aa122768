"""Planners over a database that other processes can reach too."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from fanout_briefs.briefs import Briefs
from fanout_briefs.model import Page, Preference
from fanout_briefs.plans import PlanReport
from hosts import Host
from places import Place

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)


class Users:
    """Many people who all want their brief at nine, in an order of this object's own."""

    def __init__(self, count: int) -> None:
        self.ids = [f"user{number:06}" for number in range(count)]
        random.shuffle(self.ids)

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        begin = int(cursor or 0)
        ids = self.ids[begin : begin + limit]
        return Page([Preference(user_id=name) for name in ids], str(begin + limit) if len(ids) == limit else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return {user_id: Preference(user_id=user_id) for user_id in user_ids}


def slots(place: Place) -> tuple[int, int]:
    """How many slots there are, and how many users have one."""
    ((rows, users),) = place.ask("SELECT count(*), count(DISTINCT user_id) FROM jobs")
    return rows, users


async def plan(place: Place, users: int, trace: Callable[[str], None] | None = None) -> PlanReport:
    host = Host()
    async with Briefs(
        place.storage(trace), projects=host, generator=host, preferences=Users(users), page_size=5_000
    ) as briefs:
        return await briefs.plan(NINE - timedelta(minutes=30))
