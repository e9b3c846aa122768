"""Seeded people and weather: who signs up, changes, visits and leaves, and what fails when.

Everything follows from the seed, and nothing from what the library does, so that the library and the oracle can
be asked about the same world.
"""

from __future__ import annotations

import random
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from attrs import frozen
from sim_oracle import DAY, HOUR, MINUTE, Almanac, Facts, Fate, Rule, Settings, Weather, Wish

# Zones whose clocks do odd things between May 2011 and April 2012, or always: no 30 December (Apia, Fakaofo), both
# ends of the date line, changes of half an hour and at midnight, three quarters of an hour, +14 and -11.
ODD_ZONES = """
Pacific/Apia Pacific/Fakaofo Pacific/Kiritimati Pacific/Pago_Pago Pacific/Kwajalein Pacific/Chatham Pacific/Marquesas
Australia/Lord_Howe Australia/Eucla Australia/Adelaide Australia/Darwin Asia/Kathmandu Asia/Kolkata Asia/Kabul
Asia/Tehran Asia/Yangon Asia/Colombo America/St_Johns America/Caracas America/Sao_Paulo America/Asuncion America/Havana
America/Santiago Asia/Amman Asia/Beirut Asia/Damascus Asia/Gaza Africa/Cairo Africa/Casablanca Africa/Windhoek
Europe/Moscow Asia/Kamchatka America/Scoresbysund Antarctica/Casey Antarctica/McMurdo Atlantic/Azores
""".split()  # noqa: SIM905  # lines of names, not one name a line
PLAIN_ZONES = """
UTC Europe/London Europe/Berlin Europe/Paris Europe/Madrid Europe/Rome Europe/Athens Europe/Helsinki Europe/Kyiv
Europe/Istanbul Europe/Lisbon Europe/Dublin Europe/Warsaw Europe/Vienna Europe/Zurich Europe/Oslo Europe/Stockholm
Europe/Budapest Europe/Bucharest Europe/Sofia Europe/Minsk Europe/Samara Asia/Yekaterinburg Asia/Omsk Asia/Novosibirsk
Asia/Krasnoyarsk Asia/Irkutsk Asia/Yakutsk Asia/Vladivostok Asia/Magadan Asia/Tokyo Asia/Seoul Asia/Shanghai
Asia/Hong_Kong Asia/Taipei Asia/Manila Asia/Singapore Asia/Kuala_Lumpur Asia/Jakarta Asia/Bangkok Asia/Ho_Chi_Minh
Asia/Dhaka Asia/Karachi Asia/Tashkent Asia/Almaty Asia/Tbilisi Asia/Baku Asia/Yerevan Asia/Dubai Asia/Riyadh
Asia/Baghdad Asia/Jerusalem Asia/Nicosia Asia/Ulaanbaatar Africa/Johannesburg Africa/Nairobi Africa/Lagos Africa/Accra
Africa/Algiers Africa/Tunis Africa/Addis_Ababa America/New_York America/Chicago America/Denver America/Phoenix
America/Los_Angeles America/Anchorage America/Adak America/Halifax America/Toronto America/Winnipeg America/Vancouver
America/Mexico_City America/Tijuana America/Bogota America/Lima America/La_Paz America/Argentina/Buenos_Aires
America/Montevideo America/Guatemala America/Panama America/Jamaica America/Puerto_Rico America/Cuiaba America/Manaus
America/Noronha Atlantic/Reykjavik Atlantic/Cape_Verde Atlantic/South_Georgia Atlantic/Bermuda Indian/Mauritius
Indian/Maldives Australia/Sydney Australia/Brisbane Australia/Perth Australia/Hobart Pacific/Auckland Pacific/Fiji
Pacific/Honolulu Pacific/Guam Pacific/Noumea Pacific/Tongatapu Pacific/Tahiti Pacific/Easter
""".split()  # noqa: SIM905  # as above
ZONES = ODD_ZONES + PLAIN_ZONES

# When a briefs' day goes wrong: each of these is drawn afresh for a person and a tick.
_SECTIONS = ((0.03, "none"), (0.02, "error"), (0.01, "later"), (0.005, "permanent"))
_PROJECTS = ((0.005, "error"), (0.004, "later"), (0.002, "permanent"))
_MAILS = ((0.015, "error"), (0.008, "later"), (0.006, "permanent"), (0.015, "unknown"))


class Move(NamedTuple):
    """What somebody does at a moment: puts this wish, or goes (``remove``), or asks to be forgotten (``forget``)."""

    at: datetime
    user_id: str
    wish: Wish | None
    forget: bool = False


