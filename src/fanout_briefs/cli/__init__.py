"""The command line ``fanout-briefs``; needs the extra ``cli``."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what must be installed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Some terminals cannot show every name.
    try:
        from fanout_briefs.cli.commands import app  # noqa: PLC0415 - so that a missing extra can be told
        from fanout_briefs.cli.exits import ended  # noqa: PLC0415
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        raise SystemExit(f"fanout-briefs needs {error.name}: pip install 'fanout-briefs[cli]'") from error
    try:
        app(prog_name="fanout-briefs")
    except SystemExit as end:
        raise SystemExit(ended(end.code)) from None
