"""Shows reports: tables and a progress bar for people, plain lines for logs, JSON for machines."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from typing import Any, Protocol

from attrs import asdict, has
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fanout_briefs.explain import Explanation
from fanout_briefs.model import JobStatus, Occurrence, Problem
from fanout_briefs.planner import PlanReport, Verdict
from fanout_briefs.worker import Ended, RunReport

__all__ = ["as_json", "explanation", "moment", "plan_report", "problems", "progress", "run_report", "verdicts"]

_SECONDS_BETWEEN_LINES = 2.0


def as_json(value: Mapping[str, object]) -> str:
    """Values of the library as one JSON document; instants in ISO 8601."""
    return json.dumps(value, default=_plain, indent=2, ensure_ascii=False)


def _plain(value: Any) -> object:
    if has(type(value)):
        shown = asdict(value, recurse=False)
        return {**shown, "ok": value.ok} if hasattr(value, "ok") else shown
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def moment(instant: datetime) -> str:
    """An instant in UTC, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(
        f"{count} {key.value if isinstance(key, Enum) else key}".replace("_", " ")
        for key, count in counts.items()
        if count
    )


def plan_report(console: Console, report: PlanReport) -> None:
    """The counts of one plan, in a line or two."""
    done = sum(report.existing.get(status, 0) for status in (JobStatus.COMPLETED, JobStatus.EMPTY))
    queued = "would be queued" if report.dry_run else "queued"
    line = f"Planned   {report.scanned} people, {report.due} due: {report.enqueued} {queued}"
    others = Counter(report.existing)
    for status in (JobStatus.COMPLETED, JobStatus.EMPTY):
        others.pop(status, None)
    if done:
        line += f", {done} already done"
    if others.total():
        line += f", already there: {_counts(others)}"
    if report.failed:
        line += f", {report.failed} failed"
    console.print(line, highlight=False)
    if report.skipped:
        console.print(f"Skipped   {_counts(report.skipped)}", highlight=False)


def run_report(console: Console, report: RunReport) -> None:
    """The counts of one run."""
    made = _counts(report.briefs) or "nothing to make"
    if report.partial:
        made += f" ({report.partial} with failed sections)"
    console.print(f"Briefs    {made}", highlight=False)
    console.print(f"Mails     {_counts(report.mails) or 'nothing to send'}", highlight=False)
    if report.retrying or report.lost:
        console.print(f"Put off   {report.retrying} to be tried again, {report.lost} taken over", highlight=False)


def problems(console: Console, found: Iterable[Problem]) -> None:
    """What a person should look at."""
    for problem in found:
        whose = f" [bold]{escape(problem.user_id)}[/bold]" if problem.user_id is not None else ""
        console.print(f"[red]Problem[/red]  {whose} {escape(problem.message)}", highlight=False)


def verdicts(console: Console, found: Iterable[Verdict]) -> None:
    """Who is due, and why the others are not."""
    table = Table("user", "delivered", "verdict", "why", box=None, pad_edge=False)
    for verdict in found:
        status = verdict.status.value if verdict.status else "-"
        if verdict.is_new:
            status = "due"
        why = " ".join(filter(None, (verdict.code and verdict.code.value, verdict.detail)))
        table.add_row(escape(verdict.user_id), _when(verdict.occurrence), status, escape(why))
    console.print(table)


def _when(occurrence: Occurrence | None) -> str:
    return "-" if occurrence is None else f"{occurrence.local_date} ({moment(occurrence.deliver_at)})"


def explanation(console: Console, found: Explanation) -> None:
    """One user's date, stage by stage."""
    console.print(f"{escape(found.user_id)} on {found.on}: [bold]{found.code.value}[/bold]", highlight=False)
    for stage in found.stages:
        console.print(f"  {stage.name:<11} {escape(stage.verdict)}", highlight=False)


class _Tell(Protocol):
    def __call__(self, ended: Ended, /) -> None: ...


@contextmanager
def progress(console: Console, total: int) -> Generator[_Tell]:
    """Show work as it ends: a bar on a terminal, a line every two seconds elsewhere.

    Args:
        console: Where to; standard error, so that results stay clean.
        total: How many jobs are expected; more may come.
    """
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("briefs and mails", total=total)
        seen = 0

        def tell(ended: Ended, /) -> None:
            nonlocal seen
            seen += 1
            bar.update(task, completed=seen, total=max(total, seen), description=escape(ended.job.user_id))

        yield tell


def _lines(console: Console) -> _Tell:
    counts: Counter[str] = Counter()
    told = time.monotonic()

    def tell(ended: Ended, /) -> None:
        nonlocal told
        counts[f"{ended.job.type} {ended.status.value if ended.status else 'lost'}"] += 1
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            console.print(f"so far: {_counts(counts)}", highlight=False)

    return tell
