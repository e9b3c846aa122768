"""Which points are tried, and how many were: ``python tests/points/point_counts.py`` puts the counts into the docs.

``nightly`` tries every point, every day a few spread over the way. ``POINTS_PART=2/3`` tries the second third of them.
Where ``POINTS_TOLD`` names a file, each test adds its counts to it, one line of JSON; this command makes the table of
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

from attrs import frozen
from point_story import PHASES

__all__ = ["Tried", "every", "is_nightly", "spread"]

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- counts: begin -->", "<!-- counts: end -->"


def is_nightly() -> bool:
    return os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def every(count: int) -> Sequence[int]:
    """Every number from 1 to ``count``; where ``POINTS_PART`` is ``2/3``, each third of them, from the second on."""
    part, _, parts = os.environ.get("POINTS_PART", "1/1").partition("/")
    return range(int(part), count + 1, int(parts))


def spread(count: int, few: int, seed: object) -> Sequence[int]:
    """Every number from 1 to ``count``; on ordinary days ``few`` of them, one of each stretch of the way."""
    if is_nightly() or count <= few:
        return every(count)
    rng = random.Random(str(seed))
    edges = [count * number // few for number in range(few + 1)]
    return [rng.randint(begin + 1, end) for begin, end in pairwise(edges)]


@frozen
class Tried:
    """What befell whom, and how often in each phase."""

    place: str
    kind: str
    phases: Counter[str]

    def told(self) -> str:
        """A line for whoever watches; it is kept, too, where that is wanted."""
        if (file := os.environ.get("POINTS_TOLD")) is not None:
            line = json.dumps([self.place, self.kind, os.environ.get("POINTS_PART"), dict(self.phases)])
            with Path(file).open("a", encoding="utf-8") as kept:
                kept.write(f"{line}\n")
        counts = ", ".join(f"{phase} {self.phases[phase]}" for phase in PHASES if self.phases[phase])
        return f"{self.place}, {self.kind}: {self.phases.total()} points ({counts})\n"


def _read(lines: Iterable[str]) -> dict[tuple[str, str], Counter[str]]:
    """The latest counts of each test, added up over those that tried the same kind on the same storage."""
    latest: dict[tuple[str, str, str], Counter[str]] = {}
    for place, kind, part, phases in map(json.loads, lines):
        latest[place, kind, part] = Counter(phases)
    added: dict[tuple[str, str], Counter[str]] = {}
    for (place, kind, _), phases in latest.items():
        added.setdefault((place.split(" on ")[0], kind), Counter()).update(phases)
    return added


def _table(counts: dict[tuple[str, str], Counter[str]]) -> Iterator[str]:
    yield f"| what goes wrong | where | {' | '.join(PHASES)} | in all |"
    yield f"|---|---|{'---:|' * (len(PHASES) + 1)}"
    for (place, kind), phases in sorted(counts.items(), key=lambda item: (item[0][1], item[0][0])):
        cells = [kind, place, *(f"{phases[phase]:,}" if phases[phase] else "" for phase in PHASES)]
        yield f"| {' | '.join(cells)} | {phases.total():,} |"
    whole = sum(counts.values(), Counter[str]())
    yield f"| in all | | {' | '.join(f'{whole[phase]:,}' for phase in PHASES)} | {whole.total():,} |"


def main(file: str) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_table(_read(Path(file).read_text(encoding="utf-8").splitlines())))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1])
