"""The composition root: wires a host's adapters to the planner, the builder, the worker and the delivery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Self, cast

import anyio
from attrs import evolve, frozen

from fanout_briefs.arguments import bad_counts, bad_hooks, bad_kinds, bad_port, bad_spans, refuse
from fanout_briefs.builder import BriefBuilder
from fanout_briefs.delivery import SENDING, Delivery, mail_job, mail_type
from fanout_briefs.dispatching import Carrier, DispatchingStorage
from fanout_briefs.eligibility import Eligibility
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.engine import JobRun
from fanout_briefs.errors import BadValue
from fanout_briefs.explain import Explainer, Explanation
from fanout_briefs.held import Held, Lane
from fanout_briefs.model import (
    KEPT_PROBLEMS,
    Brief,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Occurrence,
    Problem,
    Progress,
    Rendered,
    Section,
    check_aware,
    check_user_id,
)
from fanout_briefs.operate import Operator, Status
from fanout_briefs.planner import SchedulePlanner, bad_plan_arguments
from fanout_briefs.plans import PlanReport, Verdict
from fanout_briefs.ports import Dispatcher, Engagement, Generator, Mailer, Preferences, Projects, Recipients, Storage
from fanout_briefs.render import render_brief
from fanout_briefs.runs import Ended, Reconciled, RunReport, RunTally
from fanout_briefs.screen import Cleared, Screen
from fanout_briefs.serve import Reconciling, Round, Server
from fanout_briefs.single_jobs import SingleJobs
from fanout_briefs.timing import CatchUp, Retrying, Timing, bad_timing
from fanout_briefs.worker import Worker

__all__ = ["BriefProgress", "Briefs"]

_log = logging.getLogger("fanout_briefs")
_BRIEF_RETRYING = Retrying(attempts=6)
_MAIL_RETRYING = Retrying(attempts=12)
_DAY = timedelta(days=1)
_YEARS = range(2, 9999)
"""Years whose dates all have neighbours on both sides, in every zone."""
_MICROSECOND = timedelta(microseconds=1)
_PORTS = {
    "storage": Storage,
    "projects": Projects,
    "generator": Generator,
    "preferences": Preferences,
    "engagement": Engagement,
    "recipients": Recipients,
    "mailer": Mailer,
    "dispatcher": Dispatcher,
    "policy": EngagementPolicy,
}


@frozen
class BriefProgress:
    """How far the brief of one slot has come."""

    job: Job
    progress: Progress


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Briefs:
    """One kind of brief: who gets it, what goes in, and how it is delivered.

    Constructing it does no I/O and binds nothing to an event loop. Use it as an async context manager, which
    opens the storage; the same object may be opened again later, even in another loop.

    Args:
        storage: The ledger and its work.
        name: The job type; each kind of brief in one storage has its own. No colon.
        projects: What a user's brief is about.
        generator: Generates one section.
        preferences: Who wants a brief, and when; None uses the storage's own.
        engagement: When users were last seen; None sends to everyone.
        recipients: Where mail goes.
        mailer: Sends it; needs ``recipients``. With None, briefs are generated and not mailed.
        dispatcher: Carries jobs to the workers of a task queue, whose tasks call ``run_job``. With None, workers find
            them in the storage by themselves.
        policy: Decides from visits and briefs; None is ``BackoffPolicy()``.
        title: The name of a brief in its subject; None derives it from ``name``.
        render: Lays out a brief's sections; None is ``render.render_brief`` under ``title``, which tells the reader
            that a section failed but not why.
        lead: How long before delivery the content is cut off and generation may start.
        deadline: How long one brief may take to generate; sections that are missing by then are marked as failed.
            Zero means no limit.
        horizon: How far ahead of ``lead`` a plan looks; plan more often than this.
        catch_up: What happens to occurrences missed while nothing planned: ``skip``, ``latest`` or ``each``.
        max_lateness: Missed occurrences older than this are never sent.
        look_back: How far before its own moment the very first plan looks.
        tolerance: Also skips slots within that distance of another live slot of the same user; at most 31 days.
        page_size: How many preferences are planned at a time.
        concurrency: How many briefs are being generated at once.
        mail_concurrency: How many mails are being sent at once.
        section_limit: How many sections of one brief are being generated at once.
        section_timeout: How long one section may take; None means as long as the brief.
        send_timeout: How long reading a recipient, and then sending, may each take. A mail whose sending takes longer
            ends unknown, or is sent again if the mailer is idempotent; keep it above the mailer's own timeouts.
        lease: How long a claim lasts after its worker died.
        retrying: How failed attempts at a brief are repeated; None is six within about half an hour.
        redispatch_after: How long after its time a job that nobody has started is handed to the dispatcher again, by
            reconciling; then after twice that time, and so on.
        mail_retrying: How failed attempts at a mail are repeated; None is twelve within about six hours, since mail
            servers may be away for longer.
        on_progress: A plain function, called at each step of each brief. If it raises, the error is logged and
            reported, and the brief goes on.
        clock: The wall clock, aware, used for leases and as the present if no moment is given.

    Attributes:
        name: As given.
        horizon: As given.
        lease: As given.
        job_types: The job types, and how many jobs of each run at once; the mails' type comes last.

    Raises:
        ValueError: Arguments are bad; all of them are named.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        name: str = "daily_brief",
        projects: Projects,
        generator: Generator,
        preferences: Preferences | None = None,
        engagement: Engagement | None = None,
        recipients: Recipients | None = None,
        mailer: Mailer | None = None,
        dispatcher: Dispatcher | None = None,
        policy: EngagementPolicy | None = None,
        title: str | None = None,
        render: Callable[[Occurrence, Sequence[Section]], Rendered] | None = None,
        lead: timedelta = timedelta(minutes=15),
        deadline: timedelta = timedelta(minutes=5),
        horizon: timedelta = timedelta(hours=1),
        catch_up: CatchUp | str = CatchUp.LATEST,
        max_lateness: timedelta = timedelta(hours=12),
        look_back: timedelta = timedelta(0),
        tolerance: timedelta | None = None,
        page_size: int = 1000,
        concurrency: int = 10,
        mail_concurrency: int = 5,
        section_limit: int = 8,
        section_timeout: timedelta | None = timedelta(seconds=60),
        send_timeout: timedelta = timedelta(seconds=60),
        lease: timedelta = timedelta(seconds=30),
        redispatch_after: timedelta = timedelta(minutes=1),
        retrying: Retrying | None = None,
        mail_retrying: Retrying | None = None,
        on_progress: Callable[[BriefProgress], object] | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        spans = {
            "lead": lead,
            "deadline": deadline,
            "horizon": horizon,
            "max_lateness": max_lateness,
            "look_back": look_back,
        }
        problems = [
            *_bad_ports(
                storage=storage,
                projects=projects,
                generator=generator,
                preferences=preferences,
                engagement=engagement,
                recipients=recipients,
                mailer=mailer,
                dispatcher=dispatcher,
                policy=policy,
            ),
            *bad_plan_arguments(name, tolerance, page_size),
            *bad_timing(catch_up=catch_up, **spans),
            *bad_kinds({"title": title}, str),
            *bad_kinds({"retrying": retrying, "mail_retrying": mail_retrying}, Retrying),
            *bad_counts({"concurrency": concurrency, "mail_concurrency": mail_concurrency}),
            *bad_counts({"section_limit": section_limit}),
            *bad_spans({"section_timeout": section_timeout}, least=_MICROSECOND, may_be_none=True),
            *bad_spans({"send_timeout": send_timeout, "lease": lease}, least=_MICROSECOND),
            *bad_spans({"redispatch_after": redispatch_after}, least=_MICROSECOND),
            *bad_hooks({"render": render, "on_progress": on_progress, "clock": clock}),
        ]
        refuse(problems)
        clock = _in_utc(clock)
        self._resource = storage
        if preferences is None:
            preferences = cast("Preferences", getattr(storage, "preferences"))  # noqa: B009  # the port has none
        carrier: Carrier | None = None
        if dispatcher is not None:
            carrier = Carrier(dispatcher=dispatcher, grace=redispatch_after, clock=clock)
            storage = _told_of(storage, carrier)
        self.name = name
        self.horizon = horizon
        self.lease = lease
        self._storage = storage
        self._preferences = preferences
        self._on_progress = on_progress
        policy = BackoffPolicy() if policy is None else policy
        timing = Timing(catch_up=CatchUp(catch_up), **spans)
        self._planner = SchedulePlanner(
            preferences=self._preferences,
            engagement=engagement,
            ledger=storage,
            policy=policy,
            name=name,
            timing=timing,
            tolerance=tolerance,
            page_size=page_size,
        )
        shown = title or name.replace("_", " ").capitalize()
        self._builder = BriefBuilder(
            projects,
            generator,
            render=render or (lambda occurrence, sections: render_brief(shown, occurrence, sections)),
            section_limit=section_limit,
            section_timeout=section_timeout,
            deadline=deadline,
        )
        lanes = [Lane(name, self._generate, concurrency, retrying or _BRIEF_RETRYING)]
        self._delivery: Delivery | None = None
        if mailer is not None and recipients is not None:
            self._delivery = Delivery(recipients, mailer, send_timeout)
            lanes.append(Lane(mail_type(name), self._deliver, mail_concurrency, mail_retrying or _MAIL_RETRYING))
        self.job_types: Mapping[str, int] = {lane.type: lane.concurrency for lane in lanes}
        eligibility = Eligibility(engagement, storage, policy)
        self._explainer = Explainer(name, self._preferences, eligibility, storage, timing, mailer is not None)
        self._worker = Worker(
            work=storage,
            name=name,
            lanes=lanes,
            screen=Screen(
                name=name,
                preferences=self._preferences,
                eligibility=eligibility,
                max_lateness=max_lateness,
                catch_up=timing.catch_up,
            ),
            is_unsettled=self._is_unsettled,
            lease=lease,
            clock=clock,
        )
        self._operator = Operator(
            name=name,
            preferences=self._preferences,
            storage=storage,
            timing=timing,
            worker=self._worker,
            mails=mailer is not None,
            carrier=carrier,
        )
        self._single_jobs = SingleJobs(storage, self._worker)

    async def __aenter__(self) -> Self:
        if isinstance(self._resource, AbstractAsyncContextManager):
            await self._resource.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._resource, AbstractAsyncContextManager):
            await self._resource.__aexit__(kind, error, traceback)

    async def plan(
        self,
        now: datetime,
        dry_run: bool = False,
        on_verdict: Callable[[Verdict], object] | None = None,
        *,
        review: timedelta = timedelta(0),
    ) -> PlanReport:
        """Queue a slot for every user who is due; see ``SchedulePlanner.plan``.

        Args:
            now: The moment to plan for, aware.
            dry_run: Makes the same decisions and writes nothing.
            on_verdict: Called for every preference, also of users who are not due.
            review: How far back to also report existing slots; at least ``max_lateness`` if this moment was planned
                before.

        Raises:
            ValueError: An argument is bad, such as a naive ``now``; or ``preferences`` returned a cursor twice.
            Exception: What ``preferences`` or ``on_verdict`` raises. Pages before it stay planned.
        """
        return await self._planner.plan(now, dry_run, on_verdict, review=review)

    async def run_once(
        self,
        now: datetime,
        on_ended: Callable[[Ended], object] | None = None,
        *,
        draining: anyio.Event | None = None,
    ) -> RunReport:
        """Generate and deliver what is due at ``now``, and return when none of it is left, here or elsewhere.

        Briefs that may be generated by ``now`` are; only those with ``deliver_at <= now`` are also mailed. Jobs that
        another worker holds are waited for, and taken over if it dies.

        Args:
            now: The moment of the schedule, aware. Leases run by the wall clock in any case.
            on_ended: A plain function, called for every job that ends, is postponed or is lost. If it raises, no
                further job is started, and the error is raised once running ones have finished.
            draining: Once the caller sets it, no further job is started; running ones finish, others are released.

        Raises:
            ValueError: ``now`` is naive, or ``on_ended`` is not a plain function.
            Exception: What the storage raises, once running jobs have finished. A result that cannot be recorded is
                tried again for as long as a lease lasts; after that its job runs again, or a mail ends ``unknown``.
        """
        refuse(bad_hooks({"on_ended": on_ended}))
        return await self._worker.run(_aware("now", now), on_ended, draining=draining)

    async def run_job(self, key: str, *, draining: anyio.Event | None = None) -> JobRun:
        """Run one job that an engine delivered, if the ledger says that it should run now.

        For an engine's task, which may be started any number of times for the same job, in any processes: the claim in
        the ledger lets one of them run it. If the job should not run now, this returns the reason at once, without
        waiting. A finished brief makes its mail pending, and failed attempts are postponed in the ledger; both are
        handed to the dispatcher again. So a task succeeds whatever the answer, and only has to deliver the key again at
        ``again_at``, if that is given.

        Args:
            key: The job's ``dedup_key``.
            draining: Once it is set, the job is not started but released.

        Raises:
            ValueError: The job is of none of these ``job_types``.
            Exception: What the storage raises. The job runs again when its lease has ended.
        """
        return await self._single_jobs.run(key, draining)

    async def serve(
        self,
        *,
        every: timedelta | None = timedelta(minutes=5),
        poll: timedelta = timedelta(seconds=2),
        grace: timedelta = timedelta(seconds=30),
        work: bool | None = None,
        on_round: Callable[[Round], object] | None = None,
    ) -> None:
        """Plan and run until cancelled, as a task of its own in the host's lifespan.

        Planning and running are concurrent, so that a slow brief delays nobody. Several processes may serve one
        storage; the ledger distributes the work. Failures are logged, reported and retried. After a cancellation,
        nothing more is started, running jobs have ``grace`` to finish, and the others are released.

        With a ``dispatcher``, running is left to the engine's workers. Instead, three times per lease, this puts back
        the jobs of dead workers; and at an interval that depends on ``redispatch_after``, it dispatches jobs again that
        were lost on the way to a worker.

        Args:
            every: How often to plan; at most the horizon. None leaves planning to others.
            poll: How often to look for due work, and at most how often to report.
            grace: How long running work may take to finish once this is cancelled.
            work: Whether to run due work in this process; None means only without a dispatcher.
            on_round: A plain function, called after each plan, failure and repair, with what has ended since the last
                call. If it raises, the error is logged.

        Raises:
            ValueError: An argument is out of range.
        """
        problems = [
            *bad_spans({"every": every}, least=_MICROSECOND, may_be_none=True),
            *bad_spans({"poll": poll}, least=_MICROSECOND),
            *bad_spans({"grace": grace}),
            *bad_kinds({"work": work}, bool),
            *bad_hooks({"on_round": on_round}),
        ]
        if not problems and every is not None and every > self.horizon:
            problems.append(BadValue("every", every, f"must not be longer than the horizon of {self.horizon}"))
        refuse(problems)
        operator, carrier = self._operator, self._operator.carrier
        await Server(
            plan=self.plan,
            work=self._worker.serve if work or (work is None and carrier is None) else None,
            reconciling=()
            if carrier is None
            else (
                Reconciling(operator.put_back, self._worker.lease / 3),
                Reconciling(operator.dispatch_again, carrier.every),
            ),
            tally=lambda: RunTally(self.name),
            every=every,
            poll=poll,
            grace=grace,
            clock=self._worker.clock,
            on_round=on_round,
        ).serve()

    async def explain(self, user_id: str, on: date | None = None, *, now: datetime | None = None) -> Explanation:
        """Explain what became of a user's brief for one local date, or what would, and why.

        Args:
            user_id: Whose brief.
            on: The local date in the user's own zone; None is today there.
            now: The moment to judge by, aware; None is the present.

        Raises:
            ValueError: ``now`` is naive, or ``on`` is not a plain date.
            Exception: What reading preferences or the storage raises.
        """
        return await self._explainer.explain(user_id, _plain_date(on), self._moment(now))

    async def next(self, user_id: str, *, now: datetime | None = None) -> Explanation:
        """Explain when the user's next brief is to be delivered and how it stands, as ``explain`` does for its date.

        Args:
            user_id: Whose brief.
            now: The moment, aware, after which to look for the schedule's next occurrence; None is the present.

        Raises:
            UnknownUser: No preference is known for this user.
            InvalidSchedule: The preference makes no schedule; every bad field is named.
            ValueError: ``now`` is naive, or no user can have this id.
            Exception: What reading preferences or the storage raises.
        """
        moment = self._moment(now)
        job, _ = await self._explainer.next_job(_user(user_id), moment)
        return await self._explainer.explain(user_id, job.occurrence.local_date, moment)

    async def preview(self, user_id: str, *, now: datetime | None = None) -> Brief | None:
        """Generate the user's next brief as though it were due, saving and sending nothing.

        Args:
            user_id: Whose brief; the preference may be switched off.
            now: Where the content is cut off, aware; None is the present.

        Returns:
            The brief; None if there is nothing to say.

        Raises:
            UnknownUser: No preference is known for this user.
            InvalidSchedule: The preference makes no schedule; every bad field is named.
            ValueError: ``now`` is naive, or no user can have this id.
            Exception: What building raises; see ``BriefBuilder.build``.
        """
        job, timezone = await self._explainer.next_job(_user(user_id), self._moment(now))
        latest = await self._storage.brief(self.name, user_id)
        if latest is not None and latest.window.end < job.window.end:
            job = evolve(job, window=evolve(job.window, start=latest.window.end))
        return await self._builder.build(job, timezone=timezone, decision=None, on_progress=self._reporter(job, []))

    async def latest(self, user_id: str) -> Brief | None:
        """Return the user's latest saved brief; None if there is none.

        Raises:
            ValueError: No user can have this id.
        """
        return await self._storage.brief(self.name, _user(user_id))

    async def generate_now(self, user_id: str, *, resend: bool = False, now: datetime | None = None) -> Brief | None:
        """Generate and save the user's brief for today at once, whatever schedule and engagement say.

        It counts as today's brief: the schedule makes no second one for the date, and an existing one is replaced. The
        content runs up to ``now``. If there is a mailer, the mail is queued for the next run, unless today's brief was
        already mailed.

        Args:
            user_id: Whose brief.
            resend: Mails it even if today's brief was already mailed.
            now: The moment, aware; None is the present.

        Returns:
            The brief; None if there is nothing to say.

        Raises:
            UnknownUser: No preference is known for this user.
            InvalidSchedule: The preference makes no schedule; every bad field is named.
            BriefFailed: The brief could not be made, or not now; the message says why, and whether it is tried again.
            ValueError: ``now`` is naive, or no user can have this id.
            Exception: What the storage raises.
        """
        return await self._operator.generate_now(_user(user_id), self._moment(now), resend=resend)

    async def regenerate(
        self, user_id: str, on: date | None = None, *, resend: bool = False, now: datetime | None = None
    ) -> bool:
        """Have a finished brief generated again by the next run, for the same content window; it replaces the old one.

        Args:
            user_id: Whose brief.
            on: The local date in the user's own zone; None is today there.
            resend: Mails the new one even if the old one was mailed.
            now: The moment that says what today is, aware; None is the present.

        Returns:
            False if there is no finished brief for that date; then nothing was changed.

        Raises:
            ValueError: ``now`` is naive, ``on`` is not a plain date, or no user can have this id.
        """
        return await self._operator.regenerate(_user(user_id), _plain_date(on), self._moment(now), resend=resend)

    async def retry(self, user_id: str, on: date | None = None, *, now: datetime | None = None) -> bool:
        """Have a brief, or else its mail, tried again if it failed, is unknown, was skipped or was cancelled.

        It runs whatever schedule, engagement and lateness say, unless the user has switched the brief off. A mail is
        sent with the same key as before, so a provider that honours keys does not deliver it twice.

        Args:
            user_id: Whose brief.
            on: The local date in the user's own zone; None is today there.
            now: The moment that says what today is, aware; None is the present.

        Returns:
            False if there is nothing to be tried again for that date; then nothing was changed.

        Raises:
            ValueError: ``now`` is naive, ``on`` is not a plain date, or no user can have this id.
        """
        return await self._operator.retry(_user(user_id), _plain_date(on), self._moment(now))

    async def retry_all(
        self,
        *,
        since: timedelta = _DAY,
        statuses: Sequence[JobStatus] = (JobStatus.FAILED,),
        now: datetime | None = None,
    ) -> int:
        """Have every brief and every mail that failed tried again; return how many.

        Args:
            since: How far back to look, by when they were to be delivered.
            statuses: Add ``UNKNOWN`` to send mails again that may already have left.
            now: The moment to look back from, aware; None is the present.

        Raises:
            ValueError: ``now`` is naive, or ``since`` is no length of time.
        """
        refuse(bad_spans({"since": since}))
        return await self._operator.retry_all(statuses, self._moment(now) - since)

    async def cancel(self, user_id: str, on: date | None = None, *, now: datetime | None = None) -> bool:
        """Withdraw a brief, or its mail, that has not been started; no plan takes it up again.

        Args:
            user_id: Whose brief.
            on: The local date in the user's own zone, which may be one that no plan has reached; None is today there.
            now: The moment that says what today is, aware; None is the present.

        Returns:
            False if there is nothing to withdraw: it is done, running, or not scheduled.

        Raises:
            InvalidSchedule: The date is not planned yet, and the preference makes no schedule.
            ValueError: ``now`` is naive, ``on`` is not a plain date, or no user can have this id.
        """
        return await self._operator.cancel(_user(user_id), _plain_date(on), self._moment(now))

    async def pause(self, now: datetime | None = None) -> bool:
        """Start no brief and no mail from now on, in any process, until ``resume``; running ones finish.

        Plans go on, and record what falls into the pause as skipped for that reason.

        Args:
            now: The moment that is recorded for the pause, aware; None is the present.

        Returns:
            False if it was already paused.

        Raises:
            ValueError: ``now`` is naive.
        """
        return await self._operator.pause(self._moment(now))

    async def resume(self, now: datetime | None = None) -> int | None:
        """End a pause; what it held back is caught up on as after an outage, by ``catch_up`` and ``max_lateness``.

        Args:
            now: The moment by which to judge what is too late, aware; None is the present.

        Returns:
            How many slots are queued again; None if nothing was paused.

        Raises:
            ValueError: ``now`` is naive.
        """
        return await self._operator.resume(self._moment(now))

    async def status(self, now: datetime | None = None, *, since: timedelta = _DAY) -> Status:
        """Report how all slots stand at one moment, in a few queries however many there are.

        Args:
            now: The moment, aware; None is the present.
            since: How far back to look at ended slots, by when they were to be delivered.

        Raises:
            ValueError: ``now`` is naive, or ``since`` is no length of time.
        """
        refuse(bad_spans({"since": since}))
        now = self._moment(now)
        return await self._operator.status(now, now - since)

    async def reconcile(self, now: datetime | None = None, *, last: datetime | None = None) -> Reconciled:
        """Put back or end the jobs of dead workers, and dispatch again those not started in time; run nothing.

        Every run does the same for the jobs that it comes across. With a dispatcher, ``serve`` does it all the time.

        Args:
            now: The moment by the wall clock, aware; None is the present.
            last: When this was last called, aware, for repeated calls: a late job is then dispatched only if its
                lateness has doubled since. With None, every late job is dispatched.

        Raises:
            ValueError: ``now`` or ``last`` is naive.
        """
        return await self._operator.reconcile(self._moment(now), None if last is None else _aware("last", last))

    async def prune(self, older_than: timedelta, *, now: datetime | None = None) -> int:
        """Erase ended slots, with briefs and mails, except each user's latest ones; return how many slots were erased.

        Args:
            older_than: The minimum time since they were to be delivered.
            now: The moment to count back from, aware; None is the present.

        Raises:
            ValueError: ``older_than`` is so short that a plan could make such a slot again; or ``now`` is naive.
        """
        return await self._operator.prune(older_than, self._moment(now))

    async def forget(self, user_id: str) -> int:
        """Erase everything the storage holds about a user, of every kind of brief; return how many rows were erased.

        Raises:
            ValueError: No user can have this id.
        """
        return await self._storage.forget(_user(user_id))

    def _moment(self, now: datetime | None) -> datetime:
        return self._worker.clock() if now is None else _aware("now", now)

    async def _generate(self, held: Held) -> tuple[Finish, Sequence[FollowUp]]:
        def report(progress: Progress) -> None:
            held.progress = progress
            tell(progress)

        tell = self._reporter(held.job, held.problems)
        cleared = cast("Cleared", held.cleared)  # only what the screen lets through comes here
        timezone = (cleared.preference and cleared.preference.timezone) or "UTC"
        brief = await self._builder.build(held.job, timezone=timezone, decision=cleared.decision, on_progress=report)
        if brief is None:
            return Finish(status=JobStatus.EMPTY), ()
        report(evolve(held.progress or Progress("saving"), step="saving"))
        return Finish(status=JobStatus.COMPLETED, brief=brief), [mail_job(held.job, brief)] if self._delivery else ()

    async def _deliver(self, held: Held) -> tuple[Finish, Sequence[FollowUp]]:
        delivery = cast("Delivery", self._delivery)  # this handler is wired only where there is one
        return await delivery.deliver(held.claim, lambda: held.record(Progress(SENDING))), ()

    def _is_unsettled(self, job: Job) -> bool:
        return self._delivery is not None and self._delivery.is_unsettled(job)

    def _reporter(self, job: Job, problems: list[Problem]) -> Callable[[Progress], None]:
        """Return a function that calls the host's hook and, if that fails, notes it in ``problems`` and goes on."""
        hook = self._on_progress

        def tell(progress: Progress) -> None:
            if hook is None:
                return
            try:
                hook(BriefProgress(job, progress))
            except Exception as error:
                _log.exception("the progress hook failed for %s", job.dedup_key)
                if len(problems) < KEPT_PROBLEMS:
                    problems.append(Problem(f"the progress hook failed: {error!r}", job.user_id))

        return tell


