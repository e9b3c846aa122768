"""The host that workers of engines run in tests: what its people get, and what is noted of every attempt."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import anyio

from fanout_briefs import Briefs, Mail, Project, ProjectBrief, Receipt, Recipient, Retrying, SectionRequest, Window
from fanout_briefs.adapters.postgres import OnPending, PostgresStorage
from fanout_briefs.adapters.smtp import SmtpMailer
from fanout_briefs.ports import Dispatcher, Mailer

LEDGER = os.environ["ENGINE_LEDGER"]
DSN = os.environ["ENGINE_DSN"]
SCHEMA = os.environ["ENGINE_SCHEMA"]
FOLDER = Path(os.environ["ENGINE_FOLDER"])
LEASE = timedelta(seconds=float(os.environ.get("ENGINE_LEASE", "3")))
GRACE = timedelta(seconds=1)
"""How long a worker that is told to stop may go on with what it runs."""
SMTP = int(os.environ.get("ENGINE_SMTP", "0"))
"""The port of a mail server; 0: a provider that honours keys."""
TAKES = float(os.environ.get("ENGINE_TAKES", "0.005"))
PRIORITIES = {"generate_brief_email.daily_brief": int(os.environ.get("ENGINE_MAIL_PRIORITY", "0"))}
BRIEFS_AT_ONCE = int(os.environ.get("ENGINE_BRIEFS_AT_ONCE", "0"))
"""How many briefs run at once in all workers together; 0: as many as they take."""
IN_WAIT = bool(os.environ.get("ENGINE_WAITS_FOR_A_MAIL"))
"""Whether no brief but the first ones ends before some mail has been sent."""


def note(log: str, line: str) -> None:
    """Append one line in one write, which no kill can cut in two."""
    target = os.open(FOLDER / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(target, f"{line}\n".encode())
    finally:
        os.close(target)


class Host:
    """One project a user. Whoever is asked for a section of a user in ``hold`` stands still, the first time."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "One")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        user = request.user_id
        note("begun", f"{user} {os.getpid()}")
        note("order", f"begin {user}")
        if (FOLDER / "hold" / user).exists():
            try:
                (FOLDER / "held" / user).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                note("holding", f"{user} {os.getpid()}")
                await anyio.sleep_forever()
        else:
            await anyio.sleep(TAKES)
            while IN_WAIT and (FOLDER / "ended").exists() and not (FOLDER / "sent").exists():  # noqa: ASYNC110  # files
                await anyio.sleep(TAKES)
        note("order", f"end {user}")
        note("ended", user)
        return ProjectBrief(f"made by {os.getpid()}")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}


class Provider:
    """Takes a mail once for each key, whoever brings it."""

    idempotent = True

    async def send(self, mail: Mail, key: str) -> Receipt:
        note("sent", key)
        note("order", f"mail {mail.user_id}")
        return Receipt(key)


def make(dispatcher: Dispatcher, within: OnPending | None) -> Briefs:
    host = Host()
    mailer: Mailer = SmtpMailer("127.0.0.1", SMTP, sender="briefs@example.org", security="none") if SMTP else Provider()
    return Briefs(
        PostgresStorage(DSN, schema=LEDGER, on_pending=within, pool_size=8, statement_timeout=LEASE),
        projects=host,
        generator=host,
        recipients=host,
        mailer=mailer,
        dispatcher=dispatcher,
        lease=LEASE,
        redispatch_after=LEASE,
        look_back=timedelta(hours=6),
        page_size=5_000,
        retrying=Retrying(attempts=6, first=timedelta(seconds=1)),
    )
