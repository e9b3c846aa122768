"""The scripts that the server runs, and the keys that they work on.

A script is one atomic step: nobody sees it half done, and an append-only file holds all of its writes or none. Each
operation of the storage is one of them, so a batch costs one round trip whatever its size.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ["KEYS", "source"]

KEYS: Final = (
    "slots",
    "payloads",
    "briefs",
    "saved",
    "saved_as",
    "delivery",
    "owners",
    "codes",
    "due",
    "leases",
    "fence",
    "marks",
    "plans",
    "pauses",
    "preferences",
    "people",
    "schedules",
    "schedule_of",
    "holders",
    "format",
)
"""All of them, as ``slots.lua`` names them. Every script is given them all, since a cluster allows no others."""

_FIRST: Final = ("slots", "preferences")


@cache
def source(name: str) -> str:
    """Give the text of a script: what all of them begin with, and its own."""
    folder = files("redis_briefs") / "scripts"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*_FIRST, name))
