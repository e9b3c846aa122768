"""The fixture that gives each clause a fresh storage of every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services import STORAGES, make_storage
from slots import AnyStorage


@pytest.fixture(params=STORAGES)
def closed_storage(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStorage:
    return make_storage(request, tmp_path)


@pytest.fixture
async def storage(closed_storage: AnyStorage) -> AsyncIterator[AnyStorage]:
    async with closed_storage:
        yield closed_storage
