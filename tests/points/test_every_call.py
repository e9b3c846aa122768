"""Something goes wrong at one call of a port, whichever it is: in the same process the day goes on, and ends well."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import frozen
from point_counts import Tried, is_nightly, spread
from point_story import LEASE, TURN, Day, found, is_right, is_sound, phase_of

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.testing.faults import Call, Fault, Faults, answer_lost, broken, cancelled, delayed, unavailable
from places import File, Place, Tables
from services import Schema
from virtual_time import in_virtual_time

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]
FEW = 1
"""Points a kind, storage, backend and mailer on ordinary days."""
AWAY = 7
"""Calls in a row that fail while the storage is away."""
MAILER = {"asyncio": "eml", "trio": "log"}
"""With threads, days take long enough for one mailer a backend."""
Opens = Callable[[str], tuple[Place | None, Path]]
Kind = Callable[[Day, anyio.CancelScope], Fault]


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
    """The worker sleeps past its leases, with all that it does, and another one does everything meanwhile."""
    has_begun, is_awake = anyio.Event(), anyio.Event()

    async def sleep(call: Call) -> Any:
        if has_begun.is_set():
            await is_awake.wait()
            return await call.go()
        has_begun.set()
        day.clock.shift += TURN
        other = Day(day.storage, day.folder, day.mailer, clock=day.clock)
        assert await other.session(), other.errors
        day.told += other.told
        is_awake.set()
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
WIDTHS = {"is away": AWAY, "sleeps": sys.maxsize // 2}
"""How many calls it befalls, where that is more than one: whoever sleeps does nothing else either."""
IN_VIRTUAL_TIME = ("takes three leases", "finds the clock set back an hour")
"""With threads, time cannot jump."""


ON_POSTGRES = ("fails, and the answer is lost", "sleeps past its lease, another takes over")
"""What of this the server has a part in; connections that end are tried statement by statement."""
SERVED = "memory, under serve"
CASES = [
    *((place, kind) for place in ("memory", SERVED) for kind in KINDS),
    *(("SQLite", kind) for kind in KINDS if kind not in IN_VIRTUAL_TIME),
    *(("PostgreSQL", kind) for kind in ON_POSTGRES),
]


@frozen
class Point:
    """Where what goes wrong; in memory, if there is no place."""

    kind: str
    mailer: str
    number: int = 0
    is_served: bool = False

    def play(self, place: Place | None, folder: Path, backend: str) -> str | int:
        """Have a day with it; give the phase that it fell into, or how many calls there were without."""
        folder.mkdir(parents=True, exist_ok=True)
        name, options = (backend, {}) if place else in_virtual_time(backend)
        return anyio.run(partial(self._play, place, folder), backend=name, backend_options=options)

    async def _play(self, place: Place | None, folder: Path) -> str | int:
        memory = MemoryStorage()
        day = Day((lambda: memory) if place is None else place.storage, folder, self.mailer)
        phases: list[str] = []
        scope = anyio.CancelScope()
        fault = KINDS[self.kind](day, scope)

        async def befall(call: Call) -> Any:
            phases.append(phase_of(call))
            return await fault(call)

        width = next((width for kind, width in WIDTHS.items() if self.kind.startswith(kind)), 1)
        faults = Faults(befall, range(self.number, self.number + width) if self.number else ())
        with scope:
            is_over = await (day.service if self.is_served else day.session)(faults)
            assert is_over or scope.cancel_called, day.errors
        assert await day.session(), day.errors
        is_right(await found(day, day.clock()), day.told, self.mailer)
        if place is not None:
            is_sound(place)
        return phases[0] if phases else len(faults.calls)


@pytest.fixture
def opens(request: pytest.FixtureRequest, tmp_path: Path, place: str) -> Opens:
    """Gives an empty database of the kind that the test's parameter names, None for memory, and a folder."""

    def opened(name: str) -> tuple[Place | None, Path]:
        folder = tmp_path / name
        if place in ("memory", SERVED):
            return None, folder
        if place == "SQLite":
            return File(folder / "briefs.db"), folder
        schema: Schema = request.getfixturevalue("postgres_schema")
        schema.empty()
        return Tables(schema.dsn, schema.name), folder

    return opened


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("place", "kind"), CASES)
def test_whatever_goes_wrong_at_one_call_the_day_ends_well(
    capsys: pytest.CaptureFixture[str], opens: Opens, place: str, kind: str, backend: str
) -> None:
    is_served = place == SERVED
    for mailer in ("keyed", "log") if place in ("memory", SERVED) else (MAILER[backend],):
        calls = Point(kind, mailer, is_served=is_served).play(*opens(f"{mailer} 0"), backend)
        assert isinstance(calls, int)
        tried = Tried(f"{place} on {backend}", f"{kind}, {mailer}")
        for number in tried.left(spread(calls, FEW, (place, kind, mailer, backend))):
            try:
                landed = Point(kind, mailer, number, is_served).play(*opens(f"{mailer} {number}"), backend)
            except BaseException as error:
                error.add_note(f"at call {number} of {calls}, {mailer}")
                raise
            if isinstance(landed, str):  # No two days are quite the same: a call that another day has may not come.
                tried.add(number, kind, landed)
        with capsys.disabled():
            sys.stdout.write(tried.told())
        assert tried.points or not is_nightly()
