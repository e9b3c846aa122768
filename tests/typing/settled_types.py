"""What type checkers must infer of the settled gather. Checked by mypy and pyright, never executed."""

from __future__ import annotations

from asyncio import Task
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, assert_never, assert_type

from anyio import CapacityLimiter

import fanout_briefs
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


async def length(text: str) -> int:
    return len(text)


async def first_word(text: str) -> str | None:
    return next(iter(text.split()), None)


async def padded(text: str, width: int, *, fill: str = " ") -> bytes:
    return text.ljust(width, fill).encode()


async def nothing(text: str) -> None:
    print(text)


async def size(anything: object) -> float:
    return len(repr(anything))


async def words() -> AsyncIterator[str]:
    yield "word"


class Client:
    async def __call__(self, text: str) -> int:
        return len(text)

    async def fetch(self, text: str) -> bytes:
        return text.encode()


async def gathered_outcomes_carry_the_item_and_the_value() -> None:
    outcomes = await gather_settled(length, ["a"], limit=1)
    assert_type(outcomes, list[Fulfilled[str, int] | Rejected[str]])
    assert_type(await gather_settled(length, words(), limit=1, item_timeout=1.5), list[Settled[str, int]])


async def streamed_outcomes_carry_the_item_and_the_value() -> None:
    async with iter_settled(length, words(), limit=1, ordered=True) as outcomes:
        assert_type(outcomes, AsyncIterator[Fulfilled[str, int] | Rejected[str]])
        async for outcome in outcomes:
            assert_type(outcome.index, int)
            assert_type(outcome.item, str)


async def the_package_itself_gives_the_same() -> None:
    outcomes = await fanout_briefs.gather_settled(length, ["a"], limit=1)
    assert_type(outcomes, list[fanout_briefs.Settled[str, int]])
    assert_type(fanout_briefs.values_or_raise(outcomes), list[int])
    async with fanout_briefs.iter_settled(length, ["a"], limit=1) as streamed:
        assert_type(streamed, AsyncIterator[Settled[str, int]])


async def whatever_can_be_awaited_keeps_its_value(client: Client, started: Mapping[str, Task[float]]) -> None:
    assert_type(await gather_settled(first_word, ["a"], limit=1), list[Settled[str, str | None]])
    assert_type(await gather_settled(nothing, ["a"], limit=1), list[Settled[str, None]])
    assert_type(await gather_settled(client, ["a"], limit=1), list[Settled[str, int]])
    assert_type(await gather_settled(client.fetch, ["a"], limit=1), list[Settled[str, bytes]])
    assert_type(await gather_settled(partial(padded, width=9), ["a"], limit=1), list[Settled[str, bytes]])
    assert_type(await gather_settled(started.__getitem__, ["a"], limit=1), list[Settled[str, float]])
    assert_type(await gather_settled(lambda text: padded(text, 9), ["a"], limit=1), list[Settled[str, bytes]])
    assert_type(
        await gather_settled(lambda pair: padded(*pair), [("a", 9)], limit=1), list[Settled[tuple[str, int], bytes]]
    )


async def whatever_gives_items_keeps_their_type(
    named: Mapping[int, str], lines: Iterator[str], pair: tuple[bytes, bytes]
) -> None:
    assert_type(await gather_settled(size, named, limit=1), list[Settled[int, float]])
    assert_type(await gather_settled(size, named.values(), limit=1), list[Settled[str, float]])
    assert_type(await gather_settled(size, named.items(), limit=1), list[Settled[tuple[int, str], float]])
    assert_type(await gather_settled(size, lines, limit=1), list[Settled[str, float]])
    assert_type(await gather_settled(size, pair, limit=1), list[Settled[bytes, float]])
    assert_type(await gather_settled(size, words(), limit=1), list[Settled[str, float]])
    assert_type(await gather_settled(size, {None}, limit=1), list[Settled[None, float]])


async def outcomes_can_be_found_by_their_item(texts: Sequence[str]) -> None:
    outcomes = await gather_settled(length, texts, limit=1)
    assert_type({outcome.item: outcome for outcome in outcomes}, dict[str, Fulfilled[str, int] | Rejected[str]])
    assert_type({each.item: each.value for each in fulfilled(outcomes)}, dict[str, int])
    assert_type({each.item: each.error for each in rejected(outcomes)}, dict[str, Exception])


def match_narrows_and_is_exhaustive(outcome: Settled[str, int]) -> None:
    match outcome:
        case Fulfilled(index, item, value):
            assert_type(index, int)
            assert_type(item, str)
            assert_type(value, int)
        case Rejected(_, item, error):
            assert_type(item, str)
            assert_type(error, Exception)
        case _:
            assert_never(outcome)


