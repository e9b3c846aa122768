"""The fixture that gives each clause a fresh storage of every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from services import Schema
from slots import AnyStorage


def make(request: pytest.FixtureRequest, kind: str, folder: Path) -> AnyStorage:
    if kind == "memory":
        return MemoryStorage()
    if kind == "sqlite":
        return SqliteStorage(folder / "briefs.db")
    schema: Schema = request.getfixturevalue("postgres")
    return schema.storage()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def closed_storage(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStorage:
    return make(request, request.param, tmp_path)


@pytest.fixture
async def storage(closed_storage: AnyStorage) -> AsyncIterator[AnyStorage]:
    async with closed_storage:
        yield closed_storage
