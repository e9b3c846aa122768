"""A storage in plain dicts: for tests, previews and small tools.

It keeps every promise of the ports, except that nothing outlives the process. Each method is one synchronous step
after a checkpoint, so it is atomic without a lock. A claim looks at every live slot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import filterfalse, islice
from types import TracebackType
from typing import Final, Self

from anyio.lowlevel import checkpoint
from attrs import define, evolve

from fanout_briefs.encoding import decode_brief, encode_brief
from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Overview,
    Page,
    Preference,
    Scheduled,
    ScheduleFields,
    SkipReason,
    Trouble,
    Window,
)
from fanout_briefs.rules import (
    BRIEFED,
    ENDED,
    LIVE,
    PAUSED,
    RENEWABLE,
    SOON,
    TRANSITIONS,
    TROUBLED,
    TROUBLES,
    check_finish,
    check_limit,
    check_new,
    enqueued,
    fields_of,
    is_storable,
    normal,
    not_open,
    readable,
    storable,
    utc,
)

__all__ = ["MemoryPreferences", "MemoryStorage"]


@define
class _Slot:
    """One row: the job, and fields that only the storage sees."""

    job: Job
    token: int
    until: datetime | None = None
    window_fixed: bool = False


class MemoryStorage:
    """Keeps everything in memory. Closing keeps the content, which lives as long as the object."""

    def __init__(self) -> None:
        self.preferences: Final = MemoryPreferences(self._ready)
        self._users = 0
        self._slots: dict[str, _Slot] = {}
        self._owners: dict[tuple[str, str], list[_Slot]] = {}
        self._payloads: dict[str, bytes] = {}
        self._briefs: dict[tuple[str, str], dict[date, Brief]] = {}
        self._marks: dict[str, datetime] = {}
        self._planned_at: dict[str, datetime] = {}
        self._paused: dict[str, datetime] = {}
        self._floor = 0

    async def __aenter__(self) -> Self:
        await checkpoint()
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._users = max(0, self._users - 1)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        await self._ready()
        for job in jobs:
            check_new(job)
        fresh = [normal(job) for job in jobs]
        seen: set[str] = set()
        outcomes: list[Enqueued] = []
        for job in fresh:
            outcomes.append(Enqueued.DUPLICATE if job.dedup_key in seen else self._plan(job))
            seen.add(job.dedup_key)
        return outcomes

    def _plan(self, job: Job) -> Enqueued:
        slot = self._slots.get(job.dedup_key)
        outcome = enqueued(
            job, None if slot is None else (slot.job.status, slot.job.code), paused=job.type in self._paused
        )
        if outcome is Enqueued.PAUSED:
            job = evolve(job, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
        if slot is None:
            self._create(job)
        elif outcome is not Enqueued.DUPLICATE:
            self._replace(slot, evolve(job, epoch=slot.job.epoch + (outcome is Enqueued.TAKEN_UP)))
        return outcome

    def _create(self, job: Job) -> None:
        slot = self._slots[job.dedup_key] = _Slot(job, self._floor)
        self._owners.setdefault((job.user_id, job.type), []).append(slot)

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        await self._ready()
        return {key: self._slots[key].job for key in keys if key in self._slots}

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002  # the port's name
        await self._ready()
        latest: dict[str, datetime] = {}
        limits = {user_id: utc(instant) for user_id, instant in before.items()}
        for user_id, limit in limits.items():
            jobs = (slot.job for slot in self._owners.get((user_id, type), ()))
            delivered = (job.occurrence.deliver_at for job in jobs if job.status in BRIEFED)
            at = max((at for at in delivered if at < limit), default=None)
            if at is not None:
                latest[user_id] = at
        return latest

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        await self._ready()
        rule = TRANSITIONS[change]
        moved = {key for key in keys if key in self._slots and self._slots[key].job.status in rule.applies_to}
        for slot in map(self._slots.__getitem__, moved):
            slot.job = evolve(slot.job, status=rule.to, code=rule.code)
            if rule.demand is not None:
                slot.job = evolve(_renewed(slot.job), demand=rule.demand)
        return moved

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        await self._ready()
        begin, end, noted = (None if at is None else utc(at) for at in (start, to, planned_at))
        mark = self._marks.get(name, begin)
        if mark is not None:
            self._marks[name] = mark = mark if end is None else max(mark, end)
            if noted is not None:
                self._planned_at[name] = noted
        return mark

    async def forget(self, user_id: str) -> int:
        await self._ready()
        owners = [owner for owner in self._owners if owner[0] == user_id]
        slots = [slot for owner in owners for slot in self._owners.pop(owner)]
        payloads = [self._payloads.pop(slot.job.dedup_key, None) for slot in slots]
        briefs = [self._briefs.pop(owner) for owner in list(self._briefs) if owner[1] == user_id]
        for slot in slots:
            del self._slots[slot.job.dedup_key]
            # A slot with the same key may be planned again; a claim on the old one must not fit the new one.
            self._floor = max(self._floor, slot.token)
        rows = len(slots) + sum(payload is not None for payload in payloads) + sum(map(len, briefs))
        return rows + self.preferences.erase(user_id)

    async def claim(
        self,
        due_by: datetime,
        *,
        now: datetime,
        lease: timedelta,
        limit: int,
        types: Collection[str],
        keys: Collection[str] | None = None,
    ) -> Claims:
        await self._ready()
        check_limit(limit)
        due_by, now = utc(due_by), utc(now)
        until = now + lease
        open_types = set(types) - self._paused.keys()
        asked = [slot for slot in self._asked(keys) if slot.job.type in open_types]
        held = [end for slot in asked if (end := slot.until) is not None and end > now and slot.job.run_at <= due_by]
        due = [slot for slot in asked if (slot.job.run_at <= due_by if slot.until is None else slot.until <= now)]
        due.sort(key=lambda slot: slot.job.run_at)
        free = islice(filterfalse(self._waits, due), limit)
        # Choose all before taking any; taking one does not unblock another.
        return Claims([self._take(slot, until) for slot in tuple(free)], min(held, default=None))

    def _asked(self, keys: Collection[str] | None) -> Iterable[_Slot]:
        slots = self._slots.values() if keys is None else filter(None, map(self._slots.get, dict.fromkeys(keys)))
        return (slot for slot in slots if slot.job.status in LIVE)

    def _waits(self, slot: _Slot) -> bool:
        at = slot.job.occurrence.deliver_at
        peers = self._owners[slot.job.user_id, slot.job.type]
        return any(peer.job.status in LIVE and peer.job.occurrence.deliver_at < at for peer in peers)

    def _take(self, slot: _Slot, until: datetime) -> Claim:
        job = slot.job
        window = job.window if slot.window_fixed else self._window(job)
        slot.job = job = evolve(job, status=JobStatus.PROCESSING, attempts=job.attempts + 1, window=window)
        slot.token, slot.until, slot.window_fixed = slot.token + 1, until, True
        return Claim(
            job=job,
            token=slot.token,
            until=until,
            payload=self._payloads.get(job.dedup_key),
            progress=job.progress,
        )

    def _window(self, job: Job) -> Window:
        saved = self._last_brief(job.type, job.user_id)
        return job.window if saved is None else evolve(job.window, start=min(saved.window.end, job.window.end))

    def _replace(self, slot: _Slot, job: Job) -> None:
        saved = self._briefs.get((job.type, job.user_id), {})
        slot.window_fixed = slot.window_fixed and job.occurrence.local_date in saved
        start = slot.job.window.start if slot.window_fixed else job.window.start
        slot.job = evolve(job, attempts=0, progress=None, window=Window(start=start, end=job.window.end))
        slot.until = None

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        await self._ready()
        held = {claim.job.dedup_key: slot for claim in claims if (slot := self._held(claim)) is not None}
        for claim in claims:
            if (slot := self._held(claim)) is not None:
                slot.until = utc(until)
                slot.job = evolve(slot.job, progress=claim.progress or slot.job.progress)
        return {claim.job.dedup_key for claim in claims} - held.keys()

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        await self._ready()
        check_finish(finish)
        for follow_up in follow_ups:
            check_new(follow_up.job)
        jobs = [normal(follow_up.job) for follow_up in follow_ups]
        brief = None if finish.brief is None else decode_brief(encode_brief(finish.brief))
        slot = self._held(claim)
        if slot is None:
            return False
        slot.until = None
        slot.job = evolve(
            slot.job,
            status=finish.status,
            code=finish.code,
            reason=slot.job.reason if finish.reason is None else readable(finish.reason),
            error=readable(finish.error),
        )
        if brief is not None:
            self._briefs.setdefault((brief.type, brief.user_id), {})[brief.occurrence.local_date] = brief
        for job, follow_up in zip(jobs, follow_ups, strict=True):
            self._follow(job, follow_up.payload)
        return True

    def _follow(self, job: Job, payload: bytes) -> None:
        slot = self._slots.get(job.dedup_key)
        if slot is None:
            self._create(job)
        elif slot.job.status in RENEWABLE or job.demand is Demand.RESEND:
            self._replace(slot, job)
        else:
            return
        self._payloads[job.dedup_key] = payload

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        await self._ready()
        at = utc(at)
        slot = self._held(claim)
        if slot is None:
            return False
        slot.until = None
        attempts = slot.job.attempts - (not counted)
        slot.job = evolve(
            slot.job,
            status=JobStatus.PENDING,
            run_at=at,
            error=readable(error),
            attempts=attempts,
            progress=None,
        )
        return True

    async def release(self, claims: Collection[Claim]) -> None:
        await self._ready()
        for slot in map(self._held, claims):
            if slot is not None:
                slot.until = None
                slot.job = evolve(slot.job, status=JobStatus.PENDING, attempts=slot.job.attempts - 1, progress=None)

    async def brief(self, type: str, user_id: str, on: date | None = None) -> Brief | None:  # noqa: A002  # the port's name
        await self._ready()
        if on is None:
            return self._last_brief(type, user_id)
        return self._briefs.get((type, user_id), {}).get(on)

    def _last_brief(self, kind: str, user_id: str) -> Brief | None:
        return max(self._briefs.get((kind, user_id), {}).values(), key=_place, default=None)

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        await self._ready()
        at = utc(at)
        running = set(filter(is_storable, types)) - self._paused.keys()
        self._paused.update(dict.fromkeys(running, at))
        return bool(running)

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        await self._ready()
        since = utc(since)
        paused = set(types) & self._paused.keys()
        if not paused:
            return None
        for kind in paused:
            del self._paused[kind]
        resumed = 0
        for slot in (slot for slot in self._slots.values() if slot.job.type in paused):
            job, is_timely = slot.job, slot.job.occurrence.deliver_at >= since
            if is_timely and job.status in PAUSED and job.code is SkipReason.PAUSED:
                slot.job = evolve(_renewed(job), status=JobStatus.PENDING, code=None)
                resumed += 1
            elif not is_timely and job.status is JobStatus.PENDING and job.demand is None:
                slot.job = evolve(job, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)
        return resumed

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        await self._ready()
        return {kind: self._paused[kind] for kind in types if kind in self._paused}

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        await self._ready()
        now, since = utc(now), utc(since)
        return {kind: self._overview(kind, now, since) for kind in types}

    def _overview(self, kind: str, now: datetime, since: datetime) -> Overview:
        slots = [slot for slot in self._slots.values() if slot.job.type == kind]
        pending = [slot.job.run_at for slot in slots if slot.job.status is JobStatus.PENDING]
        overdue = [at for at in pending if at <= now]
        soon = [at for at in pending if now < at <= now + SOON]
        leases = [slot for slot in slots if slot.job.status is JobStatus.PROCESSING]
        abandoned = [slot.job.run_at for slot in leases if slot.until is not None and slot.until <= now]
        ended = [slot.job for slot in slots if slot.job.status in ENDED and slot.job.occurrence.deliver_at >= since]
        return Overview(
            planned_at=self._planned_at.get(kind),
            mark=self._marks.get(kind),
            paused_since=self._paused.get(kind),
            running=len(leases) - len(abandoned),
            abandoned=len(abandoned),
            overdue=len(overdue),
            oldest=min((*overdue, *abandoned), default=None),
            soon=len(soon),
            later=len(pending) - len(overdue) - len(soon),
            ended=Counter(job.status for job in ended),
            codes=Counter(job.code for job in ended if job.code is not None),
            troubles=_troubles(job for job in ended if job.status in TROUBLED),
        )

    async def select(
        self,
        types: Collection[str],
        statuses: Collection[JobStatus],
        *,
        since: datetime,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> Page[Job]:
        await self._ready()
        check_limit(limit)
        since = utc(since)
        asked = (slot.job for slot in self._slots.values() if slot.job.type in types and slot.job.status in statuses)
        jobs = sorted((job for job in asked if job.occurrence.deliver_at >= since), key=_turn)
        begin = 0 if cursor is None else bisect_right(jobs, cursor, key=_cursor)
        page = jobs[begin : begin + limit]
        return Page(page, _cursor(page[-1]) if begin + limit < len(jobs) else None)

    async def prune(self, types: Collection[str], before: datetime, limit: int) -> int:
        await self._ready()
        check_limit(limit)
        before = utc(before)
        old = [job for job in (slot.job for slot in self._slots.values()) if self._is_prunable(job, types, before)]
        erased = sorted(old, key=_turn)[:limit]
        for job in erased:
            slot = self._slots.pop(job.dedup_key)
            self._owners[job.user_id, job.type].remove(slot)
            self._floor = max(self._floor, slot.token)  # as in forget
            self._payloads.pop(job.dedup_key, None)
            self._briefs.get((job.type, job.user_id), {}).pop(job.occurrence.local_date, None)
        return len(erased)

    def _is_prunable(self, job: Job, types: Collection[str], before: datetime) -> bool:
        if job.type not in types or job.status in LIVE or job.occurrence.deliver_at >= before:
            return False
        peers = (slot.job for slot in self._owners[job.user_id, job.type])
        newer = [peer.status for peer in peers if _turn(peer) > _turn(job)]
        brief = self._last_brief(job.type, job.user_id)
        return (JobStatus.COMPLETED in newer or (bool(newer) and job.status is not JobStatus.COMPLETED)) and (
            brief is None or brief.occurrence.local_date != job.occurrence.local_date
        )

    def _held(self, claim: Claim) -> _Slot | None:
        slot = self._slots.get(claim.job.dedup_key)
        holds = slot is not None and slot.token == claim.token and slot.job.status is JobStatus.PROCESSING
        return slot if holds else None

    async def _ready(self) -> None:
        await checkpoint()
        if not self._users:
            raise not_open("the storage in memory")


class MemoryPreferences:
    """The preferences in a ``MemoryStorage``, ordered by user id; they can be read by schedule."""

    schedule_index = True

    def __init__(self, ready: Callable[[], Awaitable[None]]) -> None:
        self._ready = ready
        self._rows: dict[str, Preference] = {}
        self._order: list[str] | None = None
        self._by_schedule: dict[str, list[str]] = {}
        self._fields: dict[str, ScheduleFields] = {}

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        await self._ready()
        check_limit(limit)
        people, next_cursor = _page(self._in_order(), cursor, limit)
        return Page([self._rows[user_id] for user_id in people], next_cursor)

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        await self._ready()
        self._in_order()
        return dict(self._fields)

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        await self._ready()
        check_limit(limit)
        self._in_order()
        having = {user_id: schedule for schedule in set(schedules) for user_id in self._by_schedule.get(schedule, ())}
        people, next_cursor = _page(sorted(having), cursor, limit)
        items = [Scheduled(user_id, having[user_id], self._rows[user_id].effective_from) for user_id in people]
        return Page(items, next_cursor)

    def _in_order(self) -> list[str]:
        if self._order is None:
            self._order = sorted(self._rows)
            self._by_schedule, self._fields = {}, {}
            for user_id in self._order:
                row = self._rows[user_id]
                if row.is_active:
                    fields = fields_of(row)
                    self._fields[repr(fields)] = fields
                    self._by_schedule.setdefault(repr(fields), []).append(user_id)
        return self._order

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        await self._ready()
        return {user_id: self._rows[user_id] for user_id in user_ids if user_id in self._rows}

    async def put(self, preferences: Iterable[Preference]) -> None:
        """Store these preferences, replacing those of the same users; all of them or none.

        Raises:
            InvalidPreferences: Some contain values that cannot be stored. Whether they form a valid schedule is
                checked by the planner, not here.
        """
        rows = storable(preferences)
        await self._ready()
        self._rows.update((row.user_id, row) for row in rows)
        self._order = None

    async def remove(self, user_ids: Collection[str]) -> None:
        """Remove the preferences of these users, but not their slots and briefs."""
        await self._ready()
        for user_id in user_ids:
            self.erase(user_id)

    def erase(self, user_id: str) -> int:
        """Remove one user's row, without a checkpoint, and return how many rows were removed."""
        self._order = None
        return int(self._rows.pop(user_id, None) is not None)


