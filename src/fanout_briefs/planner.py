"""Finds who is due and records one slot for each: due, duplicates, engagement, enqueue, a page at a time.

Planning is safe to repeat. Any number of planners may run at once, be killed anywhere and be run again: the
ledger's unique key makes the union of their work exactly one job a slot. A mark remembers up to which
instant planning is complete, so that downtime is caught up with instead of forgotten.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from attrs import define, evolve, field, frozen

from fanout_briefs.dedupe import BatchDeduplicator
from fanout_briefs.eligibility import Eligibility, Refusal, parse
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.errors import BadValue, InvalidSchedule
from fanout_briefs.model import (
    KEPT_PROBLEMS,
    Enqueued,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    Problem,
    SkipReason,
    Window,
    check_aware,
    check_user_id,
)
from fanout_briefs.ports import Engagement, Ledger, Preferences
from fanout_briefs.schedule import Schedule
from fanout_briefs.timing import CatchUp, Timing

__all__ = ["Phase", "PlanReport", "SchedulePlanner", "Verdict"]

_KEPT_SCHEDULES = 10_000
_FURTHEST_BACK = timedelta(days=31)
"""Slots missed longer ago than this, and than ``max_lateness``, are not even recorded as missed."""
_LIVE = (JobStatus.PENDING, JobStatus.PROCESSING)


@frozen
class Phase:
    """How much one phase handled, and how long it took in seconds."""

    items: int
    seconds: float


@frozen(kw_only=True)
class Verdict:
    """What a plan decided about one preference or one of its occurrences.

    Attributes:
        status: What the slot is now, or would be after a dry run; None where there is no slot.
        code: Why there is no pending slot.
        detail: For people.
        is_new: Whether this plan made or took up the slot.
    """

    user_id: str
    occurrence: Occurrence | None = None
    status: JobStatus | None = None
    code: SkipReason | None = None
    detail: str | None = None
    is_new: bool = False


@frozen(kw_only=True)
class PlanReport:
    """What one plan did. Every due slot is enqueued, a duplicate, failed or skipped.

    Attributes:
        now: The moment planned for.
        window: The span of delivery times that was scanned: from its start, up to and without its end.
        mark: Up to where planning is complete now; None after a dry run on a fresh ledger.
        scanned: Preferences read.
        due: Slots in the window.
        enqueued: Slots that are pending because of this plan.
        duplicates: Slots that were there already; ``existing`` says in which states.
        failed: Due slots about which nothing could be decided or recorded; the next plan tries again.
        skipped: How many were decided against, by reason; people whose preference is unusable are in here too.
        problems: The first hundred things to look at.
        phases: ``due``, ``duplicates``, ``engagement``, ``enqueue``.
    """

    now: datetime
    window: Window
    mark: datetime | None
    dry_run: bool
    scanned: int
    due: int
    enqueued: int
    duplicates: int
    existing: Mapping[JobStatus, int]
    failed: int
    skipped: Mapping[SkipReason, int]
    problems: Sequence[Problem]
    phases: Mapping[str, Phase]

    @property
    def ok(self) -> bool:
        """Whether nothing needs a person's eye."""
        return not self.failed and not self.problems


@frozen
class _Due:
    """One distinct schedule's occurrences in the window, each with the one before it."""

    slots: Sequence[tuple[Occurrence, Occurrence]]
    schedule: Schedule


