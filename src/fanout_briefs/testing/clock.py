"""A wall clock that a test controls.

This library never reads the time on its own where it matters: moments are arguments, and leases run by the clock that
``Briefs`` and ``Worker`` are given. Give them this one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fanout_briefs.model import check_aware

__all__ = ["Clock"]


class Clock:
    """Returns ``now`` when called. It stands still until you set or advance it; like real clocks, it may go back.

    Attributes:
        now: The current time, aware.

    Raises:
        ValueError: The initial ``now`` is naive.
    """

    def __init__(self, now: datetime) -> None:
        check_aware("now", now)
        self.now: datetime = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> datetime:
        """Move ``now`` forward, or back if ``by`` is negative, and return it."""
        self.now += by
        return self.now

    def __repr__(self) -> str:
        return f"Clock({self.now.isoformat()})"
