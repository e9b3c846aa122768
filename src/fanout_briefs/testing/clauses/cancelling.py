"""Clauses about calls that are cancelled half-way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
import anyio.lowlevel
from attrs import evolve

from fanout_briefs.model import Change, Claim, Enqueued, Finish, FollowUp, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, brief_of, claim, claim_one, found, job, names

_TURNS: Final = (1, 2, 5, 30)
"""How often the event loop goes round before the call is cancelled."""


async def _go_round(turns: int) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()


@storage_kit.clause("cancelling.enqueue.old-or-new", each=[(1, 5_000), *((turns, 500) for turns in _TURNS)])
async def _a_cancelled_enqueue_leaves_each_slot_old_or_new_and_can_be_repeated(
    storage: Storage, turns: int, size: int
) -> None:
    """An enqueue that is cancelled leaves each slot wholly old or wholly new, and can be repeated."""
    jobs = [job(f"user{number}") for number in range(size)]
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.enqueue, jobs)
            await _go_round(turns)
            scope.cancel()
    stored = await storage.find([slot.dedup_key for slot in jobs])
    same(stored, {slot.dedup_key: slot for slot in jobs if slot.dedup_key in stored})
    outcomes = await storage.enqueue(jobs)
    same(outcomes.count(Enqueued.CREATED), size - len(stored))
    same(len(await storage.find([slot.dedup_key for slot in jobs])), size)


@storage_kit.clause("cancelling.finish.whole-or-not-at-all", each=_TURNS)
async def _a_finish_cancelled_half_way_is_wholly_done_or_not_at_all(storage: Storage, turns: int) -> None:
    """A finish that is cancelled half-way is wholly done, or not at all."""
    slot, mail = job(), job(type="mail")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    end = Finish(status=JobStatus.COMPLETED, brief=brief_of(slot))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.finish, held, end, [FollowUp(mail, b"mail")])
            await _go_round(turns)
            scope.cancel()
    done = (await found(storage, slot.dedup_key)).status is JobStatus.COMPLETED
    same(await storage.brief("daily", "ann") is not None, done)
    same(mail.dedup_key in await storage.find([mail.dedup_key]), done)
    same(await storage.finish(held, end), not done)


_ANN: Final = job()
_CALLS: Mapping[str, tuple[Callable[[Storage, Claim], Awaitable[object]], object]] = {
    "enqueue": (lambda storage, _: storage.enqueue([job("bob")]), [Enqueued.CREATED]),
    "find": (
        lambda storage, _: storage.find([_ANN.dedup_key]),
        {_ANN.dedup_key: evolve(_ANN, status=JobStatus.PROCESSING, attempts=1)},
    ),
    "last_briefs": (lambda storage, _: storage.last_briefs("daily", {"ann": NOW + DAY}), {"ann": NOW + HOUR}),
    "change": (lambda storage, _: storage.change([job("cid").dedup_key], Change.CANCEL), {job("cid").dedup_key}),
    "advance": (lambda storage, _: storage.advance("daily", start=NOW), NOW),
    "claim": (lambda storage, _: _claimed(storage), ["cid"]),
    "heartbeat": (lambda storage, held: storage.heartbeat([held], NOW + DAY), set[str]()),
    "finish": (lambda storage, held: storage.finish(held, Finish(status=JobStatus.EMPTY)), True),
    "retry": (lambda storage, held: storage.retry(held, NOW, "error"), True),
    "forget": (lambda storage, _: storage.forget("ann"), 1),
    "pause": (lambda storage, _: storage.pause(["daily"], NOW), True),
    "paused": (lambda storage, _: storage.paused(["mail"]), {"mail": NOW}),
    "resume": (lambda storage, _: storage.resume(["mail"], since=NOW), 0),
}


async def _claimed(storage: Storage) -> list[str]:
    return names(await claim(storage))


@storage_kit.clause("cancelling.no-wrong-answer", each=_CALLS)
async def _a_call_that_is_cancelled_gives_no_wrong_answer(storage: Storage, name: str) -> None:
    """A call that is cancelled lets that through, or answers as ever; and the next call works."""
    await storage.enqueue([_ANN, job("cid")])
    held = await claim_one(storage, _ANN)
    await storage.pause(["mail"], NOW)
    call, promised = _CALLS[name]
    answered = False
    with anyio.CancelScope() as scope:
        scope.cancel()
        same(await call(storage, held), promised)
        answered = True
    if not answered:
        same(scope.cancelled_caught, True)
        same(await call(storage, held), promised)
