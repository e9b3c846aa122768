"""Something goes wrong at one call of a port, whichever it is: in the same process the day goes on, and ends well."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import frozen
from point_counts import Tried, spread
from point_story import LEASE, TURN, Day, found, is_right, is_sound, phase_of

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.testing.faults import Call, Fault, Faults, answer_lost, broken, cancelled, delayed, unavailable
from places import File
from virtual_time import in_virtual_time

pytestmark = pytest.mark.slow
FEW = 1
"""Points a kind, storage, backend and mailer on ordinary days."""
AWAY = 7
"""Calls in a row that fail while the storage is away."""
MAILER = {"asyncio": "eml", "trio": "log"}
"""With threads, days take long enough for one mailer a backend."""
Kind = Callable[[Day, anyio.CancelScope], Fault]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What goes wrong is logged as it should be, thousands of times."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def _cancelled_after(_: Day, scope: anyio.CancelScope) -> Fault:
    async def cancel(call: Call) -> Any:
        answer = await call.go()
        scope.cancel()
        await checkpoint()
        return answer

    return cancel


def _overtaken(_: Day, scope: anyio.CancelScope) -> Fault:
    async def wait(call: Call) -> Any:
        await anyio.wait_all_tasks_blocked()
        return await call.go()

    return wait


def _asleep(day: Day, _: anyio.CancelScope) -> Fault:
    """The worker sleeps past its leases, and another one does everything meanwhile."""

    async def sleep(call: Call) -> Any:
        day.clock.shift += TURN
        other = Day(day.storage, day.folder, day.mailer, clock=day.clock)
        assert await other.session(), other.errors
        day.told += other.told
        return await call.go()

    return sleep


def _clock_set_back(day: Day, _: anyio.CancelScope) -> Fault:
    async def step(call: Call) -> Any:
        day.clock.shift -= timedelta(hours=1)
        return await call.go()

    return step


def _plain(fault: Fault) -> Kind:
    return lambda day, scope: fault


KINDS: dict[str, Kind] = {
    "fails before the call": _plain(unavailable),
    "fails, and the answer is lost": _plain(answer_lost),
    "breaks with a driver's error": _plain(broken),
    f"is away for {AWAY} calls": _plain(unavailable),
    "is overtaken by everything else": _overtaken,
    "is cancelled before": lambda day, scope: cancelled(scope),
    "is cancelled after": _cancelled_after,
    "sleeps past its lease, another takes over": _asleep,
    "takes three leases": _plain(delayed(3 * LEASE)),
    "finds the clock set back an hour": _clock_set_back,
}
IN_VIRTUAL_TIME = ("takes three leases", "finds the clock set back an hour")
"""With threads, time cannot jump."""


@frozen
class Point:
    """Where what goes wrong."""

    place: str
    kind: str
    mailer: str
    number: int = 0

    def play(self, folder: Path, backend: str) -> str | int:
        """Have a day with it; give the phase that it fell into, or how many calls there were without."""
        folder.mkdir(parents=True)
        name, options = (backend, {}) if self.place == "SQLite" else in_virtual_time(backend)
        return anyio.run(partial(self._play, folder), backend=name, backend_options=options)

    async def _play(self, folder: Path) -> str | int:
        memory, file = MemoryStorage(), File(folder / "briefs.db")
        day = Day((lambda: memory) if self.place == "memory" else file.storage, folder, self.mailer)
        phases: list[str] = []
        with anyio.CancelScope() as scope:
            fault = KINDS[self.kind](day, scope)

            async def befall(call: Call) -> Any:
                phases.append(phase_of(call))
                return await fault(call)

            width = AWAY if self.kind.startswith("is away") else 1
            faults = Faults(befall, range(self.number, self.number + width) if self.number else ())
            is_over = await day.session(faults)
            assert is_over or scope.cancel_called, day.errors
        assert await day.session(), day.errors
        is_right(await found(day, day.clock.moment), day.told, self.mailer)
        if self.place == "SQLite":
            is_sound(file)
        return phases[0] if phases else len(faults.calls)


@cache
def calls_of(place: str, mailer: str, backend: str) -> int:
    """How many calls a day has in which nothing goes wrong."""
    with TemporaryDirectory() as folder:
        calls = Point(place, "fails before the call", mailer).play(Path(folder, "day"), backend)
    assert isinstance(calls, int)
    return calls


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["memory", "SQLite"])
def test_whatever_goes_wrong_at_one_call_the_day_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, kind: str, backend: str
) -> None:
    if place == "SQLite" and kind in IN_VIRTUAL_TIME:
        pytest.skip("this needs a clock that jumps, which it cannot while threads work")
    phases = Counter[str]()
    for mailer in ("keyed", "log") if place == "memory" else (MAILER[backend],):
        calls = calls_of(place, mailer, backend)
        for number in spread(calls, FEW, (place, kind, mailer, backend)):
            folder = tmp_path / mailer / str(number)
            try:
                landed = Point(place, kind, mailer, number).play(folder, backend)
            except BaseException as error:
                error.add_note(f"at call {number} of {calls}, {mailer}")
                raise
            if isinstance(landed, str):
                phases[landed] += 1
    with capsys.disabled():
        sys.stdout.write(Tried(f"{place} on {backend}", kind, phases).told())
    assert phases
