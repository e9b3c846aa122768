"""The values that pass between the stages: frozen, compared by content, without behaviour of their own.

Instants are aware datetimes; a naive one is refused when the value is created. Local dates belong to the zone of the
user's own schedule.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from attrs import Attribute, Factory, define, field, frozen, setters
from attrs.validators import optional

if TYPE_CHECKING:
    from attrs import frozen as frozen_by_convention
else:
    # Frozen for type checkers only. A plan creates some of these for every user, and a frozen ``__init__`` takes twice
    # as long.
    frozen_by_convention = partial(define, unsafe_hash=True, on_setattr=setters.NO_OP)

__all__ = [
    "BRIEFED",
    "ENDED",
    "LIVE",
    "Activity",
    "Brief",
    "Change",
    "Claim",
    "Claims",
    "Demand",
    "EngagementDecision",
    "Enqueued",
    "Finish",
    "FollowUp",
    "Html",
    "Job",
    "JobRef",
    "JobStatus",
    "Mail",
    "Occurrence",
    "Overview",
    "Page",
    "Preference",
    "Problem",
    "Progress",
    "Project",
    "ProjectBrief",
    "Receipt",
    "Recipient",
    "Rendered",
    "ScheduleFields",
    "Scheduled",
    "Section",
    "SectionRequest",
    "SkipReason",
    "Slot",
    "Standing",
    "Trouble",
    "Window",
    "check_aware",
    "check_user_id",
    "frozen_by_convention",
    "slot_key",
]

KEPT_PROBLEMS = 100
"""How many problems a report keeps; its counts include all of them."""

_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")
_SURROGATE = re.compile("[\\ud800-\\udfff]")
_JOB_NAMESPACE = uuid.UUID("4f0c2c5e-6f0a-5f57-9d6a-6c1f2b0f7f01")


def _aware(_: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, datetime):
        raise TypeError(f"{attribute.name}={value!r}: must be a datetime")
    if value.tzinfo is not UTC:
        check_aware(attribute.name, value)


def _aware_or_none(instance: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None:
        _aware(instance, attribute, value)


def _text(_: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a string, not {type(value).__name__}")


def _markup(_: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, Html):
        raise TypeError(
            f"{attribute.name} must be Html, not {type(value).__name__}: wrap markup you vouch for, Html(...)"
        )


class JobStatus(enum.StrEnum):
    """Where a slot of the ledger stands."""

    PENDING = "pending"
    """Waits for its time."""
    PROCESSING = "processing"
    """A worker holds it under a lease."""
    COMPLETED = "completed"
    """Its brief is saved, or its mail was accepted."""
    EMPTY = "empty"
    """There was nothing to say: no projects, or nothing new in any."""
    SKIPPED = "skipped"
    """Not sent, for the reason in ``code``. A later plan may take up the slot again."""
    CANCELLED = "cancelled"
    """Planned, then withdrawn for the reason in ``code``."""
    FAILED = "failed"
    """Attempts are used up, or the failure is permanent; ``error`` is the last one."""
    UNKNOWN = "unknown"
    """The mailer was called and never answered, so the mail may or may not have left."""


LIVE: Final = (JobStatus.PENDING, JobStatus.PROCESSING)
"""Statuses of slots that have not ended; later slots of the same user and type wait for them."""

ENDED: Final = tuple(status for status in JobStatus if status not in LIVE)
"""Statuses of slots that have ended, and may be erased when they are old."""

BRIEFED: Final = (*LIVE, JobStatus.COMPLETED)
"""Statuses of slots that count as a brief that the user has or will have."""


class Demand(enum.StrEnum):
    """What a person asked for. The slot then runs whatever schedule, engagement and lateness say.

    Only users who have switched the brief off get none.
    """

    RUN = "run"
    """Run it. A mail that has already gone out is not sent again."""
    RESEND = "resend"
    """Run it, and mail it again."""


class SkipReason(enum.StrEnum):
    """Why a user gets no brief for a date: the closed list of answers."""

    NO_PREFERENCE = "no_preference"
    """No preference is known for this user."""
    SWITCHED_OFF = "switched_off"
    """The preference is not active."""
    INVALID_USER_ID = "invalid_user_id"
    """The id is not a string, empty, longer than 255 characters, or contains control characters or lone surrogates."""
    INVALID_SCHEDULE = "invalid_schedule"
    """The preference's fields do not make a schedule."""
    DUPLICATE_USER = "duplicate_user"
    """The page holds a second preference of the same user; the first counts."""
    NOT_SCHEDULED = "not_scheduled"
    """The schedule has no occurrence on that local date."""
    NOT_YET_EFFECTIVE = "not_yet_effective"
    """The occurrence is before ``effective_from``, or plans had passed its time before the preference included it."""
    NOT_YET_DUE = "not_yet_due"
    """The occurrence is beyond the planning horizon, or no plan has run since it came within it."""
    TOO_LATE = "too_late"
    """It was missed, by more than ``max_lateness``."""
    MISSED = "missed"
    """It was missed, and the catch-up policy is ``skip``."""
    NEWER_OCCURRENCE = "newer_occurrence"
    """It was missed, and the catch-up policy ``latest`` sends a later one."""
    NEARBY_JOB = "nearby_job"
    """Another live job of the user is within the planner's ``tolerance``."""
    ENGAGEMENT = "engagement"
    """The engagement policy decided against sending; its own word is in ``reason``."""
    ENGAGEMENT_UNAVAILABLE = "engagement_unavailable"
    """The user's activity could not be read. No verdict: the next plan asks again."""
    STORAGE_UNAVAILABLE = "storage_unavailable"
    """The ledger could not be read or written. No verdict: the next plan tries again."""
    SUPERSEDED = "superseded"
    """The preference changed after planning, so the slot no longer matches it."""
    PAUSED = "paused"
    """The host had paused this type of job."""
    WITHDRAWN = "withdrawn"
    """Cancelled by the host."""
    UNREACHABLE = "unreachable"
    """No recipient is known for the mail."""
    OPTED_OUT = "opted_out"
    """The recipient has opted out of mail."""


