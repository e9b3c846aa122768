"""Explains, for any user and local date, what became of the brief and why. Every path ends with a code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias

from attrs import frozen

from fanout_briefs.delivery import mail_type
from fanout_briefs.eligibility import Eligibility, Refusal, invalid_fields, parse, preference_of
from fanout_briefs.errors import InvalidSchedule, UnknownUser
from fanout_briefs.model import (
    LIVE,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    SkipReason,
    Window,
    check_user_id,
    slot_key,
)
from fanout_briefs.ports import Preferences, Storage
from fanout_briefs.schedule import Schedule
from fanout_briefs.timing import CatchUp, Timing

__all__ = ["Code", "Explainer", "Explanation", "Stage"]

_LOOK_BACK = 7
"""How many days back to look for an earlier brief that is still to be generated."""

Code: TypeAlias = JobStatus | SkipReason
"""The closed list of answers: the status of the slot, or why there is nothing to send."""


@frozen
class Stage:
    """The verdict of one stage on the way from preference to mail."""

    name: str
    verdict: str


@frozen(kw_only=True)
class Explanation:
    """The answer for one user and local date.

    Attributes:
        occurrence: The slot's occurrence, or else the schedule's; None if the date has none.
        code: The answer.
        stages: The stages from preference to mail, as far as the brief got.
        job: The brief's slot, if there is one.
        mail: Its mail's slot, if there is one.
    """

    user_id: str
    on: date
    occurrence: Occurrence | None = None
    code: Code
    stages: Sequence[Stage] = ()
    job: Job | None = None
    mail: Job | None = None


@frozen
class Explainer:
    """Looks up the answer in the ledger, or works it out as the planner would."""

    name: str
    preferences: Preferences
    eligibility: Eligibility
    storage: Storage
    timing: Timing
    mails: bool

    async def explain(self, user_id: str, on: date | None, now: datetime) -> Explanation:
        """See ``Briefs.explain``."""
        wrong = check_user_id(user_id)
        if wrong is not None:
            stages = [Stage("preference", f"the id {wrong}")]
            return Explanation(user_id=user_id, on=on or now.date(), code=SkipReason.INVALID_USER_ID, stages=stages)
        preference = await preference_of(user_id, self.preferences)
        stages, schedule, refused = _read(preference)
        on = on or now.astimezone(schedule.zone if schedule else UTC).date()
        keys = [slot_key(kind, on, user_id) for kind in (self.name, mail_type(self.name))]
        earlier = [slot_key(self.name, on - timedelta(days=back), user_id) for back in range(_LOOK_BACK, 0, -1)]
        slots = await self.storage.find([*keys, *earlier])
        job, mail = map(slots.get, keys)
        if job is not None:
            before = [slot for key in earlier if (slot := slots.get(key)) is not None and slot.status in LIVE]
            code = await self._from_slots(job, mail, before, stages)
            return Explanation(
                user_id=user_id, on=on, occurrence=job.occurrence, code=code, stages=stages, job=job, mail=mail
            )
        occurrence = None if schedule is None else schedule.on(on)
        if refused is None:
            since = None if preference is None else preference.effective_from
            refused = await self._without_slot(user_id, schedule, occurrence, stages, since=since, now=now)
        return Explanation(user_id=user_id, on=on, occurrence=occurrence, code=refused, stages=stages)

    async def next_job(self, user_id: str, now: datetime) -> tuple[Job, str]:
        """Return the slot to preview, and the user's zone; see ``Briefs.preview``."""
        preference = await preference_of(user_id, self.preferences)
        if preference is None:
            raise UnknownUser(user_id)
        schedule, now = parse(preference), now.astimezone(UTC)
        occurrence, window = schedule.next_after(now), self.timing.window_until(now, schedule.previous_before(now))
        job = Job(type=self.name, user_id=user_id, occurrence=occurrence, run_at=window.end, window=window)
        return job, preference.timezone or "UTC"

    async def _from_slots(self, job: Job, mail: Job | None, before: Sequence[Job], stages: list[Stage]) -> Code:
        stages.append(Stage("slot", _describe(job)))
        if job.status is JobStatus.PENDING and before:
            first = before[0]
            stages.append(Stage("waits", f"for the brief of {first.occurrence.local_date}: {_describe(first)}"))
        for waiting in (job, mail):
            since = None if waiting is None else await self._paused_since(waiting)
            if since is not None:
                stages.append(Stage("paused", f"by the host since {_moment(since)}"))
                return SkipReason.PAUSED
        if job.status is not JobStatus.COMPLETED or not self.mails:
            return _code(job)
        if mail is None:
            stages.append(Stage("mail", "none was queued: the brief was saved without a mailer"))
            return job.status
        stages.append(Stage("mail", _describe(mail)))
        return _code(mail)

    async def _paused_since(self, job: Job) -> datetime | None:
        """Return since when a pause has kept this pending slot waiting; None if none does."""
        if job.status is not JobStatus.PENDING:
            return None
        return (await self.storage.paused([job.type])).get(job.type)

    async def _without_slot(
        self,
        user_id: str,
        schedule: Schedule | None,
        occurrence: Occurrence | None,
        stages: list[Stage],
        *,
        since: datetime | None,
        now: datetime,
    ) -> SkipReason:
        """Work out why the ledger has no slot."""
        if schedule is None or occurrence is None:
            stages.append(Stage("due", "the schedule has no occurrence on this date"))
            return SkipReason.NOT_SCHEDULED
        at = occurrence.deliver_at
        stages.append(Stage("due", f"to be delivered at {_moment(at)}"))
        mark = await self.storage.advance(self.name)
        refused = self._not_promised(at, since, mark, now) or self._missed(at, schedule, now)
        if refused is not None:
            code, verdict = refused
            stages.append(Stage("window", verdict))
            return code
        job = Job(type=self.name, user_id=user_id, occurrence=occurrence, run_at=at, window=Window(at, at))
        decision = (await self.eligibility.decide([job]))[job.dedup_key]
        if isinstance(decision, Refusal):
            stages.append(Stage("engagement", f"{decision.code}: {decision.detail}"))
            return decision.code
        stages.append(Stage("engagement", f"would be sent: {decision.reason}"))
        stages.append(Stage("slot", "no plan has recorded it yet"))
        return SkipReason.NOT_YET_DUE

    def _not_promised(
        self, at: datetime, since: datetime | None, mark: datetime | None, now: datetime
    ) -> tuple[SkipReason, str] | None:
        """Return why a plan made now would not look at this slot; None if it would."""
        first, reach = now - self.timing.look_back, self.timing.lead + self.timing.horizon
        if since is not None and at < since:
            return SkipReason.NOT_YET_EFFECTIVE, f"before the preference took effect at {since.isoformat()}"
        if mark is not None and at < mark:
            why = "they began later, the preference had no such slot, or it was pruned"
            return SkipReason.NOT_YET_EFFECTIVE, f"plans have passed it, up to {_moment(mark)}: {why}"
        if mark is None and at < first:
            return SkipReason.NOT_YET_EFFECTIVE, f"before {_moment(first)}, where the first plan would begin"
        if at >= now + reach:
            return SkipReason.NOT_YET_DUE, f"plans see it from {_moment(at - reach)} on"
        return None

    def _missed(self, at: datetime, schedule: Schedule, now: datetime) -> tuple[SkipReason, str] | None:
        """Return why a plan made now would not catch up on this slot; None if it might."""
        timing = self.timing
        if at < now - timing.max_lateness:
            return SkipReason.TOO_LATE, f"missed, more than {timing.max_lateness} ago"
        if at < now and timing.catch_up is CatchUp.SKIP:
            return SkipReason.MISSED, "missed, and what was missed is not caught up with"
        newer = schedule.previous_before(now).deliver_at
        if at < newer and timing.catch_up is CatchUp.LATEST:
            return SkipReason.NEWER_OCCURRENCE, f"missed, and so was the one of {_moment(newer)}, which is sent instead"
        return None


