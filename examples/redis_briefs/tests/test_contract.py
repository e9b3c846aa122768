"""``RedisStorage`` keeps what ``ports.Storage`` promises. ``REDIS_URL`` says where; nothing else there is touched."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import redis
from hypothesis import settings

from fanout_briefs.testing import StorageContract, StorageMachine
from redis_briefs import RedisStorage

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
Trace = Callable[[str], None]


class TestRedisStorage(StorageContract, StorageMachine):
    settings = settings(max_examples=20, stateful_step_count=25)
    capabilities = ("preferences", "reopens", "schedule_index", "shared", "standings", "trace")

    @asynccontextmanager
    async def open_storage(
        self, trace: Trace | None = None, beside: RedisStorage | None = None
    ) -> AsyncGenerator[RedisStorage]:
        prefix = f"test-{uuid4()}" if beside is None else beside.prefix
        async with RedisStorage(URL, prefix=prefix, may_forget=True, trace=trace) as storage:
            yield storage
        if beside is None:
            with redis.Redis.from_url(URL) as client:
                client.unlink(*storage.keys)
