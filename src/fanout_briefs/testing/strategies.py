"""Hypothesis strategies for preferences, schedules, activity, and batches of jobs.

They need Hypothesis: ``pip install 'fanout-briefs[testing]'``. They draw small values that often collide, because that
is where adapters break; each shrinks towards the ordinary case.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from attrs import evolve
from hypothesis import strategies as st

from fanout_briefs.model import (
    ENDED,
    Activity,
    Demand,
    Finish,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    Progress,
    SkipReason,
    Window,
)
from fanout_briefs.schedule import Frequency, Schedule

__all__ = [
    "CHANGES",
    "activities",
    "batches",
    "ends",
    "histories",
    "jobs",
    "moments_of_change",
    "odd_preferences",
    "preferences",
    "progress",
    "refused_preferences",
    "schedules",
    "spans_of_days",
    "texts",
    "times_of_day",
    "user_ids",
    "zones",
]

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
NOW: Final = datetime(2026, 3, 2, 8, tzinfo=UTC)

CHANGES: Final[Sequence[tuple[str, date]]] = (
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/London", date(2024, 10, 27)),
    ("America/New_York", date(2024, 3, 10)),
    ("America/New_York", date(2024, 11, 3)),
    ("Australia/Lord_Howe", date(2024, 10, 6)),
    ("Australia/Lord_Howe", date(2024, 4, 7)),
    ("Africa/Cairo", date(2024, 4, 26)),
    ("America/Santiago", date(2024, 9, 8)),
    ("America/Havana", date(2024, 3, 10)),
    ("America/St_Johns", date(2010, 11, 7)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Pacific/Kwajalein", date(1993, 8, 21)),
    ("Asia/Kathmandu", date(2026, 11, 23)),
    ("Antarctica/Troll", date(2024, 3, 31)),
    ("Asia/Pyongyang", date(2018, 5, 5)),
    ("America/Caracas", date(2016, 5, 1)),
)
"""Time zones, each with a local date on which its clock did something odd: gaps and folds of half an hour to two hours,
some at midnight; dates that never existed; permanent changes of the offset."""

_STEADY = ("UTC", "Asia/Tokyo", "Asia/Kolkata")
_AWKWARD = ("boom", "", "quo'te\"\\ -- %s", "line\nbreak\t", "日本語😀", "e\u0301", "\u00e9", "x" * 3_000)
_ZONES: Sequence[tzinfo] = (UTC, ZoneInfo("America/New_York"), timezone(timedelta(hours=14)))
# Delivery, start and end of the window of a slot, in hours from its own moment. 31 hours put it after the next day's.
_SHIFTS = ((1, 0, 0), (1, 0, 0), (2, 1, 0), (0, -1, 0), (1, 0, 2), (31, 0, 0))
# The codes that make a difference to a ledger, and one that makes none.
_CODES = (SkipReason.ENGAGEMENT, SkipReason.PAUSED, SkipReason.SUPERSEDED)
_USERS = ("ann", "bob", "a'b:%_ é")


def texts() -> st.SearchStrategy[str]:
    """Texts that every storage can keep: short, long, quotes, line breaks, combining characters, but no NUL."""
    # Hypothesis rarely finds the ones that break things.
    plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    return st.sampled_from(_AWKWARD) | plain


def user_ids() -> st.SearchStrategy[str]:
    """Valid ids: 1 to 255 characters without control characters, many of them similar."""
    awkward = ("ann", "Ann", " ann", "ann ", "an_", "an%", "a:b", "a'b", "ä", "a\u0308", "😀" * 255, "\u200d", "0")
    good = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
    return st.sampled_from(awkward) | good


def zones() -> st.SearchStrategy[str]:
    """Names of time zones: those in ``CHANGES``, and some whose offset has long been constant."""
    return st.sampled_from(list(dict.fromkeys([*_STEADY, *(zone for zone, _ in CHANGES)])))


def times_of_day() -> st.SearchStrategy[time]:
    """Wall-clock times in whole seconds, many of them at night, when clocks change."""
    hours = st.integers(0, 23) | st.integers(0, 3)
    minutes = st.sampled_from([0, 15, 30, 45]) | st.integers(0, 59)
    return st.builds(time, hours, minutes, st.just(0) | st.integers(0, 59))


@st.composite
def moments_of_change(draw: st.DrawFn) -> tuple[str, date]:
    """A time zone and a local date, usually within two days of one on which its clock changes."""
    if draw(st.integers(0, 3)):
        zone, day = draw(st.sampled_from(CHANGES))
        return zone, day + draw(st.integers(-2, 2)) * DAY
    return draw(zones()), draw(st.dates(date(1980, 1, 1), date(2037, 1, 1)))


@st.composite
def schedules(draw: st.DrawFn, zone: str | None = None) -> Schedule:
    """Schedules of every frequency, in the given time zone or in any of ``zones``."""
    frequency = draw(st.sampled_from(Frequency))
    days = st.sets(st.integers(1, 31) if frequency is Frequency.MONTHLY else st.integers(0, 6))
    takes_days = frequency in (Frequency.CUSTOM, Frequency.MONTHLY)
    return Schedule.parse(
        frequency,
        draw(times_of_day()),
        zone or draw(zones()),
        draw(st.integers(0, 6)),
        draw(days) if takes_days else None,
    )


def preferences(users: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Preference]:
    """Preferences with a valid schedule; a few are switched off, or take effect at some instant."""
    weekdays, days_of_month = (
        st.lists(days, max_size=3).map(tuple) for days in (st.integers(0, 6), st.integers(1, 31))
    )
    said = st.sampled_from([None, *(frequency.value for frequency in Frequency if frequency is not Frequency.MONTHLY)])
    when = st.tuples(said, st.none() | weekdays) | st.tuples(st.just("monthly"), st.none() | days_of_month)
    return st.builds(
        _preference,
        when,
        user_id=user_ids() if users is None else users,
        time_of_day=st.none() | times_of_day().map(time.isoformat),
        timezone=st.none() | zones(),
        day_of_week=st.none() | st.integers(0, 6),
        is_active=st.sampled_from([True, True, True, False]),
        effective_from=st.sampled_from([None, *(at.astimezone(zone) for at in (NOW, NOW - DAY) for zone in _ZONES)]),
    )


def _preference(when: tuple[str | None, Sequence[int] | None], **fields: Any) -> Preference:
    return Preference(frequency=when[0], days=when[1], **fields)


def odd_preferences(users: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Preference]:
    """Preferences with fields that may not form a valid schedule. Storages keep them; the planner reports them."""
    odd: dict[str, st.SearchStrategy[Any]] = {
        "frequency": st.sampled_from(["hourly", "Daily"]) | texts(),
        "time_of_day": st.sampled_from(["25:00", "24:00"]) | texts(),
        "timezone": st.sampled_from(["Mars/Olympus", "../UTC", "Europe/Berlin "]) | texts(),
        "day_of_week": st.sampled_from([7, -1, 2**63 - 1, -(2**63)]),
    }
    changes = st.one_of([st.fixed_dictionaries({field: values}) for field, values in odd.items()])
    return st.builds(_changed, preferences(users), changes)


def _changed(preference: Preference, changes: dict[str, Any]) -> Preference:
    return evolve(preference, **changes)


def refused_preferences(users: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[Preference]:
    """Preferences that no storage may accept: an invalid id, a field of the wrong type, a naive instant."""
    bad: dict[str, list[Any]] = {
        "user_id": ["", "x" * 256, "tab\t", "nul\0", "\ud800", None, 7],
        "frequency": [1, b"daily", "\ud800", "nul\0"],
        "time_of_day": [9, time(9)],
        "timezone": [UTC, 5],
        "day_of_week": ["1", 1.0, True, 2**63],
        "days": ["12", 5, [1, "2"], [None], [True], [2**64]],
        "is_active": [None, 1, "yes"],
        "effective_from": ["2026-01-01", date(2026, 1, 1), datetime(2026, 1, 1)],  # noqa: DTZ001  # naive on purpose
    }
    changes = st.sampled_from([{field: value} for field, values in bad.items() for value in values])
    return st.builds(_changed, preferences(users), changes)


@st.composite
def spans_of_days(draw: st.DrawFn, first: int = -2, last: int = 75) -> timedelta:
    """Spans near whole days, where engagement policies change their decisions: off by a microsecond, or by hours."""
    hours, tick = draw(st.sampled_from([0, 0, -2, -1, 1, 13])), draw(st.integers(-1, 1))
    return draw(st.integers(first, last)) * DAY + hours * HOUR + timedelta(microseconds=tick)


@st.composite
def activities(draw: st.DrawFn, at: datetime, users: st.SearchStrategy[str] | None = None) -> Activity:
    """The activity of a user at an instant: last visit and last brief, each near a whole number of days before it."""
    visit, brief = (draw(st.none() | spans_of_days()) for _ in range(2))
    return Activity(
        draw(st.just("ann") if users is None else users),
        None if visit is None else at - visit,
        None if brief is None else at - brief,
    )


@st.composite
def histories(draw: st.DrawFn, start: datetime, days: int = 60, visits: int = 8) -> Sequence[datetime]:
    """The visits of a user within ``days`` days from ``start``, in order: bursts, gaps, or none at all."""
    gaps = draw(st.lists(spans_of_days(0, 40).map(abs), max_size=visits))
    at, seen = start, list[datetime]()
    for gap in gaps:
        at += gap
        if at < start + days * DAY:
            seen.append(at)
    return seen


def progress() -> st.SearchStrategy[Progress]:
    """The progress of a brief."""
    steps = st.sampled_from(["starting", "sections", 'sec"tions'])
    return st.builds(Progress, steps, st.integers(0, 3), st.just(3), st.integers(0, 1), alone=st.booleans())


def jobs(
    *,
    at: datetime = NOW,
    users: Collection[str] = _USERS,
    types: Collection[str] = ("daily",),
    days: Collection[int] = (0, 1, 2),
    statuses: Collection[JobStatus] = (JobStatus.PENDING, JobStatus.SKIPPED),
) -> st.SearchStrategy[Job]:
    """Slots of few users, types and dates, so that they often collide.

    Args:
        at: The moment that the slots lie around: a slot of day 0 may usually run then, and is delivered an hour later.
        users: The users to draw from.
        types: The job types to draw from.
        days: The dates to draw from, as days after that of ``at``.
        statuses: The statuses to draw from; by default pending and skipped, which a ledger accepts. Skipped and
            cancelled slots have a code.

    Slots of the same user and type have different delivery times, unless ``days`` has far more than three days.
    """
    # The first is drawn about as often as all others together.
    usual, *others = statuses
    states = [(usual, code) for code in _codes_of(usual)]
    states += [(status, code) for status in others for code in _codes_of(status)]
    return st.builds(
        _job,
        st.sampled_from([at + day * DAY for day in days]),
        st.sampled_from([*states[:1] * (len(states) - 1), *states]),
        st.sampled_from(_SHIFTS),
        st.sampled_from(_ZONES),
        type=st.sampled_from([*types]),
        user_id=st.sampled_from([*users]),
        reason=st.sampled_from([None, *_AWKWARD]),
        epoch=st.sampled_from([1, 1, 4]),
        demand=st.sampled_from([None, None, None, *Demand]),
    )


def _codes_of(status: JobStatus) -> Sequence[SkipReason | None]:
    return _CODES if status in (JobStatus.SKIPPED, JobStatus.CANCELLED) else (None,)


def _job(
    end: datetime,
    state: tuple[JobStatus, SkipReason | None],
    shift: tuple[int, int, int],
    zone: tzinfo,
    **fields: Any,
) -> Job:
    deliver_at, run_at, more = (end + hours * HOUR for hours in shift)
    return Job(
        occurrence=Occurrence(local_date=end.date(), deliver_at=deliver_at.astimezone(zone)),
        run_at=run_at.astimezone(zone),
        window=Window(start=end - DAY, end=more),
        status=state[0],
        code=state[1],
        **fields,
    )


@st.composite
def batches(
    draw: st.DrawFn, each: st.SearchStrategy[Job] | None = None, *, min_size: int = 0, max_size: int = 6
) -> list[Job]:
    """Batches of jobs, in any order; in some of them a slot appears more than once."""
    batch = draw(st.lists(jobs() if each is None else each, min_size=min_size, max_size=max_size))
    return [*batch, batch[0]] if len(batch) > 1 and draw(st.booleans()) else batch


def ends() -> st.SearchStrategy[Finish]:
    """The ways in which a claimed job may end, without a brief."""
    states = [(status, code) for status in ENDED for code in _codes_of(status)]
    said = st.sampled_from([None, *_AWKWARD])
    return st.builds(_end, st.sampled_from([*states[:1] * 3, *states]), said, said)


def _end(state: tuple[JobStatus, SkipReason | None], error: str | None, reason: str | None) -> Finish:
    return Finish(status=state[0], code=state[1], error=error, reason=reason)
