"""Bad input through the command line: every bad value is named, the others get theirs, nothing is half-written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fanout_briefs.cli.commands import app

AS_OF = "2026-11-23T09:00:00Z"
APP = """
from datetime import datetime, timedelta
from pathlib import Path
from fanout_briefs import Briefs, Page, Preference, Project, ProjectBrief, Recipient
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.sqlite import SqliteStorage

HERE = Path(__file__).parent
PEOPLE = [Preference(user_id="ana"), Preference(user_id="bo")]
DATABASE = HERE / "briefs.db"


class Host:
    async def page(self, cursor, limit):
        return Page(PEOPLE)

    async def get(self, user_ids):
        return {row.user_id: row for row in reversed(PEOPLE) if row.user_id in user_ids}

    async def of(self, user_id, window):
        return [Project(id="apollo", name="Apollo")]

    async def generate(self, request):
        return ProjectBrief(text="All is well.")


class Addresses:
    async def get(self, user_ids):
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}


def briefs():
    return Briefs(SqliteStorage(DATABASE, busy_timeout=timedelta(seconds=1)), projects=Host(), generator=Host(),
                  preferences=Host(), recipients=Addresses(), mailer=EmlMailer(HERE / "outbox"),
                  look_back=timedelta(hours=1))
"""


def write_app(folder: Path, more: str = "") -> None:
    (folder / "myapp.py").write_text(f"{APP}\n{more}\n", encoding="utf-8")


def cli(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Python's own cache would be a trace that none of this leaves.
        [*before, sys.executable, "-B", "-W", "error", "-m", "fanout_briefs.cli", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run(folder: Path, *, before: Sequence[str] = (), as_of: str = AS_OF) -> subprocess.CompletedProcess[str]:
    return cli(folder, "run", "myapp:briefs", "--as-of", as_of, before=before)


def mails(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "outbox").glob("*"))


def everything_in(folder: Path) -> dict[str, str]:
    """Every file's content by its name, and every folder."""
    return {
        str(path.relative_to(folder)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def rows(folder: Path) -> list[str]:
    """All that is in the database, as SQL."""
    with contextlib.closing(sqlite3.connect(folder / "briefs.db")) as database:
        return list(database.iterdump())


def is_refused(ran: subprocess.CompletedProcess[str], *said: str) -> None:
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("Error     ")
    assert len(ran.stderr.splitlines()) == 1
    for words in said:
        assert words in ran.stderr


# preferences ---------------------------------------------------------------------------------------------

BAD = {
    "the zone": ('Preference(user_id="bad", timezone="Mars/Olympus")', ["bad: ", "'Mars/Olympus'"]),
    "a zone that leads out of the folder": ('Preference(user_id="bad", timezone="../../etc/passwd")', ["etc/passwd"]),
    "the time": ('Preference(user_id="bad", time_of_day="24:61")', ["bad: ", "time_of_day='24:61'"]),
    "the time's type": ('Preference(user_id="bad", time_of_day=900)', ["time_of_day=900"]),
    "the frequency": ('Preference(user_id="bad", frequency="hourly")', ["frequency='hourly'"]),
    "the weekday": ('Preference(user_id="bad", frequency="weekly", day_of_week=7)', ["day_of_week=7"]),
    "the days of the week": ('Preference(user_id="bad", frequency="custom", days=[1, 9])', ["days", "9"]),
    "the days of the month": ('Preference(user_id="bad", frequency="monthly", days=[0, 32])', ["days", "0", "32"]),
    "all at once": (
        'Preference(user_id="bad", frequency="x", time_of_day="y", timezone="z", day_of_week=-1, days=["w"])',
        ["frequency='x'", "time_of_day='y'", "timezone='z'", "day_of_week=-1", "days", "'w'"],
    ),
    "a naive instant": ('Preference(user_id="bad", effective_from=datetime(2026, 1, 1))', ["effective_from=datetime"]),
    "an empty id": ('Preference(user_id="")', ["user_id='': must not be empty"]),
    "an over-long id": ('Preference(user_id="x" * 256)', ["must be at most 255 characters, it has 256"]),
    "an id that breaks lines": (r'Preference(user_id="a\nb")', ["must hold no control characters"]),
    "an id that is a number": ("Preference(user_id=7)", ["user_id=7: must be a string, not int"]),
    "an id that is there twice": ('Preference(user_id="ana", time_of_day="08:45")', ["ana: ", "twice"]),
}


@pytest.mark.parametrize(("row", "said"), BAD.values(), ids=BAD)
def test_a_bad_preference_is_named_and_the_others_get_their_brief(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, said: list[str]
) -> None:
    # In this process: another one would prove nothing more.
    write_app(tmp_path, f"PEOPLE.insert(1, {row})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("myapp", None)
    ran = CliRunner().invoke(app, ["run", "myapp:briefs", "--as-of", AS_OF])
    del sys.modules["myapp"]  # Not by monkeypatch, which would bring it back for the tests that follow.
    assert ran.exit_code == 1
    (problem,) = [line for line in ran.stderr.splitlines() if line.startswith("Problem")]
    for words in said:
        assert words in problem
    assert "Planned   3 people, 2 due: 2 queued\n" in ran.stdout
    assert "Skipped   1 " in ran.stdout
    assert mails(tmp_path) == ["daily_brief:2026-11-23:ana:1.eml", "daily_brief:2026-11-23:bo:1.eml"]
    with contextlib.closing(sqlite3.connect(tmp_path / "briefs.db")) as database:
        assert database.execute("SELECT count(*), max(user_id), min(user_id) FROM jobs").fetchone() == (4, "bo", "ana")


def test_all_bad_preferences_of_a_population_are_told_at_once(tmp_path: Path) -> None:
    everyone = ", ".join(row for row, _ in BAD.values()).replace('user_id="bad"', "user_id=next(names)")
    write_app(tmp_path, f'names = (f"bad{{n}}" for n in range(99))\nPEOPLE += [{everyone}]')
    ran = run(tmp_path)
    assert ran.returncode == 1
    assert len([line for line in ran.stderr.splitlines() if line.startswith("Problem")]) == len(BAD)
    assert all(words in ran.stderr for _, said in BAD.values() for words in said if words != "bad: ")
    assert len(mails(tmp_path)) == 2
    document = json.loads(cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF, "--json").stdout)
    assert document["plan"]["skipped"] == {"invalid_schedule": 10, "invalid_user_id": 4, "duplicate_user": 1}


def test_asking_about_a_user_whose_preference_is_bad_names_what_is(tmp_path: Path) -> None:
    write_app(tmp_path, f"PEOPLE.append({BAD['all at once'][0]})")
    is_refused(cli(tmp_path, "preview", "myapp:briefs", "bad"), *BAD["all at once"][1])
    explained = cli(tmp_path, "explain", "myapp:briefs", "bad", "--on", "2026-11-23")
    assert explained.returncode == 0
    assert explained.stdout.startswith("bad on 2026-11-23: invalid schedule\n")
    assert all(words in explained.stdout for words in BAD["all at once"][1])
    too_long = cli(tmp_path, "explain", "myapp:briefs", "x" * 256)
    assert "must be at most 255 characters" in too_long.stdout


def test_a_bad_argument_of_the_application_is_named(tmp_path: Path) -> None:
    write_app(tmp_path, 'bad = lambda: Briefs(SqliteStorage(DATABASE), name="a:b", projects=Host(), generator=Host())')
    ran = cli(tmp_path, "run", "myapp:bad")
    assert ran.returncode == 2
    assert "calling 'myapp:bad' failed: ValueError: name='a:b': must hold no colon" in ran.stderr


# database files ------------------------------------------------------------------------------------------


def text(path: Path) -> None:
    path.write_text("user,zone\n" * 500, encoding="utf-8")


def folder(path: Path) -> None:
    path.mkdir()


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
        database.execute("INSERT INTO bookmarks VALUES ('https://example.org')")


def newer(path: Path) -> None:
    ran = run(path.parent)
    assert ran.returncode == 0, ran.stderr
    shutil.rmtree(path.parent / "outbox")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    ran = run(path.parent)
    assert ran.returncode == 0, ran.stderr
    shutil.rmtree(path.parent / "outbox")
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)


NO_DATABASE: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "text": (text, ["not a database", "give the path of a new file"]),
    "foreign": (foreign, ["is a SQLite database of another program, and was left as it is"]),
    "folder": (folder, ["this is a folder; give the path of a file"]),
    "newer": (newer, ["has schema version 99, and this release knows up to 1: upgrade fanout-briefs"]),
    "damaged": (damaged, ["the file is damaged; restore it from a backup"]),
}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *((name, ("run",)) for name in NO_DATABASE),
        *(("newer", command) for command in (("plan",), ("plan", "--dry-run"), ("explain", "ana"), ("preview", "ana"))),
    ],
)
def test_a_file_that_is_no_database_of_ours_is_refused_and_left_as_it_was(
    tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    write_app(tmp_path)
    make, said = NO_DATABASE[name]
    make(tmp_path / "briefs.db")
    before = everything_in(tmp_path)
    first, *more = command
    ran = cli(tmp_path, first, "myapp:briefs", *more)
    is_refused(ran, str(tmp_path / "briefs.db"), *said)
    assert everything_in(tmp_path) == before


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    write_app(tmp_path, 'DATABASE = HERE / "nowhere" / "briefs.db"')
    before = everything_in(tmp_path)
    is_refused(run(tmp_path), f"there is no folder {tmp_path / 'nowhere'}; create it first")
    assert everything_in(tmp_path) == before


def test_a_file_that_somebody_keeps_locked_is_told_and_nothing_is_half_written(tmp_path: Path) -> None:
    write_app(tmp_path)
    assert cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF).returncode == 0
    before = rows(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "briefs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        is_refused(run(tmp_path), "database is locked", "find the program that has it open")
    assert rows(tmp_path) == before
    assert run(tmp_path).returncode == 0
    assert len(mails(tmp_path)) == 2


# permissions ---------------------------------------------------------------------------------------------


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[list[str]]:
    """What to put before a command so that permissions hold for it; root disregards them otherwise."""
    if os.name != "posix":
        pytest.skip("permissions are another thing there")
    before = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if before and shutil.which(before[0]) is None:
        pytest.skip("this is root, and there is no setpriv (util-linux) to give its powers up with")
    probe = subprocess.run([*before, "touch", closed / "probe"], capture_output=True, check=False)
    if probe.returncode == 0 or (closed / "probe").exists():
        pytest.skip("permissions do not hold for this user, not even with setpriv")
    if b"setpriv" in probe.stderr:
        pytest.skip(f"this root may not give its powers up: {probe.stderr.decode()}")
    closed.rmdir()
    yield before
    for folder, _, files in os.walk(tmp_path):
        Path(folder).chmod(0o755)  # so that pytest can clean up as an ordinary user, too
        for file in files:
            Path(folder, file).chmod(0o644)


@contextlib.contextmanager
def only(path: Path, mode: int) -> Generator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_database_file_without_permission_is_told_and_left(
    tmp_path: Path, unprivileged: list[str], mode: int
) -> None:
    write_app(tmp_path)
    assert cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF).returncode == 0
    before = everything_in(tmp_path)
    with only(tmp_path / "briefs.db", mode):
        is_refused(run(tmp_path, before=unprivileged), str(tmp_path / "briefs.db"), "permission")
    assert everything_in(tmp_path) == before
    assert run(tmp_path).returncode == 0
    assert len(mails(tmp_path)) == 2


