"""Wrong adapters: each is a shipped one with a few lines changed, and the clauses that it must fail for that."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from attrs import field, frozen

from fanout_briefs.adapters import memory, sqlite, sqlite_statements

MOST_LINES = 15
Open = Callable[..., AbstractAsyncContextManager[Any]]


def _open_memory(module: Any) -> Open:
    @asynccontextmanager
    async def open_storage() -> AsyncGenerator[Any]:
        async with module.MemoryStorage() as storage:
            yield storage

    return open_storage


def _open_sqlite(module: Any) -> Open:
    @asynccontextmanager
    async def open_storage(trace: Callable[[str], None] | None = None, beside: Any = None) -> AsyncGenerator[Any]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "briefs.db" if beside is None else beside._database.path
            async with module.SqliteStorage(path, trace=trace) as storage:
                yield storage

    return open_storage


@frozen
class Right:
    """A shipped adapter.

    Attributes:
        modules: What it is made of: the module that has it, and those that it knows by these names.
        open: Opens the one of a module.
        offers: Its capabilities; a wrong one declares them, too.
    """

    modules: Mapping[str, ModuleType]
    open: Callable[[Any], Open]
    offers: Collection[str]


MEMORY = Right({"": memory}, _open_memory, ("preferences", "reopens", "schedule_index"))
SQLITE = Right(
    {"": sqlite, "sql": sqlite_statements},
    _open_sqlite,
    ("preferences", "reopens", "schedule_index", "shared", "standings", "trace"),
)


@frozen
class Wrong:
    """A wrong storage.

    Attributes:
        does: What it does wrong.
        instead: Lines of the right one's source, each with what stands in its place.
        fails: The clauses that it fails; it keeps all others.
        right: The one that it was.
    """

    does: str
    instead: Mapping[str, str]
    fails: Collection[str] = field(kw_only=True)
    right: Right = field(default=MEMORY, kw_only=True)

    def __str__(self) -> str:
        return self.does.replace(" ", "-")

    def sources(self) -> Mapping[str, str]:
        """The wrong source of each module."""
        sources = {name: inspect.getsource(module) for name, module in self.right.modules.items()}
        for right, wrong in self.instead.items():
            places = [name for name, source in sources.items() for _ in range(source.count(right))]
            assert len(places) == 1, f"{self.does}: {right!r} stands {len(places)} times in the source"
            sources[places[0]] = sources[places[0]].replace(right, wrong)
        return sources

    def lines_changed(self) -> int:
        changed = 0
        for name, source in self.sources().items():
            right = inspect.getsource(self.right.modules[name])
            diff = list(unified_diff(right.splitlines(), source.splitlines(), n=0))[2:]
            changed += max(sum(line.startswith(sign) for line in diff) for sign in "+-")
        return changed

    def open(self) -> Open:
        made: dict[str, Any] = {}
        for name, source in self.sources().items():
            made[name] = types.ModuleType(f"wrong_{name}")
            exec(compile(source, f"wrong {self.right.modules[name].__name__}", "exec"), made[name].__dict__)
        main = made[""]
        for name, module in made.items():
            if name:
                setattr(main, name, module)
        return self.right.open(main)
