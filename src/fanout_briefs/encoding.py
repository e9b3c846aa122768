"""The JSON form of briefs, which storages save, and of mails, which mail jobs carry.

One UTF-8 object with a version. Decoding returns an equal value with instants in UTC, ignores unknown fields, and
raises ``ValueError`` for anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from fanout_briefs.model import Brief, Html, Occurrence, Rendered, Section, Window

__all__ = ["decode_brief", "decode_mail", "encode_brief", "encode_mail"]

_VERSION = 1
_T = TypeVar("_T")


def encode_brief(brief: Brief) -> bytes:
    """Encode a brief as JSON.

    Raises:
        ValueError: An instant is naive.
        OverflowError: An instant is outside the years 1 to 9999 in UTC.
    """
    return _encode(
        {
            "type": brief.type,
            "user_id": brief.user_id,
            "local_date": brief.occurrence.local_date.isoformat(),
            "deliver_at": _instant(brief.occurrence.deliver_at),
            "window": [_instant(brief.window.start), _instant(brief.window.end)],
            "epoch": brief.epoch,
            "sections": [_section(section) for section in brief.sections],
            "rendered": _rendered(brief.rendered),
        }
    )


def decode_brief(data: bytes) -> Brief:
    """Decode a brief from JSON; its ``sections`` are a tuple.

    Raises:
        ValueError: The bytes are not a brief, or a newer release wrote them.
    """
    return _decode("brief", data, _to_brief)


def encode_mail(rendered: Rendered, key: str) -> bytes:
    """Encode the payload of a mail job: the content, and the key that is the same for every attempt to send it."""
    return _encode({**_rendered(rendered), "key": key})


def decode_mail(data: bytes) -> tuple[Rendered, str]:
    """Decode the content of a mail, and its key.

    Raises:
        ValueError: The bytes are not a mail, or a newer release wrote them.
    """
    return _decode("mail", data, lambda fields: (_to_rendered(fields), fields["key"]))


def _encode(fields: dict[str, Any]) -> bytes:
    # Generators pass on whatever they read, including lone surrogates; strict UTF-8 would lose the whole brief.
    text = json.dumps({"version": _VERSION, **fields}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _decode(what: str, data: bytes, build: Callable[[Any], _T]) -> _T:
    try:
        fields = json.loads(data.decode("utf-8", "surrogatepass"))
        version = fields["version"]
        if version == _VERSION:
            return build(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{data[:40]!r} is no {what}: {error!r}; it was damaged, or something else wrote it"
        ) from error
    raise ValueError(f"this {what} has version {version!r}, and this release knows {_VERSION}: upgrade fanout-briefs")


def _instant(instant: datetime) -> str:
    if instant.utcoffset() is None:
        raise ValueError(f"{instant!r}: must be aware, give it a tzinfo such as datetime.UTC")
    return instant.astimezone(UTC).isoformat()


def _section(section: Section) -> dict[str, str | None]:
    return {
        "project_id": section.project_id,
        "title": section.title,
        "text": section.text,
        "html": section.html,
        "error": section.error,
    }


def _rendered(rendered: Rendered) -> dict[str, str]:
    return {"subject": rendered.subject, "text": rendered.text, "html": rendered.html}


def _to_brief(fields: Any) -> Brief:
    start, end = map(datetime.fromisoformat, fields["window"])
    return Brief(
        type=fields["type"],
        user_id=fields["user_id"],
        occurrence=Occurrence(
            local_date=date.fromisoformat(fields["local_date"]),
            deliver_at=datetime.fromisoformat(fields["deliver_at"]),
        ),
        window=Window(start=start, end=end),
        epoch=fields["epoch"],
        sections=tuple(_to_section(section) for section in fields["sections"]),
        rendered=_to_rendered(fields["rendered"]),
    )


def _to_section(fields: Any) -> Section:
    html = fields["html"]
    return Section(
        project_id=fields["project_id"],
        title=fields["title"],
        text=fields["text"],
        html=None if html is None else Html(html),
        error=fields["error"],
    )


def _to_rendered(fields: Any) -> Rendered:
    return Rendered(subject=fields["subject"], text=fields["text"], html=fields["html"])
