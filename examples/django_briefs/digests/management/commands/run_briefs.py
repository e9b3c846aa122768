"""``manage.py run_briefs``: plan, make and mail what is due, and exit. For cron, every few minutes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from digests.briefs import with_briefs
from fanout_briefs import Briefs, PlanReport, RunReport


class Command(BaseCommand):
    """Does all that is due; calls that overlap share the work."""

    help = "Plan, make and mail the briefs that are due at this moment."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the moment."""
        parser.add_argument("--as-of", type=datetime.fromisoformat, help="ISO 8601 with an offset; default: now")

    def handle(self, *_: Any, as_of: datetime | None, **__: Any) -> None:
        """Plan, run and report."""
        now = as_of or datetime.now(UTC)

        async def tick(briefs: Briefs) -> tuple[PlanReport, RunReport]:
            return await briefs.plan(now), await briefs.run_once(now)

        plan, run = with_briefs(tick)
        told = [
            f"{count} {kind} {status}"
            for kind, by in (("briefs", run.briefs), ("mails", run.mails))
            for status, count in by.items()
        ]
        self.stdout.write(", ".join([f"{plan.enqueued} queued", *told]))
        if not (plan.ok and run.ok):
            raise CommandError("\n".join(problem.message for problem in [*plan.problems, *run.problems]))
