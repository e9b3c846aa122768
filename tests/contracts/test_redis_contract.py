"""``examples/redis_briefs`` keeps what ``ports.Storage`` promises, as its own test says, on a server of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from hypothesis import settings

from fanout_briefs.testing import StorageContract, StorageMachine
from redis_briefs import RedisStorage
from stories import STORIES


class TestRedisStorage(StorageContract, StorageMachine):
    # Each story is some hundreds of round trips.
    settings = settings(STORIES, max_examples=STORIES.max_examples // 4)
    capabilities = ("preferences", "reopens", "schedule_index", "shared", "standings", "trace")

    @pytest.fixture(autouse=True)
    def _url(self, redis_url: str) -> None:
        self.url = redis_url

    @asynccontextmanager
    async def open_storage(
        self, trace: Callable[[str], None] | None = None, beside: RedisStorage | None = None
    ) -> AsyncGenerator[RedisStorage]:
        prefix = str(uuid4()) if beside is None else beside.prefix
        async with RedisStorage(self.url, prefix=prefix, may_forget=True, trace=trace) as storage:
            yield storage
