"""All storages give the same answers and end in the same state, whatever is asked of them in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from attrs import evolve, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.model import Change, Claim, Demand, Finish, FollowUp, Job, JobStatus, Page, Progress, SkipReason
from services import Schema
from slots import DAY, HOUR, NOW, AnyStorage, brief_of, job

USERS = ("ann", "bob")
DAYS = (0, 1, 2)
TYPES = ("daily", "mail")
SLOTS = [(kind, user, day) for kind in TYPES for user in USERS for day in DAYS]
KEYS = [job(user, day, type=kind).dedup_key for kind, user, day in SLOTS]
CODES = (SkipReason.PAUSED, SkipReason.SUPERSEDED, SkipReason.ENGAGEMENT)
ENDS = [status for status in JobStatus if status not in (JobStatus.PENDING, JobStatus.PROCESSING)]


@frozen
class Step:
    """One call of a port; it is given the storage and what was claimed there so far."""

    call: Callable[..., Awaitable[object]]
    values: Mapping[str, Any]

    async def take(self, storage: AnyStorage, claims: list[Claim]) -> object:
        return await self.call(storage, claims, **self.values)


def among(claims: Sequence[Claim], place: int) -> list[Claim]:
    return [claims[-1 - place % len(claims)]] if claims else []


async def enqueue(storage: AnyStorage, _: list[Claim], jobs: Sequence[Job]) -> object:
    return list(await storage.enqueue(jobs))


async def change(storage: AnyStorage, _: list[Claim], keys: Collection[str], change: Change) -> object:
    return set(await storage.change(keys, change))


async def advance(storage: AnyStorage, _: list[Claim], **instants: Any) -> object:
    return await storage.advance("daily", instants.pop("to"), **instants)


async def forget(storage: AnyStorage, _: list[Claim], user_id: str) -> object:
    return await storage.forget(user_id)


async def claim(storage: AnyStorage, claims: list[Claim], **values: Any) -> object:
    got = await storage.claim(lease=HOUR, **values)
    claims += got.claims
    return list(got.claims), got.held_until


async def heartbeat(storage: AnyStorage, claims: list[Claim], place: int, progress: Any, until: Any) -> object:
    return set(await storage.heartbeat([evolve(held, progress=progress) for held in among(claims, place)], until))


async def finish(
    storage: AnyStorage, claims: list[Claim], *, place: int, end: Finish, text: str | None, mails: Sequence[FollowUp]
) -> object:
    return [
        await storage.finish(held, end if text is None else evolve(end, brief=brief_of(held.job, text=text)), mails)
        for held in among(claims, place)
    ]


async def retry(storage: AnyStorage, claims: list[Claim], place: int, at: Any, counted: bool) -> object:
    return [await storage.retry(held, at, "again", counted=counted) for held in among(claims, place)]


async def release(storage: AnyStorage, claims: list[Claim], place: int) -> object:
    await storage.release(among(claims, place))
    return None


async def pause(storage: AnyStorage, _: list[Claim], types: Collection[str], at: Any) -> object:
    return await storage.pause(types, at)


async def resume(storage: AnyStorage, _: list[Claim], types: Collection[str], since: Any) -> object:
    return await storage.resume(types, since=since)


async def prune(storage: AnyStorage, _: list[Claim], kind: str, before: Any, limit: int) -> object:
    return await storage.prune([kind], before, limit)


hours = st.sampled_from([-2, -1, 0, 1, 2, 24, 25, 48, 72])
instants = hours.map(lambda number: NOW + number * HOUR)
places = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 7])  # 0 is the latest claim, which may well be good
types = st.sampled_from([["daily", "mail"], ["daily", "mail"], ["daily"], ["mail"], []])


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    kind, user, day = slot = draw(st.sampled_from(SLOTS))
    status = draw(st.sampled_from([JobStatus.PENDING] * 3 + [JobStatus.SKIPPED]))
    code = draw(st.sampled_from(CODES)) if status is JobStatus.SKIPPED else None
    drawn = job(user, day, type=kind, status=status, code=code, demand=draw(st.sampled_from([None, None, *Demand])))
    shift = draw(st.sampled_from([-1, 0, 0, 1])) * HOUR
    at = drawn.occurrence.deliver_at + shift
    # Which of two jobs goes first that are due at once, nobody promises; so no two are.
    run_at = drawn.run_at + shift + SLOTS.index(slot) * timedelta(seconds=1)
    moved = evolve(drawn, occurrence=evolve(drawn.occurrence, deliver_at=at), run_at=run_at)
    return evolve(moved, reason=draw(st.sampled_from([None, "active"])), epoch=draw(st.sampled_from([1, 1, 4])))


@st.composite
def ends(draw: st.DrawFn) -> Finish:
    status = draw(st.sampled_from(ENDS))
    code = draw(st.sampled_from(CODES)) if status in (JobStatus.SKIPPED, JobStatus.CANCELLED) else None
    texts = st.sampled_from([None, "", "boom"])
    return Finish(status=status, code=code, error=draw(texts), reason=draw(texts))


def step(call: Callable[..., Awaitable[object]], /, **values: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.fixed_dictionaries(values).map(lambda drawn: Step(call, drawn))


claiming = step(
    claim,
    due_by=st.just(NOW + 9 * DAY) | instants,
    now=st.just(NOW) | instants,
    limit=st.integers(1, 4),
    types=types,
    key=st.sampled_from([None, None, None, *KEYS]),
)
follow_ups = st.lists(st.builds(FollowUp, jobs(), st.sampled_from([b"", b"mail", b"other"])), max_size=2)
finishing = step(finish, place=places, end=ends(), text=st.sampled_from([None, "one", "two"]), mails=follow_ups)
enqueueing = step(enqueue, jobs=st.lists(jobs(), max_size=6))
maybe = st.none() | instants
steps = st.one_of(
    enqueueing,
    enqueueing,
    claiming,
    claiming,
    finishing,
    finishing,
    step(change, keys=st.sets(st.sampled_from(KEYS)), change=st.sampled_from(Change)),
    step(advance, to=maybe, start=maybe, planned_at=maybe),
    step(forget, user_id=st.sampled_from(USERS)),
    step(
        heartbeat,
        place=places,
        until=instants,
        progress=st.sampled_from([None, Progress("sections", 1, 2, 1, alone=True)]),
    ),
    step(retry, place=places, at=instants, counted=st.booleans()),
    step(release, place=places),
    step(pause, types=types, at=instants),
    step(resume, types=types, since=instants),
    step(prune, kind=st.sampled_from(TYPES), before=instants, limit=st.integers(1, 4)),
)


async def pages(storage: AnyStorage, statuses: Collection[JobStatus], limit: int) -> list[Job]:
    got: list[Job] = []
    page: Page[Job] | None = None
    while page is None or page.next_cursor is not None:
        cursor = None if page is None else page.next_cursor
        page = await storage.select(TYPES, statuses, since=NOW + 2 * HOUR, cursor=cursor, limit=limit)
        got += page.items
    return got


async def state(storage: AnyStorage, claims: Sequence[Claim]) -> dict[str, object]:
    """Everything that the port tells without changing anything but leases."""
    dates = [job(day=day).occurrence.local_date for day in DAYS]
    return {
        "slots": await storage.find(KEYS),
        "briefs": [await storage.brief("daily", user, on) for user in USERS for on in (None, *dates)],
        "last": await storage.last_briefs("daily", dict.fromkeys(USERS, NOW + 2 * DAY)),
        "mark": await storage.advance("daily"),
        "paused": await storage.paused(TYPES),
        "overview": await storage.overview([*TYPES, "other"], now=NOW, since=NOW + HOUR),
        "all": await pages(storage, JobStatus.__members__.values(), 3),
        "troubled": await pages(storage, [JobStatus.FAILED, JobStatus.UNKNOWN, JobStatus.PENDING], 1),
        "lost": set(await storage.heartbeat(claims, NOW + 3 * HOUR)),
    }


async def drained(storage: AnyStorage) -> list[Claim]:
    """Whatever can still be claimed: with it come tokens, payloads and windows."""
    await storage.resume(TYPES, since=NOW - 99 * DAY)
    got: list[Claim] = []
    later = NOW + 99 * DAY
    while claims := (await storage.claim(later, now=later, lease=HOUR, limit=99, types=TYPES)).claims:
        got += claims
        for held in claims:
            assert await storage.finish(held, Finish(status=JobStatus.EMPTY))
    # Which of those comes first that are due at the same moment is nobody's promise.
    return sorted(got, key=lambda claim: (claim.job.run_at, claim.job.dedup_key))


async def compare(taken: Sequence[Step], other: AnyStorage) -> None:
    async with MemoryStorage() as memory, other:
        in_memory: list[Claim] = []
        in_other: list[Claim] = []
        for each in taken:
            assert await each.take(memory, in_memory) == await each.take(other, in_other), each
        assert await state(memory, in_memory) == await state(other, in_other)
        assert await drained(memory) == await drained(other)


# Short lists would be drawn more often, and show less.
runs = st.lists(steps, min_size=25, max_size=50)


@given(runs)
def test_what_a_storage_in_memory_says_one_in_sqlite_says_too(taken: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(compare, taken, SqliteStorage(Path(folder) / "briefs.db"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs)
def test_what_a_storage_in_memory_says_one_in_postgresql_says_too(postgres: Schema, taken: list[Step]) -> None:
    postgres.empty()
    anyio.run(compare, taken, postgres.storage())
