"""Helpers that make slots, claims and briefs, for clauses and for tests of storages.

All times are relative to ``NOW``: nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

from attrs import evolve

from fanout_briefs.model import (
    Brief,
    Claim,
    Claims,
    Demand,
    Finish,
    Html,
    Job,
    JobStatus,
    Occurrence,
    Page,
    Rendered,
    Section,
    SkipReason,
    Window,
)
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import Broken, holds, same

__all__ = [
    "DAY",
    "EVER",
    "HOUR",
    "MICROSECOND",
    "NOW",
    "TODAY",
    "brief_of",
    "briefed",
    "bring",
    "claim",
    "claim_one",
    "claimable",
    "finished",
    "found",
    "job",
    "names",
    "scanned",
]

_T = TypeVar("_T")
_MOST: Final = 5_000
"""The most items that any clause stores and then reads in pages."""
_PATIENCE: Final = 3
"""How many consecutive empty pages count as a scan that never ends."""

NOW: Final = datetime(2026, 3, 2, 8, tzinfo=UTC)
TODAY: Final = date(2026, 3, 2)
EVER: Final = datetime(1, 1, 2, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


def job(
    user_id: str = "ann",
    day: int = 0,
    *,
    type: str = "daily",  # noqa: A002  # as the model calls it
    status: JobStatus = JobStatus.PENDING,
    code: SkipReason | None = None,
    run_at: datetime | None = None,
    demand: Demand | None = None,
) -> Job:
    """Return a slot ``day`` days after today: due to run at eight, delivered at nine, covering the day before."""
    at = NOW + day * DAY
    return Job(
        type=type,
        user_id=user_id,
        occurrence=Occurrence(local_date=TODAY + day * DAY, deliver_at=at + HOUR),
        run_at=run_at or at,
        window=Window(start=at - DAY, end=at),
        status=status,
        code=code,
        demand=demand,
    )


def brief_of(slot: Job, *, text: str = "All is well.", end: datetime | None = None) -> Brief:
    """Return a brief for this slot with a good and a failed section; ``end`` is the end of its window."""
    return Brief(
        type=slot.type,
        user_id=slot.user_id,
        occurrence=slot.occurrence,
        window=Window(start=slot.window.start, end=end or slot.window.end),
        epoch=slot.epoch,
        sections=(
            Section(project_id="p1", title="Ärger & <Co>", text=text, html=Html("<p>All is well.</p>")),
            Section(project_id="p2", title="Two", error="TimeoutError()"),
        ),
        rendered=Rendered(subject="Your day", text=text, html="<html></html>"),
    )


async def claim(
    storage: Storage,
    *,
    due_by: datetime = NOW + 30 * DAY,
    now: datetime = NOW,
    lease: timedelta = HOUR,
    limit: int = 100,
    types: Collection[str] = ("daily",),
    key: str | None = None,
    keys: Collection[str] | None = None,
) -> Claims:
    """Claim jobs, by default all that are due within a month."""
    return await storage.claim(
        due_by, now=now, lease=lease, limit=limit, types=types, keys=keys if key is None else [key]
    )


async def claim_one(storage: Storage, slot: Job, *, now: datetime = NOW) -> Claim:
    """Claim this one slot.

    Raises:
        Broken: The storage returned no claim, or more than one.
    """
    claims = (await claim(storage, now=now, types=[slot.type], key=slot.dedup_key)).claims
    if len(claims) != 1:
        raise Broken(f"came back: {len(claims)} claims on {slot.dedup_key!r}\npromised:  one")
    return claims[0]


async def claimable(storage: Storage, *types: str, now: datetime = NOW) -> list[str]:
    """Claim all jobs that can be claimed, and return their types and users."""
    return sorted(f"{held.job.type} {held.job.user_id}" for held in (await claim(storage, now=now, types=types)).claims)


def names(got: Claims) -> list[str]:
    """Return the user ids of the claimed jobs."""
    return [held.job.user_id for held in got.claims]


async def found(storage: Storage, key: str) -> Job:
    """Return the stored slot with this key.

    Raises:
        Broken: There is none.
    """
    slot = (await storage.find([key])).get(key)
    if slot is None:
        raise Broken(f"came back: no slot {key!r}\npromised:  the one that was stored")
    return slot


async def bring(storage: Storage, slot: Job, status: JobStatus, code: SkipReason | None = None) -> Claim | None:
    """Bring a new slot into a state, using only the port, and return the claim if one was needed."""
    if status is JobStatus.SKIPPED and code is not None:
        await storage.enqueue([evolve(slot, status=status, code=code)])
        return None
    await storage.enqueue([slot])
    if status is JobStatus.PENDING:
        return None
    held = await claim_one(storage, slot)
    if status is not JobStatus.PROCESSING:
        same(await storage.finish(held, Finish(status=status, code=code, error="old error")), True)
    return held


async def finished(storage: Storage, slot: Job, end: Finish) -> Job:
    """Bring a slot, new or existing, to this end, and return it as stored."""
    if slot.dedup_key not in await storage.find([slot.dedup_key]):
        await storage.enqueue([slot])
    same(await storage.finish(await claim_one(storage, slot), end), True)
    return await found(storage, slot.dedup_key)


async def briefed(storage: Storage, slot: Job) -> Job:
    """Complete a slot with a brief."""
    return await finished(storage, slot, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot)))


async def scanned(read: Callable[[str | None, int], Awaitable[Page[_T]]], limit: int) -> AsyncIterator[_T]:
    """Read page by page until there is no next cursor, and check each page against its limit."""
    cursor: str | None = None
    given, without_any = 0, 0
    while True:
        page = await read(cursor, limit)
        holds(len(page.items) <= limit, "no more than `limit` in a page")
        given += len(page.items)
        without_any = 0 if page.items else without_any + 1
        holds(given <= _MOST and without_any < _PATIENCE, "a scan that ends, and gives each once")
        for item in page.items:
            yield item
        cursor = page.next_cursor
        if cursor is None:
            return