@frozen
class Occurrence:
    """One slot of a schedule.

    Attributes:
        local_date: The nominal date in the schedule's zone; it names the slot for good.
        deliver_at: When the brief is to arrive, in UTC.
    """

    local_date: date
    deliver_at: datetime = field(validator=_aware)


@frozen
class Window:
    """The time that a brief covers: after ``start``, up to and including ``end``. Both are aware."""

    start: datetime = field(validator=_aware)
    end: datetime = field(validator=_aware)


@frozen_by_convention(kw_only=True)
class Preference:
    """Who wants a brief, and when: one row of the host's preferences, with its fields as they are stored.

    Nothing is checked here, so that one bad row never keeps a page from being read. ``Schedule.parse`` and the planner
    check the fields and name what is wrong. None means the default.

    Attributes:
        user_id: 1 to 255 characters without control characters and lone surrogates, compared exactly.
        frequency: ``daily`` (default), ``weekdays``, ``weekly``, ``custom`` or ``monthly``.
        time_of_day: Wall-clock time ``HH:MM[:SS]`` in ``timezone``; default 09:00.
        timezone: An IANA name; default UTC.
        day_of_week: For ``weekly``: 0 = Sunday to 6 = Saturday; default 1, Monday.
        days: For ``custom`` weekdays 0 = Sunday to 6; for ``monthly`` days of the month 1 to 31.
        is_active: False while the user has switched the brief off.
        effective_from: Aware. Occurrences before it were never promised, so they are not missed.
    """

    user_id: str
    frequency: str | None = None
    time_of_day: str | None = None
    timezone: str | None = None
    day_of_week: int | None = None
    days: Sequence[int] | None = None
    is_active: bool = True
    effective_from: datetime | None = None


@frozen
class ScheduleFields:
    """The schedule fields of a preference, as in ``Preference``; many users share the same ones."""

    frequency: str | None = None
    time_of_day: str | None = None
    timezone: str | None = None
    day_of_week: int | None = None
    days: Sequence[int] | None = None


@frozen_by_convention
class Scheduled:
    """A user who wants a brief, read by schedule.

    Attributes:
        schedule: The id of the schedule fields; see ``ports.ScheduleIndex``.
        effective_from: As in ``Preference``.
    """

    user_id: str
    schedule: str
    effective_from: datetime | None = None


_T_co = TypeVar("_T_co", covariant=True)


@frozen
class Page(Generic[_T_co]):
    """Some rows, and the cursor for the next page; None if this is the last page."""

    items: Sequence[_T_co]
    next_cursor: str | None = None


@frozen_by_convention
class Activity:
    """What an engagement policy decides on. Instants are aware; None means never.

    Attributes:
        last_visit: When the user was last seen by the host.
        last_brief: ``deliver_at`` of the user's latest brief before the one decided on, planned ones included.
    """

    user_id: str
    last_visit: datetime | None = field(default=None, validator=_aware_or_none)
    last_brief: datetime | None = field(default=None, validator=_aware_or_none)


