"""Clauses of ``ports.Work`` about claims, and about the window that the first one fixes."""

from __future__ import annotations

from attrs import evolve

from fanout_briefs.model import ENDED, Change, Claim, Finish, JobStatus, SkipReason, Window
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import (
    DAY,
    HOUR,
    MICROSECOND,
    NOW,
    brief_of,
    bring,
    claim,
    claim_one,
    found,
    job,
    names,
)


@storage_kit.clause("work.claim.processing-with-a-lease")
async def _a_claimed_job_is_in_processing_with_a_lease_a_token_and_one_attempt(storage: Storage) -> None:
    """A claimed job is in processing, with a lease, a token and one attempt."""
    slot = job()
    await storage.enqueue([slot])
    (held,) = (await claim(storage, lease=2 * HOUR)).claims
    running = evolve(slot, status=JobStatus.PROCESSING, attempts=1)
    same(held, Claim(job=running, token=held.token, until=NOW + 2 * HOUR))
    same(await found(storage, slot.dedup_key), running)


@storage_kit.clause("work.claim.due-from-run-at-on")
async def _pending_jobs_are_due_from_run_at_on(storage: Storage) -> None:
    """Pending jobs are due from ``run_at`` on."""
    await storage.enqueue([job("ann"), job("bob", run_at=NOW + MICROSECOND)])
    same(names(await claim(storage, due_by=NOW - MICROSECOND)), [])
    same(names(await claim(storage, due_by=NOW)), ["ann"])
    same(names(await claim(storage, due_by=NOW + MICROSECOND)), ["bob"])


@storage_kit.clause("work.claim.longest-due-first")
async def _the_longest_due_come_first_and_no_more_than_the_limit(storage: Storage) -> None:
    """The longest due come first, and no more than the limit."""
    ids = [f"u{number}" for number in range(9)]
    jobs = [job(user_id, run_at=NOW - number * HOUR) for number, user_id in enumerate(ids)]
    await storage.enqueue([jobs[place] for place in (3, 8, 0, 5, 1, 7, 2, 6, 4)])
    same(names(await claim(storage, limit=4)), ["u8", "u7", "u6", "u5"])
    same(names(await claim(storage, limit=4)), ["u4", "u3", "u2", "u1"])
    same(names(await claim(storage, limit=4)), ["u0"])


@storage_kit.clause("work.claim.one-order-over-types")
async def _expired_and_pending_jobs_stand_in_one_order_over_all_types(storage: Storage) -> None:
    """Expired and pending jobs stand in one order, over all types."""
    await storage.enqueue([job("old", run_at=NOW - DAY), job("older", type="mail", run_at=NOW - 2 * DAY)])
    await claim(storage, types=["daily", "mail"])
    await storage.enqueue([job("oldest", run_at=NOW - 3 * DAY), job("new", type="mail")])
    later = await claim(storage, now=NOW + HOUR, types=["daily", "mail"], limit=3)
    same(names(later), ["oldest", "older", "old"])


@storage_kit.clause("work.claim.limit-below-one-refused", each=[0, -1])
async def _a_limit_below_one_is_refused(storage: Storage, limit: int) -> None:
    """A limit below one is refused."""
    with refuses(ValueError):
        await claim(storage, limit=limit)


@storage_kit.clause("work.claim.only-types-asked-for")
async def _only_the_types_asked_for_are_claimed(storage: Storage) -> None:
    """Only the types asked for are claimed."""
    await storage.enqueue([job(type="daily"), job(type="mail"), job(type="weekly")])
    got = await claim(storage, types=["mail", "weekly", "mail", "unknown"])
    same(sorted(held.job.type for held in got.claims), ["mail", "weekly"])
    same((await claim(storage, types=[])).claims, [])


@storage_kit.clause("work.claim.key-looks-at-one-slot")
async def _a_key_looks_at_that_slot_only(storage: Storage) -> None:
    """A key looks at that slot only, which has to be due and of a type asked for."""
    await storage.enqueue([job("ann"), job("bob")])
    same(names(await claim(storage, key="daily:2026-03-02:nobody")), [])
    same(names(await claim(storage, key=job("bob").dedup_key, types=["mail"])), [])
    same(names(await claim(storage, key=job("bob").dedup_key)), ["bob"])
    again = await claim(storage, key=job("ann").dedup_key, due_by=NOW - HOUR)
    same(names(again), [])
    same(again.held_until, None)


