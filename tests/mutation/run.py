"""Mutation testing of the algorithms: does a test fail for every change that could be made to them?

    uv run --group mutation python tests/mutation/run.py [SUITE ...] [--minutes 5] [--session FOLDER] [--write]

Suites stand in ``suites.toml``, survivors that are understood in ``survivors.toml``. What was tried is kept in the session's
folder, so a run may be cut off and made again. It ends with 0 if every suite is whole, reaches its floor, and has the
survivors that are listed, no more and no fewer; with 1 if not; with 3 if the minutes were over before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen
from mutants import Mutant, mutants_of
from trial import NO_TESTS, Trial, Verdict, preload

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "mutation.md"
START, STOP = "<!-- figures: tests/mutation/run.py --write -->", "<!-- end of figures -->"
Key = tuple[str, str, str, str, int]


@frozen
class Suite:
    """Files that are mutated, and the tests that are to notice.

    Attributes:
        name: As in ``suites.toml``.
        files: What is mutated.
        tests: What runs, in this order.
        floor: The least share that is to be killed, in percent.
        first: Which tests run first, as pytest's ``-k`` has it; the rest runs only for what survives them.
    """

    name: str
    files: tuple[str, ...] = field(converter=tuple)
    tests: tuple[str, ...] = field(converter=tuple)
    floor: float
    first: str = ""

    def trials(self) -> list[Trial]:
        keywords = [self.first, f"not ({self.first})"] if self.first else [""]
        return [Trial(test, ROOT, keyword) for keyword in keywords for test in self.tests]


class Session:
    """What is known already: a mutant that was killed stays so; one that survived is tried again with other tests."""

    def __init__(self, folder: Path, suite: Suite) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{suite.name}.jsonl"
        self._tests = _digest(*(_read(path) for path in suite.tests))
        self._known: dict[str, Verdict] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                record: dict[str, Any] = json.loads(line)
                verdict = Verdict(record["survived"], record["by"], record["seconds"])
                if verdict.survived and record["tests"] != self._tests:
                    self._known.pop(record["code"], None)
                else:
                    self._known[record["code"]] = verdict

    def verdict(self, mutant: Mutant) -> Verdict | None:
        return self._known.get(_digest(mutant.code))

    def note(self, mutant: Mutant, verdict: Verdict) -> None:
        code = _digest(mutant.code)
        self._known[code] = verdict
        record: dict[str, Any] = {"code": code, "tests": self._tests, "key": mutant.key, **asdict(verdict)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _suites(names: Sequence[str]) -> list[Suite]:
    table = tomllib.loads((HERE / "suites.toml").read_text(encoding="utf-8"))
    unknown = set(names) - set(table)
    if unknown:
        raise SystemExit(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    return [Suite(name, **table[name]) for name in names or table]


def _listed(suite: Suite) -> set[Key]:
    path = HERE / "survivors.toml"
    table: dict[str, list[dict[str, Any]]] = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = table.get("survivor", [])
    for entry in entries:
        if not entry["why"].strip():
            raise SystemExit(f"survivors.toml: {entry['was']!r}: say why it survives")
    return {
        (entry["path"], entry["where"], entry["was"], entry["became"], entry.get("nth", 1))
        for entry in entries
        if entry["path"] in suite.files
    }


def try_all(suite: Suite, session: Session, until: float, jobs: int) -> dict[Mutant, Verdict] | None:
    """Every mutant's verdict; None if ``until``, on the monotonic clock, came before."""
    mutants = [mutant for path in suite.files for mutant in mutants_of(ROOT, path)]
    waiting = [mutant for mutant in mutants if session.verdict(mutant) is None]
    print(f"{suite.name}: {len(mutants)} mutants, {len(waiting)} to try", flush=True)
    trials = _checked(suite, mutants[0].path) if waiting else []
    for mutant, verdict in _tried(trials, waiting, until, jobs):
        session.note(mutant, verdict)
        if verdict.survived:
            print(f"{suite.name}: survived: {_told(mutant)}", flush=True)
    answers = ((mutant, session.verdict(mutant)) for mutant in mutants)
    known = {mutant: answer for mutant, answer in answers if answer is not None}
    if len(known) < len(mutants):
        print(f"{suite.name}: {len(mutants) - len(known)} left for the next run")
        return None
    return known


