"""Clauses of ``ports.Ledger``: slots, marks, and forgetting."""

from __future__ import annotations

from datetime import UTC, timedelta
from itertools import product
from zoneinfo import ZoneInfo

from attrs import evolve

from fanout_briefs.model import (
    Change,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    JobStatus,
    Progress,
    SkipReason,
    Window,
)
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, brief_of, bring, claim, claim_one, found, job

_CODES: list[tuple[JobStatus, SkipReason | None]] = [
    *((JobStatus.SKIPPED, code) for code in SkipReason),
    *((JobStatus.CANCELLED, code) for code in (None, *SkipReason)),
    *((status, None) for status in JobStatus if status not in (JobStatus.SKIPPED, JobStatus.CANCELLED)),
]


_CHANGED: dict[Change, dict[JobStatus, JobStatus]] = {
    Change.CANCEL: dict.fromkeys([JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.CANCELLED], JobStatus.CANCELLED),
    Change.RETRY: {
        JobStatus.FAILED: JobStatus.PENDING,
        JobStatus.UNKNOWN: JobStatus.PENDING,
        JobStatus.SKIPPED: JobStatus.PENDING,
        JobStatus.CANCELLED: JobStatus.PENDING,
    },
    Change.REGENERATE: {JobStatus.COMPLETED: JobStatus.PENDING, JobStatus.EMPTY: JobStatus.PENDING},
    Change.RESEND: {JobStatus.COMPLETED: JobStatus.PENDING, JobStatus.EMPTY: JobStatus.PENDING},
}


@storage_kit.clause("ledger.enqueue.reads-back-as-given")
async def _a_new_slot_is_created_and_reads_back_as_it_was_given(storage: Storage) -> None:
    """A new slot is created, and reads back as it was given."""
    slot = evolve(job(), reason="active", error="e", epoch=3, attempts=2, progress=Progress("sections", 1, 2, 1))
    same(await storage.enqueue([slot]), [Enqueued.CREATED])
    same(await storage.find([slot.dedup_key]), {slot.dedup_key: slot})


@storage_kit.clause("ledger.enqueue.outcomes-in-order")
async def _outcomes_stand_in_the_order_of_the_jobs(storage: Storage) -> None:
    """Outcomes stand in the order of the jobs."""
    taken = job("bob", status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)
    await storage.enqueue([job("zoe"), taken])
    outcomes = await storage.enqueue([job("zoe"), job("ann"), job("bob"), job("carl"), job("ann")])
    same(
        list(outcomes), [Enqueued.DUPLICATE, Enqueued.CREATED, Enqueued.TAKEN_UP, Enqueued.CREATED, Enqueued.DUPLICATE]
    )


@storage_kit.clause("ledger.enqueue.first-of-equal-keys-counts")
async def _of_equal_keys_in_one_batch_the_first_counts(storage: Storage) -> None:
    """Of equal keys in one batch the first counts."""
    first, second = job(), job(run_at=NOW + HOUR)
    same(await storage.enqueue([first, second]), [Enqueued.CREATED, Enqueued.DUPLICATE])
    same(await found(storage, first.dedup_key), first)
    skipped = job("bob", status=JobStatus.SKIPPED, code=SkipReason.MISSED)
    same(await storage.enqueue([skipped, job("bob")]), [Enqueued.CREATED, Enqueued.DUPLICATE])
    same(await found(storage, skipped.dedup_key), skipped)


@storage_kit.clause("ledger.nothing-is-fine")
async def _enqueueing_nothing_and_finding_nothing_are_fine(storage: Storage) -> None:
    """Enqueueing, finding and changing nothing are fine, and so is looking for what does not exist."""
    same(await storage.enqueue([]), [])
    same(await storage.find([]), {})
    same(await storage.find(["daily:2026-03-02:nobody"]), {})
    same(await storage.last_briefs("daily", {}), {})
    same(set(await storage.change([], Change.CANCEL)), set[str]())


