"""The recipe for FastAPI: the web server and a worker of the engine, as its Procfile starts them, asked over HTTP."""

from __future__ import annotations

import email
import email.policy
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import frozen

from services import as_url, connect, ended_with, free_port

ROOT = Path(__file__).parent.parent
ADMIN = secrets.token_hex()
PATIENCE = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the lines of a Procfile are for a POSIX shell"),
]


@frozen
class Service:
    """Web server and worker, which run until the tests are done."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def ask(self, method: str, path: str, token: str | None = None, **body: Any) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return self.client.request(method, path, headers=headers, json=body or None)

    def sign_up(self, name: str, **preferences: str) -> tuple[str, str]:
        """Give id and token."""
        answer = self.ask("POST", "/users", email=f"{name}@example.org", **preferences)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        return made["id"], made["token"]

    def plan(self) -> str:
        """Plan now, rather than in five minutes at most."""
        ran = subprocess.run(
            [sys.executable, "-m", "fanout_briefs.cli", "plan", "examples.fastapi_briefs.briefs:briefs"],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def until(self, look: Callable[[], Any]) -> Any:
        """Look again and again until there is something, and give that."""
        end = time.monotonic() + PATIENCE
        while not (found := look()):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, self.output()
            time.sleep(0.05)
        return found

    def has_planned(self) -> bool:
        """Whether it answers, and the worker has made its first plan, from which on what is missed is caught up with."""
        try:
            told = self.ask("GET", "/admin/brief/status", ADMIN)
        except httpx.TransportError:
            return False
        return told.json()["briefs"]["planned_at"] is not None

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]


@pytest.fixture(scope="module")
def service(postgres_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    name = f"fanout_briefs_fastapi_{os.getpid()}"
    folder = tmp_path_factory.mktemp("fastapi")
    port = free_port()
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DATABASE_URL": as_url(postgres_database, name),
        "ADMIN_TOKEN": ADMIN,
        "OUTBOX": str(folder / "outbox"),
    }
    command = [sys.executable, "-m", "honcho", "start", "-f", "examples/fastapi_briefs/Procfile", "-p", str(port)]
    with connect(postgres_database) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            with (
                ended_with(process),
                httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client,
            ):
                service = Service(folder, environment, process, client)
                service.until(service.has_planned)
                yield service
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def in_(time_from_now: timedelta) -> dict[str, str]:
    """Preferences for a daily brief at so long from now."""
    return {"time_of_day": f"{datetime.now(UTC) + time_from_now:%H:%M:%S}", "timezone": "UTC"}


def test_who_signs_up_gets_a_brief_and_a_mail_at_the_time_asked_for(service: Service) -> None:
    user_id, token = service.sign_up("ana", **in_(timedelta(seconds=2)))
    assert service.ask("GET", "/me/brief", token).status_code == 404
    for project, title in (("Apollo", "Fill the tanks"), ("Apollo", "Count down"), ("Gemini", "Dock")):
        assert service.ask("POST", "/me/tasks", token, project=project, title=title).status_code == 201
    service.plan()
    service.until(lambda: service.ask("GET", "/me/brief", token).status_code == 200)
    brief = service.ask("GET", "/me/brief", token).json()
    assert "Apollo\n------\n- Fill the tanks (new)\n- Count down (new)\n\nGemini\n------\n- Dock (new)" in brief["text"]
    outbox = service.folder / "outbox"
    (path,) = service.until(lambda: list(outbox.glob(f"*{user_id}*.eml")))
    mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert (mail["To"], mail["Subject"]) == ("ana@example.org", brief["subject"])
    asked = f"/admin/brief/why?user_id={user_id}&on={brief['date']}"
    service.until(lambda: service.ask("GET", asked, ADMIN).json()["code"] == "completed")
    assert [stage["name"] for stage in service.ask("GET", asked, ADMIN).json()["stages"]] == [
        "preference",
        "slot",
        "mail",
    ]
    told = service.ask("GET", "/admin/brief/status", ADMIN).json()
    assert told["ok"]
    assert told["briefs"]["ended"]["completed"] == told["mails"]["ended"]["completed"] == 1


def test_who_is_not_due_is_told_why_and_when(service: Service) -> None:
    user_id, token = service.sign_up("bo", **in_(timedelta(hours=6)))
    service.plan()
    on = service.ask("GET", "/me/brief/next", token).json()
    assert on["code"] == "not_yet_due"
    assert timedelta(hours=5) < datetime.fromisoformat(on["deliver_at"]) - datetime.now(UTC) <= timedelta(hours=6)
    why = service.ask("GET", f"/admin/brief/why?user_id={user_id}&on={on['date']}", ADMIN).json()
    assert why["code"] == "not_yet_due"
    assert why["stages"][-1]["verdict"].startswith("plans see it from ")


def test_who_switches_the_brief_off_gets_none_and_why_says_so(service: Service) -> None:
    user_id, token = service.sign_up("cy")
    assert service.ask("PUT", "/me/preferences", token, wants_brief=False).json()["wants_brief"] is False
    assert service.ask("GET", "/me/brief/next", token).json()["code"] == "switched_off"
    assert service.ask("GET", f"/admin/brief/why?user_id={user_id}", ADMIN).json()["code"] == "switched_off"


def test_preferences_that_make_no_schedule_are_refused_and_every_bad_field_is_named(service: Service) -> None:
    _, token = service.sign_up("dee")
    refused = service.ask("PUT", "/me/preferences", token, time_of_day="25:00", timezone="Mars/Olympus")
    assert refused.status_code == 422
    (told,) = refused.json()["detail"]
    bad = {(problem["field"], problem["value"]) for problem in told["ctx"]["error"]["problems"]}
    assert bad == {("time_of_day", "25:00"), ("timezone", "Mars/Olympus")}
    assert "25:00" in told["msg"]


def test_only_administrators_may_ask_about_others(service: Service) -> None:
    user_id, token = service.sign_up("eve")
    for path in (f"/admin/brief/why?user_id={user_id}", "/admin/brief/status"):
        assert service.ask("GET", path, token).status_code == 403
        assert service.ask("GET", path).status_code in (401, 403)
    assert service.ask("GET", "/me/brief", "made up").status_code == 401
