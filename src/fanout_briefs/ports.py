"""What a host application gives to the library, and what a storage promises to it.

Three of them are enough to begin with: ``Preferences`` (who wants a brief, and when), ``Projects`` and ``Generator``
(what goes in). With a shipped storage that keeps preferences, the last two are. The rest has a working default, or
matters only to authors of a storage.

Every method is async. Those about many users take a batch and return a mapping, so that a page costs one query
whatever its size. Implementations are recognised by their methods: no base class is needed. They must be safe to
call from many tasks at once. Whatever they raise counts as a failure of that call alone; let cancellation through.
``adapters.in_thread`` turns an object with plain synchronous methods into such an implementation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol

from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobRef,
    JobStatus,
    Mail,
    Overview,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    Scheduled,
    ScheduleFields,
    SectionRequest,
    Standing,
    Window,
)

__all__ = [
    "CancellingDispatcher",
    "Dispatcher",
    "Engagement",
    "Generator",
    "Ledger",
    "Mailer",
    "Oversight",
    "Preferences",
    "Projects",
    "Recipients",
    "ScheduleIndex",
    "StandingLedger",
    "Storage",
    "Work",
]


class Preferences(Protocol):
    """Who wants a brief, and when."""

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        """Give up to ``limit`` preferences, in an order that stays the same from page to page.

        Args:
            cursor: None for the first page, then the ``next_cursor`` of the page before. Its format is yours: it
                may be an id, a key in the database's own collation, or a token.
            limit: At least 1. You may return fewer, even none; only ``next_cursor=None`` ends the scan.

        Each user appears once in a scan. Somebody who signs up during it may appear or not: the next plan
        scans again. Rows with bad values are given as they are; the planner reports them.

        Raises:
            Exception: The plan stops with this error. What earlier pages planned stays, and the next plan
                covers the same span of time again.
        """
        ...

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """Give the preferences of these users as they are now; unknown users are absent.

        Called right before the work, so that switching off or changing the time overrides an older plan.
        """
        ...


class ScheduleIndex(Preferences, Protocol):
    """Preferences that can be read by schedule, so that a plan's cost depends on how much is due, not on all users.

    A capability, declared by the attribute ``schedule_index``: without it, each plan reads every preference.
    """

    @property
    def schedule_index(self) -> bool:
        """True: the methods below may be called."""
        ...

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        """Give each distinct combination of schedule fields that an active preference has, under an id of your own.

        Include fields that make no schedule: the planner reports the people who have them. An id must mean
        the same fields from here to the end of the scan. One that nobody has any more does no harm.
        """
        ...

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        """Give up to ``limit`` people whose active preference has one of these schedules, in pages as ``page`` does.

        Args:
            schedules: Ids from ``schedules``; the same ones for each page of a scan. Ignore unknown ones.
            cursor: None for the first page, then the ``next_cursor`` of the page before.
            limit: At least 1.

        Somebody whose schedule changes during the scan may appear twice or not at all: what is due by the new
        one is still ahead, and the next plan scans that again.
        """
        ...


class Projects(Protocol):
    """What a user's brief is about."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        """Give the user's projects, in the order in which their sections are to appear.

        Args:
            user_id: Whose.
            window: What the brief covers, if you want to leave out projects in which nothing happened.

        An empty sequence is fine: the slot ends ``empty``, and no mail is made.

        Raises:
            RetryLater: Another attempt is made after that time.
            PermanentFailure: The brief fails without another attempt.
            Exception: The brief is tried again, with back-off.
        """
        ...


class Generator(Protocol):
    """How one project's section is made."""

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        """Generate one section, or return None if there is nothing new.

        Called for many sections at once, and again for the same one when an attempt is repeated: the same
        request should lead to the same content, or at least do no harm twice. It is cancelled when it takes
        longer than the section's timeout or the brief's deadline; let that through.

        Raises:
            Exception: This section is marked as failed, and the others are not affected. The brief fails only if no
                section has content and at least one failed; then ``RetryLater`` and ``PermanentFailure`` count.
        """
        ...


class Engagement(Protocol):
    """When users were last seen."""

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        """Give each user's last visit: an aware instant, or None for never.

        Leave out a user whose visits cannot be read right now, which is not the same as never: the policy's
        ``sends_when_unavailable`` says what happens then.

        Raises:
            Exception: As though every user had been left out.
        """
        ...


class Recipients(Protocol):
    """Where mail goes."""

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """Give addresses as they are now, right before sending; users who cannot be reached are absent.

        Opt-outs and suppressions belong here too, as ``opted_out`` or by leaving the user out, so that they stop
        even mail that is already queued.

        Raises:
            Exception: The mail is tried again, with back-off; it has not been sent.
        """
        ...


