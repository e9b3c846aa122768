"""What a person sees: every section in its place, and nothing that a title, a text or an error could act as."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.model import Html, Occurrence, Rendered, Section
from fanout_briefs.render import render_brief

# What str.splitlines, mail headers, terminals or XML take for more than a character of text.
HOSTILE = [
    "two\nlines",
    "carriage\rreturn",
    "Subject: x\r\nBcc: everyone@example.com",
    "next\x85line",
    "line\u2028separator\u2029paragraph",
    "form\x0cfeed\x0bvertical\x1cfile",
    "nul\x00 bell\x07 escape\x1b[2J delete\x7f sequence\x9b2J",
    "lone \ud800 surrogate",
]
TAGS = ["html", "head", "meta", "title", "body", "header", "h1", "p"]


def rendered(
    *sections: Section, title: str = "Daily brief", on: date = date(2026, 3, 9), with_errors: bool = True
) -> Rendered:
    return render_brief(title, Occurrence(on, datetime(2026, 3, 9, 9, tzinfo=UTC)), sections, with_errors=with_errors)


def a_section(title: str = "Aurora", text: str = "Two commits.", html: Html | None = None) -> Section:
    return Section(project_id="1", title=title, text=text, html=html)


def a_failure(title: str = "Borealis", error: str = "OSError: gone") -> Section:
    return Section(project_id="2", title=title, error=error)


class Outline(HTMLParser):
    """The tags of a document in order, and the text between them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def expected_tags(sections: Sequence[Section]) -> list[str]:
    return TAGS + ["section", "h2", "p"] * len(sections)


@pytest.mark.parametrize(
    ("on", "shown"),
    [
        (date(2026, 3, 9), "Monday, 9 March 2026"),
        (date(2026, 12, 31), "Thursday, 31 December 2026"),
        (date(2024, 2, 29), "Thursday, 29 February 2024"),
    ],
)
def test_the_subject_holds_title_and_local_date(on: date, shown: str) -> None:
    assert rendered(a_section(), on=on).subject == f"Daily brief for {shown}"


def test_the_text_holds_every_section_in_order() -> None:
    text = rendered(a_section("Aurora", "Two commits.\nOne branch."), a_section("Borealis", "  Quiet.\n\n")).text
    assert text == (
        "Daily brief for Monday, 9 March 2026\n"
        "====================================\n\n"
        "Aurora\n------\nTwo commits.\nOne branch.\n\n"
        "Borealis\n--------\nQuiet.\n"
    )


def test_a_failed_section_says_so_in_its_place_in_both_forms() -> None:
    brief = rendered(a_section(), a_failure(), a_section("Corona"))
    assert "1 of 3 sections could not be made." in brief.text
    assert "Borealis\n--------\n[This section could not be made: OSError: gone]" in brief.text
    assert brief.text.index("Aurora") < brief.text.index("Borealis") < brief.text.index("Corona")
    assert "1 of 3 sections could not be made." in brief.html
    assert "This section could not be made: OSError: gone" in brief.html
    assert brief.html.index("Aurora") < brief.html.index("Borealis") < brief.html.index("Corona")


def test_why_a_section_failed_is_told_only_where_that_is_asked_for() -> None:
    brief = render_brief(
        "Daily brief", Occurrence(date(2026, 3, 9), datetime(2026, 3, 9, 9, tzinfo=UTC)), [a_failure()]
    )
    assert "[This section could not be made.]" in brief.text
    assert "This section could not be made.<" in brief.html
    assert "gone" not in brief.text + brief.html


def test_a_whole_brief_speaks_of_no_failure() -> None:
    brief = rendered(a_section())
    assert "could not be made" not in brief.text + brief.html


def test_markup_that_the_host_vouches_for_stands_as_it_is() -> None:
    assert "<ul><li>Two</li></ul>" in rendered(a_section(html=Html("<ul><li>Two</li></ul>"))).html


def test_markup_that_nobody_vouches_for_is_not_taken_as_markup() -> None:
    bare = Section(project_id="1", title="Aurora", text="safe", html="<script>alert(1)</script>")  # type: ignore[arg-type]  # what is proven here
    html = rendered(bare).html
    assert "<script" not in html
    assert "safe" in html


def test_the_error_of_a_failed_section_wins_over_its_markup() -> None:
    section = Section(project_id="1", title="Aurora", html=Html("<b>half done</b>"), error="OSError: gone")
    assert "half done" not in rendered(section).html


@pytest.mark.parametrize("hostile", HOSTILE)
def test_the_subject_is_one_line_whatever_the_title_holds(hostile: str) -> None:
    subject = rendered(a_section(), title=hostile).subject
    assert len(subject.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", subject)
    assert subject.endswith(" for Monday, 9 March 2026")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_title_or_error_can_pass_for_another_section_of_the_text(hostile: str) -> None:
    lines = rendered(a_section(hostile), a_failure(hostile, hostile)).text.splitlines()
    plain = rendered(a_section("x"), a_failure("x", "x")).text.splitlines()
    assert len(lines) == len(plain)


def test_a_forged_heading_in_a_title_stays_in_the_title() -> None:
    text = rendered(a_section("Aurora\n------\nAll is well.\n\nPayroll")).text
    assert "Aurora ------ All is well. Payroll\n----------------------------------\nTwo commits." in text


def test_joined_emoji_survive() -> None:
    assert "👩‍💻 at work" in rendered(a_section(), title="👩‍💻 at work").subject


@given(title=st.text(), text=st.text(), error=st.text(), name=st.text())
def test_no_string_becomes_markup(title: str, text: str, error: str, name: str) -> None:
    sections = [a_section(name, text), a_failure(name, error)]
    outline = Outline(rendered(*sections, title=title).html)
    assert outline.tags == expected_tags(sections)


@pytest.mark.parametrize(
    "hostile",
    ['<script>alert("x")</script>', "</title><h1>x", "&lt;b&gt;", '" onload="x', "<!--", "]]>", "{{ 7 * 7 }}"],
)
def test_hostile_strings_are_read_back_as_they_were_written(hostile: str) -> None:
    sections = [a_section(hostile, hostile), a_failure(hostile, hostile)]
    outline = Outline(rendered(*sections, title=hostile).html)
    assert outline.tags == expected_tags(sections)
    assert outline.texts.count(hostile) == 3  # both headings, and the plain text
    assert f"This section could not be made: {hostile}" in outline.texts
    assert outline.texts.count(f"{hostile} for Monday, 9 March 2026") == 2  # in the head and on top
