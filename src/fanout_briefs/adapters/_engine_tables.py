"""Access to the tables of engines that run in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from anyio import to_thread
from attrs import field, frozen
from psycopg.rows import tuple_row

from fanout_briefs.adapters.postgres_errors import Target
from fanout_briefs.adapters.postgres_schema import quoted
from fanout_briefs.errors import StorageUnavailable

__all__ = ["Tables"]


@frozen(kw_only=True)
class Tables:
    """An engine's own tables.

    Attributes:
        engine: The engine's name.
        install: The command that creates its tables.
        target: The database, for use outside a ledger's transaction.
        schema: The schema that holds the tables.
    """

    engine: str
    install: str
    target: Target = field(converter=Target)
    schema: str

    @contextmanager
    def on(self, connection: psycopg.Connection[Any]) -> Generator[psycopg.Cursor[Any]]:
        """Yield a cursor that finds the engine's tables first, in the current transaction or else a new one."""
        with connection.transaction():
            cursor = psycopg.Cursor(connection, row_factory=tuple_row)
            # Reads and sets in one round trip; the engine's functions and triggers name their tables without a schema.
            ((before, _),) = cursor.execute(_LOOK_IN, (quoted(self.schema),)).fetchall()
            with self.known():
                yield cursor
            cursor.execute("SELECT set_config('search_path', %s, true)", (before,))

    @contextmanager
    def known(self) -> Generator[None]:
        """Turn errors about missing tables into advice on how to install them."""
        try:
            yield
        except (
            psycopg.errors.InvalidSchemaName,
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedFunction,
            psycopg.errors.UndefinedObject,
        ) as e:
            raise StorageUnavailable(
                f"{self.engine} has no tables in schema {self.schema!r} of this database: run `{self.install}`, or "
                "give schema= where they are"
            ) from e

    async def in_thread(self, work: Callable[[psycopg.Connection[Any]], None]) -> None:
        """Run ``work`` on a new connection, in a thread that is never abandoned.

        Raises:
            StorageUnavailable: The server cannot be reached or reported an error; the message contains no password.
        """

        def run() -> None:
            with psycopg.Connection[Any].connect(self.target.conninfo, autocommit=True) as connection:
                connection.execute(_LIMITS)
                work(connection)

        try:
            await to_thread.run_sync(run)
        except psycopg.Error as e:
            raise StorageUnavailable(f"{self.engine} in {self.target.place}: {self.target.reason(e)}") from e


_LIMITS: Final = (
    "SET statement_timeout = '20s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '20s'"
)
_LOOK_IN: Final = "SELECT current_setting('search_path'), set_config('search_path', %s || ', pg_temp', true)"
