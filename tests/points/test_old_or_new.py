"""A call of a storage that something goes wrong in leaves everything as before or everything as after, never half.

All tables are compared, whole; and where everything is as before, the same call made again leaves it as after.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, evolve, frozen
from point_counts import is_nightly
from point_statements import IN_SQLITE, WHEN, Ending, Run, Statements, run_statement

from fanout_briefs.adapters import postgres_connection
from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.model import Change, Claim, Demand, Finish, FollowUp, JobStatus, Preference, Progress, SkipReason
from places import File, Place, Tables
from services import Schema
from slots import DAY, HOUR, NOW, AnyStorage, brief_of, bring, claim_one, job
from sqlite_trace import Trace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet")]
TABLES = ("jobs", "outbox", "briefs", "marks", "pauses", "preferences", "fence")
Dump = Mapping[str, Sequence[tuple[Any, ...]]]


@frozen
class Held:
    """Two claims that stand when a call is made."""

    ann: Claim
    bob: Claim


Make = Callable[[AnyStorage, Held], Awaitable[object]]
MAIL = FollowUp(job("ann", type="mail"), b"mail")
END = Finish(status=JobStatus.COMPLETED, brief=brief_of(job()))
PEOPLE = [Preference(user_id=user, days=[1, 2]) for user in ("ann", "bob", "zoe")]
CALLS: dict[str, Make] = {
    "enqueue": lambda storage, _: storage.enqueue(
        [job("new"), job(), job("cid"), job("dan"), job("eve", demand=Demand.RUN), job("new", 1)]
    ),
    "change": lambda storage, _: storage.change([job(user).dedup_key for user in ("cid", "eve")], Change.REGENERATE),
    "cancel": lambda storage, _: storage.change([job("fay").dedup_key, job("gil").dedup_key], Change.CANCEL),
    "start": lambda storage, _: storage.advance("other", start=NOW),
    "advance": lambda storage, _: storage.advance("daily", NOW + DAY, planned_at=NOW),
    "forget": lambda storage, _: storage.forget("eve"),
    "claim": lambda storage, _: storage.claim(NOW + DAY, now=NOW, lease=HOUR, limit=9, types=["daily"]),
    "heartbeat": lambda storage, held: storage.heartbeat(
        [evolve(each, progress=Progress("here")) for each in (held.ann, held.bob)], NOW + DAY
    ),
    "finish": lambda storage, held: storage.finish(held.ann, END, [MAIL]),
    "retry": lambda storage, held: storage.retry(held.ann, NOW + HOUR, "why"),
    "release": lambda storage, held: storage.release([held.ann, held.bob]),
    "pause": lambda storage, _: storage.pause(["daily", "mail"], NOW),
    "resume": lambda storage, _: storage.resume(["weekly"], since=NOW),
    "prune": lambda storage, _: storage.prune(["daily"], NOW + 9 * DAY, 100),
    "put": lambda storage, _: storage.preferences.put(PEOPLE),
    "remove": lambda storage, _: storage.preferences.remove(["ann", "bob"]),
}


async def prepared(storage: AnyStorage) -> Held:
    """Slots in many states."""
    held = [await bring(storage, job(user), JobStatus.PROCESSING) for user in ("ann", "bob")]
    await bring(storage, job("cid"), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    await bring(storage, job("dan"), JobStatus.SKIPPED, SkipReason.ENGAGEMENT)
    for day in (-1, 0):
        await storage.enqueue([job("eve", day)])
        claimed = await claim_one(storage, job("eve", day))
        await storage.finish(claimed, Finish(status=JobStatus.COMPLETED, brief=brief_of(job("eve", day))), [])
    await storage.enqueue([job("fay"), job("gil")])
    await storage.advance("daily", start=NOW)
    await storage.preferences.put([Preference(user_id=user) for user in ("ann", "bob", "cid")])
    await storage.pause(["weekly"], NOW)
    await storage.enqueue([job("ann", type="weekly"), job("bob", type="weekly")])
    ann, bob = held
    assert ann is not None
    assert bob is not None
    return Held(ann, bob)


def dump(place: Place) -> Dump:
    return {table: sorted(place.ask(f"SELECT * FROM {table}"), key=repr) for table in TABLES}


async def made(place: Place, make: Make, held: Held, trace: Trace | None = None) -> None:
    trace = Trace() if trace is None else trace
    at, trace.at = trace.at, None
    async with place.storage(trace) as storage:
        trace.at = at  # What an opening consists of is tried elsewhere.
        await make(storage, held)


@define
class Scene:
    """A place that can be set as it was, again and again; a file by copying it."""

    place: Place
    empty: Callable[[], None]
    _file: bytes = b""
    _held: Held | None = None

    async def set(self) -> Held:
        if self._file and self._held and isinstance(self.place, File):
            self.empty()
            self.place.path.write_bytes(self._file)
            return self._held
        self.empty()
        async with self.place.storage() as storage:
            self._held = await prepared(storage)
        if isinstance(self.place, File):
            self._file = self.place.path.read_bytes()
        return self._held


async def is_old_or_new(scene: Scene, make: Make, befall: Callable[[int], Any]) -> Counter[str]:
    """Have something go wrong at each statement in turn; give how often it was old then, and how often new."""
    held = await scene.set()
    old = dump(scene.place)
    await made(scene.place, make, held)
    new = dump(scene.place)
    assert new != old
    came = Counter[str]()
    for number in range(1, 100):
        again = await scene.set()
        assert dump(scene.place) == old
        statements, play = befall(number)
        with anyio.CancelScope() as scope:
            try:
                await play(again, scope)
            except StorageUnavailable:
                came["told"] += 1
        if statements.landed is None:
            return came
        left = dump(scene.place)
        assert left in (old, new), number
        came["old" if left == old else "new"] += 1
        if left == old:
            await made(scene.place, make, again)
            assert dump(scene.place) == new
    raise AssertionError("it has no end")


def some(kinds: Sequence[str]) -> Iterator[Any]:
    """All of them; on ordinary days the first."""
    for kind in kinds:
        yield pytest.param(kind, marks=() if kind == kinds[0] else pytest.mark.nightly)


@pytest.mark.parametrize("kind", [*some([*IN_SQLITE])])
async def test_a_call_of_a_sqlite_storage_leaves_old_or_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    place = File(tmp_path / "briefs.db")

    def fresh() -> None:
        for file in tmp_path.iterdir():
            file.unlink()

    told = Counter[str]()
    scene = Scene(place, fresh)
    for make in CALLS.values():

        def befall(number: int, make: Make = make) -> Any:
            statements = Statements(at=number)

            async def play(held: Held, scope: anyio.CancelScope) -> None:
                def act(statement: str) -> None:
                    if statements.is_it():
                        IN_SQLITE[kind](scope)

                trace = Trace()
                trace.at = act
                await made(place, make, held, trace)

            return statements, play

        told += await is_old_or_new(scene, make, befall)
    is_told(capsys, f"SQLite, {kind}", told)
    assert told["old" if "cancelled" not in kind and "busy" not in kind else "new"]


@pytest.mark.parametrize("when", [*some(WHEN)])
async def test_a_call_of_a_postgres_storage_leaves_old_or_new(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, postgres: Schema, when: str
) -> None:
    place = Tables(postgres.dsn, postgres.name)
    told = Counter[str]()
    for make in CALLS.values():

        def befall(number: int, make: Make = make) -> Any:
            statements = Statements(at=number)
            end: Run = getattr(Ending(postgres), when)

            async def play(held: Held, scope: anyio.CancelScope) -> None:
                def run(tables: postgres_connection.Tables, statement: str, values: Any) -> Any:
                    return (end if statements.is_it() else run_statement)(tables, statement, values)

                with monkeypatch.context() as patch:
                    patch.setattr(postgres_connection.Tables, "_run", run)
                    await made(place, make, held)

            return statements, play

        told += await is_old_or_new(Scene(place, postgres.empty), make, befall)
    is_told(capsys, f"PostgreSQL, the connection ends {when} the statement", told)
    assert told["new" if when == "after" else "old"]
    assert when == "within" or told["told"] == told["old"] + told["new"]


def is_told(capsys: pytest.CaptureFixture[str], what: str, told: Counter[str]) -> None:
    if is_nightly() or sys.stdout.isatty():
        with capsys.disabled():
            sys.stdout.write(f"\n{what}: {told['old']} times all is as before, {told['new']} times as after\n")
