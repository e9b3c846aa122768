"""The values: what is refused where they are made, and what follows from their fields."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from fanout_briefs.model import (
    Activity,
    Brief,
    Html,
    Job,
    JobStatus,
    Occurrence,
    ProjectBrief,
    Rendered,
    Section,
    SkipReason,
    Window,
    check_user_id,
)

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
NAIVE = datetime(2026, 3, 9, 9)


def a_job(**changed: Any) -> Job:
    return evolve(
        Job(
            type="daily_brief",
            user_id="ada",
            occurrence=Occurrence(date(2026, 3, 9), NINE),
            run_at=NINE,
            window=Window(NINE, NINE),
        ),
        **changed,
    )


def _occurrence(at: Any) -> object:
    return Occurrence(date(2026, 3, 9), at)


def _window_start(at: Any) -> object:
    return Window(at, NINE)


def _window_end(at: Any) -> object:
    return Window(NINE, at)


def _last_visit(at: Any) -> object:
    return Activity("ada", last_visit=at)


def _last_brief(at: Any) -> object:
    return Activity("ada", last_brief=at)


@pytest.mark.parametrize("make", [_occurrence, _window_start, _window_end, _last_visit, _last_brief])
class TestInstants:
    def test_a_naive_instant_is_refused_with_advice(self, make: Any) -> None:
        with pytest.raises(ValueError, match=r"must be aware, give it a tzinfo such as datetime\.UTC"):
            make(NAIVE)

    def test_what_is_no_instant_is_refused(self, make: Any) -> None:
        with pytest.raises(TypeError, match=r"='2026-03-09': must be a datetime"):
            make("2026-03-09")

    def test_an_aware_instant_is_taken_as_it_is(self, make: Any) -> None:
        assert make(NINE) == make(NINE)


def test_activity_may_be_unknown() -> None:
    assert Activity("ada") == Activity("ada", None, None)


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        a_job().occurrence.deliver_at = NINE  # type: ignore[misc]  # what is proven here


def test_values_that_plans_make_by_the_thousand_are_frozen_for_type_checkers_and_hashed_by_content() -> None:
    a_job().epoch = 2  # type: ignore[misc]  # what is proven here
    assert len({a_job(), a_job(), a_job(epoch=2)}) == 2


def test_the_dedup_key_names_type_date_and_user() -> None:
    assert a_job().dedup_key == "daily_brief:2026-03-09:ada"


def test_the_dedup_key_follows_when_a_job_is_changed() -> None:
    assert a_job(user_id="bob").dedup_key == "daily_brief:2026-03-09:bob"


def test_the_id_follows_from_the_dedup_key_alone() -> None:
    assert a_job(epoch=2, attempts=1).id == a_job().id
    assert a_job(user_id="bob").id != a_job().id


def test_the_id_is_the_same_everywhere_and_always() -> None:
    assert str(a_job().id) == "1fa1b6d1-623d-5796-b22b-814c7de3e6cd"


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("code", [None, *SkipReason])
def test_only_skipped_superseded_and_paused_slots_can_be_taken_up(status: JobStatus, code: SkipReason | None) -> None:
    expected = status == "skipped" or (status == "cancelled" and code in {"superseded", "paused"})
    assert a_job(status=status, code=code).can_be_taken_up is expected


def test_a_section_is_given_as_text() -> None:
    with pytest.raises(TypeError, match="text"):
        ProjectBrief(b"bytes")  # type: ignore[arg-type]  # what is proven here


def test_only_vouched_for_markup_is_taken_as_markup() -> None:
    with pytest.raises(TypeError, match="html"):
        ProjectBrief("text", html="<b>bold</b>")  # type: ignore[arg-type]  # what is proven here
    assert ProjectBrief("text", html=Html("<b>bold</b>")).html == "<b>bold</b>"


def test_a_brief_names_its_failed_sections() -> None:
    bad = Section(project_id="2", title="Two", error="no")
    brief = Brief(
        type="daily_brief",
        user_id="ada",
        occurrence=Occurrence(date(2026, 3, 9), NINE),
        window=Window(NINE, NINE),
        epoch=1,
        sections=[Section(project_id="1", title="One", text="fine"), bad, Section(project_id="3", title="Three")],
        rendered=Rendered("subject", "text", "html"),
    )
    assert brief.failed == (bad,)


@pytest.mark.parametrize("user_id", ["a", "a" * 255, "Zoë", "ada@example.com", "with space", "a:b", "👩‍💻"])
def test_ordinary_user_ids_are_good(user_id: str) -> None:
    assert check_user_id(user_id) is None


@pytest.mark.parametrize(
    ("user_id", "reason"),
    [
        ("", "must not be empty"),
        ("a" * 256, "must be at most 255 characters, it has 256"),
        ("a\nb", "must hold no control characters"),
        ("a\x00b", "must hold no control characters"),
        ("a\x7fb", "must hold no control characters"),
        ("a\x85b", "must hold no control characters"),
        ("a\ud800b", "must hold no lone surrogates"),
        (7, "must be a string, not int"),
        (None, "must be a string, not NoneType"),
    ],
)
def test_a_bad_user_id_is_told_why(user_id: object, reason: str) -> None:
    assert check_user_id(user_id) == reason


def test_markup_that_is_a_plain_string_is_refused_with_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"html must be Html, not str: wrap markup you vouch for, Html\(...\)"):
        ProjectBrief("text", html=cast("Html", "<b>bold</b>"))


def test_a_section_without_text_is_refused_in_one_line() -> None:
    with pytest.raises(TypeError, match=r"^text must be a string, not NoneType$"):
        ProjectBrief(cast("str", None))
