"""What the library and an engine that carries its jobs tell each other: frozen values without behaviour.

The ledger is the truth. An engine, such as a task queue, only wakes workers. It may deliver a message twice, late or
not at all: no job is lost and none takes effect twice because of that.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta

from attrs import field, frozen
from attrs.validators import ge, instance_of

from fanout_briefs.model import JobStatus

__all__ = ["DispatcherPowers", "JobOutcome", "JobRun"]


@frozen(kw_only=True)
class DispatcherPowers:
    """What a dispatcher can do beyond handing over jobs: declared, never guessed.

    Attributes:
        transactional: It can hand over jobs in the transactions of a PostgreSQL ledger; see
            ``PostgresStorage(on_pending=...)``.
        reports_duplicates: A job that still waits in the engine for the same time is not handed over again.
        schedules: How far ahead of its time a job may be handed over; the engine holds it back until it is due. Zero
            means not before it is due. Jobs further ahead are handed over by a later reconciling.
        cancels: It can take jobs back, and has the method ``cancel``.
    """

    transactional: bool = False
    reports_duplicates: bool = False
    schedules: timedelta = field(default=timedelta.max, validator=[instance_of(timedelta), ge(timedelta(0))])
    cancels: bool = False


class JobOutcome(enum.StrEnum):
    """The possible outcomes of ``Briefs.run_job``."""

    RAN = "ran"
    """The job ran; the ledger records how it ended, or when to try again."""
    LOST = "lost"
    """The job ran, but its lease ended too early, and nothing was written; its current holder goes on."""
    RELEASED = "released"
    """This worker is stopping, so the job was given back."""
    TAKEN = "taken"
    """Another worker holds it."""
    DONE = "done"
    """The job has already ended."""
    CANCELLED = "cancelled"
    """The job was cancelled or skipped; a later plan may take it up again if the code allows that."""
    PAUSED = "paused"
    """Jobs of this type are paused; resuming hands them over again."""
    BLOCKED = "blocked"
    """An earlier slot of the same user has to end first."""
    NOT_DUE = "not_due"
    """Its time has not come."""
    MISSING = "missing"
    """The ledger does not know it: it was forgotten or pruned."""


@frozen(kw_only=True)
class JobRun:
    """The result of ``Briefs.run_job``.

    Attributes:
        key: The job's ``dedup_key``.
        outcome: Whether the job ran, or why not.
        status: The current status of its slot; None if it is unknown or depends on another worker.
        again_at: When to hand the job over again, aware. None if that is not needed: the job has ended, or the ledger
            hands it over again.
        detail: For a person: the error, or the reason.
    """

    key: str
    outcome: JobOutcome
    status: JobStatus | None = None
    again_at: datetime | None = None
    detail: str | None = None
