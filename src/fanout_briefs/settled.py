"""Settled gather: await a callable on many items concurrently, and get one outcome for each.

At most ``limit`` workers pull from one shared source and await ``func(item)``. An item that fails, times out or cancels
itself becomes an outcome and does not affect the others. Cancellation from outside always wins.
"""

from __future__ import annotations

import asyncio
import math
import sys
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
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import chain, count
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio
from anyio import (
    CancelScope,
    CapacityLimiter,
    Event,
    WouldBlock,
    create_task_group,
    get_cancelled_exc_class,
)
from anyio.lowlevel import checkpoint

from fanout_briefs.arguments import bad_counts, bad_hooks, bad_kinds, refuse
from fanout_briefs.errors import BadValue, NotStarted, SourceError, TooManyFailures
from fanout_briefs.source import Bell, Source, is_cancelled_from_outside, own_failure

if TYPE_CHECKING:
    from attrs import frozen
else:
    # Outcomes are frozen for type checkers only: a frozen initialiser costs as much as all else done for an item.
    from attrs import define

    frozen = partial(define, unsafe_hash=True)

__all__ = [
    "Fulfilled",
    "Rejected",
    "Settled",
    "fulfilled",
    "gather_settled",
    "iter_settled",
    "rejected",
    "values_or_raise",
]

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

# How long items that never suspend may keep the event loop to themselves, in seconds: all workers together.
_SLICE = 0.005

