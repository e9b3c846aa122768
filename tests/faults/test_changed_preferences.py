"""People change their minds between planning and claim: another time, another zone, off and on again.

The promise is one brief for each local date. A slot that no longer matches ends ``cancelled (superseded)`` and is
planned anew where its new time has not passed; where it has, the code stays and says why there was none. The clock is
turned by hand, a quarter of an hour at a time: every time plan, then run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve, frozen

from fanout_briefs import (
    Briefs,
    Mail,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    SkipReason,
    Window,
)
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from figures import Tell
from slots import AnyStorage

SEED = 20260311
QUARTER, DAY = timedelta(minutes=15), timedelta(days=1)
YESTERDAY, TODAY, TOMORROW = (date(2026, 3, day) for day in (10, 11, 12))
AUCKLAND, ANGELES = "Pacific/Auckland", "America/Los_Angeles"  # 13 hours before UTC, and 7 behind
KEY = "daily_brief:{}:ana"


def at(hour: int, minute: int = 0, day: date = TODAY) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


@pytest.fixture(params=["memory", "sqlite"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnyStorage]:
    made: AnyStorage = MemoryStorage() if request.param == "memory" else SqliteStorage(tmp_path / "briefs.db")
    async with made as opened:
        yield opened


class Town:
    """A host, its clock, and what it mailed: user, local date, and when."""

    idempotent = False

    def __init__(self, storage: AnyStorage, begin: datetime) -> None:
        self.now = begin
        self.mailed: list[tuple[str, date, datetime]] = []
        self.preferences = storage.preferences
        self.briefs = Briefs(
            storage,
            projects=self,
            generator=self,
            recipients=self,
            mailer=self,
            deadline=QUARTER,  # as long as the lead, so that everybody is generated a quarter before the time
            clock=lambda: self.now,
        )

    async def goes_on_until(self, end: datetime) -> None:
        while self.now <= end:
            if self.now.minute % 15 == 0:
                await self.briefs.plan(self.now)
                await self.briefs.run_once(self.now)
            self.now += timedelta(minutes=5)

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "One")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        return ProjectBrief("text")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}

    async def send(self, mail: Mail, key: str) -> Receipt:
        self.mailed.append((mail.user_id, mail.occurrence.local_date, self.now))
        return Receipt(key)


@frozen
class Story:
    """What ana changes and when, and what must have become of the dates: when mailed, epoch and code of the slot."""

    name: str
    first: Mapping[str, Any]
    changes: Sequence[tuple[datetime, Mapping[str, Any]]]
    mails: Mapping[date, datetime]
    slots: Mapping[date, tuple[str, int]]


def time(of_day: str) -> Mapping[str, Any]:
    return {"time_of_day": of_day}


OFF, ON = {"is_active": False}, {"is_active": True}
SENT = "completed"
STORIES = [
    Story(
        "later the same day",
        time("09:00"),
        [(at(8, 20), time("11:00"))],
        {TODAY: at(11), TOMORROW: at(11, day=TOMORROW)},
        {TODAY: (SENT, 2), TOMORROW: (SENT, 1)},
    ),
    Story(
        "earlier the same day",
        time("09:00"),
        [(at(8, 20), time("08:45"))],
        {TODAY: at(9), TOMORROW: at(8, 45, day=TOMORROW)},  # the claim at 8:45 finds it superseded, the next plan anew
        {TODAY: (SENT, 2), TOMORROW: (SENT, 1)},
    ),
    Story(
        "earlier, to a time that passes before the claim",
        time("09:00"),
        [(at(8, 20), time("08:30"))],
        {TODAY: at(9), TOMORROW: at(8, 30, TOMORROW)},  # the mark has waited for it
        {TODAY: (SENT, 2), TOMORROW: (SENT, 1)},
    ),
    Story(
        "earlier than it is already",
        time("09:00"),
        [(at(8, 20), time("07:00"))],
        {TOMORROW: at(7, day=TOMORROW)},
        {TODAY: ("superseded", 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "later and back again before the claim",
        time("09:00"),
        [(at(8, 5), time("11:00")), (at(8, 35), time("09:00"))],
        {TODAY: at(9), TOMORROW: at(9, day=TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "later and still later",
        time("09:00"),
        [(at(8, 20), time("11:00")), (at(10, 20), time("12:00"))],
        {TODAY: at(12), TOMORROW: at(12, day=TOMORROW)},
        {TODAY: (SENT, 3), TOMORROW: (SENT, 1)},
    ),
    Story(
        "later, over midnight",
        time("23:30"),
        [(at(23, 5, YESTERDAY), time("00:30"))],
        {TODAY: at(0, 30), TOMORROW: at(0, 30, TOMORROW)},
        {YESTERDAY: ("superseded", 1), TODAY: (SENT, 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "earlier, over midnight",
        time("00:30"),
        [(at(23, 50, TODAY), time("23:30"))],
        {TODAY: at(0, 30), TOMORROW: at(23, 30, TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 2)},
    ),
    Story(
        "earlier, over midnight, not yet planned, to a time still to come on a date that had its brief",
        time("00:30"),
        [(at(23, 5, TODAY), time("23:30"))],
        {TODAY: at(0, 30), TOMORROW: at(23, 30, TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "to a zone where it is still yesterday",
        {"timezone": AUCKLAND, **time("09:00")},
        [(at(19, 20, YESTERDAY), {"timezone": ANGELES})],
        {TODAY: at(16), TOMORROW: at(16, day=TOMORROW)},
        {TODAY: (SENT, 2), TOMORROW: (SENT, 1)},
    ),
    Story(
        "to a zone where it is tomorrow already",
        {"timezone": ANGELES, **time("09:00")},
        [(at(15, 20), {"timezone": AUCKLAND})],
        {YESTERDAY: at(16, day=YESTERDAY), TOMORROW: at(20)},
        {YESTERDAY: (SENT, 1), TODAY: ("superseded", 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "off and on before the claim",
        time("09:00"),
        [(at(8, 5), OFF), (at(8, 35), ON)],
        {TODAY: at(9), TOMORROW: at(9, day=TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "off at the claim and on before the time",
        time("09:00"),
        [(at(8, 20), OFF), (at(8, 50), ON)],
        {TODAY: at(9), TOMORROW: at(9, day=TOMORROW)},
        {TODAY: (SENT, 2), TOMORROW: (SENT, 1)},
    ),
    Story(
        "off at the claim and on after the time",
        time("09:00"),
        [(at(8, 20), OFF), (at(9, 20), ON)],
        {TOMORROW: at(9, day=TOMORROW)},
        {TODAY: ("superseded", 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "off and on while the mail waits",
        time("09:00"),
        [(at(8, 50), OFF), (at(8, 55), ON)],
        {TODAY: at(9), TOMORROW: at(9, day=TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 1)},
    ),
    Story(
        "off when the mail is due and on after it",
        time("09:00"),
        [(at(8, 50), OFF), (at(9, 20), ON)],
        {TOMORROW: at(9, day=TOMORROW)},
        {TODAY: (SENT, 1), TOMORROW: (SENT, 1)},  # the brief is there; its mail was superseded
    ),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_a_change_between_planning_and_claim_leaves_one_brief_a_local_date_or_a_code(
    storage: AnyStorage, story: Story
) -> None:
    first = at(14, day=YESTERDAY)
    preference = Preference(user_id="ana", **story.first)
    await storage.preferences.put([preference])
    town = Town(storage, first)
    for moment, change in story.changes:
        await town.goes_on_until(moment - timedelta(minutes=5))
        preference = evolve(preference, **change)
        await storage.preferences.put([preference])
    await town.goes_on_until(at(23, 59, TOMORROW))
    mails = {on: when for _, on, when in town.mailed}
    assert len(mails) == len(town.mailed), "two briefs for one local date"
    for on, when in story.mails.items():
        assert mails.get(on) == when, f"{on}: {mails}"
    for on, (state, epoch) in story.slots.items():
        slot = (await storage.find([KEY.format(on)]))[KEY.format(on)]
        assert (slot.code or slot.status, slot.epoch) == (state, epoch), on
        told = await town.briefs.explain("ana", on, now=town.now)
        assert told.code == (state if on in story.mails or state != SENT else "superseded")
        assert (on in mails) == (on in story.mails)


def drawn(rng: random.Random, preference: Preference, now: datetime) -> Preference:
    """Change zone or switch or neither, and mostly to a time that is near by the clock of that zone."""
    what = rng.choice(["time", "time", "time", "zone", "switch"])
    if what == "switch":
        return evolve(preference, is_active=not preference.is_active)
    zone = preference.timezone or "UTC"
    if what == "zone":
        zone = rng.choice(["UTC", AUCKLAND, ANGELES, "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
    near = now + rng.randint(-2, 8) * QUARTER
    local = near.replace(minute=near.minute // 15 * 15).astimezone(ZoneInfo(zone))
    return evolve(preference, timezone=zone, time_of_day=f"{local:%H:%M}", is_active=True)


async def test_whoever_changes_whatever_at_any_time_gets_at_most_one_brief_a_local_date_and_always_a_code(
    storage: AnyStorage, tell: Tell
) -> None:
    rng = random.Random(SEED)
    people = [Preference(user_id=f"u{number:02}", time_of_day="09:00", timezone="UTC") for number in range(40)]
    await storage.preferences.put(people)
    town = Town(storage, at(0, day=YESTERDAY))
    while town.now < at(0, day=TOMORROW + DAY):
        await town.goes_on_until(town.now + timedelta(minutes=rng.choice([10, 25, 40])))
        for place in rng.sample(range(len(people)), 6):
            people[place] = drawn(rng, people[place], town.now)
            await storage.preferences.put([people[place]])
    people = [evolve(preference, is_active=True) for preference in people]
    await storage.preferences.put(people)
    await town.goes_on_until(town.now + 2 * DAY)
    seen = Counter((user, on) for user, on, _ in town.mailed)
    assert max(seen.values()) == 1
    epochs = Counter[int]()
    lost = Counter[str]()
    for preference in people:
        for day in range(-1, 3):
            told = await town.briefs.explain(preference.user_id, TODAY + day * DAY, now=town.now)
            if told.job is not None:
                epochs[told.job.epoch] += 1
            if (preference.user_id, TODAY + day * DAY) in seen:
                assert told.code == SENT
            else:
                lost[str(told.code)] += 1
                # Its time came to be in the past by a change, or it was off when its time came.
                assert told.code in {SkipReason.SUPERSEDED, SkipReason.NOT_YET_EFFECTIVE}
    tell(f"seed {SEED}: {len(seen)} mails, epochs {dict(epochs)}, without: {dict(lost)}")
    assert max(epochs) > 2
