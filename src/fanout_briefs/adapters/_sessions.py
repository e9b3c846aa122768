"""Who has a storage open, and in which event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from anyio.lowlevel import EventLoopToken, current_token

from fanout_briefs.errors import StorageUnavailable
from fanout_briefs.rules import not_open

__all__ = ["Session", "Sessions"]


class Session(Protocol):
    """The time from the first opening of a storage to the last closing."""

    async def open(self) -> None:
        """Connect, unless that is done already."""
        ...

    async def close(self) -> None:
        """Disconnect, even while being cancelled."""
        ...


_S = TypeVar("_S", bound=Session)


class Sessions(Generic[_S]):
    """Opens a session for the first that enters a storage, and closes it for the last that leaves.

    A session belongs to one event loop: its limiters would make tasks of another loop wait forever. So these are
    refused. A loop that was closed without leaving counts as having left.
    """

    def __init__(self, place: str, begin: Callable[[], _S]) -> None:
        self._place = place
        self._begin = begin
        self._guard = threading.Lock()
        self._loop: EventLoopToken | None = None
        self._users = 0
        self.session: _S | None = None

    def current(self) -> _S:
        """Return the open session.

        Raises:
            StorageUnavailable: The storage is not open, or open in another event loop.
        """
        if self.session is None:
            raise not_open(self._place)
        if self._loop != current_token():
            raise self._elsewhere()
        return self.session

    async def enter(self) -> None:
        """Open the session, or join those who have it open.

        Raises:
            StorageUnavailable: It cannot be opened, or is open in another event loop.
        """
        # No await before the count is right: another task may enter or leave at any await.
        here = current_token()
        with self._guard:
            if self.session is None or _is_closed(self._loop):
                self.session, self._loop, self._users = self._begin(), here, 0
            elif self._loop != here:
                raise self._elsewhere()
            session = self.session
            self._users += 1
        try:
            await session.open()
        except BaseException:
            await self._leave(session)
            raise

    async def leave(self) -> None:
        """Leave the session, and close it if nobody else has it open."""
        # What is left of a loop that was closed may come late, and must not close the session of the next one.
        if self.session is not None and self._loop == current_token():
            await self._leave(self.session)

    async def _leave(self, session: _S) -> None:
        with self._guard:
            self._users -= 1
            if self._users > 0:
                return
            self.session = self._loop = None
        await session.close()

    def _elsewhere(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._place} is open in another event loop: give each event loop, and each process after a fork, a "
            "storage object of its own"
        )


def _is_closed(loop: EventLoopToken | None) -> bool:
    # Trio's token cannot tell, but trio leaves no task behind.
    native: Any = None if loop is None else loop.native_token
    is_closed = getattr(native, "is_closed", None)
    return is_closed is not None and bool(is_closed())
