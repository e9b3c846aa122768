"""Commands that change nothing: status, explain, preview."""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from fanout_briefs.cli import show, show_status
from fanout_briefs.cli.exits import do, fail, load_or_exit, log, out
from fanout_briefs.cli.options import App, AsOf, Json, KnownUser, On, Since, User, written
from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief
from fanout_briefs.operate import Status

__all__ = ["explain", "preview", "status"]

_DAY = timedelta(days=1)


def status(application: App, since: Since = None, as_of: AsOf = None, json: Json = False) -> None:
    """Show how everything stands, and what to do next. One screen."""
    briefs = load_or_exit(application)

    async def looked() -> Status:
        async with briefs:
            return await briefs.status(as_of, since=since or _DAY)

    found = do(looked)
    steps = show_status.next_steps(found, shlex.quote(application), None if since is None else written(since))
    if json:
        told = {"next": [" ".join(step.lines) for step in steps], "concerns": found.concerns}
        show.text(out, show.as_json({"status": found, **told, "ok": found.ok}))
    else:
        show_status.status(out, found, steps)
    if not found.ok:
        raise typer.Exit(1)


def explain(application: App, user: User, on: On = None, as_of: AsOf = None, json: Json = False) -> None:
    """Show what became of a user's brief, and why. For a date without one: what would."""
    briefs = load_or_exit(application)

    async def explained() -> Explanation:
        async with briefs:
            return await briefs.explain(user, on, now=as_of)

    found = do(explained)
    if json:
        show.text(out, show.as_json({"explanation": found}))
    else:
        show.explanation(out, found)


def preview(
    application: App,
    user: KnownUser,
    as_of: AsOf = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write the HTML to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a user's next brief. Nothing is saved, nothing is sent."""
    briefs = load_or_exit(application)

    async def previewed() -> Brief | None:
        async with briefs:
            return await briefs.preview(user, now=as_of)

    brief = do(previewed)
    if brief is not None and html is not None:
        _write(html, brief.rendered.html)
    if json:
        show.text(out, show.as_json({"brief": brief}))
    else:
        show.brief(out, brief)
    if brief is not None:
        show.failed_sections(log, brief)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}; name a file that you may write to")
    show.line(log, "Written", str(path))
