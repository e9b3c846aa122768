"""The database of a PostgreSQL storage: how its tables are made, whose they are, and what is said when it cannot be used."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql

from fanout_briefs.adapters import postgres_schema
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.errors import SchemaTooNew, StorageUnavailable
from fanout_briefs.model import Enqueued, Finish, JobStatus, Preference
from services import Schema, Server, connect, with_parts
from slots import NOW, brief_of, claim_one, found, job

SECRET = "hunter2"
UNREACHABLE = f"postgresql://someone:{SECRET}@127.0.0.1:1/briefs"
NOT_THERE = "fanout_briefs not there"


@pytest.fixture
def fresh(postgres: Schema) -> Iterator[Schema]:
    """A schema that does not exist yet."""
    with connect(postgres.dsn) as connection:
        schema = Schema(postgres.dsn, NOT_THERE, connection)
        schema.run(f'DROP SCHEMA IF EXISTS "{NOT_THERE}" CASCADE; SET search_path TO "{NOT_THERE}"')
        yield schema
        schema.run(f'DROP SCHEMA IF EXISTS "{NOT_THERE}" CASCADE')


async def refused(storage: PostgresStorage) -> str:
    with pytest.raises(StorageUnavailable) as caught:
        await storage.__aenter__()
    with pytest.raises(StorageUnavailable, match="is not open"):
        await storage.find([])
    told: BaseException | None = caught.value
    while told is not None:
        assert SECRET not in str(told)
        told = told.__cause__ or told.__context__
    return str(caught.value)


async def test_a_missing_schema_is_made_with_all_its_tables(fresh: Schema) -> None:
    for _ in range(2):
        async with fresh.storage() as storage:
            await storage.enqueue([job()])
            assert await found(storage, job().dedup_key) == job()
    assert fresh.run("SELECT version FROM schema_version") == [(postgres_schema.NEWEST,)]


async def test_nothing_is_touched_before_opening(fresh: Schema) -> None:
    PostgresStorage(UNREACHABLE)
    fresh.storage()
    assert fresh.run(f"SELECT FROM pg_namespace WHERE nspname = '{NOT_THERE}'") == []


async def test_many_who_open_a_missing_schema_at_once_all_succeed(fresh: Schema) -> None:
    async def visit(number: int) -> None:
        async with fresh.storage(pool_size=2) as storage:
            await storage.enqueue([job(f"user{number}")])

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(visit, number)
    assert fresh.run("SELECT version FROM schema_version") == [(postgres_schema.NEWEST,)]
    assert fresh.run("SELECT count(*) FROM jobs") == [(6,)]


async def test_a_storage_that_does_not_migrate_says_what_to_run(fresh: Schema) -> None:
    message = await refused(fresh.storage(migrate=False))
    assert "has no tables of this library: run `await storage.migrate()` once" in message
    assert "0001_first.sql" in message
    storage = fresh.storage(migrate=False)
    await storage.migrate()
    await storage.migrate()
    async with storage:
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]
        await storage.migrate()


async def test_the_command_it_names_is_right(fresh: Schema) -> None:
    message = await refused(fresh.storage(migrate=False))
    command = re.search(r"run `(psql [^`]*)`", message)
    assert command is not None
    files = re.findall(r"-f (\S+)", command[1])
    statements = re.findall(r"-c '([^']*)'", command[1])
    assert files == [place for place, _ in postgres_schema.scripts()]
    fresh.run(";".join([*statements, *(script for _, script in postgres_schema.scripts())]))
    async with fresh.storage(migrate=False) as storage:
        assert list(await storage.enqueue([job()])) == [Enqueued.CREATED]


async def test_an_older_schema_is_migrated_and_keeps_its_content(
    fresh: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fresh.storage() as storage:
        await storage.enqueue([job()])
    more = ("0002", "ALTER TABLE marks ADD COLUMN note text; UPDATE schema_version SET version = 2;")
    known = postgres_schema.scripts()
    monkeypatch.setattr(postgres_schema, "scripts", lambda: [*known, more])
    monkeypatch.setattr(postgres_schema, "NEWEST", 2)
    monkeypatch.setattr("fanout_briefs.adapters.postgres_connection.NEWEST", 2)
    assert "has version 1 of the tables, and this release needs 2" in await refused(fresh.storage(migrate=False))
    async with fresh.storage() as storage:
        assert await found(storage, job().dedup_key) == job()
    assert fresh.run("SELECT version FROM schema_version") == [(2,)]


async def test_a_migration_that_fails_leaves_everything_as_it_was(
    fresh: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ("0001", "CREATE TABLE schema_version (version integer); CREATE TABLE schema_version (a integer)")
    with monkeypatch.context() as patch:
        patch.setattr(postgres_schema, "scripts", lambda: [broken])
        assert "choose another schema for these tables" in await refused(fresh.storage())
    assert fresh.run(f"SELECT FROM pg_namespace WHERE nspname = '{NOT_THERE}'") == []


async def test_tables_of_somebody_else_are_left_alone(fresh: Schema) -> None:
    fresh.run(f'CREATE SCHEMA "{NOT_THERE}"; CREATE TABLE jobs (note text)')
    assert "choose another schema for these tables" in await refused(fresh.storage())
    assert fresh.run("SELECT note FROM jobs") == []
    assert fresh.run(f"SELECT relname FROM pg_class WHERE relnamespace = '\"{NOT_THERE}\"'::regnamespace") == [
        ("jobs",)
    ]


@pytest.mark.parametrize("columns", ["version varchar(50), script text", "installed_rank integer"])
async def test_a_table_of_versions_that_is_another_programs_is_told_and_left_alone(fresh: Schema, columns: str) -> None:
    fresh.run(f'CREATE SCHEMA "{NOT_THERE}"; CREATE TABLE schema_version ({columns})')
    fresh.run("INSERT INTO schema_version VALUES ('1')")
    for migrate in (True, False):
        message = await refused(fresh.storage(migrate=migrate))
        assert "the table schema_version is another program's; choose another schema" in message
    assert fresh.run(f"SELECT relname FROM pg_class WHERE relnamespace = '\"{NOT_THERE}\"'::regnamespace") == [
        ("schema_version",)
    ]


async def test_who_waits_for_anothers_migration_waits_longer_than_for_any_lock(fresh: Schema) -> None:
    key = f"hashtextextended('fanout_briefs ' || '{NOT_THERE}', 0)"
    waiting = (
        f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = ({key} & 4294967295)::oid"
    )
    storage = fresh.storage(statement_timeout=timedelta(milliseconds=200))
    async with anyio.create_task_group() as tasks:
        with connect(fresh.dsn) as other:
            other.execute(f"SELECT pg_advisory_lock({key})".encode())
            tasks.start_soon(storage.migrate)
            with anyio.fail_after(60):
                while not fresh.run(waiting):  # noqa: ASYNC110  # another process's event
                    await anyio.sleep(0.01)
            fresh.run("SELECT pg_sleep(0.3)")
            assert fresh.run(waiting)
    assert fresh.run("SELECT version FROM schema_version") == [(1,)]


async def test_a_newer_schema_is_refused_and_nothing_changes(fresh: Schema) -> None:
    async with fresh.storage():
        pass
    fresh.run("UPDATE schema_version SET version = 99")
    for migrate in (True, False):
        with pytest.raises(SchemaTooNew, match="schema version 99, and this release knows up to 1: upgrade") as caught:
            await fresh.storage(migrate=migrate).__aenter__()
        assert (caught.value.found, caught.value.supported) == (99, 1)
    assert fresh.run("SELECT version FROM schema_version") == [(99,)]


async def test_an_old_server_is_refused(fresh: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_schema, "OLDEST_SERVER", 99)
    assert "which is too old: use a server of version 99 or newer" in await refused(fresh.storage())


async def test_a_server_that_is_not_there_is_told() -> None:
    message = await refused(PostgresStorage(UNREACHABLE))
    assert message.startswith("PostgreSQL database 'briefs' at 127.0.0.1:1, schema 'fanout_briefs': ")
    assert "check host, port, database, user and password in the DSN, and that the server runs" in message


async def test_a_database_that_is_not_there_is_told(postgres: Schema) -> None:
    message = await refused(PostgresStorage(with_parts(postgres.dsn, dbname="no such database")))
    assert 'database "no such database" does not exist' in message
    assert "check host, port, database" in message


@pytest.mark.parametrize(
    "dsn",
    [
        SECRET,
        f"postgresql://user:with {SECRET}@host/db",
        f"postgresql://user:with%{SECRET}@host/db",
        f"postgresql://user:with/{SECRET}@host/db",
        f"postgresql://user:with@{SECRET}@host/db",
        f"postgresql://user:{SECRET}/with@host/db",
        f"postgresql://user:%ff{SECRET}@host/db",
        f"host=x passwort={SECRET}",
    ],
)
async def test_a_dsn_that_is_none_is_told_without_what_it_holds(dsn: str) -> None:
    message = await refused(PostgresStorage(dsn))
    assert "percent-encode special characters of a password" in message
    assert SECRET not in repr(vars(PostgresStorage(dsn)))


def test_arguments_are_checked() -> None:
    for schema in ("", "nul\0", "x" * 64):
        with pytest.raises(ValueError, match="must be a name of 1 to 63 bytes"):
            PostgresStorage("dbname=app", schema=schema)
    with pytest.raises(ValueError, match="pool_size=1: must be an int of at least 2"):
        PostgresStorage("dbname=app", pool_size=1)


@pytest.mark.parametrize("dsn", ["", " ", None, SECRET.encode()])
def test_all_bad_arguments_are_told_at_once_and_no_dsn_is_not_the_default_of_libpq(dsn: Any) -> None:
    wrong: dict[str, Any] = {"schema": 7, "pool_size": "5", "statement_timeout": 30, "trace": True}
    with pytest.raises(ValueError, match=r"^dsn: must be a postgresql:// address .* not shown; schema=7: ") as refused:
        PostgresStorage(dsn, **wrong)
    assert all(f"{name}={value!r}: must be" in str(refused.value) for name, value in wrong.items())
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ['We"ird % @jobs', "Ünïcode 日本", "a.b;--"])
async def test_a_schema_may_have_any_name(postgres: Schema, name: str) -> None:
    storage = PostgresStorage(postgres.dsn, schema=name)
    try:
        async with storage:
            await storage.enqueue([job()])
            assert (await claim_one(storage, job())).job.user_id == "ann"
            await storage.preferences.put([Preference(user_id="ann", days=[1, 2])])
            assert await storage.forget("ann") == 2
        assert "schema " + repr(name) in await refused(PostgresStorage(UNREACHABLE, schema=name))
    finally:
        with connect(postgres.dsn) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


async def test_text_that_postgresql_cannot_hold_is_kept_readable(postgres: Schema) -> None:
    async with postgres.storage() as storage:
        await storage.enqueue([job()])
        assert await storage.retry(await claim_one(storage, job()), NOW, "bytes \0 of caf\udce9")
        assert (await found(storage, job().dedup_key)).error == r"bytes \x00 of caf\udce9"


def test_without_psycopg_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "import fanout_briefs, fanout_briefs.adapters.sqlite\n"
        "try:\n    import fanout_briefs.adapters.postgres\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PostgresStorage needs psycopg 3: pip install 'fanout-briefs[postgres]'"


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_role_or_a_database_lacks_is_told(own_postgres: Server) -> None:
    dsn = own_postgres.dsn
    with connect(dsn) as connection:
        connection.execute("CREATE ROLE guest LOGIN; CREATE SCHEMA fanout_briefs")
        connection.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        connection.execute("CREATE DATABASE fixed")
        connection.execute("ALTER DATABASE fixed SET default_transaction_read_only = on")
        guest = dsn.replace("postgres@", "guest@")
        assert 'give the role USAGE on schema "fanout_briefs" and SELECT' in await refused(PostgresStorage(guest))
        assert "CREATE on the database" in await refused(PostgresStorage(guest, schema="other"))
        assert "with ENCODING 'UTF8'" in await refused(PostgresStorage(dsn.replace("/postgres?", "/latin?")))
        assert "connect to the primary" in await refused(PostgresStorage(dsn.replace("/postgres?", "/fixed?")))
        async with PostgresStorage(dsn):
            pass
        assert 'give the role USAGE on schema "fanout_briefs" and SELECT' in await refused(PostgresStorage(guest))
        connection.execute(
            "GRANT USAGE ON SCHEMA fanout_briefs TO guest;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fanout_briefs TO guest"
        )
        async with PostgresStorage(guest) as storage:
            await storage.enqueue([job()])
            assert await storage.forget("ann") == 1


async def test_a_brief_that_is_saved_while_its_user_is_forgotten_is_forgotten_too(postgres: Schema) -> None:
    async with postgres.storage() as storage:
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
        end = Finish(status=JobStatus.COMPLETED, brief=brief_of(job()))
        with psycopg.connect(postgres.dsn) as mine:
            assert await storage.on(mine).finish(held, end)
            waits = f"SELECT 1 FROM pg_stat_activity WHERE {mine.info.backend_pid} = ANY(pg_blocking_pids(pid))"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(storage.forget, "ann")
                with anyio.fail_after(30):
                    while not postgres.run(waits):  # noqa: ASYNC110  # the server does not tell
                        await anyio.sleep(0.01)
                mine.commit()
        assert await storage.brief("daily", "ann") is None
        assert await storage.find([job().dedup_key]) == {}


async def test_one_on_a_connection_migrates_nothing_and_needs_a_connection_of_psycopg(postgres: Schema) -> None:
    storage = postgres.storage()
    with psycopg.connect(postgres.dsn) as mine, pytest.raises(ValueError, match="migrate the storage itself"):
        await storage.on(mine).migrate()
    wrong: Any = None
    with pytest.raises(TypeError, match=r"connection=None: must be a psycopg.Connection"):
        storage.on(wrong)


def test_a_hook_that_would_never_be_awaited_is_refused() -> None:
    async def tell(connection: object, jobs: object) -> None: ...

    wrong: Any = tell
    with pytest.raises(ValueError, match=r"on_pending=.*: must be a plain function"):
        PostgresStorage(UNREACHABLE, on_pending=wrong)
