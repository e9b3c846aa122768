"""The application of ``crash_app.py`` on Redis: it also passes a point before each script that it sends.

As a program it is the fresh process that looks at what is left.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime

import anyio
from crash_app import FOLDER, USERS, Outbox, make, point

from fanout_briefs.model import JobStatus
from redis_briefs import RedisStorage

TYPES = ("daily_brief", "generate_brief_email.daily_brief")

storage = RedisStorage(os.environ["CRASH_REDIS"], trace=lambda name: point(f"redis/{name}"))
briefs = make(Outbox(FOLDER / "outbox"), storage=storage)


async def look() -> dict[str, object]:
    """What is left, in the form in which ``crash_harness.Left`` has it."""
    async with storage:
        slots = (await storage.select(TYPES, [*JobStatus], since=datetime.min.replace(tzinfo=UTC))).items
        saved = [brief for user in USERS if (brief := await storage.brief(TYPES[0], user)) is not None]
    mails = [path.name for path in FOLDER.glob("outbox/*")]
    return {
        "check": [["ok"]],
        "orphans": [],
        "jobs": sorted(
            [slot.type, slot.user_id, f"{slot.occurrence.local_date}", slot.status, slot.epoch, slot.dedup_key]
            for slot in slots
        ),
        "briefs": [[brief.type, brief.user_id, f"{brief.occurrence.local_date}"] for brief in saved],
        "sections": [len(brief.sections) for brief in saved],
        "mails": sorted(name for name in mails if not name.startswith(".")),
        "temporary": sorted(name for name in mails if name.startswith(".")),
    }


if __name__ == "__main__":
    json.dump(anyio.run(look), sys.stdout)
