"""Laws of gather_settled and iter_settled under any order of events that Hypothesis can think of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio
import pytest
from anyio import CancelScope, CapacityLimiter, Event, create_task_group
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.errors import TooManyFailures
from fanout_briefs.settled import Fulfilled, Rejected, Settled, gather_settled, iter_settled
from virtual_time import in_virtual_time

# Hypothesis calls a test many times, so each example runs an event loop of its own.
on_each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def run(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(20):  # Never reached: a lost wake-up shows as an error instead of a hang.
            await main()

    anyio.run(bounded, backend=backend)


async def given_one_by_one(items: Iterable[int], pauses: bool) -> AsyncIterator[int]:
    for item in items:
        if pauses:
            await checkpoint()
        yield item


@define
class Work:
    """Items that end in an order of the test's choosing, and a count of those in progress."""

    fails: frozenset[int]
    immediate: frozenset[int]
    now: int = 0
    peak: int = 0
    started: list[int] = field(factory=list[int])
    gates: dict[int, Event] = field(factory=dict[int, Event])

    def open(self, item: int) -> None:
        self.gates.setdefault(item, Event()).set()

    async def __call__(self, item: int) -> int:
        self.started.append(item)
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            if item not in self.immediate:
                await self.gates.setdefault(item, Event()).wait()
            if item in self.fails:
                raise LookupError(item)
        finally:
            self.now -= 1
        return -item

    def expected(self, count: int) -> list[tuple[int, int, object]]:
        return [(item, item, "LookupError" if item in self.fails else -item) for item in range(count)]


def plain(outcomes: Iterable[Settled[int, int]]) -> list[tuple[int, int, object]]:
    """Outcomes as the oracle writes them, without the library's own equality."""
    return [
        (each.index, each.item, each.value if isinstance(each, Fulfilled) else type(each.error).__name__)
        for each in outcomes
    ]


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, list[int], Work, list[bool]]:
    count = draw(st.integers(0, 12))
    subset = st.frozensets(st.integers(0, 11))
    order = draw(st.permutations(range(count)))
    return count, order, Work(draw(subset), draw(subset)), draw(st.lists(st.booleans(), min_size=count, max_size=count))


async def open_gates(work: Work, order: list[int], pauses: list[bool]) -> None:
    for item, pause in zip(order, pauses, strict=True):
        if pause:
            await checkpoint()
        work.open(item)


@on_each_backend
@given(plan=plans(), limit=st.integers(1, 14), source=st.sampled_from(["sync", "async", "async with pauses"]))
def test_outcomes_are_the_same_whatever_the_order_of_completion(
    backend: str, plan: tuple[int, list[int], Work, list[bool]], limit: int, source: str
) -> None:
    count, order, work, pauses = plan
    settled: list[Settled[int, int]] = []

    async def main() -> None:
        items = range(count) if source == "sync" else given_one_by_one(range(count), source != "async")
        async with create_task_group() as group:
            group.start_soon(open_gates, work, order, pauses)
            outcomes = await gather_settled(work, items, limit=limit, on_settled=settled.append)
            assert plain(outcomes) == work.expected(count)
        assert sorted(plain(settled)) == sorted(work.expected(count), key=lambda each: each[0])

    run(backend, main)
    assert work.peak <= limit
    assert work.started == list(range(count))


@on_each_backend
@given(
    plan=plans(),
    limit=st.integers(1, 5),
    ordered=st.booleans(),
    asynchronous=st.booleans(),
    reads=st.lists(st.integers(0, 3), min_size=13, max_size=13),
)
def test_a_stream_yields_every_outcome_once_and_keeps_to_its_window(
    *,
    backend: str,
    plan: tuple[int, list[int], Work, list[bool]],
    limit: int,
    ordered: bool,
    asynchronous: bool,
    reads: list[int],
) -> None:
    count, order, work, pauses = plan
    taken: list[Settled[int, int]] = []

    async def main() -> None:
        items: Any = given_one_by_one(range(count), True) if asynchronous else range(count)
        async with (
            create_task_group() as group,
            iter_settled(work, items, limit=limit, ordered=ordered) as outcomes,
        ):
            group.start_soon(open_gates, work, order, pauses)
            async for outcome in outcomes:
                taken.append(outcome)
                for _ in range(reads[len(taken)]):
                    await checkpoint()
                assert len(work.started) <= len(taken) + 2 * limit

    run(backend, main)
    assert work.peak <= limit
    assert (plain(taken) if ordered else sorted(plain(taken), key=lambda each: each[0])) == work.expected(count)


