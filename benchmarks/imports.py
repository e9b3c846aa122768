"""How long importing takes, beside that of what it stands on, each in a process of its own.

    uv run --group bench python benchmarks/imports.py [--quick] [--json FILE]

Processes take turns, and medians are compared. Bytecode is compiled before.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

from _report import Bar, claims, setting, table

BASE = "import anyio, attrs"
OURS = "import fanout_briefs"
STATEMENTS = (
    BASE,
    OURS,
    "from fanout_briefs import gather_settled",
    "from fanout_briefs import Schedule",
    "from fanout_briefs import Briefs",
)


def seconds(statement: str) -> float:
    program = f"from time import perf_counter; begun = perf_counter(); {statement}; print(perf_counter() - begun)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for statement in STATEMENTS:
        seconds(statement)  # compiles
    for _ in range(3 if arguments.quick else 25):
        for statement in random.sample(STATEMENTS, len(STATEMENTS)):
            found[statement].append(seconds(statement))
    base = median(found[BASE])
    rows = [
        f"| `{statement}` | {median(times) * 1000:.0f} | {median(times) / base:.2f} |"
        for statement, times in found.items()
    ]
    print(setting({"anyio", "attrs", "typing-extensions"}), end="\n\n")
    ratio = median(found[OURS]) / base
    print(claims([Bar(f"`{OURS}`, ratio to `{BASE}`", ratio, 1.6, tried=not arguments.quick)]), end="\n\n")
    print(table(["", "ms", "ratio"], rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