@storage_kit.clause("work.claim.keys-look-at-those-slots")
async def _many_keys_look_at_those_slots_only(storage: Storage) -> None:
    """Many keys look at those slots only, at each once."""
    await storage.enqueue([job("ann"), job("bob"), job("cid")])
    asked = [job(name).dedup_key for name in ("cid", "ann", "cid", "nobody")]
    same(sorted(names(await claim(storage, keys=asked))), ["ann", "cid"])
    same(names(await claim(storage, keys=[])), [])


@storage_kit.clause("work.claim.ended-jobs-are-not", each=ENDED)
async def _ended_jobs_are_not_claimed(storage: Storage, status: JobStatus) -> None:
    """Jobs that have ended are not claimed."""
    await bring(storage, job(), status, SkipReason.MISSED)
    same(names(await claim(storage, now=NOW + 9 * DAY)), [])


@storage_kit.clause("work.claim.expired-leases-are-taken-over")
async def _a_lease_that_has_ended_is_claimable_counts_as_an_attempt_and_raises_the_token(storage: Storage) -> None:
    """A job whose lease has ended can be claimed; that counts as an attempt and raises the token."""
    await storage.enqueue([job()])
    first = await claim_one(storage, job())
    same(names(await claim(storage, now=NOW + HOUR - MICROSECOND)), [])
    (second,) = (await claim(storage, due_by=NOW - DAY, now=NOW + HOUR)).claims
    same(second.job.attempts, 2)
    holds(second.token > first.token, "a token higher than any before")
    same(second.until, NOW + 2 * HOUR)


@storage_kit.clause("work.claim.leases-run-by-now")
async def _leases_run_by_now_and_not_by_the_moment_of_the_schedule(storage: Storage) -> None:
    """Leases run by ``now``, and not by the moment of the schedule."""
    await storage.enqueue([job()])
    held = (await claim(storage, due_by=NOW, now=NOW + 30 * DAY)).claims[0]
    same(held.until, NOW + 30 * DAY + HOUR)
    same(names(await claim(storage, due_by=NOW + 99 * DAY, now=NOW + 30 * DAY)), [])


@storage_kit.clause("work.claim.held-until")
async def _held_until_is_when_the_first_lease_of_a_due_job_ends(storage: Storage) -> None:
    """``held_until`` is when the first lease of a due job that others hold will end."""
    same((await claim(storage)).held_until, None)
    await storage.enqueue([job("ann"), job("bob"), job("cid", type="mail"), job("dan", run_at=NOW + DAY)])
    same((await claim(storage, key=job("ann").dedup_key, lease=3 * HOUR)).held_until, None)
    same((await claim(storage, key=job("bob").dedup_key, lease=2 * HOUR)).held_until, None)
    same((await claim(storage, key=job("dan").dedup_key, lease=HOUR)).held_until, None)
    same((await claim(storage, due_by=NOW)).held_until, NOW + 2 * HOUR)
    same((await claim(storage, due_by=NOW, key=job("ann").dedup_key)).held_until, NOW + 3 * HOUR)
    same((await claim(storage, types=["mail"])).held_until, None)
    same((await claim(storage, due_by=NOW - DAY)).held_until, None)
    # A lease that has ended is nothing to wait for, whether or not this call takes its job over.
    same((await claim(storage, due_by=NOW, now=NOW + 5 * HOUR, limit=1)).held_until, None)


