"""Every fence in the documentation runs as printed, or says why not."""

from __future__ import annotations

import email
import email.policy
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fanout_briefs
from pages import PAGES, ROOT, Fence, fences, follow, plain_environment, prints

# What the README's fence imports as the host's own: a users table, and something that writes.
MYAPP = """
import types

class Row(types.SimpleNamespace):
    pass

USERS = [Row(id="ana", email="ana@example.org", brief_time="{time}", timezone="UTC", opted_out=False),
         Row(id="bo", email="bo@example.org", brief_time="{time}", timezone="UTC", opted_out=True)]

class db:
    async def users_after(cursor, limit):
        return [row for row in USERS if row.id > cursor][:limit]
    async def users(user_ids):
        return [row for row in USERS if row.id in user_ids]
    async def projects(user_id):
        return [Row(id=1, name="Apollo"), Row(id=2, name="Gemini")]

class llm:
    async def summarise(project_id, since):
        if project_id == 2:
            raise RuntimeError("the model is overloaded")
        return "All is well since " + since.isoformat()
"""


TUTORIAL = ROOT / "docs" / "tutorial.md"


def python_of(page: str) -> list[str]:
    return [fence.code for fence in fences(ROOT / page) if fence.language == "python" and fence.why is None]


def fences_that_run() -> list[object]:
    found = [fence for page in PAGES if page.name != "README.md" for fence in fences(page)]
    runs = [each for each in found if each.language == "python" and each.why is None and each.title is None]
    return [pytest.param(each, id=each.place) for each in runs]


def run(code: str, folder: Path) -> str:
    script = folder / "fence.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def rows_of_the_architecture(section: str = "") -> list[tuple[str, str]]:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    part = page.partition(f"## {section}\n")[2].partition("\n## ")[0] if section else page
    return re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE)


def steps_of_the_architecture() -> list[object]:
    rows = rows_of_the_architecture()
    names = [(re.findall(r"`([^`]+)\.py`", files), re.findall(r"`([^`]+)`", functions)) for files, functions in rows]
    return [pytest.param(*step, id=",".join(step[1])) for step in names if step[0]]


@pytest.mark.parametrize(("files", "functions"), steps_of_the_architecture())
def test_each_step_from_preference_to_mail_is_where_the_architecture_says(
    files: list[str], functions: list[str]
) -> None:
    modules = [importlib.import_module("fanout_briefs." + file.replace("/", ".")) for file in files]
    lost = [name for name in functions if not any(has(module, name) for module in modules)]
    assert lost == []


DAY = """
import asyncio, sys
from datetime import UTC, datetime, timedelta
from fanout_briefs import BackoffPolicy, Briefs, Preference, Project, ProjectBrief, Recipient
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.sqlite import SqliteStorage

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)

class Host:
    async def of(self, user_id, window): return [Project("1", "Apollo")]
    async def generate(self, request): return ProjectBrief("All is well.")
    async def last_visits(self, user_ids): return dict.fromkeys(user_ids, NOW - timedelta(days=1))
    async def get(self, user_ids): return {user_id: Recipient("ana@example.org") for user_id in user_ids}

def note(frame, event, _):
    if event == "call" and frame.f_globals.get("__name__", "").startswith("fanout_briefs"):
        called.append(frame.f_code.co_qualname)

async def day():
    host, storage = Host(), SqliteStorage("briefs.db")
    async with Briefs(storage, projects=host, generator=host, engagement=host, policy=BackoffPolicy(), recipients=host,
                      mailer=EmlMailer("outbox")) as briefs:
        await storage.preferences.put([Preference(user_id="ana")])
        sys.setprofile(note)
        await briefs.plan(NOW)
        await briefs.run_once(NOW)
        sys.setprofile(None)

called = []
asyncio.run(day())
print(*called)
"""


def test_a_brief_goes_the_way_that_the_architecture_says_in_its_order(tmp_path: Path) -> None:
    calls = run(DAY, tmp_path).split()
    steps = [
        name
        for _, functions in rows_of_the_architecture("From a preference to a mail")
        for name in re.findall(r"`([^`]+)`", functions.split("; or ")[0])
    ]
    assert len(steps) > 40
    at = 0
    for step, name in enumerate(steps):
        assert name in calls[at:], f"{name} is not called after {steps[:step]}"
        at = calls.index(name, at) + 1


def test_files_that_the_architecture_names_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    places = (Path(fanout_briefs.__file__).parent, ROOT)
    named = set(re.findall(r"`([\w/]+\.py)`", page))
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_tests_and_scripts_that_the_documentation_names_are_there() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    files = set(re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.py)", text))
    names = set(re.findall(r"\b(test_[a-z0-9_]+)\b(?!\.py)", text)) - {"test_my_storage", "test_a_week"}
    assert {file for file in files if not (ROOT / file).exists()} == set()
    assert {name for name in names if f"def {name}(" not in tests} == set()


