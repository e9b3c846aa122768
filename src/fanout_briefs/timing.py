"""When briefs are made, relative to when they are delivered. Pure."""

from __future__ import annotations

import enum
import hashlib
from datetime import datetime, timedelta

from attrs import field, frozen
from attrs.validators import ge

from fanout_briefs.model import Job, Occurrence, Window

__all__ = ["CatchUp", "Timing"]

_not_negative = ge(timedelta(0))


class CatchUp(enum.StrEnum):
    """What happens to occurrences that were missed while nothing planned."""

    SKIP = "skip"
    """None is sent."""
    LATEST = "latest"
    """The latest of each user is sent, the others are not."""
    EACH = "each"
    """Every one is sent."""


def _catch_up(value: CatchUp | str) -> CatchUp:
    try:
        return CatchUp(value)
    except ValueError:
        raise ValueError(f"catch_up={value!r}: must be one of {', '.join(CatchUp)}") from None


@frozen(kw_only=True)
class Timing:
    """When briefs are made, relative to when they are delivered.

    Attributes:
        lead: How long before delivery the content is cut off; generation happens in between.
        deadline: How long one brief may take to generate; at most ``lead``, unless ``lead`` is zero.
        horizon: How far ahead of ``lead`` a plan looks. Plan more often than this.
        catch_up: What happens to missed occurrences.
        max_lateness: Missed occurrences older than this are never sent.
        look_back: How far before its own moment the very first plan looks.
    """

    lead: timedelta = field(default=timedelta(minutes=15), validator=_not_negative)
    deadline: timedelta = field(default=timedelta(minutes=5), validator=_not_negative)
    horizon: timedelta = field(default=timedelta(hours=1), validator=_not_negative)
    catch_up: CatchUp = field(default=CatchUp.LATEST, converter=_catch_up)
    max_lateness: timedelta = field(default=timedelta(hours=12), validator=_not_negative)
    look_back: timedelta = field(default=timedelta(0), validator=_not_negative)

    def generate_at(self, name: str, user_id: str, deliver_at: datetime) -> datetime:
        """When generation starts: spread over the lead by a stable hash of the user, so that not all start at once."""
        digest = hashlib.blake2b(f"{name}:{user_id}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest) / 2**64
        return deliver_at - self.lead + share * max(self.lead - self.deadline, timedelta(0))

    def job(self, name: str, user_id: str, occurrence: Occurrence, previous: Occurrence) -> Job:
        """The slot of an occurrence; its content begins where that of the previous one was cut off."""
        return Job(
            type=name,
            user_id=user_id,
            occurrence=occurrence,
            run_at=self.generate_at(name, user_id, occurrence.deliver_at),
            window=Window(previous.deliver_at - self.lead, occurrence.deliver_at - self.lead),
        )
