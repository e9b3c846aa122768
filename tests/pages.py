"""The pages of the documentation: their fences, what each is to print, and how a page is followed from top to end."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"""^(?P<indent>[ ]*)(?:<!--\ not\ run:\ (?P<why>[^\n]+)\ -->\n[ ]*)?
    ```(?P<language>\w*)(?:\ title="(?P<title>[^"]+)")?\n
    (?P<code>.*?)^(?P=indent)```\n
    (?:\n(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```$)?""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_SHOWN = {"text", ""}


@frozen
class Fence:
    """One fence of a page.

    Attributes:
        place: The page, and which of its fences.
        title: The file it is to be saved as.
        why: Why it is not run; None: it is.
        output: What it prints, where a fence of text follows at once. A line of three dots stands for any others.
    """

    place: str
    language: str
    title: str | None
    why: str | None
    code: str
    output: str | None


def fences(page: Path) -> list[Fence]:
    """Give the fences of code on a page, in order."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [
        Fence(f"{page.relative_to(ROOT)}:{number}", **{name: match[name] for name in _GIVEN})
        for number, match in enumerate(found, start=1)
        if match["language"] not in _SHOWN
    ]


_GIVEN = ("language", "title", "why", "code", "output")


def prints(fence: Fence, printed: str) -> None:
    """Hold what a fence printed to what the page says."""
    if fence.output is None:
        return
    got = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    checker, example = doctest.OutputChecker(), doctest.Example("", fence.output)
    if not checker.check_output(fence.output, got, doctest.ELLIPSIS):
        raise AssertionError(f"{fence.place}: {checker.output_difference(example, got, doctest.ELLIPSIS)}")


def follow(page: Path, folder: Path, environment: dict[str, str], *, skip: int = 0) -> Iterator[tuple[Fence, str]]:
    """Do what a page says: save each fence that has a title, run each of bash, one after another as in one shell.

    Yields each command's fence with what it printed on both streams. Where a fence changes folder or environment, the
    next one goes on from there.

    Args:
        page: Which.
        folder: Where to begin.
        environment: What to begin with.
        skip: How many fences to leave out.
    """
    state = folder / ".state"
    for fence in fences(page)[skip:]:
        if fence.title is not None:
            (folder / fence.title).write_text(fence.code, encoding="utf-8")
        elif fence.language == "bash" and fence.why is None:
            script = f"set -e\n{fence.code}\npwd > {state}\nenv -0 >> {state}\n"
            ran = subprocess.run(
                ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{fence.place}: {ran.stdout}{ran.stderr}"
            where, _, variables = state.read_text(encoding="utf-8").partition("\n")
            folder = Path(where)
            environment = dict(each.split("=", 1) for each in variables.split("\0") if each)
            yield fence, ran.stdout + ran.stderr


def plain_environment() -> dict[str, str]:
    """Give the environment without what would colour or fold the output of commands."""
    return {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "COLUMNS"}}
