"""Both backends with clocks that jump to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
from typing import Any

from trio.testing import MockClock

__all__ = ["VirtualTimeLoop", "in_virtual_time"]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]  # asyncio's own queues
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]  # as above
        super()._run_once()  # type: ignore[misc]  # as above


def in_virtual_time(backend: str) -> tuple[str, dict[str, Any]]:
    """What an ``anyio_backend`` fixture returns for ``asyncio`` or ``trio``."""
    if backend == "trio":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualTimeLoop}
