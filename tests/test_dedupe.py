"""Telling planned jobs that exist already from new ones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from fanout_briefs.dedupe import BatchDeduplicator
from fanout_briefs.model import Job, JobStatus, Occurrence, Window

NINE = datetime(2025, 9, 30, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)
HALF_AN_HOUR = 30 * MINUTE


def job(
    user: str = "ann",
    at: datetime = NINE,
    *,
    on: date | None = None,
    status: JobStatus = JobStatus.PENDING,
    type: str = "daily_brief",  # noqa: A002  # Named as the field.
) -> Job:
    occurrence = Occurrence(on or at.date(), at)
    return Job(
        type=type,
        user_id=user,
        occurrence=occurrence,
        run_at=at,
        window=Window(at - timedelta(days=1), at),
        status=status,
    )


def test_keys_of_existing_jobs_are_enough_to_tell_duplicates() -> None:
    old, new = job("ann"), job("bob")
    assert BatchDeduplicator.of_keys([old.dedup_key, "unknown"]).split([new, old, new]) == ([new], [old, new])


@pytest.mark.parametrize("status", JobStatus)
def test_a_slot_that_exists_is_a_duplicate_whatever_became_of_it(status: JobStatus) -> None:
    candidate = job()
    assert BatchDeduplicator([job(status=status)]).split([candidate]) == ([], [candidate])


@pytest.mark.parametrize(
    "other",
    [job("bob"), job(on=date(2025, 10, 1)), job(type="weekly_brief")],
    ids=["another user", "another date", "another brief"],
)
def test_another_slot_is_fresh_also_at_the_same_time(other: Job) -> None:
    assert BatchDeduplicator([job()]).split([other]) == ([other], [])


def test_a_slot_that_moved_within_its_date_is_still_a_duplicate() -> None:
    moved = job(at=NINE + timedelta(hours=9))
    assert BatchDeduplicator([job()]).split([moved]) == ([], [moved])


def test_the_first_systems_example_of_three_users() -> None:
    candidates = [job("user-1"), job("user-2"), job("user-3")]
    split = BatchDeduplicator([job("user-2", NINE + 5 * MINUTE)], tolerance=HALF_AN_HOUR).split(candidates)
    assert split == ([candidates[0], candidates[2]], [candidates[1]])


@pytest.mark.parametrize(
    ("apart", "is_duplicate"),
    [
        (-HALF_AN_HOUR - TICK, False),
        (-HALF_AN_HOUR, True),
        (timedelta(0), True),
        (HALF_AN_HOUR, True),
        (HALF_AN_HOUR + TICK, False),
    ],
)
def test_the_tolerance_includes_both_its_ends(apart: timedelta, is_duplicate: bool) -> None:
    candidate = job()
    fresh, duplicates = BatchDeduplicator([job(at=NINE + apart)], tolerance=HALF_AN_HOUR).split([candidate])
    assert (fresh, duplicates) == (([], [candidate]) if is_duplicate else ([candidate], []))


@pytest.mark.parametrize("status", JobStatus)
def test_with_a_tolerance_only_pending_and_processing_jobs_count(status: JobStatus) -> None:
    fresh, _ = BatchDeduplicator([job(status=status)], tolerance=HALF_AN_HOUR).split([job()])
    assert bool(fresh) == (status not in {JobStatus.PENDING, JobStatus.PROCESSING})


@pytest.mark.parametrize("other", [job("bob"), job(type="weekly_brief")], ids=["another user", "another brief"])
def test_with_a_tolerance_others_jobs_do_not_count(other: Job) -> None:
    assert BatchDeduplicator([other], tolerance=HALF_AN_HOUR).split([job()]) == ([job()], [])


def test_with_a_tolerance_dates_do_not_count() -> None:
    # The first system's rule; the slot key is right in both cases, which is why it is the default.
    late = job(on=date(2025, 9, 29))
    assert BatchDeduplicator([late], tolerance=HALF_AN_HOUR).split([job()]) == ([], [job()])
    same_date = job(at=NINE + 31 * MINUTE)
    assert BatchDeduplicator([same_date], tolerance=HALF_AN_HOUR).split([job()]) == ([job()], [])


def test_a_tolerance_of_zero_finds_the_same_instant_only() -> None:
    deduplicator = BatchDeduplicator([job()], tolerance=timedelta(0))
    same, near = job(on=date(2025, 10, 1)), job(at=NINE + TICK)
    assert deduplicator.split([same, near]) == ([near], [same])


@pytest.mark.parametrize("offsets", [(-45, 20, 300), (300, 20, -45), (-300, -20, 45)])
def test_the_nearest_of_a_users_jobs_decides(offsets: tuple[int, ...]) -> None:
    existing = [job(at=NINE + minutes * MINUTE, on=date(2025, 9, day + 1)) for day, minutes in enumerate(offsets)]
    assert BatchDeduplicator(existing, tolerance=HALF_AN_HOUR).split([job()]) == ([], [job()])
    assert BatchDeduplicator(existing, tolerance=10 * MINUTE).split([job()]) == ([job()], [])


def test_instants_are_compared_also_where_clocks_went_back() -> None:
    # Both read 01:30 in New York, an hour apart.
    zone = ZoneInfo("America/New_York")
    first, second = (job(at=datetime(2024, 11, 3, 1, 30, fold=fold, tzinfo=zone)) for fold in (0, 1))
    assert BatchDeduplicator([first], tolerance=HALF_AN_HOUR).split([second]) == ([second], [])


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_tolerance_may_reach_beyond_the_calendar(at: datetime) -> None:
    edge = Job(type="b", user_id="ann", occurrence=Occurrence(at.date(), at), run_at=at, window=Window(at, at))
    assert BatchDeduplicator([edge], tolerance=timedelta(days=10_000)).split([edge]) == ([], [edge])


@pytest.mark.parametrize("tolerance", [None, HALF_AN_HOUR])
def test_the_first_of_candidates_with_one_key_wins(tolerance: timedelta | None) -> None:
    first, bob, second = job(), job("bob"), job(at=NINE + timedelta(hours=3))
    assert BatchDeduplicator([], tolerance).split([first, bob, second, first]) == ([first, bob], [second, first])


def test_a_key_whose_first_candidate_was_a_duplicate_gets_no_second_chance() -> None:
    first, second = job(), job(at=NINE + timedelta(hours=3))
    assert BatchDeduplicator([job(at=NINE + MINUTE)], HALF_AN_HOUR).split([first, second]) == ([], [first, second])


@pytest.mark.parametrize("tolerance", [None, HALF_AN_HOUR])
def test_candidates_that_lie_near_each_other_are_no_duplicates_of_each_other(tolerance: timedelta | None) -> None:
    today, tomorrow = job(), job(at=NINE + MINUTE, on=date(2025, 10, 1))
    assert BatchDeduplicator([], tolerance).split([today, tomorrow]) == ([today, tomorrow], [])


@pytest.mark.parametrize("tolerance", [None, HALF_AN_HOUR])
def test_candidates_of_an_earlier_call_do_not_count(tolerance: timedelta | None) -> None:
    deduplicator = BatchDeduplicator([], tolerance)
    assert deduplicator.split([job()]) == deduplicator.split([job()]) == ([job()], [])


@pytest.mark.parametrize("tolerance", [None, HALF_AN_HOUR])
def test_jobs_and_candidates_may_be_read_once_only(tolerance: timedelta | None) -> None:
    def once(*jobs: Job) -> Iterator[Job]:
        yield from jobs

    deduplicator = BatchDeduplicator(once(job(), job("bob")), tolerance)
    for _ in range(2):
        assert deduplicator.split(once(job("bob"), job("cat"))) == ([job("cat")], [job("bob")])


def test_no_candidates_split_into_nothing() -> None:
    assert BatchDeduplicator([job()]).split([]) == ([], [])


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^tolerance=.*must be zero or more"):
        BatchDeduplicator([], tolerance=-TICK)
