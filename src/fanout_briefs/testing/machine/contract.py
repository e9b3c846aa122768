"""The model machine as a pytest class: subclass it, alone or beside ``StorageContract``, and run pytest."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import hypothesis
import pytest

from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import Broken
from fanout_briefs.testing.kit import Declared
from fanout_briefs.testing.machine import run_stories

__all__ = ["StorageMachine"]


class StorageMachine(Declared):
    """Stories of what may happen to a storage, on asyncio and on trio; neither conftest nor configuration is needed.

    Attributes:
        settings: How many stories, and of how many steps; None takes as many as the profile of Hypothesis that is loaded,
            of 25 steps each.
    """

    settings: ClassVar[hypothesis.settings | None] = None

    def open_storage(self) -> AbstractAsyncContextManager[Storage]:
        """Open a storage: fresh, empty, and sharing nothing with any other. Capabilities may have it take more."""
        raise NotImplementedError(f"{type(self).__name__} has to define open_storage")

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_stories(self, backend: str) -> None:
        """Whatever is done to the storage, what comes back is what a plain dict would have said."""
        told = ""
        try:
            run_stories(self.open_storage, capabilities=self.capabilities, backend=backend, settings=self.settings)
        except Broken as broken:
            told = "\n".join([str(broken), *getattr(broken, "__notes__", [])])
        if told:
            pytest.fail(told, pytrace=False)
