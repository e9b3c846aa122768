"""``PostgresStorage`` keeps what ``ports.Storage`` promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.testing import StorageContract, StorageMachine
from services import Schema
from stories import STORIES


class TestPostgresStorage(StorageContract, StorageMachine):
    settings = STORIES
    capabilities = ("preferences", "reopens", "schedule_index", "shared", "standings", "trace")

    @pytest.fixture(autouse=True)
    def _schema(self, postgres_schema: Schema) -> None:
        self.schema = postgres_schema

    @asynccontextmanager
    async def open_storage(
        self, trace: Callable[[str], None] | None = None, beside: PostgresStorage | None = None
    ) -> AsyncGenerator[PostgresStorage]:
        if beside is None:
            self.schema.empty()
        async with self.schema.storage(trace=trace) as storage:
            yield storage
