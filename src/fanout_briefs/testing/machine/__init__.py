"""A model machine: Hypothesis makes up stories of what is done to a storage, and an oracle says what has to come back.

Planners, workers, operators and people act in them, and a clock that is moved. What breaks is told as the shortest story that
shows it. It needs Hypothesis: ``pip install 'fanout-briefs[testing]'``.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any, Final, cast

try:
    import hypothesis
except ModuleNotFoundError as _missing:
    raise ImportError("the model machine needs Hypothesis: pip install 'fanout-briefs[testing]'") from _missing

from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from fanout_briefs.ports import Storage
from fanout_briefs.testing.clauses import storage_kit
from fanout_briefs.testing.kit import Open
from fanout_briefs.testing.machine.overseeing import PreferenceSteps, TimeSteps
from fanout_briefs.testing.machine.planning import LedgerSteps, WorkSteps
from fanout_briefs.testing.machine.stage import Stage
from fanout_briefs.testing.machine.story import TYPES, USERS, Search
from fanout_briefs.testing.slots import DAY, NOW

__all__ = ["run_stories"]

_STEPS: Final = 25
"""Long enough that something comes of what was done, short enough to try many."""


class _Stories(LedgerSteps, WorkSteps, PreferenceSteps, TimeSteps):
    """Everything that may happen."""

    def finale(self) -> None:
        self.stage.say(f"(it is {self.clock.advance(99 * DAY):%Y-%m-%d} now)")
        self.hold(self.do("resume", [*TYPES], since=NOW - DAY), self.oracle.resume(TYPES, NOW - DAY))
        self.drain()
        # Nothing that was ever there may show in what is planned anew.
        self.erase(TYPES, self.clock(), 99)
        self.hold(self.do("forget", USERS[-1]), self.oracle.forget(USERS[-1]))
        self.drain()
        self.look_around(2, 200 * DAY)
        self.scan_all(2)


def run_stories(
    open_storage: Open[Storage],
    *,
    capabilities: Collection[str] = (),
    backend: str = "asyncio",
    settings: hypothesis.settings | None = None,
) -> None:
    """Hold a storage to the oracle, story after story, on one event loop.

    Args:
        open_storage: As for ``check_storage``. It is called for each story.
        capabilities: What the storage offers beyond the port; ``StorageContract`` tells which there are.
        backend: ``asyncio`` or ``trio``.
        settings: How many stories, and of how many steps; None takes as many as the profile of Hypothesis that is loaded,
            of 25 steps each.

    Raises:
        ValueError: A capability is unknown; all of them are named.
        Broken: What came back was not what was promised; the message tells the shortest story that shows it.
    """
    if problems := storage_kit.problems(capabilities, {}):
        raise ValueError("; ".join(problems))
    asked = settings or hypothesis.settings(stateful_step_count=_STEPS)
    asked = hypothesis.settings(
        asked,
        # Each step makes calls; how long they take is the storage's affair.
        deadline=None,
        # Which lines of this kit ran explains nothing.
        phases=[phase for phase in asked.phases if phase is not Phase.explain],
        report_multiple_bugs=False,
        suppress_health_check=[*asked.suppress_health_check, HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    with start_blocking_portal(backend=backend) as portal:

        def opened() -> AbstractContextManager[Stage]:
            return Stage.opened(portal, open_storage, capabilities)

        search = Search(opened, capabilities)

        def story() -> _Stories:
            return _Stories(search)

        # Anything that makes a machine will do, it says, though it asks for a class.
        run_state_machine_as_test(cast("Any", story), settings=asked)
