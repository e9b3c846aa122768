"""What type checkers must infer of the settled gather. Checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_never, assert_type

from anyio import CapacityLimiter

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


async def words() -> AsyncIterator[str]:
    yield "word"


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


def isinstance_narrows(outcome: Settled[str, int]) -> int:
    if isinstance(outcome, Rejected):
        assert_type(outcome, Rejected[str])
        return 0
    assert_type(outcome, Fulfilled[str, int])
    return outcome.value


def outcomes_are_covariant(outcome: Fulfilled[bool, bool]) -> Settled[int, int]:
    return outcome


async def on_settled_sees_the_same_type() -> None:
    def note(outcome: Settled[str, int]) -> None:
        assert_type(outcome.item, str)

    await gather_settled(length, ["a"], limit=1, on_settled=note)


async def misuse_is_an_error() -> None:
    await gather_settled(length, [1], limit=1)  # type: ignore[arg-type]  # an int is no str
    await gather_settled(length, ["a"])  # type: ignore[call-arg]  # no limit
    await gather_settled(length("a"), ["a"], limit=1)  # type: ignore[arg-type]  # a coroutine is no callable


def outcomes_are_frozen(outcome: Fulfilled[str, int]) -> None:
    outcome.value = 2  # type: ignore[misc]  # frozen


def helpers_part_the_union(outcomes: list[Settled[str, int]]) -> None:
    assert_type(fulfilled(outcomes), list[Fulfilled[str, int]])
    assert_type(rejected(outcomes), list[Rejected[str]])
    assert_type(values_or_raise(outcomes), list[int])


async def helpers_take_what_a_gather_returns() -> None:
    outcomes = await gather_settled(length, ["a"], limit=1, deadline=1.5, max_failures=3, limiter=CapacityLimiter(2))
    assert_type([each.value for each in fulfilled(outcomes)], list[int])
    assert_type([each.item for each in rejected(outcomes)], list[str])
    assert_type(values_or_raise(outcomes), list[int])
