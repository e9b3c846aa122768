"""Figures that tests took, for the log of every build: told with the test's report, from whatever process ran it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

__all__ = ["Tell"]

Tell = Callable[[str], None]
_FIGURE = "figure"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Have a text stand in the log, where this test passes or fails."""
    return partial(record_property, _FIGURE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        str(text)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, text in report.user_properties
        if name == _FIGURE
    ]
    if told:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(told))
