"""Shows reports: aligned lines and a progress bar for people, plain lines for logs, JSON for machines."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

from attrs import asdict, has
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief, JobStatus, Occurrence, Problem, SkipReason
from fanout_briefs.planner import PlanReport, Verdict
from fanout_briefs.runs import Ended, RunReport
from fanout_briefs.serve import Round

__all__ = [
    "Printer",
    "Seen",
    "as_json",
    "explanation",
    "line",
    "moment",
    "plan_report",
    "problems",
    "progress",
    "run_report",
    "text",
    "turn",
    "verdicts",
]

_SECONDS_BETWEEN_LINES = 2.0
_ROWS = 20
"""How many people a run names; more would hide the counts. ``plan`` and ``explain`` tell about the others."""

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


class Printer(Console):
    """Prints lines as they are, however wide the terminal. When nobody reads any more, the work goes on unseen."""

    def __init__(self, *, stderr: bool = False) -> None:
        """Print to standard output, or to standard error."""
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Whoever read is gone; rich would end the process here, in the middle of the work."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


def as_json(value: Mapping[str, object]) -> str:
    """Values of the library as one JSON document in ASCII; instants in ISO 8601."""
    return json.dumps(value, default=_plain, indent=2)


def _plain(value: object) -> object:
    if has(type(value)):
        shown = asdict(cast("Any", value), recurse=False)
        ok: object = getattr(value, "ok", None)
        return shown if ok is None else {**shown, "ok": ok}
    return value.isoformat() if isinstance(value, date) else str(value)


def moment(instant: datetime) -> str:
    """An instant in UTC, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def text(console: Console, text: str) -> None:
    """Many lines as they are, without what could act on the terminal."""
    console.out("".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text))


def line(console: Console, label: str, text: str, style: str = "bold") -> None:
    """One labelled line. What it tells cannot act on the terminal, whoever wrote it."""
    console.print(f"[{style}]{label:<9}[/{style}] {_safe(text)}")


def _safe(text: str) -> str:
    """Text without markup and control characters of its own; line breaks are indented to the text's column."""
    shown = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return escape(shown.replace("\n", "\n" + " " * 10))


def _counts(counts: Mapping[Any, int], order: Iterable[object] = ()) -> str:
    counts = {key: counts[key] for key in (*order, *counts) if key in counts}
    return ", ".join(f"{count:,} {str(key).replace('_', ' ')}" for key, count in counts.items() if count)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"


