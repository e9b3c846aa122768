"""Settled gather: await a callable on many items at once, and learn what became of every single one.

At most ``limit`` workers pull from one shared source and plainly await ``func(item)``. An item that fails,
times out or cancels itself is an outcome and disturbs no other. A cancel from outside always wins.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from operator import is_, length_hint
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar, cast

import anyio
from anyio import CancelScope, Event, create_task_group, current_effective_deadline, get_cancelled_exc_class
from anyio.lowlevel import checkpoint
from attrs import frozen

from fanout_briefs.errors import ItemCancelled, SourceError

__all__ = ["Fulfilled", "Rejected", "Settled", "gather_settled", "iter_settled"]

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

# How long items that never suspend may keep the event loop to themselves, in seconds: all workers together.
_SLICE = 0.005


@frozen
class Fulfilled(Generic[T_co, R_co]):
    """An item whose call returned.

    Attributes:
        index: The item's position in the source, from 0.
        item: The item itself.
        value: What ``func(item)`` returned.
    """

    index: int
    item: T_co
    value: R_co


@frozen
class Rejected(Generic[T_co]):
    """An item whose call did not return.

    Attributes:
        index: The item's position in the source, from 0.
        item: The item itself.
        error: What ``func(item)`` raised; ``TimeoutError`` if it outlived ``item_timeout``; ``ItemCancelled``
            if it ended cancelled though nobody outside had cancelled it.
    """

    index: int
    item: T_co
    error: Exception


Settled: TypeAlias = Fulfilled[T_co, R_co] | Rejected[T_co]
"""What became of an item; tell the two apart with ``match`` or ``isinstance``."""


def gather_settled(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    item_timeout: float | None = None,
    on_settled: Callable[[Settled[T, R]], object] | None = None,
) -> Coroutine[Any, Any, list[Settled[T, R]]]:
    """Await ``func(item)`` for every item, ``limit`` at a time; await the result for one outcome each, in input order.

    The source is pulled only as workers come free. Items share a few tasks, so what is bound to the current task
    (a lock left held) may outlive an item; context variables do not. ``KeyboardInterrupt``, ``SystemExit`` and
    groups that hold them are no outcomes: they leave, as does a cancel from outside, once no item runs any more.

    Args:
        func: Called with one item; what it returns is awaited.
        items: Where items come from, lazily. An async source is read by one task, at most one item ahead, and an
            async generator is closed in that same task.
        limit: How many items may be in progress at once; at least 1.
        item_timeout: After how many seconds on the event loop's clock an item is cancelled; None for never.
        on_settled: Called with each outcome as it settles. Must not block: it runs in the event loop.

    Raises:
        ValueError: ``limit`` or ``item_timeout`` is out of range; raised by the call itself, before any await.
        SourceError: ``items`` raised; items in progress were settled first and all outcomes are in ``.outcomes``.
        Exception: Whatever ``on_settled`` raised, as itself; items still in progress were cancelled.
    """
    _check(limit, item_timeout)
    pool = _Pool(func, items, limit=limit, item_timeout=item_timeout, window=math.inf, on_settled=on_settled)
    return _gather(pool)


def iter_settled(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    ordered: bool = False,
    item_timeout: float | None = None,
) -> AbstractAsyncContextManager[AsyncIterator[Settled[T, R]]]:
    """Stream the outcomes of ``func(item)`` while later items are still in progress; use it with ``async with``.

    At most ``2 * limit`` items are past the source and not yet taken by the reader, so memory does not grow with
    the source and a slow reader slows the source down. Leaving the block early cancels items in progress and
    waits for them. Items are isolated, timed and cancelled as ``gather_settled`` does.

    Args:
        func: Called with one item; what it returns is awaited.
        items: Where items come from, lazily; as for ``gather_settled``.
        limit: How many items may be in progress at once; at least 1.
        ordered: True for outcomes in input order, False for the order in which they settle.
        item_timeout: After how many seconds on the event loop's clock an item is cancelled; None for never.

    Raises:
        ValueError: ``limit`` or ``item_timeout`` is out of range; raised by the call itself.
        SourceError: ``items`` raised; raised by the iteration after the last outcome was taken.
        RuntimeError: The outcomes are read after the block was left.
    """
    _check(limit, item_timeout)
    pool = _Pool(func, items, limit=limit, item_timeout=item_timeout, window=2 * limit, by_index=ordered)
    return _stream(pool)


def _check(limit: object, item_timeout: float | None) -> None:
    if not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit={limit!r}: must be an int of at least 1, how many items may be in progress at once")
    if item_timeout is not None and not item_timeout > 0:
        raise ValueError(f"item_timeout={item_timeout!r}: must be more than 0 seconds, or None for no timeout")


async def _gather(pool: _Pool[T, R]) -> list[Settled[T, R]]:
    async with pool.running():
        await pool.drive()
        outcomes = [pool.outcomes[index] for index in range(pool.pulled)]
        failure = pool.failure
    if failure is not None:
        raise SourceError(outcomes) from failure
    return outcomes


@asynccontextmanager
async def _stream(pool: _Pool[T, R]) -> AsyncGenerator[AsyncIterator[Settled[T, R]]]:
    async with pool.running():
        pool.spawn(pool.drive)
        yield _Outcomes(pool)
        pool.stop()


class _Outcomes(AsyncIterator[Settled[T, R]]):
    """The reader's end of a stream. A read that is cancelled loses nothing; the next one goes on."""

    def __init__(self, pool: _Pool[T, R]) -> None:
        self._pool = pool

    async def __anext__(self) -> Settled[T, R]:
        pool = self._pool
        while pool.released not in pool.outcomes:
            if pool.finished and pool.failure is not None:
                raise SourceError from pool.failure
            if pool.finished:
                raise StopAsyncIteration
            if pool.closed:
                raise RuntimeError("the stream is closed: read its outcomes inside the `async with iter_settled(...)`")
            await pool.arrived.wait()
        return pool.release()


