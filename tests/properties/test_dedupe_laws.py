"""Laws of telling duplicates apart, against every pair compared with every other."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.dedupe import BatchDeduplicator
from fanout_briefs.model import Job, JobStatus, Occurrence, Window

NINE = datetime(2025, 9, 30, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def job(brief: str, user: str, day: int, minutes: int, status: JobStatus) -> Job:
    at = NINE + minutes * MINUTE
    return Job(
        type=brief,
        user_id=user,
        occurrence=Occurrence(date(2025, 9, day), at),
        run_at=at,
        window=Window(at, at),
        status=status,
    )


# So few values that they meet all the time.
JOBS = st.lists(
    st.builds(
        job,
        st.sampled_from(["daily", "weekly"]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([29, 30]),
        st.integers(-12, 12).map(lambda steps: steps * 5),
        st.sampled_from(JobStatus),
    ),
    max_size=12,
)
TOLERANCES = st.none() | st.integers(0, 12).map(lambda steps: steps * 5 * MINUTE)


def clash(candidate: Job, existing: Job, tolerance: timedelta | None) -> bool:
    if candidate.user_id != existing.user_id or candidate.type != existing.type:
        return False
    if tolerance is None:
        return candidate.occurrence.local_date == existing.occurrence.local_date
    at, other = candidate.occurrence.deliver_at, existing.occurrence.deliver_at
    return existing.status in {"pending", "processing"} and at - tolerance <= other <= at + tolerance


def naive(existing: list[Job], tolerance: timedelta | None, candidates: list[Job]) -> list[bool]:
    """Say of each candidate whether it is a duplicate."""
    return [
        any(clash(candidate, job, tolerance) for job in existing)
        or any(earlier.dedup_key == candidate.dedup_key for earlier in candidates[:index])
        for index, candidate in enumerate(candidates)
    ]


@given(JOBS, TOLERANCES, JOBS)
def test_candidates_are_parted_as_comparing_every_pair_parts_them(
    existing: list[Job], tolerance: timedelta | None, candidates: list[Job]
) -> None:
    verdicts = naive(existing, tolerance, candidates)
    fresh, duplicates = BatchDeduplicator(existing, tolerance).split(candidates)
    assert fresh == [candidate for candidate, taken in zip(candidates, verdicts, strict=True) if not taken]
    assert duplicates == [candidate for candidate, taken in zip(candidates, verdicts, strict=True) if taken]


@given(JOBS, TOLERANCES, JOBS)
def test_what_is_fresh_stays_fresh_and_is_a_duplicate_of_itself_once_it_exists(
    existing: list[Job], tolerance: timedelta | None, candidates: list[Job]
) -> None:
    deduplicator = BatchDeduplicator(existing, tolerance)
    fresh, _ = deduplicator.split(candidates)
    assert deduplicator.split(fresh) == (fresh, [])
    live = [job for job in fresh if job.status in {JobStatus.PENDING, JobStatus.PROCESSING}]
    assert BatchDeduplicator([*existing, *live], tolerance).split(live) == ([], live)


@given(JOBS, TOLERANCES, JOBS)
def test_the_order_of_existing_jobs_does_not_matter(
    existing: list[Job], tolerance: timedelta | None, candidates: list[Job]
) -> None:
    forwards = BatchDeduplicator(existing, tolerance).split(candidates)
    assert BatchDeduplicator(existing[::-1], tolerance).split(candidates) == forwards
