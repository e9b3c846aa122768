"""What a worker did: each job that ended, and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import define, field, frozen

from fanout_briefs.model import KEPT_PROBLEMS, Brief, Job, JobStatus, Problem

__all__ = ["Ended", "Reconciled", "RunReport", "RunTally"]

_REPORTED = (JobStatus.PENDING, JobStatus.FAILED, JobStatus.UNKNOWN)


@frozen(kw_only=True)
class Ended:
    """The outcome of one claimed job.

    Attributes:
        status: How the slot ended; pending if it will be tried again, None if the claim was lost.
        brief: The saved brief, if any.
        detail: The reason, or the last error.
        problems: What else went wrong without costing anything, such as a hook that raised.
    """

    job: Job
    status: JobStatus | None
    brief: Brief | None = None
    detail: str | None = None
    problems: Sequence[Problem] = ()


@frozen(kw_only=True)
class RunReport:
    """What one run did.

    Attributes:
        due_by: The moment up to which jobs were due; for ``serve``, the end of the time that the report covers.
        briefs: Brief jobs by how they ended.
        mails: Mail jobs by how they ended.
        partial: Saved briefs in which some sections failed.
        retrying: Attempts that failed and will be repeated later.
        lost: Claims that were lost before the work was done; another worker has the job.
        problems: The first hundred problems that need attention.
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
        """Whether nothing failed, is stuck or needs attention."""
        stuck = (JobStatus.FAILED, JobStatus.UNKNOWN)
        return not (self.retrying or self.problems or any(self.briefs.get(s) or self.mails.get(s) for s in stuck))


@frozen(kw_only=True)
class Reconciled:
    """What reconciling recovered: jobs whose lease had ended, and jobs that no worker started in time.

    Attributes:
        returned: Jobs put back, to run again.
        unknown: Mails that may or may not have left; they are not sent again automatically.
        failed: Jobs given up because workers keep dying while running them.
        dispatched: Pending jobs that were handed to the engine again; always 0 without an engine.
    """

    returned: int = 0
    unknown: int = 0
    failed: int = 0
    dispatched: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing needs attention."""
        return not (self.unknown or self.failed)


@define
class RunTally:
    """Counts outcomes for the report of a run."""

    name: str
    _problems: list[Problem] = field(factory=list[Problem])
    _briefs: Counter[JobStatus] = field(factory=Counter[JobStatus])
    _mails: Counter[JobStatus] = field(factory=Counter[JobStatus])
    _partial: int = 0
    _put_off: int = 0
    _lost: int = 0

    def note(self, ended: Ended) -> None:
        """Count one job."""
        if ended.status is None:
            self._lost += 1
        elif ended.status is JobStatus.PENDING:
            self._put_off += 1
        else:
            counts = self._briefs if ended.job.type == self.name else self._mails
            counts[ended.status] += 1
            self._partial += bool(ended.brief and ended.brief.failed)
        if ended.status in _REPORTED:
            self._tell(Problem(f"{ended.job.dedup_key}: {ended.detail}", ended.job.user_id))
        for problem in ended.problems:
            self._tell(problem)

    def _tell(self, problem: Problem) -> None:
        if len(self._problems) < KEPT_PROBLEMS:
            self._problems.append(problem)

    def report(self, due_by: datetime) -> RunReport:
        """Return the counts so far."""
        return RunReport(
            due_by=due_by,
            briefs=self._briefs,
            mails=self._mails,
            partial=self._partial,
            retrying=self._put_off,
            lost=self._lost,
            problems=self._problems,
        )
