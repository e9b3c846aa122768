"""A process is killed at a point of its day, whichever it is; the next one does the rest, and a third one judges.

Points lie before and after each call of a port, and before each statement of SQL, from the first one that makes the
tables to the last one. The kill is a SIGKILL from another process, which comes while this one stands still.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from point_counts import PHASES, Tried, every, is_nightly
from point_kills import Fate, Life, Point, lived, looked, refused
from point_story import Setting, is_right, is_sound

from places import File, Place, Tables
from services import connect

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork servers are POSIX"),
]
BACKEND = {"eml": "asyncio", "log": "trio"}
Opens = Callable[[str], Place]
WHAT = {"call": "is killed before a call", "statement": "is killed at a statement", "answer": "is killed after a call"}


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> Opens:
    """Opens an empty place of that name, in which there are no tables yet."""
    if where == "SQLite":
        return lambda name: File(tmp_path / f"{name}.db")
    dsn: str = request.getfixturevalue("postgres_database")
    return lambda name: Tables(dsn, f"points {os.getpid()} {name}")


@contextmanager
def swept(place: Place) -> Generator[Place]:
    try:
        yield place
    finally:
        if isinstance(place, Tables):
            with connect(place.dsn) as connection:
                connection.execute(f'DROP SCHEMA IF EXISTS "{place.schema}" CASCADE'.encode())


def chosen(points: Sequence[Point], where: str, mailer: str) -> Sequence[int]:
    """Every point, and some more since no two days are the same; on ordinary days one of every other phase."""
    if is_nightly():
        return every(len(points) + 5)
    rng = random.Random(f"{where} {mailer}")
    numbers: dict[str, list[int]] = {}
    for number, (phase, _) in enumerate(points, start=1):
        numbers.setdefault(phase, []).append(number)
    return [rng.choice(each) for each in [*numbers.values()][mailer == "eml" :: 2]]


@pytest.mark.parametrize("mailer", ["eml", "log"])
@pytest.mark.parametrize("where", ["SQLite", "PostgreSQL"])
def test_wherever_a_process_is_killed_the_next_one_ends_the_day_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], places: Opens, where: str, mailer: str
) -> None:
    backend = BACKEND[mailer]
    tried = Tried(f"{where} on {backend}", f"kills, {mailer}")

    def play(number: int) -> Life:
        folder = tmp_path / str(number)
        folder.mkdir()
        with swept(places(f"{mailer} {number}")) as place:
            setting = Setting(place, folder, mailer, backend)
            first = lived(setting, fate=Fate(number))
            rest = lived(setting, turn=1)
            assert rest.is_over, (number, first.points[-1], rest.problems)
            try:
                is_right(looked(setting), [*first.told, *rest.told], mailer)
                is_sound(place)
            except AssertionError as error:
                error.add_note(f"killed at point {number}, {first.points[-1]}, {mailer}")
                raise
        if not first.is_over:  # No two days are quite the same: a point that another day has may not come.
            phase, what = first.points[-1]
            tried.add(number, WHAT[what], phase)
        return first

    whole = play(0)
    assert whole.is_over, whole.problems
    assert {phase for phase, _ in whole.points} == set(PHASES)
    numbers = chosen(whole.points, where, mailer)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(play, tried.left(numbers)))
    with capsys.disabled():
        sys.stdout.write(tried.told())
    assert tried.points
    if is_nightly():
        assert len(tried.points) >= 0.8 * len(numbers)
        assert {phase for _, phase in tried.points.values()} == set(PHASES)


@pytest.mark.parametrize(
    ("where", "poison", "mailer"),
    [
        pytest.param("SQLite", "host.generate", "eml", marks=pytest.mark.nightly),
        ("PostgreSQL", "host.generate", "eml"),
        pytest.param("SQLite", "mailer.send", "eml", marks=pytest.mark.nightly),
        pytest.param("PostgreSQL", "mailer.send", "eml", marks=pytest.mark.nightly),
        ("SQLite", "mailer.send", "log"),
        ("PostgreSQL", "mailer.send", "log"),
    ],
)
def test_a_job_that_kills_whoever_runs_it_is_given_up_and_costs_nobody_else_anything(
    tmp_path: Path, places: Opens, where: str, mailer: str, poison: str
) -> None:
    with swept(places(f"poison {mailer} {poison}")) as place:
        setting = Setting(place, tmp_path, mailer, BACKEND[mailer])
        lives: list[Life] = []
        while not (lives and lives[-1].is_over):
            assert len(lives) < 10
            lives.append(lived(setting, turn=len(lives), fate=Fate(poison=poison)))
        found = looked(setting)
    # Six attempts, and a last one with nothing beside it; a mail that may have left is not tried again.
    in_doubt = poison == "mailer.send" and mailer == "log"
    assert len(lives) - 1 == (1 if in_doubt else 7)
    assert found.briefs["bob"] == ("failed" if poison == "host.generate" else "completed")
    assert found.mails.get("bob") == {"host.generate": None, "mailer.send": "unknown" if in_doubt else "failed"}[poison]
    others = ["ann", "cyd"]
    assert sorted(key.split(":")[2] for key, _ in found.sent) == others
    assert [found.briefs[user] for user in others] == ["completed"] * 2
    # Bob's may kill in the moment between the sending of another's and the note of it: then nobody can know of that one.
    assert {found.mails[user] for user in others} <= {"completed", *(["unknown"] if in_doubt else [])}
    assert found.codes["bob"] == (found.mails.get("bob") or "failed")


def emptied(*folders: Path) -> None:
    for folder in folders:
        for file in folder.glob("*"):
            file.unlink()


def test_a_file_that_is_read_only_after_a_kill_is_told_of_and_left_as_it_is(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this takes root, who gives its powers up in one of the processes")
    with TemporaryDirectory() as name:  # Which others may enter, unlike pytest's.
        folder = Path(name)
        folder.chmod(0o777)
        place = File(folder / "briefs.db")
        setting = Setting(place, tmp_path, "eml", "asyncio")
        whole = lived(setting).points
        begun = 1 + next(number for number, (phase, _) in enumerate(whole) if phase == "sign up")
        for number in range(begun, len(whole), len(whole) // (40 if is_nightly() else 4)):
            emptied(folder, tmp_path / "outbox")
            first = lived(setting, fate=Fate(number))
            place.path.chmod(0o444)
            before = {file.name: file.read_bytes() for file in folder.iterdir()}
            assert "is read-only for this process; give it permission to write" in refused(setting)
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
            place.path.chmod(0o644)
            rest = lived(setting, turn=1)
            is_right(looked(setting), [*first.told, *rest.told], "eml")
