"""Mails each person of people.toml a morning brief of what is due in their to-do lists.

From cron:

    */5 * * * * cd /srv/briefs && python briefs.py >> briefs.log

Each call plans, makes and mails what is due at this moment, and exits. What one call made, no later one makes again;
calls that overlap share the work; what a call that was killed had begun, the next one takes over. Exit status: 0 all is
well; 1 something failed, and standard error, which cron mails to you, says what.
"""

import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import anyio

from fanout_briefs import Briefs, Ended, Page, Preference, Project, ProjectBrief, Recipient, SectionRequest, Window
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.sqlite import SqliteStorage

HERE = Path(__file__).parent
PEOPLE = tomllib.loads((HERE / "people.toml").read_text(encoding="utf-8"))
DAY = timedelta(days=1)


class Times:
    """Who wants a brief, and when."""

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:  # noqa: ARG002  # one page holds them all
        """Everybody; a file is small enough for one page."""
        return Page([_preference(name) for name in PEOPLE])

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """The same for some, as it is now."""
        return {name: _preference(name) for name in user_ids if name in PEOPLE}


def _preference(name: str) -> Preference:
    person = PEOPLE[name]
    return Preference(
        user_id=name,
        frequency=person.get("frequency"),
        time_of_day=person.get("time"),
        timezone=person.get("timezone"),
    )


class Lists:
    """What a brief is about: one section a to-do list."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002  # the same whatever its span
        """The person's lists, in the order in which they stand in the file."""
        return [Project(id=each, name=each.capitalize()) for each in PEOPLE[user_id]["lists"]]


class WhatIsDue:
    """How one section is made. A list that cannot be read is marked as failed; the others are not affected."""

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        """Tell what is due within a week, the most urgent first; None where nothing is."""
        today = request.occurrence.local_date
        text = await anyio.Path(HERE / "todo" / f"{request.project.id}.txt").read_text(encoding="utf-8")
        tasks = [(date.fromisoformat(line[:10]), line[10:].strip()) for line in text.splitlines() if line.strip()]
        soon = sorted(task for task in tasks if task[0] < today + 7 * DAY)
        lines = [f"- {what}: {'overdue since' if day < today else 'due'} {day:%A, %d %B %Y}" for day, what in soon]
        return ProjectBrief("\n".join(lines)) if lines else None


class Addresses:
    """Where mail goes."""

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """Addresses as they are now; whoever is gone gets no mail, not even one that is queued."""
        return {name: Recipient(PEOPLE[name]["email"]) for name in user_ids if name in PEOPLE}


briefs = Briefs(
    SqliteStorage(HERE / "briefs.db"),
    title="What is due",
    projects=Lists(),
    generator=WhatIsDue(),
    preferences=Times(),
    recipients=Addresses(),
    mailer=EmlMailer(HERE / "outbox"),  # or SmtpMailer("mail.example.org", sender="Briefs <briefs@example.org>")
    # The very first call also makes the briefs of the last day, which may have 25 hours, so that you see something.
    look_back=timedelta(hours=25),
    max_lateness=timedelta(hours=25),
)


async def main() -> int:
    """Plan, make and mail what is due now; give the exit status."""
    now = datetime.now(UTC)
    async with briefs:
        plan = await briefs.plan(now)
        run = await briefs.run_once(now, on_ended=tell_of_failed_sections)
    made, mailed = sum(run.briefs.values()), sum(run.mails.values())
    print(f"{now:%Y-%m-%d %H:%M} UTC: {plan.enqueued} queued, {made} briefs done, {mailed} mails done")
    for problem in [*plan.problems, *run.problems]:
        print(problem.message, file=sys.stderr)
    return 0 if plan.ok and run.ok and not run.partial else 1


def tell_of_failed_sections(ended: Ended) -> None:
    """A brief is sent without the sections that failed; whoever keeps the lists should know."""
    for section in ended.brief.failed if ended.brief else ():
        print(f"{ended.job.user_id}: {section.title} could not be made: {section.error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(anyio.run(main))
