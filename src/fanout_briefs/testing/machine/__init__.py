"""A model machine: Hypothesis generates stories of calls to a storage, and an oracle says what they must return.

Planners, workers, operators and people act in the stories, and the clock moves. A failure is reported as the shortest
story that shows it. Needs Hypothesis: ``pip install 'fanout-briefs[testing]'``.
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
"""Long enough for steps to have consequences, short enough to try many stories."""


class _Stories(LedgerSteps, WorkSteps, PreferenceSteps, TimeSteps):
    """Stories of all steps."""

    def finale(self) -> None:
        self.stage.say(f"(it is {self.clock.advance(99 * DAY):%Y-%m-%d} now)")
        self.hold(self.do("resume", [*TYPES], since=NOW - DAY), self.oracle.resume(TYPES, NOW - DAY))
        self.drain()
        # Erased slots must leave no trace in what is planned anew.
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
    """Check a storage against the oracle, story after story, on one event loop.

    Args:
        open_storage: As for ``check_storage``. It is called for each story.
        capabilities: What the storage offers beyond the port; ``StorageContract`` tells which there are.
        backend: ``asyncio`` or ``trio``.
        settings: The number of stories and of their steps; None uses the number of examples of the loaded Hypothesis
            profile, with 25 steps each.

    Raises:
        ValueError: Capabilities are unknown; the message names all of them.
        Broken: An answer was not what is promised; the message tells the shortest story that shows it.
    """
    if problems := storage_kit.problems(capabilities, {}):
        raise ValueError("; ".join(problems))
    asked = settings or hypothesis.settings(stateful_step_count=_STEPS)
    asked = hypothesis.settings(
        asked,
        # Each step makes calls; how long they take depends on the storage.
        deadline=None,
        # Hypothesis would explain which lines of this kit ran, which does not help.
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

        # Annotated as a class, but documented to accept any callable that returns a machine.
        run_state_machine_as_test(cast("Any", story), settings=asked)
