"""Batches concurrent requests: those that arrive while one batch is under way wait for the next."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar, cast

import anyio
from attrs import define, field

__all__ = ["Batcher"]

_T = TypeVar("_T")


@define(eq=False)
class _Asker(Generic[_T]):
    """A caller that waits for an answer, or for its turn to ask."""

    key: str
    is_up: anyio.Event = field(factory=anyio.Event)
    answer: _T | None = None
    error: Exception | None = None
    is_gone: bool = False

    @property
    def has_answer(self) -> bool:
        return self.answer is not None or self.error is not None


class Batcher(Generic[_T]):
    """Asks about many keys in one call. Needs no task of its own: the first caller asks for those behind it.

    Args:
        ask: Returns an answer for each of several distinct keys.
        most: How many keys to ask about at once.
        give_up: Receives an answer whose caller was cancelled. If given, a cancelled caller first waits for its answer,
            so that none is lost. Otherwise the call is cancelled, and the remaining callers ask again.
        patience: How many seconds a call of ``ask`` may take.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], Awaitable[Mapping[str, _T]]],
        most: int,
        give_up: Callable[[_T], Awaitable[object]] | None = None,
        patience: float = math.inf,
    ) -> None:
        self._ask = ask
        self._most = most
        self._give_up = give_up
        self._patience = patience
        self._line: list[_Asker[_T]] = []
        self._is_asking = False

    async def __call__(self, key: str) -> _T:
        """Return the answer for this key.

        Raises:
            TimeoutError: Asking took longer than ``patience``.
            Exception: Raised by ``ask``.
        """
        awaits_answers = self._give_up is not None
        mine: _Asker[_T] = _Asker(key)
        self._line.append(mine)
        try:
            with anyio.CancelScope(shield=awaits_answers):
                if self._is_asking:
                    await mine.is_up.wait()
                if not mine.has_answer:
                    self._is_asking = True
                    await self._lead()
        except BaseException:  # even when shielded: asyncio's own cancellation ignores anyio's shields
            await self._leave(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return cast("_T", mine.answer)

    async def _lead(self) -> None:
        """Ask for the first in line, which is the caller, and for others behind it."""
        batch = self._next()
        try:
            with anyio.fail_after(self._patience):
                answers = await self._ask([each.key for each in batch])
            for each in batch:
                each.answer = answers[each.key]
                if each.is_gone and self._give_up is not None:
                    await self._give_up(each.answer)
        except Exception as error:
            for each in batch:
                each.error = error
        finally:
            # If the call was cancelled, there is no answer, and the others ask again.
            self._line = [each for each in (*batch[1:], *self._line) if not (each.has_answer or each.is_gone)]
            for each in batch:
                if each.has_answer:
                    each.is_up.set()
            self._hand_on()

    def _next(self) -> list[_Asker[_T]]:
        batch: dict[str, _Asker[_T]] = {}
        rest: list[_Asker[_T]] = []
        for each in self._line:
            if each.key in batch or len(batch) == self._most:
                rest.append(each)  # Callers with the same key each need their own answer.
            else:
                batch[each.key] = each
        self._line = rest
        return list(batch.values())

    def _hand_on(self) -> None:
        self._is_asking = bool(self._line)
        if self._line:
            self._line[0].is_up.set()

    async def _leave(self, mine: _Asker[_T]) -> None:
        mine.is_gone = True
        if mine.answer is not None and self._give_up is not None:
            with anyio.CancelScope(shield=True):
                await self._give_up(mine.answer)
        elif mine in self._line:
            is_first = self._line[0] is mine and mine.is_up.is_set()
            self._line.remove(mine)
            if is_first:
                self._hand_on()
