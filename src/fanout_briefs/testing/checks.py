"""Checks for clauses, whose messages say what was done, what came back and what was promised.

Nothing here needs pytest, and no message depends on its assertion rewriting.
"""

from __future__ import annotations

import enum
import inspect
import reprlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any, Final, Generic, Self, TypeVar, cast

import attrs

from fanout_briefs.model import Brief, Claim, Job

__all__ = ["NESTED", "Broken", "Recorded", "Refusal", "holds", "refuses", "same", "shown"]

_E = TypeVar("_E", bound=Exception)

NESTED: Final = ("preferences",)
"""Attributes of an adapter that are themselves adapters."""

_REMEMBERED: Final = 6
"""How many of the last calls a message shows."""

_MISSING: Final = object()


class Broken(Exception):
    """An adapter broke the promise of a clause."""


def same(got: object, promised: object) -> None:
    """Compare what came back with what was promised, recursively.

    Sequences are compared regardless of their type, and so are mappings and sets. A plain string does not equal a
    member of an enum.

    Raises:
        Broken: They differ; the message shows both, and where they differ.
    """
    found = next(_differences(got, promised, ""), None)
    if found is None:
        return
    where, here, there = found
    lines = [f"came back: {shown(got)}", f"promised:  {shown(promised)}"]
    if where:
        lines.append(f"where:     {where} is {_or_missing(here)}, not {_or_missing(there)}")
    raise Broken("\n".join(lines))


def holds(condition: object, promised: str) -> None:
    """Check a promise that cannot be stated as an expected value.

    Raises:
        Broken: The condition is false.
    """
    if not condition:
        raise Broken(f"promised:  {promised}\ncame back: it is not so")


class Refusal(Generic[_E]):
    """What ``refuses`` caught."""

    _error: _E | None = None

    @property
    def error(self) -> _E:
        """The error that was raised; available once the block has ended."""
        if self._error is None:
            raise Broken("came back: nothing yet\npromised:  an error")
        return self._error

    def keep(self, error: _E) -> None:
        """Store the error; called by ``refuses``."""
        self._error = error


@contextmanager
def refuses(*errors: type[_E]) -> Generator[Refusal[_E]]:
    """Expect the block to raise one of these errors.

    Raises:
        Broken: It raised another error, or none.
    """
    names = " or ".join(error.__name__ for error in errors)
    refusal: Refusal[_E] = Refusal()
    try:
        yield refusal
    except errors as error:
        refusal.keep(error)
        return
    except Exception as error:
        raise Broken(f"came back: {error!r}\npromised:  {names}") from error
    raise Broken(f"came back: an answer, as though nothing were wrong\npromised:  {names}")


def _differences(got: Any, promised: Any, where: str) -> Iterator[tuple[str, object, object]]:
    kind = cast("Any", type(promised))
    if attrs.has(kind) and type(got) is kind:
        for field in attrs.fields(kind):
            yield from _differences(getattr(got, field.name), getattr(promised, field.name), f"{where}.{field.name}")
    elif isinstance(promised, Mapping) and isinstance(got, Mapping):
        yield from _differences_by_key(cast("Any", got), cast("Any", promised), where)
    elif isinstance(promised, AbstractSet) and isinstance(got, Collection) and not isinstance(got, str):
        if set(cast("Any", got)) != promised:
            yield where, cast("object", got), cast("object", promised)
    elif _is_sequence(cast("object", promised)) and _is_sequence(cast("object", got)):
        places = dict(enumerate(cast("Sequence[object]", got)))
        yield from _differences_by_key(places, dict(enumerate(cast("Sequence[object]", promised))), where)
    elif isinstance(promised, enum.Enum) or promised is None or isinstance(promised, bool):
        if got is not promised:
            yield where, got, promised
    elif got != promised:
        yield where, got, promised


