"""Commands that do the work: run, worker, plan."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from fanout_briefs.briefs import Briefs
from fanout_briefs.cli import show, show_run
from fanout_briefs.cli.exits import do, fail, load_or_exit, log, out
from fanout_briefs.cli.options import GRACE, App, AsOf, Grace, Json, duration, refuse_the_future
from fanout_briefs.cli.signals import Stop
from fanout_briefs.model import JobStatus
from fanout_briefs.plans import PlanReport, Verdict
from fanout_briefs.runs import RunReport

__all__ = ["plan", "run", "run_and_show", "serve_and_show", "worker"]

_POLL = timedelta(seconds=2)
_REVIEW = timedelta(days=1)
"""How far back to report slots that are already done, or stuck."""
_CUT_SHORT = "the time to finish was up: what still ran was given back; run it again and it goes on where it was"

Poll = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="TIME", help="How often to look for due work; default: 2s."),
]


def run(  # noqa: PLR0917 - the command line passes them by name
    application: App,
    as_of: AsOf = None,
    every: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="TIME", help="Go on until stopped, planning this often, such as 5m."),
    ] = None,
    poll: Poll = None,
    grace: Grace = None,
    json: Json = False,
) -> None:
    """Plan, generate and deliver what is due, once. Running it again for the same moment does nothing twice."""
    if every is not None and (as_of is not None or json):
        raise typer.BadParameter("--every goes on by the clock: leave out --as-of and --json")
    if every is None and poll is not None:
        raise typer.BadParameter("--poll is for --every: a single run looks until nothing is due")
    refuse_the_future(as_of)
    briefs = load_or_exit(application)
    grace = GRACE if grace is None else grace
    if every is not None:
        if every > briefs.horizon:
            raise typer.BadParameter(f"every={every}: must not be longer than the horizon of {briefs.horizon}")
        do(lambda: serve_and_show(briefs, every, poll=poll or _POLL, grace=grace))
    else:
        _exit(do(lambda: run_and_show(briefs, as_of or datetime.now(UTC), grace=grace, json=json)))


def worker(application: App, poll: Poll = None, grace: Grace = None) -> None:
    """Generate and deliver what is due, until stopped. Planning is left to others."""
    briefs = load_or_exit(application)
    do(lambda: serve_and_show(briefs, None, poll=poll or _POLL, grace=GRACE if grace is None else grace))


def plan(
    application: App,
    as_of: AsOf = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the same decisions, and queue nothing.")] = False,
    json: Json = False,
) -> None:
    """Queue a brief for everybody due. Shows who is, and why the others are not."""
    if not dry_run:
        refuse_the_future(as_of)
    briefs, now = load_or_exit(application), as_of or datetime.now(UTC)
    verdicts: list[Verdict] = []

    async def planned() -> tuple[PlanReport | None, int]:
        report: PlanReport | None = None
        async with briefs, Stop(GRACE) as stop:
            report = await briefs.plan(now, dry_run=dry_run, on_verdict=verdicts.append, review=_REVIEW)
        return report, stop.status

    report, stopped = do(planned)
    if report is None:
        kept = "" if dry_run else "; plan again and it goes on where it was"
        fail(f"the time to finish was up before the plan was whole{kept}", stopped)
    ok = _is_well(report)
    if json:
        show.text(out, show.as_json({"as_of": now, "plan": report, "verdicts": verdicts, "ok": ok}))
    else:
        _say_as_of(now)
        show_run.plan_report(out, report)
        if verdicts:
            out.print()
            show_run.verdicts(out, verdicts)
    show_run.problems(log, report.problems)
    _exit(stopped or int(not ok))


async def run_and_show(briefs: Briefs, now: datetime, *, grace: timedelta = GRACE, json: bool = False) -> int:
    """Plan and run once, showing progress and both reports; return the exit status.

    On a signal, it starts nothing more, lets running work finish within ``grace``, and reports what was done.
    """
    if not json:
        _say_as_of(now)
    planned: PlanReport | None = None
    ran: RunReport | None = None
    seen = show_run.Seen(briefs.name)
    async with briefs, Stop(grace) as stop:
        planned = await briefs.plan(now)
        if not planned.enqueued:  # Look up what is already done: it costs queries, but there is little else to do.
            planned = await briefs.plan(now, review=_REVIEW)
        if not json:
            show_run.plan_report(out, planned)
        with show_run.progress(log, briefs.name, planned.enqueued) as seen.tell:
            ran = await briefs.run_once(now, seen, draining=stop.draining)
    done = seen.report(now) if ran is None else ran
    ok = planned is not None and _is_well(planned) and done.ok and not stop.status
    if json:
        show.text(out, show.as_json({"as_of": now, "plan": planned, "run": done, "ok": ok}))
    else:
        show_run.run_report(out, done, seen)
    show_run.problems(log, (*(planned.problems if planned is not None else ()), *done.problems))
    if ran is None:
        show.line(log, "Stopped", _CUT_SHORT)
    return stop.status or int(not ok)


async def serve_and_show(briefs: Briefs, every: timedelta | None, *, poll: timedelta, grace: timedelta) -> None:
    """Serve until a signal, then let running work finish within ``grace``; with ``every=None``, plan nothing."""
    what = "running what is due and planning nothing" if every is None else f"planning every {every}"
    async with briefs, Stop(grace, drains_itself=True):
        show.line(out, "Serving", f"{briefs.name}, {what}; Ctrl-C lets what runs finish")
        await briefs.serve(
            every=every,
            poll=poll,
            grace=grace,
            work=True if every is None else None,
            on_round=lambda done: show_run.turn(out, log, done),
        )


def _say_as_of(now: datetime) -> None:
    show.line(out, "As of", show.moment(now.astimezone(UTC)))


def _is_well(report: PlanReport) -> bool:
    """Whether nothing needs attention, including slots that failed in an earlier run."""
    stuck = (JobStatus.FAILED, JobStatus.UNKNOWN)
    return report.ok and not any(report.existing.get(status) for status in stuck)


def _exit(status: int) -> None:
    if status:
        raise typer.Exit(status)
