"""Where the items of a settled gather come from: pulled lazily, sync or async, and shared by all workers."""

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
    """Wakes those who wait for a change, the longest waiting first; who wakes looks again."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._waking = 0

    async def wait(self) -> None:
        """Wait to be woken; a waiter that is cancelled passes its waking on."""
        event = Event()
        self._waiting.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self._waking -= 1
                self.ring()  # This ring is wasted on a waiter that is going: pass it on.
            else:
                self._waiting.remove(event)
            raise
        self._waking -= 1

    @property
    def is_ringing(self) -> bool:
        """Whether someone was woken who has not come to look yet."""
        return self._waking > 0

    def ring(self) -> bool:
        """Wake one; False if nobody waits."""
        if not self._waiting:
            return False
        self._waking += 1
        self._waiting.popleft().set()
        return True

    def ring_all(self) -> None:
        """Wake everybody."""
        while self.ring():
            pass


class Source(Generic[T]):
    """Items with their numbers, each given to whoever asks next, and never more of them than there is room for."""

    def __init__(self, items: Iterable[T] | AsyncIterable[T], window: int) -> None:
        self.pulled: int = 0
        self.horizon: int = window  # how many may be pulled until the reader has taken another outcome
        self.failure: Exception | None = None  # what the items' own code raised
        self.is_drained: bool = False
        self.arrived: Callable[[], object]  # called with an item read ahead,
        self.drained: Callable[[], object]  # and when the last one is known
        self._ready: deque[tuple[int, T]] = deque()  # what is read ahead of the workers: at most one item
        self.unstarted: list[tuple[int, T]] = []  # what was read ahead in vain
        self._reading: CancelScope | None = None
        self._room = Bell()  # for the reading: its item was taken, or the horizon moved
        self.items: AsyncIterable[T] | None = None
        self.jobs: Generator[tuple[int, T] | None]  # None where the one who asks has to wait
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
        """Whether there is an item to give right now, as far as can be told without pulling it."""
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
        """Pull whatever there would have been to give, had it not come to an end."""
        self.horizon = sys.maxsize
        yield from filter(None, self.jobs)

    def _drain(self, failure: Exception | None) -> None:
        self.failure = failure
        self.is_drained = True
        self.drained()

    async def read(self, items: AsyncIterable[T]) -> None:
        """Read an async source, always in this one task: a generator may hold a cancel scope across its yields."""
        iterator = aiter(items)
        error: BaseException | None = None
        with CancelScope() as scope:  # Entered before any scope of the generator's, so as to shield the closing.
            try:
                await self._read(iterator, scope)
            except BaseException as raised:
                error = raised
            scope.shield = True
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
        try:
            # Judged only now: a scope that the generator held may be what cancelled the reading.
            failure = None if error is None else own_failure(error)
            if error is not None and failure is None:
                raise error
            if self.is_drained and isinstance(failure, ItemCancelled):
                failure = None  # The reading was told to end, and did.
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
    """What an item or the source failed with by itself; None for what has to leave."""
    if isinstance(error, Exception):
        return error
    cancelled = get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        rest = cast("BaseExceptionGroup[BaseException]", error).split(cancelled)[1]
        if rest is not None:  # A cancellation in force comes again; what is ordinary beside it is a failure.
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