@storage_kit.clause("work.claim.waits-for-earlier-slots", each=JobStatus)
async def _a_job_waits_for_earlier_live_slots_of_its_user_and_type(storage: Storage, status: JobStatus) -> None:
    """A job waits for earlier slots of its user and type that are pending or in processing."""
    await bring(storage, job(), status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
    await storage.enqueue([job(day=1)])
    waits = status in ("pending", "processing")
    same(names(await claim(storage, key=job(day=1).dedup_key)), [] if waits else ["ann"])


@storage_kit.clause("work.claim.others-hold-nobody-up")
async def _slots_of_other_users_types_and_later_times_hold_nobody_up(storage: Storage) -> None:
    """Slots of other users, of other types and of later times hold nobody up."""
    await storage.enqueue([job("bob"), job(type="weekly"), job(day=1), job(day=2)])
    got = await claim(storage, key=job(day=1).dedup_key)
    same(names(got), ["ann"])


@storage_kit.clause("work.claim.equals-do-not-wait")
async def _slots_with_one_time_of_delivery_do_not_wait_for_each_other(storage: Storage) -> None:
    """Slots with one time of delivery do not wait for each other."""
    tomorrow = job(day=1)
    twin = evolve(tomorrow, occurrence=evolve(tomorrow.occurrence, deliver_at=job().occurrence.deliver_at))
    await storage.enqueue([job(), twin])
    first = await claim_one(storage, job())
    same(await storage.finish(first, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + HOUR))), True)
    await storage.change([job().dedup_key], Change.REGENERATE)
    held = await claim_one(storage, twin)
    same(held.job.window, Window(NOW + HOUR, twin.window.end))


@storage_kit.clause("work.claim.one-slot-of-a-user")
async def _one_claim_takes_only_the_earliest_of_a_users_slots(storage: Storage) -> None:
    """One claim takes only the earliest of a user's slots."""
    await storage.enqueue([job(day=day) for day in range(3)])
    for day in range(3):
        (held,) = (await claim(storage)).claims
        same(held.job.dedup_key, job(day=day).dedup_key)
        same(await storage.finish(held, Finish(status=JobStatus.EMPTY)), True)


@storage_kit.clause("work.claim.expired-jobs-wait-too")
async def _an_expired_job_waits_too_if_an_earlier_slot_came_back(storage: Storage) -> None:
    """An expired job waits, too, if an earlier slot came back."""
    await bring(storage, job(), JobStatus.FAILED)
    await storage.enqueue([job(day=1)])
    await claim_one(storage, job(day=1))
    await storage.change([job().dedup_key], Change.RETRY)
    (held,) = (await claim(storage, now=NOW + DAY)).claims
    same(held.job.dedup_key, job().dedup_key)


@storage_kit.clause("work.window.starts-where-the-last-brief-ended")
async def _the_first_claim_fixes_the_windows_start_where_the_last_saved_brief_ended(storage: Storage) -> None:
    """The first claim fixes the window's start where the user's latest saved brief of that type ended."""
    for day, end in ((0, NOW + HOUR), (1, NOW + DAY + 2 * HOUR)):
        await storage.enqueue([job(day=day)])
        held = await claim_one(storage, job(day=day))
        done = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job, end=end))
        same(await storage.finish(held, done), True)
    # Neither other users nor other types count.
    for other in (job("bob", 2), job(day=2, type="weekly")):
        await storage.enqueue([other])
        held = await claim_one(storage, other)
        same(held.job.window, other.window)
        same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))), True)
    await storage.enqueue([job(day=3)])
    held = await claim_one(storage, job(day=3))
    same(held.job.window, Window(NOW + DAY + 2 * HOUR, job(day=3).window.end))
    same(await found(storage, held.job.dedup_key), held.job)


@storage_kit.clause("work.window.never-beyond-its-end")
async def _what_a_later_brief_has_covered_is_not_covered_again(storage: Storage) -> None:
    """What a later brief has covered is not covered again: a window's start never lies beyond its own end."""
    await storage.enqueue([job(day=1)])
    later = await claim_one(storage, job(day=1))
    same(await storage.finish(later, Finish(status=JobStatus.COMPLETED, brief=brief_of(later.job))), True)
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    same(held.job.window, Window(job().window.end, job().window.end))


@storage_kit.clause("work.window.stays-fixed")
async def _a_fixed_window_is_reused_by_retries_releases_and_expired_leases(storage: Storage) -> None:
    """A window that is fixed is used again after retries, releases and expired leases."""
    slot = job(day=2)
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    # This brief would move the start if it were looked at again.
    await storage.enqueue([job()])
    early = await claim_one(storage, job())
    same(
        await storage.finish(early, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + 9 * HOUR))), True
    )
    same(await storage.retry(held, NOW, "error"), True)
    held = await claim_one(storage, slot)
    same(held.job.window, slot.window)
    await storage.release([held])
    same((await claim_one(storage, slot)).job.window, slot.window)
    same((await claim_one(storage, slot, now=NOW + DAY)).job.window, slot.window)