@pytest.mark.parametrize("planned", [True, False])
def test_a_folder_without_permission_is_told_and_nothing_is_written(
    tmp_path: Path, unprivileged: list[str], planned: bool
) -> None:
    write_app(tmp_path)
    if planned:
        assert cli(tmp_path, "plan", "myapp:briefs", "--as-of", AS_OF).returncode == 0
    before = everything_in(tmp_path)
    with only(tmp_path, 0o555):
        is_refused(run(tmp_path, before=unprivileged), str(tmp_path / "briefs.db"), "permission")
    assert everything_in(tmp_path) == before
    assert run(tmp_path).returncode == 0
    assert len(mails(tmp_path)) == 2


def test_an_outbox_without_permission_puts_the_mails_off_and_a_later_run_sends_each_once(
    tmp_path: Path, unprivileged: list[str]
) -> None:
    write_app(tmp_path)
    (tmp_path / "outbox").mkdir()
    with only(tmp_path / "outbox", 0o555):
        ran = run(tmp_path, before=unprivileged)
    assert ran.returncode == 1
    assert "Briefs    2 completed\n" in ran.stdout
    assert "Put off   2, to be tried again by a later run\n" in ran.stdout
    problems = [line for line in ran.stderr.splitlines() if line.startswith("Problem")]
    assert len(problems) == 2
    assert all("the mail could not be written (Permission denied)" in problem for problem in problems)
    assert mails(tmp_path) == []
    later = run(tmp_path, as_of="2026-11-23T09:30:00Z")
    assert later.returncode == 0
    assert mails(tmp_path) == ["daily_brief:2026-11-23:ana:1.eml", "daily_brief:2026-11-23:bo:1.eml"]
    assert any("made before" in line for line in later.stdout.splitlines())


