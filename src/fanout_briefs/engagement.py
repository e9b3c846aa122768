"""Decides whether a due brief is sent, by how long its user has been inactive.

Pure: a decision depends on visits, briefs and the occurrence's own instant, never on the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from attrs import frozen

from fanout_briefs.model import Activity, EngagementDecision, check_aware

__all__ = ["Activity", "BackoffPolicy", "EngagementDecision", "EngagementPolicy"]

_DAY = timedelta(days=1)
_NOTHING = timedelta(0)


class EngagementPolicy(Protocol):
    """Decides whether one occurrence is sent.

    A policy may also have an attribute ``sends_when_unavailable: bool`` for users whose activity cannot be read. True
    sends to them; False, the default, skips them until it can be read.
    """

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        """Decide on one occurrence, without I/O; the same arguments always give the same decision.

        Args:
            activity: The user's last visit and last brief.
            at: The occurrence's ``deliver_at``. Aware.
        """
        ...


@frozen(kw_only=True)
class BackoffPolicy:
    """Sends to active users, stops for inactive ones, and reminds those from time to time.

    Days away are the whole 24-hour periods from the last visit to the occurrence. Up to ``active_days``, every brief is
    sent. After that, there is one reminder in each of two windows, ``[first_day, second_day)`` and
    ``[second_day, recurring_day)``, and one every ``recurring_gap`` days from ``recurring_day`` on. Users who have
    never visited get every brief.

    A window's reminder goes out with the first occurrence in it that is at least ``first_gap`` (``second_gap``) days
    after the last brief. So neither a missed plan nor a weekly schedule without an occurrence on the exact day costs a
    user the reminder. ``phase1`` returns the policy that this one replaces.

    Attributes:
        active_days: The last day on which every brief is sent.
        first_day: The day on which the first window opens.
        first_gap: The minimum number of days between the last brief and the first reminder.
        second_day: The day on which the second window opens.
        second_gap: The same as ``first_gap``, for the second reminder.
        recurring_day: The day from which reminders recur.
        recurring_gap: The number of days between recurring reminders.
        slack: How far a gap may fall short of its days; less than a day. When clocks go forward, 09:00 is only 47 hours
            after 09:00 two days before, which should count as two days.
        exact_days: True sends reminders on exactly ``first_day`` and ``second_day`` instead of within the windows.
        sends_when_unavailable: Whether to send to users whose activity cannot be read.

    Raises:
        ValueError: Arguments are bad; the message names all of them.
    """

    active_days: int = 2
    first_day: int = 4
    first_gap: int = 2
    second_day: int = 10
    second_gap: int = 6
    recurring_day: int = 31
    recurring_gap: int = 31
    slack: timedelta = timedelta(hours=2)
    exact_days: bool = False
    sends_when_unavailable: bool = False

    def __attrs_post_init__(self) -> None:
        problems = [*_bad_days(self), *_bad_order(self), *_bad_rest(self)]
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def phase1(cls) -> BackoffPolicy:
        """Return the exact rules of the system that this library started from.

        A reminder is due on day 4 if the last brief is at least 2 days old, on day 10 if it is at least 6, and from day
        31 on whenever it is at least 31. There is no slack. Users whose activity cannot be read get every brief.
        """
        return cls(slack=_NOTHING, exact_days=True, sends_when_unavailable=True)

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        """Decide on one occurrence.

        If the brief is sent, ``reason`` is ``no_last_visit``, ``active``, ``reengagement_day_4``,
        ``reengagement_day_10`` or ``reengagement_recurring_31``; otherwise it is ``cooling_off``, ``first_backoff``,
        ``second_backoff`` or ``waiting_31_day_interval``. The numbers are the policy's own days. With ``exact_days``,
        it may also be ``default``: a reminder's day, but the last brief is too recent. ``days_inactive`` is negative
        for a visit after ``at``.

        Args:
            activity: The user's last visit and last brief. None means never; a user never briefed meets every gap.
            at: The occurrence's ``deliver_at``. Aware.

        Raises:
            ValueError: ``at`` is naive.
        """
        check_aware("at", at)
        if activity.last_visit is None:
            return EngagementDecision(send=True, is_reengagement=False, reason="no_last_visit")
        days = _elapsed(activity.last_visit, at) // _DAY
        if days <= self.active_days:
            return EngagementDecision(send=True, is_reengagement=False, reason="active", days_inactive=days)
        send, reason = self._remind(activity, activity.last_visit, at, days)
        return EngagementDecision(send, is_reengagement=send, reason=reason, days_inactive=days)

    def _remind(self, activity: Activity, visit: datetime, at: datetime, days: int) -> tuple[bool, str]:
        if days < self.first_day:
            return False, "cooling_off"
        if days >= self.recurring_day:
            gap = self.recurring_gap
            rested = self._is_rested(activity, at, gap)
            return rested, f"reengagement_recurring_{gap}" if rested else f"waiting_{gap}_day_interval"
        if days >= self.second_day:
            opened, gap, backoff = self.second_day, self.second_gap, "second_backoff"
        else:
            opened, gap, backoff = self.first_day, self.first_gap, "first_backoff"
        rested = self._is_rested(activity, at, gap)
        if self.exact_days:
            is_the_day = days == opened
            due, refusal = rested and is_the_day, "default" if is_the_day else backoff
        else:
            due, refusal = rested and not _briefed_since(activity, visit, opened), backoff
        return due, f"reengagement_day_{opened}" if due else refusal

    def _is_rested(self, activity: Activity, at: datetime, days: int) -> bool:
        return activity.last_brief is None or (_elapsed(activity.last_brief, at) + self.slack) // _DAY >= days


def _briefed_since(activity: Activity, visit: datetime, days: int) -> bool:
    return activity.last_brief is not None and _elapsed(visit, activity.last_brief) // _DAY >= days


def _elapsed(start: datetime, end: datetime) -> timedelta:
    """Return the elapsed time; Python subtracts datetimes of one zone by wall clock, so clock changes are undone."""
    if start.tzinfo is not end.tzinfo or start.tzinfo is UTC:
        return end - start
    return end - start - ((end.utcoffset() or _NOTHING) - (start.utcoffset() or _NOTHING))


_LEAST = {
    "active_days": 0,
    "first_day": 1,
    "first_gap": 1,
    "second_day": 1,
    "second_gap": 1,
    "recurring_day": 1,
    "recurring_gap": 1,
}
_ASCENDING = (("active_days", "first_day"), ("first_day", "second_day"), ("second_day", "recurring_day"))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_under_a_day(value: object) -> bool:
    return isinstance(value, timedelta) and _NOTHING <= value < _DAY


def _bad_days(policy: BackoffPolicy) -> Iterator[str]:
    for name, least in _LEAST.items():
        value = getattr(policy, name)
        if not _is_whole(value) or value < least:
            yield f"{name}={value!r}: must be a whole number of days, {least} or more"


def _bad_order(policy: BackoffPolicy) -> Iterator[str]:
    for earlier, later in _ASCENDING:
        first, second = getattr(policy, earlier), getattr(policy, later)
        if _is_whole(first) and _is_whole(second) and first >= second:
            yield f"{later}={second!r}: must be greater than {earlier}={first!r}"


def _bad_rest(policy: BackoffPolicy) -> Iterator[str]:
    if not _is_under_a_day(policy.slack):
        yield f"slack={policy.slack!r}: must be a timedelta of zero or more, under a day"
    for name in ("exact_days", "sends_when_unavailable"):
        if not isinstance(getattr(policy, name), bool):
            yield f"{name}={getattr(policy, name)!r}: must be True or False"
