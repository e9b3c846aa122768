"""The recipe for Django: its commands on SQLite as cron starts them, and with Celery's own worker and beat."""

from __future__ import annotations

import email
import email.policy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from attrs import evolve, frozen

from services import as_url, connect, ended_with

EXAMPLE = Path(__file__).parent.parent / "examples" / "django_briefs"
MONDAY = "2026-03-09T09:00Z"
PATIENCE = 120

pytestmark = pytest.mark.slow  # Each command imports Django and Celery.


@frozen
class Site:
    """A copy of the recipe, as a user makes one, with its tables."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def copied_to(cls, folder: Path, **environment: str) -> Site:
        left_over = shutil.ignore_patterns("*.db*", "outbox", "celerybeat-schedule*", ".mypy_cache")
        shutil.copytree(EXAMPLE, folder, ignore=left_over)
        clean = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "CELERY_BROKER_URL")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        site = cls(folder, {**clean, "PATH": path, **environment})
        site.manage("migrate", "--verbosity=0")
        return site

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def manage(self, *arguments: str) -> str:
        ran = self.run(*arguments)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
        return ran.stdout

    def load(self, rows: Sequence[Mapping[str, object]]) -> None:
        path = self.folder / "rows.json"
        path.write_text(json.dumps(rows))
        self.manage("loaddata", "rows.json")

    def mails(self) -> dict[str, EmailMessage]:
        """By the user's id."""
        found: dict[str, EmailMessage] = {}
        for path in sorted((self.folder / "outbox").glob("*.eml")):
            user_id = path.name.split("%3A" if os.name == "nt" else ":")[2]
            assert user_id not in found, f"{user_id} got two"
            found[user_id] = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        return found


def row(model: str, key: int, **fields: object) -> Mapping[str, object]:
    return {"model": model, "pk": key, "fields": fields}