class Mailer(Protocol):
    """Hands a mail to whoever delivers it."""

    @property
    def idempotent(self) -> bool:
        """Whether sending twice with the same key delivers once.

        True only if the provider promises it. Only then is a mail whose outcome is unknown sent again.
        """
        ...

    async def send(self, mail: Mail, key: str) -> Receipt:
        """Hand over one mail and return once it is accepted.

        Args:
            mail: Recipient and rendered brief.
            key: The same for every attempt at this mail and for no other; the provider's idempotency key.

        Raises:
            NotSent: The mail has certainly not left; it is tried again unless the error is permanent.
            RetryLater: The same, and not before the given time.
            PermanentFailure: The mail has not left and never will; it ends ``failed``.
            Exception: Nobody knows whether it left. It ends ``unknown``, or is sent again if the mailer is idempotent.
        """
        ...


class Dispatcher(Protocol):
    """Carries references to jobs to workers, on a task queue of the host's choice.

    A worker passes what it receives to ``Briefs.run_job``, which asks the ledger whether there is anything to run.
    """

    @property
    def powers(self) -> DispatcherPowers:
        """What it can do."""
        ...

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        """Hand over references to jobs that are committed in the ledger, for their ``run_at``.

        The engine may deliver each more than once, and so may a second call with the same job.

        Raises:
            Exception: The jobs stay in the ledger, and are dispatched again by the next reconciling.
        """
        ...


class CancellingDispatcher(Dispatcher, Protocol):
    """A dispatcher that declares ``cancels``."""

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        """Take back what is still waiting in the engine of jobs that were cancelled, which saves a worker looking.

        Raises:
            Exception: They are delivered, and found cancelled in the ledger.
        """
        ...


class Ledger(Protocol):
    """The truth about every slot: which were planned, and what became of them.

    One row per ``dedup_key``, over all states and for good, is all there is to exactly-once planning: any number of
    planners may call at once, be killed anywhere and be run again. Each method is one transaction or, for
    long batches, one per chunk in the order of the keys: after a failure or a cancellation every row is entirely as
    before or entirely as after, and calling again with the same arguments completes the rest.

    What is returned is normalised: instants in UTC and exact to the microsecond, texts for people (reasons and
    errors) without lone surrogates. ``fanout_briefs.rules`` has the functions for that, and for checking arguments.

    Raises:
        StorageUnavailable: From any method, when the storage cannot be used. Busy, serialization and deadlock
            errors are tried again first.
        ValueError: From any method, before anything is stored: for a naive instant, a limit below 1, or a new job whose
            key holds a NUL or a lone surrogate. Looking for such a key finds nothing.
    """

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """Record new slots; return what became of each job, in the order given.

        Jobs come as pending, or as skipped with a code; any other status is a ``ValueError``. A key that exists is
        a ``DUPLICATE`` and stays as it is, unless the job is pending and takes the slot up: one for which
        ``Job.can_be_taken_up`` holds or, with a ``demand``, any that is not in processing. That row becomes the new
        job with its epoch raised by one, its attempts at zero and no progress; it keeps its window's start if a
        brief is saved from it. Of equal keys in one batch the first counts. A conflict never raises.

        While a type is paused, a pending job of it without a ``demand`` is recorded as skipped with the code
        ``paused``, in a new slot or in the one it would take up, whose epoch then stays: that is ``PAUSED``.
        """
        ...

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        """Give the slots of these keys; those that do not exist are absent. One query, whatever their number."""
        ...

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        """Give the latest ``deliver_at`` of each user's pending, processing and completed jobs of this type.

        Args:
            type: The job type, so that briefs of another name do not count.
            before: For each user the instant, aware, before which to look (exclusive).

        Users who have none are absent.
        """
        ...

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        """Make a change that a person asked for; return the keys whose slots were in a state that it applies to.

        A slot that becomes pending again begins a new epoch, with no attempts, progress, code, reason or error,
        and with the demand that the change makes. Its ``run_at`` stays, and so does what it was enqueued with.
        """
        ...

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        """Read, and perhaps move, the mark up to which the planning of brief ``name`` is complete.

        Args:
            name: Whose mark.
            to: Moves the mark forward to this instant. It never moves back: an earlier one changes nothing.
            start: Where the mark begins if there is none yet. Without ``start``, ``to`` moves only an existing mark.
            planned_at: The moment of the plan that ends with this call, kept beside the mark for ``overview``;
                where there is no mark, it is not kept.

        Returns:
            The mark as it is now, aware; None where there is none. Given nothing but a name, it writes nothing.
        """
        ...

    async def forget(self, user_id: str) -> int:
        """Erase everything stored about a user; return how many slots, payloads, briefs and preferences that was.

        A worker that holds one of these jobs finds its claim stale.
        """
        ...


class StandingLedger(Ledger, Protocol):
    """A ledger for which saying how slots stand is cheaper than giving their jobs.

    A capability, declared by the attribute ``tells_standings``: without it, plans look up whole jobs. If a page is
    already planned, looking up is most of the work.
    """

    @property
    def tells_standings(self) -> bool:
        """True: the method below may be called."""
        ...

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        """Give how the slots of these keys stand: what ``find`` would, with less of each."""
        ...


