"""A made-up world of users, and what a right plan of it comes to.

What is due is computed here anew, by ``zoneinfo`` alone, so that a plan is checked against something else than itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from attrs import field, frozen

from fanout_briefs import BackoffPolicy
from fanout_briefs.model import Activity, Preference

NAME = "daily_brief"
NOW = datetime(2026, 5, 20, 14, 2, 30, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
"""When the second pass is: it looks one minute further, in which nobody's time lies, since those are of five minutes."""
LEAD = timedelta(minutes=15)
SPAN = timedelta(hours=1)
"""How far a plan looks: the lead and a horizon of 45 minutes."""
SCHEDULES = 3_000
SKIPPED = 0.30
INVALID = 0.01
_DAY = timedelta(days=1)


class Wrong(Exception):
    """Somebody did something else than they should; no figure is worth anything then."""


class Wish(NamedTuple):
    """The raw fields of a schedule."""

    frequency: str | None
    time_of_day: str | None
    timezone: str | None
    day_of_week: int | None
    days: tuple[int, ...] | None


BAD = (
    Wish("daily", "09:00", "Mars/Olympus", None, None),
    Wish("daily", "25:00", "Europe/Paris", None, None),
    Wish("hourly", "09:00", "UTC", None, None),
    Wish("weekly", "18:30:00", "Asia/Tokyo", 9, None),
    Wish("custom", "07:15", "America/Bogota", None, (1, 8)),
)


class User(NamedTuple):
    """One user: the wish, the last visit, when their last brief was delivered, and the slot that is due."""

    user_id: str
    wish: Wish
    last_visit: datetime | None
    last_brief: datetime
    slot: Slot | None


class Slot(NamedTuple):
    """A due occurrence."""

    local_date: date
    deliver_at: datetime


def preference(user: User) -> Preference:
    """Give the preference that is stored for a user."""
    return Preference(user_id=user.user_id, **user.wish._asdict())


def occurrence(wish: Wish, start: datetime = NOW, end: datetime = NOW + SPAN) -> Slot | None:
    """Give what is due of a wish in the span, which is short enough to hold one occurrence at most.

    Raises:
        Exception: The wish makes no schedule.
    """
    zone = ZoneInfo(wish.timezone or "UTC")
    at = time.fromisoformat(wish.time_of_day or "09:00")
    if wish.frequency not in {None, "daily", "weekdays", "weekly", "custom", "monthly"}:
        raise ValueError(wish.frequency)
    allowed = range(1, 32) if wish.frequency == "monthly" else range(7)
    if any(day not in allowed for day in wish.days or ()) or (wish.day_of_week or 0) not in range(7):
        raise ValueError(wish)
    here = start.astimezone(zone).date()
    for on in (here - _DAY, here, here + _DAY):
        deliver_at = datetime.combine(on, at, zone).astimezone(UTC)
        if start <= deliver_at < end and _is_on(wish, on):
            return Slot(on, deliver_at)
    return None


def _is_on(wish: Wish, on: date) -> bool:
    weekday = on.isoweekday() % 7
    match wish.frequency:
        case "weekdays":
            return weekday in range(1, 6)
        case "weekly":
            return weekday == (1 if wish.day_of_week is None else wish.day_of_week)
        case "custom":
            return weekday in (wish.days or range(7))
        case "monthly":
            last = (on.replace(day=28) + 4 * _DAY).replace(day=1) - _DAY
            return on.day in {min(day, last.day) for day in wish.days or (1,)}
        case _:
            return True


class Due:
    """What is due of wishes, remembered by wish: a help that whoever plans by hand would allow themselves, too."""

    def __init__(self) -> None:
        self._known: dict[Wish, Slot | None] = {}

    def __call__(self, wish: Wish) -> Slot | None:
        """Give what is due, None also of a wish that makes no schedule."""
        try:
            return self._known[wish]
        except KeyError:
            try:
                found = occurrence(wish)
            except Exception:
                found = None
            self._known[wish] = found
            return found


POLICY = BackoffPolicy()


def sends(user_id: str, last_visit: datetime | None, last_brief: datetime | None, at: datetime) -> bool:
    """Decide as the library does; everybody who is measured decides like this."""
    return POLICY.decide(Activity(user_id, last_visit, last_brief), at).send


