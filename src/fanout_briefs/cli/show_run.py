"""Shows the results of planning and running: counts and rows, and progress on the way."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import cast

from rich.console import Console

from fanout_briefs.cli import show
from fanout_briefs.model import ENDED, Brief, JobStatus, Occurrence, Problem, SkipReason
from fanout_briefs.plans import PlanReport, Verdict
from fanout_briefs.runs import Ended, RunReport
from fanout_briefs.serve import Round

__all__ = ["Seen", "plan_report", "problems", "progress", "run_report", "turn", "verdicts"]

_SECONDS_BETWEEN_LINES = 2.0
_ROWS = 20
"""How many users a run names; more would hide the counts. ``plan`` and ``explain`` show the others."""

_ALREADY = {
    JobStatus.COMPLETED: "already done",
    JobStatus.EMPTY: "already done",
    JobStatus.PENDING: "already queued",
    JobStatus.PROCESSING: "being made already",
    JobStatus.SKIPPED: "skipped before",
    JobStatus.CANCELLED: "cancelled before",
    JobStatus.FAILED: "failed before",
    JobStatus.UNKNOWN: "unknown since before",
}
_REFUSED = (SkipReason.INVALID_USER_ID, SkipReason.INVALID_SCHEDULE, SkipReason.DUPLICATE_USER)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"


def plan_report(console: Console, report: PlanReport) -> None:
    """Print the counts of one plan, in a line or two."""
    if report.due:
        counts = Counter({"would be queued" if report.dry_run else "queued": report.enqueued})
        for status, already in _ALREADY.items():
            counts[already] += report.existing.get(status, 0)
        counts["could not be recorded"] += report.failed
        due = f"{report.due:,} due: {show.counts(counts) or 'none to queue'}"
    else:
        due = f"nothing due before {show.moment(report.window.end)}"
    show.line(console, "Planned", f"{_people(report.scanned)}, {due}")
    if report.skipped:
        show.line(console, "Skipped", show.counts(report.skipped, SkipReason))


class Seen:
    """Collects the jobs that end in a run, to show who got what, even if the run was cut short.

    Attributes:
        tell: Also called with each job.
        unnamed: The slots that ``rows`` leaves out.
    """

    def __init__(self, name: str) -> None:
        """Collect jobs of the brief ``name``; those of any other type are its mails."""
        self.tell: Callable[[Ended], object] | None = None
        self.unnamed: set[tuple[str, str]] = set()
        self._name = name
        self._rows: dict[tuple[str, str], dict[bool, str]] = {}
        self._counts: dict[bool, Counter[JobStatus | None]] = {True: Counter(), False: Counter()}
        self._partial = 0

    def __call__(self, ended: Ended) -> None:
        """Note one job."""
        if self.tell is not None:
            self.tell(ended)
        is_brief = ended.job.type == self._name
        self._counts[is_brief][ended.status] += 1
        self._partial += bool(ended.brief and ended.brief.failed)
        slot = (ended.job.user_id, ended.job.occurrence.local_date.isoformat())
        if slot in self._rows or len(self._rows) < _ROWS:
            self._rows.setdefault(slot, {})[is_brief] = _made(ended) if is_brief else _mailed(ended)
        else:
            self.unnamed.add(slot)

    def rows(self) -> Sequence[Sequence[str]]:
        """Return the user, the local date, what became of the brief and what became of its mail."""
        return [
            (*slot, told.get(True, "made before"), told.get(False, "-")) for slot, told in sorted(self._rows.items())
        ]

    def report(self, due_by: datetime) -> RunReport:
        """Return a report of the jobs so far, for a run that could not report by itself."""
        both = self._counts[True] + self._counts[False]
        briefs, mails = (
            {status: count for status, count in self._counts[is_brief].items() if status in ENDED}
            for is_brief in (True, False)
        )
        return RunReport(
            due_by=due_by,
            briefs=cast("Mapping[JobStatus, int]", briefs),
            mails=cast("Mapping[JobStatus, int]", mails),
            partial=self._partial,
            retrying=both[JobStatus.PENDING],
            lost=both[None],
            problems=(),
        )


def _made(ended: Ended) -> str:
    if ended.brief is not None and ended.status is JobStatus.COMPLETED:
        return _sections(ended.brief)
    return _status(ended)


def _sections(brief: Brief) -> str:
    total, failed = len(brief.sections), [f"{section.title} ({section.error})" for section in brief.failed]
    made = f"{total} section{'s' if total != 1 else ''}"
    return f"{made}, failed: {', '.join(failed)}" if failed else made


def _mailed(ended: Ended) -> str:
    if ended.status is JobStatus.COMPLETED and ended.detail:
        with suppress(OSError):  # The working directory may be gone.
            here = os.path.join(Path.cwd(), "")  # noqa: PTH118 - the separator at the end is the point.
            return ended.detail.removeprefix(here)
        return ended.detail
    return _status(ended)


def _status(ended: Ended) -> str:
    if ended.status is None:
        return "taken over by another run"
    if ended.status is JobStatus.PENDING:
        return "put off"
    return "nothing to say" if ended.status is JobStatus.EMPTY else ended.status.value


def run_report(console: Console, report: RunReport, seen: Seen) -> None:
    """Print the counts of one run, and who got what."""
    made = show.counts(report.briefs, JobStatus) or "nothing to make"
    if report.partial:
        made += f" ({report.partial:,} with failed sections)"
    show.line(console, "Briefs", made)
    show.line(console, "Mails", show.counts(report.mails, JobStatus) or "nothing to send")
    if report.retrying:
        show.line(console, "Put off", f"{report.retrying:,}, to be tried again by a later run")
    if report.lost:
        show.line(console, "Lost", f"{report.lost:,}, taken over by another run")
    rows = seen.rows()
    if rows:
        console.print()
        show.table(console, ("user", "date", "brief", "mail"), rows)
    if seen.unnamed:
        console.print(f"and {len(seen.unnamed):,} more")


def turn(console: Console, log: Console, done: Round) -> None:
    """Print one round of ``serve``, if anything happened in it."""
    queued = done.plan.enqueued if done.plan is not None else 0
    told = [f"queued: {queued:,}"] if queued else []
    if done.run is not None:
        made, mailed = show.counts(done.run.briefs, JobStatus), show.counts(done.run.mails, JobStatus)
        told += [f"{what}: {counts}" for what, counts in (("briefs", made), ("mails", mailed)) if counts]
    if done.reconciled is not None:
        repaired = {"put back": done.reconciled.returned, "handed to the engine again": done.reconciled.dispatched}
        told += [show.counts({**repaired, "unknown": done.reconciled.unknown, "failed": done.reconciled.failed})]
    if told:
        show.line(console, show.moment(done.now), "; ".join(told))
    problems(log, done.plan.problems if done.plan is not None else ())
    problems(log, done.run.problems if done.run is not None else ())
    for error in done.errors:
        show.line(log, "Problem", f"{type(error).__name__}: {error}; the next turn tries again", "red")


def problems(console: Console, found: Iterable[Problem]) -> None:
    """Print what a person should look at."""
    for problem in found:
        whose = f"{problem.user_id}: " if problem.user_id is not None else ""
        show.line(console, "Problem", whose + problem.message, "red")


def verdicts(console: Console, found: Iterable[Verdict]) -> None:
    """Print who is due, and why the others are not."""
    show.table(
        console,
        ("user", "date", "delivered (UTC)", "verdict", "why"),
        ((verdict.user_id, *_when(verdict.occurrence), *_why(verdict)) for verdict in found),
    )


def _when(occurrence: Occurrence | None) -> tuple[str, str]:
    if occurrence is None:
        return "-", "-"
    return occurrence.local_date.isoformat(), f"{occurrence.deliver_at:%Y-%m-%d %H:%M:%S}"


def _why(verdict: Verdict) -> tuple[str, str]:
    code = "" if verdict.code is None else verdict.code.replace("_", " ")
    why = ": ".join(filter(None, (code, verdict.detail)))
    if verdict.is_new:
        return "due", why
    if verdict.code in _REFUSED:
        return "refused", why
    if verdict.status is None:
        return "not due" if verdict.code is not None else "failed", why
    return (_ALREADY[verdict.status] if verdict.code is None else verdict.status.value), why


@contextmanager
def progress(console: Console, name: str, total: int) -> Generator[Callable[[Ended], object]]:
    """Show work as it ends: a bar on a terminal, a line every two seconds elsewhere.

    Args:
        console: Where to print; standard error, so that results stay clean.
        name: The brief's name; jobs of any other type are its mails.
        total: How many briefs are expected; more may come.
    """
    if not console.is_terminal:
        yield _lines(console, name, total)
        return
    from rich.progress import (  # noqa: PLC0415 - slow, and --help needs none
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("briefs and mails", total=total)
        ended, expected = 0, total

        def tell(job: Ended) -> None:
            nonlocal ended, expected
            ended += 1
            expected += job.job.type != name  # Mails are unknown until their briefs are made.
            bar.update(task, completed=ended, total=max(expected, ended))

        yield tell


def _lines(console: Console, name: str, total: int) -> Callable[[Ended], object]:
    briefs = mails = 0
    told = time.monotonic()

    def tell(ended: Ended) -> None:
        nonlocal briefs, mails, told
        briefs += ended.job.type == name
        mails += ended.job.type != name
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            show.line(console, "So far", f"{briefs:,} of {max(total, briefs):,} briefs, {mails:,} mails")

    return tell
