"""Error messages of a PostgreSQL storage: the place, the reason, and what to do. Never a password."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fanout_briefs.adapters.postgres_schema import quoted
from fanout_briefs.errors import BadValue, StorageUnavailable

__all__ = ["Target", "bad_place", "explain"]

_DEFAULTS: Final[Mapping[str, Any]] = {
    "application_name": "fanout_briefs",
    "connect_timeout": 10,
    # Notices a vanished server within about a minute, even on an idle connection.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


class Target:
    """A connection string, which may contain a password, and the parts that messages may show."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        given = _parsed(dsn) or {}
        self.secrets: list[str] = [str(value) for name, value in given.items() if "password" in name and value]
        host, port, database = (
            given.get(name) for name in ("hostaddr" if "hostaddr" in given else "host", "port", "dbname")
        )
        where = "" if host is None else f" at {host}" + ("" if port is None else f":{port}")
        self.place: str = "PostgreSQL" + ("" if database is None else f" database {database!r}") + where

    @property
    def conninfo(self) -> str:
        """The given connection string, completed with our defaults.

        Raises:
            StorageUnavailable: The DSN is not a valid connection string.
        """
        given = _parsed(self._dsn)
        if given is None:
            # Do not repeat the driver's reason: it quotes a part of the string, maybe the password.
            raise StorageUnavailable(
                "the DSN is no connection string: write postgresql://user:password@host:5432/database or "
                "'host=... dbname=... user=...', and percent-encode special characters of a password in the first "
                "form (@ is %40, / is %2F)"
            )
        return make_conninfo("", **{**_DEFAULTS, **given, "client_encoding": "UTF8"})

    def reason(self, error: psycopg.Error) -> str:
        """Return what the driver says, on one line and without secrets."""
        # Only the primary message: the details of an error may contain values.
        told = "; ".join((error.diag.message_primary or str(error)).split("\n"))
        for secret in self.secrets:
            told = told.replace(secret, "***")
        return told


def _parsed(dsn: str) -> dict[str, Any] | None:
    """Return the parts of a connection string; None if it is not valid."""
    if dsn.startswith(("postgresql://", "postgres://")) and len(dsn.split()) > 1:
        return None  # A password with a space: older drivers accept it, newer ones do not.
    try:
        given = conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):  # The latter: percent-encoded bytes that are not UTF-8.
        return None
    # Parts of a password with an unencoded @ or / end up in these, and would then appear in messages.
    host, database, port = (str(given.get(name) or "") for name in ("host", "dbname", "port"))
    is_good = "@" not in host + database and (not port or port.replace(",", "").isdecimal())
    return given if is_good else None


def bad_place(dsn: object, schema: object) -> Iterator[BadValue | str]:
    """Yield what cannot be a connection string or the name of a schema."""
    if not isinstance(dsn, str) or not dsn.strip():
        # libpq would silently use its defaults for an empty one.
        yield "dsn: must be a postgresql:// address or key=value pairs, such as 'dbname=app'; it is not shown"
    if not isinstance(schema, str) or "\0" in schema or not 0 < len(schema.encode(errors="replace")) <= 63:
        yield BadValue("schema", schema, "must be a name of 1 to 63 bytes")


def explain(
    error: psycopg.Error, target: Target, schema: str, statement_timeout: timedelta, *, connecting: bool = False
) -> str:
    """Return the driver's reason and what to do about it."""
    seconds = f"{statement_timeout.total_seconds():g} s"
    return f"{target.reason(error)}: {_advice(error, connecting=connecting).format(schema=quoted(schema), seconds=seconds)}"


def _advice(error: psycopg.Error, *, connecting: bool) -> str:
    code = error.sqlstate
    if code is None and isinstance(error, psycopg.OperationalError):
        return _UNREACHABLE if connecting else _LOST
    known = next((part for part in (code or "", (code or "")[:2]) if part in _ADVICE), None)
    return "this is what PostgreSQL says; if it is not about the server, report it" if known is None else _ADVICE[known]


_UNREACHABLE: Final = (
    "check host, port, database, user and password in the DSN, and that the server runs and lets this client in"
)
_LOST: Final = (
    "the connection was lost in the middle, and nobody knows whether this was still stored; call again, for "
    "everything here may be repeated"
)
_RIGHTS: Final = (
    "give the role USAGE on schema {schema} and SELECT, INSERT, UPDATE, DELETE on its tables; to make or migrate "
    "them it needs CREATE on the database or the schema"
)
_ADVICE: Final = {
    "08": _LOST,
    "28": _UNREACHABLE,
    "3D000": _UNREACHABLE,
    "3F000": f"the schema is missing, or the role may not use it; {_RIGHTS}",
    "42P01": "a table is missing; run `await storage.migrate()`, or open the storage with migrate=True",
    "42P07": "the schema holds something else of that name; choose another schema for these tables",
    "42501": _RIGHTS,
    "25006": "the server takes no writes, as a standby does not; connect to the primary",
    "40": "other transactions were in the way for {seconds}; try again when less is going on",
    "53100": "the server's disk is full and nothing of this was stored; free some space and try again",
    "53300": "lower pool_size, end other connections, or raise the server's max_connections",
    "55P03": (
        "another transaction has kept rows or tables locked; find it in pg_stat_activity and end it, or allow a "
        "longer statement_timeout, half of which is how long to wait for a lock"
    ),
    "57014": (
        "a statement took longer than the statement_timeout of {seconds}, and nothing of it was stored; look for "
        "what slows the server down, or allow more"
    ),
    "57P01": _LOST,
    "57P02": _LOST,
    "57P03": "the server is starting, stopping or recovering; try again in a moment",
    "57P05": _LOST,
    "25P03": _LOST,
}
"""By SQLSTATE, or by its class, the first two characters."""
