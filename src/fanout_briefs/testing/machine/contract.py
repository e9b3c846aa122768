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
    """Runs stories against a storage, on asyncio and on trio; needs neither a conftest nor configuration.

    Attributes:
        settings: The number of stories and of their steps; None uses the number of examples of the loaded Hypothesis
            profile, with 25 steps each.
    """

    settings: ClassVar[hypothesis.settings | None] = None

    def open_storage(self) -> AbstractAsyncContextManager[Storage]:
        """Open a fresh, empty storage that shares nothing with any other; capabilities may require more parameters."""
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
