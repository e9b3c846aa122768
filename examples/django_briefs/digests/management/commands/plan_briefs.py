"""``manage.py plan_briefs``: queue what is due, and make nothing yet."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from digests.briefs import with_briefs


class Command(BaseCommand):
    """Plans; what was planned before is not planned again."""

    help = "Queue the briefs that are due; workers, or run_briefs, make them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the moment, and whether to write."""
        parser.add_argument("--as-of", type=datetime.fromisoformat, help="ISO 8601 with an offset; default: now")
        parser.add_argument("--dry-run", action="store_true", help="decide alike, and write nothing")

    def handle(self, *_: Any, as_of: datetime | None, dry_run: bool, **__: Any) -> None:
        """Plan and report."""
        report = with_briefs(lambda briefs: briefs.plan(as_of or datetime.now(UTC), dry_run))
        self.stdout.write(f"{report.due} due: {report.enqueued} queued, {report.duplicates} were already")
        for code, count in report.skipped.items():
            self.stdout.write(f"{count} skipped: {code}")
        if not report.ok:
            raise CommandError("\n".join(problem.message for problem in report.problems))