@frozen_by_convention
class EngagementDecision:
    """An engagement policy's decision on one occurrence.

    Attributes:
        send: Whether to make the brief.
        is_reengagement: Whether it is a reminder to an inactive user.
        reason: The policy's own word for the rule that decided.
        days_inactive: Whole 24-hour periods since the last visit; 0 if there was none.
    """

    send: bool
    is_reengagement: bool
    reason: str = field(validator=_text)
    days_inactive: int = 0


def slot_key(type: str, local_date: date, user_id: str) -> str:  # noqa: A002  # as of a job
    """Return the key of a slot; there is one row per key, for good."""
    return f"{type}:{local_date.isoformat()}:{user_id}"


class Slot(Protocol):
    """What is known of a slot before it is a job; every job is also a slot."""

    @property
    def type(self) -> str:
        """The job type."""
        ...

    @property
    def user_id(self) -> str:
        """The user that the slot belongs to."""
        ...

    @property
    def occurrence(self) -> Occurrence:
        """The slot's date, and when it is to be delivered."""
        ...

    @property
    def dedup_key(self) -> str:
        """The slot's unique key."""
        ...


@frozen_by_convention
class Standing:
    """How a slot stands, without the rest of its job; fields as in ``Job``. Slots that stand alike may share one.

    Attributes:
        deliver_at: When the slot is to be delivered.
    """

    status: JobStatus
    deliver_at: datetime
    code: SkipReason | None = None
    reason: str | None = None

    @classmethod
    def of(cls, job: Job) -> Standing:
        """Return how this job stands."""
        return cls(job.status, job.occurrence.deliver_at, job.code, job.reason)

    @property
    def can_be_taken_up(self) -> bool:
        """The same as ``Job.can_be_taken_up``."""
        return _can_be_taken_up(self.status, self.code)


def _can_be_taken_up(status: JobStatus, code: SkipReason | None) -> bool:
    if status is JobStatus.SKIPPED:
        return True
    return status is JobStatus.CANCELLED and code in {SkipReason.SUPERSEDED, SkipReason.PAUSED}


@frozen_by_convention(kw_only=True)
class Job:
    """One slot of the ledger: a brief to make, or a mail to send, for one user and local date.

    Attributes:
        type: The brief's name, or the type of its mail job. No colon.
        occurrence: The slot's date, and when it is to be delivered.
        run_at: The earliest moment to start, in UTC.
        window: What the content covers. At the first claim, a storage sets ``start`` to the end of the user's last
            saved brief, and not again unless the slot is planned anew before a brief was saved from it.
        code: Why the slot is skipped or cancelled.
        reason: The engagement policy's own word, if it decided.
        error: The last failure, for people to read.
        epoch: Raised by one each time an ended slot is taken up again.
        attempts: How often the job was claimed in this epoch, not counting claims that were released and attempts that
            only asked to be retried later.
        progress: The last recorded progress, if there is any.
        demand: What a person asked for; None if only the schedule did.
        dedup_key: ``{type}:{local_date}:{user_id}``, unique over all states.
    """

    type: str
    user_id: str
    occurrence: Occurrence
    run_at: datetime = field(validator=_aware)
    window: Window
    status: JobStatus = JobStatus.PENDING
    code: SkipReason | None = None
    reason: str | None = None
    error: str | None = None
    epoch: int = 1
    attempts: int = 0
    progress: Progress | None = None
    demand: Demand | None = None
    dedup_key: str = field(
        init=False,
        default=Factory(lambda self: slot_key(self.type, self.occurrence.local_date, self.user_id), takes_self=True),
    )

    @property
    def id(self) -> uuid.UUID:
        """An id derived from ``dedup_key``: always the same for the same key."""
        return uuid.uuid5(_JOB_NAMESPACE, self.dedup_key)

    @property
    def can_be_taken_up(self) -> bool:
        """Whether a planner may plan this slot again: it is skipped, or cancelled as superseded or paused."""
        return _can_be_taken_up(self.status, self.code)


@frozen
class JobRef:
    """What an engine carries: enough to claim the job in the ledger, but not to run it.

    Attributes:
        again: Whether the job is dispatched again, after it was released or lost on the way. If the engine has
            priorities, it goes ahead of others of its type.
    """

    dedup_key: str
    type: str
    run_at: datetime = field(validator=_aware)
    again: bool = False

    @classmethod
    def of(cls, job: Job, *, again: bool = False) -> JobRef:
        """Return the reference of a job, for its ``run_at``."""
        return cls(job.dedup_key, job.type, job.run_at, again)

    @property
    def id(self) -> str:
        """One id per slot and time: messages with the same id in an engine are the same message."""
        return f"{self.dedup_key}@{self.run_at.astimezone(UTC).isoformat()}"


