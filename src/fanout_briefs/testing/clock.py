"""A wall clock in the hand of a test.

Nothing in this library reads the time by itself where it matters: moments are arguments, and leases run by a clock that
``Briefs`` and ``Worker`` are given. Give them this one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fanout_briefs.model import check_aware

__all__ = ["Clock"]


class Clock:
    """Called, it tells ``now``, which stands still until somebody sets it or moves it. Backwards, too, as clocks do.

    Attributes:
        now: Aware.

    Raises:
        ValueError: The instant it begins at is naive.
    """

    def __init__(self, now: datetime) -> None:
        check_aware("now", now)
        self.now: datetime = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> datetime:
        """Let time pass, or go back where ``by`` is negative; tells ``now`` as it is then."""
        self.now += by
        return self.now

    def __repr__(self) -> str:
        return f"Clock({self.now.isoformat()})"