@frozen
class World:
    """So many users, of whom exactly so many are due in the next hour; one hundredth of all makes no schedule.

    Three in ten are skipped by engagement. Ids are random, so users come in no order of anything.
    """

    users: int
    due: int
    seed: int = field(default=5, kw_only=True)

    @property
    def label(self) -> str:
        return f"{self.users:,} users, {self.due:,} due"

    @property
    def invalid(self) -> int:
        return round(self.users * INVALID)

    @property
    def skipped(self) -> int:
        return round(self.due * SKIPPED)

    @property
    def sent(self) -> int:
        return self.due - self.skipped

    @cached_property
    def _pools(self) -> tuple[list[Wish], list[Wish]]:
        """Distinct wishes: those that are due, and those that are not."""
        rng = random.Random(self.seed)
        wanted_due = max(1, round(SCHEDULES * self.due / self.users))
        wanted = (wanted_due, max(1, SCHEDULES - wanted_due))
        zones = sorted(_zones())
        pools: tuple[dict[Wish, None], dict[Wish, None]] = ({}, {})
        while any(len(pool) < number for pool, number in zip(pools, wanted, strict=True)):
            wish = _some_wish(rng, zones, in_the_span=len(pools[0]) < wanted[0])
            pool, number = (pools[0], wanted[0]) if occurrence(wish) else (pools[1], wanted[1])
            if len(pool) < number:
                pool[wish] = None
        return list(pools[0]), list(pools[1])

    @cached_property
    def people(self) -> Sequence[User]:
        return list(self._people())

    def _people(self) -> Iterator[User]:
        rng = random.Random(self.seed + 1)
        due_pool, other_pool = self._pools
        others = self.users - self.due - self.invalid
        wishes = [
            *_spread(rng, due_pool, self.due),
            *_spread(rng, other_pool, others),
            *_spread(rng, BAD, self.invalid),
        ]
        stays_away = [place < self.skipped for place in range(self.due)]
        stays_away += [rng.random() < SKIPPED for _ in range(others + self.invalid)]
        order = list(range(self.users))
        rng.shuffle(order)
        due = Due()
        for place in order:
            wish = wishes[place]
            slot = due(wish)
            # Somebody who is not due was sent one at some time of yesterday.
            last_brief = (
                NOW - timedelta(minutes=5 * rng.randrange(12, 288)) if slot is None else slot.deliver_at
            ) - _DAY
            at = NOW if slot is None else slot.deliver_at
            yield User(_id(rng), wish, _visit(rng, at, stays_away[place]), last_brief, slot)

    @cached_property
    def expected(self) -> dict[str, str]:
        """The state of each slot after a plan, by user."""
        states: dict[str, str] = {}
        for user in self.people:
            if user.slot is not None:
                sent = sends(user.user_id, user.last_visit, user.last_brief, user.slot.deliver_at)
                states[user.user_id] = "pending" if sent else "skipped"
        if sum(state == "pending" for state in states.values()) != self.sent or len(states) != self.due:
            raise Wrong(f"the world is not as it should be: {len(states)} due of {self}")
        return states

    @cached_property
    def schedules(self) -> tuple[int, int]:
        """How many distinct schedules and zones the users have."""
        wishes = {user.wish for user in self.people}
        return len(wishes), len({wish.timezone for wish in wishes})


def _zones() -> set[str]:
    return {zone for zone in available_timezones() if "/" in zone and not zone.startswith(("posix", "right", "Etc"))}


def _some_wish(rng: random.Random, zones: Sequence[str], *, in_the_span: bool) -> Wish:
    zone = rng.choice(zones)
    minutes = 5 * rng.randrange(288)
    if in_the_span:
        local = (NOW + SPAN * rng.random()).astimezone(ZoneInfo(zone))
        minutes = local.hour * 60 + local.minute // 5 * 5
    at = f"{minutes // 60:02}:{minutes % 60:02}"
    match rng.choices(("daily", "weekdays", "weekly", "custom", "monthly"), (50, 20, 15, 10, 5))[0]:
        case "weekly":
            return Wish("weekly", f"{at}:00", zone, rng.randrange(7), None)
        case "custom":
            return Wish("custom", at, zone, None, tuple(sorted(rng.sample(range(7), rng.randrange(1, 6)))))
        case "monthly":
            return Wish("monthly", at, zone, None, tuple(sorted(rng.sample(range(1, 32), rng.randrange(1, 4)))))
        case frequency:
            return Wish(frequency, at, zone, None, None)


def _spread(rng: random.Random, wishes: Sequence[Wish], number: int) -> list[Wish]:
    """Give so many, some wishes much oftener than others, as people are; each at least once where there is room."""
    first = rng.sample(wishes, min(number, len(wishes)))
    weights = [1 / (place + 10) for place in range(len(wishes))]
    return [*first, *rng.choices(wishes, weights, k=number - len(first))]


def _visit(rng: random.Random, at: datetime, stays_away: bool) -> datetime | None:
    if not stays_away:
        return None if rng.random() < 0.05 else at - timedelta(hours=rng.uniform(1, 70))
    # Each is refused for another reason; the brief of the day before leaves no room for a reminder.
    days = rng.choice((3, 3, rng.randrange(4, 10), rng.randrange(10, 31), rng.randrange(31, 300)))
    return at - timedelta(days=days, hours=rng.uniform(0.1, 23.9))


def _id(rng: random.Random) -> str:
    text = f"{rng.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
