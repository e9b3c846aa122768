"""A world in PostgreSQL, on a server of the benchmark's own: stock settings, but for those in ``OPTIONS``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from anyio import to_thread
from attrs import define, frozen
from psycopg.rows import TupleRow

from fanout_briefs.adapters.postgres import PostgresStorage

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from services import Missing, Server, own_server

from .bed import COPY, FOUR, OURS, PAGE_SIZE, SINGLE, SMALL, Rival, Step, must_be, ours
from .peers import postgres_peers
from .seed import postgres_seed
from .world import NAME, NOW, World, Wrong, preference

__all__ = ["Missing", "PostgresBed", "Statements", "Visits", "server_for_figures"]

OPTIONS = {
    "fsync": "on",
    "shared_buffers": "1GB",
    # Nothing that is not asked for comes between.
    "autovacuum": "off",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "jit": "off",
}
_CHUNK = 20_000


def connect(dsn: str) -> psycopg.Connection[TupleRow]:
    """Connect as somebody who cares for speed: every statement is prepared at its first use."""
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=0, options="-c search_path=fanout_briefs,public")


@contextmanager
def server_for_figures() -> Generator[tuple[str, Statements]]:
    """Start a server that counts statements, and give the address of an empty database on it.

    Raises:
        Missing: There is nothing to start.
    """
    given = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
    with own_server(given) as server:
        counts = _counts_by_itself(server)
        more = "-c shared_preload_libraries=pg_stat_statements" if counts else "-c log_statement=all"
        server.stop("fast")
        restarted = Server(server.binaries, server.folder, server.port, f"{given} {more}")
        restarted.start()
        with connect(restarted.dsn) as connection:
            connection.execute("CREATE DATABASE figures TEMPLATE template0")
            if counts:
                connection.execute("CREATE EXTENSION pg_stat_statements")
            log = None if counts else restarted.folder / "log"
            yield restarted.dsn.replace("/postgres?", "/figures?"), Statements(connection, log)


def _counts_by_itself(server: Server) -> bool:
    """Say whether the binaries came with ``pg_stat_statements``."""
    with connect(server.dsn) as connection:
        found = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements'").fetchall()
    return bool(found)


@define
class Statements:
    """What the server says it was asked. ``connection`` is to another database than the one that is measured."""

    connection: psycopg.Connection[TupleRow]
    log: Path | None

    @property
    def how(self) -> str:
        return "pg_stat_statements" if self.log is None else "the server's log"

    @property
    def version(self) -> str:
        return str(self.connection.execute("SHOW server_version").fetchall()[0][0])

    @contextmanager
    def count(self) -> Generator[list[int]]:
        found: list[int] = []
        if self.log is not None:
            begin = self.log.stat().st_size
            yield found
            with self.log.open("rb") as lines:
                lines.seek(begin)
                found.append(sum(b"LOG:  statement: " in line or b"LOG:  execute " in line for line in lines))
            return
        self.connection.execute("SELECT pg_stat_statements_reset()")
        yield found
        rows = self.connection.execute(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements JOIN pg_database ON oid = dbid"
            " WHERE datname = 'figures'"
        ).fetchall()
        found.append(rows[0][0])


@frozen
class Visits:
    """The host's engagement: one statement for as many users as are asked about."""

    connection: psycopg.Connection[TupleRow]

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        return await to_thread.run_sync(self._read, list(user_ids))

    def _read(self, user_ids: list[str]) -> dict[str, datetime | None]:
        return dict(self.connection.execute(_VISITS, (user_ids,), binary=True).fetchall())