class _Bell:
    """Wakes those who wait for a change, the longest waiting first; who wakes looks again."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()

    async def wait(self) -> None:
        event = Event()
        self._waiting.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.ring()  # This ring is wasted on a waiter that is going: pass it on.
            else:
                self._waiting.remove(event)
            raise

    def ring(self) -> bool:
        """Wake one; False if nobody waits."""
        if not self._waiting:
            return False
        self._waiting.popleft().set()
        return True

    def ring_all(self) -> None:
        while self.ring():
            pass


class _Pool(Generic[T, R]):
    """Bounded workers on one shared source, and what became of its items."""

    def __init__(
        self,
        func: Callable[[T], Awaitable[R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        limit: int,
        item_timeout: float | None,
        window: float,
        by_index: bool = True,
        on_settled: Callable[[Settled[T, R]], object] | None = None,
    ) -> None:
        self._func = func
        self._source: AsyncIterable[T] | None = None
        self._iterator: Iterator[T] | None = None
        if isinstance(items, AsyncIterable):
            self._source, self._most = items, limit
        else:
            self._iterator = iter(items)
            self._most = max(1, min(limit, length_hint(self._iterator, limit)))
        self._timeout = math.inf if item_timeout is None else item_timeout
        self._window = window
        self._by_index = by_index
        self._on_settled = on_settled

        self.pulled = 0  # items taken from the source,
        self.settled = 0  # those of them that have an outcome,
        self.released = 0  # and those whose outcome the reader has taken.
        self.outcomes: dict[int, Settled[T, R]] = {}  # by index, or by the order of settling
        self.failure: Exception | None = None  # what the source raised
        self.closed = False
        self._drained = False
        self._broken: Exception | None = None  # what on_settled raised

        self.arrived = _Bell()  # for readers: an outcome, or the end
        self._work = _Bell()  # for workers: something to take, or the end
        self._room = _Bell()  # for the feeder: its item was taken, or the window opened
        self._done = Event()
        self._ready: deque[tuple[int, T]] = deque()  # what the feeder has read ahead: at most one item
        self._crew = 0
        self._timed: dict[CancelScope, tuple[float, int, T]] = {}  # a worker's deadline and item; the earliest first
        self._last: CancelScope | None = None  # the worker that started an item last
        self._slice_end = 0.0

    @property
    def finished(self) -> bool:
        """Whether every item there is has its outcome."""
        return self._drained and self.settled == self.pulled

    @property
    def _has_more(self) -> bool:
        """Whether there is, or may yet be, an item to take."""
        return not self._drained or bool(self._ready)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Hold the task group around a body; what fails leaves as itself, never as a group of one."""
        self._enter()
        left: BaseException | None = None
        whole = False
        try:
            async with create_task_group() as self._group:
                if self._source is not None:
                    self.spawn(partial(self._feed, self._source))
                try:
                    yield
                    whole = True
                except Exception as error:  # Raised below: the group would wrap it.
                    left = error
                    self.stop()
        except BaseExceptionGroup as errors:
            lone = errors.exceptions[0] if len(errors.exceptions) == 1 else errors
            left = lone if left is None or not isinstance(lone, Exception) else left
        finally:
            left = left or self._broken
            self._forget()
        try:
            if left is not None:
                raise left
        finally:
            del left  # It leads to this frame.
        if not whole:
            await checkpoint()  # anyio#1070: a group cancelled from outside may end without saying so.
            raise RuntimeError("the pool was cancelled though nobody had cancelled it: some items have no outcome")

    def _enter(self) -> None:
        self._origin = copy_context()
        self._cancelled: type[BaseException] = get_cancelled_exc_class()
        self._on_asyncio = self._cancelled is asyncio.CancelledError
        # Looked up once: anyio.current_time() costs more than the rest of an item's timeout.
        self._clock = asyncio.get_running_loop().time if self._on_asyncio else anyio.current_time
        self._slice_end = monotonic() + _SLICE

    def _forget(self) -> None:
        """Drop every error: the frames of a failed item lead here, and a cycle would keep their locals alive."""
        self.outcomes = {}
        self.failure = self._broken = None

    def spawn(self, func: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that knows nothing of the context variables of whoever starts it."""
        self._origin.copy().run(lambda: self._group.start_soon(func))

    def stop(self) -> None:
        """Cancel whatever still runs."""
        self.closed = True
        self._group.cancel_scope.cancel()
        self.arrived.ring_all()

    async def drive(self) -> None:
        """Hire the workers, then time out their items, until every item has its outcome."""
        # Doubling each turn of the loop, so that items which never suspend are all done by the first worker.
        while self._iterator is not None and self._crew < self._most and not self._drained:
            for _ in range(max(1, min(self._crew, self._most - self._crew))):
                self._hire()
            await checkpoint()
        while not self._done.is_set():
            with CancelScope(deadline=self._cancel_overdue()):
                await self._done.wait()

    def _hire(self) -> None:
        self._crew += 1
        self.spawn(self._be_worker)

    def _cancel_overdue(self) -> float:
        """Cancel the items that are past their deadline; return when to look again, on the event loop's clock."""
        now = self._clock()
        for scope, (deadline, _, _) in self._timed.items():
            if deadline > now:
                return deadline
            scope.cancel()
        return now + self._timeout

    async def _feed(self, source: AsyncIterable[T]) -> None:
        """Read an async source, always in this one task: a generator may hold a cancel scope across its yields."""
        iterator = aiter(source)
        error: BaseException | None = None
        with CancelScope() as scope:  # Entered before any scope of the generator's, so as to shield the closing.
            try:
                await self._read(iterator)
            except BaseException as raised:
                error = raised
            scope.shield = True
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
        try:
            # Judged only now: a scope that the generator held may be what cancelled the reading.
            failure = None if error is None else self._own_failure(error)
            if error is not None and failure is None:
                raise error
            self._drain(failure)
        finally:
            del error  # Its traceback leads to this frame.

    async def _read(self, iterator: AsyncIterator[T]) -> None:
        async for item in iterator:
            self._ready.append((self.pulled, item))
            self.pulled += 1
            if not self._work.ring() and self._crew < self._most:
                self._hire()
            while self._ready or self.pulled - self.released >= self._window:
                await self._room.wait()

    def _drain(self, failure: Exception | None = None) -> None:
        """Note that the source has given its last item."""
        self._drained = True
        self.failure = failure
        self._work.ring_all()
        if self.finished:
            self._finish()

    def _finish(self) -> None:
        self._done.set()
        self.arrived.ring_all()

    def _take(self) -> tuple[int, T] | None:
        """Pull the next item, if there is one now."""
        if self._iterator is None:
            return self._take_read_ahead()
        if self._drained or self.pulled - self.released >= self._window:
            return None
        try:
            item = next(self._iterator)
        except StopIteration:
            self._drain()
            return None
        except BaseException as error:
            failure = self._own_failure(error)
            if failure is None:
                raise
            self._drain(failure)
            return None
        index = self.pulled
        self.pulled += 1
        return index, item

    def _take_read_ahead(self) -> tuple[int, T] | None:
        if not self._ready:
            return None
        self._room.ring()
        return self._ready.popleft()

    async def _wait_for_work(self) -> tuple[int, T] | None:
        while (job := self._take()) is None and not self._drained:
            await self._undisturbed(self._work.wait)
        return job

    def release(self) -> Settled[T, R]:
        """Hand the reader its next outcome, which makes room for another item."""
        outcome = self.outcomes.pop(self.released)
        self.released += 1
        (self._work if self._source is None else self._room).ring()
        return outcome

    async def _be_worker(self) -> None:
        """Work until no item is left, or an item has left its mark on this task's context variables."""
        born = tuple(copy_context().values())
        while self._has_more and _has_values(born):
            scope = CancelScope()
            try:
                with scope:
                    await self._work_under(scope, born)
                timed_out = scope.cancelled_caught
            except self._cancelled:  # The item cancelled its own task too, so the scope took no side.
                timed_out = scope.cancel_called and not _is_cancelled_from_outside()
                if not timed_out:
                    raise
            if timed_out:
                self._reject_timed_out(scope)
            if scope.cancel_called:
                await self._forget_cancel()
        self._crew -= 1
        if self._has_more:
            self._hire()

    async def _work_under(self, scope: CancelScope, born: tuple[object, ...]) -> None:
        """Settle items until none is left or this worker needs another scope or another context."""
        timed = self._timeout < math.inf
        task = asyncio.current_task() if self._on_asyncio else None
        while (job := self._take() or await self._wait_for_work()) is not None:
            index, item = job
            if timed:
                self._timed[scope] = self._clock() + self._timeout, index, item
            self._last = scope
            try:
                value = await self._func(item)
            except BaseException as error:
                if not self._reject(index, item, error):
                    raise
            else:
                self._settle(Fulfilled(index, item, value))
            if timed and self._was_cancelled_too_late(scope):
                return
            if task is not None and task.cancelling():
                await self._forget_cancel()
            if not _has_values(born):
                return
            # If another worker has started an item meanwhile, this one's item was suspended and the loop has turned.
            if self._last is scope and monotonic() > self._slice_end:
                await self._yield_slice()

    def _was_cancelled_too_late(self, scope: CancelScope) -> bool:
        del self._timed[scope]
        return scope.cancel_called

    def _reject(self, index: int, item: T, error: BaseException) -> bool:
        """Settle an item that raised; False if what it raised is not for the item to fail with."""
        traceback = error.__traceback__
        error.__traceback__ = traceback and traceback.tb_next  # Without the frame of the engine.
        failure = self._own_failure(error)
        if failure is None:
            return False
        self._settle(Rejected(index, item, failure))
        return True

    def _reject_timed_out(self, scope: CancelScope) -> None:
        _, index, item = self._timed.pop(scope)
        error = TimeoutError(f"item {index} was cancelled: it took longer than item_timeout={self._timeout:g} s")
        self._settle(Rejected(index, item, error))

    def _own_failure(self, error: BaseException) -> Exception | None:
        """What an item or the source failed with by itself; None for what has to leave."""
        if isinstance(error, Exception):
            return error
        if isinstance(error, BaseExceptionGroup):
            rest = cast("BaseExceptionGroup[BaseException]", error).split(self._cancelled)[1]
            if rest is not None:  # A cancellation in force comes again; what is ordinary beside it is a failure.
                return rest if isinstance(rest, Exception) else None
        elif not isinstance(error, self._cancelled):
            return None
        if _is_cancelled_from_outside():
            return None
        failure = ItemCancelled()
        failure.__cause__ = error
        return failure

    async def _undisturbed(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait, whatever cancel of its own task an item has left behind for later."""
        try:
            await wait()
        except self._cancelled:
            if _is_cancelled_from_outside():
                raise
            await self._forget_cancel()

    async def _forget_cancel(self) -> None:
        """Undo an item's cancel of this task. A cancel from outside is undone too, but anyio delivers it again."""
        task = asyncio.current_task() if self._on_asyncio else None
        if task is not None:
            while task.cancelling():
                task.uncancel()
            with suppress(asyncio.CancelledError):  # Python 3.11 and 3.12 still deliver what was uncancelled.
                await asyncio.sleep(0)
        await self._undisturbed(checkpoint)

    async def _yield_slice(self) -> None:
        """Let the loop turn. The first worker back opens the next slice: one a turn, however many workers."""
        spent = self._slice_end
        await self._undisturbed(checkpoint)
        if self._slice_end == spent:
            self._slice_end = monotonic() + _SLICE

    def _settle(self, outcome: Settled[T, R]) -> None:
        self.outcomes[outcome.index if self._by_index else self.settled] = outcome
        self.settled += 1
        self.arrived.ring()
        if self._on_settled is not None and self._broken is None:
            try:
                self._on_settled(outcome)
            except Exception as error:  # Raised when the pool has wound down.
                self._broken = error
                self.stop()
        if self._drained and self.settled == self.pulled:
            self._finish()


def _has_values(born: tuple[object, ...]) -> bool:
    """Whether the context variables are still the very objects they were: ``==`` would run the items' own code."""
    now = copy_context()
    return len(now) == len(born) and (not born or all(map(is_, now.values(), born)))


def _is_cancelled_from_outside() -> bool:
    return current_effective_deadline() == -math.inf
