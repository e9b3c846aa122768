"""Stops work on signals: gracefully at the first SIGINT or SIGTERM, at once at the second."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, Self

import anyio

from fanout_briefs.cli import show
from fanout_briefs.cli.exits import log

__all__ = ["Stop"]

_STDERR = 2
_CLEAR_LINE = "\r\x1b[2K"
_SHOW_CURSOR = "\x1b[?25h\n"


class Stop:
    """Lets its body finish within ``grace`` of the first SIGINT or SIGTERM, then cancels it without an error.

    A second signal ends the process at once. The jobs that it held are recovered when their leases end, as after any
    other crash.

    Attributes:
        draining: Set at the first signal: start nothing more.
    """

    def __init__(self, grace: timedelta, *, drains_itself: bool = False) -> None:
        """Handle signals while the context is entered.

        Args:
            grace: How long the body may take to finish.
            drains_itself: Whether the body takes that time by itself once it is cancelled, as ``Briefs.serve`` does; it
                is then cancelled at the first signal.
        """
        self.draining: anyio.Event = anyio.Event()
        self._grace = grace
        self._drains_itself = drains_itself
        self._signal: int | None = None
        self._body = anyio.CancelScope()
        self._waiting = anyio.create_task_group()
        self._before: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status: 0, or 128 plus the signal's number."""
        return 0 if self._signal is None else 128 + self._signal

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()  # anyio.run uses asyncio by default.

        # The loop's own handlers do not run while a host's code blocks the loop, which is when a second signal comes.
        def handle(number: int, _: FrameType | None) -> None:
            if self._signal is not None:
                _say(_SHOW_CURSOR, "")  # A progress bar hides the cursor, and nothing else would restore it.
                os._exit(128 + number)
            self._signal = number
            what = f"nothing more is begun, and what runs has {show.length(self._grace)} to finish"
            _say(_CLEAR_LINE, f"{'Stopping':<9} {what}; once more ends it at once\n")
            loop.call_soon_threadsafe(self.draining.set)

        await self._waiting.__aenter__()
        self._waiting.start_soon(self._wait)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, handle)
        self._body.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            is_cut_short = bool(self._body.__exit__(kind, error, traceback))
            self._waiting.cancel_scope.cancel()
            await self._waiting.__aexit__(None, None, None)  # The body's own error propagates without a group.
        finally:
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        return is_cut_short

    async def _wait(self) -> None:
        await self.draining.wait()
        self._body.deadline = anyio.current_time() + (0 if self._drains_itself else self._grace.total_seconds())


def _say(on_a_terminal: str, text: str) -> None:
    """Write past Python's streams, since a signal may interrupt them in the middle of a write."""
    with suppress(OSError):  # Standard error may be closed.
        os.write(_STDERR, f"{on_a_terminal if log.is_terminal else ''}{text}".encode())
