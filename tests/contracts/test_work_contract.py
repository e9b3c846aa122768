"""Clauses of ``ports.Work``."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from fanout_briefs.model import (
    Change,
    Claim,
    Claims,
    Finish,
    FollowUp,
    JobStatus,
    Progress,
    Section,
    SkipReason,
    Window,
)
from fanout_briefs.ports import Storage
from slots import DAY, HOUR, NOW, brief_of, bring, claim, claim_one, found, job

pytest_plugins = ["storages"]

MICROSECOND = timedelta(microseconds=1)


def names(got: Claims) -> list[str]:
    return [held.job.user_id for held in got.claims]


async def test_a_claimed_job_is_in_processing_with_a_lease_a_token_and_one_attempt(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    (held,) = (await claim(storage, lease=2 * HOUR)).claims
    running = evolve(slot, status=JobStatus.PROCESSING, attempts=1)
    assert held == Claim(job=running, token=held.token, until=NOW + 2 * HOUR)
    assert await found(storage, slot.dedup_key) == running


async def test_pending_jobs_are_due_from_run_at_on(storage: Storage) -> None:
    await storage.enqueue([job("ann"), job("bob", run_at=NOW + MICROSECOND)])
    assert names(await claim(storage, due_by=NOW - MICROSECOND)) == []
    assert names(await claim(storage, due_by=NOW)) == ["ann"]
    assert names(await claim(storage, due_by=NOW + MICROSECOND)) == ["bob"]


async def test_the_longest_due_come_first_and_no_more_than_the_limit(storage: Storage) -> None:
    ids = [f"u{number}" for number in range(9)]
    jobs = [job(user_id, run_at=NOW - number * HOUR) for number, user_id in enumerate(ids)]
    random.Random(7).shuffle(jobs)
    await storage.enqueue(jobs)
    assert names(await claim(storage, limit=4)) == ["u8", "u7", "u6", "u5"]
    assert names(await claim(storage, limit=4)) == ["u4", "u3", "u2", "u1"]
    assert names(await claim(storage, limit=4)) == ["u0"]


async def test_expired_and_pending_jobs_stand_in_one_order_over_all_types(storage: Storage) -> None:
    await storage.enqueue([job("old", run_at=NOW - DAY), job("older", type="mail", run_at=NOW - 2 * DAY)])
    await claim(storage, types=["daily", "mail"])
    await storage.enqueue([job("oldest", run_at=NOW - 3 * DAY), job("new", type="mail")])
    later = await claim(storage, now=NOW + HOUR, types=["daily", "mail"], limit=3)
    assert names(later) == ["oldest", "older", "old"]


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(storage: Storage, limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await claim(storage, limit=limit)


async def test_only_the_types_asked_for_are_claimed(storage: Storage) -> None:
    await storage.enqueue([job(type="daily"), job(type="mail"), job(type="weekly")])
    got = await claim(storage, types=["mail", "weekly", "mail", "unknown"])
    assert sorted(held.job.type for held in got.claims) == ["mail", "weekly"]
    assert list((await claim(storage, types=[])).claims) == []


async def test_a_key_looks_at_that_slot_only(storage: Storage) -> None:
    await storage.enqueue([job("ann"), job("bob")])
    assert names(await claim(storage, key="daily:2026-03-02:nobody")) == []
    assert names(await claim(storage, key=job("bob").dedup_key, types=["mail"])) == []
    assert names(await claim(storage, key=job("bob").dedup_key)) == ["bob"]
    again = await claim(storage, key=job("ann").dedup_key, due_by=NOW - HOUR)
    assert (names(again), again.held_until) == ([], None)


@pytest.mark.parametrize("status", [*set(JobStatus) - {JobStatus.PENDING, JobStatus.PROCESSING}])
async def test_ended_jobs_are_not_claimed(storage: Storage, status: JobStatus) -> None:
    await bring(storage, job(), status, SkipReason.MISSED)
    assert names(await claim(storage, now=NOW + 9 * DAY)) == []


async def test_a_lease_that_has_ended_is_claimable_counts_as_an_attempt_and_raises_the_token(storage: Storage) -> None:
    await storage.enqueue([job()])
    first = await claim_one(storage, job())
    assert names(await claim(storage, now=NOW + HOUR - MICROSECOND)) == []
    (second,) = (await claim(storage, due_by=NOW - DAY, now=NOW + HOUR)).claims
    assert second.job.attempts == 2
    assert second.token > first.token
    assert second.until == NOW + 2 * HOUR


async def test_leases_run_by_now_and_not_by_the_moment_of_the_schedule(storage: Storage) -> None:
    await storage.enqueue([job()])
    held = (await claim(storage, due_by=NOW, now=NOW + 30 * DAY)).claims[0]
    assert held.until == NOW + 30 * DAY + HOUR
    assert names(await claim(storage, due_by=NOW + 99 * DAY, now=NOW + 30 * DAY)) == []


async def test_held_until_is_when_the_first_lease_of_a_due_job_ends(storage: Storage) -> None:
    assert (await claim(storage)).held_until is None
    await storage.enqueue([job("ann"), job("bob"), job("cid", type="mail"), job("dan", run_at=NOW + DAY)])
    assert (await claim(storage, key=job("ann").dedup_key, lease=3 * HOUR)).held_until is None
    assert (await claim(storage, key=job("bob").dedup_key, lease=2 * HOUR)).held_until is None
    assert (await claim(storage, key=job("dan").dedup_key, lease=HOUR)).held_until is None
    assert (await claim(storage, due_by=NOW)).held_until == NOW + 2 * HOUR
    assert (await claim(storage, due_by=NOW, key=job("ann").dedup_key)).held_until == NOW + 3 * HOUR
    assert (await claim(storage, types=["mail"])).held_until is None
    assert (await claim(storage, due_by=NOW - DAY)).held_until is None


@pytest.mark.parametrize("status", JobStatus)
async def test_a_job_waits_for_earlier_live_slots_of_its_user_and_type(storage: Storage, status: JobStatus) -> None:
    await bring(storage, job(), status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
    await storage.enqueue([job(day=1)])
    waits = status in ("pending", "processing")
    assert names(await claim(storage, key=job(day=1).dedup_key)) == ([] if waits else ["ann"])


async def test_slots_of_other_users_types_and_later_times_hold_nobody_up(storage: Storage) -> None:
    await storage.enqueue([job("bob"), job(type="weekly"), job(day=1), job(day=2)])
    got = await claim(storage, key=job(day=1).dedup_key)
    assert names(got) == ["ann"]


async def test_slots_with_one_time_of_delivery_do_not_wait_for_each_other(storage: Storage) -> None:
    tomorrow = job(day=1)
    twin = evolve(tomorrow, occurrence=evolve(tomorrow.occurrence, deliver_at=job().occurrence.deliver_at))
    await storage.enqueue([job(), twin])
    first = await claim_one(storage, job())
    assert await storage.finish(first, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + HOUR)))
    await storage.change([job().dedup_key], Change.REGENERATE)
    held = await claim_one(storage, twin)
    assert held.job.window == Window(NOW + HOUR, twin.window.end)


async def test_one_claim_takes_only_the_earliest_of_a_users_slots(storage: Storage) -> None:
    await storage.enqueue([job(day=day) for day in range(3)])
    for day in range(3):
        (held,) = (await claim(storage)).claims
        assert held.job.dedup_key == job(day=day).dedup_key
        assert await storage.finish(held, Finish(status=JobStatus.EMPTY))


async def test_an_expired_job_waits_too_if_an_earlier_slot_came_back(storage: Storage) -> None:
    await bring(storage, job(), JobStatus.FAILED)
    await storage.enqueue([job(day=1)])
    await claim_one(storage, job(day=1))
    await storage.change([job().dedup_key], Change.RETRY)
    (held,) = (await claim(storage, now=NOW + DAY)).claims
    assert held.job.dedup_key == job().dedup_key


async def test_the_first_claim_fixes_the_windows_start_where_the_last_saved_brief_ended(storage: Storage) -> None:
    for day, end in ((0, NOW + HOUR), (1, NOW + DAY + 2 * HOUR)):
        await storage.enqueue([job(day=day)])
        held = await claim_one(storage, job(day=day))
        done = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job, end=end))
        assert await storage.finish(held, done)
    # Neither other users nor other types count.
    for other in (job("bob", 2), job(day=2, type="weekly")):
        await storage.enqueue([other])
        held = await claim_one(storage, other)
        assert held.job.window == other.window
        assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job)))
    await storage.enqueue([job(day=3)])
    held = await claim_one(storage, job(day=3))
    assert held.job.window == Window(NOW + DAY + 2 * HOUR, job(day=3).window.end)
    assert await found(storage, held.job.dedup_key) == held.job


async def test_what_a_later_brief_has_covered_is_not_covered_again(storage: Storage) -> None:
    await storage.enqueue([job(day=1)])
    later = await claim_one(storage, job(day=1))
    assert await storage.finish(later, Finish(status=JobStatus.COMPLETED, brief=brief_of(later.job)))
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    assert held.job.window == Window(job().window.end, job().window.end)


async def test_a_fixed_window_is_reused_by_retries_releases_and_expired_leases(storage: Storage) -> None:
    slot = job(day=2)
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    # This brief would move the start if it were looked at again.
    await storage.enqueue([job()])
    early = await claim_one(storage, job())
    assert await storage.finish(early, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + 9 * HOUR)))
    assert await storage.retry(held, NOW, "error")
    held = await claim_one(storage, slot)
    assert held.job.window == slot.window
    await storage.release([held])
    assert (await claim_one(storage, slot)).job.window == slot.window
    assert (await claim_one(storage, slot, now=NOW + DAY)).job.window == slot.window


async def test_many_workers_at_once_never_get_the_same_job(storage: Storage) -> None:
    await storage.enqueue([job(f"u{number}") for number in range(200)])
    got: list[str] = []

    async def work() -> None:
        while claims := (await claim(storage, limit=7)).claims:
            got.extend(held.job.user_id for held in claims)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(work)
    assert (len(got), len(set(got))) == (200, 200)


async def test_of_many_who_claim_one_slot_one_wins(storage: Storage) -> None:
    await storage.enqueue([job()])
    got: list[Claim] = []

    async def work() -> None:
        got.extend((await claim(storage, key=job().dedup_key)).claims)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(work)
    assert len(got) == 1


async def test_a_heartbeat_moves_the_lease_and_records_progress(storage: Storage) -> None:
    await storage.enqueue([job("ann"), job("bob")])
    ann, bob = (await claim(storage)).claims
    step = Progress('sec"tions', 2, 5, 1)
    assert not await storage.heartbeat([evolve(ann, progress=step), bob], NOW + 5 * HOUR)
    assert (await found(storage, ann.job.dedup_key)).progress == step
    assert (await found(storage, bob.job.dedup_key)).progress is None
    assert (await claim(storage)).held_until == NOW + 5 * HOUR
    # A beat that has nothing to tell keeps what was told.
    assert not await storage.heartbeat([ann], NOW + 6 * HOUR)
    assert (await found(storage, ann.job.dedup_key)).progress == step
    taken = (await claim(storage, now=NOW + 6 * HOUR)).claims
    assert [held.progress for held in taken if held.job.user_id == "ann"] == [step]


async def test_a_heartbeat_keeps_a_claim_whose_lease_ended_but_that_nobody_took(storage: Storage) -> None:
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    assert not await storage.heartbeat([held], NOW + 5 * DAY)
    assert names(await claim(storage, now=NOW + 4 * DAY)) == []


async def test_a_heartbeat_names_the_claims_that_are_lost(storage: Storage) -> None:
    await storage.enqueue([job(name) for name in ("done", "fine", "gone", "taken")])
    done, fine, gone, taken = sorted((await claim(storage)).claims, key=lambda held: held.job.user_id)
    await storage.finish(done, Finish(status=JobStatus.EMPTY))
    await storage.forget("gone")
    await storage.heartbeat([fine], NOW + 3 * DAY)
    again = await claim_one(storage, job("taken"), now=NOW + DAY)
    lost = await storage.heartbeat([done, fine, gone, taken], NOW + 9 * DAY)
    assert set(lost) == {job(name).dedup_key for name in ("done", "gone", "taken")}
    # Beating for a lost claim does not prolong the winner's lease.
    assert (await claim(storage, now=NOW + DAY)).held_until == again.until
    assert not await storage.heartbeat([], NOW)


async def test_finishing_saves_status_brief_and_follow_ups_together(storage: Storage) -> None:
    slot = evolve(job(), reason="active")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job), code=None, error="one section failed")
    mail = job(type="mail")
    assert await storage.finish(held, end, [FollowUp(mail, b"\x00\xffpayload"), FollowUp(job(type="push"), b"")])
    done = evolve(held.job, status=JobStatus.COMPLETED, error="one section failed")
    assert await found(storage, slot.dedup_key) == done
    assert await storage.brief("daily", "ann") == brief_of(held.job)
    claims = (await claim(storage, types=["mail", "push"])).claims
    assert {held.job.type: held.payload for held in claims} == {"mail": b"\x00\xffpayload", "push": b""}
    assert next(held.job for held in claims if held.job.type == "mail") == evolve(
        mail, status=JobStatus.PROCESSING, attempts=1
    )


async def test_finishing_keeps_the_policys_reason_unless_it_brings_one(storage: Storage) -> None:
    for user_id, reason, kept in (("ann", None, "active"), ("bob", "cooling", "cooling")):
        await storage.enqueue([evolve(job(user_id), reason="active")])
        held = await claim_one(storage, job(user_id))
        code = SkipReason.SUPERSEDED
        assert await storage.finish(held, Finish(status=JobStatus.CANCELLED, code=code, reason=reason))
        back = await found(storage, job(user_id).dedup_key)
        assert (back.status, back.code, back.reason) == (JobStatus.CANCELLED, code, kept)


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.PROCESSING])
async def test_an_end_that_is_none_is_refused(storage: Storage, status: JobStatus) -> None:
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    with pytest.raises(ValueError, match="does not end a job"):
        await storage.finish(held, Finish(status=status))
    with pytest.raises(ValueError, match="new slots are pending"):
        await storage.finish(
            held, Finish(status=JobStatus.EMPTY), [FollowUp(job(type="mail", status=JobStatus.FAILED), b"")]
        )
    assert await found(storage, job().dedup_key) == held.job


RENEWED = {JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.FAILED, JobStatus.CANCELLED}


@pytest.mark.parametrize("status", JobStatus)
async def test_a_follow_up_renews_slots_as_the_table_says(storage: Storage, status: JobStatus) -> None:
    mail = job(type="mail")
    for day in (0, 1):
        await storage.enqueue([job(day=day)])
    first = await claim_one(storage, job())
    assert await storage.finish(first, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"old")])
    if status is not JobStatus.PENDING:
        held = await claim_one(storage, mail)
        if status is not JobStatus.PROCESSING:
            assert await storage.finish(held, Finish(status=status, code=SkipReason.OPTED_OUT, error="e"))
    before = await found(storage, mail.dedup_key)
    second = await claim_one(storage, job(day=1))
    renewal = evolve(mail, epoch=5, run_at=NOW + HOUR, reason="again", attempts=3)
    assert await storage.finish(second, Finish(status=JobStatus.EMPTY), [FollowUp(renewal, b"new")])
    after = await found(storage, mail.dedup_key)
    if status in RENEWED:
        assert after == evolve(renewal, attempts=0)
        assert (await claim_one(storage, mail)).payload == b"new"
    else:
        assert after == before
    if status is JobStatus.PROCESSING:
        (taken,) = (await claim(storage, now=NOW + DAY, types=["mail"])).claims
        assert taken.payload == b"old"


async def test_a_stale_token_changes_nothing(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    stale = await claim_one(storage, slot)
    current = await claim_one(storage, slot, now=NOW + DAY)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))
    assert not await storage.finish(stale, end, [FollowUp(job(type="mail"), b"mail")])
    assert not await storage.retry(stale, NOW, "error")
    await storage.release([stale])
    assert await found(storage, slot.dedup_key) == current.job
    assert await storage.brief("daily", "ann") is None
    assert await storage.find([job(type="mail").dedup_key]) == {}
    assert await storage.finish(current, end)


@pytest.mark.parametrize("status", [*set(JobStatus) - {JobStatus.PENDING, JobStatus.PROCESSING}, None])
async def test_a_claim_whose_job_left_processing_changes_nothing(storage: Storage, status: JobStatus | None) -> None:
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    if status is None:
        await storage.release([held])
    else:
        await storage.finish(held, Finish(status=status))
    before = await found(storage, slot.dedup_key)
    assert not await storage.finish(held, Finish(status=JobStatus.UNKNOWN, brief=brief_of(slot)))
    assert not await storage.retry(held, NOW, "error")
    await storage.release([held])
    assert await found(storage, slot.dedup_key) == before
    assert await storage.brief("daily", "ann") is None


async def test_retry_puts_the_job_back_until_then_and_keeps_the_error(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2))], NOW + HOUR)
    assert await storage.retry(held, NOW + HOUR, "boom\n'\";" + "é" * 100_000)
    text = "boom\n'\";" + "é" * 100_000
    assert await found(storage, slot.dedup_key) == evolve(slot, run_at=NOW + HOUR, error=text, attempts=1)
    assert names(await claim(storage, due_by=NOW + HOUR - MICROSECOND)) == []
    (again,) = (await claim(storage, due_by=NOW + HOUR)).claims
    assert (again.job.attempts, again.job.error) == (2, text)
    assert again.token > held.token


async def test_an_error_with_lone_surrogates_is_stored_readably(storage: Storage) -> None:
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    assert await storage.retry(held, NOW, "no file caf\udce9.txt")
    assert (await found(storage, job().dedup_key)).error == r"no file caf\udce9.txt"
    held = await claim_one(storage, job())
    assert await storage.finish(held, Finish(status=JobStatus.FAILED, error="caf\udce9", reason="\ud800"))
    back = await found(storage, job().dedup_key)
    assert (back.error, back.reason) == (r"caf\udce9", r"\ud800")


async def test_a_released_job_is_as_though_it_had_not_been_claimed(storage: Storage) -> None:
    await storage.enqueue([job("ann"), job("bob")])
    claims = (await claim(storage)).claims
    await storage.heartbeat([evolve(claims[0], progress=Progress("sections", 1, 2))], NOW + HOUR)
    await storage.release(claims)
    assert await storage.find([job("ann").dedup_key, job("bob").dedup_key]) == {
        job(name).dedup_key: job(name) for name in ("ann", "bob")
    }
    again = (await claim(storage)).claims
    assert sorted(names(await claim(storage, now=NOW + DAY))) == ["ann", "bob"]
    assert {held.token for held in again}.isdisjoint(held.token for held in claims)
    await storage.release([])


async def test_a_brief_is_found_by_date_or_as_the_latest(storage: Storage) -> None:
    for day in (1, 0, 2):
        slot = job(day=day)
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot, text=f"day {day}")))
    assert await storage.brief("daily", "ann") == brief_of(job(day=2), text="day 2")
    for day in range(3):
        saved = await storage.brief("daily", "ann", job(day=day).occurrence.local_date)
        assert saved == brief_of(job(day=day), text=f"day {day}")
    assert await storage.brief("daily", "ann", job(day=9).occurrence.local_date) is None
    assert await storage.brief("weekly", "ann") is None
    assert await storage.brief("daily", "bob", job().occurrence.local_date) is None


async def test_a_brief_comes_back_with_awkward_content_and_instants_in_utc(storage: Storage) -> None:
    zone = ZoneInfo("America/New_York")
    slot = job("日本語 '\" 😀")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    window = Window(datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=zone), datetime.max.replace(tzinfo=UTC))
    section = Section(project_id="p", title="\ud800 lone", text="x" * 1_000_000 + "\0")
    brief = evolve(brief_of(slot), window=window, sections=[section])
    assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief))
    back = await storage.brief("daily", slot.user_id)
    assert back is not None
    assert back.sections == (section,)
    assert back.window.start == datetime(2026, 11, 1, 6, 30, tzinfo=UTC)
    assert back.window.end == window.end


async def test_a_regenerated_brief_replaces_the_one_of_the_earlier_epoch(storage: Storage) -> None:
    slot = job()
    await storage.enqueue([slot])
    for epoch in (1, 2):
        held = await claim_one(storage, slot)
        assert held.job.epoch == epoch
        brief = brief_of(held.job, text=f"epoch {epoch}")
        assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief))
        assert await storage.brief("daily", "ann") == brief
        await storage.change([slot.dedup_key], Change.REGENERATE)


async def test_a_finish_cancelled_half_way_is_wholly_done_or_not_at_all(storage: Storage) -> None:
    slot, mail = job(), job(type="mail")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.finish, held, end, [FollowUp(mail, b"mail")])
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    done = (await found(storage, slot.dedup_key)).status is JobStatus.COMPLETED
    assert (await storage.brief("daily", "ann") is not None) is done
    assert (mail.dedup_key in await storage.find([mail.dedup_key])) is done
    assert await storage.finish(held, end) is not done
