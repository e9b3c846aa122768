"""A world in a SQLite file. Statements are counted as the library's own trace tells them; there is no server to ask."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from attrs import frozen

from fanout_briefs.adapters.sqlite import SqliteStorage

from .bed import FOUR, MANY, OURS, PAGE_SIZE, SMALL, Rival, Step, must_be, ours
from .seed import instant, number, sqlite_seed
from .world import NAME, NOW, World, Wrong, preference

__all__ = ["SqliteBed", "Visits"]

_CHUNK = 20_000


@frozen
class Visits:
    """The host's engagement, in a table beside ours: one statement for as many users as are asked about."""

    connection: sqlite3.Connection
    on_statement: Callable[[], None] = lambda: None

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        return await to_thread.run_sync(self._read, json.dumps(list(user_ids)))

    def _read(self, user_ids: str) -> dict[str, datetime | None]:
        self.on_statement()
        question = "SELECT user_id, last_visit FROM visits WHERE user_id IN (SELECT value FROM json_each(?))"
        return {user_id: instant(visit) for user_id, visit in self.connection.execute(question, (user_ids,))}


class SqliteBed:
    """A world in a file of its own."""

    kind = "SQLite"

    def __init__(self, path: Path, world: World) -> None:
        self.world = world
        self.path = path
        self.statements = 0
        self.rows: list[tuple[Any, ...]] = []
        asyncio.run(self._put())
        self.connection = self.connect()
        self._load()
        self._names = [name for _, name, *_ in self.connection.execute("PRAGMA table_info (jobs)")]

    def close(self) -> None:
        self.connection.close()

    def connect(self) -> sqlite3.Connection:
        return self.connect_to(self.path)

    @staticmethod
    def connect_to(path: Path) -> sqlite3.Connection:
        """Connect as the library does."""
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = normal")
        connection.execute("PRAGMA cache_size = -64000")
        return connection

    async def _put(self) -> None:
        people = self.world.people
        async with SqliteStorage(self.path) as storage:
            for begin in range(0, len(people), _CHUNK):
                await storage.preferences.put(map(preference, people[begin : begin + _CHUNK]))

    def _load(self) -> None:
        people, run = self.world.people, self.connection.executemany
        self.connection.execute("BEGIN")
        self.connection.execute("CREATE TABLE visits (user_id TEXT PRIMARY KEY, last_visit INTEGER) WITHOUT ROWID")
        visits = sorted((user.user_id, user.last_visit and number(user.last_visit)) for user in people)
        run("INSERT INTO visits VALUES (?, ?)", visits)
        briefs = sorted((f"{NAME}:{user.last_brief.date()}:{user.user_id}", user) for user in people)
        run(
            "INSERT INTO jobs (dedup_key, type, user_id, local_date, deliver_at, run_at, window_start, window_end,"
            " status, epoch, attempts, token) VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?5, ?5, 'completed', 1, 1, 1)",
            ((key, NAME, user.user_id, str(user.last_brief.date()), number(user.last_brief)) for key, user in briefs),
        )
        self.connection.execute("COMMIT")

    def reset(self) -> None:
        self.connection.execute("DELETE FROM jobs WHERE deliver_at >= ?", (number(NOW),))
        self.connection.execute("DELETE FROM marks")
        self.connection.execute("PRAGMA wal_checkpoint (TRUNCATE)").fetchall()

    def states(self) -> dict[str, str]:
        rows = self.connection.execute("SELECT user_id, status FROM jobs WHERE deliver_at >= ?", (number(NOW),))
        found = rows.fetchall()
        if len({user for user, _ in found}) != len(found):
            raise Wrong("some user has two slots")
        return dict(found)

    @contextmanager
    def count(self) -> Generator[list[int]]:
        found: list[int] = []
        self.statements = 0
        yield found
        found.append(self.statements)

    def _counted(self, _: str = "") -> None:
        self.statements += 1

    def rivals(self) -> Mapping[str, Rival]:
        if not self.rows:
            with self._ours() as (first, _):
                first.check(first.run())
            question = "SELECT * FROM jobs WHERE deliver_at >= ? ORDER BY dedup_key"
            self.rows = self.connection.execute(question, (number(NOW),)).fetchall()
            self.reset()
        return {
            OURS: Rival(self._ours),
            SMALL: Rival(partial(self._ours, 1_000)),
            FOUR: Rival(self._four),
            MANY: Rival(self._single),
            **sqlite_seed(self),
        }

    @contextmanager
    def _ours(self, page_size: int = PAGE_SIZE) -> Generator[list[Step]]:
        storage = SqliteStorage(self.path, trace=self._counted)
        with (
            closing(self.connect()) as connection,
            ours(self, storage, Visits(connection, self._counted), page_size) as steps,
        ):
            yield steps

    @property
    def _insert(self) -> str:
        return f"INSERT INTO jobs VALUES ({', '.join('?' * len(self._names))})"

    @contextmanager
    def _single(self) -> Generator[list[Step]]:
        with closing(self.connect()) as connection:
            yield [Step(MANY, partial(self._put_rows, connection, self._insert), must_be(self))]

    def _put_rows(self, connection: sqlite3.Connection, insert: str) -> None:
        self.statements += 3
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert, self.rows)
        connection.execute("COMMIT")

    def _due(self, users: str) -> str:
        """Give the schedules that are due, as they are stored."""
        question = "SELECT DISTINCT schedule FROM preferences WHERE user_id IN (SELECT value FROM json_each(?))"
        return json.dumps([schedule for (schedule,) in self.connection.execute(question, (users,))])

    @contextmanager
    def _four(self) -> Generator[list[Step]]:
        """Nothing but the statements: who is due is known, and so are the rows; none of our values is built."""
        columns = {name: [row[place] for row in self.rows] for place, name in enumerate(self._names)}
        due = self._due(json.dumps(columns["user_id"]))
        asked = json.dumps(list(zip(columns["user_id"], columns["deliver_at"], strict=True)))
        keys = json.dumps(columns["dedup_key"])

        def run() -> tuple[int, ...]:
            self.statements += 3
            found = [
                connection.execute(statement, values).fetchall()
                for statement, values in ((_DUE, (due,)), (_ACTIVITY, (NAME, asked)), (_KEYS, (keys,)))
            ]
            self._put_rows(connection, f"{self._insert} ON CONFLICT (dedup_key) DO NOTHING")
            return tuple(map(len, found))

        def check(found: tuple[int, ...]) -> None:
            if found != (self.world.due, self.world.due, 0):
                raise Wrong(f"the raw statements found {found}")
            must_be(self)(None)

        with closing(self.connect()) as connection:
            yield [Step(FOUR, run, check)]


_DUE = """
SELECT user_id, frequency, time_of_day, timezone, day_of_week, days, effective_from FROM preferences
WHERE is_active AND schedule IN (SELECT value FROM json_each(?))
"""
_ACTIVITY = """
SELECT visits.user_id, last_visit, (
    SELECT deliver_at FROM jobs
    WHERE user_id = visits.user_id AND type = ? AND deliver_at < json_extract(asked.value, '$[1]')
        AND status IN ('pending', 'processing', 'completed')
    ORDER BY deliver_at DESC LIMIT 1
) FROM json_each(?) AS asked CROSS JOIN visits ON visits.user_id = json_extract(asked.value, '$[0]')
"""
_KEYS = """
SELECT dedup_key, status, code, deliver_at
FROM (SELECT value AS asked FROM json_each(?)) CROSS JOIN jobs ON dedup_key = asked
"""
