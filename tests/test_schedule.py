"""Schedules: what is parsed, what is refused, and which instant each local date comes to."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from fanout_briefs import schedule as module
from fanout_briefs.errors import BadValue, InvalidSchedule
from fanout_briefs.model import Occurrence
from fanout_briefs.schedule import Frequency, Schedule


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def problems_of(**fields: Any) -> tuple[BadValue, ...]:
    with pytest.raises(InvalidSchedule) as caught:
        Schedule.parse(**fields)
    return caught.value.problems


def dates(schedule: Schedule, start: str, end: str) -> list[str]:
    return [str(occurrence.local_date) for occurrence in schedule.between(utc(start), utc(end))]


def test_without_any_field_the_schedule_is_daily_at_nine_in_utc() -> None:
    schedule = Schedule.parse()
    assert (schedule.frequency, schedule.time, schedule.zone.key) == (Frequency.DAILY, time(9), "UTC")
    assert schedule.next_after(utc("2026-01-01T09:00")) == Occurrence(date(2026, 1, 2), utc("2026-01-02T09:00"))


def test_a_weekly_schedule_is_on_monday_unless_told_otherwise() -> None:
    assert dates(Schedule.parse("weekly"), "2026-11-01", "2026-11-17") == ["2026-11-02", "2026-11-09", "2026-11-16"]


@pytest.mark.parametrize("day_of_week", range(7))
def test_day_of_week_counts_from_sunday(day_of_week: int) -> None:
    first_sunday = date(2026, 11, 1)
    schedule = Schedule.parse("weekly", day_of_week=day_of_week)
    assert dates(schedule, "2026-11-01", "2026-11-08") == [str(first_sunday + timedelta(days=day_of_week))]


def test_weekdays_are_monday_to_friday() -> None:
    expected = ["2026-11-20", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27", "2026-11-30"]
    assert dates(Schedule.parse("weekdays"), "2026-11-20", "2026-12-01") == expected


@pytest.mark.parametrize("days", [None, [], (), frozenset[int]()])
def test_custom_without_days_is_every_day(days: Any) -> None:
    assert Schedule.parse("custom", days=days).days == frozenset(range(7))


@pytest.mark.parametrize("days", [[0, 3], (3, 0, 3), {0, 3}, range(0, 4, 3)])
def test_custom_takes_its_days_from_any_collection(days: Any) -> None:
    assert dates(Schedule.parse("custom", days=days), "2026-11-01", "2026-11-09") == [
        "2026-11-01",
        "2026-11-04",
        "2026-11-08",
    ]


@pytest.mark.parametrize("days", [None, []])
def test_monthly_without_days_is_on_the_first(days: Any) -> None:
    assert dates(Schedule.parse("monthly", days=days), "2026-11-01", "2027-01-02") == [
        "2026-11-01",
        "2026-12-01",
        "2027-01-01",
    ]


@pytest.mark.parametrize(
    ("days", "start", "end", "expected"),
    [
        ([31], "2027-01-01", "2027-05-01", ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]),
        ([31], "2028-02-01", "2028-03-01", ["2028-02-29"]),
        ([29, 30, 31], "2027-02-01", "2027-03-01", ["2027-02-28"]),
        ([29, 30, 31], "2028-02-01", "2028-03-01", ["2028-02-29"]),
        ([28, 31], "2027-02-01", "2027-04-01", ["2027-02-28", "2027-03-28", "2027-03-31"]),
        ([30, 31], "2027-04-01", "2027-05-01", ["2027-04-30"]),
        ([1, 15], "2027-01-01", "2027-02-02", ["2027-01-01", "2027-01-15", "2027-02-01"]),
        ([29], "2100-02-01", "2100-03-01", ["2100-02-28"]),
    ],
)
def test_days_of_the_month_are_clamped_to_its_last_and_merged(
    days: list[int], start: str, end: str, expected: list[str]
) -> None:
    assert dates(Schedule.parse("monthly", days=days), start, end) == expected


def test_a_monthly_schedule_is_walked_backwards_as_well() -> None:
    schedule = Schedule.parse("monthly", days=[1, 31])
    walked = [utc("2027-03-15")]
    for _ in range(4):
        walked.append(schedule.previous_before(walked[-1]).deliver_at)
    assert [str(at.date()) for at in walked[1:]] == ["2027-03-01", "2027-02-28", "2027-02-01", "2027-01-31"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("00:00", time(0)),
        ("23:59", time(23, 59)),
        ("23:59:59", time(23, 59, 59)),
        ("09:00:00", time(9)),
        (time(7, 30, 15), time(7, 30, 15)),
    ],
)
def test_times_of_day_are_read(given: str | time, expected: time) -> None:
    assert Schedule.parse(time_of_day=given).time == expected


def test_the_fold_of_a_given_time_does_not_count() -> None:
    folded = Schedule.parse(time_of_day=time(1, 30, fold=1), timezone="America/New_York")
    assert folded.next_after(utc("2024-11-03T00:00")).deliver_at == utc("2024-11-03T05:30")


BAD_TIMES: list[object] = [
    "",
    "9:00",
    "09",
    "24:00",
    "09:60",
    "23:59:60",
    "09:00 PM",
    " 09:00",
    "09:00\n",
    "09:00:30.5",
    "09:00:00+02",
    "09abc:15",
    "-1:00",
    "\u0660\u0669:\u0660\u0660",
    "\uff10\uff19:\uff10\uff10",
    b"09:00",
    9,
    9.5,
    True,
    [],
    {},
    time(9, tzinfo=UTC),
    time(9, microsecond=1),
    datetime(2026, 1, 1, 9),
    timedelta(hours=9),
    ...,
]


@pytest.mark.parametrize("value", BAD_TIMES, ids=ascii)
def test_other_times_of_day_are_refused(value: Any) -> None:
    (problem,) = problems_of(time_of_day=value)
    assert (problem.field, problem.value) == ("time_of_day", value)
    assert "HH:MM" in problem.reason


@pytest.mark.parametrize(
    "name", ["UTC", "Europe/Berlin", "Asia/Calcutta", "Europe/Kiev", "US/Pacific", "EST5EDT", "Etc/GMT+2", "GMT", "GB"]
)
def test_zones_of_the_database_are_accepted_older_names_too(name: str) -> None:
    assert Schedule.parse(timezone=name).zone.key == name


BAD_ZONES: list[object] = [
    "",
    " ",
    "UTC ",
    "utc+2",
    "GMT+2",
    "+02:00",
    "Mars/Olympus",
    "Eastern Standard Time",
    "America",
    "America/",
    "UTC/Berlin",
    "localtime",
    "posixrules",
    "Factory",
    "LocalTime",
    "posix/UTC",
    "right/UTC",
    "posix",
    "/etc/localtime",
    "../zoneinfo/UTC",
    "Europe/../Europe/Berlin",
    "./UTC",
    "Europe//Berlin",
    ".",
    "zone.tab",
    "leapseconds",
    "a\0b",
    "\ud800",
    "Zürich",
    "x" * 5000,
    b"UTC",
    0,
    False,
    [],
    {},
    ZoneInfo("UTC"),
    UTC,
    ...,
]


@pytest.mark.parametrize("value", BAD_ZONES, ids=lambda value: ascii(value)[:30])
def test_other_zones_are_refused(value: Any) -> None:
    (problem,) = problems_of(timezone=value)
    assert (problem.field, problem.value) == ("timezone", value)
    assert "IANA" in problem.reason


def test_a_text_that_cannot_be_hashed_is_no_reason_to_crash() -> None:
    class Odd(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    assert Schedule.parse(Odd("weekly"), Odd("10:00"), Odd("Europe/Berlin")) == Schedule.parse(
        "weekly", "10:00", "Europe/Berlin"
    )
    (problem,) = problems_of(timezone=Odd("Mars/Olympus"))
    assert problem.field == "timezone"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names that were looked up on disk."""
    names: list[str] = []

    def load(name: str) -> ZoneInfo:
        names.append(name)
        if name == "Busy/Disk":
            raise OSError(24, "Too many open files")
        if name == "Folder/OnWindows":
            raise PermissionError(13, "Permission denied")
        return ZoneInfo(name)

    module._load_zone.cache_clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(module, "ZoneInfo", load)
    yield names
    module._load_zone.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_a_zone_is_looked_up_once_whether_known_or_not(loads: list[str]) -> None:
    for _ in range(3):
        problems_of(timezone="Mars/Olympus")
        Schedule.parse(timezone="Europe/Berlin")
    assert loads == ["Mars/Olympus", "Europe/Berlin"]


