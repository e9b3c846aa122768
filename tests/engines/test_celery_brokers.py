"""Celery's brokers lose what they hold, or are others: the ledger knows what is still to be done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_harness import Scene

from celery_carrier import CeleryCarrier
from services import Schema

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Celery's processes are forked"),
]


@pytest.fixture
def anyio_backend() -> str:
    """Workers run on asyncio; sending is tested on both elsewhere."""
    return "asyncio"


@pytest.fixture
def on_rabbitmq(postgres: Schema, rabbitmq_url: str) -> Iterator[CeleryCarrier]:
    carrier = CeleryCarrier(postgres, rabbitmq_url, "threads", f"fanout_briefs_tests_{os.getpid()}")
    yield carrier
    with carrier.app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(carrier.queue)
        for exchange in (carrier.queue, f"{carrier.queue}.events"):
            channel.exchange_delete(exchange)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_a_redis_that_is_flushed_while_jobs_run_loses_nothing(
    pool: str, postgres: Schema, redis_url: str, tmp_path: Path
) -> None:
    users = 200
    carrier = CeleryCarrier(postgres, redis_url, pool)
    carrier.install()
    scene = Scene(carrier, postgres, tmp_path)
    await scene.plan(users)
    with scene.at_work(2):
        scene.until(lambda: scene.ended() > users // 4)
        carrier.redis().flushall()
        assert scene.ended() < 2 * users
        scene.until(lambda: scene.ended() == 2 * users)
    found = scene.found()
    assert (found.briefs, found.mails) == ({"completed": users}, {"completed": users})
    assert found.saved == (users, users)
    assert len({key for (key,) in scene.lines("sent")}) == users
    assert len(scene.lines("sent")) == users


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_workers_and_beats_that_are_told_to_stop_do_so(
    pool: str, postgres: Schema, redis_url: str, tmp_path: Path
) -> None:
    carrier = CeleryCarrier(postgres, redis_url, pool)
    carrier.install()
    scene = Scene(carrier, postgres, tmp_path)
    await scene.plan(10)
    with scene.at_work(1):
        scene.until(lambda: scene.ended() == 20)
        for process in (*scene.workers, *scene.others):
            process.terminate()
        assert [process.wait(60) for process in (*scene.workers, *scene.others)] == [0, 0], scene.output()
    assert "Traceback" not in scene.output()


async def test_rabbitmq_carries_jobs_too(on_rabbitmq: CeleryCarrier, postgres: Schema, tmp_path: Path) -> None:
    users = 20
    scene = Scene(on_rabbitmq, postgres, tmp_path)
    await scene.plan(users)
    with scene.at_work(1):
        scene.until(lambda: scene.ended() == 2 * users)
    found = scene.found()
    assert (found.briefs, found.mails) == ({"completed": users}, {"completed": users})
    assert found.saved == (users, users)