class Enqueued(enum.StrEnum):
    """What became of one job given to ``enqueue``."""

    CREATED = "created"
    """The slot is new."""
    TAKEN_UP = "taken_up"
    """The slot existed and was taken up: it is pending again, in a new epoch."""
    DUPLICATE = "duplicate"
    """The slot exists; nothing was changed."""
    PAUSED = "paused"
    """The type is paused: the slot is recorded as skipped for that reason, until it is resumed."""


class Change(enum.StrEnum):
    """What a person may do to existing slots. Slots in other states stay as they are."""

    CANCEL = "cancel"
    """pending, skipped or cancelled becomes cancelled (withdrawn), and no plan takes it up again."""
    RETRY = "retry"
    """failed, unknown, skipped or cancelled becomes pending, the epoch raised, on demand."""
    REGENERATE = "regenerate"
    """completed or empty becomes pending, the epoch raised, on demand; the window stays."""
    RESEND = "resend"
    """As REGENERATE, and the mail is to go out again."""


@frozen
class Problem:
    """Something a person should look at: what happened, to which user, and the code."""

    message: str
    user_id: str | None = None
    code: SkipReason | None = None


@frozen
class Progress:
    """How far a brief has come. It counts completions, so it never goes back within an attempt.

    Attributes:
        step: ``starting``, ``projects``, ``sections``, ``composing``, ``saving`` or, for a mail, ``sending``.
        completed: Sections settled so far, failed ones included.
        total: Sections in all; 0 until the projects are known.
        failed: Sections that failed.
        alone: Whether the worker runs nothing else meanwhile, as for a job whose workers keep dying.
    """

    step: str
    completed: int = 0
    total: int = 0
    failed: int = 0
    alone: bool = False


@frozen(kw_only=True)
class Claim:
    """The right to run one job until ``until``. Every later write shows ``token``; a stale one changes nothing.

    Attributes:
        token: The fencing token, higher than any given for this job before.
        until: When the lease ends unless a heartbeat extends it, by the clock of the claiming process.
        payload: What the follow-up was enqueued with: the rendered mail.
        progress: How far the holder has come, for ``heartbeat`` to store; None keeps what is stored.
    """

    job: Job
    token: int
    until: datetime = field(validator=_aware)
    payload: bytes | None = None
    progress: Progress | None = None


@frozen
class Claims:
    """The answer to one call of ``claim``.

    Attributes:
        claims: The jobs that now belong to the caller.
        held_until: When the first lease ends among due jobs that were already held; None if none was.
    """

    claims: Sequence[Claim]
    held_until: datetime | None = None


@frozen
class Trouble:
    """Slots that ended badly in the same way.

    Attributes:
        status: Failed or unknown.
        error: What they failed with.
        count: How many slots.
        latest: When the latest of them was to be delivered.
    """

    status: JobStatus
    error: str | None
    count: int
    latest: datetime


@frozen(kw_only=True)
class Overview:
    """How the slots of one type stand at a moment.

    Attributes:
        planned_at: The moment that the last finished plan was made for; None if there is none.
        mark: The instant up to which planning is complete.
        paused_since: When the type was paused; None while it is not.
        running: Slots that a worker holds under a lease.
        abandoned: Slots whose lease ended while a worker held them.
        overdue: Slots that are due and that no worker has started.
        oldest: Since when the first of the overdue and abandoned slots has been waiting.
        soon: Slots that will be due within the hour.
        later: Slots that will be due after that.
        ended: Slots to be delivered within the span looked at, by how they ended.
        codes: The skipped and cancelled ones among them, by reason.
        troubles: The failed and unknown ones among them, by error, the most frequent first; at most twenty.
    """

    planned_at: datetime | None = None
    mark: datetime | None = None
    paused_since: datetime | None = None
    running: int = 0
    abandoned: int = 0
    overdue: int = 0
    oldest: datetime | None = None
    soon: int = 0
    later: int = 0
    ended: Mapping[JobStatus, int]
    codes: Mapping[SkipReason, int]
    troubles: Sequence[Trouble] = ()


@frozen
class Project:
    """One project of a user, which may become one section.

    Attributes:
        id: Unique among the user's projects.
        name: A name for people; the section's title unless the generator gives another.
        data: Anything that your generator needs; never stored.
    """

    id: str
    name: str
    data: Any = None


