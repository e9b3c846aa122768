"""Have one call of an adapter go wrong, at a place of your choosing, and see what comes of it.

Calls are counted over everything that one ``Faults`` is put around. A fault is a function that is given a call instead
of its being made: it may make it, before or after whatever else it does, or never.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Container
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio
from attrs import frozen

from fanout_briefs.errors import StorageUnavailable

__all__ = ["Call", "Faults", "answer_lost", "broken", "cancelled", "delayed", "unavailable"]

_T = TypeVar("_T")

_NESTED: Final = ("preferences",)
"""Attributes that hold a port of their own."""


@frozen
class Call:
    """A call that is about to be made.

    Attributes:
        number: Its place among all calls, from 1.
        name: The method's, as in ``enqueue`` or ``preferences.get``.
        values: Its positional arguments.
        go: Makes it, and gives what it answers.
    """

    number: int
    name: str
    values: tuple[Any, ...]
    go: Callable[[], Awaitable[Any]]


Fault: TypeAlias = Callable[[Call], Awaitable[Any]]


async def unavailable(call: Call) -> Any:
    """Fail before the call took effect.

    Raises:
        StorageUnavailable: Always.
    """
    raise StorageUnavailable(f"call {call.number}, {call.name}, was made to fail and changed nothing")


async def answer_lost(call: Call) -> Any:
    """Fail after the call took effect, as when the connection breaks before the answer comes.

    Raises:
        StorageUnavailable: Always.
    """
    await call.go()
    raise StorageUnavailable(f"call {call.number}, {call.name}, was made, and its answer lost")


async def broken(call: Call) -> Any:
    """Fail before the call took effect, with an error that is none of the library's, as a driver's that nobody translated.

    Raises:
        ConnectionResetError: Always.
    """
    raise ConnectionResetError(f"call {call.number}, {call.name}, was made to break")


def delayed(by: timedelta) -> Fault:
    """Let the call wait before it is made."""

    async def wait(call: Call) -> Any:
        await anyio.sleep(by.total_seconds())
        return await call.go()

    return wait


def cancelled(scope: anyio.CancelScope) -> Fault:
    """Cancel a scope and then make the call, which meets the cancellation if it is made within."""

    async def cancel(call: Call) -> Any:
        scope.cancel()
        return await call.go()

    return cancel


class Faults:
    """Counts the calls of everything that it is put around, and has some of them go wrong.

    Args:
        fault: What befalls them; None lets all of them be.
        at: Which ones: a number from 1, or several, such as ``range(7, 20)`` for a storage that is away for a while.

    Attributes:
        calls: The names of the calls so far, so that a first run without a fault tells how many there are.
        happened: How often the fault came.
    """

    def __init__(self, fault: Fault | None = None, at: int | Container[int] = ()) -> None:
        self.calls: list[str] = []
        self.happened: int = 0
        self._fault = fault
        self._at: Container[int] = (at,) if isinstance(at, int) else at

    def around(self, subject: _T, name: str = "") -> _T:
        """Give something that does as this adapter does, through these faults.

        Async methods are what counts, also those of a storage's ``preferences``; opening and closing do not. Whatever else
        the adapter has is passed on as it is.

        Args:
            subject: The adapter.
            name: What to put before the names of its methods, where several adapters are under one ``Faults``.
        """
        opens = hasattr(type(subject), "__aenter__")
        return cast("_T", (_OpenedSubject if opens else _Subject)(self, subject, name))

    async def pass_on(self, name: str, method: Callable[..., Awaitable[Any]], values: Any, named: Any) -> Any:
        """Make a call, or have it go wrong if its turn has come."""
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
        if name in _NESTED:
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