def test_refused_names_do_not_pile_up(loads: list[str]) -> None:
    for number in range(3000):
        problems_of(timezone=f"Mars/Crater{number}")
    info = module._load_zone.cache_info()  # pyright: ignore[reportPrivateUsage]
    assert info.maxsize is not None
    assert info.currsize == info.maxsize < 3000


def test_a_disk_that_fails_for_the_moment_is_no_verdict_on_the_name(loads: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            Schedule.parse(timezone="Busy/Disk")
    assert loads == ["Busy/Disk", "Busy/Disk"]


def test_a_folder_of_the_database_is_no_zone_on_windows_either(loads: list[str]) -> None:
    (problem,) = problems_of(timezone="Folder/OnWindows")
    assert problem.field == "timezone"


def test_where_there_is_no_database_even_the_default_zone_is_reported(
    monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    def missing(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(name)

    monkeypatch.setattr(module, "ZoneInfo", missing)
    (problem,) = problems_of()
    assert problem.value == "UTC"
    assert "install tzdata" in problem.reason


@pytest.mark.parametrize("value", ["Daily", "DAILY", "", "hourly", "daily ", b"daily", 1, True, [], {}, object()])
def test_other_frequencies_are_refused(value: Any) -> None:
    (problem,) = problems_of(frequency=value)
    assert (problem.field, problem.value) == ("frequency", value)
    assert problem.reason == "must be one of daily, weekdays, weekly, custom, monthly"


def test_a_frequency_may_be_given_as_its_enum() -> None:
    assert Schedule.parse(Frequency.WEEKLY) == Schedule.parse("weekly")


@pytest.mark.parametrize("value", [-1, 7, "1", 1.0, True, False, [], {}, object()])
@pytest.mark.parametrize("frequency", ["weekly", "daily"])
def test_other_days_of_the_week_are_refused_also_when_unused(value: Any, frequency: str) -> None:
    (problem,) = problems_of(frequency=frequency, day_of_week=value)
    assert (problem.field, problem.value) == ("day_of_week", value)
    assert "0 = Sunday to 6 = Saturday" in problem.reason


BAD_DAYS = ["135", b"\x01", bytearray(b"\x01"), {1: 1}, 1, True, [True], ["1"], [1.0], [[1]], [None], [-1], ...]


@pytest.mark.parametrize(
    ("frequency", "value"),
    [
        *((frequency, value) for frequency in Frequency for value in BAD_DAYS),
        ("custom", [0, 7]),
        ("monthly", [1, 0]),
        ("monthly", [32]),
        ("monthly", range(1, 10**12)),
        ("daily", [32]),
        ("weekly", [32]),
    ],
    ids=ascii,
)
def test_other_days_are_refused_also_when_unused(frequency: str, value: Any) -> None:
    (problem,) = problems_of(frequency=frequency, days=value)
    assert (problem.field, problem.value) == ("days", value)
    accepted = {"custom": "0 = Sunday to 6 = Saturday", "monthly": "1 to 31"}.get(frequency, "0 to 31")
    assert accepted in problem.reason


@pytest.mark.parametrize("days", [[0], [31], [1, 15], range(32)])
@pytest.mark.parametrize("frequency", ["daily", "weekdays", "weekly"])
def test_good_days_are_ignored_where_the_frequency_has_no_use_for_them(frequency: str, days: Any) -> None:
    assert Schedule.parse(frequency, days=days) == Schedule.parse(frequency)


def test_every_bad_field_is_reported_at_once() -> None:
    problems = problems_of(
        frequency="hourly", time_of_day="9am", timezone="Mars/Olympus", day_of_week=7, days=["Monday"]
    )
    assert [problem.field for problem in problems] == ["frequency", "time_of_day", "timezone", "day_of_week", "days"]


def test_fields_that_are_not_used_do_not_take_part_in_equality() -> None:
    one = Schedule.parse("daily", "08:00", "Europe/Berlin", 3, [1])
    other = Schedule.parse("daily", time(8), "Europe/Berlin", 5, None)
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, Schedule.parse("weekly", "08:00", "Europe/Berlin")}) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency": "weekdays"},
        {"time_of_day": "08:01"},
        {"timezone": "Europe/Paris"},
        {"frequency": "weekly", "day_of_week": 2},
        {"frequency": "custom", "days": [2]},
        {"frequency": "monthly", "days": [2]},
    ],
)
def test_fields_that_are_used_do(fields: dict[str, Any]) -> None:
    defaults = {key: value for key, value in fields.items() if key == "frequency" and value != "weekdays"}
    assert Schedule.parse(**fields) != Schedule.parse(**defaults)


