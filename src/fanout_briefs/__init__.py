"""Plan, generate in parallel and deliver a recurring brief to each user, exactly one a local date.

Start with ``Briefs``. Adapters are imported from ``fanout_briefs.adapters``, one module each.
"""

from fanout_briefs.briefs import BriefProgress, Briefs
from fanout_briefs.dedupe import BatchDeduplicator
from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
from fanout_briefs.errors import (
    BadValue,
    BriefFailed,
    InvalidPreferences,
    InvalidSchedule,
    ItemCancelled,
    NotSent,
    PermanentFailure,
    RetryLater,
    SchemaTooNew,
    SourceError,
    StorageUnavailable,
    UnknownUser,
)
from fanout_briefs.explain import Explanation
from fanout_briefs.model import (
    Activity,
    Brief,
    EngagementDecision,
    Html,
    Job,
    JobStatus,
    Mail,
    Occurrence,
    Page,
    Preference,
    Problem,
    Progress,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    Rendered,
    Section,
    SectionRequest,
    SkipReason,
    Window,
)
from fanout_briefs.planner import PlanReport, SchedulePlanner, Verdict
from fanout_briefs.schedule import Frequency, Schedule
from fanout_briefs.settled import Fulfilled, Rejected, Settled, gather_settled, iter_settled
from fanout_briefs.timing import CatchUp, Timing
from fanout_briefs.worker import Ended, Retrying, RunReport

__all__ = [
    "Activity",
    "BackoffPolicy",
    "BadValue",
    "BatchDeduplicator",
    "Brief",
    "BriefFailed",
    "BriefProgress",
    "Briefs",
    "CatchUp",
    "Ended",
    "EngagementDecision",
    "EngagementPolicy",
    "Explanation",
    "Frequency",
    "Fulfilled",
    "Html",
    "InvalidPreferences",
    "InvalidSchedule",
    "ItemCancelled",
    "Job",
    "JobStatus",
    "Mail",
    "NotSent",
    "Occurrence",
    "Page",
    "PermanentFailure",
    "PlanReport",
    "Preference",
    "Problem",
    "Progress",
    "Project",
    "ProjectBrief",
    "Receipt",
    "Recipient",
    "Rejected",
    "Rendered",
    "RetryLater",
    "Retrying",
    "RunReport",
    "Schedule",
    "SchedulePlanner",
    "SchemaTooNew",
    "Section",
    "SectionRequest",
    "Settled",
    "SkipReason",
    "SourceError",
    "StorageUnavailable",
    "Timing",
    "UnknownUser",
    "Verdict",
    "Window",
    "gather_settled",
    "iter_settled",
]
