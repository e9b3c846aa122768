"""Clauses about what a person asks for by hand."""

from __future__ import annotations

from attrs import evolve

from fanout_briefs.model import Change, Demand, Enqueued, Finish, FollowUp, JobStatus, Progress, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, bring, claim_one, found, job


@storage_kit.clause("demand.stays-through-attempts", each=Demand)
async def _it_stays_with_the_slot_through_every_attempt(storage: Storage, demand: Demand) -> None:
    """A demand stays with the slot through every attempt."""
    slot = job(demand=demand)
    await storage.enqueue([slot])
    same(await found(storage, slot.dedup_key), slot)
    held = await claim_one(storage, slot)
    same(held.job.demand, demand)
    same(await storage.retry(held, NOW, "error"), True)
    held = await claim_one(storage, slot)
    await storage.release([held])
    held = await claim_one(storage, slot)
    same(held.job.demand, demand)
    same(await storage.finish(held, Finish(status=JobStatus.FAILED)), True)
    same((await found(storage, slot.dedup_key)).demand, demand)


@storage_kit.clause(
    "demand.set-by-changes",
    each=[
        (*change, old)
        for old in (None, *Demand)
        for change in (
            (Change.RETRY, JobStatus.FAILED, Demand.RUN),
            (Change.REGENERATE, JobStatus.COMPLETED, Demand.RUN),
            (Change.RESEND, JobStatus.COMPLETED, Demand.RESEND),
        )
    ],
)
async def _a_change_by_hand_sets_it(
    storage: Storage, change: Change, status: JobStatus, demand: Demand, old: Demand | None
) -> None:
    """A change by hand sets the demand."""
    slot = job(demand=old)
    await bring(storage, slot, status)
    same(set(await storage.change([slot.dedup_key], change)), {slot.dedup_key})
    same(await found(storage, slot.dedup_key), evolve(slot, demand=demand, epoch=2))


@storage_kit.clause("demand.cancelling-asks-for-nothing")
async def _cancelling_asks_for_nothing(storage: Storage) -> None:
    """Cancelling asks for nothing."""
    await storage.enqueue([job()])
    await storage.change([job().dedup_key], Change.CANCEL)
    same((await found(storage, job().dedup_key)).demand, None)


@storage_kit.clause("demand.takes-up-what-nobody-holds", each=JobStatus)
async def _enqueueing_on_demand_takes_up_any_slot_that_nobody_holds(storage: Storage, status: JobStatus) -> None:
    """Enqueueing on demand takes up any slot that nobody holds."""
    old = evolve(job(), reason="active")
    held = await bring(storage, old, status, SkipReason.WITHDRAWN if status in ("cancelled", "skipped") else None)
    before = await found(storage, old.dedup_key)
    now = evolve(job(run_at=NOW + HOUR, demand=Demand.RUN), occurrence=evolve(old.occurrence, deliver_at=NOW))
    (outcome,) = await storage.enqueue([now])
    if status is JobStatus.PROCESSING:
        same((outcome, await found(storage, old.dedup_key)), (Enqueued.DUPLICATE, before))
        return
    same((outcome, await found(storage, old.dedup_key)), (Enqueued.TAKEN_UP, evolve(now, epoch=2)))
    if held is not None:
        same(await storage.finish(held, Finish(status=JobStatus.EMPTY)), False)
    same((await claim_one(storage, now)).job.demand, Demand.RUN)


@storage_kit.clause("demand.skipped-takes-up-nothing")
async def _a_skipped_job_takes_up_nothing_even_on_demand(storage: Storage) -> None:
    """A skipped job takes up nothing, even on demand."""
    await bring(storage, job(), JobStatus.FAILED)
    before = await found(storage, job().dedup_key)
    skipped = job(status=JobStatus.SKIPPED, code=SkipReason.MISSED, demand=Demand.RUN)
    same(await storage.enqueue([skipped]), [Enqueued.DUPLICATE])
    same(await found(storage, job().dedup_key), before)


@storage_kit.clause("demand.ended-by-a-plan")
async def _a_plan_that_takes_up_a_slot_ends_it(storage: Storage) -> None:
    """A plan that takes up a slot ends the demand."""
    await bring(storage, job(demand=Demand.RESEND), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    same(await storage.enqueue([job()]), [Enqueued.TAKEN_UP])
    same(await found(storage, job().dedup_key), evolve(job(), epoch=2))


@storage_kit.clause("demand.resend.renews-any-follow-up", each=JobStatus)
async def _they_are_renewed_whatever_became_of_the_first(storage: Storage, status: JobStatus) -> None:
    """A follow-up that is to be sent again is renewed, whatever became of the first."""
    mail = job(type="mail")
    held = await bring(storage, mail, status, SkipReason.OPTED_OUT if status is JobStatus.SKIPPED else None)
    if status is JobStatus.PROCESSING and held is not None:
        await storage.heartbeat([evolve(held, progress=Progress("sending"))], NOW + HOUR)
    renewal = evolve(job(type="mail", run_at=NOW + HOUR, demand=Demand.RESEND), epoch=5, attempts=3)
    await storage.enqueue([job()])
    brief = await claim_one(storage, job())
    same(await storage.finish(brief, Finish(status=JobStatus.EMPTY), [FollowUp(renewal, b"new")]), True)
    same(await found(storage, mail.dedup_key), evolve(renewal, attempts=0))
    again = await claim_one(storage, mail)
    same((again.payload, again.job.demand, again.progress), (b"new", Demand.RESEND, None))


@storage_kit.clause("demand.resend.claims-are-lost")
async def _whoever_held_the_first_has_lost_it(storage: Storage) -> None:
    """Whoever held a follow-up that is to be sent again has lost it."""
    mail = job(type="mail")
    await storage.enqueue([mail, job()])
    held = await claim_one(storage, mail)
    renewal = FollowUp(job(type="mail", demand=Demand.RESEND), b"new")
    await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [renewal])
    for again in (None, await claim_one(storage, mail)):
        same(set(await storage.heartbeat([held], NOW + DAY)), {mail.dedup_key})
        same(await storage.retry(held, NOW, "error"), False)
        await storage.release([held])
        same(await storage.finish(held, Finish(status=JobStatus.COMPLETED)), False)
        if again is not None:
            same(await found(storage, mail.dedup_key), again.job)


@storage_kit.clause(
    "demand.run.renews-no-ended-follow-up", each=[JobStatus.COMPLETED, JobStatus.UNKNOWN, JobStatus.PROCESSING]
)
async def _those_that_only_run_again_are_not(storage: Storage, status: JobStatus) -> None:
    """A follow-up that is only to run again is not renewed once it is out, unknown or held."""
    mail = job(type="mail")
    await bring(storage, mail, status)
    before = await found(storage, mail.dedup_key)
    await storage.enqueue([job()])
    again = FollowUp(job(type="mail", demand=Demand.RUN), b"new")
    same(await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [again]), True)
    same(await found(storage, mail.dedup_key), before)
