"""The table of transitions in ``docs/slots.md``, read from there: what it says happens, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from fanout_briefs.model import ENDED, Change, Claim, Demand, Finish, FollowUp, Job, JobStatus, Progress, SkipReason
from fanout_briefs.ports import Storage
from fanout_briefs.testing.slots import DAY, HOUR, NOW, claim, claim_one, job
from services import STORAGES, make_storage

PAGE = Path(__file__).parents[2] / "docs" / "slots.md"


@pytest.fixture(params=STORAGES)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    async with make_storage(request, tmp_path) as opened:
        yield opened


@frozen
class State:
    """Where a slot stands: ``none``, or a status, narrowed by a word that may make a difference."""

    name: str
    word: str | None = None

    def __str__(self) -> str:
        return self.name if self.word is None else f"{self.name} ({self.word})"

    def is_among(self, cell: list[str]) -> bool:
        called = {self.name, str(self)}
        if self.name != "none":
            called.add("any")
        if self.name in ENDED:
            called.add("ended")
        return not called.isdisjoint(cell)


@frozen
class Row:
    """One row of the table."""

    origins: list[str]
    by: list[str]
    to: list[str]
    epoch: str


def rows() -> Iterator[Row]:
    table = (
        PAGE.read_text(encoding="utf-8").split("| from | by | to | epoch |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    )
    for line in table.splitlines():
        origins, by, to, epoch = line.strip("|").split("|")
        yield Row(words(origins), words(by), words(to), epoch.strip())


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


TABLE = list(rows())
CODES = [None, *(code.value for code in SkipReason)]
STATES = [
    State("none"),
    *(State("pending", word) for word in ("planned", "demanded")),
    *(State("processing", word) for word in ("leased", "expired")),
    *(State(status) for status in ENDED if status not in (JobStatus.SKIPPED, JobStatus.CANCELLED)),
    *(State(status, code) for status in (JobStatus.SKIPPED, JobStatus.CANCELLED) for code in CODES),
]
GIVEN_EPOCH, BRIEFS_EPOCH = 3, 7


@frozen
class Pair:
    """A slot of its own user and type, in a state, to which something is then done."""

    storage: Storage
    slot: Job
    held: Claim
    """The last good claim on it, or one that never was."""

    @property
    def types(self) -> list[str]:
        return [self.slot.type]

    async def now(self) -> Job | None:
        return (await self.storage.find([self.slot.dedup_key])).get(self.slot.dedup_key)

    async def state(self) -> State:
        slot = await self.now()
        if slot is None:
            return State("none")
        if slot.status is JobStatus.PENDING:
            return State(slot.status, "planned" if slot.demand is None else "demanded")
        if slot.status is JobStatus.PROCESSING:
            seen = (await self.storage.overview(self.types, now=NOW, since=NOW))[self.slot.type]
            return State(slot.status, "leased" if seen.running else "expired")
        return State(slot.status, slot.code)


async def brought(storage: Storage, number: int, state: State) -> Pair:
    slot = evolve(job(f"u{number}", type=f"t{number}"), epoch=GIVEN_EPOCH)
    pair = Pair(storage, slot, Claim(job=slot, token=1, until=NOW))
    if state.name == "none":
        return pair
    await storage.enqueue([evolve(slot, demand=Demand.RUN) if state.word == "demanded" else slot])
    if state.name == JobStatus.PENDING:
        return pair
    pair = evolve(pair, held=await claim_one(storage, slot, now=NOW - 2 * HOUR if state.word == "expired" else NOW))
    if state.name != JobStatus.PROCESSING:
        code = None if state.word is None else SkipReason(state.word)
        assert await storage.finish(pair.held, Finish(status=JobStatus(state.name), code=code, error="e", reason="r"))
    return pair


async def enqueue(pair: Pair, *, paused: bool = False, **fields: Any) -> None:
    if paused:
        await pair.storage.pause(pair.types, NOW)
    await pair.storage.enqueue([evolve(pair.slot, **fields)])


async def take(pair: Pair, *, paused: bool = False, by_key: bool = True) -> None:
    if paused:
        await pair.storage.pause(pair.types, NOW)
    await claim(pair.storage, types=pair.types, key=pair.slot.dedup_key if by_key else None)


async def beat(pair: Pair, *, stale: int = 0) -> None:
    beating = evolve(pair.held, token=pair.held.token - stale, progress=Progress("sections", 1, 2))
    await pair.storage.heartbeat([beating], NOW + HOUR)


async def end(pair: Pair, status: JobStatus, *, stale: int = 0) -> JobStatus:
    code = SkipReason.OPTED_OUT if status in (JobStatus.SKIPPED, JobStatus.CANCELLED) else None
    await pair.storage.finish(evolve(pair.held, token=pair.held.token - stale), Finish(status=status, code=code))
    return status


async def put_back(pair: Pair, *, stale: int = 0, counted: bool = True) -> None:
    await pair.storage.retry(evolve(pair.held, token=pair.held.token - stale), NOW, "again", counted=counted)


async def release(pair: Pair, *, stale: int = 0) -> None:
    await pair.storage.release([evolve(pair.held, token=pair.held.token - stale)])


async def change(pair: Pair, change: Change) -> None:
    await pair.storage.change([pair.slot.dedup_key], change)


async def pause(pair: Pair) -> None:
    await pair.storage.pause(pair.types, NOW)


async def resume(pair: Pair, *, late: bool = False, paused: bool = True) -> None:
    if paused:
        await pair.storage.pause(pair.types, NOW)
    at = pair.slot.occurrence.deliver_at
    await pair.storage.resume(pair.types, since=at + DAY if late else at)


async def follow(pair: Pair, demand: Demand | None) -> None:
    brief = job(pair.slot.user_id, type=f"{pair.slot.type}-brief")
    await pair.storage.enqueue([brief])
    mail = FollowUp(evolve(pair.slot, epoch=BRIEFS_EPOCH, demand=demand), b"mail")
    assert await pair.storage.finish(await claim_one(pair.storage, brief), Finish(status=JobStatus.EMPTY), [mail])


async def prune(pair: Pair, *, old: bool = True, latest: bool = False) -> None:
    if not latest:
        later = job(pair.slot.user_id, 1, type=pair.slot.type)
        await pair.storage.enqueue([later])
        for held in (await claim(pair.storage, types=pair.types, key=later.dedup_key)).claims:
            await pair.storage.finish(held, Finish(status=JobStatus.COMPLETED))
    at = pair.slot.occurrence.deliver_at
    await pair.storage.prune(pair.types, at + HOUR if old else at, 9)


async def forget(pair: Pair) -> None:
    await pair.storage.forget(pair.slot.user_id)


SKIP: dict[str, Any] = {"status": JobStatus.SKIPPED, "code": SkipReason.MISSED}
Operation = Callable[[Pair], Awaitable[JobStatus | None]]
"""Does something to the slot of a pair; tells which end it asks for, if it asks for one."""

# Each word of the table, and what else may be done to a slot; more than one way to do it where they are to be alike.
OPERATIONS: dict[str, list[Operation]] = {
    "plan": [enqueue],
    "plan while paused": [partial(enqueue, paused=True)],
    "decide against": [partial(enqueue, **SKIP)],
    "decide against while paused": [partial(enqueue, paused=True, **SKIP)],
    "demand": [partial(enqueue, demand=demand) for demand in Demand],
    "demand while paused": [partial(enqueue, demand=demand, paused=True) for demand in Demand],
    "claim": [take, partial(take, by_key=False)],
    "claim while paused": [partial(take, paused=True), partial(take, paused=True, by_key=False)],
    "heartbeat": [beat],
    "finish": [partial(end, status=status) for status in ENDED],
    "retry": [put_back, partial(put_back, counted=False)],
    "release": [release],
    "a stale claim": [
        *(partial(call, stale=1) for call in (beat, put_back, release)),
        *(partial(end, status=status, stale=1) for status in ENDED),
    ],
    **{change_.name: [partial(change, change=change_)] for change_ in Change},
    "pause": [pause],
    "resume in time": [resume],
    "resume too late": [partial(resume, late=True)],
    "resume what runs": [partial(resume, paused=False), partial(resume, paused=False, late=True)],
    "mail": [partial(follow, demand=demand) for demand in (None, Demand.RUN)],
    "mail again": [partial(follow, demand=Demand.RESEND)],
    "prune": [prune],
    "prune the latest": [partial(prune, latest=True)],
    "prune what is young": [partial(prune, old=False)],
    "forget": [forget],
}


def test_the_table_speaks_of_states_and_operations_that_there_are() -> None:
    said = {word for row in TABLE for word in row.by}
    assert said <= set(OPERATIONS)
    assert {change.name for change in Change} <= said
    cells = {word for row in TABLE for word in (*row.origins, *row.to)}
    assert cells <= {"any", "ended", *(state.name for state in STATES), *map(str, STATES)}
    assert {row.epoch for row in TABLE} == {"as given", "same", "+ 1", "the brief's", ""}


def test_no_two_rows_of_the_table_speak_of_the_same() -> None:
    for name in OPERATIONS:
        for state in STATES:
            assert len([row for row in TABLE if name in row.by and state.is_among(row.origins)]) <= 1, (state, name)


CASES = [
    pytest.param(name, call, id=f"{name}-{n}") for name, calls in OPERATIONS.items() for n, call in enumerate(calls)
]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("name", "operation"), CASES)
async def test_a_slot_in_any_state_does_what_the_table_says(storage: Storage, name: str, operation: Operation) -> None:
    for number, state in enumerate(STATES):
        pair = await brought(storage, number, state)
        before = await pair.now()
        assert await pair.state() == state
        asked = await operation(pair)
        after, reached = await pair.now(), await pair.state()
        row = next((row for row in TABLE if name in row.by and state.is_among(row.origins)), None)
        if row is None:
            assert (after, reached) == (before, state), (state, name)
            lost = await storage.heartbeat([pair.held], NOW + HOUR)
            assert bool(lost) is (state.name != JobStatus.PROCESSING), (state, name)
            continue
        assert reached.is_among(row.to), (state, name, reached)
        # Withdrawing what is withdrawn is granted, and changes nothing.
        assert after != before or (name, state.word) == (Change.CANCEL.name, SkipReason.WITHDRAWN), (state, name)
        if before is not None and after is not None:
            raised = {"same": before.epoch, "+ 1": before.epoch + 1, "the brief's": BRIEFS_EPOCH}
            assert after.epoch == raised[row.epoch], (state, name)
        elif after is not None:
            assert after.epoch == {"as given": GIVEN_EPOCH, "the brief's": BRIEFS_EPOCH}[row.epoch], (state, name)
        assert asked is None or (after is not None and after.status is asked), (state, name)
