"""``manage.py explain_brief USER``: what became of a brief, and why."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from digests.briefs import with_briefs


class Command(BaseCommand):
    """Explains one brief."""

    help = "Tell what became of a user's brief of one date, and why; of a date without one, what would."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whose brief, and of which date."""
        parser.add_argument("username")
        parser.add_argument("--on", type=date.fromisoformat, help="the user's local date; default: today there")
        parser.add_argument("--as-of", type=datetime.fromisoformat, help="ISO 8601 with an offset; default: now")

    def handle(self, *_: Any, username: str, on: date | None, as_of: datetime | None, **__: Any) -> None:
        """Look it up and print each stage."""
        user = get_user_model().objects.filter(username=username).first()
        if user is None:
            raise CommandError(f"there is no user {username!r}")
        found = with_briefs(lambda briefs: briefs.explain(str(user.pk), on, now=as_of))
        self.stdout.write(f"{username}, {found.on}: {found.code}")
        for stage in found.stages:
            self.stdout.write(f"  {stage.name}: {stage.verdict}")
