"""Clauses about many who call at once."""

from __future__ import annotations

from datetime import timedelta

import anyio

from fanout_briefs.model import Claim, Enqueued, Job, JobStatus, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import NOW, claim, found, job


@storage_kit.clause("at-once.mark.furthest-stays")
async def _many_who_advance_a_mark_at_once_leave_the_furthest(storage: Storage) -> None:
    """Of many who advance a mark at once, the furthest stays."""
    await storage.advance("daily", start=NOW)
    for turn in range(10):  # who comes last may be the furthest by chance
        begin = NOW + timedelta(hours=turn)
        async with anyio.create_task_group() as tasks:
            for minutes in (3, 9, 1, 7, 5):
                tasks.start_soon(storage.advance, "daily", begin + timedelta(minutes=minutes))
        same(await storage.advance("daily"), begin + timedelta(minutes=9))


@storage_kit.clause("at-once.planners.one-slot-each")
async def _two_planners_at_once_make_one_slot_each(storage: Storage) -> None:
    """Of many planners who enqueue the same slots at once, one creates each."""
    jobs = [job(f"user{number}") for number in range(300)]
    outcomes: list[Enqueued] = []

    async def plan(batch: list[Job]) -> None:
        outcomes.extend(await storage.enqueue(batch))

    async with anyio.create_task_group() as tasks:
        for batch in (jobs, jobs[::-1], jobs[100:], jobs[:200]):
            tasks.start_soon(plan, batch)
    same(outcomes.count(Enqueued.CREATED), 300)
    same(len(await storage.find([slot.dedup_key for slot in jobs])), 300)


@storage_kit.clause("at-once.planners.one-takes-up")
async def _of_many_planners_who_take_up_a_slot_one_does(storage: Storage) -> None:
    """Of many planners who take up a slot at once, one does, and its epoch rises by one."""
    await storage.enqueue([job(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    outcomes: list[Enqueued] = []

    async def plan() -> None:
        outcomes.extend(await storage.enqueue([job()]))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(plan)
    same(sorted(outcomes), [Enqueued.DUPLICATE] * 7 + [Enqueued.TAKEN_UP])
    same((await found(storage, job().dedup_key)).epoch, 2)


@storage_kit.clause("at-once.claim.never-the-same-job")
async def _many_workers_at_once_never_get_the_same_job(storage: Storage) -> None:
    """Many workers at once never get the same job, and together they get all."""
    await storage.enqueue([job(f"u{number}") for number in range(200)])
    got: list[str] = []

    async def work() -> None:
        # Whoever gives a job twice might do so for good.
        while len(got) <= 200 and (claims := (await claim(storage, limit=7)).claims):
            got.extend(held.job.user_id for held in claims)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(work)
    same((len(got), len(set(got))), (200, 200))


@storage_kit.clause("at-once.claim.one-wins")
async def _of_many_who_claim_one_slot_one_wins(storage: Storage) -> None:
    """Of many who claim one slot at once, one wins."""
    await storage.enqueue([job()])
    got: list[Claim] = []

    async def work() -> None:
        got.extend((await claim(storage, key=job().dedup_key)).claims)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(work)
    same(len(got), 1)
