"""Something goes wrong at one statement of SQL, whichever it is: in the same process the day goes on, and ends well."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from point_counts import Tried, is_nightly, spread
from point_statements import IN_POSTGRES, IN_SQLITE, WHEN, Ending, Run, Statements, run_statement
from point_story import Day, Setting, found, is_right, is_sound, watched

from fanout_briefs.adapters import postgres_connection
from places import File, Tables
from services import Schema

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]
FEW = 2
"""Points a kind and backend on ordinary days."""
MAILER = {"asyncio": "eml", "trio": "log"}


def play(
    setting: Setting, statements: Statements, trace: Callable[[anyio.CancelScope, str], None] | None = None
) -> None:
    """Have a day in which something goes wrong, whoever sees to that, and hold what is left to what must be so."""

    async def run() -> None:
        day = Day(
            lambda: place.storage(None if trace is None else partial(trace, scope)), setting.folder, setting.mailer
        )
        with anyio.CancelScope() as scope:
            is_over = await day.session(watched())
            assert is_over or scope.cancel_called or statements.landed == "open", day.errors
        day.storage = place.storage
        assert await day.session(), day.errors
        is_right(await found(day, day.clock.moment), day.told, setting.mailer)
        is_sound(place)

    place = setting.place
    setting.folder.mkdir(parents=True, exist_ok=True)
    anyio.run(run, backend=setting.backend)


def at_every(
    kind: str, name: str, backend: str, capsys: pytest.CaptureFixture[str], plays: Callable[[str, Statements], None]
) -> None:
    """Play days with something going wrong at one statement after the other; tell how many those were."""
    mailer = MAILER[backend]
    census = Statements(at=0)
    plays(mailer, census)
    tried = Tried(f"{name} on {backend}", f"{kind}, {mailer}")
    for number in tried.left(spread(census.count, FEW, (kind, name, backend))):
        statements = Statements(at=number)
        try:
            plays(mailer, statements)
        except BaseException as error:
            error.add_note(f"at statement {number} of {census.count}, {mailer}, {statements.landed}")
            raise
        if statements.landed is not None:  # No two days are quite the same: one that another day has may not come.
            tried.add(number, kind, statements.landed)
    with capsys.disabled():
        sys.stdout.write(tried.told())
    assert tried.points or not is_nightly()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", IN_SQLITE)
def test_whatever_goes_wrong_at_one_statement_of_sqlite_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, backend: str
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        def trace(scope: anyio.CancelScope, statement: str) -> None:
            if statements.is_it():
                IN_SQLITE[kind](scope)

        folder = tmp_path / str(statements.at)
        folder.mkdir()
        play(Setting(File(folder / "briefs.db"), folder, mailer, backend), statements, trace)

    at_every(kind, "SQLite", backend, capsys, plays)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", IN_POSTGRES)
def test_whatever_goes_wrong_at_one_statement_of_postgres_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], postgres: Schema, kind: str, backend: str
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        def trace(scope: anyio.CancelScope, statement: str) -> None:
            if statements.is_it():
                IN_POSTGRES[kind](scope)

        postgres.empty()
        folder = tmp_path / str(statements.at)
        play(Setting(Tables(postgres.dsn, postgres.name), folder, mailer, backend), statements, trace)

    at_every(kind, "PostgreSQL", backend, capsys, plays)


Ends = Callable[[str, Statements], Tables]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, postgres: Schema) -> Ends:
    """Gives empty tables, where the connection ends before, within or after one statement."""

    def patch(when: str, statements: Statements) -> Tables:
        ending = Ending(postgres)
        befall: Run = getattr(ending, when)

        def run(tables: postgres_connection.Tables, statement: str, values: Any) -> psycopg.Cursor[Any]:
            if not statements.is_it():
                return run_statement(tables, statement, values)
            try:
                return befall(tables, statement, values)
            finally:
                statements.landed = statements.landed if ending.came_about else None

        monkeypatch.setattr(postgres_connection.Tables, "_run", run)
        postgres.empty()
        return Tables(postgres.dsn, postgres.name)

    return patch


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("when", WHEN)
def test_whichever_statement_a_connection_ends_at_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: Ends, when: str, backend: str
) -> None:
    def plays(mailer: str, statements: Statements) -> None:
        play(Setting(ends(when, statements), tmp_path / str(statements.at), mailer, backend), statements)

    at_every(f"the connection ends {when} the statement", "PostgreSQL", backend, capsys, plays)
