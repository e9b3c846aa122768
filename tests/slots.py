"""Slots, claims and briefs in few words, for tests of storages."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta

from attrs import evolve

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
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
    Rendered,
    Section,
    SkipReason,
    Window,
)
from fanout_briefs.ports import Storage

AnyStorage = MemoryStorage | SqliteStorage | PostgresStorage
NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
TODAY = date(2026, 3, 2)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


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
    """A slot ``day`` days after today: may run from eight o'clock, is delivered at nine, covers the day before."""
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
) -> Claims:
    return await storage.claim(due_by, now=now, lease=lease, limit=limit, types=types, key=key)


async def claim_one(storage: Storage, slot: Job, *, now: datetime = NOW) -> Claim:
    (held,) = (await claim(storage, now=now, types=[slot.type], key=slot.dedup_key)).claims
    return held


async def found(storage: Storage, key: str) -> Job:
    return (await storage.find([key]))[key]


async def bring(storage: Storage, slot: Job, status: JobStatus, code: SkipReason | None = None) -> Claim | None:
    """Bring a new slot into a state, by what the port offers; give the claim that was used, if one was."""
    if status is JobStatus.SKIPPED and code is not None:
        await storage.enqueue([evolve(slot, status=status, code=code)])
        return None
    await storage.enqueue([slot])
    if status is JobStatus.PENDING:
        return None
    held = await claim_one(storage, slot)
    if status is not JobStatus.PROCESSING:
        assert await storage.finish(held, Finish(status=status, code=code, error="old error"))
    return held
