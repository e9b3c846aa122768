"""Somebody sets the wall clock by an hour, back and forward, while workers serve.

Planning must not stop until the clock has come to where it was, nothing may be sent twice because a time came twice,
nothing be lost because it never came, and what dead workers held must be taken over in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from fault_harness import needs_posix, scene, side_by_side

from fanout_briefs import (
    Briefs,
    JobStatus,
    Mail,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    Window,
)
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.serve import Round
from figures import Tell
from mail_server import HOLD, MailServer
from virtual_time import in_virtual_time

EIGHT = datetime(2026, 3, 9, 8, tzinfo=UTC)
TODAY = date(2026, 3, 9)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TYPES = ["daily_brief", "generate_brief_email.daily_brief"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return in_virtual_time(request.param)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as opened:
        yield opened


class Host:
    """A host with a wall clock that can be set; it notes when, by the loop's time, each mail came."""

    idempotent = False

    def __init__(self) -> None:
        self.zero = anyio.current_time()
        self.shift = timedelta(0)
        self.takes: dict[str, float] = {}
        self.begun: list[str] = []
        self.mailed: list[tuple[str, timedelta]] = []

    def clock(self) -> datetime:
        return EIGHT + self.passed() + self.shift

    def passed(self) -> timedelta:
        return timedelta(seconds=anyio.current_time() - self.zero)

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "One")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        self.begun.append(request.user_id)
        await anyio.sleep(self.takes.get(request.user_id, 0))
        return ProjectBrief("text")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}

    async def send(self, mail: Mail, key: str) -> Receipt:
        self.mailed.append((mail.user_id, self.passed()))
        return Receipt(key)

    def when(self, user_id: str) -> timedelta:
        """When the one mail came."""
        (at,) = [at for who, at in self.mailed if who == user_id]
        return at


def make(storage: MemoryStorage, host: Host, **more: Any) -> Briefs:
    given: dict[str, Any] = {"deadline": 15 * MINUTE, "section_timeout": None, **more}
    return Briefs(storage, projects=host, generator=host, recipients=host, mailer=host, clock=host.clock, **given)


async def people(storage: MemoryStorage, times: Mapping[str, str]) -> None:
    await storage.preferences.put([Preference(user_id=user, time_of_day=at) for user, at in times.items()])


async def codes(storage: MemoryStorage, host: Host, users: Collection[str]) -> Mapping[str, str]:
    briefs = make(storage, host)
    return {user: (await briefs.explain(user, TODAY, now=host.clock())).code for user in users}


# in virtual time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shifts", [(-HOUR,), (HOUR,), (-HOUR, 0 * HOUR), (HOUR, -HOUR)], ids=str)
async def test_whatever_the_clock_does_everybody_gets_one_mail_and_has_a_code(
    storage: MemoryStorage, shifts: Sequence[timedelta]
) -> None:
    host = Host()
    users = {f"u{minute:03}": f"{8 + minute // 60:02}:{minute % 60:02}" for minute in range(0, 180, 3)}
    host.takes = dict.fromkeys(list(users)[::7], 70.0)  # so that some are in the making at any moment
    await people(storage, users)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: make(storage, host, look_back=HOUR).serve(every=5 * MINUTE, poll=MINUTE / 2))
        for shift in shifts:
            await anyio.sleep(2730)
            host.shift = shift
        await anyio.sleep(4.5 * 3600)
        tasks.cancel_scope.cancel()
    mails = Counter(user for user, _ in host.mailed)
    # A mailer that is not idempotent had what was in its hands when all leases seemed to end: sent, or unknown.
    assert max(mails.values()) == 1
    assert set(mails) == set(users)
    told = await codes(storage, host, users)
    assert set(told.values()) <= {JobStatus.COMPLETED, JobStatus.UNKNOWN}
    assert len(told) == len(users)


