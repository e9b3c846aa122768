"""Turns finished sections into a subject, plain text and an HTML document. Pure functions.

Titles and errors are reduced to one line, so they can neither end a header nor pass for another section.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from fanout_briefs.model import Html, Occurrence, Rendered, Section

__all__ = ["render_brief"]

_BODY = "margin:0;padding:24px 16px;background:#f5f5f4;color:#1c1917;font:16px/1.5 system-ui,sans-serif"
_CARD = "max-width:640px;margin:0 auto 16px;padding:16px 24px;background:#fff;border-radius:8px"
_TITLE = "margin:0 0 8px;font-size:18px"
_FAILED = "margin:0;color:#b91c1c"
_PLAIN = "margin:0;white-space:pre-wrap;font:inherit"
_NOT_ONE_LINE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def render_brief(
    title: str, occurrence: Occurrence, sections: Sequence[Section], *, with_errors: bool = False
) -> Rendered:
    """Lay out a brief, one section after another; a failed section is replaced by a note.

    Args:
        title: Shown in the subject and at the top, such as "Daily brief".
        occurrence: Provides the local date in the subject.
        sections: At least one. Plain text is escaped; only ``Html`` is taken as markup.
        with_errors: Also show why a section failed. Only for readers who may see internals of the host: an error can
            contain the name of a machine, or a secret.
    """
    date = f"{occurrence.local_date:%A}, {occurrence.local_date.day} {occurrence.local_date:%B %Y}"
    subject = f"{_one_line(title)} for {date}"
    notes = [None if section.error is None else _note(section.error, with_errors) for section in sections]
    failed = sum(note is not None for note in notes)
    summary = f"{failed} of {len(sections)} sections could not be made." if failed else ""
    return Rendered(subject, _text(subject, summary, sections, notes), _html(subject, summary, sections, notes))


def _note(error: str, with_errors: bool) -> str:
    return f"This section could not be made: {_one_line(error)}" if with_errors else "This section could not be made."


def _text(subject: str, summary: str, sections: Sequence[Section], notes: Sequence[str | None]) -> str:
    blocks = [f"{subject}\n{'=' * len(subject)}"]
    if summary:
        blocks.append(summary)
    for section, note in zip(sections, notes, strict=True):
        title = _one_line(section.title)
        body = section.text.strip() if note is None else f"[{note}]"
        blocks.append(f"{title}\n{'-' * len(title)}\n{body}")
    return "\n\n".join(blocks) + "\n"


def _html(subject: str, summary: str, sections: Sequence[Section], notes: Sequence[str | None]) -> str:
    cards = "\n".join(
        f'<section style="{_CARD}">\n<h2 style="{_TITLE}">{escape(_one_line(section.title))}</h2>\n'
        f"{_body(section, note)}\n</section>"
        for section, note in zip(sections, notes, strict=True)
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(subject)}</title></head>\n'
        f'<body style="{_BODY}">\n<header style="max-width:640px;margin:0 auto 16px">'
        f'<h1 style="font-size:22px;margin:0">{escape(subject)}</h1>'
        f'<p style="{_FAILED}">{escape(summary)}</p></header>\n{cards}\n</body>\n</html>\n'
    )


def _body(section: Section, note: str | None) -> Html:
    if note is not None:
        return Html(f'<p style="{_FAILED}">{escape(note)}</p>')
    if isinstance(section.html, Html):
        return section.html
    return Html(f'<p style="{_PLAIN}">{escape(section.text.strip())}</p>')


def _one_line(text: str) -> str:
    return _NOT_ONE_LINE.sub(" ", text).strip()
