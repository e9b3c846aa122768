"""Wrong adapters: each is a shipped one with a few lines changed, and the clauses that it must fail for that."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import unified_diff
from typing import Any

from attrs import field, frozen

from fanout_briefs.adapters import memory

MOST_LINES = 15
OFFERS = ("preferences", "reopens")
"""What ``MemoryStorage`` declares; a wrong one does, too."""


@frozen
class Wrong:
    """A wrong ``MemoryStorage``.

    Attributes:
        does: What it does wrong.
        instead: Lines of its source, each with what stands in its place.
        fails: The clauses that it fails; it keeps all others.
    """

    does: str
    instead: Mapping[str, str]
    fails: Collection[str] = field(kw_only=True)

    def __str__(self) -> str:
        return self.does.replace(" ", "-")

    def source(self) -> str:
        source = inspect.getsource(memory)
        for right, wrong in self.instead.items():
            assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in memory.py"
            source = source.replace(right, wrong)
        return source

    def lines_changed(self) -> int:
        diff = list(unified_diff(inspect.getsource(memory).splitlines(), self.source().splitlines(), n=0))[2:]
        return max(sum(line.startswith(sign) for line in diff) for sign in "+-")

    def make(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        module = types.ModuleType("wrong_memory")
        exec(compile(self.source(), "wrong_memory.py", "exec"), module.__dict__)

        @asynccontextmanager
        async def open_storage() -> AsyncGenerator[Any]:
            async with module.MemoryStorage() as storage:
                yield storage

        return open_storage
