"""Clauses of ``ports.Work`` about saved briefs."""

from __future__ import annotations

from fanout_briefs.model import Change, Finish, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import brief_of, claim_one, job


@storage_kit.clause("work.brief.by-date-or-latest")
async def _a_brief_is_found_by_date_or_as_the_latest(storage: Storage) -> None:
    """A brief is found by its date, or as the latest one by its delivery."""
    for day in (1, 2, 0):
        slot = job(day=day)
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        same(
            await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot, text=f"day {day}"))),
            True,
        )
    same(await storage.brief("daily", "ann"), brief_of(job(day=2), text="day 2"))
    for day in range(3):
        saved = await storage.brief("daily", "ann", job(day=day).occurrence.local_date)
        same(saved, brief_of(job(day=day), text=f"day {day}"))
    same(await storage.brief("daily", "ann", job(day=9).occurrence.local_date), None)
    same(await storage.brief("weekly", "ann"), None)
    same(await storage.brief("daily", "bob", job().occurrence.local_date), None)


@storage_kit.clause("work.brief.regenerated-replaces")
async def _a_regenerated_brief_replaces_the_one_of_the_earlier_epoch(storage: Storage) -> None:
    """A brief that is made again replaces the one of the earlier epoch."""
    slot = job()
    await storage.enqueue([slot])
    for epoch in (1, 2):
        held = await claim_one(storage, slot)
        same(held.job.epoch, epoch)
        brief = brief_of(held.job, text=f"epoch {epoch}")
        same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief)), True)
        same(await storage.brief("daily", "ann"), brief)
        await storage.change([slot.dedup_key], Change.REGENERATE)