def test_what_the_readme_shows_is_what_the_tutorial_prints() -> None:
    shown = re.findall(
        r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    tutorial = TUTORIAL.read_text(encoding="utf-8")
    assert len(shown) == 2
    assert [text for text in shown if text not in tutorial] == []


def has(module: object, dotted: str) -> bool:
    for name in dotted.split("."):
        module = getattr(module, name, None)
    return module is not None


# What the documentation imports as the host's own.
BRIEFS = """
from fanout_briefs import Briefs
from fanout_briefs.adapters.memory import MemoryStorage

class Host:
    async def of(self, user_id, window):
        return []
    async def generate(self, request):
        return None

briefs = Briefs(MemoryStorage(), projects=Host(), generator=Host())

class MyStorage(MemoryStorage):
    pass
"""


@pytest.mark.parametrize("fence", fences_that_run())
def test_a_fence_of_the_documentation_runs_as_printed(
    fence: Fence, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myapp.py").write_text(BRIEFS, encoding="utf-8")
    if "DATABASE_URL" in fence.code:
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres_database"))
    prints(fence, run(fence.code, tmp_path))


def test_whatever_else_is_code_says_why_it_is_not_run() -> None:
    silent = [
        fence.place
        for page in PAGES
        for fence in fences(page)
        if fence.why is None and fence.language != "python" and page != TUTORIAL
    ]
    assert silent == []


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows_and_ends_with_mails_for_three_people(tmp_path: Path) -> None:
    # Without its first fence, which installs; tests/packaging follows that, too.
    environment = plain_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for fence, printed in follow(TUTORIAL, tmp_path, environment, skip=1):
        prints(fence, printed)
    mails = sorted(path.name.split(":")[2] for path in (tmp_path / "outbox").iterdir())
    assert mails == ["ana", "ana", "bo", "chi"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_lifespan_of_keep_it_running_serves_and_stops(backend: str, tmp_path: Path) -> None:
    (code,) = [fence for fence in python_of("docs/how-to/run.md") if "lifespan" in fence]
    code = code[: code.index("async def main()")]
    use = f"""
async def host():
    async with lifespan(None):
        while await briefs._storage.advance("daily_brief") is None:  # until the first plan is made
            await anyio.lowlevel.checkpoint()

anyio.run(host, backend="{backend}")
print("stopped")
"""
    assert run(code + use, tmp_path) == "stopped\n"


def test_the_first_generator_prints_a_brief_with_its_failed_section(tmp_path: Path) -> None:
    printed = run(python_of("docs/how-to/generator.md")[0], tmp_path)
    assert "with failed sections: 1" in printed
    assert "All is well since Sunday" in printed
    assert "the tracker is down" in printed


def test_the_lines_of_the_readme_plan_and_send_for_a_host_with_its_own_users_table(tmp_path: Path) -> None:
    # A weekday's 09:00 may lie outside the window of this very moment, so the fence's tick is told the moment.
    (tmp_path / "myapp.py").write_text(MYAPP.replace("{time}", "09:00"), encoding="utf-8")
    (code,) = python_of("README.md")
    tick = "now := datetime.now(UTC)"
    assert tick in code
    code = code.replace(tick, "now := datetime(2026, 11, 23, 9, tzinfo=UTC)")
    run(code + "\nimport anyio\nanyio.run(tick)\nanyio.run(tick)\n", tmp_path)
    (path,) = (tmp_path / "outbox").glob("*.eml")
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    body = mail.get_body(("plain",))
    assert mail["To"] == "ana@example.org"
    assert body is not None
    assert "All is well since 2026-11-20T08:45:00+00:00" in body.get_content()
    assert "This section could not be made." in body.get_content()
    assert "the model is overloaded" not in body.get_content()


def what_pytest_says(lines: str, folder: Path, *more: str) -> str:
    """What pytest says of lines that test a storage, in a folder without configuration."""
    (folder / "myapp.py").write_text(BRIEFS, encoding="utf-8")
    (folder / "test_my_storage.py").write_text(lines, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider", *more]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def test_the_lines_that_test_a_storage_are_green_without_any_configuration(tmp_path: Path) -> None:
    lines = python_of("docs/contracts.md")[0]
    assert re.search(r"^\d{3} passed, \d+ skipped in", what_pytest_says(lines, tmp_path), re.MULTILINE)


def test_the_lines_that_tell_stories_of_a_storage_are_green_without_any_configuration(tmp_path: Path) -> None:
    (lines,) = [fence for fence in python_of("docs/contracts.md") if "StorageMachine" in fence]
    told = what_pytest_says(lines.replace("max_examples=20", "max_examples=2"), tmp_path, "-k", "stories")
    assert re.search(r"^2 passed, \d+ deselected in", told, re.MULTILINE)


def test_the_page_of_clauses_is_up_to_date() -> None:
    command = [sys.executable, "-m", "fanout_briefs.testing"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs/reference/clauses.md").read_text(encoding="utf-8")
    assert page == printed, f"{' '.join(command[1:])} > docs/reference/clauses.md"
