"""The engines that tests run on: how each is installed, looked into, and how its workers are started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import quote, urlencode

import procrastinate
import pytest
from attrs import frozen
from pgqueuer.db import SyncPsycopgDriver
from pgqueuer.queries import SyncQueries
from procrastinate.jobs import Job
from psycopg.conninfo import conninfo_to_dict

from celery_carrier import CeleryCarrier
from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher
from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher
from fanout_briefs.ports import Dispatcher
from services import Schema, connect, with_parts

__all__ = ["CARRIERS", "Carrier", "PgQueuerCarrier", "ProcrastinateCarrier"]

APP = Path(__file__).parent / "engines"
BINARIES = Path(sys.executable).parent


class Carrier(Protocol):
    """An engine, installed where a test may do as it likes."""

    @property
    def name(self) -> str: ...

    @property
    def dispatcher(self) -> Dispatcher: ...

    def environment(self) -> Mapping[str, str]:
        """What its workers need to know."""
        ...

    def install(self) -> None:
        """Make what it needs, empty."""
        ...

    def waiting(self) -> Sequence[tuple[str, datetime, int]]:
        """Key, time and priority of each message that waits, in order of their keys and times."""
        ...

    def with_priorities(self, priorities: Mapping[str, int]) -> Dispatcher:
        """A dispatcher with these priorities."""
        ...

    def without_tables(self) -> Dispatcher:
        """A dispatcher to where the engine is not installed."""
        ...

    def worker(self, concurrency: int) -> Sequence[str]:
        """The engine's own command that starts a worker of ``engine_app`` that runs so many jobs at once."""
        ...

    def limited(self, briefs: int) -> Sequence[Sequence[str]]:
        """Commands that start workers which run so many briefs at once in all, and any number of mails.

        ``ENGINE_BRIEFS_AT_ONCE`` is set for them.
        """
        ...

    def beside(self) -> Sequence[Sequence[str]]:
        """The engine's own commands that start what it needs once, beside its workers."""
        ...

    def bulk(self, keys: Sequence[str]) -> Callable[[], object]:
        """The engine's own bulk call for as many messages as there are keys, each with a key and a time of its own."""
        ...


_installed: set[tuple[str, str]] = set()


@frozen
class _InPostgres:
    """An engine whose tables are in a schema of their own, beside the ledger's."""

    ledger: Schema
    tables: ClassVar[str]

    @property
    def schema(self) -> str:
        return f"engine_{type(self).__name__.lower()}"

    @property
    def dsn(self) -> str:
        """For the engine itself, which looks where the connection says."""
        return with_parts(self.ledger.dsn, options=f"-c search_path={self.schema}")

    def run(self, query: str, *values: Any) -> list[Any]:
        with connect(self.dsn) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def install(self) -> None:
        if (self.ledger.dsn, self.schema) in _installed:
            with connect(self.dsn) as connection:
                connection.execute(f"TRUNCATE {self.tables} RESTART IDENTITY CASCADE".encode())
            return
        with connect(self.ledger.dsn) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {self.schema} CASCADE; CREATE SCHEMA {self.schema}".encode())
        subprocess.run(
            self.installing(),
            cwd=APP,
            env={**os.environ, **self.environment()},
            capture_output=True,
            check=True,
            timeout=60,
        )
        _installed.add((self.ledger.dsn, self.schema))

    def installing(self) -> Sequence[str]:
        raise NotImplementedError

    def beside(self) -> Sequence[Sequence[str]]:
        return []

    @property
    def address(self) -> str:
        """The same as a URL, which is all that asyncpg reads."""
        given = conninfo_to_dict(self.dsn)
        user, name = (quote(str(given.get(part, ""))) for part in ("user", "dbname"))
        parts = {part: str(value) for part, value in given.items() if part in {"host", "port", "options", "password"}}
        return f"postgresql://{user}@/{name}?{urlencode(parts, quote_via=quote)}"

    def environment(self) -> Mapping[str, str]:
        return {
            "PYTHONPATH": str(APP),
            "PGDSN": self.address,
            "ENGINE_DSN": self.ledger.dsn,
            "ENGINE_SCHEMA": self.schema,
        }


