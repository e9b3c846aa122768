"""The file of a SQLite storage: how it is made, whose it is, and who may use it."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fanout_briefs.adapters import sqlite_schema
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.errors import SchemaTooNew, StorageUnavailable
from fanout_briefs.model import Enqueued
from slots import found, job
from sqlite_trace import Trace, header, names


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def refused(path: Path) -> str:
    storage = SqliteStorage(path, busy_timeout=timedelta(milliseconds=20))
    with pytest.raises(StorageUnavailable) as caught:
        await storage.__aenter__()
    with pytest.raises(StorageUnavailable, match="is not open"):
        await storage.find([])
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["briefs.db", "a b?c#d%20é'.db", "file:x.db"])
async def test_a_missing_file_is_made_and_marked_as_ours(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for kind in (str, Path):
        async with SqliteStorage(kind(path)) as storage:
            await storage.enqueue([job()])
    assert names(tmp_path) == [name]
    assert header(path) == (sqlite_schema.APPLICATION_ID, len(sqlite_schema.MIGRATIONS))


async def test_nothing_is_touched_before_opening(tmp_path: Path) -> None:
    SqliteStorage(tmp_path / "briefs.db")
    assert names(tmp_path) == []


async def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "briefs.db").touch()
    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]


@pytest.mark.parametrize("path", ["", ".", ":memory:", "./:memory:"])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="MemoryStorage"):
        SqliteStorage(path)


@pytest.mark.parametrize("path", [None, 7, b"briefs.db", "nul\0"])
def test_what_is_no_path_of_a_file_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match=r"^path=.*: must be the path of a file"):
        SqliteStorage(path)


def test_an_unknown_durability_is_refused() -> None:
    unchecked: Any = SqliteStorage
    with pytest.raises(ValueError, match="'normal' or 'full'"):
        unchecked("x.db", durability="off")


def test_all_bad_arguments_are_told_at_once() -> None:
    wrong: dict[str, Any] = {"durability": None, "busy_timeout": 30, "trace": "stderr"}
    unchecked: Any = SqliteStorage
    with pytest.raises(ValueError, match=r"^path=7: must be the path of a file") as refused:
        unchecked(7, **wrong)
    assert all(f"{name}={value!r}: must be" in str(refused.value) for name, value in wrong.items())


@pytest.mark.parametrize("durability", ["normal", "full"])
async def test_connections_are_set_up_as_promised(tmp_path: Path, durability: Any) -> None:
    trace = Trace()
    async with SqliteStorage(tmp_path / "briefs.db", durability=durability, trace=trace):
        settings = [statement for statement in trace.take() if statement.startswith("PRAGMA")]
    for setting in (f"synchronous = {durability}", "foreign_keys = ON", "cache_size = -8000", "secure_delete = ON"):
        assert settings.count(f"PRAGMA {setting}") == 3
    assert settings.count("PRAGMA cache_size = -16000") == 1
    with closing(sqlite3.connect(tmp_path / "briefs.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "this is a folder; give the path of a file" in await refused(tmp_path)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = await refused(tmp_path / "missing" / "briefs.db")
    assert f"there is no folder {tmp_path / 'missing'}; create it first" in message


async def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk. " * 1000)
    before = contents(tmp_path)
    assert "this file holds something else, and was left as it is" in await refused(tmp_path / "notes.txt")
    assert contents(tmp_path) == before


def foreign(path: Path, kind: str) -> None:
    script = {
        "tables": "CREATE TABLE notes (text); INSERT INTO notes VALUES ('milk')",
        "wal": "PRAGMA journal_mode = WAL; CREATE TABLE notes (text)",
        "application": "PRAGMA application_id = 7",
        "version": "PRAGMA user_version = 1",
    }[kind]
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.mark.parametrize("kind", ["tables", "wal", "application", "version"])
async def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    foreign(tmp_path / "other.db", kind)
    before = contents(tmp_path)
    assert "another program, and was left as it is: give the path of a new file" in await refused(tmp_path / "other.db")
    assert contents(tmp_path) == before


async def test_the_log_that_another_program_left_behind_is_not_written_back(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE notes (text)")
        for suffix in ("", "-wal"):
            (tmp_path / f"other.db{suffix}").write_bytes((tmp_path / f"live.db{suffix}").read_bytes())
    before = contents(tmp_path)
    assert "another program" in await refused(tmp_path / "other.db")
    after = contents(tmp_path)
    assert {name: after[name] for name in ("other.db", "other.db-wal")} == {
        name: before[name] for name in ("other.db", "other.db-wal")
    }


async def test_a_newer_schema_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = contents(tmp_path)
    with pytest.raises(SchemaTooNew, match="schema version 99, and this release knows up to 1: upgrade") as caught:
        await SqliteStorage(path).__aenter__()
    assert (caught.value.place, caught.value.found, caught.value.supported) == (str(path), 99, 1)
    assert contents(tmp_path) == before


async def test_an_older_schema_is_migrated_and_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path) as storage:
        await storage.enqueue([job()])
    more = ("ALTER TABLE marks ADD COLUMN note TEXT; CREATE TABLE extra (a)", "DROP TABLE extra")
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, *more))
    async with SqliteStorage(path) as storage:
        assert await found(storage, job().dedup_key) == job()
    assert header(path) == (sqlite_schema.APPLICATION_ID, 3)


async def test_a_migration_that_fails_leaves_the_file_at_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "briefs.db"
    async with SqliteStorage(path) as storage:
        await storage.enqueue([job()])
    broken = "CREATE TABLE extra (a); CREATE TABLE extra (a)"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, broken))
        assert "table extra already exists" in await refused(path)
    assert header(path)[1] == 1
    async with SqliteStorage(path) as storage:
        assert await found(storage, job().dedup_key) == job()


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert "use a Python built with 3.35 or later" in await refused(tmp_path / "briefs.db")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o777)


@contextmanager
def as_an_ordinary_user() -> Generator[None]:
    """Give up root's power to ignore permissions, for a while."""
    if sys.platform == "win32":
        pytest.skip("permissions work otherwise on Windows")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_read_only_file_is_told_at_opening(shared_folder: Path) -> None:
    path = shared_folder / "briefs.db"
    with as_an_ordinary_user():
        async with SqliteStorage(path) as storage:
            await storage.enqueue([job()])
        path.chmod(0o444)
        assert "is read-only for this process; give it permission to write" in await refused(path)
        assert names(shared_folder) == ["briefs.db"]
        path.chmod(0o644)
        async with SqliteStorage(path) as storage:
            assert await found(storage, job().dedup_key) == job()


