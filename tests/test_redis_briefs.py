"""The example of a storage of one's own: what it says where Redis fails, what it survives, and its demonstration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from fanout_briefs.errors import SchemaTooNew, StorageUnavailable
from fanout_briefs.model import Finish, FollowUp, JobStatus
from fanout_briefs.testing.slots import NOW, brief_of, claim, claim_one, found, job
from redis_briefs import RedisStorage
from redis_server import RedisServer, own_redis
from services import PATIENCE, free_port

CLIENT: Any = redis.Redis  # whose types leave most of it open
EXAMPLE = Path(__file__).parent.parent / "examples" / "redis_briefs"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One that no test harms for the others."""
    with own_redis() as one:
        yield one


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with CLIENT.from_url(server.url) as one:
        one.flushall()
        yield one


async def refusal(storage: RedisStorage) -> str:
    with pytest.raises(StorageUnavailable) as refused:
        async with storage:
            pass
    return str(refused.value)


async def test_a_server_that_keeps_nothing_is_refused_unless_that_does_no_harm(redis_url: str) -> None:
    said = await refusal(RedisStorage(redis_url))
    assert "has no append-only file" in said
    assert "set `appendonly yes`; or pass may_forget=True" in said
    async with RedisStorage(redis_url, prefix="may-forget", may_forget=True) as storage:
        await storage.enqueue([job()])


async def test_a_server_that_evicts_keys_is_refused(server: RedisServer, client: Any) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "evicts keys when its memory is full" in await refusal(RedisStorage(server.url))
        client.config_set("maxmemory-policy", "volatile-lru")
        async with RedisStorage(server.url):
            pass
    finally:
        client.config_set("maxmemory", "0")


async def test_a_server_whose_memory_is_full_takes_nothing_new_and_lets_what_is_begun_end(
    server: RedisServer, client: Any
) -> None:
    async with RedisStorage(server.url) as storage:
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(StorageUnavailable, match="memory is full and nothing of this was stored"):
                await storage.enqueue([job("bob"), job("cid")])
            assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job)))
        finally:
            client.config_set("maxmemory", "0")
        assert not await storage.find([job("bob").dedup_key, job("cid").dedup_key])
        assert await storage.brief("daily", "ann") == brief_of(held.job)


async def test_a_server_that_cannot_be_reached_is_named_without_its_password(server: RedisServer) -> None:
    said = await refusal(RedisStorage("redis://ann:secret@127.0.0.1:1/0"))
    assert said.startswith("Redis at 127.0.0.1:1, keys fanout_briefs:*: ")
    assert "check that the server runs" in said
    wrong = await refusal(RedisStorage(server.url.replace("//", "//ann:secret@")))
    assert "check user and password in the URL" in wrong
    assert "secret" not in said + wrong


@pytest.mark.parametrize("url", ["postgres://localhost", "redis://:p@ss@word@host:port/0", ""])
def test_what_is_no_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="the URL is none of Redis: write redis://") as refused:
        RedisStorage(url)
    assert "word" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize("wrong", [{"prefix": ""}, {"prefix": "a{b"}, {"connections": 1}])
