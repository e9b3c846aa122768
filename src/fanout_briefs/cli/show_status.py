"""Shows how all slots stand on one screen, and what to do next if something is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from attrs import frozen
from rich.console import Console
from rich.markup import escape

from fanout_briefs.cli import show
from fanout_briefs.model import JobStatus, Overview, SkipReason, Trouble
from fanout_briefs.operate import Concern, Status

__all__ = ["Step", "next_steps", "status"]

_CODES = 5
_TROUBLES = 5
_ERROR = 200
"""The most rows and characters to show, so that the counts stay on the screen; ``--json`` shows all."""
_ENDED = (
    JobStatus.COMPLETED,
    JobStatus.EMPTY,
    JobStatus.FAILED,
    JobStatus.UNKNOWN,
    JobStatus.SKIPPED,
    JobStatus.CANCELLED,
)
_SLOW = timedelta(minutes=5)
"""If work waits longer than this, there are no workers or too few."""


@frozen
class Step:
    """What to do next.

    Attributes:
        lines: What to do, in words, with the command to run.
        label: The label before the first line.
    """

    lines: Sequence[str]
    label: str = "Next"


def status(console: Console, found: Status, steps: Sequence[Step]) -> None:
    """Print how all slots stand, what went wrong, and what to do about it."""
    style, verdict = _verdict(found, any_steps=bool(steps))
    head = f"{escape(show.one_line(found.name))} as of {show.moment(found.now)}"
    console.print(f"{head}: [{style}]{verdict}[/{style}]")
    show.line(console, "Planned", _planned(found.briefs, found.now))
    console.print()
    _counts(console, found)
    _troubles(console, found)
    if steps:
        console.print()
    for step in steps:
        for place, line in enumerate(step.lines):
            show.line(console, "" if place else step.label, line)


def _verdict(found: Status, *, any_steps: bool) -> tuple[str, str]:
    if not found.ok:
        return "bold red", "something needs a person's eye"
    if _paused_since(found) is not None:
        return "bold yellow", "paused"
    return ("bold yellow", "nothing failed, but see the end") if any_steps else ("bold green", "all is well")


def _planned(briefs: Overview, now: datetime) -> str:
    if briefs.planned_at is None:
        return "never"
    ago = f"{show.length(now - briefs.planned_at)} ago, " if briefs.planned_at <= now else ""
    told = f"{ago}at {show.moment(briefs.planned_at)}"
    if briefs.mark is not None and briefs.mark < briefs.planned_at:
        return f"{told}; complete up to {show.moment(briefs.mark)}"
    return told


def _paused_since(found: Status) -> datetime | None:
    mails = None if found.mails is None else found.mails.paused_since
    return found.briefs.paused_since or mails


def _both(found: Status) -> Sequence[Overview]:
    return [each for each in (found.briefs, found.mails) if each is not None]


# counts --------------------------------------------------------------------------------------------------


def _counts(console: Console, found: Status) -> None:
    both = _both(found)
    names = ["briefs", "mails"][: len(both)]
    console.print(f"[bold]{'':<22}{''.join(f'{name:>9}' for name in names)}[/bold]")
    oldest = min((each.oldest for each in both if each.oldest is not None), default=None)
    waits = "" if oldest is None else f"   the oldest waits for {show.length(found.now - oldest)}"
    _row(console, "due within the hour", [each.soon for each in both])
    _row(console, "due later", [each.later for each in both])
    is_overdue = any(each.overdue for each in both)
    _row(console, "overdue", [each.overdue for each in both], waits if is_overdue else "")
    _row(console, "running", [each.running for each in both])
    _row(console, "left by dead workers", [each.abandoned for each in both], "" if is_overdue else waits)
    console.print(f"\nto be delivered since {show.moment(found.since)}, and ended")
    for ending in _ENDED:
        _row(console, ending, [each.ended.get(ending, 0) for each in both])
    for code, counts in _codes(both).items():
        _row(console, f"  {code}", counts)


def _row(console: Console, label: str, counts: Sequence[int], note: str = "") -> None:
    console.print(f"{label:<22}{''.join(f'{count:>9,}' for count in counts)}{note}")


def _codes(both: Sequence[Overview]) -> Mapping[str, Sequence[int]]:
    """Return why slots were skipped or cancelled: the most frequent reasons, and all others in one row."""
    counted = {code: [each.codes.get(code, 0) for each in both] for code in SkipReason}
    found = sorted((code for code in counted if sum(counted[code])), key=lambda code: -sum(counted[code]))
    rows: dict[str, Sequence[int]] = {code.replace("_", " "): counted[code] for code in found[:_CODES]}
    if found[_CODES:]:
        rows["other reasons"] = [sum(each.codes.get(code, 0) for code in found[_CODES:]) for each in both]
    return rows


# what went wrong, and what to do -------------------------------------------------------------------------


def _troubles(console: Console, found: Status) -> None:
    kinds = zip(("brief", "mail"), (found.briefs, found.mails), strict=True)
    told = [(kind, trouble) for kind, each in kinds if each is not None for trouble in each.troubles]
    told.sort(key=lambda pair: -pair[1].count)
    if told:
        console.print()
    for kind, trouble in told[:_TROUBLES]:
        show.line(console, trouble.status.capitalize(), _trouble(kind, trouble), "red")
    if told[_TROUBLES:]:
        others = len(told) - _TROUBLES
        show.line(console, "", f"and {others} other error{'s' if others != 1 else ''}, which --json tells")


def _trouble(kind: str, trouble: Trouble) -> str:
    error = show.one_line(trouble.error or "no error was recorded")
    error = error if len(error) <= _ERROR else f"{error[: _ERROR - 1]}…"
    what = f"{trouble.count:,} {kind}{'s' if trouble.count != 1 else ''}"
    return f"{what}, the latest due {show.moment(trouble.latest)}: {error}"


def next_steps(found: Status, application: str, since: str | None = None) -> Sequence[Step]:
    """Return what to do, most urgent first.

    Args:
        found: How everything stands.
        application: The application's name on the command line.
        since: The value of ``--since``, if given.
    """
    return [*_mend(found, application, "" if since is None else f" --since {since}"), *_keep_on(found, application)]


def _mend(found: Status, app: str, since: str) -> Iterator[Step]:
    concerns = found.concerns
    if Concern.FAILED in concerns:
        yield Step([f"mend what failed, then: fanout-briefs retry {app} --failed{since}"])
    if Concern.UNKNOWN in concerns:
        yield Step(
            [
                "unknown mails may have been delivered, so nothing sends them again by itself;",
                f"if they are to go out all the same: fanout-briefs retry {app} --unknown{since}",
            ]
        )
    if Concern.ABANDONED in concerns:
        then = f"fanout-briefs reconcile {app}"
        yield Step([f"a run takes up what dead workers left; to put it back now: {then}"])


def _keep_on(found: Status, app: str) -> Iterator[Step]:
    paused_since, concerns = _paused_since(found), found.concerns
    if paused_since is not None:
        told = f"since {show.moment(paused_since)}: nothing is begun until: fanout-briefs resume {app}"
        yield Step([told], "Paused")
    elif any(each.overdue for each in _both(found)) and _nobody_works(found):
        yield Step([f"work waits and nothing runs it: fanout-briefs worker {app}"])
    elif Concern.WORK_OVERDUE in concerns:
        yield Step([f"work waits for longer than {show.length(found.horizon)}: see why, or run more workers"])
    if Concern.NEVER_PLANNED in concerns:
        yield Step([f"plan and run, every few minutes: fanout-briefs run {app} --every 5m"])
    elif Concern.PLAN_OVERDUE in concerns:
        yield Step([f"plan at least every {show.length(found.horizon)}: fanout-briefs run {app} --every 5m"])
    elif found.briefs.planned_at and found.briefs.mark and found.briefs.mark < found.briefs.planned_at:
        yield Step([f"what could not be decided is told by: fanout-briefs plan {app} --dry-run"])


def _nobody_works(found: Status) -> bool:
    both = _both(found)
    oldest = min((each.oldest for each in both if each.oldest is not None), default=found.now)
    return found.now - oldest > _SLOW and not any(each.running for each in both)