async def test_a_read_only_file_beside_the_file_is_told(shared_folder: Path) -> None:
    path = shared_folder / "briefs.db"
    with as_an_ordinary_user():
        async with SqliteStorage(path) as storage:
            await storage.enqueue([job()])
            path.with_name("briefs.db-wal").chmod(0o444)
            assert "one that ends in -wal or -shm beside it, is read-only for this process" in await refused(path)


async def test_a_file_that_may_not_be_read_is_told(shared_folder: Path) -> None:
    path = shared_folder / "briefs.db"
    path.touch()
    path.chmod(0)
    with as_an_ordinary_user():
        assert "give this process permission to read and write the file and its folder" in await refused(path)


async def test_a_folder_that_may_not_be_written_is_told(shared_folder: Path) -> None:
    with as_an_ordinary_user():
        async with SqliteStorage(shared_folder / "briefs.db"):
            pass
        own = shared_folder / "own"
        own.mkdir()
        own.chmod(0o555)
        assert "give this process permission to read and write the file and its folder" in await refused(own / "x.db")


async def test_a_folder_that_may_not_be_searched_is_told(shared_folder: Path) -> None:
    with as_an_ordinary_user():
        own = shared_folder / "own"
        own.mkdir()
        own.chmod(0)
        assert "give this process permission to read and write the file and its folder" in await refused(own / "x.db")
        own.chmod(0o700)