async def test_who_becomes_due_while_the_clock_is_back_is_served_then(storage: MemoryStorage) -> None:
    host = Host()
    await people(storage, {"ana": "08:10", "bo": "08:50"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make(storage, host, look_back=HOUR).serve)
        await anyio.sleep(1800)
        host.shift = -HOUR  # 07:30
        await people(storage, {"cy": "07:40"})
        await anyio.sleep(1800)
        assert [user for user, _ in host.mailed] == ["ana", "cy"]
        await anyio.sleep(3600)
        tasks.cancel_scope.cancel()
    assert [user for user, _ in host.mailed] == ["ana", "cy", "bo"]


async def dead_worker(storage: MemoryStorage, host: Host, user: str) -> None:
    """Somebody claims a job, and is never heard of again."""
    await make(storage, host).plan(host.clock())
    key = f"daily_brief:{TODAY}:{user}"
    got = await storage.claim(host.clock() + HOUR, now=host.clock(), lease=MINUTE / 2, limit=1, types=TYPES, keys=[key])
    assert [claim.job.user_id for claim in got.claims] == [user]


async def test_what_a_dead_worker_held_is_taken_over_after_the_clock_was_set_back(storage: MemoryStorage) -> None:
    host = Host()
    await people(storage, {"ana": "08:15", "bo": "08:20"})
    await dead_worker(storage, host, "ana")
    host.shift = -HOUR
    with anyio.move_on_after(7200):
        await make(storage, host).serve()
    assert sorted(user for user, _ in host.mailed) == ["ana", "bo"]


async def test_what_a_living_worker_holds_is_kept_by_it_when_the_clock_was_set_back(storage: MemoryStorage) -> None:
    host = Host()
    host.takes = {"ana": 600.0}
    await people(storage, {"ana": "08:00"})
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(make(storage, host, look_back=HOUR).serve)
        await anyio.sleep(300)
        host.shift = -HOUR
        await anyio.sleep(2 * 3600)
        tasks.cancel_scope.cancel()
    assert host.begun == [user for user, _ in host.mailed] == ["ana"]


async def test_a_lease_that_seems_to_last_an_hour_holds_up_nobody_else(storage: MemoryStorage) -> None:
    host = Host()
    await people(storage, {"ana": "07:14", "bo": "07:40"})
    host.shift = -timedelta(minutes=50)  # 07:10; ana's generation has begun, and her worker dies
    await make(storage, host).plan(host.clock())
    host.shift += HOUR
    await dead_worker(storage, host, "ana")
    host.shift -= HOUR
    with anyio.move_on_after(7200):
        await make(storage, host).serve()
    assert host.when("bo") <= 31 * MINUTE


async def test_a_brief_that_takes_long_holds_up_nobody_who_is_due_meanwhile(storage: MemoryStorage) -> None:
    host = Host()
    host.takes = {"ana": 840.0}
    await people(storage, {"ana": "08:01", "bo": "08:07"})
    with anyio.move_on_after(1800):
        await make(storage, host, look_back=HOUR).serve()
    assert host.when("ana") >= 14 * MINUTE
    assert host.when("bo") <= 8 * MINUTE


async def test_planning_goes_on_while_a_brief_takes_long(storage: MemoryStorage) -> None:
    host, plans = Host(), list[datetime]()
    host.takes = {"ana": 840.0}

    def note(done: Round) -> None:
        if done.plan is not None:
            plans.append(done.now)

    await people(storage, {"ana": "08:01"})
    with anyio.move_on_after(1800):
        await make(storage, host, look_back=HOUR).serve(every=5 * MINUTE, on_round=note)
    assert max(later - earlier for earlier, later in pairwise(plans)) <= 6 * MINUTE


# in real processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_posix
def test_workers_whose_clock_is_set_back_and_forward_send_everything_once(tmp_path: Path, tell: Tell) -> None:
    def play(mailer: str) -> str:
        with ExitStack() as stack:
            held = {("DATA", "u004"): [HOLD]}
            server = stack.enter_context(MailServer(held)) if mailer == "smtp" else None
            town = stack.enter_context(
                scene(tmp_path / mailer, people=24, last=6, together=("u004", "u005"), server=server, horizon=1200)
            )
            town.hold("u005")
            first = town.worker()
            first.reaches("generate u005", 2)
            if server is not None:
                server.waits_for("DATA", "u004")
            town.set_clock(-3600)
            first.killed()  # It holds u005, and by the new time it will for an hour.
            town.let_go("u005")
            town.sign_up({f"v{second:03}": f"08:10:{second}" for second in range(10, 14)})
            second = town.worker()
            town.until("SELECT count(*) FROM jobs WHERE user_id LIKE 'v%'", 4)  # Planning goes on.
            town.set_clock(-3000)
            town.settles("v")
            if server is not None:
                server.let_go()
            town.set_clock(0)
            town.settles("u")
            town.sign_up({f"w{second:03}": f"09:30:{second}" for second in range(10, 14)})
            second.reaches("turn", 1, since=len(second.marks))
            town.set_clock(3600)
            town.settles()
            town.set_clock(0)
            town.sign_up({f"x{second:03}": f"09:15:{second}" for second in range(10, 14)})
            town.until("SELECT count(*) FROM jobs WHERE user_id LIKE 'x%'", 4)  # Planning goes on, of the same worker.
            town.set_clock(1200)
            town.settles()
            second.terminated()
            town.finish_and_idle()
            found = town.judged()
            if server is None:
                assert found.counts == {"completed": 36}
            return f"{mailer}: 1 kill, 36 briefs, {dict(found.counts)}"

    told = side_by_side(play, ["eml", "smtp"])
    tell(f"clock set by an hour: {'; '.join(told)}")
