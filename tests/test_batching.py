"""Many who ask at the same time are answered by few questions, each by their own answer, whoever is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fanout_briefs.batching import Batcher
from virtual_time import in_virtual_time


class Oracle:
    """Answers in capitals once it is let; knows what it was asked."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.given_up: list[str] = []
        self.may_answer = anyio.Event()
        self.is_asked = anyio.Event()
        self.error: Exception | None = None

    async def ask(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.questions.append(list(keys))
        self.is_asked.set()
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return {key: key.upper() for key in keys}

    async def give_up(self, answer: str) -> None:
        await checkpoint()
        self.given_up.append(answer)


@pytest.fixture
def oracle(anyio_backend: object) -> Oracle:
    return Oracle()


async def settled() -> None:
    await anyio.wait_all_tasks_blocked()


async def test_what_comes_meanwhile_is_asked_with_the_next_question_and_each_has_its_answer(oracle: Oracle) -> None:
    together = Batcher(oracle.ask, 3, oracle.give_up)
    answers: dict[str, str] = {}

    async def ask(key: str) -> None:
        answers[key] = await together(key)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "a")
        await oracle.is_asked.wait()
        for key in "bcdef":
            tasks.start_soon(ask, key)
            await settled()
        oracle.may_answer.set()
    assert oracle.questions == [["a"], ["b", "c", "d"], ["e", "f"]]
    assert answers == {key: key.upper() for key in "abcdef"}
    assert await together("g") == "G"


async def test_who_asks_the_same_is_asked_for_in_turn(oracle: Oracle) -> None:
    together = Batcher(oracle.ask, 10, oracle.give_up)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(together, "a")
        await oracle.is_asked.wait()
        for key in "bbc":
            tasks.start_soon(together, key)
            await settled()
        oracle.may_answer.set()
    assert oracle.questions == [["a"], ["b", "c"], ["b"]]


async def test_who_left_before_whoever_asked_for_them_did_holds_nobody_up(oracle: Oracle) -> None:
    together = Batcher(oracle.ask, 10)
    scopes = {key: anyio.CancelScope() for key in "abc"}
    answers: list[str] = []

    async def ask(key: str) -> None:
        with scopes.get(key) or anyio.CancelScope():
            answers.append(await together(key))

    async with anyio.create_task_group() as tasks:
        for key in "abcd":
            tasks.start_soon(ask, key)
            await settled()
        for key in "acb":  # Now b asks for all three, of whom the next one leaves before b does.
            scopes[key].cancel()
            await settled()
        oracle.may_answer.set()
    assert oracle.questions == [["a"], ["b", "c", "d"], ["d"]]
    assert answers == ["D"]
    assert await together("e") == "E"


async def test_an_error_is_raised_to_all_who_were_asked_for_and_to_no_others(oracle: Oracle) -> None:
    together = Batcher(oracle.ask, 2, oracle.give_up)
    oracle.error = OSError("away")
    outcomes: dict[str, object] = {}

    async def ask(key: str) -> None:
        try:
            outcomes[key] = await together(key)
        except OSError as error:
            outcomes[key] = error
            oracle.error = None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "a")
        await oracle.is_asked.wait()
        tasks.start_soon(ask, "b")
        await settled()
        oracle.may_answer.set()
    assert isinstance(outcomes["a"], OSError)
    assert outcomes["b"] == "B"


async def test_whoever_is_cancelled_has_the_answer_first_so_that_nothing_is_lost(oracle: Oracle) -> None:
    together = Batcher(oracle.ask, 10, oracle.give_up)
    answers: list[str] = []

    async def ask(key: str, scope: anyio.CancelScope) -> None:
        with scope:
            answers.append(await together(key))
            await checkpoint()
            answers.append("went on")

    leader, follower = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "a", leader)
        await oracle.is_asked.wait()
        tasks.start_soon(ask, "b", follower)
        await settled()
        leader.cancel()
        follower.cancel()
        await settled()
        assert answers == []
        oracle.may_answer.set()
    assert sorted(answers) == ["A", "B"]


async def test_where_no_answer_can_be_lost_whoever_is_cancelled_leaves_at_once_and_the_others_ask_again(
    oracle: Oracle,
) -> None:
    together = Batcher(oracle.ask, 10)
    answers: list[str] = []

    async def ask(key: str, scope: anyio.CancelScope) -> None:
        with scope:
            answers.append(await together(key))

    first, second, third = (anyio.CancelScope() for _ in range(3))
    async with anyio.create_task_group() as tasks:
        for key, scope in zip("abc", (first, second, third), strict=True):
            tasks.start_soon(ask, key, scope)
            await settled()
        first.cancel()
        await settled()
        assert first.cancelled_caught
        assert oracle.questions == [["a"], ["b", "c"]]
        third.cancel()  # One of those asked for; its answer is nobody's.
        await settled()
        assert third.cancelled_caught
        oracle.may_answer.set()
    assert answers == ["B"]
    assert await together("d") == "D"


