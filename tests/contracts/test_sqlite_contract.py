"""``SqliteStorage`` keeps what ``ports.Storage`` promises."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.testing import StorageContract, StorageMachine
from stories import STORIES


class TestSqliteStorage(StorageContract, StorageMachine):
    settings = STORIES
    capabilities = ("preferences", "reopens", "schedule_index", "shared", "standings", "trace")

    @asynccontextmanager
    async def open_storage(
        self, trace: Callable[[str], None] | None = None, beside: SqliteStorage | None = None
    ) -> AsyncGenerator[SqliteStorage]:
        with TemporaryDirectory() as folder:
            if beside is None:
                self.path = Path(folder) / "briefs.db"
            async with SqliteStorage(self.path, trace=trace) as storage:
                yield storage