def test_a_schedule_survives_pickling_and_a_zone_loaded_anew() -> None:
    schedule = Schedule.parse("custom", "08:00", "Europe/Berlin", days=[1, 3])
    anew = Schedule(schedule.frequency, schedule.time, ZoneInfo.no_cache("Europe/Berlin"), schedule.days)
    assert pickle.loads(pickle.dumps(schedule)) == schedule == anew
    assert hash(anew) == hash(schedule)


@pytest.mark.parametrize(
    ("frequency", "days"),
    [
        ("daily", {1}),
        ("weekdays", {0}),
        ("weekdays", set(range(7))),
        ("weekly", {1, 2}),
        ("weekly", set[int]()),
        ("custom", set[int]()),
        ("custom", {7}),
        ("monthly", {0}),
        ("monthly", {32}),
    ],
)
def test_days_that_do_not_fit_the_frequency_make_no_schedule(frequency: str, days: set[int]) -> None:
    with pytest.raises(ValueError, match=f"do not make a {frequency} schedule"):
        Schedule(Frequency(frequency), time(9), ZoneInfo("UTC"), frozenset(days))


@pytest.mark.parametrize("value", [time(9, tzinfo=UTC), time(9, microsecond=1), time(9, fold=1)])
def test_a_time_that_no_wall_clock_shows_makes_no_schedule(value: time) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        Schedule(Frequency.DAILY, value, ZoneInfo("UTC"), frozenset(range(7)))


