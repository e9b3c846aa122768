"""Clauses about calls that are cancelled half-way."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from fanout_briefs.model import Enqueued, Finish, FollowUp, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import brief_of, claim_one, found, job


@storage_kit.clause("cancelling.enqueue.old-or-new")
async def _a_cancelled_enqueue_leaves_each_slot_old_or_new_and_can_be_repeated(storage: Storage) -> None:
    """An enqueue that is cancelled leaves each slot wholly old or wholly new, and can be repeated."""
    jobs = [job(f"user{number}") for number in range(5_000)]
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.enqueue, jobs)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    stored = await storage.find([slot.dedup_key for slot in jobs])
    same(stored, {slot.dedup_key: slot for slot in jobs if slot.dedup_key in stored})
    outcomes = await storage.enqueue(jobs)
    same(outcomes.count(Enqueued.CREATED), 5_000 - len(stored))
    same(len(await storage.find([slot.dedup_key for slot in jobs])), 5_000)


@storage_kit.clause("cancelling.finish.whole-or-not-at-all")
async def _a_finish_cancelled_half_way_is_wholly_done_or_not_at_all(storage: Storage) -> None:
    """A finish that is cancelled half-way is wholly done, or not at all."""
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
    same(await storage.brief("daily", "ann") is not None, done)
    same(mail.dedup_key in await storage.find([mail.dedup_key]), done)
    same(await storage.finish(held, end), not done)
