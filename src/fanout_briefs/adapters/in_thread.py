"""Turns an object with plain synchronous methods, such as one that uses Django's ORM, into a port.

Every public method runs in a worker thread that is never abandoned: a cancelled call ends when the method does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, cast, overload

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from fanout_briefs import ports
from fanout_briefs.arguments import bad_counts, refuse
from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import (
    JobRef,
    Mail,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    Scheduled,
    ScheduleFields,
    SectionRequest,
    Window,
)

__all__ = [
    "SyncDispatcher",
    "SyncEngagement",
    "SyncGenerator",
    "SyncMailer",
    "SyncPreferences",
    "SyncProjects",
    "SyncRecipients",
    "SyncScheduleIndex",
    "in_thread",
]


class SyncPreferences(Protocol):
    """``ports.Preferences`` without ``async``."""

    def page(self, cursor: str | None, limit: int) -> Page[Preference]: ...
    def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]: ...


class SyncScheduleIndex(SyncPreferences, Protocol):
    """``ports.ScheduleIndex`` without ``async``."""

    @property
    def schedule_index(self) -> bool: ...
    def schedules(self) -> Mapping[str, ScheduleFields]: ...
    def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]: ...


class SyncProjects(Protocol):
    """``ports.Projects`` without ``async``."""

    def of(self, user_id: str, window: Window) -> Sequence[Project]: ...


class SyncGenerator(Protocol):
    """``ports.Generator`` without ``async``."""

    def generate(self, request: SectionRequest) -> ProjectBrief | None: ...


class SyncEngagement(Protocol):
    """``ports.Engagement`` without ``async``."""

    def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]: ...


class SyncRecipients(Protocol):
    """``ports.Recipients`` without ``async``."""

    def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]: ...


class SyncMailer(Protocol):
    """``ports.Mailer`` without ``async``."""

    @property
    def idempotent(self) -> bool: ...
    def send(self, mail: Mail, key: str) -> Receipt: ...


class SyncDispatcher(Protocol):
    """``ports.Dispatcher`` without ``async``."""

    @property
    def powers(self) -> DispatcherPowers: ...
    def dispatch(self, jobs: Sequence[JobRef]) -> None: ...


@overload
def in_thread(
    port: SyncScheduleIndex, *, limiter: int | anyio.CapacityLimiter | None = None
) -> ports.ScheduleIndex: ...
@overload
def in_thread(port: SyncPreferences, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Preferences: ...
@overload
def in_thread(port: SyncProjects, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Projects: ...
@overload
def in_thread(port: SyncGenerator, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Generator: ...
@overload
def in_thread(port: SyncEngagement, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Engagement: ...
@overload
def in_thread(port: SyncRecipients, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Recipients: ...
@overload
def in_thread(port: SyncMailer, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Mailer: ...
@overload
def in_thread(port: SyncDispatcher, *, limiter: int | anyio.CapacityLimiter | None = None) -> ports.Dispatcher: ...
def in_thread(port: object, *, limiter: int | anyio.CapacityLimiter | None = None) -> Any:
    """Turn an object with synchronous methods into a port.

    The thread sees the caller's context variables; values it sets do not reach the caller. Attributes that are not
    methods, such as ``idempotent`` and ``powers``, are read directly. If the object implements several ports, a type
    checker picks the first in the order above; the result has the methods of all of them.

    Args:
        port: The object. Its methods must be safe to call from many threads at once.
        limiter: How many methods may run at once: a number (counted per event loop), a limiter shared with other
            code, or None for anyio's default limiter of 40 threads.

    Raises:
        TypeError: ``port`` is a class; or a method is already ``async``, or is a generator, whose body would run outside
            the thread; the message names all of them.
        ValueError: ``limiter`` is no limiter and no number of at least 1.
    """
    if limiter is not None and not isinstance(limiter, anyio.CapacityLimiter):
        refuse(
            f"{each}, a CapacityLimiter, or None for the default of anyio" for each in bad_counts({"limiter": limiter})
        )
    if isinstance(port, type):
        raise TypeError(f"in_thread({port.__name__}): must be an object, not a class: {port.__name__}(...)")
    problems = [
        f"{name} {problem}"
        for name in dir(port)
        if not name.startswith("_") and (problem := _problem(inspect.getattr_static(port, name)))
    ]
    if problems:
        raise TypeError(f"in_thread({type(port).__name__}): {'; '.join(problems)}")
    return _InThread(port, limiter)


class _InThread:
    def __init__(self, port: object, limiter: int | anyio.CapacityLimiter | None) -> None:
        self._port = port
        self._limiter = limiter
        # A limiter belongs to one event loop, and one port may serve several in turn.
        self._limiter_of_loop: RunVar[anyio.CapacityLimiter] = RunVar("in_thread")

    def __repr__(self) -> str:
        return f"in_thread({self._port!r})"

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if name.startswith("_") or not callable(attribute) or isinstance(attribute, type):
            return attribute
        return self._threaded(attribute)

    def _threaded(self, method: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            result = method(*args, **kwargs)
            if inspect.iscoroutine(
                result
            ):  # Such as a lambda around an async function, which inspection cannot detect.
                result.close()
                raise TypeError(f"{method!r} returned a coroutine: give in_thread synchronous methods only")
            return result

        @functools.wraps(method)
        async def call(*args: object, **kwargs: object) -> object:
            work = functools.partial(run, *args, **kwargs)
            return await anyio.to_thread.run_sync(work, limiter=self._current_limiter())

        return call

    def _current_limiter(self) -> anyio.CapacityLimiter | None:
        if not isinstance(self._limiter, int):
            return self._limiter
        limiter = self._limiter_of_loop.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._limiter)
            self._limiter_of_loop.set(limiter)
        return limiter


def _problem(attribute: object) -> str | None:
    """Why a method cannot run in a thread; None if it can, or if the attribute is not a method."""
    function: Any = attribute
    if isinstance(attribute, (staticmethod, classmethod)):
        function = cast("Any", attribute).__func__
    function = inspect.unwrap(function)
    called: Any = getattr(cast("Any", type(function)), "__call__", None)  # noqa: B004 - needs the attribute itself.
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in (function, called)):
        return "is async: give the object itself as the port"
    if inspect.isgeneratorfunction(function):
        return "is a generator: return a list"
    return None