def _tried(
    trials: Sequence[Trial], mutants: Sequence[Mutant], until: float, jobs: int
) -> Iterator[tuple[Mutant, Verdict]]:
    """Try mutants, ``jobs`` at a time, in one thread, for what is forked should not be in the middle of another."""
    waiting, attempts = list(reversed(mutants)), list[Attempt]()
    try:
        while attempts or (waiting and time.monotonic() < until):
            while waiting and len(attempts) < jobs and time.monotonic() < until:
                attempts.append(Attempt(waiting.pop(), trials))
            for attempt in list(attempts):
                verdict = attempt.verdict()
                if verdict is not None:
                    attempts.remove(attempt)
                    yield attempt.mutant, verdict
            time.sleep(0.02)
    finally:
        for attempt in attempts:
            attempt.stop()


class Attempt:
    """One mutant on its way through the trials, up to the first that it does not survive."""

    def __init__(self, mutant: Mutant, trials: Sequence[Trial]) -> None:
        self.mutant = mutant
        self._ahead = iter(trials)
        self._seconds = 0.0
        self._running = next(self._ahead).start(mutant.path, mutant.code)

    def verdict(self) -> Verdict | None:
        verdict = self._running.verdict()
        if verdict is None:
            return None
        self._seconds += verdict.seconds
        trial = next(self._ahead, None) if verdict.survived else None
        if trial is None:
            return evolve(verdict, seconds=self._seconds)
        self._running = trial.start(self.mutant.path, self.mutant.code)
        return None

    def stop(self) -> None:
        self._running.stop()


def _checked(suite: Suite, path: str) -> list[Trial]:
    """The suite's trials, once they passed what is not mutated; how long that took says how long they may take."""
    preload(suite.tests, ROOT)
    trials: list[Trial] = []
    for trial in suite.trials():
        verdict = trial.run(path, _read(path))
        if not verdict.survived:
            raise SystemExit(f"{suite.name}: {verdict.by} fails without any mutant")
        if verdict.by != NO_TESTS:
            print(f"{suite.name}: {trial.test} {trial.keyword!r} takes {verdict.seconds:.1f} s", flush=True)
            trials.append(evolve(trial, most=int(20 + 8 * verdict.seconds)))
    return trials


def _told(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} in {mutant.where or 'the module'}\n    - {mutant.was}\n    + {mutant.became}"


def _problems(suite: Suite, verdicts: Mapping[Mutant, Verdict]) -> Iterator[str]:
    listed = _listed(suite)
    survivors = {mutant.key: mutant for mutant, verdict in verdicts.items() if verdict.survived}
    for key in survivors.keys() - listed:
        yield f"survives and is not in survivors.toml: {_told(survivors[key])}"
    for key in sorted(listed - survivors.keys()):
        yield f"is in survivors.toml and does not survive, or is no mutant any more: {key}"
    share = 100 * (1 - len(survivors) / len(verdicts))
    if share < suite.floor:
        yield f"{share:.1f} % are killed, which is less than {suite.floor} %"


def _row(file: str, verdicts: Mapping[Mutant, Verdict]) -> str:
    own = [verdict.survived for mutant, verdict in verdicts.items() if mutant.path == file]
    killed = own.count(False)
    return (
        f"| `{Path(file).name}` | {len(own):,} | {killed:,} | {len(own) - killed} | {100 * killed / len(own):.1f} % |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many, to go on another time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--session", type=Path, default=Path(tempfile.gettempdir()) / "fanout-briefs-mutation")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(options.session / "pycache")
    until = time.monotonic() + 60 * options.minutes
    rows: list[str] = []
    problems: list[str] = []
    for suite in _suites(options.suites):
        verdicts = try_all(suite, Session(options.session, suite), until, options.jobs)
        if verdicts is None:
            return 3
        rows += [_row(file, verdicts) for file in suite.files]
        problems += [f"{suite.name}: {problem}" for problem in _problems(suite, verdicts)]
    table = "\n".join(["| file | mutants | killed | survivors | killed |", "|---|---|---|---|---|", *rows])
    print(f"\n{table}\n")
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
        PAGE.write_text(f"{before}{START}\n\n{table}\n\n{STOP}{rest.partition(STOP)[2]}", encoding="utf-8")
    print("\n".join(problems) or "every survivor is accounted for")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
