"""The public strategies draw what they say: good ones are good, bad ones bad, and a clock moves as it is told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.errors import InvalidPreferences, InvalidSchedule
from fanout_briefs.model import Job, JobStatus, Preference, check_user_id
from fanout_briefs.schedule import Schedule
from fanout_briefs.testing import Clock, strategies

NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)


def parse(row: Preference) -> Schedule:
    return Schedule.parse(row.frequency, row.time_of_day, row.timezone, row.day_of_week, row.days)


@given(strategies.preferences())
def test_good_preferences_have_a_good_id_and_make_a_schedule(row: Preference) -> None:
    assert check_user_id(row.user_id) is None
    parse(row)


@given(strategies.odd_preferences())
def test_odd_preferences_make_no_schedule(row: Preference) -> None:
    with pytest.raises(InvalidSchedule):
        parse(row)


@given(strategies.preferences(), strategies.odd_preferences(st.just("odd")))
async def test_good_and_odd_preferences_are_kept(good: Preference, odd: Preference) -> None:
    async with MemoryStorage() as storage:
        await storage.preferences.put([good])
        await storage.preferences.put([odd])


@given(strategies.refused_preferences())
async def test_refused_preferences_are_refused(row: Preference) -> None:
    async with MemoryStorage() as storage:
        with pytest.raises(InvalidPreferences):
            await storage.preferences.put([row])


@given(strategies.batches())
async def test_a_ledger_takes_batches(batch: list[Job]) -> None:
    async with MemoryStorage() as storage:
        assert len(await storage.enqueue(batch)) == len(batch)


@given(strategies.jobs(statuses=[JobStatus.CANCELLED, JobStatus.FAILED]))
def test_jobs_have_the_statuses_asked_for_and_a_code_where_that_needs_one(job: Job) -> None:
    assert (job.status, job.code is not None) in {(JobStatus.CANCELLED, True), (JobStatus.FAILED, False)}


@given(strategies.moments_of_change(), strategies.schedules())
def test_schedules_have_occurrences_about_every_moment_of_change(place: tuple[str, date], schedule: Schedule) -> None:
    noon = datetime(place[1].year, place[1].month, place[1].day, 12, tzinfo=UTC)
    assert schedule.next_after(noon).deliver_at > noon


@given(strategies.histories(NOW, days=60))
def test_a_history_is_in_order_and_within_its_days(visits: list[datetime]) -> None:
    assert visits == sorted(visits)
    assert all(NOW <= at < NOW + timedelta(days=60) for at in visits)


def test_a_clock_stands_still_until_it_is_moved() -> None:
    clock = Clock(NOW)
    assert clock() == clock() == NOW
    assert clock.advance(timedelta(hours=-1)) == clock() == NOW - timedelta(hours=1)
    with pytest.raises(ValueError, match="aware"):
        Clock(NOW.replace(tzinfo=None))
