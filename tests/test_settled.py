"""What gather_settled and iter_settled promise, on asyncio, uvloop, asyncio with eager tasks, and trio."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from typing import Any

import anyio
import pytest
from anyio import CancelScope, CapacityLimiter, Event, create_task_group, move_on_after, wait_all_tasks_blocked
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from fanout_briefs.errors import ItemCancelled, NotStarted, SourceError, TooManyFailures
from fanout_briefs.settled import (
    Fulfilled,
    Rejected,
    Settled,
    fulfilled,
    gather_settled,
    iter_settled,
    rejected,
    values_or_raise,
)
from fanout_briefs.source import Bell
from virtual_time import in_virtual_time


def eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    return loop


NO_OPTIONS: dict[str, Any] = {}
ASYNCIO = [
    pytest.param(("asyncio", NO_OPTIONS), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not build on Windows"),
    ),
    pytest.param(
        ("asyncio", {"loop_factory": eager_loop}),
        id="eager",
        marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"),
    ),
]
BACKENDS = [*ASYNCIO, pytest.param(("trio", NO_OPTIONS), id="trio")]
on_asyncio = pytest.mark.parametrize("anyio_backend", ASYNCIO)


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def quiet() -> None:
    """Let every other task run until it waits for something."""
    for _ in range(30):
        await cancel_shielded_checkpoint()
    await wait_all_tasks_blocked()  # Which sleeps on asyncio if a task is not waiting yet.


class Gauge:
    """Counts what runs at once, and what has begun."""

    def __init__(self) -> None:
        self.now = self.peak = self.begun = 0

    def __enter__(self) -> None:
        self.begun += 1
        self.now += 1
        self.peak = max(self.peak, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


class Gates:
    """One event an item: the item waits until the test opens its gate."""

    def __init__(self) -> None:
        self.running = Gauge()
        self._events: dict[int, Event] = {}

    def _gate(self, item: int) -> Event:
        return self._events.setdefault(item, Event())

    async def open(self, *items: int) -> None:
        for item in items:
            self._gate(item).set()
        await quiet()

    async def wait(self, item: int) -> int:
        with self.running:
            await self._gate(item).wait()
        return item


async def double(number: int) -> int:
    return number * 2


async def double_later(number: int) -> int:
    await checkpoint()
    return number * 2


async def hang(item: object) -> None:
    await anyio.sleep_forever()


async def numbers(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        await checkpoint()
        yield number


def values(outcomes: list[Settled[Any, Any]]) -> list[Any]:
    return [outcome.value if isinstance(outcome, Fulfilled) else type(outcome.error) for outcome in outcomes]


def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


# What comes back


@pytest.mark.parametrize("work", [double, double_later])
@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
async def test_there_is_one_outcome_an_item_in_input_order(work: Any, limit: int, source: Any) -> None:
    outcomes = await gather_settled(work, source(10), limit=limit)

    assert outcomes == [Fulfilled(number, number, number * 2) for number in range(10)]


async def test_a_failing_item_is_rejected_and_disturbs_no_other() -> None:
    async def invert(number: int) -> float:
        await checkpoint()
        return 1 / number

    outcomes = await gather_settled(invert, [2, 0, 4], limit=2)

    assert values(outcomes) == [0.5, ZeroDivisionError, 0.25]
    assert (outcomes[1].index, outcomes[1].item) == (1, 0)


async def test_a_callable_that_raises_before_it_returns_an_awaitable_is_rejected() -> None:
    def broken(item: int) -> Any:
        raise LookupError(item)

    assert values(await gather_settled(broken, [1], limit=1)) == [LookupError]


async def test_a_callable_that_cannot_take_the_item_is_rejected() -> None:
    func: Any = hang

    def none() -> None: ...

    func = none
    assert values(await gather_settled(func, [1], limit=1)) == [TypeError]


@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
async def test_nothing_comes_of_an_empty_source(source: Any) -> None:
    assert await gather_settled(double, source(0), limit=3) == []
    async with iter_settled(double, source(0), limit=3) as outcomes:
        assert [outcome async for outcome in outcomes] == []


def test_outcomes_are_slotted_hashable_and_matched_by_position() -> None:
    assert not hasattr(Fulfilled(0, "a", 1), "__dict__")
    assert len({Fulfilled(0, "a", 1), Fulfilled(0, "a", 1), Fulfilled(0, "a", 2)}) == 2
    assert Fulfilled.__match_args__ == ("index", "item", "value")
    assert Rejected.__match_args__ == ("index", "item", "error")


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, "3"])
@pytest.mark.parametrize("call", [gather_settled, iter_settled])
def test_a_limit_that_is_no_positive_int_is_refused_by_the_call(call: Any, limit: Any) -> None:
    with pytest.raises(ValueError, match=r"limit=.*must be an int of at least 1"):
        call(double, [], limit=limit)


@pytest.mark.parametrize("call", [gather_settled, iter_settled])
def test_the_limit_is_required(call: Any) -> None:
    with pytest.raises(TypeError, match="limit"):
        call(double, [])


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
@pytest.mark.parametrize("call", [gather_settled, iter_settled])
def test_a_timeout_that_is_not_positive_is_refused_by_the_call(call: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match="item_timeout="):
        call(double, [], limit=1, item_timeout=seconds)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_deadline_that_is_not_positive_is_refused_by_the_call(seconds: float) -> None:
    call: Any = gather_settled
    with pytest.raises(ValueError, match="deadline="):
        call(double, [], limit=1, deadline=seconds)


@pytest.mark.parametrize("failures", [0, -1, 1.5, "3"])
def test_a_number_of_failures_that_is_no_positive_int_is_refused_by_the_call(failures: Any) -> None:
    call: Any = gather_settled
    with pytest.raises(ValueError, match=r"max_failures=.*must be an int of at least 1"):
        call(double, [], limit=1, max_failures=failures)


def test_all_bad_arguments_are_told_at_once() -> None:
    async def note(_: object) -> None: ...

    call: Any = gather_settled
    bad: dict[str, Any] = {
        "limit": True,
        "max_failures": 0,
        "item_timeout": "5",
        "deadline": -1,
        "limiter": asyncio.Semaphore(2),
        "on_settled": note,
    }
    with pytest.raises(ValueError, match=r"^func=3: must be callable with one item; limit=True: ") as refused:
        call(3, [], **bad)
    assert [part.split("=")[0] for part in str(refused.value).split("; ")] == ["func", *bad]
    assert "must be a CapacityLimiter, or None" in str(refused.value)
    assert "must be a plain function: it is called and not awaited" in str(refused.value)


@pytest.mark.parametrize("call", [gather_settled, iter_settled])
def test_what_is_not_iterable_is_refused_by_the_call(call: Any) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        call(double, 3, limit=1)


# Limit and laziness


@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
async def test_exactly_limit_items_run_at_once(source: Any) -> None:
    gates = Gates()
    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(gates.wait, source(20), limit=7))
        await quiet()
        assert gates.running.now == 7
        await gates.open(3)
        assert gates.running.now == 7
        await gates.open(*range(20))

    assert (gates.running.peak, gates.running.begun) == (7, 20)


async def test_a_sync_source_is_pulled_only_as_workers_come_free() -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            pulled.append(number)
            yield number

    gates = Gates()
    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(gates.wait, source(), limit=3))
        await quiet()
        assert pulled == [0, 1, 2]
        await gates.open(1)
        assert pulled == [0, 1, 2, 3]
        await gates.open(*range(10))
    assert len(pulled) == 10


async def test_items_that_never_suspend_share_one_task() -> None:
    tasks: set[int] = set()

    async def note(item: int) -> None:
        tasks.add(anyio.get_current_task().id)

    await gather_settled(note, range(200), limit=100)

    assert len(tasks) == 1


async def test_items_that_never_suspend_do_not_starve_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fanout_briefs.settled.monotonic", count().__next__
    )  # Each look at the clock is a second later.

    with move_on_after(0.01) as scope:
        await gather_settled(double, count(), limit=3)

    assert scope.cancelled_caught


# Cancellation from outside


async def test_an_outer_cancel_wins_and_leaves_no_item_running() -> None:
    gauge = Gauge()

    async def stay(item: int) -> None:
        with gauge:
            await anyio.sleep_forever()

    async with create_task_group() as group:

        async def gather() -> None:
            await gather_settled(stay, range(10), limit=4)
            pytest.fail("a cancelled gather returned")

        group.start_soon(gather)
        await quiet()
        assert gauge.now == 4
        group.cancel_scope.cancel()

    assert (gauge.now, gauge.begun) == (0, 4)


async def test_a_gather_in_a_scope_that_is_already_cancelled_returns_nothing() -> None:
    with CancelScope() as scope:
        scope.cancel()
        await gather_settled(double, [1], limit=1)
        pytest.fail("a cancelled gather returned")
    assert scope.cancelled_caught


async def test_items_that_swallow_an_outer_cancel_do_not_swallow_it_for_the_gather() -> None:
    started = Gauge()

    async def stubborn(item: int) -> None:
        with started:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                return

    with CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(lambda: gather_settled(stubborn, count(), limit=3))
            await quiet()
            scope.cancel()

    assert scope.cancelled_caught
    assert started.now == 0


async def test_an_item_that_cancels_the_outer_scope_cancels_the_gather() -> None:
    with CancelScope() as scope:

        async def cancel(item: int) -> None:
            scope.cancel()
            await checkpoint()

        await gather_settled(cancel, range(3), limit=2)
        pytest.fail("a cancelled gather returned")
    assert scope.cancelled_caught


async def test_an_outer_cancel_takes_a_group_of_its_cancellation_and_errors_with_it() -> None:
    async def fail_in_cleanup(item: int) -> None:
        async with create_task_group() as group:
            group.start_soon(hang, item)
            try:
                await anyio.sleep_forever()
            finally:
                raise LookupError(item)

    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(fail_in_cleanup, range(2), limit=2))
        await quiet()
        group.cancel_scope.cancel()


@on_asyncio
async def test_a_native_cancel_of_the_caller_wins() -> None:
    gauge = Gauge()

    async def stay(item: int) -> None:
        with gauge:
            await anyio.sleep_forever()

    task = asyncio.ensure_future(gather_settled(stay, range(10), limit=4))
    await quiet()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gauge.now, gauge.begun) == (0, 4)


@on_asyncio
async def test_asyncio_timeout_around_the_gather_works() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await gather_settled(hang, range(3), limit=2)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@on_asyncio
async def test_the_end_of_the_loop_ends_a_gather() -> None:
    gauge = Gauge()

    async def stay(item: int) -> None:
        with gauge:
            await anyio.sleep_forever()

    gather = asyncio.ensure_future(gather_settled(stay, count(), limit=3))
    await quiet()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:  # As asyncio.run() does.
        if "gather" in repr(task) or "_be_worker" in repr(task):
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gather
    assert gauge.now == 0


async def test_a_group_that_was_cancelled_silently_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(worker: Any) -> None:
        worker._pool.stop()

    monkeypatch.setattr("fanout_briefs.settled._Worker.run", give_up)
    with pytest.raises(RuntimeError, match="some items have no outcome"):
        await gather_settled(double, [1], limit=1)
    with pytest.raises(RuntimeError, match="some items have no outcome"):
        async with iter_settled(double, [1], limit=1) as outcomes:
            await anext(outcomes)


async def test_an_outcome_that_got_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(worker: Any) -> None:
        while next(worker._pool.source.jobs, None):
            pass

    monkeypatch.setattr("fanout_briefs.settled._Worker._settle_items", lose)
    with pytest.raises(RuntimeError, match="3 items were started and 0 have settled"):
        await gather_settled(double, range(3), limit=1)


# Errors that leave, groups, stray cancels


class Quit(BaseException):
    """Stands for KeyboardInterrupt, which asyncio raises through the loop."""


@pytest.mark.parametrize("error", [Quit(), BaseExceptionGroup("both", [Quit(), ValueError()])], ids=["lone", "group"])
@pytest.mark.parametrize("seconds", [None, 60])
async def test_what_is_no_exception_leaves_as_itself(error: BaseException, seconds: float | None) -> None:
    async def leave(item: int) -> None:
        await checkpoint()
        raise error

    with pytest.raises(type(error)) as caught:
        await gather_settled(leave, [1], limit=2, item_timeout=seconds)
    assert repr(caught.value) == repr(error)

    with pytest.raises(type(error)) as caught:
        async with iter_settled(leave, [1], limit=2, item_timeout=seconds) as outcomes:
            await anext(outcomes)
    assert repr(caught.value) == repr(error)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_end_the_run(backend: str, error: type[BaseException]) -> None:
    async def leave(item: int) -> None:
        raise error

    async def main() -> None:
        await gather_settled(leave, [1], limit=2)

    with pytest.raises(error):
        anyio.run(main, backend=backend)


async def test_two_items_that_leave_at_once_leave_as_a_group() -> None:
    async def leave(item: int) -> None:
        try:
            await anyio.sleep_forever() if item else await quiet()
        finally:
            raise Quit

    with pytest.raises(BaseExceptionGroup) as caught:
        await gather_settled(leave, range(2), limit=2)
    assert [type(error) for error in caught.value.exceptions] == [Quit, Quit]


async def test_a_group_of_ordinary_errors_is_one_failure() -> None:
    group = ExceptionGroup("both", [ValueError(), KeyError()])

    async def fail(item: int) -> None:
        raise group

    (outcome,) = await gather_settled(fail, [1], limit=1)

    assert isinstance(outcome, Rejected)
    assert outcome.error is group


@on_asyncio
async def test_of_a_group_of_cancellation_and_errors_the_errors_are_the_failure() -> None:
    async def fail(item: int) -> None:
        raise BaseExceptionGroup("mixed", [asyncio.CancelledError(), ValueError(item)])

    outcomes = await gather_settled(fail, range(3), limit=2)

    for outcome in outcomes:
        assert isinstance(outcome, Rejected)
        assert repr(outcome.error) == f"ExceptionGroup('mixed', [ValueError({outcome.item})])"


@on_asyncio
@pytest.mark.parametrize("seconds", [None, 60])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stray_cancel_is_that_items_own_failure(seconds: float | None, stream: bool) -> None:
    async def act(item: str) -> str:
        match item:
            case "awaits a cancelled future":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            case "raises a group of one cancellation":
                raise BaseExceptionGroup("", [asyncio.CancelledError()])
            case "cancels its own task":
                cancel_own_task()
                await checkpoint()
            case "cancels its own task and returns":
                cancel_own_task()
            case "cancels its own task and swallows it":
                cancel_own_task()
                with suppress(asyncio.CancelledError):
                    await checkpoint()
            case "cancels its own task and fails":
                cancel_own_task()
                raise ValueError
            case "plants more cancels than one":
                task = asyncio.current_task()
                assert task is not None
                for _ in range(3):
                    asyncio.get_running_loop().call_soon(task.cancel)
                cancel_own_task()
            case _:
                await checkpoint()
        return item

    items = [
        "awaits a cancelled future", "fine", "raises a group of one cancellation", "fine", "cancels its own task",
        "fine", "cancels its own task and returns", "fine", "cancels its own task and swallows it", "fine",
        "cancels its own task and fails", "fine", "plants more cancels than one", "cancels its own task and returns",
    ]  # fmt: skip
    for limit in (1, 2, 20):
        if stream:
            async with iter_settled(act, items, limit=limit, ordered=True, item_timeout=seconds) as stream_:
                outcomes = [outcome async for outcome in stream_]
        else:
            outcomes = await gather_settled(act, items, limit=limit, item_timeout=seconds)
        expected = {
            "awaits a cancelled future": ItemCancelled,
            "raises a group of one cancellation": ItemCancelled,
            "cancels its own task": ItemCancelled,
            "cancels its own task and fails": ValueError,
        }
        assert values(outcomes) == [expected.get(item, item) for item in items]


@on_asyncio
async def test_a_cancel_that_arrives_after_its_item_harms_nobody() -> None:
    loop = asyncio.get_running_loop()

    async def plant(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        loop.call_soon(task.cancel)
        return item

    # The one worker is waiting when the cancel arrives: for the loop to turn, for room, and for the source.
    async with iter_settled(plant, range(9), limit=1) as outcomes:
        for index in range(9):
            await quiet()
            assert (await anext(outcomes)).index == index
    assert values(await gather_settled(plant, numbers(5), limit=1)) == list(range(5))


@on_asyncio
async def test_a_callback_that_cancels_the_current_task_harms_nobody() -> None:
    outcomes = await gather_settled(double, range(3), limit=1, on_settled=lambda _: cancel_own_task())

    assert values(outcomes) == [0, 2, 4]


@on_asyncio
async def test_a_stray_cancel_names_where_it_came_from() -> None:
    async def act(item: int) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel("the far end hung up")
        await future

    (outcome,) = await gather_settled(act, [1], limit=1)

    assert isinstance(outcome, Rejected)
    assert isinstance(outcome.error.__cause__, asyncio.CancelledError)


# Timeouts


class TestTimeouts:
    """In virtual time: an hour passes at once, and only on the event loop's own clock."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return in_virtual_time(request.param)

    @pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
    async def test_an_item_that_times_out_is_really_cancelled_and_its_slot_is_free(self, source: Any) -> None:
        ends: list[tuple[int, float]] = []
        start = anyio.current_time()

        async def work(item: int) -> int:
            try:
                await anyio.sleep(7200 if item % 2 else 1800)
            finally:
                ends.append((item, anyio.current_time() - start))
            return item

        outcomes = await gather_settled(work, source(5), limit=1, item_timeout=3600)

        assert values(outcomes) == [0, TimeoutError, 2, TimeoutError, 4]
        assert ends == [(0, 1800), (1, 5400), (2, 7200), (3, 10800), (4, 12600)]
        assert "item 1" in str(outcomes[1].error) if isinstance(outcomes[1], Rejected) else False

    async def test_the_stream_times_items_out_too(self) -> None:
        async with iter_settled(anyio.sleep, [5, 50, 500, 1], limit=2, item_timeout=100) as outcomes:
            seen = [(outcome.index, type(outcome)) async for outcome in outcomes]

        assert seen == [(0, Fulfilled), (1, Fulfilled), (3, Fulfilled), (2, Rejected)]

    async def test_items_that_end_in_time_are_left_alone(self) -> None:
        assert values(await gather_settled(anyio.sleep, [9.9] * 30, limit=4, item_timeout=10)) == [None] * 30

    async def test_an_item_is_timed_from_its_own_start(self) -> None:
        start = anyio.current_time()
        outcomes = await gather_settled(anyio.sleep, [6, 8, 20, 6], limit=2, item_timeout=10)

        assert values(outcomes) == [None, None, TimeoutError, None]
        assert anyio.current_time() - start == 16

    async def test_a_finished_item_beats_a_late_cancel(self) -> None:
        async def finish_anyway(item: int) -> int:
            with CancelScope(shield=True):
                await anyio.sleep(20)
            return item

        async def swallow(item: int) -> int:
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep(20)
            return item

        async def fail(item: int) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                raise LookupError from None

        assert values(await gather_settled(finish_anyway, range(3), limit=1, item_timeout=10)) == [0, 1, 2]
        assert values(await gather_settled(swallow, range(3), limit=1, item_timeout=10)) == [0, 1, 2]
        assert values(await gather_settled(fail, range(2), limit=1, item_timeout=10)) == [LookupError] * 2

    async def test_an_item_that_will_not_go_does_not_delay_the_timeouts_of_others(self) -> None:
        ends: dict[int, float] = {}
        start = anyio.current_time()

        async def work(item: int) -> None:
            try:
                with CancelScope(shield=item == 0):
                    await anyio.sleep(100)
            finally:
                ends[item] = anyio.current_time() - start

        outcomes = await gather_settled(work, range(4), limit=2, item_timeout=10)

        assert values(outcomes) == [None, TimeoutError, TimeoutError, TimeoutError]
        assert ends == {0: 100, 1: 10, 2: 20, 3: 30}

    async def test_errors_raised_beside_the_cancellation_are_the_failure(self) -> None:
        async def fail_in_cleanup(item: int) -> None:
            async with create_task_group() as group:
                group.start_soon(hang, item)
                try:
                    await anyio.sleep_forever()
                finally:
                    raise LookupError(item)

        async def mixed(item: int) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as cancelled:
                raise BaseExceptionGroup("mixed", [cancelled, LookupError(item)]) from None

        for func in (fail_in_cleanup, mixed):
            outcomes = await gather_settled(func, range(2), limit=1, item_timeout=10)
            assert values(outcomes) == [ExceptionGroup] * 2
            assert "Cancelled" not in repr(outcomes)

    async def test_a_group_of_nothing_but_the_cancellation_is_a_timeout(self) -> None:
        async def wrap(item: int) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as cancelled:
                raise BaseExceptionGroup("", [cancelled]) from None

        assert values(await gather_settled(wrap, range(2), limit=1, item_timeout=10)) == [TimeoutError] * 2

    async def test_a_source_whose_own_scope_runs_out_between_items_has_failed(self) -> None:
        async def source() -> AsyncIterator[int]:
            with move_on_after(5):
                for number in count():
                    yield number

        async def leave_a_mark(seconds: int) -> None:
            VARIABLE.set(seconds)
            await anyio.sleep(seconds)

        with pytest.raises(SourceError) as caught:
            await gather_settled(leave_a_mark, source(), limit=1)
        assert values(list(caught.value.outcomes)) == [None] * 5
        assert isinstance(caught.value.__cause__, ItemCancelled)

    async def test_what_is_no_exception_leaves_in_spite_of_a_timeout(self) -> None:
        async def leave(item: int) -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as cancelled:
                raise BaseExceptionGroup("mixed", [cancelled, Quit()]) from None

        with pytest.raises(BaseExceptionGroup, check=lambda error: "Quit" in repr(error)):
            await gather_settled(leave, [1], limit=1, item_timeout=10)

    async def test_context_variables_set_before_a_timeout_do_not_leak(self) -> None:
        async def work(item: int) -> int:
            seen: int = VARIABLE.get()
            VARIABLE.set(item)
            await anyio.sleep(20 if item == 1 else 0)
            return seen

        assert values(await gather_settled(work, [1, 2, 3], limit=1, item_timeout=10)) == [TimeoutError, 0, 0]

    async def test_an_outer_cancel_at_the_same_instant_wins(self) -> None:
        with move_on_after(10) as scope:
            await gather_settled(anyio.sleep, [20] * 5, limit=2, item_timeout=10)
            pytest.fail("a cancelled gather returned")
        assert scope.cancelled_caught

    async def test_a_stream_read_that_times_out_loses_nothing(self) -> None:
        async with iter_settled(anyio.sleep, [1, 9, 3], limit=1, ordered=True) as outcomes:
            assert (await anext(outcomes)).index == 0
            with move_on_after(5) as scope:
                await anext(outcomes)
            assert scope.cancelled_caught
            assert [outcome.index async for outcome in outcomes] == [1, 2]

    async def test_an_item_that_cancels_itself_as_it_times_out_is_rejected(self) -> None:
        async def work(item: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
                    cancel_own_task()

        assert values(await gather_settled(work, range(3), limit=1, item_timeout=10)) == [TimeoutError] * 3


class TestDeadline:
    """In virtual time."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return in_virtual_time(request.param)

    async def test_what_settled_is_returned_with_what_was_cut_short_and_what_never_started(self) -> None:
        start = anyio.current_time()

        outcomes = await gather_settled(anyio.sleep, [5, 50, 5, 50, 1, 2], limit=2, deadline=12)

        assert values(outcomes) == [None, TimeoutError, None, TimeoutError, NotStarted, NotStarted]
        assert [(outcome.index, outcome.item) for outcome in outcomes] == list(enumerate([5, 50, 5, 50, 1, 2]))
        assert anyio.current_time() - start == 12
        assert "the deadline passed" in str(rejected(outcomes)[0].error)

    async def test_items_in_progress_are_really_cancelled(self) -> None:
        gauge = Gauge()

        async def stay(item: int) -> None:
            with gauge:
                await anyio.sleep_forever()

        await gather_settled(stay, count(), limit=3, deadline=10)

        assert (gauge.now, gauge.begun) == (0, 3)

    async def test_a_source_without_a_length_is_not_pulled_again(self) -> None:
        pulled: list[int] = []

        def source() -> Iterator[int]:
            for number in count():
                pulled.append(number)
                yield number

        outcomes = await gather_settled(anyio.sleep, source(), limit=3, deadline=10)

        assert pulled == list(range(len(outcomes)))
        assert values(outcomes)[-3:] == [TimeoutError] * 3
        assert set(values(outcomes)[:-3]) == {None}

    async def test_an_async_source_is_stopped_and_closed_and_what_it_gave_ahead_never_started(self) -> None:
        closed: list[bool] = []

        async def source() -> AsyncIterator[int]:
            try:
                for number in count():
                    yield number
            finally:
                await checkpoint()
                closed.append(True)

        outcomes = await gather_settled(hang, source(), limit=2, deadline=10)

        assert values(outcomes) == [TimeoutError, TimeoutError, NotStarted]
        assert closed == [True]

    async def test_an_async_source_that_gives_nothing_is_no_reason_to_wait(self) -> None:
        async def source() -> AsyncIterator[int]:
            yield 0
            await anyio.sleep_forever()

        assert values(await gather_settled(double, source(), limit=2, deadline=10)) == [0]

    async def test_a_source_that_fails_as_it_is_stopped_has_failed(self) -> None:
        async def source() -> AsyncIterator[int]:
            yield 0
            try:
                await anyio.sleep_forever()
            finally:
                raise Broken

        with pytest.raises(SourceError) as caught:
            await gather_settled(double, source(), limit=2, deadline=10)
        assert values(list(caught.value.outcomes)) == [0]
        assert isinstance(caught.value.__cause__, Broken)

    async def test_a_deadline_that_has_passed_before_anything_could_start_is_kept(self) -> None:
        await anyio.sleep(80_000)  # From where the clock knows no instant that is this little later.
        assert await gather_settled(double, numbers(5), limit=2, deadline=1e-12) == []

    async def test_an_item_that_the_source_gives_too_late_never_started(self) -> None:
        async def source() -> AsyncIterator[int]:
            yield 0
            with CancelScope(shield=True):
                await anyio.sleep(20)
            yield 1

        start = anyio.current_time()
        assert values(await gather_settled(double, source(), limit=2, deadline=10)) == [0, NotStarted]
        assert anyio.current_time() - start == 20

    async def test_a_source_of_known_length_that_raises_past_the_deadline_has_failed(self) -> None:
        class Sized:
            def __len__(self) -> int:
                return 5

            def __iter__(self) -> Iterator[int]:
                return breaks_at(3)

        with pytest.raises(SourceError) as caught:
            await gather_settled(hang, Sized(), limit=1, deadline=10)
        assert values(list(caught.value.outcomes)) == [TimeoutError, NotStarted, NotStarted]

    async def test_a_finished_item_beats_the_deadline_and_no_other_is_started(self) -> None:
        async def finish_anyway(item: int) -> int:
            with CancelScope(shield=True):
                await anyio.sleep(20)
            return item

        assert values(await gather_settled(finish_anyway, range(3), limit=1, deadline=10)) == [
            0,
            NotStarted,
            NotStarted,
        ]

    async def test_a_gather_that_is_done_in_time_never_notices(self) -> None:
        start = anyio.current_time()
        assert values(await gather_settled(anyio.sleep, [1, 2, 3], limit=2, deadline=10)) == [None] * 3
        assert anyio.current_time() - start == 4

    async def test_an_item_timeout_before_the_deadline_says_so(self) -> None:
        outcomes = await gather_settled(anyio.sleep, [50, 50, 50], limit=1, item_timeout=8, deadline=10)

        assert values(outcomes) == [TimeoutError, TimeoutError, NotStarted]
        errors = [str(outcome.error) for outcome in rejected(outcomes)]
        assert "item_timeout=8" in errors[0]
        assert "the deadline passed" in errors[1]

    async def test_an_outer_cancel_wins_over_the_deadline(self) -> None:
        with move_on_after(10) as scope:
            await gather_settled(anyio.sleep, [20] * 5, limit=2, deadline=10)
            pytest.fail("a cancelled gather returned")
        assert scope.cancelled_caught

    async def test_what_the_deadline_rejects_is_told_but_is_no_failure_too_many(self) -> None:
        told: list[Settled[float, None]] = []

        outcomes = await gather_settled(
            anyio.sleep, [50, 50, 1], limit=2, deadline=10, max_failures=1, on_settled=told.append
        )

        assert values(outcomes) == [TimeoutError, TimeoutError, NotStarted]
        assert sorted(told, key=lambda outcome: outcome.index) == outcomes

    async def test_it_ends_the_wait_for_a_token_that_another_holds(self) -> None:
        limiter = CapacityLimiter(1)
        async with limiter:
            outcomes = await gather_settled(double, range(2), limit=2, deadline=10, limiter=limiter)
        assert values(outcomes) == [NotStarted, NotStarted]
        assert limiter.borrowed_tokens == 0

    async def test_waiting_for_a_token_is_no_part_of_the_item_timeout(self) -> None:
        limiter = CapacityLimiter(1)
        assert (
            values(await gather_settled(anyio.sleep, [6] * 4, limit=4, item_timeout=8, limiter=limiter)) == [None] * 4
        )
        outcomes = await gather_settled(anyio.sleep, [6, 9, 6], limit=4, item_timeout=8, limiter=limiter)
        assert values(outcomes) == [None, TimeoutError, None]
        assert limiter.borrowed_tokens == 0


async def test_the_rest_of_a_long_source_does_not_starve_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    outcomes: list[Settled[int, None]] = []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    monkeypatch.setattr("fanout_briefs.settled.monotonic", count().__next__)  # Each look is a second later.
    async with create_task_group() as group:
        group.start_soon(turn)
        outcomes.extend(await gather_settled(hang, range(200), limit=1, deadline=0.05))
        group.cancel_scope.cancel()

    assert values(outcomes) == [TimeoutError] + [NotStarted] * 199
    assert turns >= 199


# Failures too many


@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
async def test_at_max_failures_no_more_is_started_and_what_is_in_progress_settles(source: Any) -> None:
    gates = Gates()
    caught: list[TooManyFailures] = []

    async def work(item: int) -> int:
        await gates.wait(item)
        if item in {0, 2}:
            raise LookupError(item)
        return item

    async def gather() -> None:
        with pytest.raises(TooManyFailures) as error:
            await gather_settled(work, source(20), limit=3, max_failures=2)
        caught.append(error.value)

    async with create_task_group() as group:
        group.start_soon(gather)
        await quiet()
        await gates.open(0)
        assert gates.running.begun == 4
        await gates.open(2)
        assert (gates.running.begun, gates.running.now) == (4, 2)
        assert caught == []
        await gates.open(1, 3)

    read_ahead = [NotStarted] if source is numbers else []
    assert values(list(caught[0].outcomes)) == [LookupError, 1, LookupError, 3, *read_ahead]
    assert caught[0].max_failures == 2
    assert caught[0].__cause__ is rejected(caught[0].outcomes)[0].error


async def test_fewer_failures_than_max_failures_are_outcomes() -> None:
    async def invert(number: int) -> float:
        return 1 / number

    assert values(await gather_settled(invert, [0, 1, 0], limit=2, max_failures=3)) == [
        ZeroDivisionError,
        1.0,
        ZeroDivisionError,
    ]


async def test_max_failures_among_the_very_last_items_raises_all_the_same() -> None:
    async def fail(item: int) -> None:
        await checkpoint()
        raise LookupError

    with pytest.raises(TooManyFailures) as caught:
        await gather_settled(fail, range(3), limit=3, max_failures=3)
    assert values(list(caught.value.outcomes)) == [LookupError] * 3


async def test_a_source_that_raised_is_the_error_though_failures_were_too_many() -> None:
    async def fail(item: int) -> None:
        await quiet()
        raise LookupError

    with pytest.raises(SourceError) as caught:
        await gather_settled(fail, breaks_at(2), limit=5, max_failures=1)
    assert values(list(caught.value.outcomes)) == [LookupError] * 2


# A limiter shared with other calls


async def test_calls_that_share_a_limiter_keep_to_it_together() -> None:
    limiter = CapacityLimiter(3)
    gates = Gates()
    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(gates.wait, range(10), limit=5, limiter=limiter))
        group.start_soon(lambda: gather_settled(gates.wait, numbers(10), limit=5, limiter=limiter))
        await quiet()
        assert gates.running.now == 3
        assert limiter.borrowed_tokens == 3
        await gates.open(*range(10))

    assert (gates.running.peak, gates.running.begun) == (3, 20)
    assert limiter.borrowed_tokens == 0


async def test_a_stream_keeps_to_a_shared_limiter_too() -> None:
    limiter = CapacityLimiter(2)
    gates = Gates()
    await gates.open(*range(10))
    async with iter_settled(gates.wait, range(10), limit=5, limiter=limiter) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 10
    assert gates.running.peak == 2


async def test_nothing_is_pulled_before_there_is_a_token() -> None:
    limiter = CapacityLimiter(2)
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            pulled.append(number)
            yield number

    gates = Gates()
    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(gates.wait, source(), limit=5, limiter=limiter))
        await quiet()
        assert pulled == [0, 1]
        await gates.open(*range(10))


async def test_a_call_whose_source_has_ended_waits_for_nobody_elses_token() -> None:
    limiter = CapacityLimiter(2)
    limiter.acquire_nowait()  # By another call, which holds it for as long as it likes.
    outcomes = await gather_settled(double_later, (number for number in range(3)), limit=2, limiter=limiter)
    assert values(outcomes) == [0, 2, 4]
    assert limiter.statistics().tasks_waiting == 0


@pytest.mark.parametrize("how", ["fails", "hangs", "leaves"])
async def test_tokens_come_back_however_an_item_ends(how: str) -> None:
    limiter = CapacityLimiter(2)

    async def work(item: int) -> None:
        await checkpoint()
        if how == "fails":
            raise LookupError
        if how == "leaves" and item:
            raise Quit
        await anyio.sleep_forever()

    with CancelScope() as scope, suppress(Quit, BaseExceptionGroup):
        async with create_task_group() as group:
            group.start_soon(lambda: gather_settled(work, range(4), limit=2, limiter=limiter))
            await quiet()
            scope.cancel()
    assert limiter.borrowed_tokens == 0
    assert limiter.statistics().tasks_waiting == 0


@on_asyncio
async def test_a_stray_cancel_while_waiting_for_a_token_harms_nobody() -> None:
    limiter = CapacityLimiter(1)
    loop = asyncio.get_running_loop()

    async def plant(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        loop.call_soon(task.cancel)
        return item

    async def gather() -> None:
        assert values(await gather_settled(plant, range(6), limit=2, limiter=limiter)) == list(range(6))

    async with create_task_group() as group:
        group.start_soon(gather)
        group.start_soon(gather)
    assert limiter.borrowed_tokens == 0


@on_asyncio
@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_stray_cancel_as_the_wait_for_a_token_is_called_off_harms_nobody(turns: int) -> None:
    tasks: set[asyncio.Task[Any]] = set()
    loop = asyncio.get_running_loop()

    def cancel_all(turns: int) -> None:
        if turns:
            loop.call_soon(cancel_all, turns - 1)
            return
        for task in tasks:
            task.cancel()

    async def work(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await checkpoint()
        if item == 1:  # The last one: whoever waits for a token is told in the next turn that nothing is left.
            cancel_all(turns)
        return item

    limiter = CapacityLimiter(1)
    assert values(await gather_settled(work, range(2), limit=2, limiter=limiter)) == [0, 1]
    assert limiter.borrowed_tokens == limiter.statistics().tasks_waiting == 0


# Tasks


async def test_each_item_has_a_task_of_its_own_where_asked() -> None:
    tasks: list[str | None] = []

    async def note(item: int) -> int:
        tasks.append(anyio.get_current_task().name)
        if item % 2:
            await checkpoint()
        return item

    for source in (range(20), numbers(20)):
        tasks.clear()
        outcomes = await gather_settled(note, source, limit=3, task_per_item=True)
        assert values(outcomes) == list(range(20))
        assert len(set(tasks)) == 20
    async with iter_settled(note, range(20), limit=3, item_timeout=60, task_per_item=True) as stream:
        tasks.clear()
        assert len([outcome async for outcome in stream]) == 20
    assert len(set(tasks)) == 20


async def test_a_lock_that_an_item_left_held_is_not_the_next_items_where_each_has_a_task() -> None:
    lock = anyio.Lock()

    async def take(item: int) -> None:
        lock.acquire_nowait()

    shared = await gather_settled(take, range(2), limit=1)
    assert "already" in str(rejected(shared)[0].error)
    lock = anyio.Lock()
    alone = await gather_settled(take, range(2), limit=1, task_per_item=True)
    assert values(alone) == [None, anyio.WouldBlock]


async def test_many_tasks_in_a_row_nest_nowhere() -> None:
    assert len(await gather_settled(double, range(2000), limit=3, task_per_item=True)) == 2000


async def test_tasks_are_named_after_the_call_and_the_callable() -> None:
    names: set[str | None] = set()

    async def fetch(item: int) -> None:
        names.update(task.name for task in anyio.get_running_tasks())
        await checkpoint()

    await gather_settled(fetch, numbers(1), limit=1)
    async with iter_settled(fetch, range(1), limit=1) as outcomes:
        await anext(outcomes)
    await gather_settled(Local, [None], limit=1)  # type: ignore[arg-type]  # a callable without a name of its own

    fetch_name = "test_tasks_are_named_after_the_call_and_the_callable.<locals>.fetch"
    assert {
        f"gather_settled({fetch_name}) source",
        f"gather_settled({fetch_name}) worker 1",
        f"iter_settled({fetch_name}) clock",
        f"iter_settled({fetch_name}) worker 1",
    } <= names


# Helpers


def test_outcomes_part_into_the_fulfilled_and_the_rejected() -> None:
    outcomes: list[Settled[str, int]] = [Fulfilled(0, "a", 1), Rejected(1, "b", LookupError()), Fulfilled(2, "c", 3)]

    assert fulfilled(outcomes) == [outcomes[0], outcomes[2]]
    assert rejected(iter(outcomes)) == [outcomes[1]]


def test_the_values_of_outcomes_that_are_all_fulfilled_come_in_order() -> None:
    assert values_or_raise(iter([Fulfilled(0, "a", 1), Fulfilled(1, "b", 2)])) == [1, 2]
    assert values_or_raise([]) == []


FIRST_TEN = "index 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


@pytest.mark.parametrize(("failures", "named"), [(2, "index 0, 1"), (10, FIRST_TEN), (11, f"{FIRST_TEN}, …")])
def test_all_failures_are_raised_as_one_group_that_names_their_items(failures: int, named: str) -> None:
    errors = [LookupError(number) for number in range(failures)]
    outcomes: list[Settled[int, int]] = [Rejected(number, number, error) for number, error in enumerate(errors)]

    with pytest.raises(ExceptionGroup) as caught:
        values_or_raise([*outcomes, Fulfilled(99, 99, 0)])

    assert list(caught.value.exceptions) == errors
    assert str(caught.value).startswith(f"{failures} of {failures + 1} items were rejected, those with {named} ")


# Context variables

VARIABLE: ContextVar[Any] = ContextVar("VARIABLE", default=0)


class Equal:
    """Equal to everything, and not to be asked."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]  # as Python does beside __eq__


@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
@pytest.mark.parametrize("suspends", [False, True])
async def test_context_variables_of_one_item_never_reach_another(source: Any, suspends: bool) -> None:
    outer = Equal()
    VARIABLE.set(outer)

    async def work(item: int) -> Any:
        seen = VARIABLE.get()
        VARIABLE.set(Equal() if item % 2 else item)
        if suspends:
            await checkpoint()
        return seen

    outcomes = await gather_settled(work, source(12), limit=3)

    assert all(value is outer for value in values(outcomes))
    assert VARIABLE.get() is outer


async def test_a_variable_that_was_not_set_before_is_noticed_too() -> None:
    fresh: ContextVar[int] = ContextVar("fresh")

    async def work(item: int) -> Any:
        seen = fresh.get(None)
        fresh.set(item)
        return seen

    assert values(await gather_settled(work, range(3), limit=1)) == [None] * 3


async def test_a_context_that_was_put_back_keeps_its_worker() -> None:
    async def work(item: int) -> int:
        VARIABLE.reset(VARIABLE.set(item))
        return anyio.get_current_task().id

    assert len(set(values(await gather_settled(work, range(5), limit=1)))) == 1


# Sources


class Broken(Exception):
    pass


def breaks_at(stop: int) -> Iterator[int]:
    yield from range(stop)
    raise Broken


async def breaks_later_at(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number
    raise Broken


@pytest.mark.parametrize("source", [breaks_at, breaks_later_at])
async def test_when_the_source_raises_items_in_progress_settle_and_come_along(source: Any) -> None:
    gates = Gates()
    caught: list[SourceError] = []

    async def gather() -> None:
        with pytest.raises(SourceError) as error:
            await gather_settled(gates.wait, source(3), limit=5)
        caught.append(error.value)

    async with create_task_group() as group:
        group.start_soon(gather)
        await quiet()
        assert caught == []
        await gates.open(0, 2)
        assert caught == []
        await gates.open(1)

    assert list(caught[0].outcomes) == [Fulfilled(number, number, number) for number in range(3)]
    assert isinstance(caught[0].__cause__, Broken)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("source", [breaks_at, breaks_later_at])
async def test_a_stream_raises_the_sources_error_after_all_outcomes(source: Any, ordered: bool) -> None:
    seen: list[int] = []
    with pytest.raises(SourceError) as caught:  # noqa: PT012  # The block is what is tested.
        async with iter_settled(double_later, source(5), limit=2, ordered=ordered) as outcomes:
            async for outcome in outcomes:
                seen.append(outcome.index)

    assert sorted(seen) == list(range(5))
    assert caught.value.outcomes == ()
    assert isinstance(caught.value.__cause__, Broken)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_source_that_is_interrupted_ends_the_gather(asynchronous: bool) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise Quit

    async def async_source() -> AsyncIterator[int]:
        yield 1
        raise Quit

    with pytest.raises(Quit):
        await gather_settled(double, async_source() if asynchronous else source(), limit=2)


@on_asyncio
async def test_a_source_that_awaits_something_cancelled_has_failed() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(SourceError) as caught:
        await gather_settled(double, source(), limit=2)
    assert isinstance(caught.value.__cause__, ItemCancelled)


async def test_an_async_generator_lives_in_one_task_and_is_closed_there() -> None:
    tasks: set[int] = set()

    async def source() -> AsyncIterator[int]:
        tasks.add(anyio.get_current_task().id)
        with CancelScope():
            try:
                for number in count():
                    yield number
                    tasks.add(anyio.get_current_task().id)
            finally:
                with CancelScope(shield=True):
                    await checkpoint()
                await cancel_shielded_checkpoint()
                tasks.add(anyio.get_current_task().id)
                tasks.add(-1)

    async with iter_settled(double_later, source(), limit=3) as outcomes:
        async for outcome in outcomes:
            if outcome.index == 20:
                break

    assert -1 in tasks
    assert len(tasks - {-1}) == 1
    assert anyio.get_current_task().id not in tasks


async def test_a_generator_may_await_while_it_is_closed() -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in count():
                yield number
        finally:
            await checkpoint()
            closed.append(True)

    with CancelScope() as scope:
        async with create_task_group() as group:
            group.start_soon(lambda: gather_settled(hang, source(), limit=3))
            await quiet()
            scope.cancel()
    assert closed == [True]


async def test_what_closing_the_source_raises_surfaces_as_itself() -> None:
    async def source() -> AsyncIterator[int]:
        try:
            for number in count():
                yield number
        finally:
            raise Broken

    with pytest.raises(Broken):
        async with iter_settled(double, source(), limit=2) as outcomes:
            await anext(outcomes)
    with pytest.raises(LookupError):  # noqa: PT012  # The block is what is tested.
        async with iter_settled(double, source(), limit=2) as outcomes:
            await anext(outcomes)
            raise LookupError


async def test_an_async_source_is_read_at_most_one_item_ahead() -> None:
    pulled: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in count():
            pulled.append(number)
            yield number

    gates = Gates()
    async with create_task_group() as group:
        group.start_soon(lambda: gather_settled(gates.wait, source(), limit=3))
        await quiet()
        assert len(pulled) == 4
        await gates.open(0, 2)
        assert len(pulled) == 6
        group.cancel_scope.cancel()


async def test_a_slow_async_source_needs_no_more_workers_than_it_keeps_busy() -> None:
    tasks: set[int] = set()

    async def note(item: int) -> None:
        tasks.add(anyio.get_current_task().id)

    async def source() -> AsyncIterator[int]:
        for number in range(20):
            await quiet()
            yield number

    await gather_settled(note, source(), limit=10)

    assert len(tasks) == 1


async def test_an_async_iterator_that_is_no_generator_is_left_open() -> None:
    send, receive = anyio.create_memory_object_stream[int](10)
    for number in range(10):
        send.send_nowait(number)
    async with iter_settled(double, receive, limit=1) as outcomes:
        assert (await anext(outcomes)).item == 0
    assert receive.statistics().open_receive_streams == 1
    send.close()
    receive.close()


# on_settled


async def test_on_settled_is_called_in_settling_order() -> None:
    gates = Gates()
    seen: list[int] = []
    async with create_task_group() as group:
        group.start_soon(
            lambda: gather_settled(gates.wait, range(4), limit=4, on_settled=lambda outcome: seen.append(outcome.index))
        )
        await quiet()
        for item in (2, 0, 3, 1):
            await gates.open(item)
    assert seen == [2, 0, 3, 1]


async def test_what_on_settled_raises_surfaces_as_itself_and_it_is_not_called_again() -> None:
    gauge = Gauge()
    calls: list[int] = []
    broken = Broken()

    async def work(item: int) -> int:
        with gauge:
            if item:
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    return item
            await quiet()
            return item

    def note(outcome: Settled[int, int]) -> None:
        calls.append(outcome.index)
        raise broken

    with pytest.raises(Broken) as caught:
        await gather_settled(work, range(3), limit=3, on_settled=note)

    assert caught.value is broken
    assert (calls, gauge.now) == ([0], 0)


# The stream


@pytest.mark.parametrize("source", [range, numbers], ids=["sync", "async"])
async def test_a_stream_yields_in_settling_order_unless_asked_for_input_order(source: Any) -> None:
    for ordered, expected in ((False, [2, 0, 1]), (True, [0, 1, 2])):
        gates = Gates()
        seen: list[int] = []

        async def read() -> None:
            async with iter_settled(gates.wait, source(3), limit=3, ordered=ordered) as outcomes:  # noqa: B023
                seen.extend([outcome.index async for outcome in outcomes])  # noqa: B023  # Awaited in this turn.

        async with create_task_group() as group:
            group.start_soon(read)
            await quiet()
            for item in (2, 0, 1):
                await gates.open(item)
        assert seen == expected


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_slow_reader_holds_the_source_back_to_twice_the_limit(ordered: bool, asynchronous: bool) -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in count():
            pulled.append(number)
            yield number

    async def async_source() -> AsyncIterator[int]:
        for number in source():
            yield number

    gauge = Gauge()

    async def work(item: int) -> int:
        with gauge:
            await checkpoint()
        return item

    items: Any = async_source() if asynchronous else source()
    async with iter_settled(work, items, limit=3, ordered=ordered) as outcomes:
        for taken in range(20):
            await quiet()
            assert len(pulled) == taken + 6
            await anext(outcomes)
    assert gauge.peak <= 3


async def test_in_input_order_one_slow_item_holds_the_source_back() -> None:
    gates = Gates()
    await gates.open(*range(1, 50))
    async with iter_settled(gates.wait, range(50), limit=3, ordered=True) as outcomes:
        await quiet()
        assert gates.running.begun == 6
        await gates.open(0)
        assert [outcome.index async for outcome in outcomes] == list(range(50))


async def test_leaving_a_stream_early_cancels_and_awaits_what_is_in_progress() -> None:
    gauge = Gauge()

    async def work(item: int) -> int:
        with gauge:
            if item:
                try:
                    await anyio.sleep_forever()
                finally:
                    await cancel_shielded_checkpoint()
        return item

    async with iter_settled(work, count(), limit=4) as outcomes:
        async for _ in outcomes:
            break
        await quiet()
        assert gauge.now == 4
    assert gauge.now == 0


@pytest.mark.parametrize("error", [Broken(), ExceptionGroup("mine", [Broken()]), StopIteration(), StopAsyncIteration()])
async def test_the_readers_own_error_leaves_as_itself(error: Exception) -> None:
    gauge = Gauge()

    async def work(item: int) -> None:
        with gauge:
            await anyio.sleep_forever()

    with pytest.raises(type(error)) as caught:  # noqa: PT012  # The block is what is tested.
        async with iter_settled(work, count(), limit=2):
            await quiet()
            assert gauge.now == 2
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert gauge.now == 0


async def test_an_outer_cancel_of_the_reader_wins() -> None:
    with CancelScope() as scope:
        async with iter_settled(hang, count(), limit=2) as outcomes:
            scope.cancel()
            await anext(outcomes)
    assert scope.cancelled_caught


@on_asyncio
async def test_asyncio_timeout_around_a_stream_works() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001), iter_settled(hang, count(), limit=2) as outcomes:
            await anext(outcomes)


@pytest.mark.parametrize("items", [range(1000), range(3)], ids=["more to come", "all have settled"])
async def test_a_stream_that_was_left_says_so(items: Iterable[int]) -> None:
    async with iter_settled(double, items, limit=2) as outcomes:
        await anext(outcomes)
        await quiet()
    with pytest.raises(RuntimeError, match="the stream is closed"):
        await anext(outcomes)


async def test_who_still_waits_for_an_outcome_is_told_that_the_stream_was_left() -> None:
    told: list[str] = []

    async def read(outcomes: AsyncIterator[Settled[int, None]]) -> None:
        with pytest.raises(RuntimeError) as caught:
            await anext(outcomes)
        told.append(str(caught.value))

    async with create_task_group() as group, iter_settled(hang, count(), limit=2) as outcomes:
        group.start_soon(read, outcomes)
        await quiet()
    assert "the stream is closed" in told[0]


async def test_a_stream_that_was_left_keeps_nothing_that_was_not_read() -> None:
    class Value:
        pass

    made: list[weakref.ref[Value]] = []

    async def make(item: int) -> Value:
        value = Value()
        made.append(weakref.ref(value))
        return value

    async with iter_settled(make, range(3), limit=2) as outcomes:
        await anext(outcomes)
        await quiet()
    gc.collect()
    assert [value() for value in made] == [None] * 3
    del outcomes  # It was there all the time.


async def test_an_exhausted_stream_stays_exhausted() -> None:
    async with iter_settled(double, range(3), limit=2) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 3
        assert [outcome async for outcome in outcomes] == []
    assert [outcome async for outcome in outcomes] == []


async def test_of_workers_whose_time_is_up_the_first_one_back_opens_the_next_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fanout_briefs.settled._SLICE", 0.0)
    gate = anyio.Event()

    async def work(item: int) -> int:
        if item < 3:
            await gate.wait()  # So that all workers come back in one turn of the loop.
        return item

    async def open_the_gate() -> None:
        await quiet()
        gate.set()

    async with create_task_group() as group:
        group.start_soon(open_the_gate)
        outcomes = await gather_settled(work, range(30), limit=3)
        assert [outcome.value for outcome in fulfilled(outcomes)] == list(range(30))


async def test_a_reader_that_takes_many_outcomes_at_once_lets_as_many_items_in() -> None:
    gauge = Gauge()

    async def work(item: int) -> None:
        with gauge:
            if item >= 16:
                await anyio.sleep_forever()

    async with iter_settled(work, count(), limit=8) as outcomes:
        for _ in range(16):
            await anext(outcomes)
        await quiet()
        assert gauge.now == 8


async def test_two_readers_share_a_stream() -> None:
    seen: list[int] = []

    async def read(outcomes: AsyncIterator[Settled[int, int]]) -> None:
        seen.extend([outcome.index async for outcome in outcomes])

    async with iter_settled(double_later, range(20), limit=3) as outcomes, create_task_group() as group:
        group.start_soon(read, outcomes)
        group.start_soon(read, outcomes)
    assert sorted(seen) == list(range(20))


@on_asyncio
async def test_a_reader_that_is_cancelled_as_it_is_woken_passes_the_outcome_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker that has had its slice of time lets the loop turn first, and item 1 would start too late to cancel.
    monkeypatch.setattr("fanout_briefs.settled._SLICE", 60.0)
    readers: list[asyncio.Task[Settled[int, int]]] = []

    async def work(item: int) -> int:
        if item:  # Starts in the very step in which item 0 settled and woke the first reader.
            readers[0].cancel()
            await anyio.sleep_forever()
        await quiet()
        return item

    async with iter_settled(work, range(2), limit=1) as outcomes:

        async def read() -> Settled[int, int]:
            return await anext(outcomes)

        readers.extend(asyncio.create_task(read()) for _ in range(2))
        assert (await readers[1]).index == 0
        assert readers[0].cancelled()


# What a failure holds on to


async def test_a_failures_traceback_begins_in_the_callable() -> None:
    async def fail(item: int) -> None:
        raise LookupError

    (outcome,) = await gather_settled(fail, [1], limit=1)

    assert isinstance(outcome, Rejected)
    assert outcome.error.__traceback__ is not None
    assert outcome.error.__traceback__.tb_frame.f_code is fail.__code__


class Local:
    pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failures_locals_go_with_its_outcome(stream: bool) -> None:
    kept: list[weakref.ref[Local]] = []

    async def fail(item: int) -> None:
        local = Local()
        kept.append(weakref.ref(local))
        await checkpoint()
        raise LookupError

    gc.collect()
    gc.disable()
    try:
        if stream:
            async with iter_settled(fail, range(6), limit=2) as outcomes:
                assert len([outcome.index async for outcome in outcomes]) == 6
        else:
            await gather_settled(fail, range(6), limit=2)
        assert [ref for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("place", ["on_settled", "source", "async source", "body"])
async def test_locals_of_the_callers_own_code_that_raised_go_with_its_error(place: str) -> None:
    kept: list[weakref.ref[Local]] = []

    def fail(*_: object) -> int:
        local = Local()
        kept.append(weakref.ref(local))
        raise LookupError

    async def fails_later() -> AsyncIterator[int]:
        yield 0
        yield fail()

    async def run() -> None:
        match place:
            case "on_settled":
                await gather_settled(double, range(6), limit=2, on_settled=fail)
            case "source":
                await gather_settled(double, (fail() if number else number for number in range(3)), limit=2)
            case "async source":
                await gather_settled(double, fails_later(), limit=2)
            case _:
                async with iter_settled(double, range(6), limit=2):
                    fail()

    gc.collect()
    gc.disable()
    try:
        with suppress(LookupError, SourceError):
            await run()
        await checkpoint()
        assert [ref() for ref in kept] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_source_that_was_not_exhausted_is_let_go_of_with_the_call(stream: bool) -> None:
    ended: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            ended.append("numbers")

    async def refuse(number: int) -> int:
        raise LookupError(number)

    gc.collect()
    gc.disable()
    try:
        if stream:
            async with iter_settled(double, numbers(), limit=2) as outcomes:
                await anext(outcomes)
        else:
            with suppress(TooManyFailures):
                await gather_settled(refuse, numbers(), limit=2, max_failures=1)
        assert ended == ["numbers"]
    finally:
        gc.enable()


async def test_room_that_is_made_at_once_for_several_items_is_taken_by_as_many_workers() -> None:
    gates = Gates()
    async with iter_settled(gates.wait, range(20), limit=3) as outcomes:
        await gates.open(*range(6))  # as many as may be ahead of the reader; the workers wait
        for _ in range(3):
            await anext(outcomes)  # without the loop turning in between
        await quiet()
        assert gates.running.now == 3
        await gates.open(*range(6, 20))


async def test_waits_for_a_token_leave_nothing_behind_while_the_call_goes_on() -> None:
    limiter, scopes = CapacityLimiter(1), list[int]()

    def count_scopes(outcome: Settled[int, int]) -> None:
        if outcome.index % 100 == 99:
            gc.collect()
            scopes.append(sum(isinstance(each, CancelScope) for each in gc.get_objects()))

    await gather_settled(double_later, range(400), limit=3, limiter=limiter, on_settled=count_scopes)
    assert max(scopes) <= min(scopes) + 10


async def test_an_item_that_is_overdue_by_any_time_is_told_by_its_timeout() -> None:
    async def wait(item: int) -> None:
        await anyio.sleep_forever()

    (outcome,) = await gather_settled(wait, [0], limit=1, item_timeout=1e-6)
    assert isinstance(outcome, Rejected)
    assert str(outcome.error) == "item 0 was cancelled: it took longer than item_timeout=1e-06 s"


@on_asyncio
async def test_a_cancel_that_comes_between_two_items_is_forgotten_before_the_second() -> None:
    async def act(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if item == 1:  # the second that is pulled; then the worker waits for the reader
            asyncio.get_running_loop().call_soon(task.cancel)
        if item == 2:
            assert task.cancelling() == 0
        return item

    async with iter_settled(act, range(3), limit=1) as outcomes:
        await quiet()
        assert [outcome async for outcome in outcomes] == [Fulfilled(item, item, item) for item in range(3)]


async def test_a_bell_rings_until_whoever_it_woke_has_come_to_look() -> None:
    bell, woken = Bell(), list[str]()

    async def wait(name: str, scope: CancelScope) -> None:
        with scope:
            await bell.wait()
            woken.append(name)

    async with create_task_group() as tasks:
        assert not bell.ring()
        assert not bell.is_ringing
        tasks.start_soon(wait, "ann", CancelScope())
        await quiet()
        assert bell.ring()
        assert bell.is_ringing
        await quiet()
        assert (woken, bell.is_ringing) == (["ann"], False)


async def test_who_is_woken_and_cancelled_at_once_passes_it_on_and_the_bell_is_as_before() -> None:
    bell, woken = Bell(), list[str]()

    async def wait(name: str, scope: CancelScope) -> None:
        with scope:
            await bell.wait()
            woken.append(name)

    async with create_task_group() as tasks:
        leaves = CancelScope()
        tasks.start_soon(wait, "ann", leaves)
        await quiet()
        tasks.start_soon(wait, "bob", CancelScope())
        await quiet()
        leaves.cancel()
        assert bell.ring()  # whoever is leaving has not left yet
        await quiet()
        assert (woken, bell.is_ringing) == (["bob"], False)
        tasks.start_soon(wait, "cy", CancelScope())
        await quiet()
        assert bell.ring()
        assert bell.is_ringing
        await quiet()
        assert (woken, bell.is_ringing) == (["bob", "cy"], False)