GAPS_AND_FOLDS = [
    # Gaps: the wall time does not exist, and moves by the gap's length.
    ("America/New_York", "02:30", "2024-03-10", "2024-03-10T07:30"),
    ("America/New_York", "02:00", "2024-03-10", "2024-03-10T07:00"),
    ("America/New_York", "01:59:59", "2024-03-10", "2024-03-10T06:59:59"),
    ("America/New_York", "03:00", "2024-03-10", "2024-03-10T07:00"),
    ("Europe/London", "01:30", "2026-03-29", "2026-03-29T01:30"),
    ("Europe/Berlin", "02:30", "2026-03-29", "2026-03-29T01:30"),
    ("Australia/Lord_Howe", "02:15", "2024-10-06", "2024-10-05T15:45"),
    ("Africa/Cairo", "00:00", "2024-04-26", "2024-04-25T22:00"),
    ("Africa/Cairo", "00:30", "2024-04-26", "2024-04-25T22:30"),
    ("America/Santiago", "00:00", "2024-09-08", "2024-09-08T04:00"),
    ("America/Havana", "00:30", "2024-03-10", "2024-03-10T05:30"),
    # The gap lies across midnight: the nominal date stays, the instant is on the next one.
    ("America/Toronto", "23:45", "1919-03-30", "1919-03-31T04:45"),
    ("America/Toronto", "00:15", "1919-03-31", "1919-03-31T05:15"),
    # Folds: the wall time comes twice, and the first one counts.
    ("America/New_York", "01:30", "2024-11-03", "2024-11-03T05:30"),
    ("America/New_York", "01:00", "2024-11-03", "2024-11-03T05:00"),
    ("America/New_York", "02:00", "2024-11-03", "2024-11-03T07:00"),
    ("Europe/London", "01:30", "2024-10-27", "2024-10-27T00:30"),
    ("Europe/Berlin", "02:30", "2026-10-25", "2026-10-25T00:30"),
    ("Australia/Lord_Howe", "01:45", "2024-04-07", "2024-04-06T14:45"),
    ("America/St_Johns", "00:00", "2010-11-07", "2010-11-07T02:30"),
    ("America/St_Johns", "23:30", "2010-11-06", "2010-11-07T02:00"),
    # Ordinary days.
    ("Asia/Kathmandu", "09:00", "2026-11-23", "2026-11-23T03:15"),
    ("Asia/Kathmandu", "00:00", "1986-01-01", "1985-12-31T18:30"),
    ("Pacific/Apia", "09:00", "2011-12-29", "2011-12-29T19:00"),
    ("Pacific/Apia", "09:00", "2011-12-31", "2011-12-30T19:00"),
    ("America/Juneau", "09:00", "1867-10-18", "1867-10-17T17:57:41"),
    # Far away: the rules of today, and local mean time.
    ("Europe/Berlin", "02:30", "9998-03-29", "9998-03-29T01:30"),
    ("Europe/Berlin", "09:00", "1700-01-01", "1700-01-01T08:06:32"),
]


