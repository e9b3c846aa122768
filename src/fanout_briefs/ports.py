"""The protocols that a host application implements, and the promises of a storage.

Three of them are enough to begin with: ``Preferences`` (who wants a brief, and when), ``Projects`` and ``Generator``
(what goes in). With a shipped storage that keeps preferences, the last two are enough. The others have a working
default, or matter only to authors of a storage.

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
        """Return up to ``limit`` preferences, in an order that stays the same from page to page.

        Args:
            cursor: None for the first page, then the ``next_cursor`` of the page before. Its format is yours: it
                may be an id, a key in the database's own collation, or a token.
            limit: At least 1. You may return fewer, even none; only ``next_cursor=None`` ends the scan.

        Each user appears once in a scan. Users who sign up during a scan may appear or not: the next plan scans again.
        Return rows with bad values as they are; the planner reports them.

        Raises:
            Exception: The plan stops with this error. What earlier pages planned stays, and the next plan
                covers the same span of time again.
        """
        ...

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """Return the preferences of these users as they are now; unknown users are absent.

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
        """Return each distinct combination of schedule fields that an active preference has, under an id of your own.

        Include fields that make no schedule: the planner reports the users who have them. An id must mean the same
        fields until the end of the scan. A combination that no user has any more does no harm.
        """
        ...

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        """Return up to ``limit`` people whose active preference has one of these schedules, in pages as ``page`` does.

        Args:
            schedules: Ids from ``schedules``; the same ones for each page of a scan. Ignore unknown ones.
            cursor: None for the first page, then the ``next_cursor`` of the page before.
            limit: At least 1.

        A user whose schedule changes during the scan may appear twice or not at all: what is due by the new schedule
        is still ahead, and the next plan scans it again.
        """
        ...


class Projects(Protocol):
    """What a user's brief is about."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        """Return the user's projects, in the order in which their sections are to appear.

        Args:
            user_id: Whose projects.
            window: What the brief covers, for leaving out projects in which nothing happened.

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

        Called for many sections at once, and again for the same section when an attempt is repeated: the same request
        should give the same content, or at least do no harm twice. It is cancelled when it takes longer than the
        section's timeout or the brief's deadline; let the cancellation through.

        Raises:
            Exception: This section is marked as failed, and the others are not affected. The brief fails only if no
                section has content and at least one failed; then ``RetryLater`` and ``PermanentFailure`` count.
        """
        ...


class Engagement(Protocol):
    """When users were last seen."""

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        """Return each user's last visit: an aware instant, or None for never.

        Leave out a user whose visits cannot be read right now, which is not the same as never: the policy's
        ``sends_when_unavailable`` says what happens then.

        Raises:
            Exception: The effect is the same as leaving out every user.
        """
        ...


class Recipients(Protocol):
    """Where mail goes."""

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """Return addresses as they are now, right before sending; users who cannot be reached are absent.

        Opt-outs and suppressions belong here too, as ``opted_out`` or by leaving the user out, so that they stop
        even mail that is already queued.

        Raises:
            Exception: The mail is tried again, with back-off; it has not been sent.
        """
        ...


class Mailer(Protocol):
    """Hands mails over for delivery."""

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
            RetryLater: The mail has certainly not left; it is tried again after the given time.
            PermanentFailure: The mail has not left and never will; it ends ``failed``.
            Exception: The mail may have left. It ends ``unknown``, or is sent again if the mailer is idempotent.
        """
        ...


class Dispatcher(Protocol):
    """Carries references to jobs to workers, on a task queue of the host's choice.

    A worker passes what it receives to ``Briefs.run_job``, which asks the ledger whether there is anything to run.
    """

    @property
    def powers(self) -> DispatcherPowers:
        """What the dispatcher can do."""
        ...

    async def dispatch(self, jobs: Sequence[JobRef]) -> None:
        """Hand over references to jobs that are committed in the ledger, for their ``run_at``.

        The engine may deliver each of them more than once, and so may a second call with the same job.

        Raises:
            Exception: The jobs stay in the ledger, and are dispatched again by the next reconciling.
        """
        ...


class CancellingDispatcher(Dispatcher, Protocol):
    """A dispatcher that declares ``cancels``."""

    async def cancel(self, jobs: Sequence[JobRef]) -> None:
        """Remove messages of cancelled jobs that still wait in the engine, which saves workers from looking them up.

        Raises:
            Exception: The messages are delivered, and workers find the jobs cancelled in the ledger.
        """
        ...


