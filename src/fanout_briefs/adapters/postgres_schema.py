"""The tables of a PostgreSQL storage, and their migrations.

Each version is a plain SQL file beside this module, which a host may read and run. Migrations only go forward; a row
in the schema records how many have been applied.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from psycopg import Connection, sql

from fanout_briefs.errors import SchemaTooNew, StorageUnavailable

__all__ = ["NEWEST", "OLDEST_SERVER", "advice", "examine", "migrate", "quoted", "scripts"]

OLDEST_SERVER: Final = 13

_FOLDER: Final = resources.files("fanout_briefs.adapters") / "postgres_schema"


def scripts() -> list[tuple[str, str]]:
    """Return path and content of each script, in order of the versions."""
    files = sorted((file for file in _FOLDER.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [(str(file), file.read_text(encoding="utf-8")) for file in files]


NEWEST: Final = len(scripts())


def examine(connection: Connection[Any], schema: str, place: str) -> int:
    """Return the version of the schema: 0 if it contains none of our tables or does not exist.

    Raises:
        SchemaTooNew: A newer release of this library created it.
        StorageUnavailable: The server is too old, the database is not in UTF-8 or read-only, or the schema is in use by
            another program.
    """
    if connection.info.server_version < OLDEST_SERVER * 10_000:
        raise StorageUnavailable(
            f"{place} runs on PostgreSQL {connection.info.server_version // 10_000}, which is too old: "
            f"use a server of version {OLDEST_SERVER} or newer"
        )
    encoding, read_only, kind = connection.execute(_FACTS, (schema,)).fetchone() or ("", "on", None)
    if encoding != "UTF8":
        raise StorageUnavailable(
            f"{place}: the database is encoded in {encoding}, which does not hold every text: use one that was made "
            "with ENCODING 'UTF8'"
        )
    if read_only == "on":
        raise StorageUnavailable(
            f"{place} is read-only, such as a standby server is: connect to the primary (target_session_attrs="
            "read-write in the DSN finds it among several hosts)"
        )
    if kind is None:
        return 0
    if kind != "integer":
        raise StorageUnavailable(
            f"{place}: the table schema_version is another program's; choose another schema for the tables of this "
            "library"
        )
    question = sql.SQL("SELECT version FROM {}").format(sql.Identifier(schema, "schema_version"))
    row = connection.execute(question).fetchone()
    version = 0 if row is None else int(row[0])
    if version > NEWEST:
        raise SchemaTooNew(place, version, NEWEST)
    return version


# Queries the catalogue, since to_regclass fails if the role may not use the schema. The query that follows then
# reports the missing privilege.
_FACTS: Final = """
SELECT current_setting('server_encoding'), current_setting('transaction_read_only'), (
    SELECT coalesce(pg_catalog.format_type(atttypid, NULL), 'no such column')
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid AND attname = 'version' AND NOT attisdropped
    WHERE nspname = %s AND relname = 'schema_version'
)
"""


def advice(schema: str, version: int) -> str:
    """Return what to run if the tables are missing or old."""
    files = " ".join(f"-f {place}" for place, _ in scripts()[version:])
    old = f"has version {version} of the tables, and this release needs {NEWEST}"
    return (
        f"schema {schema!r} {old if version else 'has no tables of this library'}: run `await storage.migrate()` once, "
        f"or open it with migrate=True, or run `psql -v ON_ERROR_STOP=1 -1 -c 'CREATE SCHEMA IF NOT EXISTS "
        f"{quoted(schema)}' -c 'SET search_path TO {quoted(schema)}' {files}`"
    )


def quoted(schema: str) -> str:
    """Return the name as a quoted SQL identifier."""
    return '"' + schema.replace('"', '""') + '"'


def migrate(connection: Connection[Any], schema: str, place: str, trace: Callable[[str], None] | None = None) -> None:
    """Bring the schema to the newest version in one transaction.

    Of several concurrent calls, one migrates and the others wait.
    """
    if examine(connection, schema, place) == NEWEST:
        return
    name = sql.Identifier(schema)
    with connection.transaction():
        # Building an index on a large table takes long, so the timeout for everyday work does not apply; nor does the
        # one for locks to waiting until another process has done it.
        connection.execute("SET LOCAL statement_timeout = 0")
        (before,) = connection.execute("SELECT current_setting('lock_timeout')").fetchone() or ("",)
        connection.execute("SET LOCAL lock_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('fanout_briefs ' || %s, 0))", (schema,))
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (before,))
        if connection.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)).rowcount == 0:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        known = examine(connection, schema, place)
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(name))
        for _, script in scripts()[known:]:
            if trace is not None:
                trace(script)
            connection.execute(script.encode())