class Html(str):
    """Trusted markup. Plain strings are escaped; only this type is not."""

    __slots__ = ()


@frozen
class ProjectBrief:
    """What a generator made for one project.

    Attributes:
        text: The section in plain text; required, for mail clients that show no HTML.
        html: The section as markup; None shows ``text``, escaped.
        title: The section's title; None means the project's name.
    """

    text: str = field(validator=_text)
    html: Html | None = field(default=None, validator=optional(_markup))
    title: str | None = None


@frozen(kw_only=True)
class SectionRequest:
    """A request to a generator, for one section of one brief.

    Attributes:
        window: What the brief covers; the same for every section, attempt and regeneration.
        occurrence: The brief's own date and time of delivery.
        timezone: The user's IANA zone.
        decision: The engagement policy's decision, if there is one; a re-engagement may want another tone.
    """

    user_id: str
    project: Project
    window: Window
    occurrence: Occurrence
    timezone: str
    decision: EngagementDecision | None = None


@frozen(kw_only=True)
class Section:
    """One section of a saved brief: written, or failed with ``error``."""

    project_id: str
    title: str
    text: str = ""
    html: Html | None = None
    error: str | None = None


@frozen
class Rendered:
    """A brief as its reader sees it. ``html`` is a whole document. Values that are not strings raise ``TypeError``."""

    subject: str = field(validator=_text)
    text: str = field(validator=_text)
    html: str = field(validator=_text)


def _sections(given: Iterable[Section]) -> Sequence[Section]:
    return tuple(given)


@frozen(kw_only=True)
class Brief:
    """A finished brief. Sections are in the order of the user's projects; projects with nothing new have none."""

    type: str
    user_id: str
    occurrence: Occurrence
    window: Window
    epoch: int
    sections: Sequence[Section] = field(converter=_sections)  # A tuple, so that briefs are comparable and hashable.
    rendered: Rendered

    @property
    def failed(self) -> Sequence[Section]:
        """The sections that could not be made."""
        return tuple(section for section in self.sections if section.error is not None)


@frozen
class Recipient:
    """Where a user's mail goes, as known at the moment of sending.

    Attributes:
        locale: A BCP 47 tag, for mailers that use it.
        opted_out: True stops the mail, even one that is already queued.
    """

    address: str
    name: str | None = None
    locale: str | None = None
    opted_out: bool = False


@frozen
class Mail:
    """One mail to one recipient, rendered when the brief was saved."""

    recipient: Recipient
    rendered: Rendered
    user_id: str
    occurrence: Occurrence


@frozen
class Receipt:
    """A mailer's confirmation that it has accepted a mail.

    Attributes:
        reference: What identifies the mail there, such as a path or a provider's message id.
    """

    reference: str


@frozen
class FollowUp:
    """A job that ``finish`` enqueues in its own transaction, with the payload that it needs to run."""

    job: Job
    payload: bytes


@frozen(kw_only=True)
class Finish:
    """How a claimed job ends.

    Attributes:
        status: Any but pending and processing.
        brief: The brief to save; replaces that of an earlier epoch.
        reason: The policy's own word, or the mailer's reference.
    """

    status: JobStatus
    brief: Brief | None = None
    code: SkipReason | None = None
    reason: str | None = None
    error: str | None = None


def check_aware(name: str, instant: object) -> None:
    """Check that a value is an aware datetime.

    Raises:
        ValueError: It is naive or not a datetime; the message names it.
    """
    if not isinstance(instant, datetime):
        raise ValueError(f"{name}={instant!r}: must be an aware datetime")  # noqa: TRY004  # as with any bad value
    if instant.tzinfo is not UTC and instant.utcoffset() is None:
        raise ValueError(f"{name}={instant!r}: must be aware, give it a tzinfo such as datetime.UTC")


def check_user_id(user_id: object) -> str | None:
    """Return what is wrong with a user id, as a clause; None if it is valid."""
    if not isinstance(user_id, str):
        return f"must be a string, not {type(user_id).__name__}"
    if not user_id:
        return "must not be empty"
    if len(user_id) > 255:
        return f"must be at most 255 characters, it has {len(user_id)}"
    if user_id.isascii() and user_id.isprintable():
        return None  # True of nearly every id, and faster than searching.
    return _wrong_character(user_id)


def _wrong_character(user_id: str) -> str | None:
    if _CONTROL.search(user_id):
        return "must hold no control characters"
    if _SURROGATE.search(user_id):
        return "must hold no lone surrogates"
    return None
