"""Every clause of the storage contract is failed by some adapter that is wrong in just that."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from wrong import MOST_LINES, Wrong
from wrong_claims import CLAIMS
from wrong_ledger import LEDGERS
from wrong_opening import OPENING
from wrong_oversight import OVERSIGHT
from wrong_pauses import PAUSES
from wrong_planning import PLANNING
from wrong_preferences import PREFERENCES
from wrong_sqlite import SQL
from wrong_values import CANCELLATION, VALUES
from wrong_work import WORK

from fanout_briefs.testing import check_storage
from fanout_briefs.testing.clauses import storage_kit

ALL = [*PLANNING, *LEDGERS, *CLAIMS, *WORK, *PAUSES, *OVERSIGHT, *OPENING, *VALUES, *CANCELLATION, *PREFERENCES, *SQL]

NOT_FAILED: dict[str, str] = {}
"""Clauses that no wrong adapter fails, each with the reason."""

# What is wrong is wrong on either backend, and a run takes seconds; the shipped adapters are held to all clauses on both.
# Every fortieth is tried every day.
RUNS = [
    pytest.param(
        wrong, ("asyncio", "trio")[number % 2], id=str(wrong), marks=[pytest.mark.nightly] if number % 40 else []
    )
    for number, wrong in enumerate(ALL)
]


def test_every_clause_is_failed_by_some_wrong_adapter() -> None:
    failed = {clause for wrong in ALL for clause in wrong.fails}
    assert {clause.id for clause in storage_kit} - failed == NOT_FAILED.keys()


def test_every_wrong_adapter_fails_something_and_is_like_no_other() -> None:
    assert [wrong.does for wrong in ALL if not wrong.fails] == []
    assert [does for does, times in Counter(wrong.does for wrong in ALL).items() if times > 1] == []


@pytest.mark.parametrize("wrong", ALL, ids=str)
def test_a_wrong_adapter_is_the_shipped_one_but_for_a_few_lines(wrong: Wrong) -> None:
    assert 1 <= wrong.lines_changed() <= MOST_LINES


@pytest.mark.slow
@pytest.mark.no_cover  # The lines of the core that it runs are those of tests/contracts, and watched it takes twice as long.
@pytest.mark.parametrize(("wrong", "backend"), RUNS)
def test_a_wrong_adapter_fails_its_clauses_and_keeps_all_others(wrong: Wrong, backend: str) -> None:
    async def check() -> set[str]:
        return {broken.id for broken in await check_storage(wrong.open(), capabilities=wrong.right.offers)}

    assert anyio.run(check, backend=backend) == {*wrong.fails}
