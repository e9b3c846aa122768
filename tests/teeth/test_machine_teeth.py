"""The model machine finds storages that go wrong only in the course of things, and tells a short story of each."""

from __future__ import annotations

import re

import pytest
from hypothesis import Phase, settings
from test_other_ports import ALL as OTHERS
from test_teeth import ALL
from wrong import Wrong

from fanout_briefs.testing.checks import Broken
from fanout_briefs.testing.machine import run_stories
from pages import ROOT

BY_NAME = {wrong.does: wrong for wrong in ALL}
STATEFUL = [
    "checks then inserts",
    "checks then claims",
    "forgets finished slots",
    "does not raise the epoch of a slot that it takes up",
    "ignores the token",
    "gives tokens again after forgetting",
    "gives tokens again after a prune",
    "keeps the payloads of erased slots",
    "loses a slot at the border of two pages",
    "keeps the list of days that it is given",
    "gives the mapping that it keeps",
    "answers from memory",
]

SEARCH = settings(max_examples=40, stateful_step_count=25, derandomize=True, database=None)


def story_of(wrong: Wrong, backend: str, how: settings) -> str:
    """What the machine tells of a wrong storage; nothing if it finds nothing."""
    # A story counts no statements.
    capabilities = [name for name in wrong.right.offers if name != "trace"]
    try:
        run_stories(wrong.open(), capabilities=capabilities, backend=backend, settings=how)
    except Broken as broken:
        return "\n".join([str(broken), *getattr(broken, "__notes__", [])])
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(STATEFUL)), ids=[name.replace(" ", "-") for name in STATEFUL])
def test_a_storage_that_goes_wrong_in_the_course_of_things_is_found(place: int) -> None:
    backend = ("asyncio", "trio")[place % 2]
    told = story_of(BY_NAME[STATEFUL[place]], backend, settings(SEARCH, phases=[Phase.generate]))
    assert re.match(r"done: .+\ncame back: .+\npromised: ", told, re.DOTALL)


@pytest.mark.slow
def test_the_story_is_short_and_says_what_was_done_what_came_back_and_what_was_promised() -> None:
    told = story_of(BY_NAME["forgets finished slots"], "asyncio", SEARCH)
    done, came_back = told.split("came back: ", 1)
    assert len(done.splitlines()) <= 12
    assert re.search(r"enqueue\(\[<daily:2026-03-02:ann pending", done)
    assert re.search(r"finish\(<token \d+ until .* UTC for <daily:2026-03-02:ann processing", done)
    assert re.search(r"find\(.*-> \{.*\}$", done.rstrip()), "it ends with what came back"
    assert re.search(r"^promised: .+\nwhere: +\['daily:2026-03-02:ann'\] is absent, not <", came_back, re.MULTILINE)
    assert "state.teardown()" in came_back, "the steps, to be run again"


def test_the_page_of_the_kit_counts_what_is_tried() -> None:
    page = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    counts = (
        f"has {len(ALL)} wrong storages",
        f"For the other ports there are {len(OTHERS)}.",
        f"has to catch {len(STATEFUL)} of the wrong",
    )
    assert [count for count in counts if count not in page] == []
