"""Runs that are killed, stopped and raced in real processes: every brief and every mail is there once all the same.

Each kill comes from outside, by SIGKILL, while the run stands still at a point that a seed has drawn; so nothing
here depends on time. What is left is judged by fresh processes, from the database file and the outbox folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from crash_harness import PHASES, USERS, Child, Left, accepted, bytes_by_name, child, undisturbed

from figures import Tell

SEED = 20261123
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL, SIGSTOP and inherited pipes are POSIX"),
]
Target = tuple[str, int]


def census(folder: Path, app: str = "briefs") -> Counter[str]:
    """How many points of each phase an undisturbed run passes."""
    folder.mkdir()
    with child(folder, app=app) as running:
        status, _, problems = running.ends()
    assert status == 0 or app == "logged", problems
    return Counter(running.passed)


def drawn(rng: random.Random, phases: Sequence[str], points: Counter[str]) -> list[Target]:
    """One point of each phase, of its first half, so that it is there also when earlier runs did some of the work."""
    # How often a run claims depends on how many jobs happen to end at once; it is at least four times.
    most = {phase: max(1, points[phase] // 2) for phase in phases} | {"claim": 20}
    return [(phase, rng.randint(1, most[phase])) for phase in phases]


def in_series(rng: random.Random, targets: Sequence[Target]) -> list[list[Target]]:
    """Kills in a row on one database, in the order in which the work comes along."""
    left, series = list(targets), list[list[Target]]()
    rng.shuffle(left)
    while left:
        length = rng.randint(1, 5)
        series.append(sorted(left[:length], key=lambda target: PHASES.index(target[0])))
        del left[:length]
    return series


def killed(folder: Path, series: Sequence[Target], app: str = "briefs") -> list[Target]:
    """Kill one run after the other; give the points that were reached."""
    folder.mkdir()
    reached: list[Target] = []
    for phase, number in series:
        with child(folder, f"{phase}:{number}", app) as running:
            if running.reaches() is None:
                _, _, problems = running.ends()
                assert "Traceback" not in problems
            else:
                running.kill()
                reached.append((phase, number))
    return reached


def is_all_there(folder: Path) -> None:
    status, _, problems = undisturbed(folder)
    assert (status, problems) == (0, "")
    left = Left.by(folder)
    left.has_each_brief_once()
    left.has_each_mail_once()
    written = bytes_by_name(folder)
    assert len(written) == len({name for name, _ in written}) == len(USERS)
    again, report, _ = undisturbed(folder)
    assert again == 0
    assert report["plan"]["existing"] == {"completed": len(USERS)}
    assert report["run"]["briefs"] == report["run"]["mails"] == {}
    assert bytes_by_name(folder) == written


def table(title: str, kills: Counter[str]) -> str:
    rows = [f"  {phase:<16}{kills[phase]:>4}" for phase in PHASES if kills[phase]]
    return "\n".join([title, *rows, f"  {'in all':<16}{kills.total():>4}"])


def test_fifty_kills_in_every_phase_leave_each_brief_and_each_mail_once(tmp_path: Path, tell: Tell) -> None:
    rng = random.Random(SEED)
    points = census(tmp_path / "census")
    assert set(points) == set(PHASES)
    targets = [target for _ in range(3) for target in drawn(rng, PHASES, points)]
    targets += drawn(rng, rng.sample(PHASES, 2), points)
    series = in_series(rng, targets)

    def play(number: int) -> list[Target]:
        folder = tmp_path / f"series-{number}"
        reached = killed(folder, series[number])
        # What earlier kills of the series had left nothing for is made up for on a database of its own.
        missed = [target for target in series[number] if target not in reached]
        is_all_there(folder)
        for place, target in enumerate(missed):
            alone = tmp_path / f"series-{number}-{place}"
            reached += killed(alone, [target])
            is_all_there(alone)
        return reached

    with ThreadPoolExecutor(2) as pool:
        done = [target for reached in pool.map(play, range(len(series))) for target in reached]
    kills = Counter(phase for phase, _ in done)
    tell(table(f"kills by phase, {len(series)} series, seed {SEED}", kills))
    assert sorted(done) == sorted(targets)
    assert kills.total() == 50
    assert min(kills[phase] for phase in PHASES) >= 3


def unknown_after(folder: Path) -> int:
    """How many mails are unknown in the end; those that are not were taken by the provider, each once."""
    status, report, _ = undisturbed(folder, "logged")
    assert status == (1 if report["run"]["mails"].get("unknown") else 0)
    left = Left.by(folder)
    left.has_each_brief_once()
    status_of = {row[1]: row[3] for row in left.found["jobs"] if row[0] != "daily_brief"}
    assert sorted(status_of) == USERS
    assert set(status_of.values()) <= {"completed", "unknown"}
    sent = accepted(folder)
    assert len(sent) == len(set(sent))
    assert {key.split(":")[2] for key in sent} >= {user for user, how in status_of.items() if how == "completed"}
    return Counter(status_of.values())["unknown"]


def test_a_provider_that_takes_everything_is_never_given_a_mail_twice(tmp_path: Path, tell: Tell) -> None:
    rng = random.Random(SEED + 1)
    phases = ("brief/finish", "mail/address", "mail/sending", "mail/send", "mail/finish")
    points = census(tmp_path / "census", "logged")
    targets = [target for _ in range(2) for target in drawn(rng, phases, points)]

    def play(number: int) -> tuple[int, int]:
        folder = tmp_path / str(number)
        # The second kill finds what the first one left.
        reached = killed(folder, [targets[number], ("mail/send", 3)], "logged")
        assert targets[number] in reached
        return len(reached), unknown_after(folder)

    with ThreadPoolExecutor(2) as pool:
        kills, unknown = map(sum, zip(*pool.map(play, range(len(targets))), strict=True))
    tell(f"{kills} kills over a provider that is not idempotent: {unknown} mails unknown, none sent twice")
    assert unknown > 0


def test_kills_at_any_moment_leave_each_brief_and_each_mail_once(tmp_path: Path) -> None:
    rng = random.Random(SEED + 2)
    points = census(tmp_path / "census").total()
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(2):
            last = rng.randint(1, points)
            with child(folder) as running:
                for passed, _ in enumerate(running.lines(), start=1):
                    if passed == last:  # The run goes on meanwhile, so where it dies is anybody's guess.
                        running.process.send_signal(signal.SIGKILL)
                running.process.communicate()
        is_all_there(folder)


def test_a_slot_that_kills_its_worker_each_time_is_given_up_and_said_to_be(tmp_path: Path) -> None:
    statuses: list[int] = []
    problems = ""
    while not statuses or statuses[-1] == -signal.SIGKILL:
        assert len(statuses) < 10
        with child(tmp_path, app="poisoned") as running:
            status, _, problems = running.ends()
            statuses.append(status)
    assert statuses == [-signal.SIGKILL] * 7 + [1]  # six attempts, and a last one with nothing beside it
    assert f"daily_brief:2026-11-23:{USERS[3]}: no attempts left: its workers died" in problems
    left = Left.by(tmp_path)
    left.is_sound()
    assert ["daily_brief", USERS[3], "failed"] in [[row[0], row[1], row[3]] for row in left.found["jobs"]]
    with child(tmp_path, app="poisoned") as running:
        assert running.ends()[0] == 1


@pytest.mark.parametrize("app", ["briefs", "logged"])
def test_runs_that_start_together_share_the_work_and_none_finds_the_file_locked(tmp_path: Path, app: str) -> None:
    waiting, gate = os.pipe()
    with ExitStack() as stack:
        runs = [
            stack.enter_context(child(tmp_path, app=app, CRASH_GATE=str(waiting), CRASH_LEASE="60")) for _ in range(3)
        ]
        for running in runs:
            assert next(running.lines()) == "past gate"
        os.close(waiting)
        os.close(gate)
        with ThreadPoolExecutor(len(runs)) as pool:
            ended = list(pool.map(Child.ends, runs))
    assert [(status, problems) for status, _, problems in ended] == [(0, "")] * 3
    reports = [json.loads(output) for _, output, _ in ended]
    assert sum(report["plan"]["enqueued"] for report in reports) == len(USERS)
    assert sum(report["run"]["briefs"].get("completed", 0) for report in reports) == len(USERS)
    assert sum(report["run"]["mails"].get("completed", 0) for report in reports) == len(USERS)
    left = Left.by(tmp_path)
    left.has_each_brief_once()
    if app == "briefs":
        left.has_each_mail_once()
        assert len((tmp_path / "written").read_text(encoding="utf-8").splitlines()) == len(USERS)
    else:
        assert len(accepted(tmp_path)) == len(set(accepted(tmp_path))) == len(USERS)


@pytest.mark.parametrize(
    ("at", "app"),
    [
        ("plan/enqueue:1", "briefs"),
        ("claim/recheck:1", "briefs"),
        ("brief/generate:4", "briefs"),
        ("brief/finish:1", "briefs"),
        ("mail/sending:1", "briefs"),
        ("mail/sending:1", "logged"),
        ("mail/send:1", "briefs"),
        ("mail/send:1", "logged"),
    ],
)
def test_a_run_that_slept_past_its_lease_wakes_to_find_the_work_done_and_ends_well(
    tmp_path: Path, at: str, app: str
) -> None:
    with child(tmp_path, at, app, CRASH_STOPS="1") as sleeper:
        _, how = os.waitpid(sleeper.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(how)
        status, report, _ = undisturbed(tmp_path, app)
        before = Left.by(tmp_path)
        sleeper.process.send_signal(signal.SIGCONT)
        woken, output, problems = sleeper.ends()
    after = Left.by(tmp_path)
    before.has_each_brief_once()
    assert after == before
    # Asleep in the provider's hands, the mail is unknown, and the run that finds it says so.
    in_doubt = app == "logged" and at == "mail/send:1"
    assert report["run"]["mails"].get("unknown", 0) == in_doubt
    assert (status, woken) == (int(in_doubt), 0), problems
    assert "Traceback" not in problems
    mine = json.loads(output)["run"]
    assert mine["lost"] + sum(mine["briefs"].values()) + sum(mine["mails"].values()) <= 2 * len(USERS)
    if app == "briefs":
        after.has_each_mail_once()
        assert len(bytes_by_name(tmp_path)) == len(USERS)
    else:
        assert len(accepted(tmp_path)) == len(set(accepted(tmp_path))) == len(USERS)