@storage_kit.clause("ledger.enqueue.takes-up-what-may-be")
async def _planning_takes_up_only_slots_that_are_skipped_superseded_or_paused(storage: Storage) -> None:
    """Planning takes up only slots that are skipped, or cancelled as superseded or paused."""
    for number, (status, code) in enumerate(_CODES):
        slot = job(f"u{number}")
        await bring(storage, slot, status, code)
        before = await found(storage, slot.dedup_key)
        expected = status == "skipped" or (status == "cancelled" and code in ("superseded", "paused"))
        same(
            await storage.enqueue([job(f"u{number}", status=JobStatus.SKIPPED, code=SkipReason.MISSED)]),
            [Enqueued.DUPLICATE],
        )
        same(await found(storage, slot.dedup_key), before)
        same(await storage.enqueue([slot]), [Enqueued.TAKEN_UP if expected else Enqueued.DUPLICATE])
        after = await found(storage, slot.dedup_key)
        same(after, evolve(slot, epoch=2) if expected else before)


@storage_kit.clause("ledger.take-up.new-window-without-brief")
async def _a_slot_taken_up_has_the_window_of_the_new_job_if_no_brief_was_saved(storage: Storage) -> None:
    """A slot that is taken up has the window of the new job if no brief was saved."""
    slot = job()
    await bring(storage, slot, JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    newer = evolve(slot, window=Window(start=NOW - 9 * DAY, end=NOW + HOUR), run_at=NOW + HOUR, reason="again")
    same(await storage.enqueue([newer]), [Enqueued.TAKEN_UP])
    same(await found(storage, slot.dedup_key), evolve(newer, epoch=2))


@storage_kit.clause("ledger.take-up.keeps-start-of-saved-brief")
async def _a_slot_taken_up_on_demand_keeps_the_start_of_the_window_that_its_brief_was_saved_from(
    storage: Storage,
) -> None:
    """A slot that is taken up on demand keeps the start of the window that its brief was saved from."""
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))), True)
    newer = evolve(slot, window=Window(start=NOW - 9 * DAY, end=NOW + HOUR), demand=Demand.RUN)
    same(await storage.enqueue([newer]), [Enqueued.TAKEN_UP])
    window = Window(start=slot.window.start, end=NOW + HOUR)
    same(await found(storage, slot.dedup_key), evolve(newer, window=window, epoch=2))
    same((await claim_one(storage, slot)).job.window, window)


