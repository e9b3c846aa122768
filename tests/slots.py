"""Slots, claims and briefs in few words, as the contract kit ships them, and the storages that there are."""

from __future__ import annotations

from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.testing.slots import (
    DAY,
    HOUR,
    NOW,
    TODAY,
    brief_of,
    bring,
    claim,
    claim_one,
    found,
    job,
)

__all__ = ["DAY", "HOUR", "NOW", "TODAY", "AnyStorage", "brief_of", "bring", "claim", "claim_one", "found", "job"]

AnyStorage = MemoryStorage | SqliteStorage | PostgresStorage
