"""OpenTelemetry metrics: what plans and runs did, how long they took, and the current state of all slots.

Only the OpenTelemetry API is required; unless the host sets up an SDK and an exporter, nothing is recorded. No metric
identifies a user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

try:
    from opentelemetry.metrics import MeterProvider, get_meter
except ModuleNotFoundError as _missing:
    raise ImportError("Telemetry needs OpenTelemetry: pip install 'fanout-briefs[opentelemetry]'") from _missing

from fanout_briefs.model import Job, JobStatus, Overview, Progress, SkipReason

__all__ = ["Telemetry"]

_LONGEST: Final = 3600.0
"""Seconds after which the timing of an unfinished brief is dropped."""


class _Phase(Protocol):
    @property
    def seconds(self) -> float: ...


class _Plan(Protocol):
    """``PlanReport``, which this layer cannot import."""

    @property
    def enqueued(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def skipped(self) -> Mapping[SkipReason, int]: ...
    @property
    def phases(self) -> Mapping[str, _Phase]: ...


class _Run(Protocol):
    """``RunReport``."""

    @property
    def briefs(self) -> Mapping[JobStatus, int]: ...
    @property
    def mails(self) -> Mapping[JobStatus, int]: ...
    @property
    def partial(self) -> int: ...
    @property
    def retrying(self) -> int: ...
    @property
    def lost(self) -> int: ...


class _Round(Protocol):
    """``Round``."""

    @property
    def plan(self) -> _Plan | None: ...
    @property
    def run(self) -> _Run | None: ...
    @property
    def errors(self) -> Sequence[Exception]: ...


class _BriefProgress(Protocol):
    """``BriefProgress``."""

    @property
    def job(self) -> Job: ...
    @property
    def progress(self) -> Progress: ...


class _Status(Protocol):
    """``Status``."""

    @property
    def now(self) -> datetime: ...
    @property
    def briefs(self) -> Overview: ...
    @property
    def mails(self) -> Overview | None: ...


class Telemetry:
    """Records metrics for one kind of brief; every metric has its name as the attribute ``brief.name``.

    Pass ``on_round`` to ``Briefs.serve`` and ``on_progress`` to ``Briefs``. If you call ``Briefs.plan`` and
    ``Briefs.run`` yourself, pass their reports to ``plan`` and ``run`` instead. Pass the result of ``Briefs.status`` to
    ``status`` as often as you like.

    | metric | kind | attributes |
    |---|---|---|
    | ``fanout_briefs.slots`` | counter: decisions of plans, one each time a plan looks at a slot | ``outcome``: enqueued, duplicate, failed, or the code of a skip |
    | ``fanout_briefs.plan.duration`` | histogram, seconds | ``phase``: due, duplicates, engagement, enqueue |
    | ``fanout_briefs.jobs`` | counter: jobs that ended, were put off or were lost | ``kind``: brief or mail (job for put_off and lost), and ``status`` |
    | ``fanout_briefs.partial`` | counter: briefs saved with failed sections | |
    | ``fanout_briefs.brief.duration`` | histogram, seconds: one brief, from reading its projects to saving it | |
    | ``fanout_briefs.errors`` | counter: errors in rounds of ``serve`` | ``error.type`` |
    | ``fanout_briefs.waiting`` | gauge: number of slots | ``kind``, and ``state``: overdue, running, abandoned, failed, unknown |
    | ``fanout_briefs.oldest`` | gauge, seconds: how long the oldest overdue or abandoned slot has waited | ``kind`` |
    | ``fanout_briefs.plan.age`` | gauge, seconds: time since the moment of the last finished plan; not set before the first | |
    """

    def __init__(
        self,
        name: str = "daily_brief",
        *,
        meter_provider: MeterProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the instruments.

        Args:
            name: The name of the brief.
            meter_provider: None uses the global meter provider.
            clock: Returns seconds, to time briefs.
        """
        meter = get_meter("fanout_briefs", meter_provider=meter_provider)
        self._name = {"brief.name": name}
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._slots = meter.create_counter("fanout_briefs.slots", "{slot}", "What plans decided about slots.")
        self._planned = meter.create_histogram("fanout_briefs.plan.duration", "s", "Plans, phase by phase.")
        self._jobs = meter.create_counter("fanout_briefs.jobs", "{job}", "Jobs that ended, or did not.")
        self._partial = meter.create_counter("fanout_briefs.partial", "{brief}", "Briefs with failed sections.")
        self._made = meter.create_histogram("fanout_briefs.brief.duration", "s", "From its projects to its saving.")
        self._errors = meter.create_counter("fanout_briefs.errors", "{error}", "Turns that failed.")
        self._waiting = meter.create_gauge("fanout_briefs.waiting", "{slot}", "How slots stand.")
        self._oldest = meter.create_gauge(
            "fanout_briefs.oldest", "s", "How long the oldest overdue or abandoned slot has waited."
        )
        self._plan_age = meter.create_gauge(
            "fanout_briefs.plan.age", "s", "Time since the moment of the last finished plan."
        )

    def on_round(self, told: _Round, /) -> None:
        """Record a round of ``Briefs.serve``."""
        if told.plan is not None:
            self.plan(told.plan)
        if told.run is not None:
            self.run(told.run)
        for error in told.errors:
            self._errors.add(1, {**self._name, "error.type": type(error).__qualname__})

    def plan(self, report: _Plan) -> None:
        """Record the report of a plan."""
        outcomes = {"enqueued": report.enqueued, "duplicate": report.duplicates, "failed": report.failed}
        for outcome, count in {**outcomes, **{str(code): count for code, count in report.skipped.items()}}.items():
            if count:
                self._slots.add(count, {**self._name, "outcome": outcome})
        for phase, spent in report.phases.items():
            self._planned.record(spent.seconds, {**self._name, "phase": phase})

    def run(self, report: _Run) -> None:
        """Record the report of a run."""
        for kind, ended in (("brief", report.briefs), ("mail", report.mails)):
            for status, count in ended.items():
                self._jobs.add(count, {**self._name, "kind": kind, "status": str(status)})
        for other, count in (("put_off", report.retrying), ("lost", report.lost)):
            if count:
                self._jobs.add(count, {**self._name, "kind": "job", "status": other})
        if report.partial:
            self._partial.add(report.partial, self._name)

    def on_progress(self, told: _BriefProgress, /) -> None:
        """Record the progress of a brief; its duration runs from its first step to its last."""
        now, key = self._clock(), told.job.dedup_key
        if told.progress.step == "projects":
            self._begun.pop(key, None)  # Moves it to the end, behind those that began earlier.
            self._begun[key] = now
            self._forget(now - _LONGEST)
        elif told.progress.step == "saving" and (begun := self._begun.pop(key, None)) is not None:
            self._made.record(now - begun, self._name)

    def _forget(self, before: float) -> None:
        while (oldest := next(iter(self._begun))) and self._begun[oldest] < before:
            del self._begun[oldest]

    def status(self, status: _Status) -> None:
        """Record the current state of all slots."""
        for kind, overview in (("brief", status.briefs), ("mail", status.mails)):
            if overview is None:
                continue
            states = {
                "overdue": overview.overdue,
                "running": overview.running,
                "abandoned": overview.abandoned,
                "failed": overview.ended.get(JobStatus.FAILED, 0),
                "unknown": overview.ended.get(JobStatus.UNKNOWN, 0),
            }
            for state, count in states.items():
                self._waiting.set(count, {**self._name, "kind": kind, "state": state})
            waited = 0.0 if overview.oldest is None else (status.now - overview.oldest).total_seconds()
            self._oldest.set(max(waited, 0.0), {**self._name, "kind": kind})
        planned_at = status.briefs.planned_at
        if planned_at is not None:
            self._plan_age.set(max((status.now - planned_at).total_seconds(), 0.0), self._name)
