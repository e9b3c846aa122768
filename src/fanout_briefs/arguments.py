"""What is wrong with what a host gives: arguments, told together in one error, and answers of its ports."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from types import FunctionType
from typing import TypeVar, cast

from typing_extensions import get_protocol_members

from fanout_briefs.errors import BadValue

__all__ = ["answered", "bad_counts", "bad_hooks", "bad_kinds", "bad_port", "bad_spans", "refuse"]

_MICROSECOND = timedelta(microseconds=1)
_T = TypeVar("_T")


def refuse(problems: Iterable[BadValue | str]) -> None:
    """Raise one error that names everything, if there is anything.

    Raises:
        ValueError: There is.
    """
    told = "; ".join(map(str, problems))
    if told:
        raise ValueError(told)


def answered(port: str, answer: object, kind: type[_T]) -> Mapping[str, _T]:
    """What a port answered about users, if it is that.

    Args:
        port: The method that was asked, for the message.
        answer: By user.
        kind: What each is to be.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(answer, Mapping):
        raise TypeError(f"{port} gave {type(answer).__name__} instead of a mapping of {kind.__name__} by user")
    answers = cast("Mapping[str, object]", answer)
    wrong = {type(each).__name__ for each in answers.values() if not isinstance(each, kind)}
    if wrong:
        raise TypeError(f"{port} gave {' and '.join(sorted(wrong))} instead of {kind.__name__}")
    return cast("Mapping[str, _T]", answers)


def bad_counts(given: Mapping[str, object], least: int = 1) -> Iterator[BadValue]:
    """What is no whole number of at least so many."""
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
    """What is no length of time between two others, both included.

    Args:
        given: By the names of the arguments.
        least: A microsecond is told as more than zero.
        most: None is no bound.
        may_be_none: Whether None is right.
    """
    what = {timedelta(0): "zero or more", _MICROSECOND: "more than zero"}.get(least, f"at least {least}")
    must = f"must be a timedelta of {what}" + (f", and at most {most}" if most is not None else "")
    for name, span in given.items():
        if span is None and may_be_none:
            continue
        if not isinstance(span, timedelta) or span < least or (most is not None and span > most):
            yield BadValue(name, span, must + (", or None" if may_be_none else ""))


def bad_kinds(given: Mapping[str, object], kind: type, *, may_be_none: bool = True) -> Iterator[BadValue]:
    """What is of another type."""
    for name, value in given.items():
        if not isinstance(value, kind) and not (value is None and may_be_none):
            yield BadValue(name, value, f"must be a {kind.__name__}" + (", or None" if may_be_none else ""))


def bad_hooks(given: Mapping[str, object]) -> Iterator[BadValue]:
    """What cannot be called as a plain function; None is right."""
    for name, hook in given.items():
        if hook is not None and not callable(hook):
            yield BadValue(name, hook, "must be callable")
        elif inspect.iscoroutinefunction(hook):
            yield BadValue(name, hook, "must be a plain function: it is called and not awaited")


def bad_port(name: str, given: object, port: type) -> Iterator[BadValue]:
    """What keeps an object from being a port: all of it, as far as a look can tell; None is right.

    Methods that are synchronous where the port's are not are told, too, and the other way round. What a call of
    anything but a plain function gives, or of one that says to return an awaitable, is known when it is called.

    Args:
        name: The argument's.
        given: What is to be the port.
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
    if wrong:
        methods = " and ".join(f"{type(given).__name__}.{member}" for member in wrong)
        yield BadValue(name, given, f"{methods} must be async def; fanout_briefs.adapters.in_thread makes them so")
    called = [member for member in members if member not in awaited and inspect.isfunction(getattr(port, member, None))]
    wrong = [each for each in called if inspect.iscoroutinefunction(getattr(given, each, None))]
    if wrong:
        methods = " and ".join(f"{type(given).__name__}.{member}" for member in wrong)
        yield BadValue(name, given, f"{methods} must be a plain def: it is called and not awaited")


def _is_never_awaitable(method: object) -> bool:
    """Whether what a method gives surely cannot be awaited."""
    return not callable(method) or all(map(_is_plain_function, (method, inspect.unwrap(method))))


def _is_plain_function(method: object) -> bool:
    """Whether it is ``def``, and does not say that it returns what an ``async def`` would."""
    function = getattr(method, "__func__", method)
    if not isinstance(function, FunctionType) or inspect.iscoroutinefunction(function):
        return False
    returned = str(function.__annotations__.get("return", ""))
    return not any(kind in returned for kind in ("Awaitable", "Coroutine", "Future", "Task"))
