"""Clauses of ``ports.Work`` about jobs that are held: heartbeats, ends, retries and releases."""

from __future__ import annotations

from attrs import evolve

from fanout_briefs.model import ENDED, LIVE, Finish, FollowUp, JobStatus, Progress, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, MICROSECOND, NOW, brief_of, claim, claim_one, found, job, names

_RENEWED = {JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.FAILED, JobStatus.CANCELLED}


@storage_kit.clause("work.heartbeat.moves-lease-records-progress")
async def _a_heartbeat_moves_the_lease_and_records_progress(storage: Storage) -> None:
    """A heartbeat moves the lease and records progress; one that has nothing to tell keeps what was told."""
    await storage.enqueue([job("ann"), job("bob")])
    ann, bob = (await claim(storage)).claims
    step = Progress('sec"tions', 2, 5, 1)
    same(set(await storage.heartbeat([evolve(ann, progress=step), bob], NOW + 5 * HOUR)), set[str]())
    same((await found(storage, ann.job.dedup_key)).progress, step)
    same((await found(storage, bob.job.dedup_key)).progress, None)
    same((await claim(storage)).held_until, NOW + 5 * HOUR)
    # A beat that has nothing to tell keeps what was told.
    same(set(await storage.heartbeat([ann], NOW + 6 * HOUR)), set[str]())
    same((await found(storage, ann.job.dedup_key)).progress, step)
    taken = (await claim(storage, now=NOW + 6 * HOUR)).claims
    same([held.progress for held in taken if held.job.user_id == "ann"], [step])


@storage_kit.clause("work.heartbeat.late-but-not-lost")
async def _a_heartbeat_keeps_a_claim_whose_lease_ended_but_that_nobody_took(storage: Storage) -> None:
    """A heartbeat keeps a claim whose lease has ended but that nobody took."""
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    same(set(await storage.heartbeat([held], NOW + 5 * DAY)), set[str]())
    same(names(await claim(storage, now=NOW + 4 * DAY)), [])


@storage_kit.clause("work.heartbeat.names-lost-claims")
async def _a_heartbeat_names_the_claims_that_are_lost(storage: Storage) -> None:
    """A heartbeat names the claims that are lost, and does not prolong the winners' leases."""
    await storage.enqueue([job(name) for name in ("done", "fine", "gone", "taken")])
    done, fine, gone, taken = sorted((await claim(storage)).claims, key=lambda held: held.job.user_id)
    await storage.finish(done, Finish(status=JobStatus.EMPTY))
    await storage.forget("gone")
    await storage.heartbeat([fine], NOW + 3 * DAY)
    again = await claim_one(storage, job("taken"), now=NOW + DAY)
    lost = await storage.heartbeat([done, fine, gone, taken], NOW + 9 * DAY)
    same(set(lost), {job(name).dedup_key for name in ("done", "gone", "taken")})
    # Beating for a lost claim does not prolong the winner's lease.
    same((await claim(storage, now=NOW + DAY)).held_until, again.until)
    same(set(await storage.heartbeat([], NOW)), set[str]())


@storage_kit.clause("work.finish.saves-everything")
async def _finishing_saves_status_brief_and_follow_ups_together(storage: Storage) -> None:
    """Finishing saves the status, the brief and the follow-ups with their payloads."""
    slot = evolve(job(), reason="active")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job), code=None, error="one section failed")
    mail = job(type="mail")
    same(await storage.finish(held, end, [FollowUp(mail, b"\x00\xffpayload"), FollowUp(job(type="push"), b"")]), True)
    done = evolve(held.job, status=JobStatus.COMPLETED, error="one section failed")
    same(await found(storage, slot.dedup_key), done)
    same(await storage.brief("daily", "ann"), brief_of(held.job))
    claims = (await claim(storage, types=["mail", "push"])).claims
    same({held.job.type: held.payload for held in claims}, {"mail": b"\x00\xffpayload", "push": b""})
    same(
        next(held.job for held in claims if held.job.type == "mail"),
        evolve(mail, status=JobStatus.PROCESSING, attempts=1),
    )


@storage_kit.clause("work.finish.keeps-the-reason")
async def _finishing_keeps_the_policys_reason_unless_it_brings_one(storage: Storage) -> None:
    """Finishing keeps the policy's reason unless it brings one."""
    for user_id, reason, kept in (("ann", None, "active"), ("bob", "cooling", "cooling")):
        await storage.enqueue([evolve(job(user_id), reason="active")])
        held = await claim_one(storage, job(user_id))
        code = SkipReason.SUPERSEDED
        same(await storage.finish(held, Finish(status=JobStatus.CANCELLED, code=code, reason=reason)), True)
        back = await found(storage, job(user_id).dedup_key)
        same((back.status, back.code, back.reason), (JobStatus.CANCELLED, code, kept))


@storage_kit.clause("work.finish.refuses-what-is-no-end", each=LIVE)
async def _an_end_that_is_none_is_refused(storage: Storage, status: JobStatus) -> None:
    """An end that is none is refused, and so is a follow-up that is no new slot; nothing is changed."""
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    with refuses(ValueError):
        await storage.finish(held, Finish(status=status))
    with refuses(ValueError):
        await storage.finish(
            held, Finish(status=JobStatus.EMPTY), [FollowUp(job(type="mail", status=JobStatus.FAILED), b"")]
        )
    same(await found(storage, job().dedup_key), held.job)


