"""Finds who is due and records one slot for each, page by page: due, duplicates, engagement, enqueue.

Planning is safe to repeat. Any number of planners may run at once, be killed at any point and run again: the ledger's
unique key ensures that together they create exactly one job per slot. A mark records up to which instant planning is
complete, so that nothing due during downtime is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, cast

from fanout_briefs.arguments import bad_counts, bad_hooks, bad_spans, refuse
from fanout_briefs.dedupe import BatchDeduplicator
from fanout_briefs.eligibility import Eligibility, Refusal, invalid_fields
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.errors import BadValue, InvalidSchedule, SourceError
from fanout_briefs.model import (
    LIVE,
    Enqueued,
    Job,
    JobStatus,
    SkipReason,
    Slot,
    Standing,
    Window,
    check_aware,
    check_user_id,
    slot_key,
)
from fanout_briefs.plans import Phase, PlanReport, Tally, Verdict
from fanout_briefs.ports import Engagement, Ledger, Preferences, StandingLedger
from fanout_briefs.scan import Calendar, Candidate, Due, DueSlot, Known, Wishes, pages
from fanout_briefs.settled import Rejected, iter_settled
from fanout_briefs.timing import CatchUp, Timing

__all__ = ["SchedulePlanner", "bad_plan_arguments"]

_PAGES_AT_ONCE = 2
"""While the storage works on one page, the next one is read and decided."""
_FURTHEST_BACK = timedelta(days=31)
"""Slots missed longer ago than this, and than ``max_lateness``, are not even recorded as missed."""
_FURTHEST_NEARBY = timedelta(days=31)
_CLOCKS_APART = timedelta(hours=26)
"""The largest difference between two local clocks: UTC+14 and UTC-12."""
_Skip: TypeAlias = tuple[Candidate, Refusal]


class SchedulePlanner:
    """Combines preferences, engagement, deduplication and the ledger into one plan.

    Args:
        preferences: Who wants a brief, and when.
        engagement: When users were last seen; None sends to everyone.
        ledger: Where slots are recorded.
        policy: Decides from visits and briefs; only asked if there is an ``engagement``.
        name: The brief's name, which is its job type. No colon.
        timing: Lead, horizon and catch-up.
        tolerance: None recognises duplicates by their slot. A timedelta of at most 31 days also skips slots within that
            distance of another live slot of the same user, as the system that this library started from did.
        page_size: How many preferences are read and written at a time.

    Raises:
        ValueError: The name, tolerance or page size is bad; the message names all bad ones.
    """

    def __init__(
        self,
        *,
        preferences: Preferences,
        engagement: Engagement | None = None,
        ledger: Ledger,
        policy: EngagementPolicy | None = None,
        name: str = "daily_brief",
        timing: Timing | None = None,
        tolerance: timedelta | None = None,
        page_size: int = 1000,
    ) -> None:
        refuse(bad_plan_arguments(name, tolerance, page_size))
        self.name = name
        self.timing: Timing = timing or Timing()
        self.preferences = preferences
        self.ledger = ledger
        self.eligibility: Eligibility = Eligibility(engagement, ledger, policy or BackoffPolicy())
        self.tolerance = tolerance
        self.page_size = page_size
        self.schedules: dict[object, Known] = {}

    async def plan(
        self,
        now: datetime,
        dry_run: bool = False,
        on_verdict: Callable[[Verdict], object] | None = None,
        *,
        review: timedelta = timedelta(0),
    ) -> PlanReport:
        """Plan everything that is due from the mark up to the horizon.

        Args:
            now: The moment to plan for, aware.
            dry_run: Makes the same decisions but writes nothing.
            on_verdict: A plain function, called once for every preference and occurrence, also for users who are not
                due. A page's verdicts come once the page is recorded.
            review: How far back to also report existing slots; they are not changed, but must be looked up. If ``now``
                was planned before, at least ``max_lateness`` is reviewed.

        Returns:
            The counts. Failures of single users or pages are included, and hold the mark back.

        Raises:
            ValueError: An argument is bad, for example a naive ``now``; or ``preferences`` returned a cursor twice.
            Exception: What ``preferences`` or ``on_verdict`` raises. Pages before it stay planned.
        """
        check_aware("now", now)
        refuse([*bad_spans({"review": review}), *bad_hooks({"on_verdict": on_verdict})])
        plan = await _Plan.begin(self, now.astimezone(UTC), dry_run=dry_run, on_verdict=on_verdict, review=review)
        read = pages(self.preferences, plan.calendar, self.page_size, everybody=on_verdict is not None)
        try:
            async with iter_settled(plan.page, read, limit=_PAGES_AT_ONCE) as planned:
                async for page in planned:
                    if isinstance(page, Rejected):
                        raise page.error
        except SourceError as error:
            raise error.__cause__ or error from None
        return await plan.end()


def bad_plan_arguments(name: str, tolerance: timedelta | None, page_size: int) -> Iterator[BadValue]:
    """Yield what is wrong with a planner's arguments."""
    wrong = check_user_id(name)  # The same rules as for ids: both are parts of a key.
    if wrong is None and ":" in name:
        wrong = "must hold no colon, which separates the parts of a key"
    if wrong is not None:
        yield BadValue("name", name, wrong)
    yield from bad_spans({"tolerance": tolerance}, most=_FURTHEST_NEARBY, may_be_none=True)
    yield from bad_counts({"page_size": page_size})


