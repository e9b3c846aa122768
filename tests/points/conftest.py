"""What goes wrong here is logged as it should be, thousands of times; nobody wants to read it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the logs of failures that are made."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