def test_what_cannot_work_is_refused_before_anything_is_opened(wrong: dict[str, str | int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}="):
        RedisStorage("redis://localhost", **wrong)  # type: ignore[arg-type]


async def test_content_of_a_newer_release_is_left_alone(server: RedisServer, client: Any) -> None:
    client.set("{fanout_briefs}:format", "2")
    with pytest.raises(SchemaTooNew, match="has schema version 2, and this release knows up to 1"):
        async with RedisStorage(server.url):
            pass


async def test_keys_of_something_else_are_told(server: RedisServer, client: Any) -> None:
    client.set("{fanout_briefs}:slots", "mine")
    async with RedisStorage(server.url) as storage:
        with pytest.raises(StorageUnavailable, match="something else has written to these keys; choose another prefix"):
            await storage.enqueue([job()])


async def test_storages_of_two_prefixes_share_nothing(server: RedisServer, client: Any) -> None:
    async with RedisStorage(server.url, prefix="one") as one, RedisStorage(server.url, prefix="two") as two:
        await one.enqueue([job()])
        assert not await two.find([job().dedup_key])
        assert {key.decode() for key in client.scan_iter()} <= {*one.keys, *two.keys}


async def test_a_server_that_has_forgotten_the_scripts_is_given_them_again(server: RedisServer, client: Any) -> None:
    async with RedisStorage(server.url) as storage:
        await storage.enqueue([job()])
        client.script_flush()
        assert [held.job for held in (await claim(storage)).claims]


@contextmanager
def held_up(server: RedisServer, client: Any) -> Generator[None]:
    """Somebody runs a script on the server that does not end by itself."""
    client.config_set("busy-reply-threshold", "1")
    endless = f"import redis; redis.Redis.from_url({server.url!r}).eval('while true do end', 0)"
    with subprocess.Popen([sys.executable, "-c", endless], stderr=subprocess.DEVNULL) as process:
        try:
            with suppress(redis.ResponseError):
                while client.ping():
                    pass
            yield
        finally:
            client.script_kill()
            process.wait()


async def test_a_script_that_holds_everybody_up_is_waited_for_and_then_told(server: RedisServer, client: Any) -> None:
    async with RedisStorage(server.url, timeout=timedelta(seconds=0.3)) as storage:
        with (
            held_up(server, client),
            pytest.raises(StorageUnavailable, match=r"BUSY .* try again when it is less busy"),
        ):
            await storage.find([job().dedup_key])
        assert not await storage.find([job().dedup_key])


async def test_what_was_acknowledged_survives_the_servers_death() -> None:
    with own_redis() as server:
        async with RedisStorage(server.url) as storage:
            await storage.enqueue([job(), job("bob")])
            held = await claim_one(storage, job())
            waits = await claim_one(storage, job("bob"))
            mail = FollowUp(job(type="mail"), b"mail")
            assert await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job)), [mail])
            server.kill()
            with pytest.raises(StorageUnavailable):
                await storage.find([job().dedup_key])
            server.start()
            assert (await found(storage, job().dedup_key)).status is JobStatus.COMPLETED
            assert await storage.brief("daily", "ann") == brief_of(held.job)
            assert (await claim_one(storage, job(type="mail"))).payload == b"mail"
            # Whoever held a job goes on with it, and whoever takes one now has a later token.
            assert not await storage.heartbeat([waits], NOW + timedelta(days=1))
            assert (await claim_one(storage, job("bob"), now=NOW + timedelta(days=1))).token > waits.token


@contextmanager
def cluster() -> Generator[RedisServer]:
    """A cluster of one node, which is as strict about keys as one of many."""
    # By itself a node talks to others on a port 10,000 higher, and there may be none.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with own_redis(*options) as node, CLIENT.from_url(node.url) as admin:
        admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        # It takes writes two seconds after it has all slots.
        until = time.monotonic() + PATIENCE
        while admin.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < until
            time.sleep(0.1)
        yield node


async def test_all_of_it_lies_on_one_node_of_a_cluster() -> None:
    with cluster() as node:
        async with RedisStorage(node.url) as storage:
            assert len({key_slot(key.encode()) for key in storage.keys}) == 1
            await storage.enqueue([job(), job("bob")])
            held = await claim_one(storage, job())
            done = Finish(status=JobStatus.COMPLETED, brief=brief_of(held.job))
            assert await storage.finish(held, done, [FollowUp(job(type="mail"), b"mail")])
            assert await storage.brief("daily", "ann") == brief_of(held.job)
            assert await storage.forget("ann") == 4


def demonstrate(folder: Path, url: str) -> tuple[int, str, str]:
    """Run the demonstration as its README says, but in this environment, which has the package on its path."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "demo.py"],
        cwd=folder,
        env={**os.environ, "REDIS_URL": url, "PYTHONPATH": str(EXAMPLE / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_demonstration_mails_everybody_once(tmp_path: Path, server: RedisServer, client: Any) -> None:
    shutil.copy(EXAMPLE / "demo.py", tmp_path)
    status, said, complained = demonstrate(tmp_path, server.url)
    assert (status, complained) == (0, "")
    assert "- aof_enabled: 1\n" in said
    told = re.search(r"\n(\d) queued, (\d) briefs made, (\d) mailed; see outbox/\n$", said)
    assert told is not None, said
    # Whoever is due within the hour has that slot, too, whose brief may be made already and mailed at its time.
    queued, made, mailed = map(int, told.groups())
    assert 6 >= queued >= made >= mailed >= 3
    mails = {path.name for path in (tmp_path / "outbox").iterdir()}
    assert len(mails) == mailed
    assert {name.split(":")[2] for name in mails} == {"ana", "bo", "chi"}
    status, said, complained = demonstrate(tmp_path, server.url)
    assert (status, complained) == (0, "")
    # A slot may come due between the two; it is then one of the next day.
    assert mails <= {path.name for path in (tmp_path / "outbox").iterdir()}


def test_the_demonstration_says_what_to_do_where_there_is_no_server(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "demo.py", tmp_path)
    status, _, complained = demonstrate(tmp_path, "redis://127.0.0.1:1/0")
    assert status == 1
    assert complained.startswith("Redis at 127.0.0.1:1, ")
    assert "Traceback" not in complained
