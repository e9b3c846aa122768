"""The source of a settled gather's items: sync or async, pulled lazily, and shared by all workers."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sized
from operator import length_hint
from typing import Generic, TypeVar, cast

from anyio import CancelScope, Event, current_effective_deadline, get_cancelled_exc_class

from fanout_briefs.errors import ItemCancelled

__all__ = ["Bell", "Source", "is_cancelled_from_outside", "own_failure"]

T = TypeVar("T")


class Bell:
    """Wakes tasks that wait for a change, the longest waiting first; each must check again once awake."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._waking = 0

    async def wait(self) -> None:
        """Wait until woken; a waiter that is cancelled once woken wakes the next one instead."""
        event = Event()
        self._waiting.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self._waking -= 1
                self.ring()  # This waiter is cancelled, so pass the ring on.
            else:
                self._waiting.remove(event)
            raise
        self._waking -= 1

    @property
    def is_ringing(self) -> bool:
        """Whether a waiter was woken that has not resumed yet."""
        return self._waking > 0

    def ring(self) -> bool:
        """Wake one waiter; return False if there is none."""
        if not self._waiting:
            return False
        self._waking += 1
        self._waiting.popleft().set()
        return True

    def ring_all(self) -> None:
        """Wake all waiters."""
        while self.ring():
            pass


class Source(Generic[T]):
    """Numbered items, each given to the next worker that asks, and never more of them than there is room for."""

    def __init__(self, items: Iterable[T] | AsyncIterable[T], window: int) -> None:
        self.pulled: int = 0
        self.horizon: int = window  # How many may be pulled until the reader takes another outcome.
        self.failure: Exception | None = None  # What the source's own code raised.
        self.is_drained: bool = False
        self.arrived: Callable[[], object]  # Called when an item was read ahead,
        self.drained: Callable[[], object]  # and when no more items will come.
        self._ready: deque[tuple[int, T]] = deque()  # Items read ahead of the workers: at most one.
        self.unstarted: list[tuple[int, T]] = []  # Items that were read but never started.
        self._reading: CancelScope | None = None
        self._room = Bell()  # For the reading task: its item was taken, or the horizon moved.
        self.items: AsyncIterable[T] | None = None
        self.jobs: Generator[tuple[int, T] | None]  # Yields None if the worker has to wait.
        self.most: int = sys.maxsize
        if isinstance(items, AsyncIterable):
            self.items = items
            self.jobs = self._jobs_read_ahead()
        else:
            iterator = iter(items)
            self.jobs = self._jobs_of(iterator)
            self.most = length_hint(iterator, sys.maxsize)
        self.has_length: bool = self.items is None and isinstance(items, Sized)
        self.is_closed: bool = self.items is None

    @property
    def has_more(self) -> bool:
        """Whether there is, or may yet be, an item to give."""
        return not self.is_drained or bool(self._ready)

    @property
    def has_item(self) -> bool:
        """Whether there is an item to give right now, as far as is known without pulling one."""
        return bool(self._ready) if self.items is not None else self._has_room and not self.is_drained

    @property
    def _has_room(self) -> bool:
        return self.pulled < self.horizon

    def _must_wait(self) -> bool:
        return not self.is_drained and (bool(self._ready) or not self._has_room)

    def _jobs_of(self, iterator: Iterator[T]) -> Generator[tuple[int, T] | None]:
        failure = None
        try:
            for job in enumerate(iterator):
                self.pulled += 1
                yield job
                while self.pulled >= self.horizon:
                    yield None
        except GeneratorExit:
            raise
        except BaseException as error:
            failure = own_failure(error)
            if failure is None:
                raise
        self._drain(failure)
        del failure  # Its traceback leads to this frame.

    def _jobs_read_ahead(self) -> Generator[tuple[int, T] | None]:
        while True:
            if self._ready:
                self._room.ring()
            yield self._ready.popleft() if self._ready else None

    def make_room(self) -> None:
        """Let one more item in."""
        self.horizon += 1
        self._room.ring()

    def end(self) -> None:
        """Give nothing more."""
        self.unstarted.extend(self._ready)
        self._ready.clear()
        self.horizon = 0
        if not self.is_drained:
            self._drain(None)
            self._room.ring_all()
            if self._reading is not None:
                self._reading.cancel()

    def rest(self) -> Iterator[tuple[int, T]]:
        """Pull the items that are left after ``end``."""
        self.horizon = sys.maxsize
        yield from filter(None, self.jobs)

    def _drain(self, failure: Exception | None) -> None:
        self.failure = failure
        self.is_drained = True
        self.drained()

    async def read(self, items: AsyncIterable[T]) -> None:
        """Read an async source, all in this one task: a generator may hold a cancel scope across its yields."""
        iterator = aiter(items)
        error: BaseException | None = None
        with CancelScope() as scope:  # Entered before any scope of the generator, to shield its closing.
            try:
                await self._read(iterator, scope)
            except BaseException as raised:
                error = raised
            scope.shield = True
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
        try:
            # Only checked now: a scope held by the generator may have cancelled the reading.
            failure = None if error is None else own_failure(error)
            if error is not None and failure is None:
                raise error
            if self.is_drained and isinstance(failure, ItemCancelled):
                failure = None  # ``end`` cancelled the reading.
            self.is_closed = True
            self._drain(failure)
            del failure
        finally:
            del error  # Its traceback leads to this frame, and so does the failure's.

    async def _read(self, iterator: AsyncIterator[T], scope: CancelScope) -> None:
        while self.has_more:
            self._reading = scope
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            finally:
                self._reading = None
            (self.unstarted if self.is_drained else self._ready).append((self.pulled, item))
            self.pulled += 1
            self.arrived()
            while self._must_wait():
                await self._room.wait()


def own_failure(error: BaseException) -> Exception | None:
    """Return the failure that belongs to an item or the source; None if the error must propagate."""
    if isinstance(error, Exception):
        return error
    cancelled = get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        rest = cast("BaseExceptionGroup[BaseException]", error).split(cancelled)[1]
        if rest is not None:  # A cancellation in force is delivered again; ordinary errors beside it are a failure.
            return rest if isinstance(rest, Exception) else None
    elif not isinstance(error, cancelled):
        return None
    if is_cancelled_from_outside():
        return None
    failure = ItemCancelled()
    failure.__cause__ = error
    return failure


def is_cancelled_from_outside() -> bool:
    """Whether a cancel scope around the current task is cancelled."""
    return current_effective_deadline() == -math.inf