@define
class _Tally:
    """The counts of a plan, or of one page until it is known to be whole."""

    due: int = 0
    enqueued: int = 0
    duplicates: int = 0
    failed: int = 0
    existing: Counter[JobStatus] = field(factory=Counter[JobStatus])
    skipped: Counter[SkipReason] = field(factory=Counter[SkipReason])
    problems: list[Problem] = field(factory=list[Problem])
    verdicts: list[Verdict] = field(factory=list[Verdict])
    undecided: datetime | None = None

    def add(self, page: _Tally) -> None:
        self.due += page.due
        self.enqueued += page.enqueued
        self.duplicates += page.duplicates
        self.failed += page.failed
        self.existing += page.existing
        self.skipped += page.skipped
        self.problems += page.problems[: KEPT_PROBLEMS - len(self.problems)]
        if page.undecided is not None:
            self.hold(page.undecided)

    def hold(self, at: datetime) -> None:
        """Keep the mark from passing a slot that still lacks its last word, so that the next plan sees it."""
        self.undecided = at if self.undecided is None else min(at, self.undecided)

    def skip(self, job: Job, code: SkipReason, detail: str | None) -> None:
        self.skipped[code] += 1
        skipped = JobStatus.SKIPPED
        self.verdicts.append(
            Verdict(user_id=job.user_id, occurrence=job.occurrence, status=skipped, code=code, detail=detail)
        )

    def put_off(self, job: Job, refusal: Refusal) -> None:
        """Count a slot that nothing is recorded about, since the facts could not be read."""
        detail = str(refusal.detail)
        self.skipped[refusal.code] += 1
        self.verdicts.append(Verdict(user_id=job.user_id, occurrence=job.occurrence, code=refusal.code, detail=detail))
        self.problems.append(Problem(detail, job.user_id, refusal.code))
        self.hold(job.occurrence.deliver_at)

    def duplicate(self, job: Job, status: JobStatus, code: SkipReason | None = None) -> None:
        self.duplicates += 1
        self.existing[status] += 1
        self.verdicts.append(Verdict(user_id=job.user_id, occurrence=job.occurrence, status=status, code=code))

    def refuse(self, user_id: str, code: SkipReason, detail: str) -> None:
        """Count a preference that is unusable; a person should mend it."""
        self.skipped[code] += 1
        self.verdicts.append(Verdict(user_id=user_id, code=code, detail=detail))
        self.problems.append(Problem(detail, user_id, code))


