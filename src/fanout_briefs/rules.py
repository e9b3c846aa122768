"""State rules and argument checks for authors of storages, defined once for all storages.

Nothing here does I/O. Rules are data where possible, so that a storage can read them, generate SQL from them, or pass
them to a script. ``docs/slots.md`` has the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeAlias, cast

from attrs import evolve, frozen

from fanout_briefs.errors import BadValue, InvalidPreferences, StorageUnavailable
from fanout_briefs.model import (
    BRIEFED,
    ENDED,
    LIVE,
    Change,
    Demand,
    Enqueued,
    Finish,
    Job,
    JobStatus,
    Occurrence,
    Preference,
    ScheduleFields,
    SkipReason,
    Window,
    check_user_id,
)

__all__ = [
    "BRIEFED",
    "ENDED",
    "LIVE",
    "PAUSED",
    "RENEWABLE",
    "SOON",
    "TAKEN_UP_FROM",
    "TRANSITIONS",
    "TROUBLED",
    "TROUBLES",
    "Transition",
    "check_finish",
    "check_limit",
    "check_new",
    "enqueued",
    "fields_of",
    "is_storable",
    "normal",
    "not_open",
    "readable",
    "storable",
    "utc",
]

State: TypeAlias = tuple[JobStatus, SkipReason | None]

RENEWABLE: Final = (JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.FAILED, JobStatus.CANCELLED)
"""A follow-up in one of these is renewed by a later ``finish``."""

_HIGHEST_LIMIT: Final = 2**62
"""One more still fits into the integers of databases."""

_DONE: Final = (JobStatus.COMPLETED, JobStatus.EMPTY)


@frozen(kw_only=True)
class Transition:
    """What a ``Change`` does: which statuses it applies to, and what the slot becomes.

    A ``demand`` begins a new epoch, without the attempts, progress, reason and error of the old one.
    """

    applies_to: tuple[JobStatus, ...]
    to: JobStatus
    code: SkipReason | None = None
    demand: Demand | None = None


TRANSITIONS: Final = {
    Change.CANCEL: Transition(
        # Includes slots that a later plan might take up: cancelling means that no plan sends this date.
        applies_to=(JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.CANCELLED),
        to=JobStatus.CANCELLED,
        code=SkipReason.WITHDRAWN,
    ),
    Change.RETRY: Transition(
        applies_to=(JobStatus.FAILED, JobStatus.UNKNOWN, JobStatus.SKIPPED, JobStatus.CANCELLED),
        to=JobStatus.PENDING,
        demand=Demand.RUN,
    ),
    Change.REGENERATE: Transition(applies_to=_DONE, to=JobStatus.PENDING, demand=Demand.RUN),
    Change.RESEND: Transition(applies_to=_DONE, to=JobStatus.PENDING, demand=Demand.RESEND),
}

PAUSED: Final = (JobStatus.SKIPPED, JobStatus.CANCELLED)
"""A slot in one of these, with the code ``paused``, becomes pending when the pause ends, unless it is too late."""

TROUBLED: Final = (JobStatus.FAILED, JobStatus.UNKNOWN)
"""A slot in one of these is reported as a ``Trouble``."""

TROUBLES: Final = 20
"""How many kinds of trouble an overview reports."""

SOON: Final = timedelta(hours=1)
"""An overview counts slots due within this time separately from those due later."""


def _taken_up_from() -> Iterator[State]:
    # Derived from the model, which owns the rule; a table saves building a Job for every row.
    instant = datetime.min.replace(tzinfo=UTC)
    probe = Job(
        type="probe",
        user_id="probe",
        occurrence=Occurrence(local_date=date.min, deliver_at=instant),
        run_at=instant,
        window=Window(start=instant, end=instant),
    )
    for status in JobStatus:
        for code in (None, *SkipReason):
            if evolve(probe, status=status, code=code).can_be_taken_up:
                yield status, code


TAKEN_UP_FROM: Final = frozenset(_taken_up_from())
"""A slot in one of these is taken up by a plan."""


def enqueued(job: Job, state: State | None, *, paused: bool) -> Enqueued:
    """Return what becomes of a new job.

    Args:
        job: The job to enqueue.
        state: The status and code of its existing slot; None if there is none.
        paused: Whether its type is paused.
    """
    wants, demanded = job.status is JobStatus.PENDING, job.demand is not None
    if state is not None:
        free = state in TAKEN_UP_FROM or (demanded and state[0] != JobStatus.PROCESSING)
        if not wants or not free:
            return Enqueued.DUPLICATE
    if paused and wants and not demanded:
        return Enqueued.PAUSED
    return Enqueued.CREATED if state is None else Enqueued.TAKEN_UP


def utc(instant: datetime) -> datetime:
    """Return the same instant in UTC, so that neither fold nor time zone affects comparisons."""
    if instant.tzinfo is UTC:
        return instant
    if instant.utcoffset() is None:
        raise ValueError(f"{instant!r}: must be aware, give it a tzinfo such as datetime.UTC")
    return instant.astimezone(UTC)


def is_storable(text: str) -> bool:
    """Whether every database can store this text: it contains neither NUL nor lone surrogates."""
    return "\0" not in text and (text.isascii() or not any(0xD800 <= ord(char) < 0xE000 for char in text))


def readable(text: str | None) -> str | None:
    """Return a storable form of a text for people: errors may contain lone surrogates, for example in file names."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def normal(job: Job) -> Job:
    """Return the job as it will be read back: instants in UTC, texts without lone surrogates."""
    occurrence, window = job.occurrence, job.window
    return evolve(
        job,
        occurrence=Occurrence(local_date=occurrence.local_date, deliver_at=utc(occurrence.deliver_at)),
        run_at=utc(job.run_at),
        window=Window(start=utc(window.start), end=utc(window.end)),
        reason=readable(job.reason),
        error=readable(job.error),
    )


