"""What every test shares: the backends, and Hypothesis profiles (``HYPOTHESIS_PROFILE=ci|nightly``)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Hundreds of processes would compile all that they import, each for itself; so it is kept, but not beside the sources.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

pytest_plugins = ["services", "carriers", "figures"]

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


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leave out the logs of failures that are made: they are as they should be, thousands of them, and nobody reads them."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def pytest_configure(config: pytest.Config) -> None:
    """Let nightly tests take as long as they do."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" and not config.getoption("timeout"):
        config.option.timeout = 0


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run folders in several processes, and files and single tests right here, where nothing has to start first.

    There are two more than there are processors, since the slow tests wait for servers most of the time, but no more
    than the hundred connections of a PostgreSQL are enough for. ``-n NUMBER`` decides otherwise.
    """
    if all(Path(argument).is_dir() for argument in config.args):
        return min(8, 2 + (os.cpu_count() or 1))
    return 0


def slow_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Order tests so that half of the workers begin with what is slow, and none is left alone with it at the end.

    Each worker is given an equal share of the list, in order, and takes from the ends of others once it is through.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = iter([item for item in items if not item.get_closest_marker("slow")])
    beginning = max(1, workers // 2)
    ordered: list[pytest.Item] = []
    for worker in range(beginning):
        first = slow[worker::beginning]
        ordered += [*first, *islice(others, max(0, len(items) // workers - len(first)))]
    return [*ordered, *others]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes too long for every day, and put the tests in the best order for several workers."""
    worker: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        items[:] = slow_first(items, worker["workercount"])
    if os.environ.get("HYPOTHESIS_PROFILE") == "nightly":
        return
    skip = pytest.mark.skip(reason="takes minutes: HYPOTHESIS_PROFILE=nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)
