"""What every test shares: the backends, and Hypothesis profiles (``HYPOTHESIS_PROFILE=ci|nightly``)."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest_plugins = ["services", "carriers"]

settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=5000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# For tests/mutation: what fails needs no smallest example there.
settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio"), pytest.param("trio", id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run each async test on asyncio and on trio."""
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes too long for every day."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "nightly":
        skip = pytest.mark.skip(reason="takes minutes: HYPOTHESIS_PROFILE=nightly")
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(skip)
