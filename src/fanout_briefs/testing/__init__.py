"""Hold an adapter of your own to what its port promises.

``check_storage`` and its like give every clause that an adapter breaks. The contract classes run them under pytest, and
``StorageMachine`` stories that Hypothesis makes up; they, and nothing else here, need these two:
``pip install 'fanout-briefs[testing]'``. ``Faults`` have calls of an adapter go wrong, to see what comes of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fanout_briefs.testing.check import check_dispatcher, check_engagement, check_generator, check_storage
from fanout_briefs.testing.clock import Clock
from fanout_briefs.testing.faults import Faults
from fanout_briefs.testing.kit import BrokenClause

if TYPE_CHECKING:
    from fanout_briefs.testing.contracts import (
        DispatcherContract,
        EngagementContract,
        GeneratorContract,
        StorageContract,
    )
    from fanout_briefs.testing.machine.contract import StorageMachine

__all__ = [
    "BrokenClause",
    "Clock",
    "DispatcherContract",
    "EngagementContract",
    "Faults",
    "GeneratorContract",
    "StorageContract",
    "StorageMachine",
    "check_dispatcher",
    "check_engagement",
    "check_generator",
    "check_storage",
]

if not TYPE_CHECKING:  # Checkers would take every name for one of ours.

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Without pytest or Hypothesis, the rest is to be had all the same.
        place = "machine.contract" if name == "StorageMachine" else "contracts"
        return getattr(importlib.import_module(f"fanout_briefs.testing.{place}"), name)
