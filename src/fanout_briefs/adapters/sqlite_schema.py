"""The tables of a SQLite storage, and their migrations.

A file is empty, ours with a known version, ours but too new, or another program's; the last two are refused before
anything is written. Migrations only go forward; ``user_version`` records how many a file has had.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from fanout_briefs.errors import SchemaTooNew, StorageUnavailable
from fanout_briefs.model import JobStatus
from fanout_briefs.rules import ENDED

__all__ = ["APPLICATION_ID", "HAS_ENDED", "MIGRATIONS", "examine", "migrate"]

APPLICATION_ID: Final = 0x46_42_52_46
"""``FBRF`` in the file's header, so that ``file`` and this module recognise it as ours."""

HAS_ENDED: Final = "status IN (" + ", ".join(f"'{status}'" for status in ENDED) + ")"
"""SQLite uses the index of ended slots only if a query contains exactly this condition."""

# Instants are microseconds since 1970 in UTC, exact from year 1 to 9999. Local dates are ISO strings.
_FIRST: Final = f"""
CREATE TABLE jobs (
    seq          INTEGER PRIMARY KEY,
    dedup_key    TEXT NOT NULL UNIQUE,
    type         TEXT NOT NULL,
    user_id      TEXT NOT NULL,
    local_date   TEXT NOT NULL,
    deliver_at   INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    window_start INTEGER NOT NULL,
    window_end   INTEGER NOT NULL,
    window_fixed INTEGER NOT NULL DEFAULT 0,
    status       TEXT NOT NULL,
    code         TEXT,
    reason       TEXT,
    error        TEXT,
    epoch        INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    progress     TEXT,
    demand       TEXT,
    token        INTEGER NOT NULL,
    lease_until  INTEGER
);
CREATE INDEX jobs_due ON jobs (type, run_at) WHERE status = '{JobStatus.PENDING}';
CREATE INDEX jobs_held ON jobs (type, lease_until) WHERE status = '{JobStatus.PROCESSING}';
CREATE INDEX jobs_of_user ON jobs (user_id, type, deliver_at, status);
-- Only of ended slots: planning and claiming them then does not pay for what operators ask.
CREATE INDEX jobs_by_delivery ON jobs (type, deliver_at, status, code) WHERE {HAS_ENDED};

CREATE TABLE outbox (
    seq     INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
    payload BLOB NOT NULL
);

CREATE TABLE briefs (
    seq        INTEGER PRIMARY KEY,
    user_id    TEXT NOT NULL,
    type       TEXT NOT NULL,
    local_date TEXT NOT NULL,
    deliver_at INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    body       BLOB NOT NULL,
    UNIQUE (user_id, type, local_date)
);
CREATE INDEX briefs_of_user ON briefs (user_id, type, deliver_at, local_date, window_end);

CREATE TABLE marks (
    name       TEXT PRIMARY KEY,
    instant    INTEGER NOT NULL,
    planned_at INTEGER
) WITHOUT ROWID;

CREATE TABLE pauses (
    type  TEXT PRIMARY KEY,
    since INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE preferences (
    user_id        TEXT PRIMARY KEY,
    frequency      TEXT,
    time_of_day    TEXT,
    timezone       TEXT,
    day_of_week    INTEGER,
    days           TEXT,
    is_active      INTEGER NOT NULL,
    effective_from INTEGER,
    schedule       TEXT NOT NULL AS (json_array(frequency, time_of_day, timezone, day_of_week, json(days)))
) WITHOUT ROWID;
-- A plan finds the few schedules that are due, then only the people who have them.
CREATE INDEX preferences_by_schedule ON preferences (schedule, user_id, effective_from) WHERE is_active;

-- One row: the highest token of slots that were erased. New slots begin there, so that no old claim fits them.
CREATE TABLE fence (token INTEGER NOT NULL);
INSERT INTO fence VALUES (0);
"""  # noqa: S608  # Only values of our own enums are spliced in.

MIGRATIONS: Final = (_FIRST,)
"""The scripts that turn each version of the schema into the next. They are split at every semicolon."""

# Changes nothing, but fails on a read-only file: better at opening than at the first job.
_TOUCH: Final = "DELETE FROM fence WHERE false"


def examine(connection: sqlite3.Connection, place: str) -> int:
    """Return the file's schema version, 0 for an empty file. Call it inside a transaction.

    Raises:
        SchemaTooNew: A newer release of this library created the file.
        StorageUnavailable: Another program created it.
    """
    application, version, tables = (
        connection.execute(question).fetchone()[0]
        for question in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if application == APPLICATION_ID:
        if version > len(MIGRATIONS):
            raise SchemaTooNew(place, version, len(MIGRATIONS))
        return int(version)
    if application or version or tables:
        raise StorageUnavailable(
            f"{place} is a SQLite database of another program, and was left as it is: give the path of a new file"
        )
    return 0


def migrate(connection: sqlite3.Connection, place: str) -> None:
    """Bring the file to the newest version. Call it inside a transaction that holds the write lock."""
    known = examine(connection, place)
    for script in MIGRATIONS[known:]:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)
    if known < len(MIGRATIONS):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute(_TOUCH)