def _differences_by_key(
    got: Mapping[Any, Any], promised: Mapping[Any, Any], where: str
) -> Iterator[tuple[str, object, object]]:
    for key in [*promised, *(key for key in got if key not in promised)]:
        place = f"{where}[{shown(key)}]"
        if key not in got or key not in promised:
            yield place, got.get(key, _MISSING), promised.get(key, _MISSING)
        else:
            yield from _differences(got[key], promised[key], place)


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _or_missing(value: object) -> str:
    return "absent" if value is _MISSING else shown(value)


class _Short(reprlib.Repr):
    """Short representations of values for messages."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = self.maxlevel = 4
        self.maxstring, self.maxother = 100, 400

    def repr_instance(self, x: object, level: int) -> str:
        kind = cast("Any", type(x))
        if isinstance(x, enum.Enum):
            return f"{kind.__name__}.{x.name}"
        if not attrs.has(kind):
            return super().repr_instance(x, level)
        # Leaves out fields with their default, which would hide the others.
        told = [field.name for field in attrs.fields(kind) if field.init and getattr(x, field.name) != field.default]
        return f"{kind.__name__}({', '.join(f'{name}={self.repr1(getattr(x, name), level - 1)}' for name in told)})"

    # reprlib finds these methods by the name of the type.
    def repr_datetime(self, instant: datetime, _level: int) -> str:
        return instant.isoformat()

    def repr_date(self, day: date, _level: int) -> str:
        return day.isoformat()

    def repr_timedelta(self, span: timedelta, _level: int) -> str:
        return str(span)

    def repr_Job(self, job: Job, _level: int) -> str:  # noqa: N802
        words = [job.dedup_key[:60], job.status, *filter(None, [job.code]), f"epoch={job.epoch}"]
        return f"<{' '.join(words)} attempts={job.attempts} run_at={job.run_at:%Y-%m-%dT%H:%M:%S.%f%z}>"

    def repr_Claim(self, claim: Claim, level: int) -> str:  # noqa: N802
        return f"<claim {claim.token} until {claim.until} of {self.repr1(claim.job, level - 1)}>"

    def repr_Brief(self, brief: Brief, _level: int) -> str:  # noqa: N802
        return f"<brief {brief.type}:{brief.occurrence.local_date}:{brief.user_id[:60]} epoch={brief.epoch}>"


_SHORT: Final = _Short()


def shown(value: object) -> str:
    """Return a short representation of a value."""
    try:
        return _SHORT.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


class Recorded:
    """Passes every call on to an adapter, and records it with its result."""

    def __init__(self, subject: Any, done: list[str] | None = None, name: str = "") -> None:
        self._subject = subject
        self._name = name
        self.done: list[str] = [] if done is None else done

    async def __aenter__(self) -> Self:
        kind = cast("Any", type(self._subject))
        entered = await self._called("__aenter__", kind.__aenter__, self._subject)
        return self if entered is self._subject else cast("Self", entered)

    async def __aexit__(self, *error: object) -> object:
        kind = cast("Any", type(self._subject))
        return await self._called("__aexit__", kind.__aexit__, self._subject, *error)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._subject, name)
        if not callable(value):
            return Recorded(value, self.done, f"{name}.") if name in NESTED else value

        async def call(*values: Any, **named: Any) -> Any:
            return await self._called(name, value, *values, **named)

        return call

    async def _called(self, name: str, method: Callable[..., Any], *values: Any, **named: Any) -> Any:
        told = values[1:] if name.startswith("__") else values
        said = ", ".join([*map(shown, told), *(f"{key}={shown(value)}" for key, value in named.items())])
        place = len(self.done)
        self.done.append(f"{self._name}{name}({said}) -> did not end")
        came = "was cancelled"
        try:
            result = method(*values, **named)
            if inspect.isawaitable(result):
                result = await result
            came = shown(result)
        except Exception as error:
            came = f"raised {shown(error)}"
            raise
        finally:
            self.done[place] = f"{self._name}{name}({said}) -> {came}"
        return result

    def told(self) -> list[str]:
        """Return the last calls, each with its result."""
        left_out = len(self.done) - _REMEMBERED
        return [*([f"({left_out} calls before)"] if left_out > 0 else []), *self.done[-_REMEMBERED:]]