def _page(order: Sequence[str], cursor: str | None, limit: int) -> tuple[Sequence[str], str | None]:
    begin = 0 if cursor is None else bisect_right(order, cursor)
    people = order[begin : begin + limit]
    return people, people[-1] if begin + limit < len(order) else None


def _renewed(job: Job) -> Job:
    return evolve(job, epoch=job.epoch + 1, attempts=0, progress=None, reason=None, error=None, demand=None)


def _turn(job: Job) -> tuple[datetime, str]:
    return job.occurrence.deliver_at, job.dedup_key


def _cursor(job: Job) -> str:
    return f"{job.occurrence.deliver_at.isoformat(timespec='microseconds')} {job.dedup_key}"


def _troubles(jobs: Iterable[Job]) -> Sequence[Trouble]:
    counts: Counter[tuple[JobStatus, str | None]] = Counter()
    latest: dict[tuple[JobStatus, str | None], datetime] = {}
    for job in jobs:
        kind = job.status, job.error
        counts[kind] += 1
        latest[kind] = max(latest.get(kind, job.occurrence.deliver_at), job.occurrence.deliver_at)
    # None sorts before every text, as NULL does in the SQL storages.
    most = sorted(counts, key=lambda kind: (-counts[kind], kind[0], kind[1] is not None, kind[1] or ""))[:TROUBLES]
    return tuple(Trouble(*kind, counts[kind], latest[kind]) for kind in most)


def _place(brief: Brief) -> tuple[datetime, date]:
    return brief.occurrence.deliver_at, brief.occurrence.local_date