def check_limit(limit: int) -> None:
    """Refuse what is no limit; SQLite would read a negative one as none."""
    if not isinstance(cast("object", limit), int) or not 1 <= limit <= _HIGHEST_LIMIT:
        raise ValueError(f"limit={limit!r}: must be an integer of at least 1, and at most {_HIGHEST_LIMIT}")


def check_new(job: Job) -> None:
    """Refuse a job that is not a new slot, or whose key a storage could not distinguish from others."""
    if job.status is not JobStatus.PENDING and (job.status is not JobStatus.SKIPPED or job.code is None):
        raise ValueError(
            f"{job.dedup_key!r}: is {job.status} with code {job.code}; new slots are pending, or skipped with a code"
        )
    job.dedup_key.encode()
    if "\0" in job.dedup_key:
        raise ValueError(f"{job.dedup_key!r}: must hold no NUL character")


def check_finish(finish: Finish) -> None:
    """Refuse a finish whose status does not end a job."""
    if finish.status in LIVE:
        raise ValueError(f"status={finish.status}: does not end a job; retry() and release() put it back")


def not_open(place: str) -> StorageUnavailable:
    """Return the error for using a storage outside its ``async with``."""
    return StorageUnavailable(
        f"{place} is not open: use it inside `async with storage:`, or inside `async with briefs:`"
    )


def storable(preferences: Iterable[Preference]) -> Sequence[Preference]:
    """Return preferences as they will be read back: days as a tuple, instants in UTC.

    Raises:
        InvalidPreferences: Some cannot be stored. Whether they form a valid schedule is not checked.
    """
    given = list(preferences)
    problems = [problem for preference in given for problem in _problems(preference)]
    seen: set[str] = set()
    for user_id in (preference.user_id for preference in given if check_user_id(preference.user_id) is None):
        if user_id in seen:
            problems.append(BadValue("user_id", user_id, "appears twice in this batch; give each user once"))
        seen.add(user_id)
    if problems:
        raise InvalidPreferences(problems)
    return [
        evolve(
            preference,
            days=None if preference.days is None else tuple(preference.days),
            effective_from=None if preference.effective_from is None else utc(preference.effective_from),
        )
        for preference in given
    ]


def fields_of(preference: Preference) -> ScheduleFields:
    """Return the schedule fields of a preference."""
    return ScheduleFields(
        preference.frequency, preference.time_of_day, preference.timezone, preference.day_of_week, preference.days
    )


def _problems(preference: Preference) -> Iterator[BadValue]:
    owner = preference.user_id if check_user_id(preference.user_id) is None else None
    for name, check in _CHECKS.items():
        value = getattr(preference, name)
        if (reason := check(value)) is not None:
            yield BadValue(name, value, reason, owner)


def _text_problem(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"must be a string or None, not {type(value).__name__}"
    if not is_storable(value):
        return "must hold neither NUL nor lone surrogates"
    return None


def _weekday_problem(value: object) -> str | None:
    return None if value is None else _integer_problem(value)


def _integer_problem(value: object) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be an integer, not {type(value).__name__}"
    return None if -(2**63) <= value < 2**63 else "must fit into 64 bits"


def _days_problem(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        return f"must be a sequence of integers or None, not {type(value).__name__}"
    reasons = map(_integer_problem, cast("Sequence[object]", value))
    return next((f"each {reason}" for reason in reasons if reason is not None), None)


def _flag_problem(value: object) -> str | None:
    return None if isinstance(value, bool) else f"must be True or False, not {type(value).__name__}"


def _instant_problem(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        return f"must be a datetime or None, not {type(value).__name__}"
    if value.utcoffset() is None:
        return "must be aware, give it a tzinfo such as datetime.UTC"
    try:
        utc(value)
    except OverflowError:
        return "must lie between the years 1 and 9999 in UTC"
    return None


_CHECKS: Final[Mapping[str, Callable[[object], str | None]]] = {
    "user_id": check_user_id,
    "frequency": _text_problem,
    "time_of_day": _text_problem,
    "timezone": _text_problem,
    "day_of_week": _weekday_problem,
    "days": _days_problem,
    "is_active": _flag_problem,
    "effective_from": _instant_problem,
}
