"""Clauses of ``ports.StandingLedger``, for storages that tell how slots stand for less than their jobs."""

from __future__ import annotations

from attrs import evolve

from fanout_briefs.model import Change, Finish, JobStatus, SkipReason, Standing
from fanout_briefs.testing.checks import holds, same
from fanout_briefs.testing.kits import StorageWithStandings, storage_kit
from fanout_briefs.testing.slots import claim_one, job

_NEEDS = ("standings",)


@storage_kit.clause("standings.as-find-has-it", needs=_NEEDS)
async def _standings_are_what_find_has(storage: StorageWithStandings) -> None:
    """Standings tell of each slot what ``find`` does, in every state; slots that do not exist are absent."""
    same(storage.tells_standings, True)
    skipped = evolve(job("eve", status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT), reason="cooling_off")
    slots = [job("ann"), job("bob"), job("c:d"), job("Ä😀"), skipped, job("ann", 1, type="weekly")]
    await storage.enqueue(slots)
    await storage.finish(await claim_one(storage, slots[0]), Finish(status=JobStatus.FAILED, error="the disk is full"))
    await claim_one(storage, slots[1])
    await storage.change([job("c:d").dedup_key], Change.CANCEL)
    keys = [slot.dedup_key for slot in slots]
    found = await storage.find(keys)
    same({slot.status for slot in found.values()} >= {JobStatus.FAILED, JobStatus.PROCESSING, JobStatus.SKIPPED}, True)
    told = await storage.standings([*keys, job("nobody").dedup_key, "nul\0", "\ud800"])
    same(dict(told), {key: Standing.of(slot) for key, slot in found.items()})
    same({key: slot.can_be_taken_up for key, slot in told.items()}, {key: found[key].can_be_taken_up for key in found})


@storage_kit.clause("costs.standings", needs=(*_NEEDS, "trace"))
async def _standings_cost_as_many_statements(storage: StorageWithStandings, statements: list[str]) -> None:
    """Standings cost as many statements however many are asked for."""
    keys = [job(f"user{number}").dedup_key for number in range(1_000)]
    costs: list[int] = []
    for size in (2, len(keys)):
        statements.clear()
        await storage.standings(keys[:size])
        costs.append(len(statements))
    holds(costs[0] > 0, "`trace` is called with each statement")
    same(costs[1], costs[0])
