"""When briefs are generated relative to their delivery, and when failed attempts are retried. Pure functions."""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import cast

from attrs import field, frozen

from fanout_briefs.arguments import bad_counts, bad_spans, refuse
from fanout_briefs.errors import BadValue
from fanout_briefs.model import Job, JobStatus, Occurrence, SkipReason, Window

__all__ = ["FURTHEST", "CatchUp", "Retrying", "Timing", "bad_timing"]

FURTHEST = timedelta(days=366)
"""The longest that a job is put off; a moment beyond year 9999 could not be stored."""

_MICROSECOND = timedelta(microseconds=1)


class CatchUp(enum.StrEnum):
    """What happens to occurrences that were missed while no plan ran."""

    SKIP = "skip"
    """None is sent."""
    LATEST = "latest"
    """Only the latest one of each user is sent."""
    EACH = "each"
    """Every one is sent."""


def _catch_up(value: CatchUp | str) -> CatchUp:
    # An invalid value is left unchanged, and reported together with all other problems.
    return next((each for each in CatchUp if each == value), cast("CatchUp", value))


@frozen(kw_only=True)
class Timing:
    """When briefs are generated, relative to their delivery.

    Attributes:
        lead: How long before delivery the content is cut off; generation happens in between.
        deadline: How long one brief may take to generate; zero is no limit. One that is longer than ``lead`` makes
            late briefs possible.
        horizon: How far ahead of ``lead`` a plan looks. Plan more often than this.
        catch_up: What happens to missed occurrences.
        max_lateness: Missed occurrences older than this are never sent.
        look_back: How far before its own moment the very first plan looks.
    """

    lead: timedelta = timedelta(minutes=15)
    deadline: timedelta = timedelta(minutes=5)
    horizon: timedelta = timedelta(hours=1)
    catch_up: CatchUp = field(default=CatchUp.LATEST, converter=_catch_up)
    max_lateness: timedelta = timedelta(hours=12)
    look_back: timedelta = timedelta(0)
    _spread: int = field(init=False, repr=False, eq=False, default=0)
    """The time over which generation is spread, in microseconds."""

    def __attrs_post_init__(self) -> None:
        refuse(
            bad_timing(
                lead=self.lead,
                deadline=self.deadline,
                horizon=self.horizon,
                catch_up=self.catch_up,
                max_lateness=self.max_lateness,
                look_back=self.look_back,
            )
        )
        object.__setattr__(self, "_spread", max((self.lead - self.deadline) // _MICROSECOND, 0))

    def generate_at(self, name: str, user_id: str, deliver_at: datetime) -> datetime:
        """Return when generation starts: spread by a stable hash of the user, so that not all start at once."""
        digest = hashlib.blake2b(f"{name}:{user_id}".encode(), digest_size=8).digest()
        return deliver_at - self.lead + timedelta(0, 0, (int.from_bytes(digest) * self._spread) >> 64)

    def window(self, occurrence: Occurrence, previous: Occurrence) -> Window:
        """Return the window of an occurrence: it starts where the content of the previous one was cut off."""
        return Window(previous.deliver_at - self.lead, occurrence.deliver_at - self.lead)

    def window_until(self, now: datetime, previous: Occurrence) -> Window:
        """Return the window of a brief generated right now: it starts where the previous content was cut off."""
        return Window(previous.deliver_at - self.lead, now)

    def job(
        self,
        name: str,
        user_id: str,
        occurrence: Occurrence,
        window: Window,
        *,
        status: JobStatus = JobStatus.PENDING,
        code: SkipReason | None = None,
        reason: str | None = None,
    ) -> Job:
        """Return the job of an occurrence, due when its generation starts."""
        return Job(
            type=name,
            user_id=user_id,
            occurrence=occurrence,
            run_at=self.generate_at(name, user_id, occurrence.deliver_at),
            window=window,
            status=status,
            code=code,
            reason=reason,
        )


def bad_timing(*, catch_up: CatchUp | str, **spans: timedelta) -> Iterator[BadValue]:
    """Yield the problems with the arguments of ``Timing``."""
    yield from bad_spans(spans)
    if catch_up not in tuple(CatchUp):
        yield BadValue("catch_up", catch_up, f"must be one of {', '.join(CatchUp)}")


@frozen(kw_only=True)
class Retrying:
    """How failed attempts are retried: the back-off doubles from ``first`` to ``longest``, plus or minus a quarter.

    Attempts that end with ``RetryLater``, or for which preferences or activity could not be read, do not count; such
    a job ends when it is too late. A demanded job is never too late, so for it they count.

    Attributes:
        attempts: How often a job is tried in all, including attempts whose worker died; at least 1. A job that has
            none left because workers died gets one more with nothing else running, since it may not be to blame.
        first: The wait after the first attempt, before the variation.
        longest: The longest wait, before the variation; at most 366 days.
    """

    attempts: int = 3
    first: timedelta = timedelta(minutes=1)
    longest: timedelta = timedelta(hours=1)

    def __attrs_post_init__(self) -> None:
        problems = [*bad_counts({"attempts": self.attempts}), *bad_spans({"first": self.first})]
        refuse([*problems, *bad_spans({"longest": self.longest}, most=FURTHEST)])

    def delay(self, attempt: int) -> timedelta:
        """Return how long to wait after this attempt, counted from 1."""
        # In float seconds, which can hold values that would overflow a timedelta.
        doubled = self.first.total_seconds() * 2.0 ** min(attempt - 1, 1000)
        seconds = min(doubled, self.longest.total_seconds())
        return timedelta(seconds=seconds * random.uniform(0.75, 1.25))  # noqa: S311 - jitter, not a secret