def _table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as what is in them, so that a log shows what a terminal does."""
    cells = [list(header), *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        text = escape("  ".join(padded).rstrip())
        console.print(text if number else f"[bold]{text}[/bold]")


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def plan_report(console: Console, report: PlanReport) -> None:
    """The counts of one plan, in a line or two."""
    if report.due:
        counts = Counter({"would be queued" if report.dry_run else "queued": report.enqueued})
        for status, already in _ALREADY.items():
            counts[already] += report.existing.get(status, 0)
        counts["could not be recorded"] += report.failed
        due = f"{report.due:,} due: {_counts(counts) or 'none to queue'}"
    else:
        due = f"nothing due before {moment(report.window.end)}"
    line(console, "Planned", f"{_people(report.scanned)}, {due}")
    if report.skipped:
        line(console, "Skipped", _counts(report.skipped, SkipReason))


class Seen:
    """Notes what a run ends, so that it can be told who got what."""

    def __init__(self, name: str, tell: Callable[[Ended], object]) -> None:
        """Note, and pass on to ``tell``.

        Args:
            name: The brief's name; jobs of any other type are its mails.
            tell: Told about each, too.
        """
        self._name = name
        self._tell = tell
        self._rows: dict[tuple[str, str], dict[bool, str]] = {}
        self.unnamed: set[tuple[str, str]] = set()

    def __call__(self, ended: Ended) -> None:
        """Note one job."""
        self._tell(ended)
        is_brief = ended.job.type == self._name
        slot = (ended.job.user_id, ended.job.occurrence.local_date.isoformat())
        if slot in self._rows or len(self._rows) < _ROWS:
            self._rows.setdefault(slot, {})[is_brief] = _made(ended) if is_brief else _mailed(ended)
        else:
            self.unnamed.add(slot)

    def rows(self) -> Sequence[Sequence[str]]:
        """User, local date, what became of the brief, what became of its mail."""
        return [
            (*slot, told.get(True, "made before"), told.get(False, "-")) for slot, told in sorted(self._rows.items())
        ]


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
        here = os.path.join(Path.cwd(), "")  # noqa: PTH118 - the separator at the end is the point.
        return ended.detail.removeprefix(here)
    return _status(ended)


def _status(ended: Ended) -> str:
    if ended.status is None:
        return "taken over by another run"
    if ended.status is JobStatus.PENDING:
        return "put off"
    return "nothing to say" if ended.status is JobStatus.EMPTY else ended.status.value


def run_report(console: Console, report: RunReport, seen: Seen) -> None:
    """The counts of one run, and who got what."""
    made = _counts(report.briefs, JobStatus) or "nothing to make"
    if report.partial:
        made += f" ({report.partial:,} with failed sections)"
    line(console, "Briefs", made)
    line(console, "Mails", _counts(report.mails, JobStatus) or "nothing to send")
    if report.retrying:
        line(console, "Put off", f"{report.retrying:,}, to be tried again by a later run")
    if report.lost:
        line(console, "Lost", f"{report.lost:,}, taken over by another run")
    rows = seen.rows()
    if rows:
        console.print()
        _table(console, ("user", "date", "brief", "mail"), rows)
    if seen.unnamed:
        console.print(f"and {len(seen.unnamed):,} more")


def turn(console: Console, log: Console, done: Round) -> None:
    """One turn of a server, if anything happened in it."""
    queued = done.plan.enqueued if done.plan is not None else 0
    told = [f"queued: {queued:,}"] if queued else []
    if done.run is not None:
        made, mailed = _counts(done.run.briefs, JobStatus), _counts(done.run.mails, JobStatus)
        told += [f"{what}: {counts}" for what, counts in (("briefs", made), ("mails", mailed)) if counts]
    if told:
        line(console, moment(done.now), "; ".join(told))
    problems(log, done.plan.problems if done.plan is not None else ())
    problems(log, done.run.problems if done.run is not None else ())
    for error in done.errors:
        line(log, "Problem", f"{type(error).__name__}: {error}; the next turn tries again", "red")


def problems(console: Console, found: Iterable[Problem]) -> None:
    """What a person should look at."""
    for problem in found:
        whose = f"{problem.user_id}: " if problem.user_id is not None else ""
        line(console, "Problem", whose + problem.message, "red")


def verdicts(console: Console, found: Iterable[Verdict]) -> None:
    """Who is due, and why the others are not."""
    _table(
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


def explanation(console: Console, found: Explanation) -> None:
    """One user's date, stage by stage."""
    console.print(
        f"{_one_line_escaped(found.user_id)} on {found.on}: [bold]{found.code.value.replace('_', ' ')}[/bold]"
    )
    for stage in found.stages:
        console.print(f"  {stage.name:<11} {_one_line_escaped(stage.verdict)}")


def _one_line_escaped(text: str) -> str:
    return escape(_one_line(text))


@contextmanager
def progress(console: Console, name: str, total: int) -> Generator[Callable[[Ended], object]]:
    """Show work as it ends: a bar on a terminal, a line every two seconds elsewhere.

    Args:
        console: Where to; standard error, so that results stay clean.
        name: The brief's name; jobs of any other type are its mails.
        total: How many briefs are expected; more may come.
    """
    if not console.is_terminal:
        yield _lines(console, name, total)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("briefs and mails", total=total)
        ended, expected = 0, total

        def tell(job: Ended) -> None:
            nonlocal ended, expected
            ended += 1
            expected += job.job.type != name  # A mail shows up only when its brief is made.
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
            line(console, "So far", f"{briefs:,} of {max(total, briefs):,} briefs, {mails:,} mails")

    return tell
