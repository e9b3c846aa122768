"""The arguments of commands, with their checks: application, user, moments, dates and lengths of time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from fanout_briefs.model import check_user_id

__all__ = [
    "GRACE",
    "App",
    "AsOf",
    "Grace",
    "Json",
    "KnownUser",
    "On",
    "Since",
    "User",
    "duration",
    "good_user",
    "refuse_the_future",
    "written",
]

_YEARS = range(1970, 9000)
_FUTURE = timedelta(days=1)
_LONGEST = timedelta(days=36_500)
"""Keeps moments that are computed from a length of time within the calendar."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

GRACE = timedelta(seconds=30)
"""How long running work may take to finish after the first signal, by default."""


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 instant, such as 2026-11-23T08:00+01:00") from None
    if instant.utcoffset() is None:
        given = instant.isoformat()
        raise typer.BadParameter(f"{text!r} has no offset: write {given}Z for UTC, or such as {given}+01:00")
    if instant.year not in _YEARS:
        raise typer.BadParameter(f"{text!r}: must be in the years {_YEARS[0]} to {_YEARS[-1]}")
    return instant


def _date(text: str) -> date:
    try:
        on = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date, such as 2026-11-23") from None
    if on.year not in _YEARS:
        raise typer.BadParameter(f"{text!r}: must be in the years {_YEARS[0]} to {_YEARS[-1]}")
    return on


def _length(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS):
        raise typer.BadParameter(f"{text!r} is no time: write a whole number and s, m, h or d, such as 5m")
    # Ten digits are years in any unit, and too many digits make ``int`` fail.
    length = timedelta(**{_UNITS[unit]: int(number)}) if len(number) < 10 else timedelta.max
    if length > _LONGEST:
        raise typer.BadParameter(f"{text!r} is too long: at most {_LONGEST.days}d")
    return length


def duration(text: str) -> timedelta:
    """Parse a length of time, such as ``5m``.

    Raises:
        typer.BadParameter: It is malformed, zero, or longer than a century.
    """
    length = _length(text)
    if not length:
        raise typer.BadParameter(f"{text!r} is no time: it must be more than zero, such as 5m")
    return length


def written(length: timedelta) -> str:
    """Format a length of time so that ``duration`` can parse it."""
    seconds = int(length.total_seconds())
    unit, size = next(
        (unit, size) for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)) if seconds % size == 0
    )
    return f"{seconds // size}{unit}"


def good_user(user_id: str | None) -> str | None:
    """Return the user id unchanged, if it is valid.

    Raises:
        typer.BadParameter: It is not valid.
    """
    wrong = None if user_id is None else check_user_id(user_id)
    if wrong is not None:
        raise typer.BadParameter(f"{user_id!r}: {wrong}")
    return user_id


def refuse_the_future(as_of: datetime | None) -> None:
    """Refuse a moment far ahead: planning it counts as done, so a mistyped year would stop catching up until then.

    Raises:
        typer.BadParameter: The moment is far ahead.
    """
    if as_of is not None and as_of > datetime.now(UTC) + _FUTURE:
        raise typer.BadParameter(
            f"--as-of {as_of.isoformat()} lies in the future, and all before it would count as planned: "
            "look ahead with plan --dry-run, explain or preview"
        )


App = Annotated[
    str,
    typer.Argument(
        metavar="APP", help="The application, as module:attribute: a Briefs, or a function that returns one."
    ),
]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.")]
KnownUser = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", callback=good_user)]
AsOf = Annotated[
    datetime | None,
    typer.Option(parser=_instant, metavar="INSTANT", help="The moment to act for, ISO 8601 with offset; default: now."),
]
On = Annotated[date | None, typer.Option(parser=_date, metavar="DATE", help="The user's local date; default: today.")]
Since = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="TIME", help="How far back to look, by time of delivery; default: 24h."),
]
Grace = Annotated[
    timedelta | None,
    typer.Option(parser=_length, metavar="TIME", help="How long running work may take to finish; default: 30s."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
