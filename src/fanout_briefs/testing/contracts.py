"""Contracts as pytest classes: subclass one, define how to open the adapter and what it offers, and run pytest.

Every clause runs on asyncio and on trio, through anyio's pytest plugin; no conftest or configuration is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, ClassVar, TypeVar

try:
    import pytest
except ModuleNotFoundError as _missing:
    raise ImportError(
        "the contract classes need pytest: pip install 'fanout-briefs[testing]'; check_storage() does without"
    ) from _missing

from fanout_briefs.model import Project
from fanout_briefs.ports import Dispatcher, Engagement, Generator, Storage
from fanout_briefs.testing.check import SOME_PROJECTS
from fanout_briefs.testing.clauses import dispatcher_kit, engagement_kit, generator_kit, storage_kit
from fanout_briefs.testing.kit import Clause, Declared, Kit, Open, run_clause

__all__ = ["Contract", "DispatcherContract", "EngagementContract", "GeneratorContract", "StorageContract"]


_Test = TypeVar("_Test", bound=Callable[..., Awaitable[None]])


def _every(kit: Kit) -> Callable[[_Test], _Test]:
    """Run a test for every clause on every backend."""

    def decorate(test: _Test) -> _Test:
        by_backend = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])(test)
        clauses = [pytest.param(clause, id=clause.id) for clause in kit]
        marked: _Test = pytest.mark.anyio(pytest.mark.parametrize("clause", clauses)(by_backend))
        return marked

    return decorate


class Contract(Declared):
    """The base of the contracts: what an author declares.

    Attributes:
        not_yet: Clauses that the adapter does not keep yet, by id, with the reason. The test of a listed clause that is
            kept fails, so that you remove the entry.
    """

    kit: ClassVar[Kit]
    not_yet: ClassVar[Mapping[str, str]] = {}

    def test_declarations(self) -> None:
        """Check that every declared capability and clause exists."""
        if problems := self.kit.problems(self.capabilities, self.not_yet):
            pytest.fail("\n".join(problems), pytrace=False)

    async def _hold(self, clause: Clause, backend: str, open_adapter: Open[Any], *more: object) -> None:
        _check_backend(backend)
        if lacking := clause.lacking(self.capabilities):
            pytest.skip(f"{clause.id}: the capability {', '.join(lacking)} is not declared")
        broken = await run_clause(clause, open_adapter, *more)
        reason = self.not_yet.get(clause.id)
        if broken is not None and reason is not None:
            pytest.xfail(f"{reason}\n{broken}")
        if broken is not None:
            pytest.fail(str(broken), pytrace=False)
        if reason is not None:
            pytest.fail(f"{clause.id} is kept now: take it out of not_yet ({reason!r})", pytrace=False)


def _check_backend(backend: str) -> None:
    # Another plugin that claims every coroutine would run them all on asyncio.
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        running = "trio"
    else:
        running = "asyncio"
    if running != backend:
        pytest.fail(
            f"this was to run on {backend}, and runs on {running}: another plugin took it from anyio's; with "
            "pytest-asyncio, use asyncio_mode=strict",
            pytrace=False,
        )


class StorageContract(Contract):
    """The contract of ``ports.Storage``, and of the preferences that a storage may keep."""

    kit = storage_kit

    def open_storage(self) -> AbstractAsyncContextManager[Storage]:
        """Open a fresh, empty storage that shares nothing with any other.

        Some capabilities require this method to accept arguments.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define open_storage")

    @_every(storage_kit)
    async def test_clause(self, clause: Clause, anyio_backend: str) -> None:
        """Check the storage against one clause."""
        await self._hold(clause, anyio_backend, self.open_storage)


class EngagementContract(Contract):
    """The contract of ``ports.Engagement``."""

    kit = engagement_kit

    def open_engagement(self, visits: Mapping[str, datetime | None]) -> AbstractAsyncContextManager[Engagement]:
        """Open an adapter that knows exactly these users and their last visits; None means never."""
        raise NotImplementedError(f"{type(self).__name__} has to define open_engagement")

    @_every(engagement_kit)
    async def test_clause(self, clause: Clause, anyio_backend: str) -> None:
        """Check the adapter against one clause."""
        await self._hold(clause, anyio_backend, self.open_engagement)


class GeneratorContract(Contract):
    """The contract of ``ports.Generator``.

    Attributes:
        projects: Some projects that the generator can write about, with the ``data`` that it needs.
    """

    kit = generator_kit
    projects: ClassVar[Sequence[Project]] = SOME_PROJECTS

    def open_generator(self) -> AbstractAsyncContextManager[Generator]:
        """Open a generator."""
        raise NotImplementedError(f"{type(self).__name__} has to define open_generator")

    @_every(generator_kit)
    async def test_clause(self, clause: Clause, anyio_backend: str) -> None:
        """Check the generator against one clause."""
        await self._hold(clause, anyio_backend, self.open_generator, self.projects)


class DispatcherContract(Contract):
    """The contract of ``ports.Dispatcher``."""

    kit = dispatcher_kit

    def open_dispatcher(self) -> AbstractAsyncContextManager[Dispatcher]:
        """Open a dispatcher."""
        raise NotImplementedError(f"{type(self).__name__} has to define open_dispatcher")

    @_every(dispatcher_kit)
    async def test_clause(self, clause: Clause, anyio_backend: str) -> None:
        """Check the dispatcher against one clause."""
        await self._hold(clause, anyio_backend, self.open_dispatcher)