_UNSET = object()


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
        error: What ``func(item)`` raised; ``TimeoutError`` if it exceeded ``item_timeout`` or the deadline;
            ``ItemCancelled`` if it was cancelled, but not from outside; ``NotStarted`` if the gather ended before its
            turn came.
    """

    index: int
    item: T_co
    error: Exception


Settled: TypeAlias = Fulfilled[T_co, R_co] | Rejected[T_co]
"""What became of an item; tell the two apart with ``match`` or ``isinstance``."""


def fulfilled(outcomes: Iterable[Settled[T, R]]) -> list[Fulfilled[T, R]]:
    """Return the outcomes that have a value, in the order given."""
    return [outcome for outcome in outcomes if isinstance(outcome, Fulfilled)]


def rejected(outcomes: Iterable[Settled[T, R]]) -> list[Rejected[T]]:
    """Return the outcomes that have an error, in the order given."""
    return [outcome for outcome in outcomes if isinstance(outcome, Rejected)]


def values_or_raise(outcomes: Iterable[Settled[T, R]]) -> list[R]:
    """Return the value of every outcome, in the order given; for callers to whom one failure is a failure of all.

    Raises:
        ExceptionGroup: Items were rejected. It holds every error, in the order given, with the items' indices.
    """
    outcomes = list(outcomes)
    failures = rejected(outcomes)
    if failures:
        indices = ", ".join(str(failure.index) for failure in failures[:10])
        more = ", …" if len(failures) > 10 else ""
        message = f"{len(failures)} of {len(outcomes)} items were rejected, those with index {indices}{more}"
        raise ExceptionGroup(message, [failure.error for failure in failures])
    return [outcome.value for outcome in fulfilled(outcomes)]


def gather_settled(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    item_timeout: float | None = None,
    deadline: float | None = None,
    max_failures: int | None = None,
    limiter: CapacityLimiter | None = None,
    task_per_item: bool = False,
    on_settled: Callable[[Settled[T, R]], object] | None = None,
) -> Coroutine[Any, Any, list[Settled[T, R]]]:
    """Await ``func(item)`` for every item, ``limit`` at a time; await the result for one outcome each, in input order.

    The source is pulled only as workers become free. Items share a few tasks, so state bound to the current task, such
    as a lock left held, may outlive an item; context variables do not. ``KeyboardInterrupt``, ``SystemExit`` and groups
    that hold them are not outcomes: like cancellation from outside, they propagate once no item runs any more.

    Args:
        func: Called with one item; what it returns is awaited.
        items: Where items come from, lazily. An async source is read by one task, at most one item ahead, and an
            async generator is closed in that same task.
        limit: How many items may be in progress at once; at least 1.
        item_timeout: After how many seconds on the event loop's clock an item is cancelled; None for never.
        deadline: How many seconds all items have together, from when the result is first awaited; None for no limit.
            Then items in progress are cancelled and ``Rejected(TimeoutError)``, and no more are started. The rest of a
            source that has a length is ``Rejected(NotStarted)``; a source without a length is not pulled again.
        max_failures: The number of rejected items at which to stop pulling; at least 1, None for never. Items in
            progress still settle. Items rejected by the deadline do not count.
        limiter: Shared with other calls: each item in progress holds one of its tokens. No item is pulled from a
            sync source before there is a token for it; waiting for one does not count towards ``item_timeout``.
        task_per_item: Whether each item runs in a task of its own, so that nothing bound to a task outlives it.
            That costs tens of microseconds per item.
        on_settled: Called with each outcome as it settles. Must not block: it runs in the event loop.

    Raises:
        ValueError: Arguments are bad; the message names all of them. Raised by the call itself, before any await.
        SourceError: ``items`` raised; items in progress were settled first and all outcomes are in ``.outcomes``.
        TooManyFailures: ``max_failures`` items were rejected; the outcomes of all pulled items are in ``.outcomes``.
        Exception: What ``on_settled`` raised, unwrapped; items still in progress were cancelled.
    """
    refuse(
        _bad_arguments(
            func,
            limit=limit,
            item_timeout=item_timeout,
            limiter=limiter,
            deadline=deadline,
            max_failures=max_failures,
            on_settled=on_settled,
        )
    )
    pool = _Pool(
        func,
        Source(items, window=sys.maxsize),
        name=f"gather_settled({_name_of(func)})",
        limit=limit,
        item_timeout=item_timeout,
        deadline=deadline,
        limiter=limiter,
        task_per_item=task_per_item,
    )
    return _gather(pool, max_failures, on_settled)


def iter_settled(
    func: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    ordered: bool = False,
    item_timeout: float | None = None,
    limiter: CapacityLimiter | None = None,
    task_per_item: bool = False,
) -> AbstractAsyncContextManager[AsyncIterator[Settled[T, R]]]:
    """Stream the outcomes of ``func(item)`` while later items are still in progress; use it with ``async with``.

    At most ``2 * limit`` items are pulled and not yet taken by the reader, so memory does not grow with the source and
    a slow reader slows the source down. Leaving the block early cancels items in progress and waits for them; use this
    to stop after a number of failures or some time. Items are isolated, timed and cancelled as in ``gather_settled``.

    Args:
        func: Called with one item; what it returns is awaited.
        items: Where items come from, lazily; as for ``gather_settled``.
        limit: How many items may be in progress at once; at least 1.
        ordered: True for outcomes in input order, False for the order in which they settle.
        item_timeout: After how many seconds on the event loop's clock an item is cancelled; None for never.
        limiter: Shared with other calls: each item in progress holds one of its tokens.
        task_per_item: Whether each item runs in a task of its own, so that nothing bound to a task outlives it.

    Raises:
        ValueError: Arguments are bad; the message names all of them. Raised by the call itself.
        SourceError: ``items`` raised; raised by the iteration after the last outcome was taken.
        RuntimeError: The outcomes were read after the block was left.
    """
    refuse(_bad_arguments(func, limit=limit, item_timeout=item_timeout, limiter=limiter))
    pool = _Pool(
        func,
        Source(items, window=2 * limit),
        name=f"iter_settled({_name_of(func)})",
        limit=limit,
        item_timeout=item_timeout,
        limiter=limiter,
        task_per_item=task_per_item,
    )
    return _stream(pool, ordered=ordered)


def _bad_arguments(
    func: object,
    *,
    limit: object,
    item_timeout: object,
    limiter: object,
    deadline: object = None,
    max_failures: object = None,
    on_settled: object = None,
) -> Iterator[BadValue]:
    if not callable(func):
        yield BadValue("func", func, "must be callable with one item")
    yield from bad_counts({"limit": limit, "max_failures": 1 if max_failures is None else max_failures})
    for name, seconds in (("item_timeout", item_timeout), ("deadline", deadline)):
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
            yield BadValue(name, seconds, "must be more than 0 seconds, or None for no such limit")
    yield from bad_kinds({"limiter": limiter}, CapacityLimiter)
    yield from bad_hooks({"on_settled": on_settled})


def _name_of(func: object) -> str:
    return str(getattr(func, "__qualname__", type(func).__qualname__))


async def _gather(
    pool: _Pool[T, R], max_failures: int | None, on_settled: Callable[[Settled[T, R]], object] | None
) -> list[Settled[T, R]]:
    outcomes: list[Settled[T, R]] = []
    failures = 0

    def note(outcome: Settled[T, R]) -> None:
        nonlocal failures
        outcomes.append(outcome)
        if isinstance(outcome, Rejected) and not pool.is_over:
            failures += 1
            if failures == max_failures:
                pool.source.end()
        if on_settled is not None:
            pool.call(on_settled, outcome)

    is_watched = max_failures is not None or on_settled is not None
    async with pool.running(deliver=note if is_watched else outcomes.append):
        await pool.drive()
        await pool.reject_unstarted()
        failure = pool.source.failure
    outcomes.sort(key=attrgetter("index"))
    if len(outcomes) != pool.source.pulled:
        raise RuntimeError(
            f"{pool.source.pulled} items were started and {len(outcomes)} have settled: please report this"
        )
    if failure is not None:
        raise SourceError(outcomes) from failure
    if max_failures is not None and failures >= max_failures:
        raise TooManyFailures(outcomes, max_failures) from rejected(outcomes)[0].error
    return outcomes


@asynccontextmanager
async def _stream(pool: _Pool[T, R], *, ordered: bool) -> AsyncGenerator[AsyncIterator[Settled[T, R]]]:
    outcomes = _Outcomes(pool, ordered=ordered)
    async with pool.running(deliver=outcomes.add, at_end=outcomes.end):
        pool.spawn(pool.drive, "clock")
        try:
            yield outcomes
        finally:
            outcomes.close()
        pool.stop()


class _Outcomes(AsyncIterator[Settled[T, R]]):
    """The reader's end of a stream. A read that is cancelled loses nothing; the next one goes on."""

    def __init__(self, pool: _Pool[T, R], *, ordered: bool) -> None:
        self._pool = pool
        self._ordered = ordered
        self._outcomes: dict[int, Settled[T, R]] = {}  # by index, or by the order of settling
        self._added = self._taken = 0
        self._arrived = Bell()
        self._is_closed = self._is_ended = False

    def add(self, outcome: Settled[T, R]) -> None:
        self._outcomes[outcome.index if self._ordered else self._added] = outcome
        self._added += 1
        self._arrived.ring()

    def end(self) -> None:
        """Tell readers that no outcome will be added."""
        self._is_ended = True
        self._arrived.ring_all()

    def close(self) -> None:
        """Drop unread outcomes, and tell readers that still wait for one."""
        self._outcomes.clear()
        self._is_closed = True
        self._arrived.ring_all()

    async def __anext__(self) -> Settled[T, R]:
        while self._is_closed or self._taken not in self._outcomes:
            if self._is_ended and self._taken == self._added:
                if self._pool.source.failure is not None:
                    raise SourceError from self._pool.source.failure
                raise StopAsyncIteration
            if self._is_closed:
                raise RuntimeError("the stream is closed: read its outcomes inside the `async with iter_settled(...)`")
            await self._arrived.wait()
        outcome = self._outcomes.pop(self._taken)
        self._taken += 1
        self._pool.make_room()
        return outcome


