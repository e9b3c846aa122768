"""What a worker did: each job that ended, and the report of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import define, field, frozen

from fanout_briefs.model import KEPT_PROBLEMS, Brief, Job, JobStatus, Problem

__all__ = ["Ended", "Reconciled", "RunReport", "Tally"]

_TROUBLED = (JobStatus.PENDING, JobStatus.FAILED, JobStatus.UNKNOWN)


@frozen(kw_only=True)
class Ended:
    """What became of one claimed job.

    Attributes:
        status: How the slot ended; pending when it will be tried again, None when the claim was lost.
        brief: The brief that was saved.
        detail: Why, or the last error.
        problems: What else went wrong and cost nothing, such as a hook that raised.
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
        due_by: The moment up to which jobs were due; of a server, the end of what the report covers.
        briefs: Brief jobs by how they ended.
        mails: Mail jobs by how they ended.
        partial: Saved briefs in which some section failed.
        retrying: Jobs that failed and will be tried again, at a later moment than this run's.
        lost: Claims that ended before the work did; somebody else has the job.
        problems: The first hundred things to look at.
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
        """Whether nothing failed, is stuck or needs a person's eye."""
        stuck = (JobStatus.FAILED, JobStatus.UNKNOWN)
        return not (self.retrying or self.problems or any(self.briefs.get(s) or self.mails.get(s) for s in stuck))


@frozen(kw_only=True)
class Reconciled:
    """What was put right: jobs whose worker had let the lease end, and jobs that nobody began in time.

    Attributes:
        returned: Put back, to be run again.
        unknown: Mails that may or may not have left; they are not sent again by themselves.
        failed: Given up, since workers keep dying of them.
        dispatched: Pending jobs that were handed to the engine again; always 0 where there is none.
    """

    returned: int = 0
    unknown: int = 0
    failed: int = 0
    dispatched: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing needs a person's eye."""
        return not (self.unknown or self.failed)


@define
class Tally:
    """Counts what ends, for the report of a run."""

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
        if ended.status in _TROUBLED:
            self._tell(Problem(f"{ended.job.dedup_key}: {ended.detail}", ended.job.user_id))
        for problem in ended.problems:
            self._tell(problem)

    def _tell(self, problem: Problem) -> None:
        if len(self._problems) < KEPT_PROBLEMS:
            self._problems.append(problem)

    def report(self, due_by: datetime) -> RunReport:
        """What was counted so far."""
        return RunReport(
            due_by=due_by,
            briefs=self._briefs,
            mails=self._mails,
            partial=self._partial,
            retrying=self._put_off,
            lost=self._lost,
            problems=self._problems,
        )