def content(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """With the people of the demo, on SQLite, for others to copy."""
    made = Site.copied_to(tmp_path_factory.mktemp("django") / "site")
    made.manage("loaddata", "demo")
    return made


@pytest.fixture
def site(demo: Site, tmp_path: Path) -> Site:
    return evolve(demo, folder=Path(shutil.copytree(demo.folder, tmp_path / "site")))


def test_the_command_for_cron_mails_who_is_due_and_finds_everything_done_when_run_again(site: Site) -> None:
    assert site.manage("run_briefs", "--as-of", MONDAY) == "2 queued, 2 briefs completed, 2 mails completed\n"
    mails = site.mails()
    assert [mail["To"] for mail in mails.values()] == ["Ana <ana@example.org>", "bo@example.org"]
    told = content(mails["1"], "plain")
    assert "Apollo\n------\n- The tanks are <full>\n- Counting down\n\nGemini\n------\n- Docked\n" in told
    assert "<li>The tanks are &lt;full&gt;</li>" in content(mails["1"], "html")
    # Bo has one each day, so that what happened on Friday was in an earlier one; and is no member of Gemini.
    assert "Apollo\n------\n- Counting down\n" in content(mails["2"], "plain")
    assert "Gemini" not in content(mails["2"], "plain")
    assert site.manage("run_briefs", "--as-of", MONDAY) == "0 queued\n"
    assert site.mails().keys() == mails.keys()


def test_planning_alone_makes_nothing_and_a_dry_run_not_even_that(site: Site) -> None:
    assert site.manage("plan_briefs", "--dry-run", "--as-of", MONDAY) == "2 due: 2 queued, 0 were already\n"
    assert site.manage("plan_briefs", "--as-of", MONDAY) == "2 due: 2 queued, 0 were already\n"
    assert site.manage("plan_briefs", "--as-of", MONDAY) == "2 due: 0 queued, 2 were already\n"
    assert site.mails() == {}


def test_explaining_tells_what_became_of_a_brief_and_why_somebody_is_not_due(site: Site) -> None:
    site.manage("run_briefs", "--as-of", MONDAY)
    assert site.manage("explain_brief", "ana", "--as-of", MONDAY).startswith("ana, 2026-03-09: completed\n")
    why = site.manage("explain_brief", "cy", "--as-of", MONDAY)
    assert why.startswith("cy, 2026-03-09: not_yet_due\n  preference: weekdays at 18:00:00 in America/New_York\n")
    assert "plans see it from 2026-03-09 20:45:00 UTC on" in why
    sunday = site.manage("explain_brief", "ana", "--on", "2026-03-08", "--as-of", MONDAY)
    assert sunday.startswith("ana, 2026-03-08: not_scheduled\n")
    unknown = site.run("explain_brief", "dee")
    assert (unknown.returncode, unknown.stderr) == (1, "CommandError: there is no user 'dee'\n")


def test_a_row_that_makes_no_schedule_is_told_and_the_others_get_theirs(site: Site) -> None:
    site.load([row("digests.briefpreference", 3, timezone="Mars/Olympus")])
    ran = site.run("run_briefs", "--as-of", MONDAY)
    assert ran.returncode == 1
    assert ran.stdout == "2 queued, 2 briefs completed, 2 mails completed\n"
    assert "Mars/Olympus" in ran.stderr
    assert site.mails().keys() == {"1", "2"}


def test_a_form_names_every_field_that_makes_no_schedule(site: Site) -> None:
    asked = (
        "from digests.models import BriefPreference as B; from django.core.exceptions import ValidationError\n"
        "try: B(user_id=1, frequency='hourly', timezone='Mars').full_clean(validate_unique=False)\n"
        "except ValidationError as error: print(sorted(error.message_dict))"
    )
    assert site.manage("shell", "--no-imports", "-c", asked) == "['frequency', 'timezone']\n"


def test_the_recipe_is_typed_and_its_migrations_are_complete(site: Site) -> None:
    site.manage("makemigrations", "--check", "--dry-run")
    mypy = Path(sys.executable).with_name("mypy")
    if not mypy.exists():
        pytest.skip("mypy belongs to the group types")
    checked = subprocess.run([mypy], cwd=site.folder, env=site.environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# With Celery ---------------------------------------------------------------------------------------


@pytest.fixture
def served(postgres_database: str, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    """On PostgreSQL, with a broker."""
    name = f"fanout_briefs_django_{os.getpid()}"
    with connect(postgres_database) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            url = as_url(postgres_database, name)
            yield Site.copied_to(tmp_path / "site", DATABASE_URL=url, CELERY_BROKER_URL=redis_url)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def until(look: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    """Look again and again, but not for ever."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert process.poll() is None, output.read_text(errors="replace")[-4000:]
        assert time.monotonic() < end, output.read_text(errors="replace")[-4000:]
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="Celery's workers want fork")
def test_workers_of_celery_make_what_is_planned_and_what_is_asked_for(served: Site, tmp_path: Path) -> None:
    served.manage("plan_briefs")  # From here on what is missed is caught up with; the rest is left to the beat.
    now = datetime.now(UTC)
    soon, later = now + timedelta(seconds=1), now + timedelta(hours=6)
    news = {"project": 1, "created_at": (now - timedelta(hours=1)).isoformat(), "text": "Docked"}
    served.load(
        [
            *(row("auth.user", pk, username=f"u{pk}", email=f"u{pk}@example.org") for pk in (1, 2, 3)),
            row("digests.project", 1, name="Apollo", members=[1, 2, 3]),
            row("digests.update", 1, **news),
            row("digests.briefpreference", 1, frequency="daily", time_of_day=f"{soon:%H:%M:%S}"),
            row("digests.briefpreference", 2, frequency="daily", time_of_day=f"{later:%H:%M:%S}"),
        ]
    )
    output = tmp_path / "output"
    command = [sys.executable, "-m", "honcho", "start"]
    with output.open("wb") as kept:
        process = subprocess.Popen(
            command, cwd=served.folder, env=served.environment, stdout=kept, stderr=subprocess.STDOUT
        )
    with ended_with(process):
        until(lambda: "1" in served.mails(), process, output)
        # Somebody who never had a brief asks for one; the row that the task needs is made by the same request.
        asked = (
            "from django.contrib.auth.models import User; from django.test import Client\n"
            "client = Client(HTTP_HOST='localhost'); client.force_login(User.objects.get(pk=3))\n"
            "print(client.post('/me/brief/now').status_code)"
        )
        assert served.manage("shell", "--no-imports", "-c", asked) == "202\n"
        until(lambda: "3" in served.mails(), process, output)
        assert "- Docked" in content(served.mails()["3"], "plain")
    assert served.mails().keys() == {"1", "3"}
    assert ": not_yet_due\n" in served.manage("explain_brief", "u2", "--on", f"{later:%Y-%m-%d}")
