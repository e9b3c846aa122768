"""Runs due jobs under leases: claims them, decides again, runs them side by side, and hands in the results.

Execution is at least once: a worker that dies leaves a lease behind, and when it ends somebody else starts
over. Effects are exactly once: every write shows the claim's fencing token, and a stale one changes nothing.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define, evolve, field, frozen
from attrs.validators import ge, gt, le

from fanout_briefs.eligibility import Eligibility, Refusal, superseded, withdrawn
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater, SourceError
from fanout_briefs.model import (
    KEPT_PROBLEMS,
    Brief,
    Claim,
    EngagementDecision,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Preference,
    Problem,
    Progress,
    SkipReason,
)
from fanout_briefs.ports import Preferences, Work
from fanout_briefs.settled import Rejected, iter_settled

__all__ = ["Ended", "Held", "Lost", "Retrying", "RunReport", "Screen", "Worker"]

_log = logging.getLogger("fanout_briefs")
_TROUBLED = (JobStatus.PENDING, JobStatus.FAILED, JobStatus.UNKNOWN)
_LONGEST_WAIT = 1.0
"""Seconds between looks at jobs that other workers hold; they may end long before their leases do."""
_FURTHEST = timedelta(days=366)
"""No job is put off for longer; a moment beyond the calendar could not even be stored."""
_LEASE_ENDED = "the lease ended before the work did"


@frozen(kw_only=True)
class Retrying:
    """How failed attempts are repeated: back-off doubles from ``first`` to ``longest``, give or take a quarter.

    Attributes:
        attempts: How often a job is tried in all, attempts of workers that died included; at least 1. A job that
            has none left because workers died gets one more with nothing beside it, since it may not be to blame.
        longest: At most 366 days.
    """

    attempts: int = field(default=3, validator=ge(1))
    first: timedelta = field(default=timedelta(minutes=1), validator=ge(timedelta(0)))
    longest: timedelta = field(default=timedelta(hours=1), validator=[ge(timedelta(0)), le(_FURTHEST)])

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after this attempt, counted from 1."""
        # In seconds as floats, which grow to infinity where a timedelta would overflow.
        doubled = self.first.total_seconds() * 2.0 ** min(attempt - 1, 1000)
        seconds = min(doubled, self.longest.total_seconds())
        return timedelta(seconds=seconds * random.uniform(0.75, 1.25))  # noqa: S311 - jitter guards no secret


@frozen(kw_only=True)
class Ended:
    """What became of one claimed job.

    Attributes:
        status: How the slot ended; pending when it will be tried again, None when the claim was lost.
        brief: The brief that was saved.
        detail: Why, or the last error.
    """

    job: Job
    status: JobStatus | None
    brief: Brief | None = None
    detail: str | None = None


@frozen(kw_only=True)
class RunReport:
    """What one run did.

    Attributes:
        due_by: The moment up to which jobs were due.
        briefs: Brief jobs by how they ended.
        mails: Mail jobs by how they ended.
        partial: Saved briefs in which some section failed.
        retrying: Jobs that failed and will be tried again, at a later moment than this run's.
        lost: Claims that ended before the work did; somebody else has the job.
        problems: The first hundred things to look at.
    """

    due_by: datetime
    briefs: Mapping[JobStatus, int]
    mails: Mapping[JobStatus, int]
    partial: int
    retrying: int
    lost: int
    problems: Sequence[Problem]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, is stuck or needs a person's eye."""
        stuck = (JobStatus.FAILED, JobStatus.UNKNOWN)
        return not (self.retrying or self.problems or any(self.briefs.get(s) or self.mails.get(s) for s in stuck))


class Lost(Exception):
    """The claim is no longer ours, so what was being done must stop."""


@define(eq=False)
class Held:
    """A claim in this worker's hands.

    Attributes:
        preference: The user's, as it is now.
        decision: The engagement policy's, as of now.
        progress: The latest; the next heartbeat records it.
        is_running: Whether its handler has yet to return.
        is_alone: Whether nothing else runs beside it.
    """

    claim: Claim
    _beat: Callable[[Sequence[Held]], Awaitable[Collection[str]]]
    preference: Preference | None = None
    decision: EngagementDecision | None = None
    progress: Progress | None = None
    is_running: bool = True
    is_alone: bool = False
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)

    @property
    def job(self) -> Job:
        """The claimed job."""
        return self.claim.job

    def with_progress(self) -> Claim:
        """The claim as a heartbeat shows it."""
        progress = self.progress
        if self.is_alone:
            progress = evolve(progress or Progress("starting"), alone=True)
        return evolve(self.claim, progress=progress)

    async def record(self, progress: Progress) -> None:
        """Commit a step before the effect it announces.

        Raises:
            Lost: The claim is no longer ours, so the effect must not happen.
        """
        before, self.progress = self.progress, progress
        try:
            lost = await self._beat([self])
        except BaseException:
            self.progress = before  # Whether or not it was recorded, the effect will not begin.
            raise
        if lost:
            raise Lost