class Work(Protocol):
    """How workers take jobs and hand in the results. Every write shows a fencing token."""

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
        """Take up to ``limit`` jobs, the longest due first. No job is ever given to two callers at once.

        Due are pending jobs with ``run_at <= due_by``, and jobs in processing whose lease ended at or before
        ``now``, of types that are not paused. A job waits while an earlier slot (by ``deliver_at``) of the same
        user and type is pending or in processing, so that content windows never overlap. ``due_by`` and ``now``
        are two clocks on purpose: a run may be made for a past moment, while leases always run by the wall clock.

        A claimed job is in processing, its attempts raised by one, and its lease ends at ``now + lease``. Its token
        is higher than any that was ever given for its key, also for a slot that was erased meanwhile.

        The first claim of a slot fixes the start of its window: at the window's end of the user's latest saved brief
        of that type, but not beyond its own end; or else as enqueued. Progress stays as the last holder left it, so
        that the next one sees how far it came.

        Args:
            due_by: The moment of the schedule up to which to look.
            now: The moment by the wall clock, for leases.
            lease: How long the claims hold without a heartbeat.
            limit: At least 1.
            types: Job types to look for.
            keys: Looks at these slots only.
        """
        ...

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        """Move the lease of these claims to ``until`` and record their progress; answer with the keys that are lost.

        A claim is lost when its token is stale or its job no longer in processing: whoever holds it must stop.
        """
        ...

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        """End a job: status, saved brief and follow-up jobs in one transaction.

        ``code`` and ``error`` become those of ``finish``; ``reason`` only where it gives one.

        A follow-up whose slot is new is created with its payload; one that is still pending, skipped, failed or
        cancelled is renewed with the payload, attempts at zero and the epoch given; any other stays as it is,
        unless the follow-up's demand is to ``RESEND``: then it is renewed too, and a claim on it is lost.

        Returns:
            False if the claim is lost. Then nothing was changed.
        """
        ...

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        """Put a job back to pending until ``at``, keeping the error and clearing its progress.

        Args:
            claim: The job's.
            at: When to try again.
            error: Why it has to be.
            counted: False takes this attempt back, as where a provider only asked to come later.

        Returns:
            False if the claim is lost. Then nothing was changed.
        """
        ...

    async def release(self, claims: Collection[Claim]) -> None:
        """Put jobs back: pending, no progress, the attempt not counted. The window's start stays fixed.

        Lost ones stay as they are.
        """
        ...

    async def brief(self, type: str, user_id: str, on: date | None = None) -> Brief | None:  # noqa: A002
        """Give the saved brief of that local date, or the one with the latest ``deliver_at``; None if there is none."""
        ...


class Oversight(Protocol):
    """What an operator sees of the slots, and can do to many at once."""

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        """Let nobody claim jobs of these types from now on. What is running goes on to its end.

        Args:
            types: Job types.
            at: The moment, kept for ``overview``.

        Returns:
            False if all of them were paused already; then nothing was changed, nor when that was.
        """
        ...

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        """End a pause, in one transaction.

        Slots that are skipped or cancelled as ``paused`` and were to be delivered at ``since`` or later become
        pending, in a new epoch. Pending ones that were to be delivered before become cancelled as ``paused``, except
        those with a ``demand``, which are never too late.

        Returns:
            How many became pending; None if nothing was paused, and nothing was changed.
        """
        ...

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        """Give the moment since which each of these types has been paused; those that are not are absent."""
        ...

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        """Give a consistent overview, for each of these types, of how its slots stand at ``now``.

        Args:
            types: Job types; all are in the answer.
            now: What leases and times are compared with.
            since: Of slots that have ended, looks at those to be delivered at this instant or later.
        """
        ...

    async def select(
        self,
        types: Collection[str],
        statuses: Collection[JobStatus],
        *,
        since: datetime,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> Page[Job]:
        """Give slots of these types and statuses to be delivered at ``since`` or later, the earliest first.

        Args:
            types: Job types.
            statuses: Where the slots stand.
            since: Where to begin.
            cursor: None for the first page, then the ``next_cursor`` of the page before.
            limit: At least 1.
        """
        ...

    async def prune(self, types: Collection[str], before: datetime, limit: int) -> int:
        """Erase up to ``limit`` slots that have ended and were to be delivered before ``before``, with their briefs.

        Of each user's slots of a type the latest one stays, and so do the latest completed one and the one of the
        latest brief: engagement and content windows depend on them.

        Returns:
            How many slots were erased; less than ``limit`` means that none is left.
        """
        ...


class Storage(Ledger, Work, Oversight, Protocol):
    """A ledger, its work and their oversight in one place, so that ``finish`` can be one transaction.

    A storage that also keeps preferences has an attribute ``preferences``, which implements ``Preferences``. If it is
    an async context manager, ``Briefs`` opens and closes it; opening it twice at once must be harmless, and the last
    one to leave closes it. One that notifies an engine of what becomes pending, in its own transactions, has an
    attribute ``on_pending`` that is not None.
    """
