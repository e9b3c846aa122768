"""Clauses of ``ports.Oversight`` about the end of a pause."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from attrs import evolve

from fanout_briefs.model import Demand, Finish, JobStatus, Progress, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, EVER, HOUR, MICROSECOND, NOW, bring, claim_one, claimable, found, job


@storage_kit.clause("resuming.nothing-paused-nothing-changed")
async def _where_nothing_is_paused_nothing_is_changed(storage: Storage) -> None:
    """Where nothing is paused, resuming says so and changes nothing."""
    skipped = job(status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
    await storage.enqueue([skipped, job("bob")])
    same(await storage.resume(["daily"], since=EVER), None)
    same(await storage.resume([], since=EVER), None)
    same(await storage.resume(["daily"], since=NOW + 9 * DAY), None)
    keys = [skipped.dedup_key, job("bob").dedup_key]
    same(await storage.find(keys), dict(zip(keys, [skipped, job("bob")], strict=True)))


@storage_kit.clause("resuming.ends-the-pause-once")
async def _it_ends_the_pause_once(storage: Storage) -> None:
    """Resuming ends the pause, once."""
    await storage.enqueue([job()])
    await storage.pause(["daily"], NOW)
    same(await storage.resume(["daily"], since=NOW), 0)
    same(await storage.paused(["daily"]), {})
    same(await storage.resume(["daily"], since=NOW), None)
    same(await claimable(storage, "daily"), ["daily ann"])
    same(await storage.pause(["daily"], NOW + DAY), True)


@storage_kit.clause("resuming.timely-slots-become-pending")
async def _slots_to_be_delivered_from_then_on_become_pending(storage: Storage) -> None:
    """Slots skipped as paused that are to be delivered from then on become pending, and older ones stay."""
    since = job().occurrence.deliver_at
    timely, late = job("timely"), job("late")
    late = evolve(late, occurrence=evolve(late.occurrence, deliver_at=since - MICROSECOND))
    await storage.pause(["daily"], NOW)
    await storage.enqueue([timely, late])
    same(await storage.resume(["daily"], since=since.astimezone(ZoneInfo("Asia/Tokyo"))), 1)
    same(await found(storage, timely.dedup_key), evolve(timely, epoch=2))
    skipped = evolve(late, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
    same(await found(storage, late.dedup_key), skipped)


@storage_kit.clause("resuming.begins-a-new-epoch", each=[JobStatus.SKIPPED, JobStatus.CANCELLED])
async def _a_resumed_slot_has_nothing_of_its_old_epoch(storage: Storage, status: JobStatus) -> None:
    """A resumed slot begins a new epoch, with nothing of the old one."""
    slot = evolve(job(demand=Demand.RUN), reason="active")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    same(await storage.retry(held, NOW, "error"), True)
    held = await claim_one(storage, slot)
    await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2))], NOW + HOUR)
    paused = Finish(status=status, code=SkipReason.PAUSED, error="error", reason="paused")
    same(await storage.finish(held, paused), True)
    await storage.pause(["daily"], NOW)
    same(await storage.resume(["daily"], since=NOW), 1)
    same(await found(storage, slot.dedup_key), evolve(job(), epoch=2))
    again = await claim_one(storage, slot)
    same((again.job.attempts, again.token > held.token), (1, True))


@storage_kit.clause("resuming.late-slots-are-cancelled")
async def _pending_slots_to_be_delivered_before_are_cancelled(storage: Storage) -> None:
    """Pending slots that were to be delivered before then are cancelled."""
    since = job().occurrence.deliver_at
    timely, late = job("timely"), evolve(job("late"), reason="active")
    late = evolve(late, occurrence=evolve(late.occurrence, deliver_at=since - MICROSECOND))
    await storage.enqueue([timely, late])
    await storage.pause(["daily"], NOW)
    same(await storage.resume(["daily"], since=since), 0)
    same(await found(storage, timely.dedup_key), timely)
    cancelled = evolve(late, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)
    same(await found(storage, late.dedup_key), cancelled)
    same(await claimable(storage, "daily"), ["daily timely"])


@storage_kit.clause("resuming.demanded-is-left-alone", each=Demand)
async def _what_is_demanded_is_left_alone(storage: Storage, demand: Demand) -> None:
    """What is demanded is left alone by resuming."""
    slot = job(demand=demand)
    await storage.enqueue([slot])
    await storage.pause(["daily"], NOW)
    same(await storage.resume(["daily"], since=NOW + 9 * DAY), 0)
    same(await found(storage, slot.dedup_key), slot)


@storage_kit.clause("resuming.others-are-left-alone")
async def _slots_in_other_states_and_with_other_codes_are_left_alone(storage: Storage) -> None:
    """Slots in other states, and with other codes, are left alone by resuming."""
    states = [(status, None) for status in JobStatus if status not in (JobStatus.PENDING, JobStatus.SKIPPED)]
    codes = [(status, SkipReason.WITHDRAWN) for status in (JobStatus.SKIPPED, JobStatus.CANCELLED)]
    odd = [(JobStatus.FAILED, SkipReason.PAUSED)]
    slots = [job(f"u{number}") for number in range(9)]
    for slot, (status, code) in zip(slots, [*states, *codes, *odd], strict=True):
        await bring(storage, slot, status, code)
    keys = [slot.dedup_key for slot in slots]
    before = await storage.find(keys)
    for since in (EVER, NOW + 9 * DAY):
        await storage.pause(["daily"], NOW)
        same(await storage.resume(["daily"], since=since), 0)
        same(await storage.find(keys), before)


@storage_kit.clause("resuming.only-paused-types")
async def _only_types_that_were_paused_are_resumed(storage: Storage) -> None:
    """Only types that were paused are resumed."""
    daily, weekly = (job(type=kind, status=JobStatus.SKIPPED, code=SkipReason.PAUSED) for kind in ("daily", "weekly"))
    old = job("bob", type="weekly")
    await storage.enqueue([daily, weekly, old])
    await storage.pause(["daily", "mail"], NOW)
    same(await storage.resume(["daily", "weekly"], since=NOW + HOUR), 1)
    same(await storage.resume(["weekly"], since=NOW + DAY), None)
    same(await found(storage, weekly.dedup_key), weekly)
    same(await found(storage, old.dedup_key), old)
    same(await storage.paused(["daily", "mail"]), {"mail": NOW})


@storage_kit.clause("resuming.workers-keep-what-they-hold")
async def _a_worker_that_holds_a_slot_through_a_pause_keeps_it(storage: Storage) -> None:
    """A worker that holds a slot through a pause keeps it."""
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    await storage.pause(["daily"], NOW)
    await storage.resume(["daily"], since=NOW + 9 * DAY)
    same(set(await storage.heartbeat([held], NOW + DAY)), set[str]())
    same(await storage.finish(held, Finish(status=JobStatus.EMPTY)), True)