def test_init_where_nothing_may_be_written_says_so(tmp_path: Path, unprivileged: list[str]) -> None:
    with only(tmp_path, 0o555):
        for folder in (".", "new"):
            is_refused(
                cli(tmp_path, "init", folder, before=unprivileged), "Permission denied", "name a folder that you may"
            )
    assert list(tmp_path.iterdir()) == []


def test_an_application_that_may_not_be_read_is_named(tmp_path: Path, unprivileged: list[str]) -> None:
    write_app(tmp_path)
    with only(tmp_path / "myapp.py", 0o000):
        ran = run(tmp_path, before=unprivileged)
    assert ran.returncode == 2
    assert "importing 'myapp' failed: PermissionError" in ran.stderr


# what the host's code and the system do ------------------------------------------------------------------


@pytest.mark.parametrize("command", [["preview", "myapp:briefs", "ana"], ["run", "myapp:briefs", "--as-of", AS_OF]])
def test_an_application_that_exits_ends_the_command_and_says_where(tmp_path: Path, command: Sequence[str]) -> None:
    write_app(tmp_path, "async def leave(self, request):\n    raise SystemExit(0)\nHost.generate = leave")
    left = cli(tmp_path, *command)
    assert left.returncode == 1
    (told,) = (line for line in left.stderr.splitlines() if line.startswith("Error "))
    assert "stopped by the application's own sys.exit(0) in " in told
    assert "myapp.py, line " in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "command",
    [
        ["run", "myapp:briefs", "--as-of", AS_OF],
        ["explain", "myapp:briefs", "ana"],
        ["status", "myapp:briefs", "--json"],
    ],
)
def test_a_disk_that_is_full_where_output_goes_stops_no_work_and_is_told(
    tmp_path: Path, command: Sequence[str]
) -> None:
    write_app(tmp_path)
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123  # a device
        ran = subprocess.run(
            [sys.executable, "-m", "fanout_briefs.cli", *command],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 1
    assert ran.stderr == "Error     standard output could not be written: No space left on device\n"
    assert len(mails(tmp_path)) == (2 if command[0] == "run" else 0)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is in use cannot be removed there")
def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    in_it = ["sh", "-c", f'rmdir {gone} && exec "$@"', "sh"]
    is_refused(cli(gone, "status", "myapp:briefs", before=in_it), "the working directory cannot be read")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def __getattr__(name):\n    raise RuntimeError('no settings')", "reading 'briefs' of module 'lazy' failed"),
        ("def __getattr__(name):\n    raise AttributeError(name)", "module 'lazy' has no attribute 'briefs'"),
    ],
)
def test_an_application_that_cannot_be_read_is_told(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "lazy.py").write_text(source, encoding="utf-8")
    ran = cli(tmp_path, "status", "lazy:briefs")
    assert ran.returncode == 2
    assert said in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["explain", "cancel", "retry", "regenerate"])
