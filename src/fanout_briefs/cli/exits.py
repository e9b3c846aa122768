"""How commands end: their exit statuses and error messages.

Exit status: 0 all is well, 1 something failed or is stuck, 2 the command could not run. 130 is Ctrl-C and 143 is
SIGTERM, as is usual in shells.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import anyio
import typer

from fanout_briefs.briefs import Briefs
from fanout_briefs.cli import show
from fanout_briefs.cli.application import NoApplication, load
from fanout_briefs.errors import (
    BriefFailed,
    InvalidSchedule,
    PermanentFailure,
    RetryLater,
    StorageUnavailable,
    UnknownUser,
)

__all__ = ["do", "ended", "fail", "load_or_exit", "log", "out"]

out: show.Printer = show.Printer()
log: show.Printer = show.Printer(stderr=True)
_Got = TypeVar("_Got")


def load_or_exit(name: str) -> Briefs:
    """Return the application of this name, or say why there is none and exit."""
    try:
        return load(name)
    except NoApplication as error:
        if error.__cause__ is not None:
            _show_code_of_the_host(error.__cause__)
        fail(str(error))


def do(work: Callable[[], Awaitable[_Got]]) -> _Got:
    """Run a command's work; if it fails, say why and exit."""
    try:
        return anyio.run(work)
    except (StorageUnavailable, InvalidSchedule, UnknownUser) as error:
        fail(str(error))
    except (BriefFailed, PermanentFailure, RetryLater) as error:
        fail(str(error), 1)
    except Exception as error:
        _show_code_of_the_host(error)
        fail(f"stopped by {type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except SystemExit as error:
        # The event loop is torn down, but its threads may never end, and Python would wait for them.
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        where = f"{frame.f_code.co_filename}, line {line}"
        show.line(log, "Error", f"stopped by the application's own sys.exit({error.code!r}) in {where}", "red")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(1)


def ended(status: object) -> object:
    """Return the exit status of a command that ended with ``status``; not 0 if something could not be printed."""
    for name, printer in (("output", out), ("error", log)):
        if printer.failure is not None:
            show.line(log, "Error", f"standard {name} could not be written: {printer.failure.strerror}", "red")
            status = status or 1
    return status


def fail(message: str, status: int = 2) -> NoReturn:
    """Print what is wrong, and exit with this status."""
    show.line(log, "Error", message, "red")
    raise typer.Exit(status)


def _show_code_of_the_host(error: BaseException) -> None:
    """Print a traceback without the frames of this command line and of Python's import."""
    own = (str(Path(__file__).parent), "<frozen importlib", str(Path(importlib.__file__).parent))
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(own):
        frames = frames.tb_next
    if frames is not None:
        log.print("".join(traceback.format_exception(error.with_traceback(frames))), end="", markup=False)
