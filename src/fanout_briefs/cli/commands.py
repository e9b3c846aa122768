"""The commands. Exit status: 0 all is well, 1 something failed or is stuck, 2 the command could not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import anyio
import typer
from rich.console import Console
from rich.markup import escape

from fanout_briefs.briefs import Briefs
from fanout_briefs.cli import show
from fanout_briefs.cli.application import NoApplication, load
from fanout_briefs.cli.starter import write_starter
from fanout_briefs.errors import InvalidSchedule, StorageUnavailable, UnknownUser
from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief
from fanout_briefs.planner import PlanReport, Verdict
from fanout_briefs.worker import RunReport

__all__ = ["app", "explain", "init", "plan", "preview", "run", "run_and_show"]

app = typer.Typer(
    help="Plan, generate and deliver a recurring brief to each user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console(soft_wrap=True)
_log = Console(stderr=True, soft_wrap=True)
_Got = TypeVar("_Got")


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 instant, such as 2026-11-23T08:00+01:00") from None
    if instant.utcoffset() is None:
        raise typer.BadParameter(f"{text!r} has no offset: write 2026-11-23T08:00Z or 2026-11-23T08:00+01:00")
    return instant


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
def run(application: App, as_of: AsOf = None, json: Json = False) -> None:
    """Plan, generate and deliver what is due, once. Running it again for the same moment does nothing twice."""
    briefs = _load(application)
    if not _do(lambda: run_and_show(briefs, as_of or datetime.now(UTC), json=json)):
        raise typer.Exit(1)


@app.command()
def plan(
    application: App,
    as_of: AsOf = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide alike, and write nothing.")] = False,
    json: Json = False,
) -> None:
    """Queue a brief for everybody due; tell who is, and why the others are not."""
    briefs, now = _load(application), as_of or datetime.now(UTC)
    verdicts: list[Verdict] = []

    async def planned() -> PlanReport:
        async with briefs:
            return await briefs.plan(now, dry_run=dry_run, on_verdict=verdicts.append)

    report = _do(planned)
    if json:
        typer.echo(show.as_json({"as_of": now, "plan": report, "verdicts": verdicts, "ok": report.ok}))
    else:
        _out.print(f"As of     {show.moment(now.astimezone(UTC))}", highlight=False)
        show.verdicts(_out, verdicts)
        show.plan_report(_out, report)
        show.problems(_log, report.problems)
    if not report.ok:
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
    """Tell what became of a user's brief of one date, or what would, and why."""
    briefs = _load(application)

    async def explained() -> Explanation:
        async with briefs:
            return await briefs.explain(user, on, as_of)

    found = _do(explained)
    if json:
        typer.echo(show.as_json({"explanation": found}))
    else:
        show.explanation(_out, found)


@app.command()
def preview(
    application: App,
    user: User,
    as_of: AsOf = None,
    html: Annotated[Path | None, typer.Option(help="Also write the HTML to this file.")] = None,
    json: Json = False,
) -> None:
    """Make a user's next brief, save nothing, send nothing, and print its text."""
    briefs = _load(application)

    async def previewed() -> Brief | None:
        async with briefs:
            return await briefs.preview(user, as_of)

    brief = _do(previewed)
    if brief is None:
        typer.echo("There is nothing to say: no projects, or nothing new in any.")
        return
    if html is not None:
        html.write_text(brief.rendered.html, encoding="utf-8")
        _log.print(f"HTML written to {html}", highlight=False)
    typer.echo(show.as_json({"brief": brief}) if json else brief.rendered.text)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is missing.")] = Path(),
) -> None:
    """Write a small commented application that runs as it is."""
    try:
        written = write_starter(folder)
    except OSError as error:
        _fail(f"cannot write the starter: {error}")
    for path in written:
        typer.echo(f"wrote {path}")
    change = "" if folder == Path() else f"cd {folder} && "
    typer.echo(f"\nNow run:  {change}fanout-briefs run app:briefs")


async def run_and_show(briefs: Briefs, now: datetime, *, json: bool = False) -> bool:
    """Plan and run once, showing progress and both reports; return whether all is well."""
    if not json:
        _out.print(f"As of     {show.moment(now.astimezone(UTC))}", highlight=False)
    async with briefs:
        planned = await briefs.plan(now)
        if not json:
            show.plan_report(_out, planned)
        with show.progress(_log, planned.enqueued) as tell:
            ran: RunReport = await briefs.run_once(now, tell)
    ok = planned.ok and ran.ok
    if json:
        typer.echo(show.as_json({"as_of": now, "plan": planned, "run": ran, "ok": ok}))
    else:
        show.run_report(_out, ran)
    show.problems(_log, (*planned.problems, *ran.problems))
    return ok


def _load(name: str) -> Briefs:
    try:
        return load(name)
    except NoApplication as error:
        _fail(str(error))


def _do(work: Callable[[], Awaitable[_Got]]) -> _Got:
    try:
        return anyio.run(work)
    except (StorageUnavailable, InvalidSchedule, UnknownUser) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _log.print(f"[red]Error[/red]     {escape(message)}", highlight=False)
    raise typer.Exit(2)
