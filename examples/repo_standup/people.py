"""Who wants a brief, when, of what, and where it goes: one row of a CSV file a person.

What makes the file unusable (columns, encoding, ids) is refused as a whole, every problem named. What makes
one row unusable (zone, time, frequency, days) is passed on: the planner reports it, and the others get theirs.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from attrs import frozen

from fanout_briefs import Preference
from fanout_briefs.model import Page, Recipient

COLUMNS = ("user_id", "name", "email", "timezone", "frequency", "time_of_day", "days", "repositories")


class BadPeople(ValueError):
    """The file of people cannot be used; the message names everything that is wrong with it."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{path} cannot be used; mend it and run again:{lines}")


@frozen
class Person:
    """One row. ``repositories`` are names; none means all."""

    preference: Preference
    recipient: Recipient
    repositories: Sequence[str]

    @property
    def user_id(self) -> str:
        """The key of the row."""
        return self.preference.user_id


class CsvPreferences:
    """``Preferences`` over the rows; the cursor is the number of rows given so far."""

    def __init__(self, people: Sequence[Person]) -> None:
        self._people = people

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        """See ``fanout_briefs.ports.Preferences``."""
        start = int(cursor or 0)
        end = start + limit
        chosen = [person.preference for person in self._people[start:end]]
        return Page(chosen, str(end) if end < len(self._people) else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """See ``fanout_briefs.ports.Preferences``."""
        return {person.user_id: person.preference for person in self._people if person.user_id in user_ids}


class CsvRecipients:
    """``Recipients`` over the rows; without an address nobody can be reached."""

    def __init__(self, people: Sequence[Person]) -> None:
        self._people = people

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """See ``fanout_briefs.ports.Recipients``."""
        return {
            person.user_id: person.recipient
            for person in self._people
            if person.user_id in user_ids and person.recipient.address
        }


def read_people(path: Path) -> Sequence[Person]:
    """Read the file.

    Raises:
        BadPeople: It is missing, unreadable, not UTF-8, without rows, or has columns or ids that are missing or
            there twice; every problem is named, with its line.
    """
    problems: list[str] = []
    rows = list(_rows(path, _text(path), problems))
    first_line: dict[str, int] = {}
    for line, row in rows:
        user_id = row["user_id"]
        if not user_id:
            problems.append(f"line {line}: user_id is empty; give each person one of their own")
        elif user_id in first_line:
            problems.append(f"line {line}: user_id {user_id!r} is on line {first_line[user_id]} already")
        first_line.setdefault(user_id, line)
    if not rows and not problems:
        problems.append("it has no rows; add one for each person")
    if problems:
        raise BadPeople(path, problems)
    return [_person(row) for _, row in rows]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadPeople(path, [f"it cannot be read: {error.strerror}"]) from error
    try:
        return content.decode("utf-8-sig")  # Spreadsheets put a byte order mark in front.
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise BadPeople(path, [wrong]) from error


def _rows(path: Path, text: str, problems: list[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Give each row with its line number; rows without any value are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, list[str]())]
        missing = [name for name in COLUMNS if name not in header]
        twice = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
        if missing or twice:
            found = ", ".join(header) or "nothing"
            wrong = [f"line 1: column {name} is missing (found: {found})" for name in missing]
            raise BadPeople(path, wrong + [f"line 1: column {name} is there twice" for name in twice])
        for values in reader:
            if len(values) > len(header):
                problems.append(
                    f"line {reader.line_num}: {len(values)} values for {len(header)} columns; quote those with commas"
                )
            elif any(value.strip() for value in values):
                filled = values + [""] * (len(header) - len(values))
                yield reader.line_num, dict(zip(header, (value.strip() for value in filled), strict=True))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")


def _person(row: Mapping[str, str]) -> Person:
    numbers = [_number(part) for part in re.split(r"[;,\s]+", row["days"]) if part]
    weekly = row["frequency"] == "weekly"
    return Person(
        preference=Preference(
            user_id=row["user_id"],
            frequency=row["frequency"] or None,
            time_of_day=row["time_of_day"] or None,
            timezone=row["timezone"] or None,
            # Values that are no numbers pass as they are: the planner names them, and whose they are.
            day_of_week=cast("int", numbers[0] if len(numbers) == 1 else row["days"]) if weekly and numbers else None,
            days=cast("list[int]", numbers) if numbers and not weekly else None,
        ),
        recipient=Recipient(row["email"], row["name"] or None),
        repositories=[name.strip() for name in row["repositories"].split(";") if name.strip()],
    )


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