@pytest.mark.parametrize(
    "anyio_backend", [pytest.param(in_virtual_time(each), id=each) for each in ("asyncio", "trio")]
)
async def test_a_question_that_takes_too_long_is_given_up_and_the_next_is_asked(anyio_backend: object) -> None:
    asked: list[Sequence[str]] = []

    async def ask(keys: Sequence[str]) -> Mapping[str, str]:
        asked.append(keys)
        if "a" in keys:
            await anyio.sleep_forever()
        return dict.fromkeys(keys, "answer")

    async def give_up(answer: str) -> None:
        raise AssertionError(answer)

    outcomes: dict[str, object] = {}
    together = Batcher(ask, 10, give_up, patience=60)

    async def outcome(key: str) -> None:
        try:
            outcomes[key] = await together(key)
        except TimeoutError as error:
            outcomes[key] = error

    begun = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcome, "a")
        await settled()
        tasks.start_soon(outcome, "b")
    assert isinstance(outcomes["a"], TimeoutError)
    assert outcomes["b"] == "answer"
    assert asked == [["a"], ["b"]]
    assert anyio.current_time() - begun == pytest.approx(60)


async def three_in_line(together: Batcher[str], oracle: Oracle) -> list[asyncio.Task[str]]:
    """Have somebody ask for a, and while that is under way others for b and c."""
    first = asyncio.create_task(together("a"))
    await oracle.is_asked.wait()
    others = [asyncio.create_task(together(key)) for key in "bc"]
    await settled()
    return [first, *others]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestCancelledByAsyncioItself:
    """Which knows no shields, and so takes tasks out in the middle."""

    async def test_the_others_ask_again_when_it_was_who_asked_for_them(self, oracle: Oracle) -> None:
        together = Batcher(oracle.ask, 10, oracle.give_up)
        first, *others = await three_in_line(together, oracle)
        first.cancel()
        await settled()
        assert oracle.questions == [["a"], ["b", "c"]]
        others[0].cancel()  # It asks for c, too.
        await settled()
        assert oracle.questions == [["a"], ["b", "c"], ["c"]]
        oracle.may_answer.set()
        assert await others[1] == "C"
        assert await together("d") == "D"

    async def test_who_waits_leaves_the_line(self, oracle: Oracle) -> None:
        together = Batcher(oracle.ask, 10, oracle.give_up)
        first, *others = await three_in_line(together, oracle)
        others[0].cancel()
        await settled()
        oracle.may_answer.set()
        assert (await first, await others[1]) == ("A", "C")
        assert oracle.questions == [["a"], ["c"]]

    async def test_the_answer_of_who_left_while_it_was_asked_for_is_given_up(self, oracle: Oracle) -> None:
        together = Batcher(oracle.ask, 10, oracle.give_up)
        first, *others = await three_in_line(together, oracle)
        first.cancel()
        await settled()
        assert oracle.questions == [["a"], ["b", "c"]]
        others[1].cancel()
        await settled()
        oracle.may_answer.set()
        assert await others[0] == "B"
        assert oracle.given_up == ["C"]

    async def test_who_was_to_ask_next_hands_that_on(self, oracle: Oracle) -> None:
        class Answers(dict[str, str]):
            def __getitem__(self, key: str) -> str:
                if key == "a":
                    others[0].cancel()  # By the time it is told that it is its turn, it is on its way out.
                return super().__getitem__(key)

        async def ask(keys: Sequence[str]) -> Mapping[str, str]:
            return Answers(await oracle.ask(keys))

        together = Batcher(ask, 1, oracle.give_up)
        first, *others = await three_in_line(together, oracle)
        oracle.may_answer.set()
        assert (await first, await others[1]) == ("A", "C")
        assert others[0].cancelled()

    async def test_an_answer_that_nobody_waits_for_any_more_is_given_up(self, oracle: Oracle) -> None:
        class Answers(dict[str, str]):
            def __getitem__(self, key: str) -> str:
                if key == "b":
                    second.cancel()
                return super().__getitem__(key)

        async def ask(keys: Sequence[str]) -> Mapping[str, str]:
            return Answers(await oracle.ask(keys))

        together = Batcher(ask, 10, oracle.give_up)
        zeroth = asyncio.create_task(together("z"))
        await oracle.is_asked.wait()
        first, second = (asyncio.create_task(together(key)) for key in "ab")
        await settled()
        oracle.may_answer.set()
        assert (await zeroth, await first) == ("Z", "A")
        with pytest.raises(asyncio.CancelledError):
            await second
        assert oracle.given_up == ["B"]
