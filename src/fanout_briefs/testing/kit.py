"""Clauses, the promises that an adapter is checked against, and how to run them.

A clause is an async function with a stable id and a promise in one sentence. It may need a capability that the adapter
declares. Nothing here needs pytest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, cast

import anyio
from attrs import frozen

from fanout_briefs.testing.checks import Broken, Recorded, shown

__all__ = ["BrokenClause", "Clause", "Declared", "Kit", "Open", "run_clause"]

_Adapter = TypeVar("_Adapter")
Open: TypeAlias = Callable[..., AbstractAsyncContextManager[_Adapter]]
"""Opens a fresh, empty adapter that shares nothing with any other."""

PATIENCE: Final = 120
"""Seconds after which a clause counts as hanging."""


@frozen
class Clause:
    """One promise.

    Attributes:
        id: The same in every release.
        promise: What an adapter promises, in one sentence.
        needs: The capabilities that an adapter must declare for this clause to apply.
        each: The cases, as further arguments of ``hold``; each runs with a fresh adapter.
        given: The arguments to open the adapter with.
        hold: Checks the promise, and raises if it is broken.
    """

    id: str
    promise: str
    needs: tuple[str, ...]
    each: Sequence[tuple[object, ...]]
    given: tuple[object, ...]
    hold: Callable[..., Awaitable[None]]

    def lacking(self, capabilities: Collection[str]) -> list[str]:
        """Return the needed capabilities that are not among these."""
        return [name for name in self.needs if name not in capabilities]


@frozen
class BrokenClause:
    """A promise that an adapter breaks. Print it to see what was done, what came back and what was promised."""

    id: str
    promise: str
    message: str

    def __str__(self) -> str:
        return f"{self.id}: {self.promise}\n{self.message}"


class Declared:
    """What an author declares about an adapter.

    Attributes:
        capabilities: What the adapter offers beyond its port. Clauses that need any other capability are reported as
            skipped, and no story uses it.
    """

    capabilities: ClassVar[Collection[str]] = ()


class Kit:
    """The clauses of one port, and the capabilities that its adapters may declare."""

    def __init__(self, port: str, capabilities: Mapping[str, str]) -> None:
        self.port = port
        self.capabilities = capabilities
        self._clauses: dict[str, Clause] = {}

    def __iter__(self) -> Iterator[Clause]:
        return iter(self._clauses.values())

    def clause(
        self,
        name: str,
        *,
        needs: tuple[str, ...] = (),
        each: Iterable[object] = ((),),
        given: tuple[object, ...] = (),
    ) -> Callable[[Callable[..., Awaitable[None]]], Clause]:
        """Turn a function into a clause: its docstring is the promise, and ``each`` lists its further arguments.

        Raises:
            ValueError: The id is taken, or the kit has no such capability.
        """

        def register(hold: Callable[..., Awaitable[None]]) -> Clause:
            if name in self._clauses or not self.capabilities.keys() >= set(needs):
                raise ValueError(f"{name!r}: the id is taken, or one of {needs} is no capability")
            cases = [cast("tuple[object, ...]", case) if isinstance(case, tuple) else (case,) for case in each]
            promise = " ".join((hold.__doc__ or "").split())
            clause = self._clauses[name] = Clause(name, promise, needs, cases, given, hold)
            return clause

        return register

    def problems(self, capabilities: Collection[str], not_yet: Mapping[str, str]) -> list[str]:
        """Return the problems with an adapter's declarations: names that are unknown, or do not apply."""
        known = ", ".join(sorted(self.capabilities)) or "there are none"
        strange = [name for name in capabilities if name not in self.capabilities]
        found = [f"capability {name!r}: no such capability of a {self.port}; known: {known}" for name in strange]
        for name in not_yet:
            if name not in self._clauses:
                found.append(f"not_yet {name!r}: no such clause of a {self.port}")
            elif lacking := self._clauses[name].lacking(capabilities):
                found.append(f"not_yet {name!r}: is not asked for without the capability {', '.join(lacking)}")
        return found

    async def check(self, open_adapter: Open[Any], capabilities: Collection[str], *more: object) -> list[BrokenClause]:
        """Check an adapter against every clause, passing ``more`` to each, and return the broken ones.

        Raises:
            ValueError: A capability is unknown; the message names all of them.
        """
        if problems := self.problems(capabilities, {}):
            raise ValueError("; ".join(problems))
        asked = [clause for clause in self if not clause.lacking(capabilities)]
        return [broken for clause in asked if (broken := await run_clause(clause, open_adapter, *more)) is not None]


_ENDLESS: Final = Broken(f"came back: nothing within {PATIENCE} seconds\npromised:  an end")


async def run_clause(clause: Clause, open_adapter: Open[Any], *more: object) -> BrokenClause | None:
    """Check an adapter against one clause; return how it is broken, or None if it is kept."""
    for case in clause.each:
        if (message := await _message(clause, open_adapter, (*more, *case))) is not None:
            with_what = f"\nwith: {', '.join(map(shown, case))}" if case else ""
            return BrokenClause(clause.id, clause.promise, message + with_what)
    return None


async def _message(clause: Clause, open_adapter: Open[Any], case: tuple[object, ...]) -> str | None:
    done: list[str] = []
    broken: Exception | None = _ENDLESS
    try:
        with anyio.move_on_after(PATIENCE):
            broken = await _hold(clause, open_adapter, case, done)
    except Exception as error:
        broken = error
    return None if broken is None else _told(_first(broken), done)


async def _hold(clause: Clause, open_adapter: Open[Any], case: tuple[object, ...], done: list[str]) -> Exception | None:
    # Keeps the error that the clause raises: closing the adapter might swallow it.
    broken: Exception | None = _ENDLESS
    async with AsyncExitStack() as stack:
        statements: list[str] = []
        options = {"trace": statements.append} if "trace" in clause.needs else {}
        adapter = await stack.enter_async_context(open_adapter(*clause.given, **options))
        subjects: list[object] = [Recorded(adapter, done)]
        if "shared" in clause.needs:
            beside = await stack.enter_async_context(open_adapter(beside=adapter))
            subjects.append(Recorded(beside, done, "(beside) "))
        if "trace" in clause.needs:
            subjects.append(statements)
        try:
            await clause.hold(*subjects, *case)
            broken = None
        except Exception as error:
            broken = error
    return broken


def _first(error: Exception) -> Exception:
    # Errors from tasks come in groups; prefer a broken promise to the errors that it caused.
    if not isinstance(error, ExceptionGroup):
        return error
    leaves = [_first(each) for each in cast("ExceptionGroup[Exception]", error).exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, Broken)), leaves[0])


def _told(error: Exception, done: list[str]) -> str:
    found = str(error) if isinstance(error, Broken) else f"came back: {error!r}\npromised:  no error"
    calls = "".join(f"\n           {call}" for call in Recorded(None, done).told())
    return f"done:      {calls.strip() or 'the adapter was opened'}\n{found}"
