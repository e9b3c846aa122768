"""The commands. Exit status: 0 all is well, 1 something failed or is stuck, 2 the command could not run.

130 is Ctrl-C, as shells have it.
"""

from __future__ import annotations

import importlib
import os
import signal
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import anyio
import typer

from fanout_briefs.briefs import Briefs
from fanout_briefs.cli import show
from fanout_briefs.cli.application import NoApplication, load
from fanout_briefs.cli.starter import write_starter
from fanout_briefs.errors import (
    BriefFailed,
    InvalidSchedule,
    PermanentFailure,
    RetryLater,
    StorageUnavailable,
    UnknownUser,
)
from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief, JobStatus
from fanout_briefs.planner import PlanReport, Verdict
from fanout_briefs.runs import RunReport

__all__ = ["app", "explain", "init", "plan", "preview", "run", "run_and_show", "serve_and_show"]

app = typer.Typer(
    help="Plan, generate and deliver a recurring brief to each user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Boxes break long messages, which then cannot be searched for or copied.
)
_out = show.Printer()
_log = show.Printer(stderr=True)
_Got = TypeVar("_Got")
_YEARS = range(1970, 9000)
_FUTURE = timedelta(days=1)
_REVIEW = timedelta(days=1)
"""How far back to tell what is done already, or stuck."""


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 instant, such as 2026-11-23T08:00+01:00") from None
    if instant.utcoffset() is None:
        given = instant.isoformat()
        raise typer.BadParameter(f"{text!r} has no offset: write {given}Z for UTC, or such as {given}+01:00")
    if instant.year not in _YEARS:
        raise typer.BadParameter(f"{text!r}: must be in the years {_YEARS[0]} to {_YEARS[-1]}")
    return instant


def _duration(text: str) -> timedelta:
    units = {"s": "seconds", "m": "minutes", "h": "hours"}
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and int(number) and unit in units):
        raise typer.BadParameter(f"{text!r} is no time: write a whole number and s, m or h, such as 5m")
    return timedelta(**{units[unit]: int(number)})


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date, such as 2026-11-23") from None