@frozen
class Life:
    """One person: what they do, when they visit, and when their mail and visits cannot be read."""

    user_id: str
    moves: Sequence[Move]
    visits: Sequence[datetime]
    unreadable: Sequence[tuple[datetime, datetime]]
    opted_out: Sequence[tuple[datetime, datetime]]
    no_address: Sequence[tuple[datetime, datetime]]
    sections: int


def chance(*what: object) -> float:
    """A number in [0, 1) that follows from its arguments alone."""
    return zlib.crc32("|".join(map(str, what)).encode()) / 2**32


class World(Facts):
    """All people of one kind of brief, and the weather over it; in a ``calm`` one, all that the host does succeeds."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        people: Sequence[Life],
        weather: Mapping[datetime, Weather],
        *,
        calm: bool = False,
    ) -> None:
        self.calm = calm
        self.seed = f"{seed}/{settings.name}"
        self.settings = settings
        self.lives = {life.user_id: life for life in people}
        self.weather = weather
        self.moves = sorted((move for life in people for move in life.moves), key=lambda move: (move.at, move.user_id))

    def visit(self, user_id: str, now: datetime) -> datetime | None:
        visits = self.lives[user_id].visits
        seen = bisect_right(visits, now)
        return visits[seen - 1] if seen else None

    def is_readable(self, user_id: str, now: datetime) -> bool:
        if _within(self.lives[user_id].unreadable, now):
            return False
        return self.calm or chance(self.seed, "visits", user_id, now) >= 0.01

    def projects(self, user_id: str, now: datetime) -> Sequence[Fate]:
        count = self.lives[user_id].sections
        if self.calm:
            return [Fate("ok")] * count
        if chance(self.seed, "nothing at all", user_id, now) < 0.02:
            return ()
        if chance(self.seed, "all of them", user_id, now) < 0.02:
            return [Fate(("none", "error", "permanent")[int(3 * chance(user_id, now))])] * count
        return [self._fate(_SECTIONS, "section", number, user_id, now) for number in range(count)]

    def projects_fate(self, user_id: str, now: datetime) -> Fate:
        return self._fate(_PROJECTS, "projects", user_id, now)

    def address(self, user_id: str, now: datetime) -> str:
        life = self.lives[user_id]
        if _within(life.no_address, now):
            return "absent"
        return "opted_out" if _within(life.opted_out, now) else "ok"

    def mailing(self, user_id: str, now: datetime) -> Fate:
        return self._fate(_MAILS, "mail", user_id, now)

    def _fate(self, kinds: Sequence[tuple[float, str]], *what: object) -> Fate:
        drawn = 1.0 if self.calm else chance(self.seed, *what)
        for share, kind in kinds:
            drawn -= share
            if drawn < 0:
                # Some ask for a moment, some for longer than a brief may be late.
                return Fate(kind, 1.0 + int(20 * 3600 * chance("how long", *what) ** 3) if kind == "later" else 0.0)
        return Fate("ok")


def _within(spells: Sequence[tuple[datetime, datetime]], now: datetime) -> bool:
    return any(begin <= now < end for begin, end in spells)


class Pool:
    """The schedules people choose from: a few times for each zone, so that many people share one."""

    def __init__(self, chosen: random.Random, zones: Sequence[str], frequent: float) -> None:
        self.of_zone: dict[str, list[Rule]] = {}
        for zone in zones:
            first = self._rule(chosen, zone, frequent)
            at = f"{chosen.randrange(24):02}:{chosen.choice((0, 0, 15, 30, 45, 59)):02}"
            rules = [first]
            if chosen.random() < 0.5:
                rules.append(first._replace(time_of_day=at))
            if chosen.random() < 0.2:
                rules.append(self._rule(chosen, zone, frequent))
            self.of_zone[zone] = rules
        self.rules = [rule for rules in self.of_zone.values() for rule in rules] + [Rule()]

    @staticmethod
    def _rule(chosen: random.Random, zone: str, frequent: float) -> Rule:
        other = (1 - frequent) / 5
        weights = [frequent / 2, frequent / 2, 2 * other, other / 2, 2.5 * other]
        (frequency,) = chosen.choices(["daily", "weekdays", "weekly", "custom", "monthly"], weights)
        # Odd hours are drawn on purpose: clocks change between midnight and three.
        hour = chosen.choice([0, 1, 2, 2, 3, *range(24)])
        at = f"{hour:02}:{chosen.choice((0, 0, 5, 15, 30, 45)):02}{chosen.choice(('', '', ':30'))}"
        day = chosen.choice([None, *range(7)])
        days = None
        if frequency == "custom":
            days = tuple(sorted(chosen.sample(range(7), chosen.choice([1, 2, 2]))))
        elif frequency == "monthly":
            days = chosen.choice([None, tuple(sorted(chosen.sample([*range(1, 32), 29, 30, 31], 2))), (31,)])
        return Rule(frequency, chosen.choice([at, at, at, None]), zone, day, days)


class Populace:
    """Draws people."""

    def __init__(
        self,
        chosen: random.Random,
        settings: Settings,
        pool: Pool,
        almanac: Almanac,
        *,
        churn: float,
        span: tuple[datetime, datetime],
    ) -> None:
        self.churn = churn
        self.chosen, self.settings, self.pool, self.almanac = chosen, settings, pool, almanac
        self.start, self.end = span

    def life(self, user_id: str) -> Life:
        chosen = self.chosen
        return Life(
            user_id=user_id,
            moves=self._moves(user_id),
            visits=self._visits(),
            unreadable=self._spells(1.0, 40 * HOUR),
            opted_out=self._spells(0.3, 60 * DAY),
            no_address=self._spells(0.3, 20 * DAY),
            sections=chosen.choices([0, 1, 2, 3], [1, 30, 12, 3])[0],
        )

    def _moment(self, start: datetime, end: datetime) -> datetime:
        seconds = (end - start).total_seconds()
        return start + timedelta(seconds=int(self.chosen.uniform(0, max(seconds, 1))))

    def _moves(self, user_id: str) -> Sequence[Move]:
        """A life of changes; every second one close to a brief, since that is where it matters."""
        chosen = self.chosen
        at = self.start - DAY if chosen.random() < 0.75 else self._moment(self.start, self.end)
        wish = Wish(chosen.choice(self.pool.rules), since=self._first_since(at))
        moves = [Move(at, user_id, wish)]
        months = (self.end - self.start) / (30 * DAY)
        for _ in range(min(int(chosen.expovariate(1 / (self.churn * (1 + 0.5 * months)))), 30)):
            at = self._next_moment(max(at, self.start), wish.rule)
            if at >= self.end:
                break
            drawn = chosen.random()
            if drawn < 0.04:
                moves.append(Move(at, user_id, None, forget=chosen.random() < 0.4))
                at += chosen.choice([3 * DAY, 30 * DAY])  # and comes back
                wish = Wish(chosen.choice(self.pool.rules), since=at)
            elif drawn < 0.30:
                moves.append(Move(at, user_id, Wish(wish.rule, active=False, since=wish.since)))
                at += self._pause()
                wish = Wish(wish.rule, since=at)
            elif drawn < 0.34:
                moves.append(Move(at, user_id, Wish(wish.rule._replace(zone="Nowhere/Atall"), since=at)))
                at += self._pause()
                wish = Wish(wish.rule, since=at)
            else:
                before = wish.rule
                wish = Wish(self._other(before), since=at)
                if chosen.random() < 0.25:  # and changes their mind
                    moves.append(Move(at, user_id, wish))
                    at += self._pause()
                    wish = Wish(before, since=at)
            moves.append(Move(at, user_id, wish))
        return moves

    def _first_since(self, at: datetime) -> datetime | None:
        return self.chosen.choice([at, at, at, at + 3 * HOUR, at + 5 * DAY, None])

    def _pause(self) -> timedelta:
        """Often within the day."""
        minutes = self.chosen.choice([5, 20, 45, 90, 180, 360, 720, 1440, 4320, 20000])
        return minutes * MINUTE * self.chosen.uniform(0.6, 1.4)

    def _next_moment(self, after: datetime, rule: Rule) -> datetime:
        at = self._moment(after, self.end) + MINUTE
        if self.chosen.random() < 0.6 and (near := self.almanac.between(rule, at, at + 40 * DAY)):
            brief, _ = self.chosen.choice(near[:5])
            at = brief + self.chosen.uniform(-1.5, 2) * HOUR - self.chosen.choice([0, 1]) * self.settings.lead
            at = max(at, after + MINUTE)
        return at.replace(microsecond=0)

    def _other(self, rule: Rule) -> Rule:
        """Another time in the same zone, or wholly another schedule, or the same time elsewhere."""
        drawn = self.chosen.random()
        same_zone = [other for other in self.pool.of_zone.get(rule.zone or "UTC", ()) if other != rule]
        if drawn < 0.6 and same_zone:
            return self.chosen.choice(same_zone)
        return self.chosen.choice(self.pool.rules)

    def _visits(self) -> Sequence[datetime]:
        """Nobody, the faithful, those who stop one day, and those who stop for days, weeks or months and come back."""
        chosen = self.chosen
        style = chosen.choices(["never", "faithful", "stops", "wanders"], [1, 4, 2, 6])[0]
        if style == "never":
            return ()
        visits: list[datetime] = []
        at = self.start - chosen.uniform(0, 45) * DAY
        until = self._moment(self.start, self.end) if style == "stops" else self.end
        spell = chosen.uniform(1, 30) * DAY
        while at < until:
            visits.append(at.replace(microsecond=0))
            gap = chosen.uniform(0.2, 1.8) * DAY
            spell -= gap
            if style == "wanders" and spell < gap:
                gap = (
                    chosen.choice(
                        [chosen.uniform(3, 6), chosen.uniform(8, 14), chosen.uniform(15, 45), chosen.uniform(60, 120)]
                    )
                    * DAY
                )
                spell = chosen.uniform(0, 30) * DAY
            at += gap
        return visits

    def _spells(self, expected: float, longest: timedelta) -> Sequence[tuple[datetime, datetime]]:
        """About so many of them."""
        begins = [self._moment(self.start, self.end) for _ in range(int(expected + self.chosen.random()))]
        return [(begin, begin + self.chosen.random() * longest) for begin in begins]


def ticks_of(start: datetime, count: int) -> Sequence[datetime]:
    return [start + number * HOUR for number in range(count)]


def draw_weather(chosen: random.Random, ticks: Sequence[datetime], pages: int) -> Mapping[datetime, Weather]:
    """Outages of minutes to days, of everything, of planners or of workers only; and single calls that fail."""
    down: dict[str, set[datetime]] = {"plans": set(), "runs": set()}
    for _ in range(max(5, len(ticks) // 250)):
        begin = chosen.choice(ticks)
        length = chosen.choice(
            [20 * MINUTE, 2 * HOUR, 5 * HOUR, 11 * HOUR, 13 * HOUR, 26 * HOUR, 50 * HOUR, 100 * HOUR]
        )
        length *= chosen.uniform(0.7, 1.3)
        begin -= chosen.uniform(0, 1) * HOUR
        for part in chosen.choice([["plans", "runs"], ["plans", "runs"], ["plans"], ["runs"]]):
            down[part] |= {tick for tick in ticks if begin <= tick < begin + length}
    broken: dict[datetime, tuple[str, int]] = {}
    for number in range(len(ticks)):
        if chosen.random() < 0.02:
            call = chosen.choice(["find", "last_briefs", "enqueue", "enqueue, though done"])
            hours = chosen.choice([1, 1, 1, 2, 6, 16]) if call == "find" else 1
            broken |= dict.fromkeys(ticks[number : number + hours], (call, chosen.randrange(3)))
    weather: dict[datetime, Weather] = {}
    for tick in ticks:
        breaks = broken.get(tick)
        weather[tick] = Weather(
            plans=tick not in down["plans"],
            runs=tick not in down["runs"],
            broken_page=chosen.randrange(pages) if chosen.random() < 0.005 else None,
            broken_call=breaks and breaks[0],
            bucket=breaks[1] if breaks else 0,
            mark_fails=chosen.random() < 0.003,
            visits_fail_planning=chosen.random() < 0.01,
            visits_fail_running=chosen.random() < 0.01,
            claims_fail=chosen.random() < 0.005,
            preferences_fail_running=chosen.random() < 0.005,
            recipients_fail=chosen.random() < 0.005,
        )
    return weather


def make_world(
    seed: int,
    settings: Settings,
    *,
    people: int,
    start: datetime,
    ticks: int,
    zones: Sequence[str],
    frequent: float = 0.2,
    churn: float = 1.0,
) -> tuple[World, Almanac]:
    """Everything that follows from a seed."""
    chosen = random.Random(f"{seed}/{settings.name}")
    moments = ticks_of(start, ticks)
    end = moments[-1] + HOUR
    almanac = Almanac(start, end)
    populace = Populace(chosen, settings, Pool(chosen, zones, frequent), almanac, churn=churn, span=(start, end))
    # Ids that sort otherwise than they were made, and hold what keys are made of.
    ids = [f"{settings.catch_up[0]}{settings.policy[0]}{chosen.randrange(100)}:{number}" for number in range(people)]
    lives = [populace.life(user_id) for user_id in ids]
    pages = max(1, people // settings.page_size)
    return World(seed, settings, lives, draw_weather(chosen, moments, pages)), almanac
