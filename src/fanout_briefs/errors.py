"""The library's exceptions, named after the state they report.

Most take typed arguments and build their own message, which says what to do next.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from attrs import frozen

__all__ = [
    "BadValue",
    "BriefFailed",
    "InvalidPreferences",
    "InvalidSchedule",
    "ItemCancelled",
    "NotSent",
    "NotStarted",
    "PermanentFailure",
    "RetryLater",
    "SchemaTooNew",
    "SourceError",
    "StorageUnavailable",
    "TooManyFailures",
    "UnknownUser",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@frozen(slots=False)  # FastAPI serialises errors within errors by their ``__dict__``, and fails without one.
class BadValue:
    """One value that was refused, and why.

    Attributes:
        field: The name of the parameter or column.
        value: The value as it was given.
        reason: What is wrong with it and what would be accepted, as a clause.
        user_id: The user that the value belongs to, if it belongs to one.
    """

    field: str
    value: object
    reason: str
    user_id: str | None = None

    def __str__(self) -> str:
        where = self.field if self.user_id is None else f"{self.field} of user {self.user_id!r}"
        return f"{where}={_shown(self.value)}: {self.reason}"


def _shown(value: object) -> str:
    """Return a short text for any value; never fails."""
    try:
        return _SHORT.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


class InvalidSchedule(ValueError):
    """Preference fields do not make a schedule. ``problems`` names every bad field, not only the first."""

    def __init__(self, problems: Sequence[BadValue]) -> None:
        self.problems: tuple[BadValue, ...] = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class InvalidPreferences(ValueError):
    """A batch of preferences has bad values, so none of it was stored. ``problems`` names them all."""

    def __init__(self, problems: Sequence[BadValue]) -> None:
        self.problems: tuple[BadValue, ...] = tuple(problems)
        count = len(self.problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(
            f"{count} bad value{'s' if count != 1 else ''}, so nothing was stored; mend and store again:{lines}"
        )


class ItemCancelled(Exception):
    """An item was cancelled, but not from outside; for example, it awaited a cancelled future."""

    def __init__(self) -> None:
        super().__init__(
            "the item was cancelled from within: it awaited something cancelled, or cancelled its own task"
        )


class SourceError(Exception):
    """The source of items raised; all items pulled before were settled first. ``__cause__`` is what it raised.

    Attributes:
        outcomes: The outcomes of the items pulled before the failure, in input order. Empty if a stream raises this
            error, since its reader has already taken them.
    """

    def __init__(self, outcomes: Sequence[Any] = ()) -> None:
        self.outcomes: tuple[Any, ...] = tuple(outcomes)
        kept = f"; .outcomes holds what the {len(self.outcomes)} items before that came to" if outcomes else ""
        super().__init__(f"the source of items raised, see the cause{kept}")


class NotStarted(Exception):
    """An item was never started, because the gather ended before its turn came."""

    def __init__(self) -> None:
        super().__init__("the item was never started: its gather was over before its turn came; gather it again")


class TooManyFailures(Exception):
    """``max_failures`` items were rejected; no more were started, and those in progress settled.

    ``__cause__`` is the error of the first of them, in input order.

    Attributes:
        outcomes: The outcomes of all pulled items, in input order; later items were not pulled.
        max_failures: The number of rejected items at which the gather stops.
    """

    def __init__(self, outcomes: Sequence[Any], max_failures: int) -> None:
        self.outcomes: tuple[Any, ...] = tuple(outcomes)
        self.max_failures = max_failures
        super().__init__(
            f"max_failures={max_failures} reached; .outcomes holds what the {len(self.outcomes)} items pulled came to"
        )


class StorageUnavailable(Exception):
    """The storage cannot be opened or used. The message names the place and says what to do."""


class SchemaTooNew(StorageUnavailable):
    """The storage was written by a newer release of this library; nothing was changed."""

    def __init__(self, place: str, found: int, supported: int) -> None:
        self.place = place
        self.found = found
        self.supported = supported
        super().__init__(
            f"{place} has schema version {found}, and this release knows up to {supported}: upgrade fanout-briefs"
        )


class UnknownUser(LookupError):
    """No preference is known for a user."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        super().__init__(f"no preference is known for user {user_id!r}: check the id against the host's preferences")


class BriefFailed(Exception):
    """A brief could not be made; for example, all its sections failed.

    Raised while a job runs, it counts as a failed attempt, which is retried as ``retrying`` says.
    ``Briefs.generate_now`` raises it to say why there is no brief; the message tells whether another attempt follows.
    """


class RetryLater(Exception):
    """Raised by a generator, projects source or mailer to ask for another attempt after a given time.

    Attributes:
        seconds: The minimum wait, such as a provider's ``Retry-After``.
    """

    def __init__(self, seconds: float, message: str | None = None) -> None:
        if not seconds >= 0:
            raise ValueError(f"seconds={seconds!r}: must be zero or more")
        self.seconds = seconds
        super().__init__(message or f"asked to retry later, in {seconds:g} s")


class PermanentFailure(Exception):
    """Raised by a generator, projects source or mailer when another attempt cannot help."""


class NotSent(Exception):
    """Raised by a mailer when the mail has certainly not left.

    ``RetryLater`` and ``PermanentFailure`` mean the same. After any other error of a mailer that is not idempotent,
    the outcome is unknown.

    Attributes:
        permanent: True when another attempt cannot help, for example if the address does not exist.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(message)