Handler = Callable[[Held], Awaitable[tuple[Finish, Sequence[FollowUp]]]]


@frozen(kw_only=True)
class Screen:
    """Decides again at the claim: what is too late, or no longer matches preference or activity, is not run.

    Attributes:
        name: The job type of briefs; jobs of any other type are mails.
        max_lateness: What was to be delivered longer ago than this is not.
    """

    name: str
    preferences: Preferences
    eligibility: Eligibility
    max_lateness: timedelta

    async def refusals(self, held: Sequence[Held], due_by: datetime) -> Mapping[str, Refusal]:
        """Give the reasons against running, by key, and note preference and decision in the others."""
        preferences = await self.preferences.get([each.job.user_id for each in held])
        refused: dict[str, Refusal] = {}
        for each in held:
            each.preference = preferences.get(each.job.user_id)
            refusal = self._too_late(each.job, due_by) or self._unwanted(each)
            if refusal is not None:
                refused[each.job.dedup_key] = refusal
        briefs = [each for each in held if each.job.type == self.name and each.job.dedup_key not in refused]
        decisions = await self.eligibility.decide([each.job for each in briefs])
        for each in briefs:
            decision = decisions[each.job.dedup_key]
            if isinstance(decision, Refusal):
                refused[each.job.dedup_key] = decision
            else:
                each.decision = decision
        return refused

    def _too_late(self, job: Job, due_by: datetime) -> Refusal | None:
        if job.occurrence.deliver_at >= due_by - self.max_lateness:
            return None
        return Refusal(SkipReason.TOO_LATE, f"it was to be delivered more than {self.max_lateness} ago")

    def _unwanted(self, held: Held) -> Refusal | None:
        if held.job.type == self.name:
            return superseded(held.job, held.preference)
        # A mail was made for the time it was planned for; only switching off stops it now.
        return withdrawn(held.preference)


@frozen(kw_only=True)
class Worker:
    """Runs the jobs of one brief: making it, and mailing it.

    Attributes:
        work: Where jobs are claimed.
        name: The job type of the brief; any other type in ``handlers`` is its mail.
        handlers: What makes a finish of a held job, by job type.
        screen: Decides again about briefs.
        is_unsettled: Whether, by a job's progress, an effect may have happened that must not happen twice.
        concurrency: How many jobs run side by side.
        lease: How long a claim holds without a heartbeat; heartbeats come three times as often.
        retrying: How failed attempts are repeated.
        clock: The wall clock, for leases.
    """

    work: Work
    name: str
    handlers: Mapping[str, Handler]
    screen: Screen
    is_unsettled: Callable[[Job], bool]
    concurrency: int = field(validator=ge(1))
    lease: timedelta = field(validator=gt(timedelta(0)))
    retrying: Retrying
    clock: Callable[[], datetime]

    async def run(
        self,
        due_by: datetime,
        on_ended: Callable[[Ended], object] | None = None,
        *,
        draining: anyio.Event | None = None,
    ) -> RunReport:
        """Run jobs until none is due, also those that running ones enqueue, and those whose holder dies meanwhile.

        Args:
            due_by: The moment of the schedule up to which jobs are due.
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.
            draining: Once it is set, no further job is begun: what runs is finished, the rest is released.

        Raises:
            Exception: What the storage or ``on_ended`` raises; jobs in hand are released first where that works.
        """
        return await _Run(self, due_by, on_ended, draining or anyio.Event()).to_the_end()