class _Pool(Generic[T, R]):
    """Bounded workers on one shared source; decides how many there are, and until when they run."""

    def __init__(
        self,
        func: Callable[[T], Awaitable[R]],
        source: Source[T],
        *,
        name: str,
        limit: int,
        item_timeout: float | None,
        deadline: float | None = None,
        limiter: CapacityLimiter | None,
        task_per_item: bool,
    ) -> None:
        self.func = func
        self.source = source
        self.limiter = limiter
        self.task_per_item = task_per_item
        self.timeout = math.inf if item_timeout is None else item_timeout
        self._deadline = math.inf if deadline is None else deadline
        self.is_timed = item_timeout is not None or deadline is not None
        self._name = name
        self._most = max(1, min(limit, source.most))
        self._crew = 0
        self._numbers = count(1)
        self._done = Event()
        source.arrived, source.drained = self._employ, self._wind_down

        self.is_over = False  # Whether the deadline has passed.
        self._broken: Exception | None = None  # What on_settled raised.
        self._owes_rest = False  # Whether items that are never started get an outcome all the same.
        self.work = Bell()  # for workers: something to take, or the end
        self.timed: dict[_Worker[T, R], tuple[float, int, T]] = {}  # in progress until when; the earliest first
        self.borrowing: set[CancelScope] = set()  # of workers that wait for a token of the limiter
        self.last: _Worker[T, R]  # who started an item last
        self.ready = 0  # workers that wait for nothing but their turn

    @asynccontextmanager
    async def running(
        self, *, deliver: Callable[[Settled[T, R]], object], at_end: Callable[[], object] = lambda: None
    ) -> AsyncGenerator[None]:
        """Run a body inside the task group; an error propagates as itself, never as a group of one."""
        self._enter()
        self.deliver, self._at_end = deliver, at_end
        left: BaseException | None = None
        whole = False
        try:
            async with create_task_group() as self._group:
                if self.source.items is not None:
                    self.spawn(partial(self.source.read, self.source.items), "source")
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
        # Looked up once: anyio.current_time() costs more than the rest of an item's timeout.
        self.on_asyncio = get_cancelled_exc_class() is asyncio.CancelledError
        self.clock = asyncio.get_running_loop().time if self.on_asyncio else anyio.current_time
        self._end = self.clock() + self._deadline
        self.slice_end = monotonic() + _SLICE

    def _forget(self) -> None:
        """Drop every error and the source: tracebacks lead to this object, and cycles would keep both alive."""
        self._broken = self.source.failure = None
        self.source.jobs.close()
        del self.deliver, self._at_end, self.source.arrived, self.source.drained

    def spawn(self, func: Callable[[], Coroutine[Any, Any, None]], role: str) -> None:
        """Start a task that does not inherit the context variables of the task that starts it."""
        self._origin.copy().run(partial(self._group.start_soon, func, name=f"{self._name} {role}"))

    def stop(self) -> None:
        """Cancel whatever still runs."""
        self._group.cancel_scope.cancel()

    def call(self, hook: Callable[[Settled[T, R]], object], outcome: Settled[T, R]) -> None:
        """Pass an outcome to the caller's hook; if that raises, the whole pool stops."""
        if self._broken is None:
            try:
                hook(outcome)
            except Exception as error:  # Raised when the pool has wound down.
                self._broken = error
                self.stop()

    async def drive(self) -> None:
        """Start the workers, then enforce timeouts until the last worker has ended."""
        # Twice as many each time that all are suspended: items that never suspend are all done by the first worker.
        while self.source.items is None and self._crew < self._most and not self.source.is_drained:
            for _ in range(0 if self.ready else min(2 * self._crew + 1, self._most - self._crew)):
                self._hire()
            await checkpoint()
        while not self._done.is_set():
            with CancelScope(deadline=self._cancel_overdue()):
                await self._done.wait()

    def _hire(self) -> None:
        self._crew += 1
        self.ready += 1
        self.spawn(_Worker(self).run, f"worker {next(self._numbers)}")

    def make_room(self) -> None:
        """Let another item in, since the reader has taken an outcome."""
        self.source.make_room()
        if self.source.items is None and not self.work.is_ringing:
            self.work.ring()

    def _employ(self) -> None:
        """Wake a worker for an available item, or start one."""
        if not self.work.ring() and self._crew < self._most:
            self._hire()

    def spread_the_word(self) -> None:
        """Wake two more workers while there are items, so that all are awake after a few turns of the loop."""
        for _ in range(2 if self.source.has_item else 0):
            self.work.ring()

    def dismiss(self) -> None:
        """Account for a worker that ends, and replace it if there is more to do."""
        self._crew -= 1
        if self.source.has_more:
            self._hire()
        self._finish_if_idle()

    def _wind_down(self) -> None:
        """Release the tasks that wait for more items: there are none left to pull."""
        self.work.ring_all()
        for scope in self.borrowing:
            scope.cancel()
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if not self._crew and not self.source.has_more and self.source.is_closed:
            self._done.set()
            self._at_end()

    def _cancel_overdue(self) -> float:
        """Cancel the items that are past their time; return when to look again, on the event loop's clock."""
        now = self.clock()
        if now >= self._end:
            self._call_time()
        for worker, (due, _, _) in self.timed.items():
            if due > now:
                return min(due, self._end)
            worker.scope.cancel()
        return min(now + self.timeout, self._end)

    def _call_time(self) -> None:
        """Handle the passed deadline: cancel items in progress and start nothing more."""
        self._end = math.inf
        self.is_over = True
        self._owes_rest = self.source.has_length and not self.source.is_drained
        self.source.end()
        for worker in self.timed:
            worker.scope.cancel()

    async def reject_unstarted(self) -> None:
        """Settle items that were read but never started and, after the deadline, the rest of a source with a length."""
        for index, item in chain(self.source.unstarted, self.source.rest() if self._owes_rest else ()):
            self.deliver(Rejected(index, item, NotStarted()))
            if monotonic() > self.slice_end:
                await checkpoint()
                self.slice_end = monotonic() + _SLICE


