"""``MemoryStorage`` keeps what ``ports.Storage`` promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.testing import StorageContract, StorageMachine
from stories import STORIES


class TestMemoryStorage(StorageContract, StorageMachine):
    settings = STORIES
    capabilities = ("preferences", "reopens", "schedule_index")

    @asynccontextmanager
    async def open_storage(self) -> AsyncGenerator[MemoryStorage]:
        async with MemoryStorage() as storage:
            yield storage