@pytest.mark.parametrize(("zone", "at", "day", "expected"), GAPS_AND_FOLDS)
def test_a_local_date_comes_to_one_instant(zone: str, at: str, day: str, expected: str) -> None:
    schedule = Schedule.parse(time_of_day=at, timezone=zone)
    occurrence = Occurrence(date.fromisoformat(day), utc(expected))
    instant = occurrence.deliver_at
    assert schedule.on(occurrence.local_date) == occurrence
    assert schedule.next_after(instant - timedelta(microseconds=1)) == occurrence
    assert schedule.previous_before(instant + timedelta(microseconds=1)) == occurrence
    assert list(schedule.between(instant, instant + timedelta(microseconds=1))) == [occurrence]


@pytest.mark.parametrize(("zone", "at", "day", "expected"), GAPS_AND_FOLDS)
def test_every_frequency_comes_to_the_same_instant(zone: str, at: str, day: str, expected: str) -> None:
    occurrence = Occurrence(date.fromisoformat(day), utc(expected))
    instant, tick = occurrence.deliver_at, timedelta(microseconds=1)
    weekday = occurrence.local_date.isoweekday() % 7
    for schedule in (
        Schedule.parse("weekly", at, zone, weekday),
        Schedule.parse("custom", at, zone, days=[weekday]),
        Schedule.parse("monthly", at, zone, days=[occurrence.local_date.day]),
    ):
        assert schedule.on(occurrence.local_date) == occurrence
        assert schedule.next_after(instant - tick) == occurrence
        assert schedule.previous_before(instant + tick) == occurrence
        assert list(schedule.between(instant, instant + tick)) == [occurrence]


@pytest.mark.parametrize(
    ("zone", "missing"),
    [
        ("Pacific/Apia", "2011-12-30"),
        ("Pacific/Fakaofo", "2011-12-30"),
        ("Pacific/Kwajalein", "1993-08-21"),
        ("Pacific/Kiritimati", "1994-12-31"),
    ],
)
@pytest.mark.parametrize("at", ["00:00", "09:00", "23:59:59"])
def test_a_date_that_the_zone_never_had_has_no_occurrence(zone: str, missing: str, at: str) -> None:
    schedule = Schedule.parse(time_of_day=at, timezone=zone)
    day = date.fromisoformat(missing)
    assert schedule.on(day) is None
    before, after = schedule.on(day - timedelta(days=1)), schedule.on(day + timedelta(days=1))
    assert before is not None
    assert after is not None
    assert schedule.next_after(before.deliver_at) == after
    assert schedule.previous_before(after.deliver_at) == before
    assert after.deliver_at - before.deliver_at == timedelta(days=1)


