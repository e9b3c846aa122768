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

import anyio
from attrs import define, evolve, field, frozen
from attrs.validators import ge, gt

from fanout_briefs.delivery import SENDING
from fanout_briefs.eligibility import Eligibility, Refusal, superseded
from fanout_briefs.errors import PermanentFailure, RetryLater
from fanout_briefs.model import (
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
_KEPT_PROBLEMS = 100
_TROUBLED = (JobStatus.PENDING, JobStatus.FAILED, JobStatus.UNKNOWN)
_LONGEST_WAIT = 1.0
"""Seconds between looks at jobs that other workers hold; they may end long before their leases do."""


@frozen(kw_only=True)
class Retrying:
    """How failed attempts are repeated: back-off doubles from ``first`` to ``longest``, give or take a quarter.

    Attributes:
        attempts: How often a job is tried in all, attempts of workers that died included.
    """

    attempts: int = 3
    first: timedelta = timedelta(minutes=1)
    longest: timedelta = timedelta(hours=1)

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after this attempt, counted from 1."""
        doubled: timedelta = self.first * 2 ** (attempt - 1)
        return min(doubled, self.longest) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter guards no secret


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
    """

    claim: Claim
    _beat: Callable[[Sequence[Held]], Awaitable[Collection[str]]]
    preference: Preference | None = None
    decision: EngagementDecision | None = None
    progress: Progress | None = None
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)

    @property
    def job(self) -> Job:
        """The claimed job."""
        return self.claim.job

    async def record(self, progress: Progress) -> None:
        """Commit a step before the effect it announces.

        Raises:
            Lost: The claim is no longer ours, so the effect must not happen.
        """
        self.progress = progress
        if await self._beat([self]):
            raise Lost


Handler = Callable[[Held], Awaitable[tuple[Finish, Sequence[FollowUp]]]]


@define
class Screen:
    """Decides again at the claim: what no longer matches preference or activity is not run."""

    preferences: Preferences
    eligibility: Eligibility

    async def refusals(self, held: Sequence[Held]) -> Mapping[str, Refusal]:
        """Give the reasons against running, by key, and note preference and decision in the others."""
        preferences = await self.preferences.get([each.job.user_id for each in held])
        refused: dict[str, Refusal] = {}
        for each in held:
            each.preference = preferences.get(each.job.user_id)
            refusal = superseded(each.job, each.preference)
            if refusal is not None:
                refused[each.job.dedup_key] = refusal
        kept = [each for each in held if each.job.dedup_key not in refused]
        decisions = await self.eligibility.decide([each.job for each in kept])
        for each in kept:
            decision = decisions[each.job.dedup_key]
            if isinstance(decision, Refusal):
                refused[each.job.dedup_key] = decision
            else:
                each.decision = decision
        return refused


@frozen(kw_only=True)
class Worker:
    """Runs the jobs of one brief: making it, and mailing it.

    Attributes:
        work: Where jobs are claimed.
        name: The job type of the brief; any other type in ``handlers`` is its mail.
        handlers: What makes a finish of a held job, by job type.
        screen: Decides again about briefs.
        concurrency: How many jobs run side by side.
        lease: How long a claim holds without a heartbeat; heartbeats come three times as often.
        retrying: How failed attempts are repeated.
        clock: The wall clock, for leases.
    """

    work: Work
    name: str
    handlers: Mapping[str, Handler]
    screen: Screen
    concurrency: int = field(validator=ge(1))
    lease: timedelta = field(validator=gt(timedelta(0)))
    retrying: Retrying
    clock: Callable[[], datetime]

    async def run(self, due_by: datetime, on_ended: Callable[[Ended], object] | None = None) -> RunReport:
        """Run jobs until none is due, also those that running ones enqueue, and those whose holder dies meanwhile.

        Args:
            due_by: The moment of the schedule up to which jobs are due.
            on_ended: Called, synchronously, for every job that ends, is put off or is lost.

        Raises:
            Exception: What the storage raises; jobs in hand are released first where it lets them.
        """
        return await _Run(self, due_by, on_ended).to_the_end()


