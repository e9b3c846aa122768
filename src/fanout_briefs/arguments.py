"""Checks what a host passes in: arguments, whose problems are raised in one error, and the answers of its ports."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from types import FunctionType
from typing import TypeVar, cast

from typing_extensions import get_protocol_members

from fanout_briefs.errors import BadValue

__all__ = ["answered", "bad_awaited", "bad_counts", "bad_hooks", "bad_kinds", "bad_port", "bad_spans", "refuse"]

_MICROSECOND = timedelta(microseconds=1)
_T = TypeVar("_T")


def refuse(problems: Iterable[BadValue | str]) -> None:
    """Raise one error that names all problems, if there are any.

    Raises:
        ValueError: There are problems.
    """
    told = "; ".join(map(str, problems))
    if told:
        raise ValueError(told)


def answered(port: str, answer: object, kind: type[_T]) -> Mapping[str, _T]:
    """Return what a port answered about users, once it is checked.

    Args:
        port: The method that was called, for the message.
        answer: The answer, a mapping by user.
        kind: The type that each value must have.

    Raises:
        TypeError: It is no mapping, or holds values of another type.
    """
    if not isinstance(answer, Mapping):
        raise TypeError(f"{port} gave {type(answer).__name__} instead of a mapping of {kind.__name__} by user")
    answers = cast("Mapping[str, object]", answer)
    wrong = {type(each).__name__ for each in answers.values() if not isinstance(each, kind)}
    if wrong:
        raise TypeError(f"{port} gave {' and '.join(sorted(wrong))} instead of {kind.__name__}")
    return cast("Mapping[str, _T]", answers)


def bad_counts(given: Mapping[str, object], least: int = 1) -> Iterator[BadValue]:
    """Yield the values that are not integers of at least ``least``."""
    for name, number in given.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            yield BadValue(name, number, f"must be an int of at least {least}")


def bad_spans(
    given: Mapping[str, object],
    *,
    least: timedelta = timedelta(0),
    most: timedelta | None = None,
    may_be_none: bool = False,
) -> Iterator[BadValue]:
    """Yield the values that are not timedeltas within these bounds, both included.

    Args:
        given: The values by argument name.
        least: The lower bound; a microsecond is described as more than zero.
        most: The upper bound; None means no bound.
        may_be_none: Whether None is accepted.
    """
    what = {timedelta(0): "zero or more", _MICROSECOND: "more than zero"}.get(least, f"at least {least}")
    must = f"must be a timedelta of {what}" + (f", and at most {most}" if most is not None else "")
    for name, span in given.items():
        if span is None and may_be_none:
            continue
        if not isinstance(span, timedelta) or span < least or (most is not None and span > most):
            yield BadValue(name, span, must + (", or None" if may_be_none else ""))


def bad_kinds(given: Mapping[str, object], kind: type, *, may_be_none: bool = True) -> Iterator[BadValue]:
    """Yield the values that are not of this type."""
    for name, value in given.items():
        if not isinstance(value, kind) and not (value is None and may_be_none):
            yield BadValue(name, value, f"must be a {kind.__name__}" + (", or None" if may_be_none else ""))


def bad_hooks(given: Mapping[str, object]) -> Iterator[BadValue]:
    """Yield the values that cannot be called as a plain function; None is accepted."""
    for name, hook in given.items():
        if hook is not None and not callable(hook):
            yield BadValue(name, hook, "must be callable")
        elif inspect.iscoroutinefunction(hook):
            yield BadValue(name, hook, "must be a plain function: it is called and not awaited")


def bad_awaited(given: Mapping[str, object]) -> Iterator[BadValue]:
    """Yield the values whose calls certainly give nothing to await."""
    for name, function in given.items():
        if _is_never_awaitable(function) and getattr(function, "__name__", "") != "<lambda>":  # It may call another.
            yield BadValue(name, function, "must be async def: it is called and awaited")


def bad_port(name: str, given: object, port: type) -> Iterator[BadValue]:
    """Yield what keeps an object from implementing a port, as far as inspection can tell; None is accepted.

    That includes synchronous methods where the port has asynchronous ones, and the reverse. What other callables
    return, or functions annotated to return an awaitable, shows only when they are called.

    Args:
        name: The argument's name.
        given: The object that should implement the port.
        port: The protocol.
    """
    if given is None:
        return
    if isinstance(given, type):
        yield BadValue(name, given, f"must be an object, not a class: {given.__name__}(...)")
        return
    members = sorted(get_protocol_members(port))
    missing = [member for member in members if not hasattr(given, member)]
    if missing:
        yield BadValue(name, given, f"{type(given).__name__} has no {' and no '.join(missing)}; see {port.__module__}")
    awaited = [member for member in members if inspect.iscoroutinefunction(getattr(port, member))]
    wrong = [each for each in awaited if each not in missing and _is_never_awaitable(getattr(given, each))]
    yield from _bad_methods(name, given, wrong, "must be async def; fanout_briefs.adapters.in_thread makes them so")
    called = [member for member in members if member not in awaited and inspect.isfunction(getattr(port, member, None))]
    wrong = [each for each in called if inspect.iscoroutinefunction(getattr(given, each, None))]
    yield from _bad_methods(name, given, wrong, "must be a plain def: it is called and not awaited")


def _bad_methods(name: str, given: object, wrong: Collection[str], reason: str) -> Iterator[BadValue]:
    if wrong:
        methods = " and ".join(f"{type(given).__name__}.{member}" for member in wrong)
        yield BadValue(name, given, f"{methods} {reason}")


def _is_never_awaitable(method: object) -> bool:
    """Whether the result of a method certainly cannot be awaited."""
    return not callable(method) or all(map(_is_plain_function, (method, inspect.unwrap(method))))


def _is_plain_function(method: object) -> bool:
    """Whether it is a ``def`` that is not annotated to return an awaitable."""
    function = getattr(method, "__func__", method)
    if not isinstance(function, FunctionType) or inspect.iscoroutinefunction(function):
        return False
    returned = str(function.__annotations__.get("return", ""))
    return not any(kind in returned for kind in ("Awaitable", "Coroutine", "Future", "Task"))