def test_an_evening_that_is_lived_twice_sees_the_next_dates_midnight_once() -> None:
    # St. John's went from 00:01 on the 7th back to 23:01 on the 6th, so 00:00 on the 7th came before that.
    schedule = Schedule.parse(time_of_day="00:00", timezone="America/St_Johns")
    second_evening = utc("2010-11-07T03:00")
    assert schedule.previous_before(second_evening).local_date == date(2010, 11, 7)
    assert schedule.next_after(second_evening).local_date == date(2010, 11, 8)
    monthly = Schedule.parse("monthly", "00:00", "America/St_Johns", days=[7])
    assert monthly.previous_before(second_evening).local_date == date(2010, 11, 7)


def test_an_evening_that_a_gap_moved_past_midnight_is_still_to_come_after_it() -> None:
    # Toronto went from 23:30 on the 30th to 00:30 on the 31st, so 23:45 on the 30th comes when it is the 31st already.
    after_midnight = utc("1919-03-31T04:40")
    for schedule in (
        Schedule.parse("daily", "23:45", "America/Toronto"),
        Schedule.parse("monthly", "23:45", "America/Toronto", days=[30]),
    ):
        assert schedule.next_after(after_midnight) == Occurrence(date(1919, 3, 30), utc("1919-03-31T04:45"))


def test_a_date_that_is_lived_twice_has_one_occurrence() -> None:
    # Alaska had 1867-10-18 again when it changed hands and sides of the date line.
    found = Schedule.parse(timezone="America/Juneau").between(utc("1867-10-16"), utc("1867-10-21"))
    assert [str(occurrence.local_date) for occurrence in found] == [f"1867-10-{day}" for day in (17, 18, 19, 20)]


def test_a_daily_wall_clock_time_is_kept_through_the_year() -> None:
    schedule = Schedule.parse(time_of_day="09:00", timezone="Europe/Berlin")
    found = list(schedule.between(utc("2026-01-01"), utc("2027-01-01")))
    assert len(found) == 365
    assert {str(one.deliver_at.astimezone(ZoneInfo("Europe/Berlin")).time()) for one in found} == {"09:00:00"}
    gaps = {later.deliver_at - one.deliver_at for one, later in pairwise(found)}
    assert gaps == {timedelta(hours=23), timedelta(hours=24), timedelta(hours=25)}


def test_on_gives_nothing_for_a_date_that_is_not_eligible() -> None:
    monday = date(2026, 11, 23)
    assert Schedule.parse("weekly").on(monday) == Occurrence(monday, utc("2026-11-23T09:00"))
    assert Schedule.parse("weekly").on(monday + timedelta(days=1)) is None
    assert Schedule.parse("monthly", days=[31]).on(date(2026, 11, 30)) is not None
    assert Schedule.parse("monthly", days=[31]).on(date(2026, 11, 29)) is None


def test_on_wants_a_date_and_no_instant() -> None:
    with pytest.raises(TypeError, match="local_date"):
        Schedule.parse().on(utc("2026-11-23T00:00"))


def test_a_window_holds_its_start_and_not_its_end() -> None:
    schedule = Schedule.parse()
    assert dates(schedule, "2026-11-23T09:00", "2026-11-25T09:00") == ["2026-11-23", "2026-11-24"]
    assert dates(schedule, "2026-11-23T09:00", "2026-11-23T09:00") == []
    assert dates(schedule, "2026-11-25T09:00", "2026-11-23T09:00") == []
    assert dates(schedule, "2026-11-23T09:00:01", "2026-11-24T09:00:00") == []


def test_next_is_strictly_after_and_previous_strictly_before() -> None:
    schedule, nine = Schedule.parse(), utc("2026-11-23T09:00")
    assert schedule.next_after(nine).deliver_at == nine + timedelta(days=1)
    assert schedule.previous_before(nine).deliver_at == nine - timedelta(days=1)