class SchedulePlanner:
    """Composes preferences, engagement, deduplication and the ledger into one plan.

    Args:
        preferences: Who wants a brief, and when.
        engagement: When users were last seen; None sends to everyone.
        ledger: Where slots are recorded.
        policy: Decides from visits and briefs; only asked where there is an ``engagement``.
        name: The brief's name, which is its job type. No colon.
        timing: Lead, horizon and catch-up.
        tolerance: None tells duplicates by their slot. A timedelta also drops slots within that distance of
            another live one of the same user, as the seed did.
        page_size: How many preferences are read and written at a time.

    Raises:
        ValueError: A bad name, tolerance or page size.
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
        if not name or ":" in name:
            raise ValueError(f"name={name!r}: must not be empty nor hold a colon, which separates the parts of a key")
        if page_size < 1:
            raise ValueError(f"page_size={page_size}: must be at least 1")
        self.name = name
        self.timing = timing or Timing()
        self.preferences = preferences
        self.ledger = ledger
        self.eligibility = Eligibility(engagement, ledger, policy or BackoffPolicy())
        self.tolerance = tolerance
        self.page_size = page_size
        BatchDeduplicator((), tolerance)  # refuses a bad tolerance here rather than in the middle of a plan

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
            dry_run: Decides alike and writes nothing.
            on_verdict: Called, synchronously, once for every preference and occurrence, also for people who
                are not due. A page's verdicts come once the page is recorded.
            review: How far back to tell of slots that exist already, besides what is planned. Nothing of them is
                changed; it costs looking them up. A moment that was planned before is reviewed by ``max_lateness``.

        Returns:
            The counts; failures of single users or pages are in there and hold the mark back.

        Raises:
            ValueError: ``now`` is naive; or ``preferences.page`` gave a cursor twice.
            Exception: What ``preferences.page`` raises. Pages before it stay planned.
        """
        check_aware("now", now)
        plan = await _Plan.begin(self, now.astimezone(UTC), dry_run=dry_run, on_verdict=on_verdict, review=review)
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            page = await self.preferences.page(cursor, self.page_size)
            await plan.page(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return await plan.end()
            if cursor in seen:
                raise ValueError(f"preferences.page gave the cursor {cursor!r} twice, so the scan would never end")
            seen.add(cursor)


class _Plan:
    """One call of ``plan``: what it has seen so far."""

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
        self._dry_run = dry_run
        self._on_verdict = on_verdict
        self._scanned = 0
        self._tally = _Tally()
        self._clock: dict[str, tuple[int, float]] = dict.fromkeys(
            ("due", "duplicates", "engagement", "enqueue"), (0, 0.0)
        )
        self._schedules: dict[object, _Due | InvalidSchedule] = {}
        self._unpromised: dict[str, Schedule] = {}

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
        """Find the window: from the mark, which the very first plan sets, up to the horizon."""
        timing = planner.timing
        first = now - timing.look_back
        mark = await planner.ledger.advance(planner.name)
        if mark is not None and mark >= now:  # this moment was planned before: tell what is done
            review = max(review, timing.max_lateness)
        if mark is None and not dry_run:
            # It is set before anything is planned: if this plan dies, the next one starts from here.
            mark = await planner.ledger.advance(planner.name, start=first)
        promised_from = min(max(mark or first, now - max(_FURTHEST_BACK, timing.max_lateness)), now)
        # Further back than promised only what exists counts; what does not exist there was never promised.
        window = Window(min(promised_from, now - review), now + timing.lead + timing.horizon)
        return cls(planner, now, window, promised_from, dry_run=dry_run, on_verdict=on_verdict)

    async def page(self, preferences: Sequence[Preference]) -> None:
        """Plan one page; if its storage fails, the page counts as failed and nothing of it is reported as done."""
        self._scanned += len(preferences)
        self._unpromised = {}
        refused = _Tally()
        with self._timed("due") as handled:
            candidates = list(self._due(preferences, refused))
            handled(len(candidates))
        recorded = await self._record_or_fail(candidates) if candidates else _Tally()
        self._tally.add(refused)
        self._tally.add(recorded)
        if self._on_verdict is not None:
            heard = {verdict.user_id for verdict in recorded.verdicts}
            for user_id, schedule in self._unpromised.items():
                if user_id not in heard:
                    self._not_yet_due(refused, user_id, schedule)
            for verdict in (*refused.verdicts, *recorded.verdicts):
                self._on_verdict(verdict)

    async def _record_or_fail(self, candidates: Sequence[Job]) -> _Tally:
        tally = _Tally()
        try:
            await self._record(candidates, tally)
        except Exception as error:
            due = [job for job in candidates if self._is_promised(job)]
            problem = Problem(f"{len(due)} due slots could not be recorded, the next plan tries again: {error!r}")
            verdicts = [
                Verdict(
                    user_id=job.user_id,
                    occurrence=job.occurrence,
                    detail=repr(error),
                    code=SkipReason.STORAGE_UNAVAILABLE,
                )
                for job in due
            ]
            undecided = min((job.occurrence.deliver_at for job in due), default=None)
            return _Tally(due=len(due), failed=len(due), problems=[problem], verdicts=verdicts, undecided=undecided)
        return tally

    async def end(self) -> PlanReport:
        """Move the mark up to the first slot that still lacks its last word, and report."""
        tally = self._tally
        done = min(self._now, tally.undecided or self._now)
        reached = max(done, self._now - self._timing.max_lateness)  # beyond that nothing would be sent anyway
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

    def _due(self, preferences: Iterable[Preference], tally: _Tally) -> Iterator[Job]:
        seen: set[str] = set()
        for preference in preferences:
            wrong = check_user_id(preference.user_id)
            if wrong is not None:
                bad = BadValue("user_id", preference.user_id, wrong)
                # Its repr is printable on every terminal; as an id it is of no use to anybody.
                tally.refuse(repr(preference.user_id)[:80], SkipReason.INVALID_USER_ID, str(bad))
            elif preference.user_id in seen:
                detail = "the page holds this user twice; the first preference counts"
                tally.refuse(preference.user_id, SkipReason.DUPLICATE_USER, detail)
            else:
                seen.add(preference.user_id)
                yield from self._due_of(preference, tally)

    def _due_of(self, preference: Preference, tally: _Tally) -> Iterator[Job]:
        user_id, since = preference.user_id, preference.effective_from
        if not preference.is_active:
            self._not_due(tally, user_id, SkipReason.SWITCHED_OFF)
            return
        due = self._occurrences(preference)
        problems = _problems_of(due, since)
        if isinstance(due, InvalidSchedule) or problems:
            tally.refuse(user_id, SkipReason.INVALID_SCHEDULE, str(InvalidSchedule(problems)))
            return
        if not due.slots:
            self._not_yet_due(tally, user_id, due.schedule)
        for occurrence, previous in due.slots:
            if since is not None and occurrence.deliver_at < since:
                self._not_due(tally, user_id, SkipReason.NOT_YET_EFFECTIVE, occurrence)
                continue
            if occurrence.deliver_at < self._promised_from:
                self._unpromised[user_id] = due.schedule
            yield self._timing.job(self._name, user_id, occurrence, previous)

    def _not_due(self, tally: _Tally, user_id: str, code: SkipReason, occurrence: Occurrence | None = None) -> None:
        """Tell who asks for it; such people are the many, so nothing is counted or kept otherwise."""
        if self._on_verdict is not None:
            tally.verdicts.append(Verdict(user_id=user_id, occurrence=occurrence, code=code))

    def _not_yet_due(self, tally: _Tally, user_id: str, schedule: Schedule) -> None:
        if self._on_verdict is not None:
            coming = schedule.next_after(self._window.end - timedelta(microseconds=1))
            self._not_due(tally, user_id, SkipReason.NOT_YET_DUE, coming)

    def _occurrences(self, preference: Preference) -> _Due | InvalidSchedule:
        """Computed once a distinct schedule, not once a user."""
        days = preference.days
        raw = (preference.frequency, preference.time_of_day, preference.timezone, preference.day_of_week)
        try:
            # Types count: True and 1.0 equal 1, but make no schedule.
            listed = None if days is None else tuple((type(day), day) for day in days)
            key = (raw, type(preference.day_of_week), type(days), listed)
            found = self._schedules.get(key)
        except TypeError:  # a list where a string belongs; parsing names it
            return self._compute(preference)
        if found is None:
            if len(self._schedules) >= _KEPT_SCHEDULES:
                self._schedules.clear()
            found = self._schedules[key] = self._compute(preference)
        return found

    def _compute(self, preference: Preference) -> _Due | InvalidSchedule:
        try:
            schedule = parse(preference)
        except InvalidSchedule as error:
            return error
        slots = [
            (occurrence, schedule.previous_before(occurrence.deliver_at))
            for occurrence in schedule.between(self._window.start, self._window.end)
        ]
        return _Due(slots, schedule)

    # duplicates, engagement, enqueue -------------------------------------------------------------------

    async def _record(self, candidates: Sequence[Job], tally: _Tally) -> None:
        with self._timed("duplicates") as handled:
            found = await self._ledger.find(self._keys(candidates))
            candidates = [job for job in candidates if self._is_promised(job) or job.dedup_key in found]
            tally.due = len(candidates)
            fresh, nearby = self._without_duplicates(candidates, found, tally)
            handled(len(candidates))
        wanted, skips = self._caught_up(candidates, fresh)
        skips += nearby
        with self._timed("engagement") as handled:
            decisions = await self._eligibility.decide(wanted, tuple(found.values()))
            handled(len(wanted))
        sends: list[Job] = []
        for job in wanted:
            decision = decisions[job.dedup_key]
            if not isinstance(decision, Refusal):
                sends.append(evolve(job, reason=decision.reason))
            elif decision.retryable:
                tally.put_off(job, decision)
            else:
                skips.append(_skipped(job, decision.code, decision.detail))
        with self._timed("enqueue") as handled:
            await self._enqueue(sends, skips, found, tally)
            handled(len(sends) + len(skips))

    def _is_promised(self, job: Job) -> bool:
        return job.occurrence.deliver_at >= self._promised_from

    def _keys(self, candidates: Sequence[Job]) -> Sequence[str]:
        """The slots to look up; with a tolerance also those of the dates around, where zones may have changed."""
        if self._tolerance is None:
            return [job.dedup_key for job in candidates]
        days = range(-2, 3)
        return [
            f"{job.type}:{job.occurrence.local_date + timedelta(days=day)}:{job.user_id}"
            for job in candidates
            for day in days
        ]

    def _without_duplicates(
        self, candidates: Sequence[Job], found: Mapping[str, Job], tally: _Tally
    ) -> tuple[list[Job], list[Job]]:
        """Count what exists already; give what is to be decided, and what a job nearby rules out."""
        for job in candidates:
            if not self._is_promised(job):
                self._tell(job, found[job.dedup_key], tally)
        blocking = [job for job in found.values() if not job.can_be_taken_up]
        fresh, duplicates = BatchDeduplicator(blocking).split(filter(self._is_promised, candidates))
        for job in duplicates:
            slot = found[job.dedup_key]
            tally.duplicate(job, slot.status, slot.code)
            if slot.status in _LIVE and slot.occurrence.deliver_at != job.occurrence.deliver_at:
                # The time was changed after planning. A worker will cancel this slot as superseded, and the mark
                # must not have passed the new time by then.
                tally.hold(job.occurrence.deliver_at)
        if self._tolerance is None:
            return fresh, []
        fresh, nearby = BatchDeduplicator(blocking, self._tolerance).split(fresh)
        detail = f"another job lies within {self._tolerance}"
        return fresh, [_skipped(job, SkipReason.NEARBY_JOB, detail) for job in nearby]

    def _tell(self, job: Job, slot: Job, tally: _Tally) -> None:
        """Count a slot as it stands in the ledger."""
        if slot.status is JobStatus.SKIPPED and slot.code is not None:
            tally.skip(job, slot.code, slot.reason)
        else:
            tally.duplicate(job, slot.status, slot.code)

    def _caught_up(self, candidates: Sequence[Job], fresh: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Split what is fresh by the catch-up policy: what may be sent, and what was missed for good."""
        policy = self._timing.catch_up
        latest: dict[str, datetime] = {}
        for job in candidates:
            at = job.occurrence.deliver_at
            if at < self._now:
                latest[job.user_id] = max(at, latest.get(job.user_id, at))
        wanted: list[Job] = []
        skips: list[Job] = []
        for job in fresh:
            at = job.occurrence.deliver_at
            if at >= self._now:
                wanted.append(job)
            elif at < self._now - self._timing.max_lateness:
                skips.append(_skipped(job, SkipReason.TOO_LATE))
            elif policy is CatchUp.SKIP:
                skips.append(_skipped(job, SkipReason.MISSED))
            elif policy is CatchUp.LATEST and at < latest[job.user_id]:
                skips.append(_skipped(job, SkipReason.NEWER_OCCURRENCE))
            else:
                wanted.append(job)
        return wanted, skips

    async def _enqueue(
        self, sends: Sequence[Job], skips: Sequence[Job], found: Mapping[str, Job], tally: _Tally
    ) -> None:
        jobs = [*sends, *skips]
        if self._dry_run or not jobs:
            outcomes: Sequence[Enqueued] = [Enqueued.CREATED] * len(jobs)
        else:
            outcomes = await self._ledger.enqueue(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.status is JobStatus.SKIPPED:
                # A slot that was skipped before keeps its first reason.
                slot = found.get(job.dedup_key, job)
                self._tell(job, slot if slot.status is JobStatus.SKIPPED else job, tally)
            elif outcome is Enqueued.DUPLICATE:  # another planner was faster
                tally.duplicate(job, JobStatus.PENDING)
            elif outcome is Enqueued.PAUSED:
                tally.skip(job, SkipReason.PAUSED, None)
            else:
                tally.enqueued += 1
                tally.verdicts.append(
                    Verdict(user_id=job.user_id, occurrence=job.occurrence, status=JobStatus.PENDING, is_new=True)
                )

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


def _problems_of(due: _Due | InvalidSchedule, effective_from: object) -> Sequence[BadValue]:
    """Everything that keeps a preference from being used, so that one report is enough to mend it."""
    problems = list(due.problems) if isinstance(due, InvalidSchedule) else []
    if effective_from is None:
        return problems
    if not isinstance(effective_from, datetime):
        problems.append(BadValue("effective_from", effective_from, "must be an aware datetime"))
    elif effective_from.utcoffset() is None:
        problems.append(BadValue("effective_from", effective_from, "must be aware"))
    return problems


def _skipped(job: Job, code: SkipReason, reason: str | None = None) -> Job:
    return evolve(job, status=JobStatus.SKIPPED, code=code, reason=reason)
