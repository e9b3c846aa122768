"""Prints values: labelled lines and tables for people, JSON for machines. No output can control the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, cast

from attrs import asdict, has
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief

__all__ = [
    "Printer",
    "as_json",
    "brief",
    "counts",
    "explanation",
    "failed_sections",
    "length",
    "line",
    "moment",
    "one_line",
    "table",
    "text",
]


class Printer(Console):
    """Prints lines unwrapped, whatever the width of the terminal. If printing fails, the work goes on unseen.

    Attributes:
        failure: Why something could not be printed, such as a full disk. A closed pipe, as with ``head``, does not
            count.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        """Print to standard output, or to standard error."""
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, emoji=False)
        self.failure: OSError | None = None

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; an error of the output file never stops the work."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self.failure = error
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Discard all further output; rich would end the process here, in the middle of the work."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # When Python exits, buffered output goes there, too.
        os.close(nowhere)


def as_json(value: Mapping[str, object]) -> str:
    """Return values of the library as one JSON document in ASCII, with instants in ISO 8601."""
    return json.dumps(value, default=_plain, indent=2)


def _plain(value: object) -> object:
    if has(type(value)):
        shown = asdict(cast("Any", value), recurse=False)
        ok: object = getattr(value, "ok", None)
        return shown if ok is None else {**shown, "ok": ok}
    return value.isoformat() if isinstance(value, date) else str(value)


def moment(instant: datetime) -> str:
    """Format an instant in UTC, to the second."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def length(time: timedelta) -> str:
    """Format a length of time in its two largest units, such as ``3 h 5 min``."""
    seconds = max(int(time.total_seconds()), 0)
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    largest = next((place for place, (_, count) in enumerate(units) if count), len(units) - 1)
    shown = [f"{count:,} {unit}" for unit, count in units[largest : largest + 2] if count]
    return " ".join(shown) or "0 s"


def text(console: Console, text: str) -> None:
    """Print lines as they are, without what could control the terminal."""
    console.out("".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text))


def line(console: Console, label: str, text: str, style: str = "bold") -> None:
    """Print one labelled line; its text cannot control the terminal."""
    console.print(f"[{style}]{label:<9}[/{style}] {_safe(text)}")


def _safe(text: str) -> str:
    """Escape markup and control characters; indent continuation lines to the text's column."""
    shown = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    return escape(shown.replace("\n", "\n" + " " * 10))


def one_line(text: str) -> str:
    """Return text on one line, without what could control the terminal; rich's markup must still be escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def counts(counts: Mapping[Any, int], order: Iterable[object] = ()) -> str:
    """Format the counts that are not zero, those named by ``order`` first."""
    counts = {key: counts[key] for key in (*order, *counts) if key in counts}
    return ", ".join(f"{count:,} {str(key).replace('_', ' ')}" for key, count in counts.items() if count)


def table(console: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their contents, so that a log shows the same as a terminal."""
    cells = [list(header), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        text = escape("  ".join(padded).rstrip())
        console.print(text if number else f"[bold]{text}[/bold]")


def explanation(console: Console, found: Explanation) -> None:
    """Print what became of one user's date, stage by stage."""
    code = found.code.value.replace("_", " ")
    console.print(f"{escape(one_line(found.user_id))} on {found.on}: [bold]{code}[/bold]")
    for stage in found.stages:
        console.print(f"  {stage.name:<11} {escape(one_line(stage.verdict))}")


def brief(console: Console, made: Brief | None) -> None:
    """Print a brief as its reader sees it."""
    nothing = "There is nothing to say: no projects, or nothing new in any."
    text(console, nothing if made is None else made.rendered.text.rstrip("\n"))


def failed_sections(console: Console, made: Brief) -> None:
    """Print what is missing in a brief, if anything."""
    failed = ", ".join(f"{section.title} ({section.error})" for section in made.failed)
    if failed:
        line(console, "Problem", f"sections that could not be made: {failed}", "red")
