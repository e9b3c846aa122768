"""Make chosen calls of an adapter fail, to test how the rest copes.

One ``Faults`` counts the calls of everything that it wraps. A fault is a function that receives a call before it is
made and decides what happens: it can do something before or after the call, or never make it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Container
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, cast

import anyio
from attrs import frozen

from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.testing.checks import NESTED

__all__ = ["Call", "Faults", "answer_lost", "broken", "cancelled", "delayed", "unavailable"]

_T = TypeVar("_T")


@frozen
class Call:
    """A call that is about to be made.

    Attributes:
        number: Its position among all calls, from 1.
        name: The name of the method, as in ``enqueue`` or ``preferences.get``.
        values: The positional arguments.
        go: Makes the call and returns its result.
    """

    number: int
    name: str
    values: tuple[Any, ...]
    go: Callable[[], Awaitable[Any]]


Fault: TypeAlias = Callable[[Call], Awaitable[Any]]


async def unavailable(call: Call) -> Any:
    """Fail before the call takes effect.

    Raises:
        StorageUnavailable: Always.
    """
    raise StorageUnavailable(f"call {call.number}, {call.name}, was made to fail and changed nothing")


async def answer_lost(call: Call) -> Any:
    """Fail after the call took effect, as if the connection broke before the answer arrived.

    Raises:
        StorageUnavailable: Always.
    """
    await call.go()
    raise StorageUnavailable(f"call {call.number}, {call.name}, was made, and its answer lost")


async def broken(call: Call) -> Any:
    """Fail before the call takes effect, with a foreign error, such as one from a driver that nobody translated.

    Raises:
        ConnectionResetError: Always.
    """
    raise ConnectionResetError(f"call {call.number}, {call.name}, was made to break")


def delayed(by: timedelta) -> Fault:
    """Delay the call."""

    async def wait(call: Call) -> Any:
        await anyio.sleep(by.total_seconds())
        return await call.go()

    return wait


def cancelled(scope: anyio.CancelScope) -> Fault:
    """Cancel a scope and then make the call, which is cancelled if it runs inside the scope."""

    async def cancel(call: Call) -> Any:
        scope.cancel()
        return await call.go()

    return cancel


class Faults:
    """Counts the calls of everything that it wraps, and makes some of them fail.

    Args:
        fault: The fault to inject; None injects none.
        at: The calls to inject it into: a number from 1, or several, such as ``range(7, 20)`` for a storage that is
            unavailable for a while.

    Attributes:
        calls: The names of the calls so far. A first run without a fault shows how many there are.
        happened: How often the fault was injected.
    """

    def __init__(self, fault: Fault | None = None, at: int | Container[int] = ()) -> None:
        self.calls: list[str] = []
        self.happened: int = 0
        self._fault = fault
        self._at: Container[int] = (at,) if isinstance(at, int) else at

    def around(self, subject: _T, name: str = "") -> _T:
        """Wrap an adapter so that its calls go through these faults.

        Calls of async methods count, including those of a storage's ``preferences``; opening and closing do not. All
        other attributes are passed through.

        Args:
            subject: The adapter.
            name: A prefix for the names of its methods, if one ``Faults`` wraps several adapters.
        """
        opens = hasattr(type(subject), "__aenter__")
        return cast("_T", (_OpenedSubject if opens else _Subject)(self, subject, name))

    async def pass_on(self, name: str, method: Callable[..., Awaitable[Any]], values: Any, named: Any) -> Any:
        """Make a call, or inject the fault if it is one of the chosen calls."""
        self.calls.append(name)
        number = len(self.calls)
        if self._fault is None or number not in self._at:
            return await method(*values, **named)
        self.happened += 1
        return await self._fault(Call(number, name, values, lambda: method(*values, **named)))


class _Subject:
    def __init__(self, faults: Faults, subject: Any, name: str) -> None:
        self._faults, self._subject, self._name = faults, subject, name

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._subject, name)
        if name in NESTED:
            return self._faults.around(value, f"{self._name}{name}.")
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*values: Any, **named: Any) -> Any:
            return await self._faults.pass_on(f"{self._name}{name}", value, values, named)

        return call


class _OpenedSubject(_Subject):
    async def __aenter__(self) -> Any:
        entered = await self._subject.__aenter__()
        return self if entered is self._subject else entered

    async def __aexit__(self, *error: object) -> Any:
        return await self._subject.__aexit__(*error)
