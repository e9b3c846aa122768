"""The days of ``point_story`` are not patient: each of these mistakes in the library shows at some point of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_every_call import Point

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.delivery import Delivery
from fanout_briefs.model import Claim, Finish
from fanout_briefs.plans import Tally
from fanout_briefs.running import Run

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.usefixtures("quiet")]
ASLEEP, LOST = "sleeps past its lease, another takes over", "fails before the call"


def _sends_without_a_record() -> Any:
    real = Delivery.deliver

    async def deliver(self: Delivery, claim: Claim, record_sending: Callable[[], Awaitable[None]]) -> Finish:
        async def nothing() -> None:
            pass

        return await real(self, claim, nothing)

    return deliver


def _says_that_it_ended_well() -> Any:
    real = MemoryStorage.finish

    async def finish(self: MemoryStorage, *given: Any) -> bool:
        await real(self, *given)
        return True

    return finish


def _nothing(*_: object) -> None:
    """In place of a method that something depends on."""


MISTAKES: dict[str, tuple[type, str, Any, str]] = {
    "mails leave without a record": (Delivery, "deliver", _sends_without_a_record(), ASLEEP),
    "mails that may have left are put back": (Run, "_is_unsettled", _nothing, "is cancelled after"),
    "the mark passes a page that failed": (Tally, "hold", _nothing, LOST),
    "a stale claim is said to be kept": (MemoryStorage, "finish", _says_that_it_ended_well(), ASLEEP),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_shows_at_some_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    where, name, instead, kind = MISTAKES[mistake]
    monkeypatch.setattr(where, name, instead)
    shown = 0
    for number in range(1, 70):
        try:
            Point(kind, "log", number).play(None, tmp_path / str(number), "trio")
        except AssertionError:
            shown += 1
    assert shown
