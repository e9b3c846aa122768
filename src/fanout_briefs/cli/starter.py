"""Writes the starter project of ``fanout-briefs init``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["write_starter"]


def write_starter(folder: Path) -> list[Path]:
    """Write the starter into ``folder``, which is created if it is missing; return the paths.

    Raises:
        FileExistsError: A file of that name exists; nothing was written.
        OSError: The folder cannot be written to.
    """
    target = folder / "app.py"
    source = files("fanout_briefs.cli").joinpath("starter_app.py.txt").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as file:
        file.write(source)
    return [target]
