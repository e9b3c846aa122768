"""Clauses of ``ports.Storage`` about opening and closing, and about who sees what was written."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio
import anyio.to_thread

from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import ENDED, Change, Claim, Enqueued, Finish, JobStatus
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import refuses, same
from fanout_briefs.testing.kits import OpenableStorage, storage_kit
from fanout_briefs.testing.slots import HOUR, NOW, brief_of, claim, claim_one, found, job

_HELD = Claim(job=job(), token=1, until=NOW)
_READS: Mapping[str, Callable[[Storage], Awaitable[object]]] = {
    "find": lambda storage: storage.find(["key"]),
    "find nothing": lambda storage: storage.find([]),
    "last_briefs": lambda storage: storage.last_briefs("daily", {"ann": NOW}),
    "advance": lambda storage: storage.advance("daily"),
    "brief": lambda storage: storage.brief("daily", "ann"),
    "paused": lambda storage: storage.paused(["daily"]),
    "overview": lambda storage: storage.overview(["daily"], now=NOW, since=NOW),
    "select": lambda storage: storage.select(["daily"], [*JobStatus], since=NOW),
}
_CALLS: Mapping[str, Callable[[Storage], Awaitable[object]]] = {
    **_READS,
    "enqueue": lambda storage: storage.enqueue([job()]),
    "enqueue nothing": lambda storage: storage.enqueue([]),
    "change": lambda storage: storage.change(["key"], Change.CANCEL),
    "start": lambda storage: storage.advance("daily", start=NOW),
    "forget": lambda storage: storage.forget("ann"),
    "claim": claim,
    "heartbeat": lambda storage: storage.heartbeat([_HELD], NOW),
    "finish": lambda storage: storage.finish(_HELD, Finish(status=JobStatus.EMPTY)),
    "retry": lambda storage: storage.retry(_HELD, NOW, "error"),
    "release": lambda storage: storage.release([_HELD]),
    "pause": lambda storage: storage.pause(["daily"], NOW),
    "resume": lambda storage: storage.resume(["daily"], since=NOW),
    "prune": lambda storage: storage.prune(["daily"], NOW, 1),
}


async def _close(storage: OpenableStorage) -> None:
    await storage.__aexit__(None, None, None)


async def _is_closed(storage: Storage) -> None:
    with refuses(StorageUnavailable):
        await storage.find([])


@storage_kit.clause("opening.fresh-and-empty")
async def _each_is_fresh(storage: Storage) -> None:
    """A storage that was just opened holds nothing, and what one clause stores is not seen by the next."""
    types = ["daily", "mail", "weekly"]
    same((await storage.select(types, [*JobStatus], since=NOW - 99_999 * HOUR)).items, [])
    same([await storage.advance(name) for name in types], [None] * 3)
    same(await storage.paused(types), {})
    same(await storage.brief("daily", "ann"), None)


@storage_kit.clause("opening.reading-changes-nothing")
async def _reading_changes_nothing(storage: Storage) -> None:
    """Reading changes nothing."""
    await storage.enqueue([job()])
    before = await found(storage, job().dedup_key)
    for call in _READS.values():
        await call(storage)
    same((await claim(storage, due_by=NOW - HOUR)).held_until, None)
    same(await found(storage, job().dedup_key), before)
    same(await storage.advance("daily"), None)


@storage_kit.clause("opening.closed-says-so", needs=("reopens",), each=_CALLS)
async def _a_storage_that_is_not_open_says_so(storage: OpenableStorage, name: str) -> None:
    """A storage that is not open says so, whatever is asked of it, and can be opened again."""
    for _ in range(2):
        await _close(storage)
        with refuses(StorageUnavailable):
            await _CALLS[name](storage)
        await storage.__aenter__()
        await _CALLS[name](storage)


@storage_kit.clause("opening.twice-is-harmless", needs=("reopens",))
async def _opening_twice_is_harmless(storage: OpenableStorage) -> None:
    """Opening twice at once is harmless, gives the storage itself, and the last one to leave closes."""
    async with storage as again:
        same(again is storage, True)
    await storage.enqueue([job()])
    await _close(storage)
    await _is_closed(storage)


@storage_kit.clause("opening.closing-once-more-is-harmless", needs=("reopens",))
async def _closing_once_more_is_harmless(storage: OpenableStorage) -> None:
    """Closing once more is harmless."""
    await _close(storage)
    await _close(storage)
    await _is_closed(storage)
    async with storage:
        await storage.enqueue([job()])
    await _is_closed(storage)


@storage_kit.clause("opening.content-stays", needs=("reopens",))
async def _content_stays(storage: OpenableStorage) -> None:
    """What was stored is there when the storage is opened again: slots, claims, briefs, marks and pauses."""
    await storage.enqueue([job(), job("bob")])
    held = await claim_one(storage, job())
    waits = await claim_one(storage, job("bob"))
    done = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))
    same(await storage.finish(held, done), True)
    await storage.advance("daily", start=NOW)
    await storage.pause(["mail"], NOW)
    slots = await storage.find([job().dedup_key, job("bob").dedup_key])
    await _close(storage)
    async with storage:
        same(await storage.find([*slots]), slots)
        same(await storage.brief("daily", "ann"), brief_of(held.job))
        same(await storage.advance("daily"), NOW)
        same(await storage.paused(["mail"]), {"mail": NOW})
        same(await storage.finish(waits, Finish(status=JobStatus.EMPTY)), True)


@storage_kit.clause("opening.many-tasks-open-and-close", needs=("reopens",))
async def _many_tasks_may_open_and_close_at_once(storage: OpenableStorage) -> None:
    """Many tasks may open and close a storage at once."""
    await _close(storage)

    async def visit(number: int) -> None:
        async with storage:
            await storage.enqueue([job(f"user{number}")])

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(visit, number)
    async with storage:
        same(len((await claim(storage)).claims), 6)


@storage_kit.clause("opening.cancelled-opening-closes", needs=("reopens",))
async def _a_cancelled_opening_leaves_the_storage_closed(storage: OpenableStorage) -> None:
    """An opening that is cancelled leaves the storage closed and usable."""
    await _close(storage)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with storage:
            await anyio.sleep_forever()
    await _is_closed(storage)
    async with storage:
        await storage.enqueue([job()])


@storage_kit.clause("opening.leaving-while-cancelled-closes", needs=("reopens",))
async def _leaving_while_being_cancelled_closes(storage: OpenableStorage) -> None:
    """Leaving while being cancelled closes, and lets the cancellation through."""
    await _close(storage)
    went_on = False
    with anyio.CancelScope() as scope:
        async with storage:
            scope.cancel()
            await anyio.sleep_forever()
        went_on = True
    same((scope.cancelled_caught, went_on), (True, False))
    await _is_closed(storage)


def _run(call: Callable[[], Awaitable[int]], backend: str) -> int:
    return anyio.run(call, backend=backend)


@storage_kit.clause("opening.other-event-loops", needs=("reopens",))
async def _a_storage_opens_again_in_another_event_loop(storage: OpenableStorage) -> None:
    """A storage opens again in other event loops, of asyncio and of trio, with its content."""
    await _close(storage)

    async def plan(user_id: str) -> int:
        async with storage:
            await storage.enqueue([job(user_id)])
            return len(await storage.find([job(name).dedup_key for name in "abc"]))

    other = "asyncio" if importlib.util.find_spec("trio") is None else "trio"
    for number, (name, backend) in enumerate(zip("abc", ["asyncio", other, "asyncio"], strict=True), start=1):
        # In a thread, since this one has an event loop already.
        count = await anyio.to_thread.run_sync(_run, partial(plan, name), backend)
        same(count, number)


@storage_kit.clause("shared.one-content", needs=("shared",))
async def _two_storages_on_one_content(storage: Storage, other: Storage) -> None:
    """What one storage writes, another on the same content sees at once; nothing is answered from memory."""
    same(await storage.find([job().dedup_key]), {})
    same(await storage.brief("daily", "ann"), None)
    same(await storage.advance("daily"), None)
    same(await storage.paused(["daily"]), {})
    same(await other.enqueue([job()]), [Enqueued.CREATED])
    same(await storage.enqueue([job()]), [Enqueued.DUPLICATE])
    held = await claim_one(storage, job())
    same((await claim(other)).claims, [])
    same(await other.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))), True)
    same(await storage.find([job().dedup_key]), await other.find([job().dedup_key]))
    same(await storage.brief("daily", "ann"), brief_of(held.job))
    await storage.advance("daily", start=NOW)
    same(await other.advance("daily", NOW + HOUR), NOW + HOUR)
    same(await storage.advance("daily"), NOW + HOUR)
    await other.pause(["daily"], NOW)
    same(await storage.paused(["daily"]), {"daily": NOW})
    same(await storage.enqueue([job("bob")]), [Enqueued.PAUSED])
    same(
        {slot.status for slot in (await other.select(["daily"], ENDED, since=NOW)).items},
        {JobStatus.COMPLETED, JobStatus.SKIPPED},
    )


@storage_kit.clause("shared.planners-and-workers", needs=("shared",))
async def _two_processes(storage: Storage, other: Storage) -> None:
    """Planners and workers of two processes at once plan each slot once, and never get the same job."""
    jobs = [job(f"user{number}") for number in range(100)]
    outcomes: list[Enqueued] = []
    got: list[str] = []

    async def plan(each: Storage, batch: list[str]) -> None:
        outcomes.extend(await each.enqueue([job(user_id) for user_id in batch]))

    async def work(each: Storage) -> None:
        # Whoever gives a job twice might do so for good.
        while len(got) <= 100 and (claims := (await claim(each, limit=7)).claims):
            got.extend(held.job.user_id for held in claims)

    ids = [slot.user_id for slot in jobs]
    async with anyio.create_task_group() as tasks:
        for each, batch in ((storage, ids), (other, ids[::-1]), (storage, ids[30:]), (other, ids[:60])):
            tasks.start_soon(plan, each, batch)
    same(outcomes.count(Enqueued.CREATED), 100)
    async with anyio.create_task_group() as tasks:
        for each in (storage, other, storage, other):
            tasks.start_soon(work, each)
    same(sorted(got), sorted(ids))