class Ledger(Protocol):
    """The truth about every slot: which were planned, and what became of them.

    Exactly-once planning rests on one row per ``dedup_key``, over all states and for good: any number of planners may
    call at once, be killed at any point and run again. Each method is one transaction or, for long batches, one per
    chunk in the order of the keys. After a failure or a cancellation, every row is entirely in the old or entirely in
    the new state, and calling again with the same arguments completes the rest.

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

        Jobs must be pending, or skipped with a code; any other status is a ``ValueError``. An existing key is a
        ``DUPLICATE`` and stays as it is, unless the job is pending and takes up the slot: one for which
        ``Job.can_be_taken_up`` holds or, with a ``demand``, any that is not in processing. That row becomes the new
        job with its epoch raised by one, its attempts at zero and no progress; it keeps its window's start if a brief
        is saved from it. If one batch has equal keys, the first counts. A conflict never raises.

        While a type is paused, a pending job of it without a ``demand`` is recorded as skipped with the code
        ``paused``, in a new slot or in the one it would take up, whose epoch then stays: that is ``PAUSED``.
        """
        ...

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        """Return the slots of these keys; missing ones are absent. One query, however many keys there are."""
        ...

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        """Return the latest ``deliver_at`` of each user's pending, processing and completed jobs of this type.

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
            name: The brief that the mark belongs to.
            to: Moves the mark forward to this instant. An earlier instant changes nothing: the mark never moves back.
            start: Where the mark begins if there is none yet. Without ``start``, ``to`` moves only an existing mark.
            planned_at: The moment of the plan that ends with this call, kept with the mark for ``overview``; not kept
                if there is no mark.

        Returns:
            The mark as it is now, aware; None if there is none. A call with only a name writes nothing.
        """
        ...

    async def forget(self, user_id: str) -> int:
        """Erase everything stored about a user; return the number of slots, payloads, briefs and preferences erased.

        A worker that holds one of these jobs finds its claim stale.
        """
        ...


class StandingLedger(Ledger, Protocol):
    """A ledger for which returning how slots stand is cheaper than returning their jobs.

    A capability, declared by the attribute ``tells_standings``: without it, plans look up whole jobs. For a page that
    is already planned, looking up is most of the work.
    """

    @property
    def tells_standings(self) -> bool:
        """True: the method below may be called."""
        ...

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        """Return how the slots of these keys stand: as ``find``, but with less about each."""
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
        """Claim up to ``limit`` jobs, the longest due first. No job is ever given to two callers at once.

        Due are pending jobs with ``run_at <= due_by``, and jobs in processing whose lease ended at or before
        ``now``, of types that are not paused. A job waits while an earlier slot (by ``deliver_at``) of the same
        user and type is pending or in processing, so that content windows never overlap. ``due_by`` and ``now``
        are two clocks on purpose: a run may be made for a past moment, while leases always run by the wall clock.

        A claimed job is in processing, its attempts raised by one, and its lease ends at ``now + lease``. Its token
        is higher than any ever given for its key, even if the slot was erased meanwhile.

        The first claim of a slot fixes the start of its window: at the window's end of the user's latest saved brief
        of that type, but not beyond its own end; or else as enqueued. Progress stays as the last holder left it, so
        that the next one sees how far it came.

        Args:
            due_by: The moment of the schedule up to which to look.
            now: The moment by the wall clock, for leases.
            lease: How long the claims hold without a heartbeat.
            limit: At least 1.
            types: Job types to look for.
            keys: Only these slots are considered; None considers all.
        """
        ...

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        """Move the leases of these claims to ``until`` and record their progress; return the keys that are lost.

        A claim is lost if its token is stale or its job is no longer in processing: its holder must stop.
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
            claim: The claim on the job.
            at: When to try again.
            error: Why another attempt is needed.
            counted: False does not count this attempt, for example if a provider only asked to come back later.

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
        """Return the saved brief of that date, or the one with the latest ``deliver_at``; None if there is none."""
        ...


class Oversight(Protocol):
    """What an operator sees of the slots, and can do to many at once."""

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        """Stop jobs of these types from being claimed from now on; running ones finish.

        Args:
            types: Job types.
            at: The moment, kept for ``overview``.

        Returns:
            False if all of them were already paused; then nothing was changed, not even the time of the pause.
        """
        ...

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        """End a pause, in one transaction.

        Slots that are skipped or cancelled as ``paused`` and were to be delivered at ``since`` or later become
        pending, in a new epoch. Pending ones that were to be delivered before become cancelled as ``paused``, except
        those with a ``demand``, which are never too late.

        Returns:
            How many slots became pending; None if nothing was paused, so that nothing was changed.
        """
        ...

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        """Return since when each of these types has been paused; types that are not paused are absent."""
        ...

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        """Return a consistent overview, for each of these types, of how its slots stand at ``now``.

        Args:
            types: Job types; all are in the answer.
            now: The moment that leases and times are compared with.
            since: Ended slots count only if they were to be delivered at this instant or later.
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
        """Return slots of these types and statuses to be delivered at ``since`` or later, the earliest first.

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
            How many slots were erased; fewer than ``limit`` means that none is left but those that
            other transactions hold at this moment.
        """
        ...


class Storage(Ledger, Work, Oversight, Protocol):
    """A ledger, work and oversight in one place, so that ``finish`` can be one transaction.

    A storage that also keeps preferences has an attribute ``preferences``, which implements ``Preferences``. If it is
    an async context manager, ``Briefs`` opens and closes it; opening it while it is open must be harmless, and the last
    exit closes it. A storage that notifies an engine of jobs that become pending, in its own transactions, has an
    attribute ``on_pending`` that is not None.
    """
