"""Sections made of facts and templates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import anyio
import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs.adapters.jinja import JinjaGenerator
from fanout_briefs.model import Html, Occurrence, Project, ProjectBrief, SectionRequest, Window
from fanout_briefs.ports import Generator

NOW = datetime(2026, 3, 9, 6, 30, tzinfo=UTC)
REQUEST = SectionRequest(
    user_id="ada",
    project=Project("p1", "Rocket"),
    window=Window(NOW - timedelta(days=1), NOW),
    occurrence=Occurrence(date(2026, 3, 9), NOW),
    timezone="Europe/Berlin",
)


def knowing(**facts: object) -> Callable[[SectionRequest], Awaitable[Mapping[str, object] | None]]:
    async def facts_about(request: SectionRequest) -> Mapping[str, object] | None:
        return facts

    return facts_about


async def made(generator: Generator) -> ProjectBrief:
    brief = await generator.generate(REQUEST)
    assert brief is not None
    return brief


async def test_a_section_is_made_of_facts_and_of_what_was_asked() -> None:
    text = "{{ request.user_id }} {{ project.name }} {{ window.end.hour }} {{ tasks|length }} tasks"
    brief = await made(JinjaGenerator(knowing(tasks=["a", "b"]), text=text))
    assert brief == ProjectBrief("ada Rocket 6 2 tasks")


async def test_no_facts_are_no_section() -> None:
    async def nothing(request: SectionRequest) -> None:
        return None

    assert await JinjaGenerator(nothing, text="x").generate(REQUEST) is None


async def test_an_empty_mapping_is_a_section_all_the_same() -> None:
    assert await made(JinjaGenerator(knowing(), text="all quiet")) == ProjectBrief("all quiet")


async def test_html_is_escaped_and_text_is_not() -> None:
    brief = await made(JinjaGenerator(knowing(note="<b> & co"), text="{{ note }}", html="<i>{{ note }}</i>"))
    assert brief == ProjectBrief("<b> & co", Html("<i>&lt;b&gt; &amp; co</i>"))


async def test_markup_that_the_host_vouches_for_is_not_escaped() -> None:
    brief = await made(
        JinjaGenerator(knowing(note=Html("<b>new</b>"), notes=[Html("<i>")]), text="", html="{{ note }}{{ notes[0] }}")
    )
    assert brief.html == "<b>new</b><i>"


@given(note=st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_no_fact_can_open_a_tag(note: str) -> None:
    brief = anyio.run(made, JinjaGenerator(knowing(note=note), text="{{ note }}", html="{{ note }}"))
    assert brief.html is not None
    assert not set(brief.html) & set("<>\"'")
    assert unescape(brief.html) == brief.text == note


async def test_included_templates_are_escaped_by_who_includes_them(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("{{ note }}")
    (tmp_path / "both").write_text("{% include 'note' %}")
    generator = JinjaGenerator(knowing(note="<"), text="both", html="both", templates=tmp_path)
    assert await made(generator) == ProjectBrief("<", Html("&lt;"))


async def test_a_name_that_is_no_fact_fails_the_section_by_name() -> None:
    with pytest.raises(jinja2.UndefinedError, match="taks"):
        await JinjaGenerator(knowing(tasks=1), text="{{ taks }}").generate(REQUEST)


async def test_what_facts_raise_comes_through() -> None:
    async def broken(request: SectionRequest) -> None:
        raise LookupError(request.project.id)

    with pytest.raises(LookupError, match="p1"):
        await JinjaGenerator(broken, text="x").generate(REQUEST)


async def test_a_fact_that_would_hide_a_known_name_is_refused_and_named() -> None:
    with pytest.raises(ValueError, match=r"facts=\['project', 'window'\]"):
        await JinjaGenerator(knowing(window=1, project=2, mine=3), text="x").generate(REQUEST)


LOADER = jinja2.DictLoader(
    {
        "good": "{{ a }}",
        "extends_missing": "{% extends 'gone' %}",
        "includes_broken": "{% include 'broken' %}",
        "imports_deep": "{% import 'extends_missing' as m %}",
        "itself": "{% if a %}{% include 'itself' %}{% endif %}",
        "optional": "{% include 'gone' ignore missing %}{% include ['gone', 'good'] %}{% include a %}",
        "broken": "line one\n{% if %}",
    }
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "one\n{{ two"}, "text: the template, line 2: unexpected end of template"),
        ({"text": "{{ a|shout }}"}, "text: the template, line 1: No filter named 'shout'"),
        ({"text": "", "html": "{% endif %}"}, "html: the template, line 1: "),
        ({"text": "{% include 'x' %}"}, "text: there is no template 'x', which the template needs"),
        ({"text": "gone", "templates": LOADER}, "text: there is no template 'gone'$"),
        ({"text": "good", "html": "gone", "templates": LOADER}, "html: there is no template 'gone'$"),
        ({"text": "extends_missing", "templates": LOADER}, "'gone', which extends_missing needs"),
        ({"text": "imports_deep", "templates": LOADER}, "'gone', which imports_deep needs"),
        ({"text": "includes_broken", "templates": LOADER}, "text: broken, line 2: "),
        ({"text": "x", "templates": "/no/such/folder"}, "templates='/no/such/folder': there is no such folder"),
    ],
)
def test_a_broken_or_missing_template_is_found_when_the_generator_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        JinjaGenerator(knowing(), **arguments)


@pytest.mark.parametrize("name", ["good", "itself", "optional"])
def test_templates_that_may_work_are_taken(name: str) -> None:
    JinjaGenerator(knowing(), text=name, html=name, templates=LOADER)


def test_a_template_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "section.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"text: section\.txt .* is not UTF-8"):
        JinjaGenerator(knowing(), text="section.txt", templates=tmp_path)


def test_a_loader_without_sources_is_taken(tmp_path: Path) -> None:
    environment = jinja2.Environment(loader=LOADER)
    environment.compile_templates(tmp_path, zip=None, filter_func=lambda name: name == "good")
    JinjaGenerator(knowing(), text="good", templates=jinja2.ModuleLoader(tmp_path))


def test_without_jinja_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['jinja2'] = None\n"
        "try:\n    import fanout_briefs.adapters.jinja\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "JinjaGenerator needs Jinja2: pip install 'fanout-briefs[jinja]'"
