"""Clauses of ``ports.Oversight`` about erasing what is old."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from attrs import evolve

from fanout_briefs.model import LIVE, Change, Claim, Finish, FollowUp, JobStatus, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, NOW, brief_of, briefed, bring, claim_one, finished, found, job


@storage_kit.clause("prune.latest-stays")
async def _what_ended_before_then_is_erased_and_the_latest_stays(storage: Storage) -> None:
    """What ended before then is erased, and the latest slot stays."""
    for day in range(4):
        await bring(storage, job(day=day), JobStatus.EMPTY)
    before = job(day=2).occurrence.deliver_at
    same(await storage.prune(["daily"], before.astimezone(ZoneInfo("Asia/Tokyo")), 9), 2)
    keys = [job(day=day).dedup_key for day in range(4)]
    same(set(await storage.find(keys)), set(keys[2:]))
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 1)
    same(set(await storage.find(keys)), set(keys[3:]))
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 0)


@storage_kit.clause("prune.live-slots-stay", each=JobStatus)
async def _live_slots_are_never_erased(storage: Storage, status: JobStatus) -> None:
    """Live slots are never erased."""
    await storage.enqueue([job(day=1, status=JobStatus.SKIPPED, code=SkipReason.MISSED)])
    await bring(storage, job(day=2), JobStatus.COMPLETED)
    await bring(storage, job(), status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
    before = await found(storage, job().dedup_key)
    lives = status in LIVE
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 1 if lives else 2)
    same(await storage.find([job().dedup_key]), {job().dedup_key: before} if lives else {})


@storage_kit.clause("prune.no-more-than-the-limit")
async def _no_more_than_the_limit_at_once(storage: Storage) -> None:
    """No more than the limit is erased at once."""
    for number in range(3):
        for day in range(3):
            await bring(storage, job(f"u{number}", day), JobStatus.EMPTY)
    erased = [await storage.prune(["daily"], NOW + 99 * DAY, 4) for _ in range(3)]
    same(erased, [4, 2, 0])


@storage_kit.clause("prune.each-type-for-itself")
async def _other_types_are_left_alone_and_each_type_has_a_latest(storage: Storage) -> None:
    """Other types are left alone, and each type has a latest slot."""
    for kind in ("daily", "mail", "weekly"):
        for day in range(2):
            await bring(storage, job(day=day, type=kind), JobStatus.EMPTY)
    same(await storage.prune(["daily", "mail", "daily"], NOW + 99 * DAY, 9), 2)
    keys = [job(day=day, type=kind).dedup_key for kind in ("daily", "mail", "weekly") for day in range(2)]
    same(set(await storage.find(keys)), {keys[1], keys[3], keys[4], keys[5]})
    same(await storage.prune([], NOW + 99 * DAY, 9), 0)


@storage_kit.clause("prune.of-equals-one-stays")
async def _of_slots_with_one_time_of_delivery_one_stays(storage: Storage) -> None:
    """Of slots with one time of delivery one stays, the last by its key."""
    twin = evolve(job(day=1), occurrence=evolve(job(day=1).occurrence, deliver_at=job().occurrence.deliver_at))
    for slot in (job(), twin):
        await bring(storage, slot, JobStatus.EMPTY)
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 1)
    same(set(await storage.find([job().dedup_key, twin.dedup_key])), {twin.dedup_key})


@storage_kit.clause("prune.briefs-go-too")
async def _briefs_go_with_their_slots_and_the_latest_stays(storage: Storage) -> None:
    """Briefs go with their slots, and the latest stays."""
    for day in range(3):
        await briefed(storage, job(day=day))
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 2)
    for day in range(2):
        same(await storage.brief("daily", "ann", job(day=day).occurrence.local_date), None)
    same(await storage.brief("daily", "ann"), brief_of(job(day=2)))


@storage_kit.clause("prune.last-brief-stays")
async def _whoever_was_skipped_since_keeps_their_last_brief_and_its_slot(storage: Storage) -> None:
    """Whoever was skipped since keeps their last brief and its slot, by which engagement and windows go."""
    for day in (0, 1):
        await briefed(storage, job(day=day))
    skipped = [job(day=day, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT) for day in range(2, 5)]
    await storage.enqueue(skipped)
    last = job(day=1).occurrence.deliver_at
    same(await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}), {"ann": last})
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 3)
    same(await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}), {"ann": last})
    same(await storage.brief("daily", "ann"), brief_of(job(day=1)))
    await storage.enqueue([job(day=6)])
    same((await claim_one(storage, job(day=6))).job.window.start, job(day=1).window.end)


@storage_kit.clause("prune.last-brief-goes-once-replaced")
async def _the_last_brief_is_erased_once_there_is_a_later_one(storage: Storage) -> None:
    """The last brief is erased once there is a later one."""
    await briefed(storage, job())
    await storage.enqueue([job(day=1, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 0)
    await briefed(storage, job(day=2))
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 2)
    same(await storage.brief("daily", "ann", job().occurrence.local_date), None)


@storage_kit.clause("prune.latest-brief-of-a-failure-stays")
async def _a_brief_that_is_being_made_again_keeps_its_slot_however_that_ends(storage: Storage) -> None:
    """A brief that is being made again keeps its slot, however that ends."""
    await briefed(storage, job())
    await briefed(storage, job(day=1))
    await storage.change([job(day=1).dedup_key], Change.REGENERATE)
    await finished(storage, job(day=1), Finish(status=JobStatus.FAILED))
    await storage.enqueue([job(day=2, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 0)
    same(await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}), {"ann": job().occurrence.deliver_at})
    same(await storage.brief("daily", "ann"), brief_of(job(day=1)))


@storage_kit.clause("prune.payloads-go-too")
async def _the_payload_goes_with_its_slot(storage: Storage) -> None:
    """The payload goes with its slot."""
    mail = job(type="mail")
    await storage.enqueue([job()])
    await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"mail")])
    await finished(storage, mail, Finish(status=JobStatus.FAILED))
    await bring(storage, job(day=1, type="mail"), JobStatus.EMPTY)
    same(await storage.prune(["mail"], NOW + 99 * DAY, 9), 1)
    await storage.enqueue([mail])
    same((await claim_one(storage, mail)).payload, None)


@storage_kit.clause("prune.tokens-never-return")
async def _a_claim_from_before_does_not_fit_the_same_slot_planned_again(storage: Storage) -> None:
    """A claim from before a prune does not fit the same slot when it is planned again."""
    await storage.enqueue([job()])
    stale: list[Claim] = [await claim_one(storage, job(), now=NOW + turn * DAY) for turn in range(3)]
    await storage.finish(stale[-1], Finish(status=JobStatus.EMPTY))
    await bring(storage, job(day=1), JobStatus.EMPTY)
    same(await storage.prune(["daily"], NOW + 99 * DAY, 9), 1)
    await storage.enqueue([job()])
    new = await claim_one(storage, job())
    holds(all(new.token > old.token for old in stale), "a token higher than any before, erased or not")
    same(any([await storage.finish(old, Finish(status=JobStatus.FAILED)) for old in stale]), False)
    same(await storage.finish(new, Finish(status=JobStatus.EMPTY)), True)
