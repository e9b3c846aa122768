"""The command line ``fanout-briefs``; needs the extra ``cli``."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what to install."""
    try:
        from fanout_briefs.cli.commands import app  # noqa: PLC0415 - so that a missing extra can be told
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        raise SystemExit(f"fanout-briefs needs {error.name}: pip install 'fanout-briefs[cli]'") from error
    app()