class _Plan:
    """The state of one call of ``plan``."""

    def __init__(
        self,
        planner: SchedulePlanner,
        now: datetime,
        window: Window,
        promised_from: datetime,
        *,
        dry_run: bool,
        on_verdict: Callable[[Verdict], object] | None,
    ) -> None:
        self._name, self._timing = planner.name, planner.timing
        self._ledger, self._eligibility = planner.ledger, planner.eligibility
        self._tolerance = planner.tolerance
        self._now = now
        self._window = window
        self._promised_from = promised_from
        self._looks_further_back = window.start < promised_from
        self._dry_run = dry_run
        self._on_verdict = on_verdict
        self._scanned = 0
        self._tally = Tally()
        self._clock: dict[str, tuple[int, float]] = dict.fromkeys(
            ("due", "duplicates", "engagement", "enqueue"), (0, 0.0)
        )
        self.calendar = Calendar(planner.name, planner.timing, window, planner.schedules)

    @classmethod
    async def begin(
        cls,
        planner: SchedulePlanner,
        now: datetime,
        *,
        dry_run: bool,
        on_verdict: Callable[[Verdict], object] | None,
        review: timedelta,
    ) -> _Plan:
        """Find the window, from the mark up to the horizon; the very first plan sets the mark."""
        timing = planner.timing
        first = now - timing.look_back
        mark = await planner.ledger.advance(planner.name)
        if mark is not None and mark >= now:  # This moment was planned before, so report what exists.
            review = max(review, timing.max_lateness)
        if mark is None and not dry_run:
            # The mark is set before anything is planned: if this plan dies, the next one starts from here.
            mark = await planner.ledger.advance(planner.name, start=first)
        promised_from = min(max(mark or first, now - max(_FURTHEST_BACK, timing.max_lateness)), now)
        # Before ``promised_from``, only existing slots are reported; missing ones were never promised.
        window = Window(min(promised_from, now - review), now + timing.lead + timing.horizon)
        return cls(planner, now, window, promised_from, dry_run=dry_run, on_verdict=on_verdict)

    async def page(self, wishes: Wishes) -> None:
        """Plan one page; if recording it fails, the page counts as failed and none of it is reported as done."""
        self._scanned += len(wishes.people)
        refused = self._new_tally()
        with self._timed("due") as handled:
            candidates = list(self._due(wishes, refused))
            handled(len(candidates))
        recorded = await self._record_or_fail(candidates) if candidates else self._new_tally()
        self._tally.add(refused)
        self._tally.add(recorded)
        if self._on_verdict is not None:
            self._tell_of_unpromised(wishes, candidates, refused, recorded)
            for verdict in (*refused.verdicts, *recorded.verdicts):
                self._on_verdict(verdict)

    def _tell_of_unpromised(
        self, wishes: Wishes, candidates: Sequence[Candidate], refused: Tally, recorded: Tally
    ) -> None:
        """Report as not yet due the users for whom only slots before the promise were looked up, and none found."""
        unheard = {job.user_id for job in candidates} - {verdict.user_id for verdict in recorded.verdicts}
        for person, due in wishes if unheard else ():
            if isinstance(due, Due) and check_user_id(person.user_id) is None and person.user_id in unheard:
                unheard.remove(person.user_id)  # If the page holds the user twice, the first one counts.
                self._not_yet_due(refused, person.user_id, due)

    def _new_tally(self) -> Tally:
        return Tally(keeps_verdicts=self._on_verdict is not None)

    async def _record_or_fail(self, candidates: Sequence[Candidate]) -> Tally:
        tally = self._new_tally()
        try:
            await self._record(candidates, tally)
        except Exception as error:
            tally = self._new_tally()
            tally.fail([job for job in candidates if self._is_promised(job)], error)
        return tally

    async def end(self) -> PlanReport:
        """Move the mark up to the first slot that is still undecided, and report."""
        tally = self._tally
        done = min(self._now, tally.undecided or self._now)
        reached = max(done, self._now - self._timing.max_lateness)  # Nothing older would be sent anyway.
        if self._dry_run:
            mark = await self._ledger.advance(self._name)
        else:
            mark = await self._ledger.advance(self._name, reached, planned_at=self._now)
        return PlanReport(
            now=self._now,
            window=self._window,
            mark=mark,
            dry_run=self._dry_run,
            scanned=self._scanned,
            due=tally.due,
            enqueued=tally.enqueued,
            duplicates=tally.duplicates,
            existing=tally.existing,
            failed=tally.failed,
            skipped=tally.skipped,
            problems=tally.problems,
            phases={name: Phase(*spent) for name, spent in self._clock.items()},
        )

    # due ---------------------------------------------------------------------------------------------

    def _due(self, wishes: Wishes, tally: Tally) -> Iterator[Candidate]:
        seen: set[str] = set()
        for person, due in wishes:
            user_id, since = person.user_id, person.effective_from
            wrong = check_user_id(user_id)
            if wrong is not None:
                bad = BadValue("user_id", user_id, wrong)
                # Its repr is printable on every terminal; as an id it is of no use to anybody.
                tally.refuse(repr(user_id)[:80], SkipReason.INVALID_USER_ID, str(bad))
            elif user_id in seen:
                detail = "the page holds this user twice; the first preference counts"
                tally.refuse(user_id, SkipReason.DUPLICATE_USER, detail)
            else:
                seen.add(user_id)
                slots = due.slots if since is None and isinstance(due, Due) else ()
                for slot in slots or self._slots_of(user_id, since, due, tally):  # Nearly always the former.
                    yield slot.of(user_id)

    def _slots_of(
        self, user_id: str, since: datetime | None, due: Due | InvalidSchedule | None, tally: Tally
    ) -> Sequence[DueSlot]:
        if due is None:
            tally.tell_of(user_id, SkipReason.SWITCHED_OFF)
            return ()
        invalid = invalid_fields(due if isinstance(due, InvalidSchedule) else None, since)
        if isinstance(due, InvalidSchedule) or invalid is not None:
            tally.refuse(user_id, SkipReason.INVALID_SCHEDULE, str(invalid))
            return ()
        if not due.slots:
            self._not_yet_due(tally, user_id, due)
        slots: list[DueSlot] = []
        for slot in due.slots:
            if since is not None and slot.occurrence.deliver_at < since:
                tally.tell_of(user_id, SkipReason.NOT_YET_EFFECTIVE, slot.occurrence)
            else:
                slots.append(slot)
        return slots

    def _not_yet_due(self, tally: Tally, user_id: str, due: Due) -> None:
        if tally.keeps_verdicts:
            coming = due.schedule.next_after(self._window.end - timedelta(microseconds=1))
            tally.tell_of(user_id, SkipReason.NOT_YET_DUE, coming)

    # duplicates, engagement, enqueue -------------------------------------------------------------------

    async def _record(self, candidates: Sequence[Candidate], tally: Tally) -> None:
        with self._timed("duplicates") as handled:
            nearby = await self._nearby(candidates)
            found = await self._standings(candidates) if nearby is None else _standings_of(nearby)
            if self._looks_further_back:
                candidates = [slot for slot in candidates if self._is_promised(slot) or slot.dedup_key in found]
            tally.due = len(candidates)
            fresh, skips = self._without_duplicates(candidates, found, nearby, tally)
            handled(len(candidates))
        wanted, missed = self._caught_up(candidates, fresh)
        skips += missed
        with self._timed("engagement") as handled:
            among = candidates if nearby is None else list(nearby.values())
            decisions = await self._eligibility.decide(wanted, found, among)
            handled(len(wanted))
        sends: list[Job] = []
        for slot in wanted:
            decision = decisions[slot.dedup_key]
            if not isinstance(decision, Refusal):
                sends.append(self._job(slot, JobStatus.PENDING, None, decision.reason))
            elif decision.retryable:
                tally.put_off(slot, decision)
            else:
                skips.append((slot, decision))
        with self._timed("enqueue") as handled:
            await self._enqueue(sends, self._skipped(skips, found, tally), tally)
            handled(len(sends) + len(skips))

    def _is_promised(self, slot: Candidate) -> bool:
        return slot.occurrence.deliver_at >= self._promised_from

    async def _standings(self, candidates: Sequence[Candidate]) -> Mapping[str, Standing]:
        keys = [slot.dedup_key for slot in candidates]
        if getattr(self._ledger, "tells_standings", False):
            return await cast("StandingLedger", self._ledger).standings(keys)
        return _standings_of(await self._ledger.find(keys))

    async def _nearby(self, candidates: Sequence[Candidate]) -> Mapping[str, Job] | None:
        """Find jobs of all dates that may lie within the tolerance, whatever their zones; None without a tolerance."""
        if self._tolerance is None:
            return None
        days = (self._tolerance + _CLOCKS_APART) // timedelta(days=1) + 1
        keys = [
            slot_key(slot.type, slot.occurrence.local_date + timedelta(days=day), slot.user_id)
            for slot in candidates
            for day in range(-days, days + 1)
        ]
        return await self._ledger.find(keys)

    def _without_duplicates(
        self,
        candidates: Sequence[Candidate],
        found: Mapping[str, Standing],
        nearby: Mapping[str, Job] | None,
        tally: Tally,
    ) -> tuple[list[Candidate], list[_Skip]]:
        """Count existing slots; return the slots to decide on, and those that a nearby job rules out."""
        if self._looks_further_back:
            for slot in candidates:
                if not self._is_promised(slot):
                    _tell(slot, found[slot.dedup_key], tally)
            candidates = list(filter(self._is_promised, candidates))
        blocking = [key for key, standing in found.items() if not standing.can_be_taken_up]
        fresh, duplicates = BatchDeduplicator.of_keys(blocking).split(candidates)
        for slot in duplicates:
            standing = found[slot.dedup_key]
            tally.duplicate(slot, standing.status, standing.code)
            if standing.status in LIVE and standing.deliver_at != slot.occurrence.deliver_at:
                # The time was changed after planning. A worker will cancel this slot as superseded; until then, the
                # mark must not pass the new time.
                tally.hold(slot.occurrence.deliver_at)
        if nearby is None:
            return fresh, []
        fresh, too_near = BatchDeduplicator((nearby[key] for key in blocking), self._tolerance).split(fresh)
        refusal = Refusal(SkipReason.NEARBY_JOB, f"another job lies within {self._tolerance}")
        return fresh, [(slot, refusal) for slot in too_near]

    def _caught_up(
        self, candidates: Sequence[Candidate], fresh: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[_Skip]]:
        """Split new slots by the catch-up policy into those that may be sent and those missed for good."""
        if all(slot.occurrence.deliver_at >= self._now for slot in fresh):
            return list(fresh), []
        policy = self._timing.catch_up
        latest: dict[str, datetime] = {}
        for slot in candidates:
            at = slot.occurrence.deliver_at
            if at < self._now:
                latest[slot.user_id] = max(at, latest.get(slot.user_id, at))
        wanted: list[Candidate] = []
        missed: list[_Skip] = []
        for slot in fresh:
            at = slot.occurrence.deliver_at
            if at >= self._now:
                wanted.append(slot)
            elif at < self._now - self._timing.max_lateness:
                missed.append((slot, Refusal(SkipReason.TOO_LATE)))
            elif policy is CatchUp.SKIP:
                missed.append((slot, Refusal(SkipReason.MISSED)))
            elif policy is CatchUp.LATEST and at < latest[slot.user_id]:
                missed.append((slot, Refusal(SkipReason.NEWER_OCCURRENCE)))
            else:
                wanted.append(slot)
        return wanted, missed

    def _job(self, slot: Candidate, status: JobStatus, code: SkipReason | None, reason: str | None) -> Job:
        return self._timing.job(
            slot.type, slot.user_id, slot.occurrence, slot.window, status=status, code=code, reason=reason
        )

    def _skipped(self, skips: Sequence[_Skip], found: Mapping[str, Standing], tally: Tally) -> list[Job]:
        """Count skipped slots; return those not recorded yet. A slot skipped before keeps its first reason."""
        new: list[Job] = []
        for slot, refusal in skips:
            standing = found.get(slot.dedup_key)
            if standing is None:
                new.append(self._job(slot, JobStatus.SKIPPED, refusal.code, refusal.detail))
            elif standing.status is JobStatus.SKIPPED:
                tally.skip(slot, standing.code or refusal.code, standing.reason)
            else:
                tally.skip(slot, refusal.code, refusal.detail)
        return new

    async def _enqueue(self, sends: Sequence[Job], skips: Sequence[Job], tally: Tally) -> None:
        jobs = [*sends, *skips]
        if self._dry_run or not jobs:
            outcomes: Sequence[Enqueued] = [Enqueued.CREATED] * len(jobs)
        else:
            outcomes = await self._ledger.enqueue(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.code is not None:  # The slot was enqueued as skipped.
                tally.skip(job, job.code, job.reason)
            elif outcome is Enqueued.DUPLICATE:  # Another planner was faster.
                tally.duplicate(job, JobStatus.PENDING)
            elif outcome is Enqueued.PAUSED:
                tally.skip(job, SkipReason.PAUSED, None)
            else:
                tally.enqueue(job)

    @contextmanager
    def _timed(self, phase: str) -> Generator[Callable[[int], None]]:
        count = 0

        def handled(items: int) -> None:
            nonlocal count
            count = items

        begun = time.perf_counter()
        try:
            yield handled
        finally:
            items, seconds = self._clock[phase]
            self._clock[phase] = (items + count, seconds + time.perf_counter() - begun)


def _standings_of(jobs: Mapping[str, Job]) -> Mapping[str, Standing]:
    return {key: Standing.of(job) for key, job in jobs.items()}


def _tell(slot: Slot, standing: Standing, tally: Tally) -> None:
    """Count an existing slot by its standing in the ledger."""
    if standing.status is JobStatus.SKIPPED and standing.code is not None:
        tally.skip(slot, standing.code, standing.reason)
    else:
        tally.duplicate(slot, standing.status, standing.code)
