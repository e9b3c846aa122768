"""Clauses of ``ports.Oversight`` about pauses, and what happens meanwhile."""

from __future__ import annotations

from datetime import UTC
from zoneinfo import ZoneInfo

from attrs import evolve

from fanout_briefs.model import Change, Demand, Enqueued, Finish, FollowUp, JobStatus, SkipReason, Window
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, bring, claim, claim_one, claimable, found, job


@storage_kit.clause("pausing.pause.nobody-claims")
async def _nobody_claims_jobs_of_a_paused_type_and_others_go_on(storage: Storage) -> None:
    """Nobody claims jobs of a paused type, and others go on."""
    await storage.enqueue([job(type=kind) for kind in ("daily", "mail", "weekly")])
    same(await storage.pause(["daily", "mail"], NOW), True)
    same(await claimable(storage, "daily", "mail", "weekly"), ["weekly ann"])
    same(await claimable(storage, "daily"), [])


@storage_kit.clause("pausing.pause.nor-by-key")
async def _a_key_claims_nothing_of_a_paused_type_either(storage: Storage) -> None:
    """A key claims nothing of a paused type either."""
    await storage.enqueue([job(), job(type="weekly")])
    await storage.pause(["daily"], NOW)
    same((await claim(storage, key=job().dedup_key)).claims, [])
    same((await claim_one(storage, job(type="weekly"))).job.type, "weekly")


@storage_kit.clause("pausing.pause.nor-expired-leases")
async def _nobody_takes_over_an_expired_lease_of_a_paused_type(storage: Storage) -> None:
    """Nobody takes over an expired lease of a paused type."""
    await storage.enqueue([job(), job(type="weekly")])
    await claim(storage, types=["daily", "weekly"])
    await storage.pause(["daily"], NOW)
    same(await claimable(storage, "daily", "weekly", now=NOW + DAY), ["weekly ann"])
    same((await claim(storage, now=NOW + DAY, key=job().dedup_key)).claims, [])


@storage_kit.clause("pausing.pause.no-lease-to-wait-for")
async def _there_is_no_lease_to_wait_for_in_a_paused_type(storage: Storage) -> None:
    """There is no lease to wait for in a paused type."""
    await storage.enqueue([job()])
    await claim(storage)
    await storage.pause(["daily"], NOW)
    same((await claim(storage)).held_until, None)


@storage_kit.clause("pausing.pause.what-is-held-goes-on")
async def _what_is_held_goes_on_to_its_end(storage: Storage) -> None:
    """What is held when a pause begins goes on to its end."""
    await storage.enqueue([job(name) for name in ("beats", "ends", "retried", "let-go")])
    held = {each.job.user_id: each for each in (await claim(storage)).claims}
    await storage.pause(["daily"], NOW)
    same(set(await storage.heartbeat([held["beats"]], NOW + 9 * HOUR)), set[str]())
    mail = FollowUp(job("ends", type="mail"), b"mail")
    same(await storage.finish(held["ends"], Finish(status=JobStatus.EMPTY), [mail]), True)
    same(await storage.retry(held["retried"], NOW, "later"), True)
    await storage.release([held["let-go"]])
    states = await storage.find([each.job.dedup_key for each in held.values()])
    same(
        {each.user_id: each.status for each in states.values()},
        {
            "beats": JobStatus.PROCESSING,
            "ends": JobStatus.EMPTY,
            "retried": JobStatus.PENDING,
            "let-go": JobStatus.PENDING,
        },
    )
    same(await claimable(storage, "daily"), [])


@storage_kit.clause("pausing.pause.changes-no-slot")
async def _a_pause_changes_no_slot(storage: Storage) -> None:
    """A pause changes no slot."""
    await storage.enqueue([job("ann"), job("bob")])
    held = await claim_one(storage, job("bob"))
    await storage.pause(["daily"], NOW)
    same(await found(storage, job("ann").dedup_key), job("ann"))
    same(await found(storage, job("bob").dedup_key), held.job)


@storage_kit.clause("pausing.pause.follow-ups-wait")
async def _a_follow_up_of_a_paused_type_is_queued_and_waits(storage: Storage) -> None:
    """A follow-up of a paused type is queued, and waits."""
    await storage.pause(["mail"], NOW)
    mail = job(type="mail")
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    same(await storage.finish(held, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"mail")]), True)
    same(await found(storage, mail.dedup_key), mail)
    same(await claimable(storage, "mail"), [])
    await storage.resume(["mail"], since=NOW)
    same((await claim_one(storage, mail)).payload, b"mail")


@storage_kit.clause("pausing.pause.twice-keeps-the-first-moment")
async def _pausing_twice_says_so_and_keeps_the_first_moment(storage: Storage) -> None:
    """Pausing twice says so, and keeps the first moment."""
    same(await storage.pause(["daily"], NOW), True)
    same(await storage.pause(["daily"], NOW + HOUR), False)
    same(await storage.paused(["daily"]), {"daily": NOW})


@storage_kit.clause("pausing.pause.begins-for-those-that-ran")
async def _a_pause_of_several_types_begins_for_those_that_ran(storage: Storage) -> None:
    """A pause of several types begins for those that ran."""
    await storage.pause(["daily"], NOW)
    same(await storage.pause(["daily", "mail"], NOW + HOUR), True)
    same(await storage.paused(["daily", "mail"]), {"daily": NOW, "mail": NOW + HOUR})
    same(await storage.pause(["daily", "mail"], NOW + DAY), False)
    same(await storage.pause([], NOW), False)