def match_narrows_the_error(outcome: Rejected[str]) -> Exception:
    match outcome:
        case Rejected(error=TimeoutError() as late):
            return assert_type(late, TimeoutError)
        case Rejected(error=ItemCancelled() as cancelled):
            return assert_type(cancelled, ItemCancelled)
        case Rejected(error=NotStarted() as unstarted):
            return assert_type(unstarted, NotStarted)
        case Rejected(error=other):
            return assert_type(other, Exception)


def match_narrows_the_value(outcome: Settled[str, int | None]) -> int:
    match outcome:
        case Fulfilled(value=None) | Rejected():
            return 0
        case Fulfilled(value=value):
            return value or 0


def match_without_the_rejected_is_not_exhaustive(outcome: Settled[str, int]) -> int:
    match outcome:
        case Fulfilled(value=value):
            return value
        case _:
            assert_never(outcome)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what is rejected is left


def isinstance_narrows(outcome: Settled[str, int]) -> int:
    if isinstance(outcome, Rejected):
        assert_type(outcome, Rejected[str])
        return 0
    assert_type(outcome, Fulfilled[str, int])
    return outcome.value


def outcomes_are_covariant(outcome: Fulfilled[bool, bool], failure: Rejected[bool]) -> Sequence[Settled[int, int]]:
    return [outcome, failure]


def lists_of_outcomes_are_taken_for_broader_ones(outcomes: list[Settled[bool, bool]]) -> Sequence[Settled[int, object]]:
    return outcomes


def outcomes_are_made_with_their_types() -> None:
    assert_type(Fulfilled(0, "a", 1.5), Fulfilled[str, float])
    assert_type(Rejected(0, "a", ValueError()), Rejected[str])


async def on_settled_sees_the_same_type() -> None:
    def note(outcome: Settled[str, int]) -> None:
        assert_type(outcome.item, str)

    seen: list[Settled[str, int]] = []
    await gather_settled(length, ["a"], limit=1, on_settled=note)
    await gather_settled(length, ["a"], limit=1, on_settled=seen.append)
    await gather_settled(length, ["a"], limit=1, on_settled=lambda outcome: assert_type(outcome, Settled[str, int]))


async def the_call_and_what_it_awaits_are_two_things() -> None:
    streaming = iter_settled(length, ["a"], limit=1)
    assert_type(streaming, AbstractAsyncContextManager[AsyncIterator[Settled[str, int]]])
    outcomes: list[Settled[str, int]] = gather_settled(length, ["a"], limit=1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # not awaited
    print(outcomes)


async def misuse_is_an_error() -> None:
    await gather_settled(length, [1], limit=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an int is no str
    await gather_settled(length, ["a"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no limit
    await gather_settled(length, ["a"], 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # nor a named one
    await gather_settled(length, ["a"], limit=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await gather_settled(length("a"), ["a"], limit=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a coroutine is no callable
    await gather_settled(len, ["a"], limit=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an int cannot be awaited
    await gather_settled(padded, ["a"], limit=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # takes more than an item
    await gather_settled(length, ["a"], limit=1, on_settled=str.upper)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # takes no outcome
    await gather_settled(length, ["a"], limit=1, ordered=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # always is
    iter_settled(length, ["a"], limit=1, deadline=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # leave the block instead
    async for _ in iter_settled(length, ["a"], limit=1):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]  # not entered
        pass


def what_is_not_narrowed_has_neither_value_nor_error(outcome: Settled[str, int]) -> None:
    print(outcome.value)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    print(outcome.error)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


def other_values_and_errors_are_refused(outcome: Settled[str, int]) -> Settled[str, bytes]:
    Rejected(0, "a", KeyboardInterrupt())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # leaves, and is no outcome
    return outcome  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


def outcomes_are_frozen(outcome: Fulfilled[str, int], failure: Rejected[str]) -> None:
    outcome.value = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    failure.error = ValueError()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def helpers_part_the_union(outcomes: list[Settled[str, int]]) -> None:
    assert_type(fulfilled(outcomes), list[Fulfilled[str, int]])
    assert_type(rejected(outcomes), list[Rejected[str]])
    assert_type(values_or_raise(outcomes), list[int])
    assert_type(fulfilled(each for each in outcomes), list[Fulfilled[str, int]])
    assert_type(values_or_raise(tuple(outcomes)), list[int])


async def helpers_take_what_a_gather_returns() -> None:
    outcomes = await gather_settled(length, ["a"], limit=1, deadline=1.5, max_failures=3, limiter=CapacityLimiter(2))
    assert_type([each.value for each in fulfilled(outcomes)], list[int])
    assert_type([each.item for each in rejected(outcomes)], list[str])
    assert_type(values_or_raise(outcomes), list[int])


def an_error_has_outcomes_of_any_type_since_none_is_caught_by_it(error: SourceError | TooManyFailures) -> None:
    assert_type(error.outcomes, tuple[Any, ...])
    outcomes: list[Settled[str, int]] = [*error.outcomes]
    assert_type(fulfilled(outcomes), list[Fulfilled[str, int]])
