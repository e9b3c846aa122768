"""Every shipped storage is all that the ports ask for. Read by type checkers; nobody runs it."""

from __future__ import annotations

from fanout_briefs.ports import Ledger, Oversight, Preferences, ScheduleIndex, Storage, Work
from fanout_briefs.testing.kits import StorageWithScheduleIndex
from slots import AnyStorage


def is_a_storage(storage: AnyStorage) -> tuple[Ledger, Work, Oversight, Storage, StorageWithScheduleIndex]:
    return storage, storage, storage, storage, storage


def keeps_preferences(storage: AnyStorage) -> tuple[Preferences, ScheduleIndex]:
    return storage.preferences, storage.preferences