def _in_utc(clock: Callable[[], datetime]) -> Callable[[], datetime]:
    """Wrap a host's clock so that its answers are checked and converted to UTC."""
    return clock if clock is _utc_now else lambda: _aware("clock()", clock())


def _aware(name: str, instant: datetime) -> datetime:
    check_aware(name, instant)
    return instant.astimezone(UTC)


def _user(user_id: str) -> str:
    wrong = check_user_id(user_id)
    refuse(() if wrong is None else (BadValue("user_id", user_id, wrong),))
    return user_id


def _plain_date(on: object) -> date | None:
    if on is None:
        return None
    if not isinstance(on, date) or isinstance(on, datetime):
        raise ValueError(f"on={on!r}: must be a datetime.date without a time, or None")  # noqa: TRY004  # as with any
    if on.year not in _YEARS:
        raise ValueError(f"on={on!r}: must be in the years {_YEARS[0]} to {_YEARS[-1]}")
    return on


def _bad_ports(**given: object) -> Iterator[BadValue]:
    """Yield arguments that do not implement their port, so that they are reported now and not at the first brief."""
    for name, port in _PORTS.items():
        if given[name] is None and name in ("storage", "projects", "generator"):
            yield BadValue(name, None, f"must be a {port.__name__}; see fanout_briefs.ports")
        yield from bad_port(name, given[name], port)
    if given["mailer"] is not None and given["recipients"] is None:
        yield BadValue("recipients", None, "a mailer needs recipients, which say where mail goes")
    if given["preferences"] is None and getattr(given["storage"], "preferences", None) is None:
        kind = type(given["storage"]).__name__
        yield BadValue("preferences", None, f"{kind} keeps none of its own, so pass preferences=")


def _told_of(storage: Storage, carrier: Carrier) -> Storage:
    """Wrap the storage so that the carrier learns of pending jobs, unless it reports them in its own transactions."""
    if getattr(storage, "on_pending", None) is not None:
        return storage
    return cast("Storage", DispatchingStorage(storage, carrier))