App = Annotated[
    str, typer.Argument(metavar="APP", help="The application, as module:attribute; a Briefs, or what makes one.")
]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
AsOf = Annotated[
    datetime | None,
    typer.Option(parser=_instant, metavar="INSTANT", help="The moment to act for, ISO 8601 with offset; default: now."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.command()
def run(
    application: App,
    as_of: AsOf = None,
    every: Annotated[
        timedelta | None,
        typer.Option(parser=_duration, metavar="TIME", help="Go on until stopped, planning this often, such as 5m."),
    ] = None,
    json: Json = False,
) -> None:
    """Plan, generate and deliver what is due, once. Running it again for the same moment does nothing twice."""
    if every is not None and (as_of is not None or json):
        raise typer.BadParameter("--every goes on by the clock: leave out --as-of and --json")
    _refuse_the_future(as_of)
    briefs = _load(application)
    if every is not None:
        if every > briefs.horizon:
            raise typer.BadParameter(f"every={every}: must not be longer than the horizon of {briefs.horizon}")
        _do(lambda: serve_and_show(briefs, every))
    elif not _do(lambda: run_and_show(briefs, as_of or datetime.now(UTC), json=json)):
        raise typer.Exit(1)


@app.command()
def plan(
    application: App,
    as_of: AsOf = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide alike, and queue nothing.")] = False,
    json: Json = False,
) -> None:
    """Queue a brief for everybody due. Tells who is, and why the others are not."""
    if not dry_run:
        _refuse_the_future(as_of)
    briefs, now = _load(application), as_of or datetime.now(UTC)
    verdicts: list[Verdict] = []

    async def planned() -> PlanReport:
        async with briefs:
            return await briefs.plan(now, dry_run=dry_run, on_verdict=verdicts.append, review=_REVIEW)

    report = _do(planned)
    ok = _is_well(report)
    if json:
        show.text(_out, show.as_json({"as_of": now, "plan": report, "verdicts": verdicts, "ok": ok}))
    else:
        _say_as_of(now)
        show.plan_report(_out, report)
        if verdicts:
            _out.print()
            show.verdicts(_out, verdicts)
    show.problems(_log, report.problems)
    if not ok:
        raise typer.Exit(1)


@app.command()
def explain(
    application: App,
    user: User,
    on: Annotated[
        date | None, typer.Option(parser=_date, metavar="DATE", help="The user's local date; default: today.")
    ] = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Tell what became of a user's brief, and why. Of a date without one, what would."""
    briefs = _load(application)

    async def explained() -> Explanation:
        async with briefs:
            return await briefs.explain(user, on, as_of)

    found = _do(explained)
    if json:
        show.text(_out, show.as_json({"explanation": found}))
    else:
        show.explanation(_out, found)


@app.command()
def preview(
    application: App,
    user: User,
    as_of: AsOf = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write the HTML to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a user's next brief. Nothing is saved, nothing is sent."""
    briefs = _load(application)

    async def previewed() -> Brief | None:
        async with briefs:
            return await briefs.preview(user, as_of)

    brief = _do(previewed)
    if brief is not None and html is not None:
        _write(html, brief.rendered.html)
    if json:
        show.text(_out, show.as_json({"brief": brief}))
    elif brief is None:
        show.text(_out, "There is nothing to say: no projects, or nothing new in any.")
    else:
        show.text(_out, brief.rendered.text.rstrip("\n"))
    if brief is not None and brief.failed:
        failed = ", ".join(f"{section.title} ({section.error})" for section in brief.failed)
        show.line(_log, "Problem", f"sections that could not be made: {failed}", "red")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is missing.")] = Path(),
) -> None:
    """Write a small application that runs as it is."""
    try:
        written = write_starter(folder)
    except FileExistsError as error:
        _fail(f"{error.filename} exists already, and was left as it is: move it, or name another folder")
    except OSError as error:
        _fail(f"cannot write the starter to {error.filename}: {error.strerror}; name a folder that you may write to")
    for path in written:
        show.text(_out, f"wrote {path}")
    change = "" if folder == Path() else f"cd {folder} && "
    show.text(_out, f"\nNow run:  {change}fanout-briefs run app:briefs")


async def run_and_show(briefs: Briefs, now: datetime, *, json: bool = False) -> bool:
    """Plan and run once, showing progress and both reports; return whether all is well."""
    if not json:
        _say_as_of(now)
    async with briefs:
        planned = await briefs.plan(now, review=_REVIEW)
        if not json:
            show.plan_report(_out, planned)
        with show.progress(_log, briefs.name, planned.enqueued) as tell:
            seen = show.Seen(briefs.name, tell)
            ran: RunReport = await briefs.run_once(now, seen)
    ok = _is_well(planned) and ran.ok
    if json:
        show.text(_out, show.as_json({"as_of": now, "plan": planned, "run": ran, "ok": ok}))
    else:
        show.run_report(_out, ran, seen)
    show.problems(_log, (*planned.problems, *ran.problems))
    return ok


async def serve_and_show(briefs: Briefs, every: timedelta) -> None:
    """Serve until SIGINT or SIGTERM, then let what runs finish; a second signal ends the process at once."""
    async with briefs, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as serving:
            tasks.start_soon(_stop_on_signal, serving)
            show.line(_out, "Serving", f"{briefs.name}, planning every {every}; Ctrl-C lets what runs finish")
            await briefs.serve(every=every, on_round=lambda done: show.turn(_out, _log, done))
        tasks.cancel_scope.cancel()


async def _stop_on_signal(serving: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if serving.cancel_called:
                os._exit(128 + number)  # What is left is found by its lease, as after any other death.
            show.line(_log, "Stopping", "nothing more is begun; once more ends it at once")
            serving.cancel()


def _say_as_of(now: datetime) -> None:
    show.line(_out, "As of", show.moment(now.astimezone(UTC)))


def _refuse_the_future(as_of: datetime | None) -> None:
    """A moment that was planned counts as done, so one mistyped year would end catching up until then."""
    if as_of is not None and as_of > datetime.now(UTC) + _FUTURE:
        raise typer.BadParameter(
            f"--as-of {as_of.isoformat()} lies in the future, and all before it would count as planned: "
            "look ahead with plan --dry-run, explain or preview"
        )


def _is_well(report: PlanReport) -> bool:
    """Whether nothing needs a person's eye, slots that failed in an earlier run included."""
    stuck = (JobStatus.FAILED, JobStatus.UNKNOWN)
    return report.ok and not any(report.existing.get(status) for status in stuck)


def _load(name: str) -> Briefs:
    try:
        return load(name)
    except NoApplication as error:
        if error.__cause__ is not None:
            _show_code_of_the_host(error.__cause__)
        _fail(str(error))


def _do(work: Callable[[], Awaitable[_Got]]) -> _Got:
    try:
        return anyio.run(work)
    except (StorageUnavailable, InvalidSchedule, UnknownUser) as error:
        _fail(str(error))
    except (BriefFailed, PermanentFailure, RetryLater) as error:
        _fail(str(error), 1)
    except Exception as error:
        _show_code_of_the_host(error)
        _fail(f"stopped by {type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        _fail("stopped; run it again and it goes on where it was", 130)


def _show_code_of_the_host(error: BaseException) -> None:
    """Print a traceback without the frames of this command line and of Python's import."""
    own = (str(Path(__file__).parent), "<frozen importlib", str(Path(importlib.__file__).parent))
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(own):
        frames = frames.tb_next
    if frames is not None:
        _log.print("".join(traceback.format_exception(error.with_traceback(frames))), end="", markup=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        _fail(f"cannot write {path}: {error.strerror}; name a file that you may write to")
    show.line(_log, "Written", str(path))


def _fail(message: str, status: int = 2) -> NoReturn:
    show.line(_log, "Error", message, "red")
    raise typer.Exit(status)
