"""Manual operations on slots, such as retry, cancel, regenerate and pause, and the status of all slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from attrs import evolve, frozen

from fanout_briefs.delivery import mail_type
from fanout_briefs.dispatching import Carrier
from fanout_briefs.eligibility import local_date, parse, preference_of
from fanout_briefs.errors import BriefFailed, UnknownUser
from fanout_briefs.model import (
    Brief,
    Change,
    Demand,
    Job,
    JobRef,
    JobStatus,
    Occurrence,
    Overview,
    SkipReason,
    slot_key,
)
from fanout_briefs.ports import Preferences, Storage
from fanout_briefs.runs import Reconciled
from fanout_briefs.timing import CatchUp, Timing
from fanout_briefs.worker import Worker

__all__ = ["Concern", "Operator", "Status"]

_EVER = datetime(1, 1, 2, tzinfo=UTC)
_BATCH = 1000
_PATIENCE = timedelta(minutes=5)
"""The least time allowed to a plan or a worker, however short the horizon is."""


class Concern(StrEnum):
    """Why a status needs attention."""

    FAILED = "failed"
    """Briefs or mails failed for good."""

    UNKNOWN = "unknown"
    """Nobody knows whether some mails have left."""

    ABANDONED = "abandoned"
    """A worker died, and no other has taken over its jobs."""

    NEVER_PLANNED = "never_planned"
    """No plan has finished yet, so nobody gets anything."""

    PLAN_OVERDUE = "plan_overdue"
    """The last plan is older than both the horizon and five minutes: nothing that is due now gets queued."""

    WORK_OVERDUE = "work_overdue"
    """Work has waited longer than both the horizon and five minutes: too few workers, or none. Not during a pause."""


@frozen(kw_only=True)
class Status:
    """How one kind of brief stands at a moment.

    Attributes:
        name: The brief's name.
        now: The moment.
        since: Ended slots are included if their delivery was due at this instant or later.
        briefs: The brief's own slots.
        mails: The slots of its mails; None where nothing is mailed.
        horizon: How far ahead a plan looks. ``concerns`` allows a plan to be this old and work to wait this long, but
            at least five minutes.
    """

    name: str
    now: datetime
    since: datetime
    briefs: Overview
    mails: Overview | None
    horizon: timedelta

    @property
    def ok(self) -> bool:
        """Whether there are no concerns: nothing failed, is unknown or abandoned, and plans and workers keep up."""
        return not self.concerns

    @property
    def concerns(self) -> Sequence[Concern]:
        """What needs attention, in the order of the enum."""
        both = [each for each in (self.briefs, self.mails) if each is not None]
        patience = max(self.horizon, _PATIENCE)
        planned_at = self.briefs.planned_at
        waiting = [each.oldest for each in both if each.overdue and each.oldest is not None]
        is_paused = any(each.paused_since for each in both)
        is_there = {
            Concern.FAILED: any(each.ended.get(JobStatus.FAILED) for each in both),
            Concern.UNKNOWN: any(each.ended.get(JobStatus.UNKNOWN) for each in both),
            Concern.ABANDONED: any(each.abandoned for each in both),
            Concern.NEVER_PLANNED: planned_at is None,
            Concern.PLAN_OVERDUE: planned_at is not None and self.now - planned_at > patience,
            Concern.WORK_OVERDUE: not is_paused and any(self.now - oldest > patience for oldest in waiting),
        }
        return [concern for concern in Concern if is_there[concern]]


@frozen(kw_only=True)
class Operator:
    """Manual operations on the slots of one kind of brief, beyond what planners and workers do."""

    name: str
    preferences: Preferences
    storage: Storage
    timing: Timing
    worker: Worker
    mails: bool
    carrier: Carrier | None = None

    @property
    def _types(self) -> Sequence[str]:
        return self.name, mail_type(self.name)

    async def retry(self, user_id: str, on: date | None, now: datetime) -> bool:
        """See ``Briefs.retry``."""
        brief, mail = await self._keys(user_id, on, now)
        # A brief that is generated again brings its own mail, so the old mail is not sent first.
        return bool(await self.storage.change([brief], Change.RETRY) or await self.storage.change([mail], Change.RETRY))

    async def retry_all(self, statuses: Sequence[JobStatus], since: datetime) -> int:
        """See ``Briefs.retry_all``."""
        retried = 0
        async with aclosing(self._pages(statuses, since)) as pages:
            async for jobs in pages:
                retried += len(await self.storage.change([job.dedup_key for job in jobs], Change.RETRY))
        return retried

    async def _pages(
        self, statuses: Sequence[JobStatus], since: datetime, types: Sequence[str] | None = None
    ) -> AsyncGenerator[Sequence[Job]]:
        cursor: str | None = None
        types = self._types if types is None else types
        while True:
            page = await self.storage.select(types, statuses, since=since, cursor=cursor, limit=_BATCH)
            yield page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, user_id: str, on: date | None, now: datetime) -> bool:
        """See ``Briefs.cancel``."""
        brief, mail = await self._keys(user_id, on, now)
        if brief not in await self.storage.find([brief]):
            planned = await self._planned(user_id, on, now)
            if planned is None:
                return False
            # Record the withdrawal in a slot that no plan takes up and that no worker could start in between.
            await self.storage.enqueue([evolve(planned, status=JobStatus.SKIPPED, code=SkipReason.WITHDRAWN)])
        cancelled = await self.storage.change([brief, mail], Change.CANCEL)
        if self.carrier is not None and cancelled:
            jobs = await self.storage.find(cancelled)
            await self.carrier.take_back([JobRef.of(job) for job in jobs.values()])
        return bool(cancelled)

    async def _planned(self, user_id: str, on: date | None, now: datetime) -> Job | None:
        preference = await preference_of(user_id, self.preferences)
        if preference is None:
            return None
        schedule = parse(preference)
        occurrence = schedule.on(on or local_date(preference, now))
        if occurrence is None:
            return None
        window = self.timing.window(occurrence, schedule.previous_before(occurrence.deliver_at))
        return self.timing.job(self.name, user_id, occurrence, window)

    async def regenerate(self, user_id: str, on: date | None, now: datetime, *, resend: bool) -> bool:
        """See ``Briefs.regenerate``."""
        brief, _ = await self._keys(user_id, on, now)
        return bool(await self.storage.change([brief], Change.RESEND if resend else Change.REGENERATE))

    async def generate_now(self, user_id: str, now: datetime, *, resend: bool) -> Brief | None:
        """See ``Briefs.generate_now``."""
        preference = await preference_of(user_id, self.preferences)
        if preference is None:
            raise UnknownUser(user_id)
        job = Job(
            type=self.name,
            user_id=user_id,
            occurrence=Occurrence(local_date(preference, now), now),
            run_at=now,
            window=self.timing.window_until(now, parse(preference).previous_before(now)),
            reason="on demand",
            demand=Demand.RESEND if resend else Demand.RUN,
        )
        await self.storage.enqueue([job])
        await self.worker.run(now, key=job.dedup_key)
        slot = (await self.storage.find([job.dedup_key])).get(job.dedup_key)
        if slot is None or slot.status is JobStatus.EMPTY:
            return None
        if slot.status is not JobStatus.COMPLETED:
            raise BriefFailed(await self._why_not(slot))
        return await self.storage.brief(self.name, user_id, job.occurrence.local_date)

    async def _why_not(self, slot: Job) -> str:
        what = f"the brief of {slot.user_id!r} for {slot.occurrence.local_date} is {slot.status}"
        why = slot.error or slot.reason
        if slot.status is not JobStatus.PENDING:
            return f"{what}: {why}"
        if self.name in await self.storage.paused([self.name]):
            return f"{what}: briefs are paused, resume them first"
        if slot.attempts == 0:
            return f"{what}: an earlier one of the user has to be made first, run what is due"
        return f"{what}, to be tried again at {slot.run_at:%Y-%m-%d %H:%M:%S} UTC: {why}"

    async def pause(self, now: datetime) -> bool:
        """See ``Briefs.pause``."""
        return await self.storage.pause(self._types, now)

    async def resume(self, now: datetime) -> int | None:
        """See ``Briefs.resume``."""
        late = timedelta(0) if self.timing.catch_up is CatchUp.SKIP else self.timing.max_lateness
        resumed = await self.storage.resume(self._types, since=now - late)
        if self.carrier is not None and resumed is not None:
            # All pending jobs: the messages of those that stayed pending may have been used up during the pause.
            async with aclosing(self._pages([JobStatus.PENDING], _EVER)) as pages:
                async for jobs in pages:
                    await self.carrier.tell([JobRef.of(job) for job in jobs])
        return resumed

    async def status(self, now: datetime, since: datetime) -> Status:
        """See ``Briefs.status``."""
        seen = await self.storage.overview(self._types, now=now, since=since)
        briefs, mails = (seen[kind] for kind in self._types)
        return Status(
            name=self.name,
            now=now,
            since=since,
            briefs=briefs,
            mails=mails if self.mails else None,
            horizon=self.timing.horizon,
        )

    async def reconcile(self, now: datetime, last: datetime | None = None) -> Reconciled:
        """See ``Briefs.reconcile``."""
        put_back = await self.put_back(now)
        if last is not None and self.carrier is not None:
            # This reads all pending jobs, so do it no more often than ``serve`` does.
            now, last = (at - (at - _EVER) % self.carrier.every for at in (now, last))
            if now == last:
                return put_back
        return evolve(put_back, dispatched=(await self.dispatch_again(now, last)).dispatched)

    async def put_back(self, now: datetime, last: datetime | None = None) -> Reconciled:  # noqa: ARG002
        """Put back the jobs of dead workers, or end those that must not run again."""
        ended: Counter[JobStatus | None] = Counter()
        seen = await self.storage.overview(self._types, now=now, since=now)
        if any(each.abandoned for each in seen.values()):
            async with aclosing(self._pages([JobStatus.PROCESSING], _EVER)) as pages:
                async for jobs in pages:
                    ended.update([await self.worker.take_back(job, now) for job in jobs])
        return Reconciled(
            returned=ended[JobStatus.PENDING],
            unknown=ended[JobStatus.UNKNOWN],
            failed=ended[JobStatus.FAILED],
        )

    async def dispatch_again(self, now: datetime, last: datetime | None = None) -> Reconciled:
        """Dispatch jobs that were not started in time, and those that came within the engine's reach since ``last``."""
        if self.carrier is None:
            return Reconciled()
        paused = await self.storage.paused(self._types)
        types = [kind for kind in self._types if kind not in paused]
        # Slots come in order of delivery, and none runs earlier than ``lead`` before that.
        end = self.carrier.furthest(now) + self.timing.lead
        # Without duplicate detection, originals may still be queued; urgent copies would delay what was really lost.
        goes_ahead = self.carrier.dispatcher.powers.reports_duplicates
        dispatched = 0
        async with aclosing(self._pages([JobStatus.PENDING], _EVER, types)) as pages:
            async for jobs in pages:
                wanted = [job for job in jobs if self.carrier.is_wanted(job.run_at, now, last)]
                refs = [JobRef.of(job, again=goes_ahead and job.run_at <= now) for job in wanted]
                await self.carrier.hand_over(refs)
                dispatched += len(wanted)
                if jobs and jobs[-1].occurrence.deliver_at > end:
                    break
        return Reconciled(dispatched=dispatched)

    async def prune(self, older_than: timedelta, now: datetime) -> int:
        """See ``Briefs.prune``."""
        timing = self.timing
        least = timing.max_lateness + timing.lead + timing.horizon
        if older_than <= least:
            raise ValueError(f"older_than={older_than}: must be more than {least}, or slots could be planned again")
        erased = 0
        # In batches, so that no other writer waits long.
        while batch := await self.storage.prune(self._types, now - older_than, _BATCH):
            erased += batch
        return erased

    async def _keys(self, user_id: str, on: date | None, now: datetime) -> tuple[str, str]:
        """Return the keys of the brief and its mail, for that date or the user's today."""
        if on is None:
            on = local_date(await preference_of(user_id, self.preferences), now)
        brief, mail = (slot_key(kind, on, user_id) for kind in self._types)
        return brief, mail
