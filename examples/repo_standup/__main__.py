"""Makes and mails a morning brief of Git repositories to each person of a CSV file. The mails are ``.eml`` files.

Exit status: 0 all is well; 1 a brief or a mail failed, or a person's row is bad; 2 nothing could be done.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import cast

import anyio

from fanout_briefs import Briefs, StorageUnavailable, Verdict
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.jinja import JinjaGenerator
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.render import render_brief

from .gitfacts import facts
from .people import BadPeople, CsvPreferences, CsvRecipients, Person, read_people
from .repositories import (
    NoRepositories,
    ProjectsOf,
    Repository,
    enclosing_repository,
    find_repositories,
    unknown_names,
)
from .summary import Outcome, lines, outcomes, totals

HERE = Path(__file__).parent
DAY = timedelta(days=1)
MOST_LINES = 150
"""How much of the brief is shown in the terminal; the mail has all of it."""


def compose(people: Sequence[Person], repositories: Sequence[Repository], out: Path) -> Briefs:
    """Put the application together, as a host does."""
    return Briefs(
        SqliteStorage(out / "briefs.db"),
        name="repo_standup",
        projects=ProjectsOf(people, repositories),
        generator=JinjaGenerator(facts, text="section.txt", html="section.html", templates=HERE / "templates"),
        preferences=CsvPreferences(people),
        recipients=CsvRecipients(people),
        mailer=EmlMailer(out / "outbox", sender="Repo standup <standup@localhost>"),
        render=partial(render_brief, "Repo standup", with_errors=True),  # Its readers are who can mend them.
        look_back=DAY,  # The first run gives everybody the brief of the last 24 hours.
        max_lateness=DAY,
    )


async def send(briefs: Briefs, people: Sequence[Person], as_of: datetime) -> tuple[str, Sequence[Outcome]]:
    """Plan, make and mail all that is due, and say what came of it."""
    verdicts: list[Verdict] = []
    async with briefs:
        plan = await briefs.plan(as_of, on_verdict=verdicts.append, review=DAY)
        run = await briefs.run_once(as_of)
        return totals(plan, run), await outcomes(briefs, verdicts, people, as_of)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and give the exit status."""
    cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="replace")  # Some terminals cannot show every name.
    given = _parser().parse_args(arguments)
    try:
        if shutil.which("git") is None:
            return _refuse("git was not found; install it (https://git-scm.com) or put it on the PATH")
        people = read_people(given.people)
        repositories = (
            [enclosing_repository(Path.cwd())] if given.repos is None else find_repositories(given.repos, _note)
        )
        given.out.mkdir(parents=True, exist_ok=True)
        print(
            f"Repo standup as of {given.as_of.isoformat(timespec='seconds')}: {len(people)} people, {_names(repositories)}"
        )
        did, found = anyio.run(send, compose(people, repositories, given.out), people, given.as_of)
    except (BadPeople, NoRepositories, StorageUnavailable) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename or given.out}: {error.strerror}; see that it can be read and written")
    except KeyboardInterrupt:
        return _refuse("stopped; run it again and it goes on where it was")
    unknown = unknown_names(people, repositories)
    _show(did, found, given.out)
    for user_id, names in unknown.items():
        print(f"{user_id} names repositories that were not found: {', '.join(names)}", file=sys.stderr)
    return 1 if unknown or any(outcome.is_bad for outcome in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.repo_standup", description=__doc__)
    parser.add_argument("--repos", type=Path, metavar="FOLDER", help="where the repositories are; default: this one")
    parser.add_argument("--people", type=Path, metavar="CSV", default=HERE / "people.csv", help="who wants a brief")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("repo-standup-out"), help="what is made")
    parser.add_argument(
        "--as-of", type=_instant, metavar="INSTANT", default=datetime.now(UTC), help="ISO 8601; default: now"
    )
    return parser


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO instant, such as 2026-03-09T07:30:00Z") from error
    if instant.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} lacks a zone: write {instant.isoformat()}Z, or such as {instant.isoformat()}+01:00"
        )
    return instant


def _names(repositories: Sequence[Repository]) -> str:
    return str(repositories[0].path) if len(repositories) == 1 else f"{len(repositories)} repositories"


def _show(did: str, found: Sequence[Outcome], out: Path) -> None:
    print(*lines(found), did, sep="\n")
    mailed = [outcome for outcome in found if outcome.brief and outcome.mail]
    if not mailed:
        return
    # Of all, the one that shows most.
    chosen = max(mailed, key=lambda outcome: len(outcome.brief.rendered.text) if outcome.brief else 0)
    text = chosen.brief.rendered.text.splitlines() if chosen.brief else []
    print(f"The mails lie in {out / 'outbox'}. This is the brief of {chosen.user_id}:\n")
    print(*(f"  {line}".rstrip() for line in text[:MOST_LINES]), sep="\n")
    if len(text) > MOST_LINES:
        print(f"  ... {len(text) - MOST_LINES} more lines")
    print(f"\nAs a mail: {chosen.mail}")


def _note(error: OSError) -> None:
    print(f"{error.filename} was passed over: {error.strerror}", file=sys.stderr)


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        status = main()
    except BrokenPipeError:  # A reader such as `head` has seen enough; what Python still holds has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
