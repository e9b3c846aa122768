"""Claims due jobs, decides again, runs them concurrently under leases, and records the results.

Execution is at least once: a worker that dies leaves a lease behind, and once that ends another worker starts over.
Effects are exactly once: every write carries the claim's fencing token, and a stale token changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import cast

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import evolve, field, frozen
from attrs.validators import gt

from fanout_briefs.batching import Batcher
from fanout_briefs.eligibility import Refusal
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater, SourceError, StorageUnavailable
from fanout_briefs.held import Company, Held, Lane, Lost
from fanout_briefs.model import (
    Brief,
    Claims,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    SkipReason,
)
from fanout_briefs.ports import Storage
from fanout_briefs.runs import Ended
from fanout_briefs.screen import Cleared, Screen
from fanout_briefs.settled import Rejected, gather_settled, iter_settled
from fanout_briefs.timing import FURTHEST

__all__ = ["Run", "RunContext", "last_word"]

_log = logging.getLogger("fanout_briefs")
_LONGEST_WAIT = 1.0
"""Seconds between checks of jobs that other workers hold; these may end long before their leases do."""
_SHORTEST_WAIT = 1.0
"""Minimum delay, in seconds, of a job that asks to be retried later, so that a run always comes to an end."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds before recording a result is retried while the storage is away; each pause is twice the previous one."""
_MOST = 100
"""How many jobs are recorded with one statement."""
_LEASE_ENDED = "the lease ended before the work did"


@frozen(kw_only=True)
class RunContext:
    """Everything needed to run the jobs of one brief: generating it and mailing it.

    Attributes:
        work: The storage in which jobs are claimed and their results recorded.
        name: The job type of the brief; any other type is its mail.
        lanes: How each job type runs; a slow type never takes the slots of another.
        screen: Decides again about claimed jobs.
        is_unsettled: Whether, judging by a job's progress, an effect may have happened that must not happen twice.
        lease: How long a claim holds without a heartbeat; there are three heartbeats per lease.
        clock: The wall clock, for leases.
    """

    work: Storage
    name: str
    lanes: Sequence[Lane]
    screen: Screen
    is_unsettled: Callable[[Job], bool]
    lease: timedelta = field(validator=gt(timedelta(0)))
    clock: Callable[[], datetime]


def last_word(job: Job, *, is_unsettled: bool) -> Finish | None:
    """Return how a job whose worker died ends; None if it is to run again.

    A worker that dies takes all its jobs with it, and most of them are innocent. So a job with no attempts left gets
    one more with nothing else running, and ends only if its worker dies again.
    """
    if is_unsettled:
        return Finish(status=JobStatus.UNKNOWN, error="a worker died while the mailer had the mail")
    if job.progress is None or not job.progress.alone:
        return None
    before = f"; the last error before that: {job.error}" if job.error else ""
    error = f"no attempts left: its workers died, the last one with no other job in hand{before}"
    return Finish(status=JobStatus.FAILED, error=error)