class _Run:
    """One call of ``run``: the claims in its hands, and what became of those that were."""

    def __init__(self, worker: Worker, due_by: datetime, on_ended: Callable[[Ended], object] | None) -> None:
        self._worker = worker
        self._due_by = due_by
        self._on_ended = on_ended
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
        async with iter_settled(self._run_one, self._claims(), limit=self._worker.concurrency) as settling:
            async for outcome in settling:
                if isinstance(outcome, Rejected):  # a job's own failure is handled below: this is the storage's
                    raise outcome.error

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
        lost = await self._worker.work.heartbeat([evolve(each.claim, progress=each.progress) for each in held], until)
        for each in held:
            each.claim = evolve(each.claim, until=until)
        return lost

    async def _release(self) -> None:
        """Give back what was not finished, except mails that may have left; those wait for their lease to end."""
        claims = [each.claim for each in self._held.values() if each.progress is None or each.progress.step != SENDING]
        if not claims:
            return
        with anyio.move_on_after(self._worker.lease.total_seconds(), shield=True):
            try:
                await self._worker.work.release(claims)
            except Exception:
                _log.exception("%d claims could not be released; their leases will end", len(claims))

    # claims on the way in ----------------------------------------------------------------------------

    async def _claims(self) -> AsyncIterator[Held]:
        """Claim in batches no larger than what can run at once, until nothing due is left with anybody."""
        worker = self._worker
        while True:
            self._one_ended = anyio.Event()
            got = await worker.work.claim(
                self._due_by,
                now=worker.clock(),
                lease=worker.lease,
                limit=worker.concurrency,
                types=list(worker.handlers),
            )
            held = [Held(claim, self._beat, progress=claim.job.progress) for claim in got.claims]
            self._held.update((each.job.dedup_key, each) for each in held)
            for each in await self._screened(held):
                yield each
            if held:
                continue
            if self._held:
                await self._one_ended.wait()
            elif got.held_until is not None:
                wait = (got.held_until - worker.clock()).total_seconds()
                await anyio.sleep(min(max(wait, 0.0), _LONGEST_WAIT))
            else:
                return

    async def _screened(self, held: Sequence[Held]) -> Sequence[Held]:
        """End at once what is not to be run."""
        runnable: list[Held] = []
        for each in held:
            if each.job.attempts > self._worker.retrying.attempts:
                error = each.job.error or "its workers died"
                await self._end(each, Finish(status=JobStatus.FAILED, error=f"no attempts left: {error}"))
            else:
                runnable.append(each)
        briefs = [each for each in runnable if each.job.type == self._worker.name]
        if not briefs:
            return runnable
        refused: Mapping[str, Refusal | Exception]
        try:
            refused = await self._worker.screen.refusals(briefs)
        except Exception as error:
            refused = {each.job.dedup_key: error for each in briefs}
        for each in briefs:
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
            decided = refusal.code is SkipReason.ENGAGEMENT
            status = JobStatus.SKIPPED if decided else JobStatus.CANCELLED
            await self._end(held, Finish(status=status, code=refusal.code, reason=refusal.detail))

    # and on the way out ------------------------------------------------------------------------------

    async def _run_one(self, held: Held) -> None:
        finish: Finish | None = None
        follow_ups: Sequence[FollowUp] = ()
        failure: Exception | None = None
        with held.scope:
            try:
                finish, follow_ups = await self._worker.handlers[held.job.type](held)
            except Lost:
                held.scope.cancel()
            except Exception as error:
                failure = error
        if held.scope.cancel_called:
            self._ended(held, None, "the lease ended before the work did")
        elif failure is not None:
            await self._failed(held, failure)
        elif finish is not None:
            await self._end(held, finish, follow_ups)

    async def _failed(self, held: Held, error: Exception) -> None:
        """Try again later, unless that cannot help or was done often enough."""
        attempt, retrying = held.job.attempts, self._worker.retrying
        text = str(error) or repr(error)
        if isinstance(error, PermanentFailure) or attempt >= retrying.attempts:
            await self._end(held, Finish(status=JobStatus.FAILED, error=text))
            return
        wait = timedelta(seconds=error.seconds) if isinstance(error, RetryLater) else retrying.delay(attempt)
        kept = await self._worker.work.retry(held.claim, self._due_by + wait, text)
        self._ended(held, JobStatus.PENDING if kept else None, text)

    async def _end(self, held: Held, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> None:
        kept = await self._worker.work.finish(held.claim, finish, follow_ups)
        self._ended(held, finish.status if kept else None, finish.error or finish.reason, finish.brief)

    def _ended(self, held: Held, status: JobStatus | None, detail: str | None, brief: Brief | None = None) -> None:
        del self._held[held.job.dedup_key]
        self._one_ended.set()
        if status is None:
            self._lost += 1
        elif status is JobStatus.PENDING:
            self._put_off += 1
        else:
            counts = self._briefs if held.job.type == self._worker.name else self._mails
            counts[status] += 1
            self._partial += bool(brief and brief.failed)
        if status in _TROUBLED and len(self._problems) < _KEPT_PROBLEMS:
            self._problems.append(Problem(f"{held.job.dedup_key}: {detail}", held.job.user_id))
        if self._on_ended is not None:
            self._on_ended(Ended(job=held.job, status=status, brief=brief, detail=detail))
