"""Which points are tried, and how many were: ``python tests/points/point_counts.py FILE`` puts the counts into the docs.

``nightly`` tries every point, every day a few spread over the way. Where ``POINTS_TOLD`` names a file, each point that was
tried is added to it, one line of JSON, and not tried again by whoever goes on from there. This command makes the table of
``docs/faults.md`` of them.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import define, field

__all__ = ["PHASES", "Tried", "every", "is_nightly", "spread"]

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
PHASES = ("open", "sign up", "plan", "claim", "generate", "save", "send")
"""In the order in which a day comes through them."""
BEGIN, END = "<!-- counts: begin -->", "<!-- counts: end -->"


def is_nightly() -> bool:
    return os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def every(count: int) -> Sequence[int]:
    """Every number from 1 to ``count``."""
    return range(1, count + 1)


def spread(count: int, few: int, seed: object) -> Sequence[int]:
    """Every number from 1 to ``count``; on ordinary days ``few`` of them, one of each stretch of the way."""
    if is_nightly() or count <= few:
        return every(count)
    rng = random.Random(str(seed))
    edges = [count * number // few for number in range(few + 1)]
    return [rng.randint(begin + 1, end) for begin, end in pairwise(edges)]


@define
class Tried:
    """The points that one test has tried, by number: what happened there, and in which phase.

    Attributes:
        where: The storage and the event loop.
        what: Which days these were.
    """

    where: str
    what: str
    points: dict[int, tuple[str, str]] = field(factory=dict[int, tuple[str, str]])

    def __attrs_post_init__(self) -> None:
        rows = _rows(os.environ.get("POINTS_TOLD", ""))
        self.points |= {
            number: (kind, phase)
            for where, what, number, kind, phase in rows
            if [where, what] == [self.where, self.what]
        }

    def left(self, numbers: Iterable[int]) -> Sequence[int]:
        """Those that the file does not have, in no order, so that whoever is cut off has been everywhere."""
        left = [number for number in numbers if number not in self.points]
        random.Random(len(left)).shuffle(left)
        return left

    def add(self, number: int, kind: str, phase: str) -> None:
        self.points[number] = (kind, phase)
        if (file := os.environ.get("POINTS_TOLD")) is not None:
            with Path(file).open("a", encoding="utf-8") as kept:
                kept.write(json.dumps([self.where, self.what, number, kind, phase]) + "\n")

    def told(self) -> str:
        """The points by phase, for whoever watches."""
        kinds: dict[str, Counter[str]] = {}
        for kind, phase in self.points.values():
            kinds.setdefault(kind, Counter())[phase] += 1
        return "".join(
            f"{self.where}, {self.what}{'' if kind in self.what else f', {kind}'}: {phases.total()} points, "
            f"{', '.join(f'{phase} {phases[phase]}' for phase in PHASES if phases[phase])}\n"
            for kind, phases in kinds.items()
        )


def _rows(file: str) -> list[Any]:
    return (
        [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        if Path(file).is_file()
        else []
    )


def _table(rows: Iterable[Any]) -> Iterator[str]:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for where, _, _, kind, phase in rows:
        counts.setdefault((kind, where.split(" on ")[0]), Counter())[phase] += 1
    yield f"| what goes wrong | where | {' | '.join(PHASES)} | in all |"
    yield f"|---|---|{'---:|' * (len(PHASES) + 1)}"
    for (kind, place), phases in sorted(counts.items()):
        cells = [kind, place, *(f"{phases[phase]:,}" if phases[phase] else "" for phase in PHASES)]
        yield f"| {' | '.join(cells)} | {phases.total():,} |"
    whole = sum(counts.values(), Counter[str]())
    yield f"| in all | | {' | '.join(f'{whole[phase]:,}' for phase in PHASES)} | {whole.total():,} |"


def main(file: str) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_table({tuple(row[:3]): row for row in _rows(file)}.values()))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(sys.argv[1])
