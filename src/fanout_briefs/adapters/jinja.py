"""A generator that needs no language model: it collects facts about a project and renders them with templates.

Markup is escaped in HTML and left alone in plain text. A misspelt name in a template is an error, not a gap.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

try:
    import jinja2
    from jinja2 import nodes
    from markupsafe import Markup
except ModuleNotFoundError as _missing:
    raise ImportError("JinjaGenerator needs Jinja2: pip install 'fanout-briefs[jinja]'") from _missing

from fanout_briefs.model import Html, ProjectBrief, SectionRequest

__all__ = ["JinjaGenerator"]


class JinjaGenerator:
    """Renders sections from what ``facts`` returns, with a template for text and optionally one for HTML.

    Templates can use every fact by its name, and ``request``, ``project`` and ``window``. In HTML, a fact of type
    ``Html`` is inserted as markup; any other string is escaped.
    """

    def __init__(
        self,
        facts: Callable[[SectionRequest], Awaitable[Mapping[str, object] | None]],
        *,
        text: str,
        html: str | None = None,
        templates: str | os.PathLike[str] | jinja2.BaseLoader | None = None,
    ) -> None:
        """Load and check the templates, so that a broken one fails here and not in the first brief.

        Args:
            facts: Called for each section; None means that there is nothing new. An exception fails the section.
            text: The template for plain text: its source, or its name if ``templates`` is given.
            html: The same for the HTML below the section's title. None shows the text.
            templates: The folder that holds the templates, or a loader.

        Raises:
            ValueError: A template, or one that it includes, extends or imports, is missing or malformed; the
                message says where.
        """
        self._facts = facts
        loader = _loader(templates)
        named = templates is not None
        self._text = _load("text", text, loader, named=named, autoescape=False)
        self._html = None if html is None else _load("html", html, loader, named=named, autoescape=True)

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        """Make the section.

        Raises:
            ValueError: A fact is called ``request``, ``project`` or ``window``.
            jinja2.TemplateError: Rendering failed, for example because of an unknown name.
            Exception: Raised by ``facts``.
        """
        facts = await self._facts(request)
        if facts is None:
            return None
        given = {"request": request, "project": request.project, "window": request.window}
        if taken := sorted(given.keys() & facts.keys()):
            raise ValueError(f"facts={taken}: templates know these names already, choose others")
        text = self._text.render(facts, **given)
        return ProjectBrief(text, None if self._html is None else Html(self._html.render(facts, **given)))


def _loader(templates: str | os.PathLike[str] | jinja2.BaseLoader | None) -> jinja2.BaseLoader:
    if templates is None:
        return jinja2.DictLoader({})
    if isinstance(templates, jinja2.BaseLoader):
        return templates
    if not Path(templates).is_dir():
        raise ValueError(f"templates={os.fspath(templates)!r}: there is no such folder")
    return jinja2.FileSystemLoader(templates)


def _load(argument: str, given: str, loader: jinja2.BaseLoader, *, named: bool, autoescape: bool) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=loader,
        autoescape=autoescape,  # noqa: S701 - off for plain text only.
        undefined=jinja2.StrictUndefined,
        finalize=_mark,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        template = environment.get_template(given) if named else environment.from_string(given)
        if loader.has_source_access:
            source = loader.get_source(environment, given)[0] if named else given
            _check_references(environment, loader, source, {given} if named else set())
    except jinja2.TemplateSyntaxError as error:
        place = error.filename or error.name or "the template"
        raise ValueError(f"{argument}: {place}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        by = "" if error.name == given else f", which {given if named else 'the template'} needs"
        raise ValueError(f"{argument}: there is no template {error.name!r}{by}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{argument}: {given} or a template it needs is not UTF-8: {error}") from error
    return template


def _mark(value: object) -> object:
    """Let markup that the host marked as safe pass unescaped."""
    return Markup(value) if isinstance(value, Html) else value  # noqa: S704 - ``Html`` means just that.


def _check_references(environment: jinja2.Environment, loader: jinja2.BaseLoader, source: str, seen: set[str]) -> None:
    """Compile every template that this one refers to by a constant name, recursively."""
    for name in _references(environment.parse(source)):
        if name not in seen:
            seen.add(name)
            environment.get_template(name)
            _check_references(environment, loader, loader.get_source(environment, name)[0], seen)


def _references(template: nodes.Template) -> Iterator[str]:
    for node in template.find_all(nodes.Stmt):
        match node:
            case nodes.Include(ignore_missing=True):
                pass
            case nodes.Extends() | nodes.Include() | nodes.Import() | nodes.FromImport():
                if isinstance(node.template, nodes.Const) and isinstance(node.template.value, str):
                    yield node.template.value
            case _:
                pass
