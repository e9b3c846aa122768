"""A morning brief about a Redis server, planned, kept and carried by that very server.

    uv run demo.py

``REDIS_URL`` says which server; the mails are files in outbox/. Run it again: everything is done already. Run it in many
places at once, or kill it anywhere: each person still has one brief a day.
"""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import redis

from fanout_briefs import (
    Briefs,
    Preference,
    Project,
    ProjectBrief,
    Recipient,
    SectionRequest,
    StorageUnavailable,
    Window,
)
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.in_thread import in_thread
from redis_briefs import RedisStorage

URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
PEOPLE = [
    Preference(user_id="ana", time_of_day="07:30", timezone="Europe/Vienna"),
    Preference(user_id="bo", time_of_day="06:45", timezone="America/New_York"),
    Preference(user_id="chi", time_of_day="08:00", timezone="Asia/Tokyo"),
]
FACTS = {
    "memory": ("used_memory_human", "used_memory_peak_human", "maxmemory_policy"),
    "persistence": ("aof_enabled", "aof_last_write_status", "rdb_changes_since_last_save"),
    "stats": ("total_commands_processed", "rejected_connections", "evicted_keys"),
}


class Topics:
    """What a brief is about: one section a topic."""

    def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002  # the same for everybody
        """All topics, in the order in which the sections are to stand."""
        return [Project(id=name, name=name.capitalize()) for name in FACTS]


class Facts:
    """How one section is made."""

    def generate(self, request: SectionRequest) -> ProjectBrief:
        """Ask the server about one topic."""
        with redis.Redis.from_url(URL) as client:
            told = client.info(request.project.id)
        return ProjectBrief("\n".join(f"- {name}: {told[name]}" for name in FACTS[request.project.id]))


class Addresses:
    """Where mail goes."""

    def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """An address for each of them."""
        return {name: Recipient(f"{name}@example.org") for name in user_ids}


storage = RedisStorage(URL, prefix="redis_briefs_demo")
briefs = Briefs(
    storage,
    title="Your Redis server",
    projects=in_thread(Topics()),
    generator=in_thread(Facts()),
    recipients=in_thread(Addresses()),
    mailer=EmlMailer("outbox"),
    # The very first run also makes the briefs of the last day, which may have 25 hours, so that you see something.
    look_back=timedelta(hours=25),
    max_lateness=timedelta(hours=25),
)


async def main() -> int:
    """Plan, make and mail what is due now; give the exit status."""
    now = datetime.now(UTC)
    async with briefs:
        await storage.preferences.put(PEOPLE)
        plan = await briefs.plan(now)
        run = await briefs.run_once(now)
        last = await briefs.latest(PEOPLE[0].user_id)
    print(last.rendered.text if last else "Nothing was due yet.")
    made, mailed = sum(run.briefs.values()), sum(run.mails.values())
    print(f"{plan.enqueued} queued, {made} briefs made, {mailed} mailed; see outbox/")
    for problem in [*plan.problems, *run.problems]:
        print(problem.message, file=sys.stderr)
    return 0 if plan.ok and run.ok else 1


if __name__ == "__main__":
    try:
        sys.exit(anyio.run(main))
    except StorageUnavailable as error:
        sys.exit(str(error))