@storage_kit.clause("ledger.take-up.new-window-if-unclaimed")
async def _a_slot_taken_up_has_the_window_of_the_new_job_if_no_worker_had_it(storage: Storage) -> None:
    """A slot that is taken up has the window of the new job if no worker had it, and no attempts nor progress."""
    await storage.enqueue([job(status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
    newer = evolve(job(), window=Window(start=NOW - 9 * DAY, end=NOW), attempts=7, progress=Progress("sections", 1))
    same(await storage.enqueue([newer]), [Enqueued.TAKEN_UP])
    same(await found(storage, newer.dedup_key), evolve(newer, epoch=2, attempts=0, progress=None))


@storage_kit.clause("ledger.enqueue.refuses-other-states", each=[*set(JobStatus) - {JobStatus.PENDING}])
async def _jobs_in_any_other_state_are_refused_and_nothing_is_stored(storage: Storage, bad: JobStatus) -> None:
    """Jobs in any other state than pending, or skipped with a code, are refused, and nothing of the batch is stored."""
    with refuses(ValueError):
        await storage.enqueue([job("ann"), job("bob", status=bad)])
    same(await storage.find([job("ann").dedup_key]), {})


@storage_kit.clause("ledger.find.thousands-at-once")
async def _find_gives_thousands_of_slots_at_once(storage: Storage) -> None:
    """Thousands of slots are found at once."""
    jobs = [job(f"user{number}") for number in range(5_000)]
    await storage.enqueue(jobs)
    same(len(await storage.find([slot.dedup_key for slot in jobs] + ["unknown"])), 5_000)


@storage_kit.clause("ledger.last-briefs.live-and-completed")
async def _last_briefs_counts_live_and_completed_slots_only(storage: Storage) -> None:
    """Last briefs are those of pending, processing and completed slots only."""
    for status in JobStatus:
        code = SkipReason.ENGAGEMENT if status is JobStatus.SKIPPED else None
        await bring(storage, job(status.value), status, code)
    latest = await storage.last_briefs("daily", dict.fromkeys([*JobStatus, "nobody"], NOW + DAY))
    same(latest, dict.fromkeys(["pending", "processing", "completed"], NOW + HOUR))


@storage_kit.clause("ledger.last-briefs.strictly-before")
async def _last_briefs_looks_strictly_before_each_users_own_instant(storage: Storage) -> None:
    """Last briefs are looked for strictly before each user's own instant."""
    await storage.enqueue([job("ann", 0), job("ann", 1), job("bob", 0), job("bob", 1), job("cid", 0)])
    second = job("bob", 1).occurrence.deliver_at
    before = {"ann": second, "bob": second + timedelta(microseconds=1), "cid": NOW + HOUR}
    same(await storage.last_briefs("daily", before), {"ann": NOW + HOUR, "bob": second})


@storage_kit.clause("ledger.last-briefs.only-that-type")
async def _last_briefs_leaves_out_other_types(storage: Storage) -> None:
    """Last briefs of other types are left out."""
    await storage.enqueue([job(type="weekly")])
    same(await storage.last_briefs("daily", {"ann": NOW + DAY}), {})


@storage_kit.clause("ledger.change.as-the-table-says", each=product(Change, JobStatus))
async def _a_change_moves_slots_as_the_table_says(storage: Storage, change: Change, status: JobStatus) -> None:
    """A change moves the slots in the states that it applies to, answers with their keys, and leaves all others alone."""
    slot = job()
    await bring(storage, slot, status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
    before = await found(storage, slot.dedup_key)
    moved = await storage.change([slot.dedup_key, "unknown"], change)
    after = await found(storage, slot.dedup_key)
    to = _CHANGED[change].get(status)
    if to is None:
        same(set(moved), set[str]())
        same(after, before)
    elif to is JobStatus.CANCELLED:
        same(
            (set(moved), after),
            (
                {slot.dedup_key},
                evolve(before, status=JobStatus.CANCELLED, code=SkipReason.WITHDRAWN),
            ),
        )
    else:
        demand = Demand.RESEND if change is Change.RESEND else Demand.RUN
        same((set(moved), after), ({slot.dedup_key}, evolve(slot, epoch=before.epoch + 1, demand=demand)))


@storage_kit.clause("ledger.change.regenerating-keeps-the-window")
async def _regenerating_keeps_the_window(storage: Storage) -> None:
    """Regenerating a brief keeps its window."""
    slot = job(day=1)
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))), True)
    # A brief of an earlier day is saved only now. The window was fixed before.
    await storage.enqueue([job()])
    early = await claim_one(storage, job())
    same(
        await storage.finish(early, Finish(status=JobStatus.COMPLETED, brief=brief_of(job(), end=NOW + 3 * HOUR))), True
    )
    await storage.change([slot.dedup_key], Change.REGENERATE)
    same((await claim_one(storage, slot)).job.window, slot.window)


@storage_kit.clause("ledger.change.thousands-at-once")
async def _thousands_of_slots_are_changed_at_once(storage: Storage) -> None:
    """Thousands of slots are changed at once."""
    jobs = [job(f"user{number}") for number in range(5_000)]
    await storage.enqueue(jobs)
    same(len(await storage.change([slot.dedup_key for slot in jobs], Change.CANCEL)), 5_000)


