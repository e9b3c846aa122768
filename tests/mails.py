"""A mail to send, for the tests of mailers."""

from __future__ import annotations

from datetime import UTC, date, datetime

from fanout_briefs.model import Mail, Occurrence, Recipient, Rendered

__all__ = ["a_mail"]


def a_mail(
    address: str = "ada@example.com",
    name: str | None = "Ada Okafor",
    subject: str = "Your brief",
    text: str = "Three things happened.\n",
    html: str = "<!doctype html><p>Three things happened.</p>\n",
    *,
    user_id: str = "ada",
) -> Mail:
    return Mail(
        recipient=Recipient(address, name),
        rendered=Rendered(subject, text, html),
        user_id=user_id,
        occurrence=Occurrence(date(2026, 3, 9), datetime(2026, 3, 9, 6, 30, tzinfo=UTC)),
    )
