"""The commands of the command line, in the order of ``--help``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fanout_briefs.cli import show
from fanout_briefs.cli.exits import fail, out
from fanout_briefs.cli.look import explain, preview, status
from fanout_briefs.cli.operate import (
    cancel,
    forget,
    generate_now,
    pause,
    prune,
    reconcile,
    regenerate,
    resume,
    retry,
)
from fanout_briefs.cli.run import plan, run, worker
from fanout_briefs.cli.starter import write_starter

__all__ = ["app", "init"]

app: typer.Typer = typer.Typer(
    help="Plan, generate and deliver a recurring brief to each user.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Boxes break long messages, which then cannot be searched for or copied.
)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to put it; created if it is missing.")] = Path(),
) -> None:
    """Write a small application that runs as it is."""
    try:
        written = write_starter(folder)
    except FileExistsError as error:
        fail(f"{error.filename} exists already, and was left as it is: move it, or name another folder")
    except OSError as error:
        fail(f"cannot write the starter to {error.filename}: {error.strerror}; name a folder that you may write to")
    for path in written:
        show.text(out, f"wrote {path}")
    change = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    show.text(out, f"\nNow run:  {change}fanout-briefs run app:briefs")


for _command in (
    *(init, run, worker, plan, status, explain, preview),
    *(retry, cancel, regenerate, generate_now, pause, resume, reconcile, prune, forget),
):
    app.command()(_command)