def test_arguments_may_be_in_any_zone_and_results_are_in_utc() -> None:
    schedule = Schedule.parse()
    instant = datetime(2026, 11, 23, 17, 59, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert schedule.next_after(instant).deliver_at == utc("2026-11-23T09:00")
    assert schedule.next_after(instant).deliver_at.tzinfo is UTC
    assert [one.deliver_at.tzinfo for one in schedule.between(instant, instant + timedelta(days=1))] == [UTC]


def test_the_fold_of_an_argument_counts() -> None:
    schedule = Schedule.parse(time_of_day="01:30", timezone="America/New_York")
    second = datetime(2024, 11, 3, 1, 15, fold=1, tzinfo=schedule.zone)
    assert schedule.next_after(second.replace(fold=0)).local_date == date(2024, 11, 3)
    assert schedule.next_after(second).local_date == date(2024, 11, 4)
    assert schedule.previous_before(second).local_date == date(2024, 11, 3)


NAIVE = datetime(2026, 11, 23, 9)


def test_naive_arguments_are_refused_by_name_and_at_once() -> None:
    schedule, aware = Schedule.parse(), utc("2026-11-23T09:00")
    with pytest.raises(ValueError, match=r"^instant=.*aware"):
        schedule.next_after(NAIVE)
    with pytest.raises(ValueError, match=r"^instant=.*aware"):
        schedule.previous_before(NAIVE)
    with pytest.raises(ValueError, match=r"^start=.*aware"):
        schedule.between(NAIVE, aware)
    with pytest.raises(ValueError, match=r"^end=.*aware"):
        schedule.between(aware, NAIVE)


FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
FAR_ZONES = ["UTC", "Asia/Tokyo", "America/New_York", "Pacific/Kiritimati", "Etc/GMT+12"]


@pytest.mark.parametrize("zone", FAR_ZONES)
@pytest.mark.parametrize("frequency", Frequency)
def test_the_calendar_has_ends_that_are_reported(zone: str, frequency: str) -> None:
    schedule = Schedule.parse(frequency, timezone=zone)
    with pytest.raises(OverflowError, match="the calendar ends with the year 9999"):
        schedule.next_after(LAST)
    with pytest.raises(OverflowError, match="the calendar begins with the year 1"):
        schedule.previous_before(FIRST)


@pytest.mark.parametrize("zone", FAR_ZONES)
@pytest.mark.parametrize("at", ["00:00", "09:00", "23:59:59"])
def test_a_window_at_an_end_of_the_calendar_just_ends(zone: str, at: str) -> None:
    schedule = Schedule.parse(time_of_day=at, timezone=zone)
    first = list(schedule.between(FIRST, FIRST + timedelta(days=3)))
    last = list(schedule.between(LAST - timedelta(days=3), LAST))
    assert first[0].local_date == date.min or first[0].deliver_at - FIRST < timedelta(days=1)
    assert last[-1].local_date == date.max or LAST - last[-1].deliver_at < timedelta(days=1)
    assert schedule.previous_before(first[1].deliver_at) == first[0]
    assert schedule.next_after(last[-2].deliver_at) == last[-1]
    with pytest.raises(OverflowError):
        schedule.previous_before(first[0].deliver_at)
    with pytest.raises(OverflowError):
        schedule.next_after(last[-1].deliver_at)
    assert schedule.look(last[-2].deliver_at, LAST) == (last[-2:], LAST)


def test_a_monthly_schedule_reaches_both_ends_of_the_calendar() -> None:
    schedule = Schedule.parse("monthly", days=[1, 31])
    assert schedule.next_after(utc("9999-12-02T00:00")).local_date == date.max
    assert schedule.previous_before(utc("0001-01-02T00:00")).local_date == date.min


def test_a_date_whose_instant_is_outside_the_calendar_has_no_occurrence() -> None:
    assert Schedule.parse(time_of_day="00:00", timezone="Asia/Tokyo").on(date.min) is None
    assert Schedule.parse(time_of_day="23:00", timezone="America/New_York").on(date.max) is None


def test_an_argument_outside_the_calendar_is_refused_by_name() -> None:
    instant = FIRST.replace(tzinfo=timezone(timedelta(hours=5)))
    with pytest.raises(OverflowError, match=r"^instant=.*years 1 to 9999"):
        Schedule.parse().next_after(instant)


def test_a_window_is_computed_as_it_is_taken() -> None:
    endless = Schedule.parse("monthly").between(utc("2026-11-23"), LAST)
    assert [str(one.local_date) for one in islice(endless, 2)] == ["2026-12-01", "2027-01-01"]