class Run:
    """One call of ``run`` or ``serve``, or a set of concurrent single jobs, with the claims that it holds.

    Args:
        context: What is needed to run jobs.
        due_by: The moment up to which jobs are due.
        now: The present, on the timeline of ``due_by``; retries are scheduled from here.
        on_ended: Called for every job that ends, is put off for a retry or is lost; not for released ones.
        draining: Once set, no further job starts.
        key: The only slot to run; None runs all.
        poll: How often to look again when there is nothing to do; None ends the run then.
    """

    def __init__(
        self,
        context: RunContext,
        due_by: Callable[[], datetime],
        now: Callable[[], datetime],
        on_ended: Callable[[Ended], object],
        draining: anyio.Event,
        *,
        key: str | None = None,
        poll: timedelta | None = None,
    ) -> None:
        self._context = context
        self._company = Company()
        self._due_by = due_by
        self._now = now
        self._on_ended = on_ended
        self._draining = draining
        self._key = key
        self._poll = poll
        self._held: dict[str, Held] = {}
        self._recording = Batcher(self._record_these, _MOST)
        self._types = {lane.type for lane in context.lanes}
        self._news: set[str] = set()  # Lanes that must look again,
        self._idle: set[str] = set()  # and lanes that found nothing and wait for that.
        self._held_until: dict[str, datetime | None] = {}  # When the first lease of another worker ends, by type.
        self._is_broken = False

    async def to_the_end(self) -> None:
        """Run all lanes until none has work left; then release whatever is still held.

        Raises:
            Exception: What the storage or ``on_ended`` raises, once running jobs have ended.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_beating, self._held)
            beside.start_soon(self._wake_when, self._draining)
            try:
                ended = await gather_settled(self._drain, self._context.lanes, limit=len(self._context.lanes))
                failure = next((lane.error for lane in ended if isinstance(lane, Rejected)), None)
            finally:
                await self.give_back(tuple(self._held.values()))
                beside.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # single jobs, each in the task that asks for it --------------------------------------------------

    async def take(self, lane: Lane, keys: Collection[str]) -> tuple[Sequence[Held], Claims]:
        """Claim those of these jobs that are available, and decide again about them.

        Returns:
            The claimed jobs, some of which have ended already; and the storage's answer to the claim.

        Raises:
            Exception: What the storage raises; claimed jobs are released first, if that works.
        """
        async with self._company.solo:
            pass  # While a suspect runs, nothing else starts.
        held, got = await self._claim(lane, len(keys), keys)
        try:
            await self._screened(held)
        except BaseException:
            await self.give_back(held)
            raise
        return held, got

    async def carry_out(self, held: Held, draining: anyio.Event) -> None:
        """Run a claimed job and record the result; if ``draining`` is set before it starts, release it.

        Raises:
            Exception: What the storage raises; the job is released first, if that works.
        """
        failure: Exception | None = None
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_beating, {held.job.dedup_key: held})
            if held.is_suspect:
                beside.start_soon(self._wake_when, draining)
            try:
                (outcome,) = await gather_settled(partial(self._begin, draining), [held], limit=1)
                if isinstance(outcome, Rejected):
                    await self._broken(held, outcome.error)
            except Exception as error:
                failure = error
            finally:
                await self.give_back([held])
                beside.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _begin(self, draining: anyio.Event, held: Held) -> None:
        if not held.is_suspect:
            if not draining.is_set():
                await self._run_one(held)
            return
        async with self._company.solo:
            if await self._is_left_alone(held, draining) and not draining.is_set():
                await self._run_one(held)

    async def give_back(self, held: Collection[Held]) -> None:
        """Release those of these jobs that are still held."""
        ours = [each for each in held if self._is_in_hand(each)]
        await self._release(ours)
        for each in ours:
            if self._is_in_hand(each):  # Once released, it may have been claimed again by this very process.
                del self._held[each.job.dedup_key]
        self._company.held.difference_update(held)
        self._wake()

    async def _wake_when(self, draining: anyio.Event) -> None:
        await draining.wait()
        self._wake()

    async def _drain(self, lane: Lane) -> None:
        failures: list[Exception] = []
        try:
            async with iter_settled(self._run_in_lane, self._claims(lane), limit=lane.concurrency) as settling:
                async for outcome in settling:
                    if isinstance(outcome, Rejected):
                        try:
                            await self._broken(outcome.item, outcome.error)
                        except Exception as error:
                            # Other running jobs go on to their end: a mail cut off in the middle might have left.
                            failures.append(error)
                            self._break_off()
        except SourceError as error:  # Claiming failed; all running jobs have ended by now.
            failures.append(cast("Exception", error.__cause__))
            self._break_off()
        if failures:
            raise failures[0]

    async def _run_in_lane(self, held: Held) -> None:
        try:
            await self._run_one(held)
        except Exception:
            self._break_off()  # at once, so that not even the next job in this lane starts
            raise

    def _break_off(self) -> None:
        """Start nothing more, in any lane."""
        self._is_broken = True
        self._wake()

    @property
    def _is_stopping(self) -> bool:
        return self._is_broken or self._draining.is_set()

    async def _broken(self, held: Held, error: Exception) -> None:
        """Handle an error that escaped ``_run_one``: a handler cancelled from within, or a storage error."""
        if not held.is_running:
            raise error
        held.is_running = False
        await self._failed(held, error)

    # leases ------------------------------------------------------------------------------------------

    async def _keep_beating(self, hands: Mapping[str, Held]) -> None:
        while True:
            await anyio.sleep(self._context.lease.total_seconds() / 3)
            held = list(hands.values())
            try:
                lost = await self._beat(held) if held else ()
            except Exception:
                _log.exception("a heartbeat failed; claims whose lease ends meanwhile are given up")
                now = self._context.clock()
                lost = [each.job.dedup_key for each in held if each.claim.until <= now]
            for each in held:
                if each.job.dedup_key in lost:
                    each.scope.cancel()

    async def _beat(self, held: Sequence[Held]) -> Collection[str]:
        until = self._context.clock() + self._context.lease
        lost = await self._context.work.heartbeat([each.with_progress() for each in held], until)
        for each in held:
            each.claim = evolve(each.claim, until=until)
        return lost

    async def _record(self, held: Held) -> bool:
        """Commit the progress of a job, batched with concurrent ones; return False if its claim was lost."""
        key = held.job.dedup_key
        # The same job may have been claimed again meanwhile by this very process, and recorded for that claim.
        return self._is_in_hand(held) and await self._recording(key) and self._is_in_hand(held)

    def _is_in_hand(self, held: Held) -> bool:
        return self._held.get(held.job.dedup_key) is held

    async def _record_these(self, keys: Sequence[str]) -> Mapping[str, bool]:
        lost = await self._beat([self._held[key] for key in keys if key in self._held])
        return {key: key in self._held and key not in lost for key in keys}

    async def _release(self, held: Collection[Held]) -> None:
        """Release what was not finished, except mails that may have left; those wait for their lease to end."""
        claims = [each.claim for each in held if not self._is_unsettled(each)]
        if not claims:
            return
        with anyio.move_on_after(self._context.lease.total_seconds(), shield=True):
            try:
                await self._context.work.release(claims)
            except Exception:
                _log.exception("%d claims could not be released; their leases will end", len(claims))

    def _is_unsettled(self, held: Held) -> bool:
        return self._context.is_unsettled(evolve(held.job, progress=held.progress))

    # claims on the way in ----------------------------------------------------------------------------

    async def _claims(self, lane: Lane) -> AsyncIterator[Held]:
        """Claim in batches no larger than what can run at once, until no lane and no other worker has due work left."""
        while not self._is_stopping:
            async with self._company.solo:
                pass  # While a suspect runs, nothing else starts.
            held, _ = await self._claim(lane, lane.concurrency, None if self._key is None else [self._key])
            runnable = await self._screened(held)
            for each in runnable:
                if not each.is_suspect:
                    yield each
            for each in runnable:
                if each.is_suspect:
                    async with self._company.solo:
                        if await self._is_left_alone(each, self._draining):
                            yield each
                            await self._until_done(each)
            if not held and not await self._is_there_more(lane):
                return

    async def _claim(self, lane: Lane, limit: int, keys: Collection[str] | None) -> tuple[Sequence[Held], Claims]:
        self._news.discard(lane.type)
        self._company.claiming += 1
        try:
            got = await self._context.work.claim(
                self._due_by(),
                now=self._context.clock(),
                lease=self._context.lease,
                limit=limit,
                types=[lane.type],
                keys=keys,
            )
            self._held_until[lane.type] = got.held_until
            held = [Held(claim, self._record, lane, progress=claim.job.progress) for claim in got.claims]
            for each in held:
                self._take(each)
        finally:
            self._company.claiming -= 1
        return held, got

    async def _is_there_more(self, lane: Lane) -> bool:
        """Wait until this lane should look again; return False once nothing is left that could bring it work."""
        if self._poll is not None:
            with anyio.move_on_after(self._poll.total_seconds()):
                while lane.type not in self._news and not self._is_stopping:
                    await self._company.stirred.wait()
            return True
        self._idle.add(lane.type)
        self._wake()
        while lane.type not in self._news and not self._is_stopping:
            if self._held or self._news or self._types - self._idle:
                await self._company.stirred.wait()
                continue
            # None of our jobs runs, but those of other workers may come free again, or leave work for any lane.
            held_until = min((until for until in self._held_until.values() if until is not None), default=None)
            if held_until is None:
                return False
            wait = (held_until - self._context.clock()).total_seconds()
            await anyio.sleep(min(max(wait, 0.0), _LONGEST_WAIT))
            self._stir(self._types)
        self._idle.discard(lane.type)
        return True

    def _stir(self, types: Collection[str]) -> None:
        """Make these lanes look again."""
        self._news.update(self._types.intersection(types))
        self._wake()

    def _wake(self) -> None:
        self._company.wake()

    async def _is_left_alone(self, held: Held, draining: anyio.Event) -> bool:
        """Wait until nothing else runs, and record that before this job starts; return False if it was lost by then."""
        while not self._company.is_suspect_alone and not (self._is_broken or draining.is_set()):
            await self._company.stirred.wait()
        held.is_alone, held.is_suspect = True, False
        if not await self._beat([held]):
            return True
        self._ended(held, None)
        return False

    async def _until_done(self, held: Held) -> None:
        while self._is_in_hand(held) and not self._is_stopping:
            await self._company.stirred.wait()

    def _take(self, held: Held) -> None:
        ours = self._held.get(held.job.dedup_key)
        if ours is not None:  # Its lease ended, for example while the machine slept: the older claim is stale.
            ours.scope.cancel()
            self._company.held.discard(ours)
        self._held[held.job.dedup_key] = held
        self._company.held.add(held)

    async def _screened(self, held: Sequence[Held]) -> Sequence[Held]:
        """End at once the jobs that are not to run; return the others."""
        runnable: list[Held] = []
        for each in held:
            # An effect that may already have happened is not decided again, but recorded.
            finish = last_word(each.job, is_unsettled=self._is_unsettled(each))
            if finish is None:
                runnable.append(each)
            else:
                await self._end(each, finish)
        judged = await self._context.screen.judge([each.job for each in runnable], self._due_by())
        for each in tuple(runnable):
            judgement = judged[each.job.dedup_key]
            if isinstance(judgement, Cleared):
                each.cleared = judgement
            else:
                runnable.remove(each)
                await self._refuse(each, judgement)
        for each in runnable:
            each.is_suspect = each.job.attempts > each.lane.retrying.attempts
        self._wake()  # A suspect in another lane may be waiting to know which others are suspects.
        return runnable

    async def _refuse(self, held: Held, refusal: Refusal | Exception) -> None:
        if isinstance(refusal, Exception):
            await self._failed(held, refusal, is_attempt=False)
        elif refusal.retryable:
            await self._failed(held, RuntimeError(f"{refusal.code}: {refusal.detail}"), is_attempt=False)
        else:
            is_superseded = refusal.code is SkipReason.SUPERSEDED
            status = JobStatus.CANCELLED if is_superseded else JobStatus.SKIPPED
            await self._end(held, Finish(status=status, code=refusal.code, reason=refusal.detail))

    # and on the way out ------------------------------------------------------------------------------

    async def _run_one(self, held: Held) -> None:
        if self._is_stopping:
            return  # It stays held, to be released with the others that were not started.
        made: tuple[Finish, Sequence[FollowUp]] | None = None
        failure: Exception | None = None
        with held.scope:
            try:
                await checkpoint_if_cancelled()  # It may have been lost while waiting for its turn.
                made = await held.lane.handler(held)
            except Exception as error:
                failure = error
        held.is_running = False
        if made is not None:
            await self._end(held, *made)  # Even if the lease seems to have ended: the token decides.
        elif failure is None or isinstance(failure, Lost) or held.scope.cancel_called:
            self._ended(held, None)
        else:
            await self._failed(held, failure)

    async def _failed(self, held: Held, error: Exception, *, is_attempt: bool = True) -> None:
        """Schedule a retry, unless that cannot help, attempts are used up, or it might do harm.

        ``RetryLater`` does not count as an attempt, nor does a decision that could not be made; being too late ends
        those. A demanded job is never too late, so for it everything counts.
        """
        attempt, retrying = held.job.attempts, held.lane.retrying
        text = _text_of(error)
        if not isinstance(error, NotSent | RetryLater) and self._is_unsettled(held):
            await self._end(held, Finish(status=JobStatus.UNKNOWN, error=text))
            return
        counted = held.job.demand is not None or (is_attempt and not isinstance(error, RetryLater))
        if isinstance(error, PermanentFailure) or (attempt >= retrying.attempts and counted):
            await self._end(held, Finish(status=JobStatus.FAILED, error=text))
            return
        if isinstance(error, RetryLater):
            seconds = max(error.seconds, _SHORTEST_WAIT)
        else:
            seconds = retrying.delay(attempt).total_seconds()
        at = self._now() + timedelta(seconds=min(seconds, FURTHEST.total_seconds()))
        write = partial(self._context.work.retry, held.claim, at, text, counted=counted)
        kept = await self._handed_in(held, write, JobStatus.PENDING, attempt if counted else attempt - 1)
        self._ended(held, JobStatus.PENDING if kept else None, text)

    async def _end(self, held: Held, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> None:
        write = partial(self._context.work.finish, held.claim, finish, follow_ups)
        kept = await self._handed_in(held, write, finish.status, held.job.attempts)
        due_by = self._due_by()
        self._stir({each.job.type for each in follow_ups if each.job.run_at <= due_by})
        self._ended(held, finish.status if kept else None, finish.error or finish.reason, finish.brief)

    async def _handed_in(
        self, held: Held, write: Callable[[], Awaitable[bool]], status: JobStatus, attempts: int
    ) -> bool:
        """Record the result of a job; while the storage is away, retry for as long as a lease lasts.

        A mail that left must not end unknown because of a short outage, or because this run is being stopped. So a
        cancellation waits for the current call, but not for the next one.

        Returns:
            False if the claim was lost.
        """
        end, pause = anyio.current_time() + self._context.lease.total_seconds(), _FIRST_PAUSE
        was_away = False
        while True:
            with anyio.CancelScope(shield=True):
                try:
                    return await write() or (was_away and await self._stands(held, status, attempts))
                except StorageUnavailable as error:
                    if anyio.current_time() + pause > end:
                        raise
                    if not was_away:
                        _log.warning("what %s came to is not recorded yet: %s", held.job.dedup_key, error)
            was_away = True
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _stands(self, held: Held, status: JobStatus, attempts: int) -> bool:
        """Whether a call that seemed to fail took effect after all, and only its answer was lost."""
        found = (await self._context.work.find([held.job.dedup_key])).get(held.job.dedup_key)
        return found is not None and (found.status, found.attempts) == (status, attempts)

    def _ended(
        self, held: Held, status: JobStatus | None, detail: str | None = None, brief: Brief | None = None
    ) -> None:
        if self._is_in_hand(held):
            del self._held[held.job.dedup_key]
            self._company.held.discard(held)
        self._stir({held.job.type})
        if status is None:
            brief, detail = None, _LEASE_ENDED
        held.ended = Ended(job=held.job, status=status, brief=brief, detail=detail, problems=tuple(held.problems))
        self._on_ended(held.ended)


def _text_of(error: Exception) -> str:
    try:
        # str(KeyError('ana')) is just 'ana', which says nothing.
        return repr(error) if isinstance(error, LookupError) else str(error) or repr(error)
    except Exception:
        return f"{type(error).__name__}, whose message could not be read"
