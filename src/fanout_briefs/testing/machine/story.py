"""A story: a storage, an oracle and a clock, and how each step is recorded and checked.

What is drawn for a step never depends on earlier answers, so that a story can be shrunk and replayed; a step that finds
nothing to do does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Final, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from fanout_briefs.model import Claim, slot_key
from fanout_briefs.testing.checks import Broken, same
from fanout_briefs.testing.clock import Clock
from fanout_briefs.testing.machine.oracle import Oracle
from fanout_briefs.testing.machine.stage import Stage, Told, spoil
from fanout_briefs.testing.slots import DAY, HOUR, NOW, TODAY

__all__ = [
    "DATES",
    "DAYS",
    "KEYS",
    "TYPES",
    "USERS",
    "Search",
    "Story",
    "as_told",
    "leases",
    "offsets",
    "some_types",
    "step",
    "which",
]

USERS: Final = ("ann", "a'b:%_ é")
DAYS: Final = (0, 1, 2)
DATES: Final = tuple(TODAY + day * DAY for day in DAYS)
TYPES: Final = ("daily", "mail")
KEYS: Final = tuple(slot_key(kind, date, user) for kind in TYPES for date in DATES for user in USERS)
_NOBODY: Final = slot_key("daily", TODAY, "nobody")

some_types: st.SearchStrategy[tuple[str, ...]] = st.sampled_from([TYPES, TYPES, ("daily",), ("mail",), ()])
offsets: st.SearchStrategy[timedelta] = st.sampled_from([timedelta(0), -HOUR, HOUR, DAY, 2 * DAY, -DAY])
leases: st.SearchStrategy[timedelta] = st.sampled_from([HOUR, timedelta(minutes=5), DAY])
which: st.SearchStrategy[int] = st.sampled_from([0, 0, 0, 1, 2, -1, -2, -5])
"""The latest good claim, an earlier one or, below zero, one that may be lost."""


@st.composite
def as_told(draw: st.DrawFn, strategy: st.SearchStrategy[Any]) -> Told:
    """Draw from a strategy, and wrap the value so that it prints readably."""
    return Told(draw(strategy))


class Search:
    """The state shared by the stories of one search.

    Attributes:
        goes_on: Whether stories go on to their finale. If the first failure was in a step, it is shrunk without
            finales: a finale finds much, but does too much for a short story.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[Stage]], capabilities: Collection[str]) -> None:
        self.opened = opened
        self.capabilities = capabilities
        self.goes_on: bool = True
        self._is_found = False

    def found(self, *, in_a_step: bool) -> None:
        """Note a failure."""
        self.goes_on = self.goes_on and (self._is_found or not in_a_step)
        self._is_found = True


class Story(RuleBasedStateMachine):
    """The calls made to one storage, and the oracle that they are checked against.

    Attributes:
        turn: Which of the storages on stage the next call is made to.
    """

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search
        self.capabilities: Collection[str] = search.capabilities
        self.oracle: Oracle = Oracle()
        self.clock: Clock = Clock(NOW)
        self.claims: list[Claim] = []
        self.turn: int = 0
        self._closing = ExitStack()
        self.stage: Stage = self._closing.enter_context(search.opened())

    def turn_on(self) -> None:
        """Make the next calls to the other storage."""
        self.turn += 1

    @contextmanager
    def telling(self, *, in_a_step: bool) -> Generator[None]:
        """Add the whole story to a failure.

        Raises:
            Broken: The body raised it.
        """
        try:
            yield
        except Broken as broken:
            self.search.found(in_a_step=in_a_step)
            done = "\n           ".join(self.stage.done)
            raise Broken(f"done:      {done or 'the storage was opened'}\n{broken}") from broken.__cause__

    def do(self, name: str, *values: Any, **named: Any) -> Any:
        """Make a call to the storage whose turn it is."""
        return self.stage.do(self.turn, name, *values, **named)

    def hold(self, got: Any, promised: object) -> None:
        """Compare an answer with what is promised; then empty it, which must not matter."""
        same(got, promised)
        spoil(got)

    def see(self) -> None:
        """Check that every slot is as it should be, seen from the other storage if there is one."""
        self.check("find", [*KEYS, _NOBODY], self.oracle.find(KEYS))

    def check(self, name: str, asked: Sequence[str], promised: object) -> None:
        """Ask the other storage; the story only shows answers that are wrong."""
        self.hold(self.stage.do(self.turn + 1, name, [*asked]), promised)
        self.stage.done.pop()

    def good(self) -> list[Claim]:
        """Return the claims that still hold a slot."""
        return [claim for claim in self.claims if self.oracle.held(claim) is not None]

    def finale(self) -> None:
        """End a story that went well; does nothing here."""

    def teardown(self) -> None:
        """End the story, and close the storage."""
        try:
            if sys.exc_info()[0] is None and self.search.goes_on:
                with self.telling(in_a_step=False):
                    self.finale()
        finally:
            self._closing.close()


def step(
    kind: Callable[..., Any] = rule, **values: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[[Any], None]]:
    """Make a rule whose failure tells the story, and after which every slot is checked."""

    def decorate(function: Callable[..., None]) -> Callable[[Any], None]:
        @wraps(function)
        def taken(self: Story, **drawn: Any) -> None:
            with self.telling(in_a_step=True):
                function(self, **drawn)
                self.see()

        return cast("Callable[[Any], None]", kind(**values)(taken))

    return decorate