@pytest.mark.parametrize("on", ["0001-01-01", "9999-12-31"])
def test_a_date_at_the_end_of_the_calendar_is_refused(tmp_path: Path, command: str, on: str) -> None:
    write_app(tmp_path)
    ran = cli(tmp_path, command, "myapp:briefs", "ana", "--on", on)
    assert ran.returncode == 2
    assert "must be in the years 1970 to 8999" in ran.stderr


def test_a_command_that_is_told_works_for_an_id_that_looks_like_an_option(tmp_path: Path) -> None:
    write_app(tmp_path, "PEOPLE.append(Preference(user_id='-x y'))")
    nothing = cli(tmp_path, "retry", "myapp:briefs", "--on", "2026-11-23", "--", "-x y")
    told = nothing.stderr.partition("; fanout-briefs ")[2].partition(" tells more")[0]
    explained = cli(tmp_path, *shlex.split(told))
    assert explained.returncode == 0, explained.stderr
    assert explained.stdout.startswith("-x y on 2026-11-23: ")


def test_a_folder_with_a_blank_is_told_as_a_shell_reads_it(tmp_path: Path) -> None:
    told = cli(tmp_path, "init", "my folder").stdout.splitlines()[-1]
    assert told.endswith("cd 'my folder' && fanout-briefs run app:briefs")


def test_ctrl_c_while_the_command_line_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt", encoding="utf-8")  # found before the real one
    ran = cli(tmp_path, "--help")
    assert (ran.returncode, ran.stderr) == (130, "")


@pytest.mark.parametrize("command", ["preview", "generate-now", "retry", "cancel", "regenerate", "forget"])
@pytest.mark.parametrize("user", ["", "x" * 256, "a\nb"])
def test_an_id_that_nobody_can_have_is_refused(tmp_path: Path, command: str, user: str) -> None:
    write_app(tmp_path)
    refused = cli(tmp_path, command, "myapp:briefs", user)
    assert refused.returncode == 2
    assert "must " in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
