"""The kits, one for each port that has clauses. ``clauses`` fills them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from fanout_briefs.model import Preference
from fanout_briefs.ports import Preferences, ScheduleIndex, StandingLedger, Storage
from fanout_briefs.testing.kit import Kit

__all__ = [
    "IndexedPreferences",
    "KeptPreferences",
    "OpenableStorage",
    "OpenableStorageWithPreferences",
    "StorageWithPreferences",
    "StorageWithScheduleIndex",
    "StorageWithStandings",
    "dispatcher_kit",
    "engagement_kit",
    "generator_kit",
    "storage_kit",
]


class KeptPreferences(Preferences, Protocol):
    """Preferences that a storage keeps itself. Beyond the port, the last page that has rows has no next cursor."""

    async def put(self, preferences: Iterable[Preference]) -> None:
        """Store these preferences, replacing those of the same users; all of them or none.

        Raises:
            InvalidPreferences: Some contain values that cannot be stored. Whether they form a valid schedule is
                checked by the planner, not here.
        """
        ...

    async def remove(self, user_ids: Collection[str]) -> None:
        """Remove the preferences of these users, but not their slots and briefs."""
        ...


class StorageWithPreferences(Storage, Protocol):
    """A storage with the capability ``preferences``."""

    @property
    def preferences(self) -> KeptPreferences:
        """The preferences that it keeps."""
        ...


class IndexedPreferences(KeptPreferences, ScheduleIndex, Protocol):
    """Preferences that a storage keeps itself, and that can be read by schedule."""


class StorageWithScheduleIndex(Storage, Protocol):
    """A storage with the capabilities ``preferences`` and ``schedule_index``."""

    @property
    def preferences(self) -> IndexedPreferences:
        """The preferences that it keeps."""
        ...


class OpenableStorage(Storage, AbstractAsyncContextManager[Any], Protocol):
    """A storage with the capability ``reopens``."""


class StorageWithStandings(StandingLedger, Storage, Protocol):
    """A storage with the capability ``standings``."""


class OpenableStorageWithPreferences(StorageWithPreferences, AbstractAsyncContextManager[Any], Protocol):
    """A storage with the capabilities ``preferences`` and ``reopens``."""


_TRACE: Final = (
    "the method that opens it takes `trace`, a function to be called once for each statement or round trip to the "
    "server; given only for the clauses that count them"
)

storage_kit: Final = Kit(
    "storage",
    {
        "preferences": "it keeps preferences, as an attribute `preferences` with `page`, `get`, `put` and `remove`",
        "reopens": "it is an async context manager, and may be opened again with its content, in another event loop too",
        "schedule_index": "the preferences that it keeps can be read by schedule, as `ports.ScheduleIndex` says",
        "shared": (
            "`open_storage` takes `beside`, a storage, and then opens one more on the same content, as another "
            "process would"
        ),
        "standings": "it tells how slots stand for less than their jobs, as `ports.StandingLedger` says",
        "trace": _TRACE,
    },
)
engagement_kit: Final = Kit("engagement", {"trace": _TRACE})
generator_kit: Final = Kit("generator", {"repeatable": "the same request comes to the same section"})
dispatcher_kit: Final = Kit("dispatcher", {})
