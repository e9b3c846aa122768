"""The stage of a story: a storage on a portal, the calls made to it, and their description in words."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
)
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial, reduce
from typing import Any, Final, cast

import anyio
import attrs
from anyio.from_thread import BlockingPortal
from attrs import field, frozen

from fanout_briefs.model import Brief, Claim, Job
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import Broken
from fanout_briefs.testing.kit import Open

__all__ = ["Stage", "Told", "spoil", "told"]


class _Words(reprlib.Repr):
    """Formats the values in a story, with all that a reader needs to follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 40
        self.maxlevel, self.maxstring, self.maxother = 8, 120, 900

    # reprlib finds these methods by the name of the type.
    def repr_Job(self, job: Job, _level: int) -> str:  # noqa: N802
        words = [
            job.dedup_key,
            job.status.value,
            *(value.value for value in (job.code, job.demand) if value is not None),
        ]
        for name, usual in (("epoch", 1), ("attempts", 0), ("progress", None), ("reason", None), ("error", None)):
            if (value := getattr(job, name)) != usual:
                words.append(f"{name}={self.repr(value)}")
        times = f"run {_at(job.run_at)}, deliver {_at(job.occurrence.deliver_at)}"
        return f"<{' '.join(words)}, {times}, covers {_at(job.window.start)} to {_at(job.window.end)}>"

    def repr_Claim(self, claim: Claim, _level: int) -> str:  # noqa: N802
        payload = "" if claim.payload is None else f" payload={claim.payload!r}"
        return f"<token {claim.token} until {_at(claim.until)}{payload} for {self.repr(claim.job)}>"

    def repr_Brief(self, brief: Brief, _level: int) -> str:  # noqa: N802
        place = f"{brief.type}:{brief.occurrence.local_date}:{brief.user_id}"
        return f"<brief {place} {brief.rendered.subject!r} up to {_at(brief.window.end)}>"

    def repr_datetime(self, at: datetime, _level: int) -> str:
        return _at(at)

    def repr_timedelta(self, span: timedelta, _level: int) -> str:
        return str(span)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, enum.Enum):
            return str(x.value)
        return self._said(x) if attrs.has(_type(x)) else super().repr_instance(x, level)

    def _said(self, value: Any) -> str:
        said = [
            f"{each.name}={self.repr(getattr(value, each.name))}"
            for each in attrs.fields(_type(value))
            if getattr(value, each.name) != each.default
        ]
        return f"{type(value).__name__}({', '.join(said)})"


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}{f'.{instant:%f}' if instant.microsecond else ''} {instant.tzname()}"


_WORDS: Final = _Words()


def told(value: object) -> str:
    """Format a value for a story."""
    try:
        return _WORDS.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


class Told:
    """A value whose repr is the one used in stories."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return told(self.value)


@frozen(eq=False)
class Stage:
    """A storage that was opened for one story, and a second one beside it if it can be shared.

    Attributes:
        done: The calls made so far and their answers, in words.
    """

    portal: BlockingPortal
    stack: ExitStack
    storages: list[Any]
    done: list[str] = field(factory=list[str], init=False)

    @classmethod
    @contextmanager
    def opened(
        cls, portal: BlockingPortal, open_storage: Open[Storage], capabilities: Collection[str]
    ) -> Generator[Stage]:
        """Open the storages for a story, and close them at the end."""
        with ExitStack() as stack:
            storages: list[Any] = [stack.enter_context(portal.wrap_async_context_manager(open_storage()))]
            if "shared" in capabilities:
                beside = open_storage(beside=storages[0])
                storages.append(stack.enter_context(portal.wrap_async_context_manager(beside)))
            yield cls(portal, stack, storages)

    def say(self, words: str) -> None:
        """Note something that is not a call."""
        self.done.append(words)

    def do(self, place: int, name: str, *values: Any, **named: Any) -> Any:
        """Call a method of the storage at this place, or of one of its attributes, and return the answer.

        Raises:
            Broken: The call raised.
        """
        (got,) = self.at_once([(place, name, values, named)])
        return got

    def at_once(self, calls: Iterable[tuple[int, str, tuple[Any, ...], Mapping[str, Any]]]) -> list[Any]:
        """Make several calls at the same time; return the answer to each.

        Raises:
            Broken: One of them raised.
        """
        made = [(_said(*call, of=len(self.storages)), self._call(*call)) for call in calls]
        together = "(at once) " if len(made) > 1 else ""
        outcomes: list[Any] = self.portal.call(_all_of, [call for _, call in made])
        raised: list[BaseException] = []
        for (said, _), outcome in zip(made, outcomes, strict=True):
            came = f"raised {outcome!r}" if isinstance(outcome, _Raised) else told(outcome)
            self.done.append(f"{together}{said} -> {came}")
            if isinstance(outcome, _Raised):
                raised.append(outcome.error)
        if raised:
            raise Broken(f"came back: {raised[0]!r}\npromised:  no error") from raised[0]
        return outcomes

    def refused(self, place: int, error: type[Exception], name: str, *values: Any) -> None:
        """Make a call that must raise this error.

        Raises:
            Broken: It did not.
        """
        try:
            self.do(place, name, *values)
        except Broken as broken:
            if isinstance(broken.__cause__, error):
                return
            raise Broken(f"came back: {broken.__cause__!r}\npromised:  {error.__name__}") from broken.__cause__
        raise Broken(f"came back: an answer, as though nothing were wrong\npromised:  {error.__name__}")

    def open_once_more(self, place: int) -> None:
        """Open a storage that is already open, and close it once."""
        storage = self.storages[place % len(self.storages)]
        with self.portal.wrap_async_context_manager(storage):
            pass
        self.say("(it was opened once more, and closed once)")

    def _call(
        self, place: int, name: str, values: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Callable[[], Awaitable[Any]]:
        storage = self.storages[place % len(self.storages)]
        method: Any = reduce(getattr, name.split("."), storage)
        return partial(_outcome, partial(method, *values, **named))


@frozen
class _Raised:
    error: Exception

    def __repr__(self) -> str:
        return repr(self.error)


async def _outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except Exception as error:
        return _Raised(error)


async def _all_of(calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    outcomes: list[Any] = [None] * len(calls)

    async def make(place: int) -> None:
        outcomes[place] = await calls[place]()

    if len(calls) == 1:
        await make(0)
        return outcomes
    async with anyio.create_task_group() as tasks:
        for place in range(len(calls)):
            tasks.start_soon(make, place)
    return outcomes


def _said(place: int, name: str, values: tuple[Any, ...], named: Mapping[str, Any], *, of: int) -> str:
    given = [*map(told, values), *(f"{key}={told(value)}" for key, value in named.items() if value is not None)]
    return f"{'(beside) ' if place % of else ''}{name}({', '.join(given)})"


def spoil(value: object) -> None:
    """Empty each list and mapping in an argument or an answer, to show that a storage has not kept it."""
    for part in _parts(value):
        spoil(part)
    if isinstance(value, MutableMapping | MutableSequence | MutableSet):
        cast("MutableSequence[Any]", value).clear()


def _parts(value: Any) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from [*value.values()]
    elif isinstance(value, list | tuple):
        yield from [*value]
    elif attrs.has(_type(value)):
        yield from (getattr(value, each.name) for each in attrs.fields(_type(value)))


def _type(value: object) -> Any:
    return type(value)
