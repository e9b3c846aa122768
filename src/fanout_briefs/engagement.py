"""Whether a brief that is due is to be sent, judged by how long its user has stayed away.

Pure: a decision follows from visits, briefs and the occurrence's own instant, never from the clock.
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

    A policy may also have an attribute ``sends_when_unavailable: bool``, which says what happens to users whose
    activity could not be read: True sends to them; False, the default, skips them until it can be read.
    """

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        """Decide on one occurrence: always the same for the same arguments, and without I/O.

        Args:
            activity: What is known of the user.
            at: The occurrence's ``deliver_at``. Aware.
        """
        ...


@frozen(kw_only=True)
class BackoffPolicy:
    """Sends to users who visit, stops for those who stay away, and reminds them a few times.

    Days away are whole elapsed 24-hour periods from the last visit to the occurrence. Up to ``active_days`` every
    brief is sent; after that none, except for a reminder in each of two windows, ``[first_day, second_day)`` and
    ``[second_day, recurring_day)``, and one every ``recurring_gap`` days from ``recurring_day`` on. Users who
    have never visited are sent everything.

    A window's reminder goes out with the first occurrence in it that is ``first_gap`` (``second_gap``) days after
    the last brief, so nobody loses it to a missed plan, or to a weekly schedule without an occurrence on the exact day.
    ``phase1`` makes the policy that this one replaces.

    Attributes:
        active_days: The last day on which every brief is sent.
        first_day: Where the first window opens, in days away.
        first_gap: How many days after the last brief the first reminder may go out.
        second_day: Where the second window opens.
        second_gap: As ``first_gap``, of the second reminder.
        recurring_day: The day from which reminders recur.
        recurring_gap: How many days are between recurring reminders.
        slack: By how much a gap may fall short of its days; less than a day. When clocks go forward, 09:00 is only 47
            hours after 09:00 two days before, which should count as two days.
        exact_days: True reminds on exactly ``first_day`` and ``second_day`` instead of within the windows.
        sends_when_unavailable: Whether users whose activity cannot be read are sent to.

    Raises:
        ValueError: Parameters are bad; the message names every one.
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
        """The rules of the system this library started from, to the letter.

        Days count by equality: a reminder on day 4 if the last brief is 2 days old, on day 10 if it is 6, and from
        day 31 on whenever it is 31. There is no slack, and users whose activity cannot be read are sent to.
        """
        return cls(slack=_NOTHING, exact_days=True, sends_when_unavailable=True)

    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        """Decide on one occurrence.

        ``reason`` is ``no_last_visit``, ``active``, ``reengagement_day_4``, ``reengagement_day_10`` or
        ``reengagement_recurring_31`` where it is sent, with the policy's own days in place of these, and else
        ``cooling_off``, ``first_backoff``, ``second_backoff`` or ``waiting_31_day_interval``; under ``exact_days``
        also ``default``, on a reminder's day when the last brief is too recent. ``days_inactive`` is negative for a
        visit after ``at``.

        Args:
            activity: What is known of the user; None in it means never, and a user never briefed meets every gap.
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
    """Subtract instants; datetimes of one zone subtract by wall clock, so what the clock moved is taken out again."""
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