@frozen
class ProcrastinateCarrier(_InPostgres):
    name = "procrastinate"
    tables = "procrastinate_jobs, procrastinate_workers"

    @property
    def dispatcher(self) -> ProcrastinateDispatcher:
        return self.with_priorities({})

    def with_priorities(self, priorities: Mapping[str, int]) -> ProcrastinateDispatcher:
        return ProcrastinateDispatcher(self.ledger.dsn, schema=self.schema, priorities=priorities)

    def without_tables(self) -> ProcrastinateDispatcher:
        return ProcrastinateDispatcher(self.ledger.dsn, schema="nothing_here")

    def installing(self) -> Sequence[str]:
        return str(BINARIES / "procrastinate"), "--app=schema_app.app", "schema", "--apply"

    def worker(self, concurrency: int) -> Sequence[str]:
        return (
            *(str(BINARIES / "procrastinate"), "--app=procrastinate_app.app", "worker", f"--concurrency={concurrency}"),
            *("--fetch-job-polling-interval=0.5", "--delete-jobs=successful", "--shutdown-graceful-timeout=1"),
        )

    def limited(self, briefs: int) -> Sequence[Sequence[str]]:
        mails = "--queues=generate_brief_email.daily_brief"
        return [(*self.worker(briefs), "--queues=daily_brief"), (*self.worker(20), mails)]

    def bulk(self, keys: Sequence[str]) -> Callable[[], object]:
        manager = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=self.dsn)).open().job_manager
        made = [
            Job(
                id=None,
                queue="alone",
                lock=None,
                queueing_lock=key,
                task_name="alone",
                task_kwargs={"key": key},
                scheduled_at=datetime.now(UTC),
            )
            for key in keys
        ]

        def defer() -> None:
            manager.batch_defer_jobs(made)
            manager.connector.get_sync_connector().close()

        return defer

    def waiting(self) -> Sequence[tuple[str, datetime, int]]:
        return self.run(
            "SELECT args ->> 'key', scheduled_at, priority FROM procrastinate_jobs WHERE status = 'todo' "
            "AND args ? 'key' ORDER BY 1, 2"
        )


@frozen
class PgQueuerCarrier(_InPostgres):
    name = "pgqueuer"
    tables = "pgqueuer, pgqueuer_log"

    @property
    def dispatcher(self) -> PgQueuerDispatcher:
        return self.with_priorities({})

    def with_priorities(self, priorities: Mapping[str, int]) -> PgQueuerDispatcher:
        return PgQueuerDispatcher(self.ledger.dsn, schema=self.schema, priorities=priorities)

    def without_tables(self) -> PgQueuerDispatcher:
        return PgQueuerDispatcher(self.ledger.dsn, schema="nothing_here")

    def installing(self) -> Sequence[str]:
        return str(BINARIES / "pgq"), "install"

    def worker(self, concurrency: int) -> Sequence[str]:
        return (
            *(
                str(BINARIES / "pgq"),
                "run",
                f"--batch-size={concurrency // 2}",
                f"--max-concurrent-tasks={concurrency}",
                "--dequeue-timeout=0.1",
            ),
            *("--heartbeat-timeout=3", "--restart-on-failure", "--restart-delay=0.5"),
            "pgqueuer_app:main",
        )

    def limited(self, briefs: int) -> Sequence[Sequence[str]]:  # By the environment: over all workers.
        return [self.worker(20)] * 2

    def bulk(self, keys: Sequence[str]) -> Callable[[], object]:
        at_once: list[timedelta | None] = [timedelta(0)] * len(keys)

        def enqueue() -> None:
            with connect(self.dsn) as connection:
                SyncQueries(SyncPsycopgDriver(connection)).enqueue(
                    ["alone"] * len(keys),
                    [key.encode() for key in keys],
                    [0] * len(keys),
                    at_once,
                    list(keys),
                    on_conflict="skip",
                )

        return enqueue

    def waiting(self) -> Sequence[tuple[str, datetime, int]]:
        return self.run(
            "SELECT convert_from(payload, 'UTF8'), execute_after, priority FROM pgqueuer WHERE status = 'queued' "
            "ORDER BY 1, 2"
        )


CARRIERS: Mapping[str, Callable[[pytest.FixtureRequest, Schema], Carrier]] = {
    "procrastinate": lambda _, ledger: ProcrastinateCarrier(ledger),
    "pgqueuer": lambda _, ledger: PgQueuerCarrier(ledger),
    "celery-prefork": lambda request, ledger: CeleryCarrier(ledger, request.getfixturevalue("redis_url"), "prefork"),
    "celery-threads": lambda request, ledger: CeleryCarrier(ledger, request.getfixturevalue("redis_url"), "threads"),
}


@pytest.fixture(params=list(CARRIERS))
def carrier(request: pytest.FixtureRequest, postgres: Schema) -> Carrier:
    made = CARRIERS[request.param](request, postgres)
    made.install()
    return made
