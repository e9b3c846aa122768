"""Plan, generate in parallel and deliver a recurring brief to each user, exactly one a local date.

Start with ``Briefs``. Adapters are imported from ``fanout_briefs.adapters``, one module each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fanout_briefs.briefs import BriefProgress, Briefs
    from fanout_briefs.dedupe import BatchDeduplicator
    from fanout_briefs.engagement import BackoffPolicy, EngagementPolicy
    from fanout_briefs.engine import DispatcherPowers, JobOutcome, JobRun
    from fanout_briefs.errors import (
        BadValue,
        BriefFailed,
        InvalidPreferences,
        InvalidSchedule,
        ItemCancelled,
        NotSent,
        NotStarted,
        PermanentFailure,
        RetryLater,
        SchemaTooNew,
        SourceError,
        StorageUnavailable,
        TooManyFailures,
        UnknownUser,
    )
    from fanout_briefs.explain import Code, Explanation, Stage
    from fanout_briefs.model import (
        Activity,
        Brief,
        Demand,
        EngagementDecision,
        Html,
        Job,
        JobRef,
        JobStatus,
        Mail,
        Occurrence,
        Overview,
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
        Trouble,
        Window,
    )
    from fanout_briefs.operate import Concern, Status
    from fanout_briefs.planner import SchedulePlanner
    from fanout_briefs.plans import Phase, PlanReport, Verdict
    from fanout_briefs.runs import Ended, Reconciled, RunReport
    from fanout_briefs.schedule import Frequency, Schedule
    from fanout_briefs.serve import Round
    from fanout_briefs.settled import (
        Fulfilled,
        Rejected,
        Settled,
        fulfilled,
        gather_settled,
        iter_settled,
        rejected,
        values_or_raise,
    )
    from fanout_briefs.timing import CatchUp, Retrying, Timing

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
    "Code",
    "Concern",
    "Demand",
    "DispatcherPowers",
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
    "JobOutcome",
    "JobRef",
    "JobRun",
    "JobStatus",
    "Mail",
    "NotSent",
    "NotStarted",
    "Occurrence",
    "Overview",
    "Page",
    "PermanentFailure",
    "Phase",
    "PlanReport",
    "Preference",
    "Problem",
    "Progress",
    "Project",
    "ProjectBrief",
    "Receipt",
    "Recipient",
    "Reconciled",
    "Rejected",
    "Rendered",
    "RetryLater",
    "Retrying",
    "Round",
    "RunReport",
    "Schedule",
    "SchedulePlanner",
    "SchemaTooNew",
    "Section",
    "SectionRequest",
    "Settled",
    "SkipReason",
    "SourceError",
    "Stage",
    "Status",
    "StorageUnavailable",
    "Timing",
    "TooManyFailures",
    "Trouble",
    "UnknownUser",
    "Verdict",
    "Window",
    "fulfilled",
    "gather_settled",
    "iter_settled",
    "rejected",
    "values_or_raise",
]

# Each name is imported when it is first used, so that whoever wants one of them does not wait for all.
_NAMES = {
    "briefs": ("BriefProgress", "Briefs"),
    "dedupe": ("BatchDeduplicator",),
    "engagement": ("BackoffPolicy", "EngagementPolicy"),
    "engine": ("DispatcherPowers", "JobOutcome", "JobRun"),
    "errors": (
        "BadValue",
        "BriefFailed",
        "InvalidPreferences",
        "InvalidSchedule",
        "ItemCancelled",
        "NotSent",
        "NotStarted",
        "PermanentFailure",
        "RetryLater",
        "SchemaTooNew",
        "SourceError",
        "StorageUnavailable",
        "TooManyFailures",
        "UnknownUser",
    ),
    "explain": ("Code", "Explanation", "Stage"),
    "model": (
        "Activity",
        "Brief",
        "Demand",
        "EngagementDecision",
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
        "Section",
        "SectionRequest",
        "SkipReason",
        "Trouble",
        "Window",
    ),
    "operate": ("Concern", "Status"),
    "planner": ("SchedulePlanner",),
    "plans": ("Phase", "PlanReport", "Verdict"),
    "runs": ("Ended", "Reconciled", "RunReport"),
    "schedule": ("Frequency", "Schedule"),
    "serve": ("Round",),
    "settled": (
        "Fulfilled",
        "Rejected",
        "Settled",
        "fulfilled",
        "gather_settled",
        "iter_settled",
        "rejected",
        "values_or_raise",
    ),
    "timing": ("CatchUp", "Retrying", "Timing"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # pragma: no branch  # Checkers would take every name for one of ours.

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