@storage_kit.clause("ledger.mark.begins-where-start-says")
async def _a_mark_begins_where_start_says_and_only_then(storage: Storage) -> None:
    """A mark begins where ``start`` says, and only then."""
    same(await storage.advance("daily"), None)
    same(await storage.advance("daily", NOW), None)
    same(await storage.advance("daily"), None)
    same(await storage.advance("daily", start=NOW), NOW)
    same(await storage.advance("daily", start=NOW + DAY), NOW)
    same(await storage.advance("daily", start=NOW - DAY), NOW)
    same(await storage.advance("weekly"), None)
    same(await storage.advance("weekly", NOW + HOUR, start=NOW), NOW + HOUR)
    same(await storage.advance("monthly", NOW - HOUR, start=NOW), NOW)


@storage_kit.clause("ledger.mark.never-moves-back")
async def _a_mark_never_moves_back(storage: Storage) -> None:
    """A mark never moves back."""
    await storage.advance("daily", start=NOW)
    same(await storage.advance("daily", NOW + DAY), NOW + DAY)
    same(await storage.advance("daily", NOW), NOW + DAY)
    same(await storage.advance("daily", NOW, start=NOW), NOW + DAY)
    same(await storage.advance("daily"), NOW + DAY)


@storage_kit.clause("ledger.mark.in-utc")
async def _a_mark_is_an_aware_instant_in_utc(storage: Storage) -> None:
    """A mark is an aware instant in UTC."""
    mark = await storage.advance("daily", start=NOW.astimezone(ZoneInfo("Asia/Tokyo")))
    same((mark, mark and mark.tzinfo), (NOW, UTC))


@storage_kit.clause("ledger.forget.erases-all-of-one-user")
async def _forget_erases_all_of_one_user_and_nothing_of_others(storage: Storage) -> None:
    """Forgetting erases all of one user and nothing of others, and counts the slots, briefs and payloads that were there."""
    for user_id in ("ann", "anna"):
        slot = job(user_id)
        await storage.enqueue([slot, job(user_id, 1), job(user_id, type="weekly")])
        held = await claim_one(storage, slot)
        mail = FollowUp(job(user_id, type="mail"), b"mail")
        same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot)), [mail]), True)
    same(await storage.forget("ann"), 6)
    same(await storage.forget("ann"), 0)
    same(await storage.forget("nobody"), 0)
    keys = [job(user, day, type=kind).dedup_key for user in ("ann", "anna") for day in (0, 1) for kind in ("daily",)]
    same({slot.user_id for slot in (await storage.find(keys)).values()}, {"anna"})
    same(await storage.brief("daily", "ann"), None)
    same(await storage.brief("daily", "anna"), brief_of(job("anna")))
    same(await storage.last_briefs("daily", {"ann": NOW + DAY}), {})
    same([held.job.user_id for held in (await claim(storage, types=["mail"])).claims], ["anna"])


@storage_kit.clause("ledger.forget.claims-are-lost")
async def _a_worker_whose_job_is_forgotten_finds_its_claim_stale(storage: Storage) -> None:
    """A worker whose job is forgotten finds its claim lost."""
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    await storage.forget("ann")
    same(set(await storage.heartbeat([held], NOW + DAY)), {slot.dedup_key})
    same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))), False)
    same(await storage.brief("daily", "ann"), None)


@storage_kit.clause("ledger.forget.tokens-never-return")
async def _a_claim_from_before_forget_does_not_fit_the_same_slot_planned_again(storage: Storage) -> None:
    """A claim from before the forgetting does not fit the same slot when it is planned again."""
    slot = job()
    await storage.enqueue([slot])
    old = await claim_one(storage, slot)
    await storage.forget("ann")
    await storage.enqueue([slot])
    new = await claim_one(storage, slot)
    holds(new.token > old.token, "a token higher than any before, forgotten or not")
    same(await storage.finish(old, Finish(status=JobStatus.FAILED)), False)
    same(await storage.finish(new, Finish(status=JobStatus.EMPTY)), True)
