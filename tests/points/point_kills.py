"""Days in processes of their own, which stand still at a point and are killed there from outside.

A fork server has everything imported, so that a process costs some hundredths of a second and every point can be tried.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, TypeAlias
from unittest import mock

import anyio
from anyio.lowlevel import checkpoint
from attrs import define, evolve, field, frozen
from point_story import TURN, Day, Found, Setting, Told, found, phase_now, watched

from fanout_briefs.testing.faults import Call

__all__ = ["Fate", "Life", "Point", "lived", "looked", "refused"]

GUARD = 120.0
"""Seconds after which a process that says nothing is taken for hanging. Nothing is asserted about time."""
Point: TypeAlias = tuple[str, str]
"""A phase, and what is next there: ``call``, ``statement`` or ``answer``."""

FORKS = multiprocessing.get_context("forkserver")


def _begin() -> None:
    """Start the fork server with everything imported; before 3.13 it finds modules only where the environment says."""
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        FORKS.set_forkserver_preload(["point_kills"])
        forkserver.ensure_running()


@frozen
class Life:
    """What a process did until its end.

    Attributes:
        told: What it said to have done.
        points: The points that it passed.
        is_over: Whether it found nothing left to do.
        problems: What it failed with.
        look: What it found.
    """

    told: list[Told] = field(factory=list[Told])
    points: list[Point] = field(factory=list[Point])
    is_over: bool = False
    problems: str = ""
    look: Found | None = None


@frozen
class Fate:
    """Where a process comes to its end.

    Attributes:
        at: The number of the point; 0: nowhere.
        poison: The call for Bob before which any process ends that makes it.
    """

    at: int = 0
    poison: str = ""

    def is_met_by(self, call: Call) -> bool:
        return call.name == self.poison and getattr(call.values[0], "user_id", None) == "bob"


NOWHERE = Fate()


@define
class Points:
    """Counts the points of this process; at its fate it stands still, and no other thread passes any more."""

    pipe: Any
    fate: Fate
    passed: int = 0
    _guard: Any = field(factory=threading.Lock)

    def point(self, what: str, call: Call | None = None) -> None:
        phase = phase_now()
        if phase == "look":
            return
        with self._guard:
            self.passed += 1
            is_here = self.passed == self.fate.at or (what == "call" and call is not None and self.fate.is_met_by(call))
            self.pipe.send(("here" if is_here else "past", (phase, what)))
            if is_here:
                threading.Event().wait()


def _live(pipe: Any, setting: Setting, fate: Fate, turn: int) -> None:
    """What a process does: it takes turns until nothing is left."""
    logging.disable()
    points = Points(pipe, fate)

    async def run() -> None:
        day = Day(
            lambda: setting.place.storage(lambda _: points.point("statement")),
            setting.folder,
            setting.mailer,
            tell=lambda told: pipe.send(("told", told)),
        )
        day.clock.shift = turn * TURN
        is_over = await day.session(watched(partial(points.point, "call"), partial(points.point, "answer")))
        pipe.send(("over", (is_over, repr(day.errors))))

    anyio.run(run, backend=setting.backend)


def _live_as_an_ordinary_user(pipe: Any, setting: Setting, fate: Fate, turn: int) -> None:
    # What is imported only when it is needed may lie where an ordinary user may not look for it.
    anyio.run(checkpoint, backend=setting.backend)
    importlib.import_module("email.generator")
    os.seteuid(65534)
    _live(pipe, setting, fate, turn)


def _look(pipe: Any, setting: Setting) -> None:
    async def run() -> None:
        day = Day(setting.place.storage, setting.folder, setting.mailer)
        pipe.send(("look", await found(day, day.clock.moment + timedelta(days=1))))

    anyio.run(run, backend=setting.backend)


def _process(work: Callable[..., None], *given: object) -> Life:
    """Listen to a process until its end; kill it where it stands still."""
    _begin()
    reading, writing = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=work, args=(writing, *given))
    process.start()
    writing.close()
    life = Life()
    try:
        life = _heard(reading, process.pid, life)
        process.join(GUARD)
        is_killed = bool(life.points) and not life.is_over and not life.problems
        assert process.exitcode == (-signal.SIGKILL if is_killed else 0), (process.exitcode, life.points[-3:])
    finally:
        process.kill()
        process.join()
        process.close()
        reading.close()
    return life


def _heard(pipe: Connection, pid: int | None, life: Life) -> Life:
    while True:
        assert pipe.poll(GUARD), f"hangs after {life.points[-5:]}"
        try:
            what, said = pipe.recv()
        except EOFError:
            return life
        if what == "told":
            life.told.append(said)
        elif what == "over":
            life = evolve(life, is_over=said[0], problems="" if said[0] else said[1])
        elif what == "look":
            life = evolve(life, look=said)
        else:
            life.points.append(said)
            if what == "here":
                assert pid is not None
                os.kill(pid, signal.SIGKILL)


def lived(setting: Setting, *, turn: int = 0, fate: Fate = NOWHERE) -> Life:
    """A process that takes turns, until nothing is left or it meets its fate.

    Args:
        setting: Where.
        turn: Which turn its first one is.
        fate: Where it is killed.
    """
    return _process(_live, setting, fate, turn)


def refused(setting: Setting) -> str:
    """What a process says that permissions hold for."""
    return _process(_live_as_an_ordinary_user, setting, NOWHERE, 1).problems


def looked(setting: Setting) -> Found:
    """What a process finds that did nothing before."""
    look = _process(_look, setting).look
    assert look is not None
    return look