@storage_kit.clause("work.follow-up.renews-as-the-table-says", each=JobStatus)
async def _a_follow_up_renews_slots_as_the_table_says(storage: Storage, status: JobStatus) -> None:
    """A follow-up renews a slot that is pending, skipped, failed or cancelled, payload and all, and leaves others alone."""
    mail = job(type="mail")
    for day in (0, 1):
        await storage.enqueue([job(day=day)])
    first = await claim_one(storage, job())
    same(await storage.finish(first, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"old")]), True)
    if status is not JobStatus.PENDING:
        held = await claim_one(storage, mail)
        if status is not JobStatus.PROCESSING:
            same(await storage.finish(held, Finish(status=status, code=SkipReason.OPTED_OUT, error="e")), True)
    before = await found(storage, mail.dedup_key)
    second = await claim_one(storage, job(day=1))
    renewal = evolve(mail, epoch=5, run_at=NOW + HOUR, reason="again", attempts=3)
    same(await storage.finish(second, Finish(status=JobStatus.EMPTY), [FollowUp(renewal, b"new")]), True)
    after = await found(storage, mail.dedup_key)
    if status in _RENEWED:
        same(after, evolve(renewal, attempts=0))
        same((await claim_one(storage, mail)).payload, b"new")
    else:
        same(after, before)
    if status is JobStatus.PROCESSING:
        (taken,) = (await claim(storage, now=NOW + DAY, types=["mail"])).claims
        same(taken.payload, b"old")


@storage_kit.clause("work.stale-token.changes-nothing")
async def _a_stale_token_changes_nothing(storage: Storage) -> None:
    """A stale token changes nothing."""
    slot = job()
    await storage.enqueue([slot])
    stale = await claim_one(storage, slot)
    current = await claim_one(storage, slot, now=NOW + DAY)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))
    same(await storage.finish(stale, end, [FollowUp(job(type="mail"), b"mail")]), False)
    same(await storage.retry(stale, NOW, "error"), False)
    await storage.release([stale])
    same(await found(storage, slot.dedup_key), current.job)
    same(await storage.brief("daily", "ann"), None)
    same(await storage.find([job(type="mail").dedup_key]), {})
    same(await storage.finish(current, end), True)


@storage_kit.clause("work.ended-claim.changes-nothing", each=[*ENDED, None])
async def _a_claim_whose_job_left_processing_changes_nothing(storage: Storage, status: JobStatus | None) -> None:
    """A claim whose job has left processing changes nothing, though its token is the last one."""
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    if status is None:
        await storage.release([held])
    else:
        await storage.finish(held, Finish(status=status))
    before = await found(storage, slot.dedup_key)
    same(await storage.finish(held, Finish(status=JobStatus.UNKNOWN, brief=brief_of(slot))), False)
    same(await storage.retry(held, NOW, "error"), False)
    await storage.release([held])
    same(await found(storage, slot.dedup_key), before)
    same(await storage.brief("daily", "ann"), None)


@storage_kit.clause("work.retry.puts-back")
async def _retry_puts_the_job_back_until_then_and_keeps_the_error(storage: Storage) -> None:
    """A retry puts the job back until then, keeps the error, however long, and clears the progress."""
    slot = job()
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2))], NOW + HOUR)
    same(await storage.retry(held, NOW + HOUR, "boom\n'\";" + "é" * 100_000), True)
    text = "boom\n'\";" + "é" * 100_000
    same(await found(storage, slot.dedup_key), evolve(slot, run_at=NOW + HOUR, error=text, attempts=1))
    same(names(await claim(storage, due_by=NOW + HOUR - MICROSECOND)), [])
    (again,) = (await claim(storage, due_by=NOW + HOUR)).claims
    same((again.job.attempts, again.job.error), (2, text))
    holds(again.token > held.token, "a token higher than any before")


@storage_kit.clause("work.release.as-though-never-claimed")
async def _a_released_job_is_as_though_it_had_not_been_claimed(storage: Storage) -> None:
    """A released job is as though it had not been claimed, except that its token has risen."""
    await storage.enqueue([job("ann"), job("bob")])
    claims = (await claim(storage)).claims
    await storage.heartbeat([evolve(claims[0], progress=Progress("sections", 1, 2))], NOW + HOUR)
    await storage.release(claims)
    same(
        await storage.find([job("ann").dedup_key, job("bob").dedup_key]),
        {job(name).dedup_key: job(name) for name in ("ann", "bob")},
    )
    again = (await claim(storage)).claims
    same(sorted(names(await claim(storage, now=NOW + DAY))), ["ann", "bob"])
    holds(
        {held.token for held in again}.isdisjoint(held.token for held in claims), "tokens that were never given before"
    )
    await storage.release([])


@storage_kit.clause("work.retry.uncounted-takes-attempt-back")
async def _a_retry_that_is_not_counted_takes_the_attempt_back(storage: Storage) -> None:
    """A retry that is not counted takes the attempt back."""
    await storage.enqueue([job()])
    same(await storage.retry(await claim_one(storage, job()), NOW, "first"), True)
    after = evolve(job(run_at=NOW + HOUR), attempts=1, error="come later")
    for _ in range(5):
        held = await claim_one(storage, job())
        same(held.job.attempts, 2)
        same(await storage.retry(held, NOW + HOUR, "come later", counted=False), True)
        same(await found(storage, job().dedup_key), after)
        same(await storage.retry(held, NOW, "stale", counted=False), False)
        same(await found(storage, job().dedup_key), after)
