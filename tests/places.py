"""Databases that several storages and several processes can reach, for tests that look into them from beside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from services import Schema, connect
from sqlite_trace import A_WHILE

__all__ = ["File", "Place", "Tables"]


class Place(Protocol):
    """A database that other processes can reach too."""

    def storage(self, trace: Callable[[str], None] | None = None) -> SqliteStorage | PostgresStorage: ...
    def ask(self, statement: str) -> list[tuple[Any, ...]]: ...


@frozen
class File:
    """A SQLite file."""

    path: Path

    def storage(self, trace: Callable[[str], None] | None = None) -> SqliteStorage:
        return SqliteStorage(self.path, trace=trace)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=A_WHILE)) as connection:
            return connection.execute(statement).fetchall()


@frozen
class Tables:
    """A schema of a PostgreSQL database."""

    dsn: str
    schema: str

    def storage(self, trace: Callable[[str], None] | None = None) -> PostgresStorage:
        return PostgresStorage(self.dsn, schema=self.schema, trace=trace)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.dsn) as connection:
            schema = Schema(self.dsn, self.schema, connection)
            schema.run(f'SET search_path TO "{self.schema}"')
            return schema.run(statement)