@storage_kit.clause("pausing.paused.types-asked-for-in-utc")
async def _paused_tells_of_the_types_asked_for_and_in_utc(storage: Storage) -> None:
    """``paused`` tells of the types asked for, in UTC."""
    same(await storage.paused(["daily"]), {})
    await storage.pause(["daily", "mail"], NOW.astimezone(ZoneInfo("Asia/Tokyo")))
    since = await storage.paused(["daily", "weekly", "daily"])
    same(since, {"daily": NOW})
    same(since["daily"].tzinfo, UTC)
    same(await storage.paused([]), {})


@storage_kit.clause("pausing.enqueue.new-slots-are-skipped")
async def _a_new_slot_is_recorded_as_skipped(storage: Storage) -> None:
    """A slot that is new while its type is paused is recorded as skipped."""
    await storage.pause(["daily"], NOW)
    slot = evolve(job(), reason="active", epoch=3)
    other = job(type="weekly")
    same(await storage.enqueue([slot, other]), [Enqueued.PAUSED, Enqueued.CREATED])
    same(await found(storage, slot.dedup_key), evolve(slot, status=JobStatus.SKIPPED, code=SkipReason.PAUSED))
    same(await found(storage, other.dedup_key), other)


@storage_kit.clause(
    "pausing.enqueue.taken-up-slots-are-skipped",
    each=[
        (JobStatus.SKIPPED, SkipReason.ENGAGEMENT),
        (JobStatus.SKIPPED, SkipReason.PAUSED),
        (JobStatus.CANCELLED, SkipReason.SUPERSEDED),
        (JobStatus.CANCELLED, SkipReason.PAUSED),
    ],
)
async def _a_slot_that_would_be_taken_up_becomes_skipped_in_its_epoch(
    storage: Storage, status: JobStatus, code: SkipReason
) -> None:
    """A slot that would be taken up while its type is paused becomes skipped, in its epoch."""
    await bring(storage, job(), status, code)
    before = await found(storage, job().dedup_key)
    await storage.pause(["daily"], NOW)
    changed = evolve(job(run_at=NOW + HOUR), occurrence=evolve(job().occurrence, deliver_at=NOW + 3 * HOUR))
    same(await storage.enqueue([changed]), [Enqueued.PAUSED])
    paused = evolve(changed, status=JobStatus.SKIPPED, code=SkipReason.PAUSED, epoch=before.epoch)
    same(await found(storage, job().dedup_key), paused)


@storage_kit.clause("pausing.enqueue.window-of-the-new-job")
async def _its_window_is_that_of_the_new_job_too(storage: Storage) -> None:
    """The window of such a slot is that of the new job, too."""
    await bring(storage, job(), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    await storage.pause(["daily"], NOW)
    window = Window(NOW - 9 * DAY, NOW + HOUR)
    await storage.enqueue([evolve(job(), window=window)])
    same((await found(storage, job().dedup_key)).window, window)


@storage_kit.clause("pausing.enqueue.demanded-is-queued")
async def _what_is_demanded_is_queued_and_waits(storage: Storage) -> None:
    """What is demanded while its type is paused is queued, and waits."""
    await bring(storage, job("bob"), JobStatus.COMPLETED)
    await storage.pause(["daily"], NOW)
    ann, bob = (job(name, demand=Demand.RUN) for name in ("ann", "bob"))
    same(await storage.enqueue([ann, bob]), [Enqueued.CREATED, Enqueued.TAKEN_UP])
    same(await found(storage, ann.dedup_key), ann)
    same(await found(storage, bob.dedup_key), evolve(bob, epoch=2))
    same(await claimable(storage, "daily"), [])


@storage_kit.clause("pausing.enqueue.skipped-keeps-its-code")
async def _what_is_skipped_keeps_its_own_code(storage: Storage) -> None:
    """What is decided against while its type is paused keeps its own code."""
    await storage.pause(["daily"], NOW)
    skipped = job(status=JobStatus.SKIPPED, code=SkipReason.MISSED)
    same(await storage.enqueue([skipped]), [Enqueued.CREATED])
    same(await found(storage, skipped.dedup_key), skipped)


@storage_kit.clause("pausing.enqueue.others-are-duplicates", each=[*set(JobStatus) - {JobStatus.SKIPPED}])
async def _what_could_not_be_taken_up_is_a_duplicate(storage: Storage, status: JobStatus) -> None:
    """What could not be taken up is a duplicate while its type is paused, too."""
    await bring(storage, job(), status, SkipReason.WITHDRAWN if status is JobStatus.CANCELLED else None)
    before = await found(storage, job().dedup_key)
    await storage.pause(["daily"], NOW)
    same(
        await storage.enqueue([job(), job("bob"), job("bob")]),
        [
            Enqueued.DUPLICATE,
            Enqueued.PAUSED,
            Enqueued.DUPLICATE,
        ],
    )
    same(await found(storage, job().dedup_key), before)


@storage_kit.clause("pausing.change.waits-for-the-end")
async def _a_change_by_hand_waits_for_the_end_of_the_pause(storage: Storage) -> None:
    """A change by hand waits for the end of the pause."""
    await bring(storage, job(), JobStatus.FAILED)
    await storage.pause(["daily"], NOW)
    same(set(await storage.change([job().dedup_key], Change.RETRY)), {job().dedup_key})
    same(await claimable(storage, "daily"), [])
    await storage.resume(["daily"], since=NOW + DAY)
    same(await claimable(storage, "daily"), ["daily ann"])