def _read(preference: Preference | None) -> tuple[list[Stage], Schedule | None, SkipReason | None]:
    """Return the first stage, the schedule if there is one, and why the preference leads to no brief."""
    if preference is None:
        return [Stage("preference", "none is known for this user")], None, SkipReason.NO_PREFERENCE
    schedule, problem = _schedule_of(preference)
    if not preference.is_active:
        return [Stage("preference", "switched off")], schedule, SkipReason.SWITCHED_OFF
    if schedule is None:
        return [Stage("preference", f"unusable: {problem}")], None, SkipReason.INVALID_SCHEDULE
    return [Stage("preference", f"{schedule.frequency} at {schedule.time} in {schedule.zone.key}")], schedule, None


def _schedule_of(preference: Preference) -> tuple[Schedule | None, str]:
    schedule, invalid = None, None
    try:
        schedule = parse(preference)
    except InvalidSchedule as error:
        invalid = error
    invalid = invalid_fields(invalid, preference.effective_from)
    return (schedule, "") if invalid is None else (None, str(invalid))


def _moment(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _code(job: Job) -> Code:
    return job.code or job.status


def _describe(job: Job) -> str:
    parts: list[str] = [job.status.value]
    parts += [str(extra) for extra in (job.code, job.reason, job.error) if extra]
    if job.status in LIVE:
        parts.append(f"starts at {_moment(job.run_at)}" if job.status is JobStatus.PENDING else "running")
    return ", ".join(parts) + f" (epoch {job.epoch}, attempts {job.attempts})"