@on_each_backend
@given(limit=st.integers(1, 6), stop=st.integers(0, 15), ordered=st.booleans(), asynchronous=st.booleans())
def test_leaving_a_stream_at_any_point_leaves_nothing_running(
    backend: str, limit: int, stop: int, ordered: bool, asynchronous: bool
) -> None:
    work = Work(frozenset(), frozenset(range(0, 40, 2)))

    async def main() -> None:
        items: Any = given_one_by_one(range(40), True) if asynchronous else range(40)
        async with create_task_group() as group, iter_settled(work, items, limit=limit, ordered=ordered) as outcomes:
            group.start_soon(open_gates, work, list(range(40)), [True] * 40)
            taken = 0
            async for _ in outcomes:
                taken += 1
                if taken > stop:
                    break
        assert work.now == 0

    run(backend, main)
    assert work.peak <= limit


@on_each_backend
@given(
    durations=st.lists(st.integers(0, 9), max_size=12),
    limit=st.integers(1, 5),
    deadline=st.integers(0, 20),
    item_timeout=st.integers(3, 12),
)
def test_at_the_deadline_every_item_is_what_a_schedule_on_paper_says(
    backend: str, durations: list[int], limit: int, deadline: int, item_timeout: int
) -> None:
    found: list[str] = []

    async def main() -> None:
        start = anyio.current_time()
        outcomes = await gather_settled(
            anyio.sleep, durations, limit=limit, deadline=deadline + 0.1, item_timeout=item_timeout + 0.25
        )
        found.extend("returned" if isinstance(each, Fulfilled) else type(each.error).__name__ for each in outcomes)
        assert anyio.current_time() - start <= deadline + 0.1

    free = [0.0] * limit  # when each worker is
    expected: list[str] = []
    for duration in durations:
        begin = min(free)
        end = begin + min(duration, item_timeout + 0.25)
        free[free.index(begin)] = end
        if begin > deadline + 0.1:
            expected.append("NotStarted")
        else:
            expected.append("returned" if duration <= item_timeout and end <= deadline + 0.1 else "TimeoutError")
    name, options = in_virtual_time(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert found == expected


@on_each_backend
@given(plan=plans(), limit=st.integers(1, 14), asynchronous=st.booleans(), most=st.integers(1, 6))
def test_failures_too_many_end_the_pulling_and_lose_nothing(
    backend: str, plan: tuple[int, list[int], Work, list[bool]], limit: int, asynchronous: bool, most: int
) -> None:
    count, order, work, pauses = plan
    settled: list[Settled[int, int]] = []

    async def main() -> None:
        items: Any = given_one_by_one(range(count), True) if asynchronous else range(count)
        outcomes: Sequence[Settled[int, int]] = []
        is_enough = False
        async with create_task_group() as group:
            group.start_soon(open_gates, work, order, pauses)
            try:
                outcomes = await gather_settled(work, items, limit=limit, max_failures=most, on_settled=settled.append)
            except TooManyFailures as error:
                outcomes, is_enough = error.outcomes, True
        found = plain(outcomes)
        assert is_enough == ([each[2] for each in found].count("LookupError") >= most)
        assert is_enough or len(found) == count
        started = len(work.started)
        assert found[:started] == work.expected(count)[:started]
        assert [each[2] for each in found[started:]] == ["NotStarted"] * (len(found) - started)
        assert len(found) - started <= int(asynchronous)
        if is_enough:  # Nothing was started once that many had failed.
            failures = [index for index, each in enumerate(plain(settled)) if each[2] == "LookupError"]
            assert started <= failures[most - 1] + limit

    run(backend, main)
    assert work.now == 0
    assert work.started == list(range(len(work.started)))


@on_each_backend
@given(plan=plans(), limits=st.tuples(st.integers(1, 8), st.integers(1, 8)), tokens=st.integers(1, 6))
def test_calls_that_share_a_limiter_never_exceed_it_and_all_come_to_their_end(
    backend: str, plan: tuple[int, list[int], Work, list[bool]], limits: tuple[int, int], tokens: int
) -> None:
    count, order, work, pauses = plan

    async def main() -> None:
        limiter = CapacityLimiter(tokens)

        async def gather(limit: int, asynchronous: bool) -> None:
            items: Any = given_one_by_one(range(count), True) if asynchronous else iter(range(count))
            assert plain(await gather_settled(work, items, limit=limit, limiter=limiter)) == work.expected(count)

        async def stream(limit: int) -> None:
            async with iter_settled(work, range(count), limit=limit, limiter=limiter, ordered=True) as outcomes:
                assert plain([each async for each in outcomes]) == work.expected(count)

        async with create_task_group() as group:
            group.start_soon(open_gates, work, order, pauses)
            group.start_soon(gather, limits[0], False)
            group.start_soon(gather, limits[1], True)
            group.start_soon(stream, limits[0])
        assert limiter.borrowed_tokens == limiter.statistics().tasks_waiting == 0

    run(backend, main)
    assert work.peak <= tokens
    assert len(work.started) == 3 * count


BEHAVIOURS = ["return", "fail", "pause", "hang", "shield", "late", "swallow"]


@on_each_backend
@given(
    behaviours=st.lists(st.sampled_from(BEHAVIOURS), max_size=20),
    limit=st.integers(1, 8),
    turns=st.integers(0, 30),
    shape=st.sampled_from(["gather", "stream", "ordered stream"]),
    asynchronous=st.booleans(),
    timed=st.booleans(),
)
def test_an_outer_cancel_at_any_moment_wins_and_leaves_nothing_running(
    *, backend: str, behaviours: list[str], limit: int, turns: int, shape: str, asynchronous: bool, timed: bool
) -> None:
    work = Work(frozenset(), frozenset())
    outcomes: list[Settled[int, Any]] = []
    whole = False

    async def act(item: int) -> int:
        work.started.append(item)
        work.now += 1
        work.peak = max(work.peak, work.now)
        try:
            await behave(behaviours[item], item)
        finally:
            work.now -= 1
        return item

    async def main() -> None:
        nonlocal whole
        items: Any = given_one_by_one(range(len(behaviours)), True) if asynchronous else range(len(behaviours))
        timeout = 60 if timed else None
        async with create_task_group() as group:
            group.start_soon(cancel_after, turns, group.cancel_scope)
            if shape == "gather":
                outcomes.extend(await gather_settled(act, items, limit=limit, item_timeout=timeout))
            else:
                ordered = shape == "ordered stream"
                async with iter_settled(act, items, limit=limit, ordered=ordered, item_timeout=timeout) as stream:
                    async for outcome in stream:
                        outcomes.append(outcome)
            whole = True
            group.cancel_scope.cancel()
        assert work.now == 0

    run(backend, main)
    indices = sorted(outcome.index for outcome in outcomes)
    assert work.peak <= limit
    assert work.started == list(range(len(work.started)))
    assert indices == (list(range(len(behaviours))) if whole else sorted(set(indices)))
    for outcome in outcomes:
        assert isinstance(outcome, Rejected) == (behaviours[outcome.index] in {"fail", "late"})


async def behave(behaviour: str, item: int) -> None:
    match behaviour:
        case "fail":
            raise LookupError(item)
        case "pause":
            await checkpoint()
        case "hang":
            await anyio.sleep_forever()
        case "shield":
            with CancelScope(shield=True):
                await checkpoint()
        case "late":
            await checkpoint()
            await checkpoint()
            raise LookupError(item)
        case "swallow":
            try:
                await checkpoint()
            except anyio.get_cancelled_exc_class():
                await cancel_shielded_checkpoint()
        case _:
            pass


async def cancel_after(turns: int, scope: CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()
