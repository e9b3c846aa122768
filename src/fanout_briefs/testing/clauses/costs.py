"""Clauses about what a call costs: as many statements for a large batch as for a small one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import evolve

from fanout_briefs.model import Change, Claim, JobStatus, Preference, Progress, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, same
from fanout_briefs.testing.kits import StorageWithPreferences, storage_kit
from fanout_briefs.testing.slots import DAY, NOW, claim, job

_SIZES = (2, 1_000)


async def _cost(statements: list[str], call: Awaitable[object]) -> int:
    statements.clear()
    await call
    return len(statements)


def _ids(size: int) -> Sequence[str]:
    return [f"user{number}" for number in range(size)]


def _keys(size: int) -> Sequence[str]:
    return [job(user_id).dedup_key for user_id in _ids(size)]


_BY_SIZE: Mapping[str, Callable[[Storage, int], Awaitable[object]]] = {
    "enqueue what is there": lambda storage, size: storage.enqueue([job(user_id) for user_id in _ids(size)]),
    "enqueue what is new": lambda storage, size: storage.enqueue([job(user_id, size) for user_id in _ids(size)]),
    "find": lambda storage, size: storage.find(_keys(size)),
    "last_briefs": lambda storage, size: storage.last_briefs("daily", dict.fromkeys(_ids(size), NOW + DAY)),
    "claim": lambda storage, size: claim(storage, limit=size),
    "change": lambda storage, size: storage.change(_keys(size), Change.CANCEL),
}


@storage_kit.clause("costs.batches", needs=("trace",), each=_BY_SIZE)
async def _a_batch_costs_as_many_statements_whatever_its_size(
    storage: Storage, statements: list[str], name: str
) -> None:
    """A batch costs as many statements whatever its size."""
    await storage.enqueue([job(user_id) for user_id in _ids(_SIZES[-1])])
    costs = [await _cost(statements, _BY_SIZE[name](storage, size)) for size in _SIZES]
    holds(costs[0] > 0, "`trace` is called with each statement")
    same(costs, [costs[0]] * len(_SIZES))


@storage_kit.clause("costs.held-jobs", needs=("trace",))
async def _heartbeats_and_releases_cost_as_many_statements(storage: Storage, statements: list[str]) -> None:
    """Heartbeats and releases cost as many statements however many jobs are held."""
    await storage.enqueue([job(user_id) for user_id in _ids(_SIZES[-1])])
    claims: Sequence[Claim] = (await claim(storage, limit=_SIZES[-1])).claims
    beating = [evolve(held, progress=Progress("sections", 1, 2)) for held in claims]
    beats = [await _cost(statements, storage.heartbeat(beating[:size], NOW + DAY)) for size in _SIZES]
    same(beats, [beats[0]] * len(_SIZES))
    some, others = claims[: _SIZES[0]], claims[_SIZES[0] :]
    releases = [await _cost(statements, storage.release(each)) for each in (some, others)]
    same(releases, [releases[0]] * 2)


_ASKED: Mapping[str, Callable[[Storage], Awaitable[object]]] = {
    "pause": lambda storage: storage.pause(["daily"], NOW),
    "resume": lambda storage: storage.resume(["daily"], since=NOW),
    "overview": lambda storage: storage.overview(["daily"], now=NOW, since=NOW),
    "select": lambda storage: storage.select(["daily"], [JobStatus.SKIPPED], since=NOW, limit=9_000),
    "prune": lambda storage: storage.prune(["daily"], NOW + 99 * DAY, 9_000),
}


@storage_kit.clause("costs.oversight", needs=("trace",))
async def _what_operators_ask_costs_as_many_statements(storage: Storage, statements: list[str]) -> None:
    """What operators ask costs as many statements whatever the number of slots."""
    costs: list[Mapping[str, int]] = []
    for size in _SIZES:
        jobs = [
            job(user_id, day, status=JobStatus.SKIPPED, code=SkipReason.MISSED)
            for user_id in _ids(size)
            for day in (0, 1)
        ]
        await storage.enqueue(jobs)
        costs.append({name: await _cost(statements, ask(storage)) for name, ask in _ASKED.items()})
    same(costs[1], costs[0])


@storage_kit.clause("costs.preferences", needs=("preferences", "trace"))
async def _a_page_of_preferences_costs_as_many_statements(
    storage: StorageWithPreferences, statements: list[str]
) -> None:
    """Preferences cost as many statements whatever the size of a batch or page."""
    rows = [Preference(user_id=user_id) for user_id in _ids(_SIZES[-1])]
    calls: Mapping[str, Callable[[int], Awaitable[object]]] = {
        "put": lambda size: storage.preferences.put(rows[:size]),
        "get": lambda size: storage.preferences.get(_ids(size)),
        "page": lambda size: storage.preferences.page(None, size),
        "remove": lambda size: storage.preferences.remove(_ids(size)),
    }
    for name, call in calls.items():
        costs = [await _cost(statements, call(size)) for size in _SIZES]
        same({name: costs}, {name: [costs[0]] * len(_SIZES)})
