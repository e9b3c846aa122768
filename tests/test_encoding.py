"""The JSON form of briefs: what is saved today must be read by every later release."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.encoding import decode_brief, decode_mail, encode_brief, encode_mail
from fanout_briefs.model import Brief, Html, Occurrence, Rendered, Section, Window

AT = datetime(2026, 3, 2, 8, 30, 0, 1, tzinfo=UTC)
BRIEF = Brief(
    type="daily",
    user_id="änn",
    occurrence=Occurrence(date(2026, 3, 2), AT),
    window=Window(AT - timedelta(days=1), AT),
    epoch=2,
    sections=(
        Section(project_id="p1", title="One", text="text", html=Html("<b>text</b>")),
        Section(project_id="p2", title="Two", error="TimeoutError()"),
    ),
    rendered=Rendered(subject="Subject", text="Text", html="<html/>"),
)
SAVED = (
    '{"version":1,"type":"daily","user_id":"änn","local_date":"2026-03-02",'
    '"deliver_at":"2026-03-02T08:30:00.000001+00:00",'
    '"window":["2026-03-01T08:30:00.000001+00:00","2026-03-02T08:30:00.000001+00:00"],"epoch":2,"sections":['
    '{"project_id":"p1","title":"One","text":"text","html":"<b>text</b>","error":null},'
    '{"project_id":"p2","title":"Two","text":"","html":null,"error":"TimeoutError()"}],'
    '"rendered":{"subject":"Subject","text":"Text","html":"<html/>"}}'
).encode()
KEY = "daily_brief:2026-03-09:ada:3"
SAVED_MAIL = b'{"version":1,"subject":"Subject","text":"Text","html":"<html/>","key":"daily_brief:2026-03-09:ada:3"}'


def test_the_form_of_a_brief_is_this_one() -> None:
    assert encode_brief(BRIEF) == SAVED
    assert decode_brief(SAVED) == BRIEF


def test_the_form_of_a_rendered_brief_is_this_one() -> None:
    assert encode_mail(BRIEF.rendered, KEY) == SAVED_MAIL
    assert decode_mail(SAVED_MAIL) == (BRIEF.rendered, KEY)


def test_markup_that_was_vouched_for_stays_vouched_for() -> None:
    html, none = (section.html for section in decode_brief(SAVED).sections)
    assert type(html) is Html
    assert none is None


def test_fields_of_a_later_release_are_ignored() -> None:
    fields = json.loads(SAVED)
    fields["mood"] = fields["rendered"]["mood"] = fields["sections"][0]["mood"] = "sunny"
    assert decode_brief(json.dumps(fields).encode()) == BRIEF


def test_sections_given_as_a_list_come_back_as_a_tuple() -> None:
    assert decode_brief(encode_brief(evolve(BRIEF, sections=list(BRIEF.sections)))) == BRIEF


@pytest.mark.parametrize(
    "at",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
        datetime(2026, 3, 2, tzinfo=timezone(timedelta(hours=-5, seconds=-7))),
    ],
    ids=str,
)
def test_instants_come_back_exactly_and_in_utc(at: datetime) -> None:
    back = decode_brief(encode_brief(evolve(BRIEF, window=Window(at, at))))
    assert back.window.start == back.window.end == at.astimezone(UTC)
    assert back.window.start.tzinfo is UTC


def test_a_naive_instant_is_refused() -> None:
    window = Window(AT, AT)
    # The model refuses it where it is made; only somebody who goes round the model gets here.
    object.__setattr__(window, "start", AT.replace(tzinfo=None))
    with pytest.raises(ValueError, match="must be aware"):
        encode_brief(evolve(BRIEF, window=window))


@pytest.mark.parametrize("decode", [decode_brief, decode_mail])
@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"null", b"[]", b"7", b'"text"', b"{}", b'{"version":1}', SAVED[:-9], b'{"version":1,"window":7}'],
)
def test_bytes_of_something_else_are_refused(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(ValueError, match="was damaged, or something else wrote it"):
        decode(data)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_the_form_of_another_release_is_refused(version: object) -> None:
    fields = {**json.loads(SAVED_MAIL), "version": version}
    with pytest.raises(ValueError, match=r"this release knows 1: upgrade fanout-briefs"):
        decode_mail(json.dumps(fields).encode())


texts = st.text(st.characters(exclude_categories=()))


@given(st.builds(Rendered, subject=texts, text=texts, html=texts), texts)
def test_any_text_comes_back_lone_surrogates_and_all(rendered: Rendered, key: str) -> None:
    assert decode_mail(encode_mail(rendered, key)) == (rendered, key)


sections = st.builds(
    Section, project_id=texts, title=texts, text=texts, html=st.none() | texts.map(Html), error=st.none() | texts
)


@given(
    st.lists(sections, max_size=3).map(tuple),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.integers(min_value=1),
)
def test_any_brief_comes_back(written: tuple[Section, ...], on: date, at: datetime, epoch: int) -> None:
    brief = evolve(BRIEF, sections=written, occurrence=Occurrence(on, at), epoch=epoch)
    assert decode_brief(encode_brief(brief)) == brief