class _Worker(Generic[T, R]):
    """One task that settles items one after another, until none is left or an item has altered the task's state."""

    def __init__(self, pool: _Pool[T, R]) -> None:
        self._pool = pool
        self._has_token = False

    async def run(self) -> None:
        pool = self._pool
        pool.ready -= 1
        self._task = asyncio.current_task() if pool.on_asyncio else None
        self._born_with = tuple(copy_context().items())
        try:
            await (self._settle_timed_items() if pool.is_timed else self._settle_items())
        finally:
            self._give_back()
        pool.dismiss()

    async def _settle_timed_items(self) -> None:
        while self._pool.source.has_more:
            await self._settle_under_scope()
            if self._pool.task_per_item or not _has_values(self._born_with):
                return

    async def _settle_under_scope(self) -> None:
        self.scope = CancelScope()
        try:
            with self.scope:
                await self._settle_items()
            timed_out = self.scope.cancelled_caught
        except get_cancelled_exc_class():  # The item cancelled its own task too, so the scope did not absorb it.
            timed_out = self.scope.cancel_called and not is_cancelled_from_outside()
            if not timed_out:
                raise
        if timed_out:
            self._reject_timed_out()
        if self.scope.cancel_called:
            await self._forget_cancel()

    async def _settle_items(self) -> None:
        """Settle items until none is left or this worker needs another scope or another task."""
        pool, task, born_with, timed = self._pool, self._task, self._born_with, self._pool.is_timed
        # Waiting is the exception: items that are available at once are taken without another coroutine.
        jobs = iter(()) if pool.limiter else pool.source.jobs
        while (job := next(jobs, None) or await self._wait_for_job()) is not None:
            index, item = job
            if timed:
                pool.timed[self] = pool.clock() + pool.timeout, index, item
            pool.last = self
            try:
                value = await pool.func(item)
            except BaseException as error:
                if not self._reject(index, item, error):
                    raise
            else:
                pool.deliver(Fulfilled(index, item, value))
            if timed and self._was_cancelled_too_late():
                return
            if task is not None and task.cancelling():
                await self._forget_cancel()
            if pool.task_per_item or not _has_values(born_with):
                return
            # If another worker has started an item meanwhile, this one's item was suspended and the loop has turned.
            if pool.last is self and monotonic() > pool.slice_end:
                await self._yield_slice()

    async def _wait_for_job(self) -> tuple[int, T] | None:
        """Wait for an item, and for a token if there is a limiter; return None if no item is left."""
        pool = self._pool
        self._give_back()
        while pool.source.has_more:
            if pool.limiter is None or await self._borrow(pool.limiter):
                job = next(pool.source.jobs, None)
                if job is not None:
                    pool.spread_the_word()
                    return job
                self._give_back()
                if pool.source.has_more:
                    await self._undisturbed(pool.work.wait)
        return None

    async def _borrow(self, limiter: CapacityLimiter) -> bool:
        """Take a token; return False if an item's cancel interfered, or the last item was gone first."""
        try:
            limiter.acquire_on_behalf_of_nowait(self)
            self._has_token = True
        except WouldBlock:
            scope = CancelScope()
            self._pool.borrowing.add(scope)
            try:
                with scope:
                    await self._undisturbed(partial(self._borrow_later, limiter))
            except get_cancelled_exc_class():  # An item cancelled this task too, so the scope did not absorb it.
                if not scope.cancel_called or is_cancelled_from_outside():
                    raise
                await self._forget_cancel()
            finally:
                self._pool.borrowing.discard(scope)
        return self._has_token

    async def _borrow_later(self, limiter: CapacityLimiter) -> None:
        await limiter.acquire_on_behalf_of(self)
        self._has_token = True

    def _give_back(self) -> None:
        if self._pool.limiter is not None and self._has_token:
            self._pool.limiter.release_on_behalf_of(self)
            self._has_token = False

    def _was_cancelled_too_late(self) -> bool:
        del self._pool.timed[self]
        return self.scope.cancel_called

    def _reject(self, index: int, item: T, error: BaseException) -> bool:
        """Settle an item that raised; return False if the error is not the item's own failure."""
        traceback = error.__traceback__
        error.__traceback__ = traceback and traceback.tb_next  # Without the frame of the engine.
        failure = own_failure(error)
        if failure is None:
            return False
        self._pool.deliver(Rejected(index, item, failure))
        return True

    def _reject_timed_out(self) -> None:
        due, index, item = self._pool.timed.pop(self)
        is_late = due <= self._pool.clock()
        why = f"it took longer than item_timeout={self._pool.timeout:g} s" if is_late else "the deadline passed"
        self._pool.deliver(Rejected(index, item, TimeoutError(f"item {index} was cancelled: {why}")))

    async def _undisturbed(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait, despite any pending cancel of this task that an item has left behind."""
        try:
            await wait()
        except get_cancelled_exc_class():
            if is_cancelled_from_outside():
                raise
            await self._forget_cancel()

    async def _forget_cancel(self) -> None:
        """Undo an item's cancel of this task; a cancel from outside is undone too, but anyio delivers it again."""
        if self._task is not None:
            while self._task.cancelling():
                self._task.uncancel()
            with suppress(asyncio.CancelledError):  # Python 3.11 and 3.12 still deliver what was uncancelled.
                await asyncio.sleep(0)
        await self._undisturbed(checkpoint)

    async def _yield_slice(self) -> None:
        """Let the loop turn. The first worker back starts the next slice: one per turn, however many workers."""
        pool = self._pool
        spent = pool.slice_end
        pool.ready += 1
        await self._undisturbed(checkpoint)
        pool.ready -= 1
        if pool.slice_end == spent:
            pool.slice_end = monotonic() + _SLICE


def _has_values(born_with: tuple[tuple[ContextVar[Any], object], ...]) -> bool:
    """Whether the context variables still hold the same objects; ``==`` would run the items' own code."""
    if len(copy_context()) != len(born_with):
        return False
    for variable, value in born_with:  # noqa: SIM110  # For the few there are, all() takes twice as long.
        if variable.get(_UNSET) is not value:
            return False
    return True
