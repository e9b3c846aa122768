"""Clauses of ``ports.Ledger``."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from fanout_briefs.model import (
    Change,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    Progress,
    SkipReason,
    Window,
)
from fanout_briefs.ports import Storage
from slots import DAY, HOUR, NOW, AnyStorage, brief_of, bring, claim, claim_one, found, job

pytest_plugins = ["storages"]

CREATED, TAKEN_UP, DUPLICATE = Enqueued.CREATED, Enqueued.TAKEN_UP, Enqueued.DUPLICATE


async def test_a_new_slot_is_created_and_reads_back_as_it_was_given(storage: Storage) -> None:
    slot = evolve(job(), reason="active", error="e", epoch=3, attempts=2, progress=Progress("sections", 1, 2, 1))
    assert list(await storage.enqueue([slot])) == [CREATED]
    assert await storage.find([slot.dedup_key]) == {slot.dedup_key: slot}


async def test_outcomes_stand_in_the_order_of_the_jobs(storage: Storage) -> None:
    taken = job("bob", status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)
    await storage.enqueue([job("zoe"), taken])
    outcomes = await storage.enqueue([job("zoe"), job("ann"), job("bob"), job("carl"), job("ann")])
    assert list(outcomes) == [DUPLICATE, CREATED, TAKEN_UP, CREATED, DUPLICATE]


async def test_of_equal_keys_in_one_batch_the_first_counts(storage: Storage) -> None:
    first, second = job(), job(run_at=NOW + HOUR)
    assert list(await storage.enqueue([first, second])) == [CREATED, DUPLICATE]
    assert await found(storage, first.dedup_key) == first
    skipped = job("bob", status=JobStatus.SKIPPED, code=SkipReason.MISSED)
    assert list(await storage.enqueue([skipped, job("bob")])) == [CREATED, DUPLICATE]
    assert await found(storage, skipped.dedup_key) == skipped


async def test_enqueueing_nothing_and_finding_nothing_are_fine(storage: Storage) -> None:
    assert list(await storage.enqueue([])) == []
    assert await storage.find([]) == {}
    assert await storage.find(["daily:2026-03-02:nobody"]) == {}
    assert await storage.last_briefs("daily", {}) == {}
    assert not await storage.change([], Change.CANCEL)


CODES: list[tuple[JobStatus, SkipReason | None]] = [
    *((JobStatus.SKIPPED, code) for code in SkipReason),
    *((JobStatus.CANCELLED, code) for code in (None, *SkipReason)),
    *((status, None) for status in JobStatus if status not in (JobStatus.SKIPPED, JobStatus.CANCELLED)),
]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_planning_takes_up_only_slots_that_are_skipped_superseded_or_paused(storage: Storage) -> None:
    for number, (status, code) in enumerate(CODES):
        slot = job(f"u{number}")
        await bring(storage, slot, status, code)
        before = await found(storage, slot.dedup_key)
        expected = status == "skipped" or (status == "cancelled" and code in ("superseded", "paused"))
        assert list(await storage.enqueue([job(f"u{number}", status=JobStatus.SKIPPED, code=SkipReason.MISSED)])) == [
            DUPLICATE
        ]
        assert await found(storage, slot.dedup_key) == before
        assert list(await storage.enqueue([slot])) == [TAKEN_UP if expected else DUPLICATE], (status, code)
        after = await found(storage, slot.dedup_key)
        assert after == (evolve(slot, epoch=2) if expected else before)


async def test_a_slot_taken_up_has_the_window_of_the_new_job_if_no_brief_was_saved(storage: Storage) -> None:
    slot = job()
    await bring(storage, slot, JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    newer = evolve(slot, window=Window(start=NOW - 9 * DAY, end=NOW + HOUR), run_at=NOW + HOUR, reason="again")
    assert list(await storage.enqueue([newer])) == [TAKEN_UP]
    assert await found(storage, slot.dedup_key) == evolve(newer, epoch=2)


async def test_a_slot_taken_up_on_demand_keeps_the_start_of_the_window_that_its_brief_was_saved_from(
    storage: Storage,
) -> None:
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job)))
    newer = evolve(slot, window=Window(start=NOW - 9 * DAY, end=NOW + HOUR), demand=Demand.RUN)
    assert list(await storage.enqueue([newer])) == [TAKEN_UP]
    window = Window(start=slot.window.start, end=NOW + HOUR)
    assert await found(storage, slot.dedup_key) == evolve(newer, window=window, epoch=2)
    assert (await claim_one(storage, slot)).job.window == window


async def test_a_slot_taken_up_has_the_window_of_the_new_job_if_no_worker_had_it(storage: Storage) -> None:
    await storage.enqueue([job(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    newer = evolve(job(), window=Window(start=NOW - 9 * DAY, end=NOW), attempts=7, progress=Progress("sections", 1))
    assert list(await storage.enqueue([newer])) == [TAKEN_UP]
    assert await found(storage, newer.dedup_key) == evolve(newer, epoch=2, attempts=0, progress=None)


@pytest.mark.parametrize("bad", [*set(JobStatus) - {JobStatus.PENDING}])
async def test_jobs_in_any_other_state_are_refused_and_nothing_is_stored(storage: Storage, bad: JobStatus) -> None:
    with pytest.raises(ValueError, match="new slots are pending, or skipped with a code"):
        await storage.enqueue([job("ann"), job("bob", status=bad)])
    assert await storage.find([job("ann").dedup_key]) == {}


@pytest.mark.parametrize("user_id", ["nul\0", "surrogate\ud800"])
async def test_ids_that_cannot_be_told_apart_are_refused(storage: Storage, user_id: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        await storage.enqueue([job(user_id)])


async def test_asking_for_impossible_ids_finds_nothing(storage: Storage) -> None:
    await storage.enqueue([job("nul"), job("surrogate")])
    odd = ["nul\0", "nul\0more", "surrogate\ud800"]
    keys = [job(user_id).dedup_key for user_id in odd]
    assert await storage.find(keys) == {}
    assert not await storage.change(keys, Change.CANCEL)
    assert await storage.last_briefs("daily", dict.fromkeys(odd, NOW + DAY)) == {}
    assert await storage.advance("nul\0") is None


async def test_naive_instants_are_refused(storage: Storage) -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="must be aware"):
        await storage.enqueue([evolve(job(), run_at=naive)])
    with pytest.raises(ValueError, match="must be aware"):
        await storage.last_briefs("daily", {"ann": naive})
    with pytest.raises(ValueError, match="must be aware"):
        await storage.advance("daily", start=naive)
    assert await storage.find([job().dedup_key]) == {}


AWKWARD = [
    "' OR 1=1 --",
    'quo"te\\back',
    "日本語😀",
    "e\u0301 and \u00e9",
    "x" * 255,
    "😀" * 255,
    "a:b:c",
    "%_*[]",
    " lead and trail ",
    "user\u200d\u2028",
]


async def test_awkward_ids_are_told_apart_and_come_back_exactly(storage: Storage) -> None:
    jobs = [evolve(job(user_id), reason=user_id * 50) for user_id in AWKWARD]
    assert set(await storage.enqueue(jobs)) == {CREATED}
    assert await storage.find([slot.dedup_key for slot in jobs]) == {slot.dedup_key: slot for slot in jobs}
    latest = await storage.last_briefs("daily", dict.fromkeys(AWKWARD, NOW + DAY))
    assert latest == dict.fromkeys(AWKWARD, NOW + HOUR)
    assert await storage.change([slot.dedup_key for slot in jobs], Change.CANCEL) == {slot.dedup_key for slot in jobs}
    assert [await storage.forget(user_id) for user_id in AWKWARD] == [1] * len(AWKWARD)


FAR = [
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 11, 1, 1, 30, fold=0, tzinfo=ZoneInfo("America/New_York")),
    datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=14, seconds=1, microseconds=1))),
]


@pytest.mark.parametrize("at", FAR, ids=str)
async def test_instants_come_back_exactly_and_in_utc(storage: Storage, at: datetime) -> None:
    on = date.max if at.year == 9999 else date.min
    slot = Job(type="daily", user_id="ann", occurrence=Occurrence(on, at), run_at=at, window=Window(at, at))
    await storage.enqueue([slot])
    back = await found(storage, slot.dedup_key)
    instants = [back.occurrence.deliver_at, back.run_at, back.window.start, back.window.end]
    assert instants == [at.astimezone(UTC)] * 4
    assert {instant.tzinfo for instant in instants} == {UTC}
    assert back.occurrence.local_date == on


async def test_an_instant_outside_the_years_of_utc_is_refused(storage: Storage) -> None:
    early = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    with pytest.raises(OverflowError):
        await storage.enqueue([evolve(job(), run_at=early)])
    assert await storage.find([job().dedup_key]) == {}


async def test_find_gives_thousands_of_slots_at_once(storage: Storage) -> None:
    jobs = [job(f"user{number}") for number in range(9_000)]
    await storage.enqueue(jobs)
    assert len(await storage.find([slot.dedup_key for slot in jobs] + ["unknown"])) == 9_000


async def test_last_briefs_counts_live_and_completed_slots_only(storage: Storage) -> None:
    for status in JobStatus:
        code = SkipReason.ENGAGEMENT if status is JobStatus.SKIPPED else None
        await bring(storage, job(status.value), status, code)
    latest = await storage.last_briefs("daily", dict.fromkeys([*JobStatus, "nobody"], NOW + DAY))
    assert latest == dict.fromkeys(["pending", "processing", "completed"], NOW + HOUR)


async def test_last_briefs_looks_strictly_before_each_users_own_instant(storage: Storage) -> None:
    await storage.enqueue([job("ann", 0), job("ann", 1), job("bob", 0), job("bob", 1), job("cid", 0)])
    second = job("bob", 1).occurrence.deliver_at
    before = {"ann": second, "bob": second + timedelta(microseconds=1), "cid": NOW + HOUR}
    assert await storage.last_briefs("daily", before) == {"ann": NOW + HOUR, "bob": second}


async def test_last_briefs_leaves_out_other_types(storage: Storage) -> None:
    await storage.enqueue([job(type="weekly")])
    assert await storage.last_briefs("daily", {"ann": NOW + DAY}) == {}


CHANGED: dict[Change, dict[JobStatus, JobStatus]] = {
    Change.CANCEL: dict.fromkeys([JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.CANCELLED], JobStatus.CANCELLED),
    Change.RETRY: {
        JobStatus.FAILED: JobStatus.PENDING,
        JobStatus.UNKNOWN: JobStatus.PENDING,
        JobStatus.SKIPPED: JobStatus.PENDING,
        JobStatus.CANCELLED: JobStatus.PENDING,
    },
    Change.REGENERATE: {JobStatus.COMPLETED: JobStatus.PENDING, JobStatus.EMPTY: JobStatus.PENDING},
    Change.RESEND: {JobStatus.COMPLETED: JobStatus.PENDING, JobStatus.EMPTY: JobStatus.PENDING},
}


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("status", JobStatus)
async def test_a_change_moves_slots_as_the_table_says(storage: Storage, change: Change, status: JobStatus) -> None:
    slot = job()
    await bring(storage, slot, status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
    before = await found(storage, slot.dedup_key)
    moved = await storage.change([slot.dedup_key, "unknown"], change)
    after = await found(storage, slot.dedup_key)
    to = CHANGED[change].get(status)
    if to is None:
        assert (set(moved), after) == (set(), before)
    elif to is JobStatus.CANCELLED:
        assert (set(moved), after) == (
            {slot.dedup_key},
            evolve(before, status=JobStatus.CANCELLED, code=SkipReason.WITHDRAWN),
        )
    else:
        demand = Demand.RESEND if change is Change.RESEND else Demand.RUN
        assert (set(moved), after) == ({slot.dedup_key}, evolve(slot, epoch=before.epoch + 1, demand=demand))


async def test_regenerating_keeps_the_window(storage: Storage) -> None:
    slot = job(day=1)
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job)))
    # A brief of an earlier day is saved only now. The window was fixed before.
    await storage.enqueue([job()])
    early = await claim_one(storage, job())
    assert await storage.finish(early, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + 3 * HOUR)))
    await storage.change([slot.dedup_key], Change.REGENERATE)
    assert (await claim_one(storage, slot)).job.window == slot.window


async def test_thousands_of_slots_are_changed_at_once(storage: Storage) -> None:
    jobs = [job(f"user{number}") for number in range(9_000)]
    await storage.enqueue(jobs)
    assert len(await storage.change([slot.dedup_key for slot in jobs], Change.CANCEL)) == 9_000


async def test_a_mark_begins_where_start_says_and_only_then(storage: Storage) -> None:
    assert await storage.advance("daily") is None
    assert await storage.advance("daily", NOW) is None
    assert await storage.advance("daily") is None
    assert await storage.advance("daily", start=NOW) == NOW
    assert await storage.advance("daily", start=NOW + DAY) == NOW
    assert await storage.advance("daily", start=NOW - DAY) == NOW
    assert await storage.advance("weekly") is None
    assert await storage.advance("weekly", NOW + HOUR, start=NOW) == NOW + HOUR
    assert await storage.advance("monthly", NOW - HOUR, start=NOW) == NOW


async def test_a_mark_never_moves_back(storage: Storage) -> None:
    await storage.advance("daily", start=NOW)
    assert await storage.advance("daily", NOW + DAY) == NOW + DAY
    assert await storage.advance("daily", NOW) == NOW + DAY
    assert await storage.advance("daily", NOW, start=NOW) == NOW + DAY
    assert await storage.advance("daily") == NOW + DAY


async def test_a_mark_is_an_aware_instant_in_utc(storage: Storage) -> None:
    mark = await storage.advance("daily", start=NOW.astimezone(ZoneInfo("Asia/Tokyo")))
    assert mark is not None
    assert (mark, mark.tzinfo) == (NOW, UTC)


async def test_many_who_advance_a_mark_at_once_leave_the_furthest(storage: Storage) -> None:
    await storage.advance("daily", start=NOW)
    async with anyio.create_task_group() as tasks:
        for minutes in (3, 9, 1, 7, 5):
            tasks.start_soon(storage.advance, "daily", NOW + timedelta(minutes=minutes))
    assert await storage.advance("daily") == NOW + timedelta(minutes=9)


async def test_forget_erases_all_of_one_user_and_nothing_of_others(storage: AnyStorage) -> None:
    for user_id in ("ann", "anna"):
        slot = job(user_id)
        await storage.enqueue([slot, job(user_id, 1), job(user_id, type="weekly")])
        held = await claim_one(storage, slot)
        mail = FollowUp(job(user_id, type="mail"), b"mail")
        assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot)), [mail])
        await storage.preferences.put([Preference(user_id=user_id)])
    assert await storage.forget("ann") == 7
    assert await storage.forget("ann") == 0
    assert await storage.forget("nobody") == 0
    keys = [job(user, day, type=kind).dedup_key for user in ("ann", "anna") for day in (0, 1) for kind in ("daily",)]
    assert {slot.user_id for slot in (await storage.find(keys)).values()} == {"anna"}
    assert await storage.brief("daily", "ann") is None
    assert await storage.brief("daily", "anna") == brief_of(job("anna"))
    assert list(await storage.preferences.get(["ann", "anna"])) == ["anna"]
    assert await storage.last_briefs("daily", {"ann": NOW + DAY}) == {}
    assert [held.job.user_id for held in (await claim(storage, types=["mail"])).claims] == ["anna"]


async def test_a_worker_whose_job_is_forgotten_finds_its_claim_stale(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    await storage.forget("ann")
    assert set(await storage.heartbeat([held], NOW + DAY)) == {slot.dedup_key}
    assert not await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot)))
    assert await storage.brief("daily", "ann") is None


async def test_a_claim_from_before_forget_does_not_fit_the_same_slot_planned_again(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    old = await claim_one(storage, slot)
    await storage.forget("ann")
    await storage.enqueue([slot])
    new = await claim_one(storage, slot)
    assert new.token > old.token
    assert not await storage.finish(old, Finish(status=JobStatus.FAILED))
    assert await storage.finish(new, Finish(status=JobStatus.EMPTY))


async def test_two_planners_at_once_make_one_slot_each(storage: Storage) -> None:
    jobs = [job(f"user{number}") for number in range(300)]
    outcomes: list[Enqueued] = []

    async def plan(batch: list[Job]) -> None:
        outcomes.extend(await storage.enqueue(batch))

    async with anyio.create_task_group() as tasks:
        for batch in (jobs, jobs[::-1], jobs[100:], jobs[:200]):
            tasks.start_soon(plan, batch)
    assert outcomes.count(CREATED) == 300
    assert len(await storage.find([slot.dedup_key for slot in jobs])) == 300


async def test_of_many_planners_who_take_up_a_slot_one_does(storage: Storage) -> None:
    await storage.enqueue([job(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    outcomes: list[Enqueued] = []

    async def plan() -> None:
        outcomes.extend(await storage.enqueue([job()]))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(plan)
    assert sorted(outcomes) == [DUPLICATE] * 7 + [TAKEN_UP]
    assert (await found(storage, job().dedup_key)).epoch == 2


async def test_a_cancelled_enqueue_leaves_each_slot_old_or_new_and_can_be_repeated(storage: Storage) -> None:
    jobs = [job(f"user{number}") for number in range(9_000)]
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.enqueue, jobs)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    stored = await storage.find([slot.dedup_key for slot in jobs])
    assert all(stored[slot.dedup_key] == slot for slot in jobs if slot.dedup_key in stored)
    outcomes = await storage.enqueue(jobs)
    assert outcomes.count(CREATED) == 9_000 - len(stored)
    assert len(await storage.find([slot.dedup_key for slot in jobs])) == 9_000