class PostgresBed:
    """A world in a database that is otherwise empty."""

    kind = "PostgreSQL"

    def __init__(self, dsn: str, statements: Statements, world: World) -> None:
        self.world = world
        self.dsn = dsn
        self.connection = connect(dsn)
        self.count = statements.count
        self.rows: list[list[Any]] = []
        self.copied = b""
        self._load(world)
        self._names, self._types = zip(*self._columns(), strict=True)

    def close(self) -> None:
        self.connection.close()

    def _load(self, world: World) -> None:
        run = self.connection.execute
        run("DROP SCHEMA IF EXISTS fanout_briefs CASCADE")
        run("DROP TABLE IF EXISTS visits")
        asyncio.run(self._put(world))
        run('CREATE TABLE public.visits (user_id text COLLATE "C" PRIMARY KEY, last_visit timestamptz)')
        with self.connection.cursor() as cursor:
            with cursor.copy("COPY visits FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["text", "timestamptz"])
                for user in world.people:
                    copy.write_row((user.user_id, user.last_visit))
            given = "dedup_key, type, user_id, local_date, deliver_at, run_at, window_start, window_end, status"
            with cursor.copy(f"COPY jobs ({given}, epoch, attempts, token) FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["text"] * 3 + ["date"] + ["timestamptz"] * 4 + ["text"] + ["int8"] * 3)
                for user in world.people:
                    at = user.last_brief
                    key = f"{NAME}:{at.date()}:{user.user_id}"
                    copy.write_row((key, NAME, user.user_id, at.date(), at, at, at, at, "completed", 1, 1, 1))
        run("VACUUM (ANALYZE)")
        run("CHECKPOINT")

    async def _put(self, world: World) -> None:
        async with PostgresStorage(self.dsn) as storage:
            for begin in range(0, len(world.people), _CHUNK):
                await storage.preferences.put(map(preference, world.people[begin : begin + _CHUNK]))

    def _columns(self) -> list[TupleRow]:
        return self.connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = 'fanout_briefs.jobs'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        ).fetchall()

    def reset(self) -> None:
        self.connection.execute("DELETE FROM jobs WHERE deliver_at >= %b", (NOW,))
        self.connection.execute("DELETE FROM marks")
        self.connection.execute("VACUUM jobs, marks")

    def states(self) -> dict[str, str]:
        rows = self.connection.execute("SELECT user_id, status FROM jobs WHERE deliver_at >= %b", (NOW,)).fetchall()
        if len({user for user, _ in rows}) != len(rows):
            raise Wrong("some user has two slots")
        return dict(rows)

    def rivals(self) -> Mapping[str, Rival]:
        if not self.rows:
            self._remember()
        return {
            OURS: Rival(self._ours),
            SMALL: Rival(partial(self._ours, 1_000)),
            FOUR: Rival(self._four),
            SINGLE: Rival(self._single),
            COPY: Rival(self._copy),
            **postgres_seed(self),
            **postgres_peers(self),
        }

    def _remember(self) -> None:
        """Plan once: it warms everything up, and gives the rows that the floors are to write."""
        with self._ours() as (first, _):
            first.check(first.run())
        names = ", ".join(self._names)
        question = f"SELECT {names} FROM jobs WHERE deliver_at >= '{NOW.isoformat()}' ORDER BY dedup_key"
        self.rows = [list(column) for column in zip(*self.connection.execute(question).fetchall(), strict=True)]
        with self.connection.cursor() as cursor, cursor.copy(f"COPY ({question}) TO STDOUT (FORMAT BINARY)") as copy:
            self.copied = b"".join(map(bytes, copy))
        self.reset()

    @contextmanager
    def _ours(self, page_size: int = PAGE_SIZE) -> Generator[list[Step]]:
        with (
            connect(self.dsn) as connection,
            ours(self, PostgresStorage(self.dsn), Visits(connection), page_size) as steps,
        ):
            yield steps

    @contextmanager
    def _copy(self) -> Generator[list[Step]]:
        with connect(self.dsn) as connection, connection.cursor() as cursor:

            def run() -> None:
                with cursor.copy(f"COPY jobs ({', '.join(self._names)}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(self.copied)

            yield [Step(COPY, run, must_be(self))]

    @property
    def _insert(self) -> str:
        arrays = ", ".join(f"%b::{kind}[]" for kind in self._types)
        return f"INSERT INTO jobs ({', '.join(self._names)}) SELECT * FROM unnest({arrays})"

    @contextmanager
    def _single(self) -> Generator[list[Step]]:
        with connect(self.dsn) as connection:
            yield [Step(SINGLE, lambda: connection.execute(self._insert, self.rows), must_be(self))]

    def _due(self) -> list[str]:
        """Give the schedules that are due, as they are stored."""
        users = self.rows[self._names.index("user_id")]
        question = "SELECT DISTINCT schedule FROM preferences WHERE user_id = ANY (%b::text[])"
        return [schedule for (schedule,) in self.connection.execute(question, (users,)).fetchall()]

    @contextmanager
    def _four(self) -> Generator[list[Step]]:
        """Nothing but the statements: who is due is known, and so are the rows; none of our values is built."""
        due = self._due()
        keys, users, instants = (self.rows[self._names.index(name)] for name in ("dedup_key", "user_id", "deliver_at"))

        def run() -> tuple[int, ...]:
            found = [
                connection.execute(statement, values, binary=True).fetchall()
                for statement, values in ((_DUE, (due,)), (_ACTIVITY, (users, instants, NAME)), (_KEYS, (keys,)))
            ]
            connection.execute(f"{self._insert} ON CONFLICT (dedup_key) DO NOTHING", self.rows)
            return tuple(map(len, found))

        def check(found: tuple[int, ...]) -> None:
            if found != (self.world.due, self.world.due, 0):
                raise Wrong(f"the raw statements found {found}")
            must_be(self)(None)

        with connect(self.dsn) as connection:
            yield [Step(FOUR, run, check)]


_DUE = """
SELECT user_id, frequency, time_of_day, timezone, day_of_week, days, effective_from
FROM unnest(%b::text[]) AS asked (id) CROSS JOIN LATERAL (
    SELECT * FROM preferences WHERE is_active AND schedule = asked.id COLLATE "C"
) AS wish
"""
# Here and below not "= ANY" nor a plain join: looking each up by itself takes half as long.
_VISITS = """
SELECT visit.* FROM unnest(%b::text[]) AS asked (user_id) CROSS JOIN LATERAL (
    SELECT user_id, last_visit FROM visits WHERE user_id = asked.user_id LIMIT 1
) AS visit
"""
_ACTIVITY = """
SELECT visit.user_id, visit.last_visit, latest.deliver_at
FROM unnest(%b::text[], %b::timestamptz[]) AS asked (user_id, before) CROSS JOIN LATERAL (
    SELECT user_id, last_visit FROM visits WHERE user_id = asked.user_id LIMIT 1
) AS visit LEFT JOIN LATERAL (
    SELECT deliver_at FROM jobs AS job
    WHERE job.user_id = asked.user_id AND type = %b AND deliver_at < asked.before
        AND status IN ('pending', 'processing', 'completed')
    ORDER BY deliver_at DESC LIMIT 1
) AS latest ON true
"""
_KEYS = """
SELECT found.dedup_key, status, code, deliver_at FROM unnest(%b::text[]) AS asked (dedup_key) CROSS JOIN LATERAL (
    SELECT * FROM jobs AS job WHERE job.dedup_key = asked.dedup_key LIMIT 1
) AS found
"""