class _Run:
    """One call of ``run``: the claims in its hands, and what became of those that were."""

    def __init__(
        self, worker: Worker, due_by: datetime, on_ended: Callable[[Ended], object] | None, draining: anyio.Event
    ) -> None:
        self._worker = worker
        self._due_by = due_by
        self._on_ended = on_ended
        self._draining = draining
        self._begun = worker.clock()
        self._held: dict[str, Held] = {}
        self._one_ended = anyio.Event()
        self._briefs: Counter[JobStatus] = Counter()
        self._mails: Counter[JobStatus] = Counter()
        self._partial = self._put_off = self._lost = 0
        self._problems: list[Problem] = []

    async def to_the_end(self) -> RunReport:
        failure: Exception | None = None
        async with anyio.create_task_group() as heartbeats:
            heartbeats.start_soon(self._keep_beating)
            try:
                await self._drain()
            except Exception as error:
                failure = error
            finally:
                await self._release()
                heartbeats.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return RunReport(
            due_by=self._due_by,
            briefs=self._briefs,
            mails=self._mails,
            partial=self._partial,
            retrying=self._put_off,
            lost=self._lost,
            problems=self._problems,
        )

    async def _drain(self) -> None:
        try:
            async with iter_settled(self._run_one, self._claims(), limit=self._worker.concurrency) as settling:
                async for outcome in settling:
                    if isinstance(outcome, Rejected):
                        await self._broken(outcome.item, outcome.error)
        except SourceError as error:  # what claiming raised, once all that were running had ended
            cause = cast("Exception", error.__cause__)
        else:
            return
        raise cause

    async def _broken(self, held: Held, error: Exception) -> None:
        """Take up what left ``_run_one``: a handler that was cancelled from within, or else what the storage raised."""
        if not held.is_running:
            raise error
        held.is_running = False
        await self._failed(held, error)

    # leases ------------------------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        while True:
            await anyio.sleep(self._worker.lease.total_seconds() / 3)
            held = list(self._held.values())
            try:
                lost = await self._beat(held) if held else ()
            except Exception:
                _log.exception("a heartbeat failed; claims whose lease ends meanwhile are given up")
                now = self._worker.clock()
                lost = [each.job.dedup_key for each in held if each.claim.until <= now]
            for each in held:
                if each.job.dedup_key in lost:
                    each.scope.cancel()

    async def _beat(self, held: Sequence[Held]) -> Collection[str]:
        until = self._worker.clock() + self._worker.lease
        lost = await self._worker.work.heartbeat([each.with_progress() for each in held], until)
        for each in held:
            each.claim = evolve(each.claim, until=until)
        return lost

    async def _release(self) -> None:
        """Give back what was not finished, except mails that may have left; those wait for their lease to end."""
        claims = [each.claim for each in self._held.values() if not self._is_unsettled(each)]
        if not claims:
            return
        with anyio.move_on_after(self._worker.lease.total_seconds(), shield=True):
            try:
                await self._worker.work.release(claims)
            except Exception:
                _log.exception("%d claims could not be released; their leases will end", len(claims))

    def _is_unsettled(self, held: Held) -> bool:
        return self._worker.is_unsettled(evolve(held.job, progress=held.progress))

    # claims on the way in ----------------------------------------------------------------------------

    async def _claims(self) -> AsyncIterator[Held]:
        """Claim in batches no larger than what can run at once, until nothing due is left with anybody."""
        worker = self._worker
        while not self._draining.is_set():
            self._one_ended = anyio.Event()
            got = await worker.work.claim(
                self._due_by,
                now=worker.clock(),
                lease=worker.lease,
                limit=worker.concurrency,
                types=list(worker.handlers),
            )
            held = [Held(claim, self._beat, progress=claim.job.progress) for claim in got.claims]
            for each in held:
                self._take(each)
            suspects: list[Held] = []
            for each in await self._screened(held):
                if each.job.attempts > worker.retrying.attempts and not self._is_unsettled(each):
                    suspects.append(each)
                else:
                    yield each
            while suspects:
                each = suspects.pop()
                if await self._is_left_alone(each, waiting=len(suspects)):
                    yield each
                    await self._until_in_hand(len(suspects))
            if held or self._one_ended.is_set():
                continue
            if self._held:
                await self._one_ended.wait()
            elif got.held_until is not None:
                wait = (got.held_until - worker.clock()).total_seconds()
                await anyio.sleep(min(max(wait, 0.0), _LONGEST_WAIT))
            else:
                return

    async def _is_left_alone(self, held: Held, waiting: int) -> bool:
        """Wait until nothing else runs, and put that on record before this job does; False if it was lost by then."""
        await self._until_in_hand(waiting + 1)
        held.is_alone = True
        if not await self._beat([held]):
            return True
        self._ended(held, None)
        return False

    async def _until_in_hand(self, count: int) -> None:
        while len(self._held) > count and not self._draining.is_set():
            self._one_ended = anyio.Event()
            await self._one_ended.wait()

    def _take(self, held: Held) -> None:
        ours = self._held.get(held.job.dedup_key)
        if ours is not None:  # Its lease had ended, as when a machine wakes from sleep: the older claim is stale.
            ours.scope.cancel()
        self._held[held.job.dedup_key] = held

    async def _screened(self, held: Sequence[Held]) -> Sequence[Held]:
        """End at once what is not to be run."""
        runnable: list[Held] = []
        for each in held:
            # A worker that dies takes all its jobs along, and most are innocent. So one with no attempts left gets
            # a last one alone, and only what a worker then dies of is ended.
            died_alone = each.job.progress is not None and each.job.progress.alone
            if died_alone and not self._is_unsettled(each):
                before = f"; the last error before that: {each.job.error}" if each.job.error else ""
                error = f"no attempts left: its workers died, the last one with no other job in hand{before}"
                await self._end(each, Finish(status=JobStatus.FAILED, error=error))
            else:
                runnable.append(each)
        # What may have happened already is not to be decided again, but to be told.
        screened = [each for each in runnable if not self._is_unsettled(each)]
        if not screened:
            return runnable
        refused: Mapping[str, Refusal | Exception]
        try:
            refused = await self._worker.screen.refusals(screened, self._due_by)
        except Exception as error:
            refused = {each.job.dedup_key: error for each in screened}
        for each in screened:
            refusal = refused.get(each.job.dedup_key)
            if refusal is not None:
                await self._refuse(each, refusal)
        return [each for each in runnable if each.job.dedup_key not in refused]

    async def _refuse(self, held: Held, refusal: Refusal | Exception) -> None:
        if isinstance(refusal, Exception):
            await self._failed(held, refusal)
        elif refusal.retryable:
            await self._failed(held, RuntimeError(f"{refusal.code}: {refusal.detail}"))
        else:
            withdrawn = refusal.code is SkipReason.SUPERSEDED
            status = JobStatus.CANCELLED if withdrawn else JobStatus.SKIPPED
            await self._end(held, Finish(status=status, code=refusal.code, reason=refusal.detail))

    # and on the way out ------------------------------------------------------------------------------

    async def _run_one(self, held: Held) -> None:
        if self._draining.is_set():
            self._one_ended.set()
            return  # It stays in hand, to be released with the others that were not begun.
        made: tuple[Finish, Sequence[FollowUp]] | None = None
        failure: Exception | None = None
        with held.scope:
            try:
                await checkpoint_if_cancelled()  # It may have been lost while it waited for its turn.
                made = await self._worker.handlers[held.job.type](held)
            except Exception as error:
                failure = error
        held.is_running = False
        if made is not None:
            await self._end(held, *made)  # Also under a lease that seems to have ended: the token decides.
        elif failure is None or isinstance(failure, Lost) or held.scope.cancel_called:
            self._ended(held, None)
        else:
            await self._failed(held, failure)

    async def _failed(self, held: Held, error: Exception) -> None:
        """Try again later, unless that cannot help, was done often enough, or might do harm."""
        attempt, retrying = held.job.attempts, self._worker.retrying
        text = _text_of(error)
        if not isinstance(error, NotSent | RetryLater) and self._is_unsettled(held):
            await self._end(held, Finish(status=JobStatus.UNKNOWN, error=text))
            return
        if isinstance(error, PermanentFailure) or attempt >= retrying.attempts:
            await self._end(held, Finish(status=JobStatus.FAILED, error=text))
            return
        seconds = error.seconds if isinstance(error, RetryLater) else retrying.delay(attempt).total_seconds()
        # From now on, on the timeline of the moment that is run for.
        now = self._due_by + max(self._worker.clock() - self._begun, timedelta(0))
        at = now + timedelta(seconds=min(seconds, _FURTHEST.total_seconds()))
        with anyio.CancelScope(shield=True):  # as below
            kept = await self._worker.work.retry(held.claim, at, text)
            self._ended(held, JobStatus.PENDING if kept else None, text)

    async def _end(self, held: Held, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> None:
        # Shielded, since a mail that left must not end unknown only because this run is stopped meanwhile.
        with anyio.CancelScope(shield=True):
            kept = await self._worker.work.finish(held.claim, finish, follow_ups)
            self._ended(held, finish.status if kept else None, finish.error or finish.reason, finish.brief)

    def _ended(
        self, held: Held, status: JobStatus | None, detail: str | None = None, brief: Brief | None = None
    ) -> None:
        if self._held.get(held.job.dedup_key) is held:
            del self._held[held.job.dedup_key]
        self._one_ended.set()
        if status is None:
            brief, detail = None, _LEASE_ENDED
            self._lost += 1
        elif status is JobStatus.PENDING:
            self._put_off += 1
        else:
            counts = self._briefs if held.job.type == self._worker.name else self._mails
            counts[status] += 1
            self._partial += bool(brief and brief.failed)
        if status in _TROUBLED and len(self._problems) < KEPT_PROBLEMS:
            self._problems.append(Problem(f"{held.job.dedup_key}: {detail}", held.job.user_id))
        if self._on_ended is not None:
            self._on_ended(Ended(job=held.job, status=status, brief=brief, detail=detail))


def _text_of(error: Exception) -> str:
    try:
        # A bare key says nothing: KeyError('ana') as text is 'ana'.
        return repr(error) if isinstance(error, LookupError) else str(error) or repr(error)
    except Exception:
        return f"{type(error).__name__}, whose message could not be read"
