"""What the library and an engine that carries its jobs tell each other: frozen values, without behaviour.

The ledger is the truth. An engine, such as a task queue, only wakes workers: it may deliver a message twice, late, or
not at all, and nothing is run twice to effect or lost by that.
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
        transactional: It can hand over jobs in the very transaction of a PostgreSQL ledger; see
            ``PostgresStorage(on_pending=...)``.
        reports_duplicates: A job that still waits in the engine for the same time is not handed over again.
        schedules: How far ahead of its time a job may be handed over; the engine holds it back until then. Zero: not
            before it is due. What comes earlier is handed over by a later reconciling.
        cancels: It can take jobs back, and so has the method ``cancel``.
    """

    transactional: bool = False
    reports_duplicates: bool = False
    schedules: timedelta = field(default=timedelta.max, validator=[instance_of(timedelta), ge(timedelta(0))])
    cancels: bool = False


class JobOutcome(enum.StrEnum):
    """What came of handing one job to ``Briefs.run_job``: the closed list of answers."""

    RAN = "ran"
    """It was run, and its end, or when to try again, is in the ledger."""
    LOST = "lost"
    """It was run, but its lease ended before; whoever holds it now goes on, and nothing was written."""
    RELEASED = "released"
    """This worker is stopping, so the job was given back."""
    TAKEN = "taken"
    """Another worker holds it."""
    DONE = "done"
    """It has ended already."""
    CANCELLED = "cancelled"
    """It was withdrawn, or was skipped, which a plan may do again."""
    PAUSED = "paused"
    """Jobs of its type are paused; resuming hands them over again."""
    BLOCKED = "blocked"
    """An earlier slot of the same user has to end first."""
    NOT_DUE = "not_due"
    """Its time has not come."""
    MISSING = "missing"
    """The ledger does not know it: it was forgotten or pruned."""


@frozen(kw_only=True)
class JobRun:
    """What came of handing one job to ``Briefs.run_job``.

    Attributes:
        key: The job's ``dedup_key``.
        outcome: Whether it was run, or why not.
        status: Where its slot stands now; None where that is not known, or somebody else's to say.
        again_at: When to hand it over again, aware. None where nobody needs to: it has ended, or the ledger hands it
            over anew.
        detail: For a person: the error, or the policy's word.
    """

    key: str
    outcome: JobOutcome
    status: JobStatus | None = None
    again_at: datetime | None = None
    detail: str | None = None
