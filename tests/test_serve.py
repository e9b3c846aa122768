"""A server plans and runs by itself, and stops gracefully; in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

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
from virtual_time import in_virtual_time

EIGHT = datetime(2026, 3, 9, 8, tzinfo=UTC)
NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return in_virtual_time(request.param)


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    async with MemoryStorage() as opened:
        yield opened


class Host:
    """A host whose sections take as long as it is told, and whose mailer notes when each mail came."""

    idempotent = False

    def __init__(self, clock: Callable[[], datetime], takes: float = 0) -> None:
        self.clock, self.takes = clock, takes
        self.begun: list[str] = []
        self.mailed: list[tuple[str, datetime]] = []

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "One")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        self.begun.append(request.user_id)
        await anyio.sleep(self.takes)
        return ProjectBrief("text")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}

    async def send(self, mail: Mail, key: str) -> Receipt:
        self.mailed.append((mail.user_id, self.clock()))
        return Receipt(key)


class AwayForPlans:
    """The storage's own preferences, whose database may be away when they are read for a plan."""

    def __init__(self, storage: MemoryStorage, is_away: Callable[[], bool]) -> None:
        self._inner, self._is_away = storage.preferences, is_away

    async def page(self, cursor: str | None, limit: int) -> Any:
        if self._is_away():
            raise ConnectionError("the database is away")
        return await self._inner.page(cursor, limit)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return await self._inner.get(user_ids)


def wall_clock(begin: datetime = EIGHT) -> Callable[[], datetime]:
    """A wall clock that goes with the event loop's."""
    zero = anyio.current_time()
    return lambda: begin + timedelta(seconds=anyio.current_time() - zero)


def make(storage: MemoryStorage, host: Host, **more: Any) -> Briefs:
    wired: dict[str, Any] = {"recipients": host, "mailer": host, "clock": host.clock} | more
    return Briefs(storage, projects=host, generator=host, **wired)


async def people(storage: MemoryStorage, *user_ids: str) -> None:
    await storage.preferences.put([Preference(user_id=user_id) for user_id in user_ids])


async def status(storage: MemoryStorage, user_id: str) -> JobStatus:
    key = f"daily_brief:2026-03-09:{user_id}"
    return (await storage.find([key]))[key].status


async def test_a_brief_is_made_within_its_lead_and_mailed_at_its_time(storage: MemoryStorage) -> None:
    host = Host(wall_clock())
    await people(storage, "ana", "bo")
    with anyio.move_on_after(3600 + 60):
        await make(storage, host).serve()
    assert sorted(user_id for user_id, _ in host.mailed) == ["ana", "bo"]
    assert all(NINE <= at <= NINE + timedelta(seconds=2) for _, at in host.mailed)


async def test_it_plans_at_once_and_then_every_so_often(storage: MemoryStorage) -> None:
    rounds: list[Round] = []
    host = Host(wall_clock())
    with anyio.move_on_after(601):
        await make(storage, host).serve(every=5 * MINUTE, poll=MINUTE, on_round=rounds.append)
    planned = [(each.now - EIGHT) // MINUTE for each in rounds if each.plan is not None]
    assert planned == [0, 5, 10]
    assert all(each.run is None and not each.errors for each in rounds)


async def test_it_tells_what_ended_since_it_told_before(storage: MemoryStorage) -> None:
    rounds: list[Round] = []
    host = Host(wall_clock())
    await people(storage, "ana", "bo")
    with anyio.move_on_after(2 * 3600):
        await make(storage, host, mailer=None).serve(every=5 * MINUTE, poll=MINUTE, on_round=rounds.append)
    ran = [each.run for each in rounds if each.run is not None]
    assert sum(run.briefs[JobStatus.COMPLETED] for run in ran) == 2
    assert len(ran) == 2  # Each at its own time within the lead.


async def test_a_hook_for_progress_that_fails_is_told_too(storage: MemoryStorage) -> None:
    def fail(progress: object) -> None:
        raise ValueError("broken hook")

    rounds: list[Round] = []
    await people(storage, "ana")
    with anyio.move_on_after(2 * 3600):
        await make(storage, Host(wall_clock()), on_progress=fail).serve(poll=MINUTE, on_round=rounds.append)
    problems = [problem.message for each in rounds if each.run is not None for problem in each.run.problems]
    assert any("broken hook" in message for message in problems)


async def test_planning_goes_on_when_the_clock_was_set_back(storage: MemoryStorage) -> None:
    true = wall_clock()
    shift, plans = [timedelta(0)], list[datetime]()

    def note(done: Round) -> None:
        if done.plan is not None:
            plans.append(true())

    async with anyio.create_task_group() as tasks:
        host = Host(lambda: true() + shift[0])
        tasks.start_soon(lambda: make(storage, host).serve(every=5 * MINUTE, poll=MINUTE, on_round=note))
        await anyio.sleep(601)
        shift[0] = -timedelta(hours=1)
        await anyio.sleep(1200)
        tasks.cancel_scope.cancel()
    # The first turn after the change plans at once.
    assert [(at - EIGHT) // MINUTE for at in plans] == [0, 5, 10, 11, 16, 21, 26]


async def test_without_every_it_leaves_planning_to_others(storage: MemoryStorage) -> None:
    host = Host(wall_clock())
    briefs = make(storage, host)
    await people(storage, "ana")
    await briefs.plan(EIGHT)
    await people(storage, "bo")
    with anyio.move_on_after(2 * 3600):
        await briefs.serve(every=None, poll=MINUTE)
    assert [user_id for user_id, _ in host.mailed] == ["ana"]


async def test_cancelling_lets_what_runs_finish_and_gives_the_rest_back(storage: MemoryStorage) -> None:
    host = Host(wall_clock(NINE), takes=20)
    await people(storage, "ana", "bo", "cy")
    begun = anyio.current_time()
    with anyio.move_on_after(5) as cancelled:
        await make(storage, host, concurrency=1).serve(poll=timedelta(seconds=1))
    assert cancelled.cancelled_caught
    assert anyio.current_time() - begun == pytest.approx(21)
    (first,) = host.begun
    assert await status(storage, first) is JobStatus.COMPLETED
    others = {"ana", "bo", "cy"} - {first}
    assert [await status(storage, user_id) for user_id in others] == [JobStatus.PENDING] * 2
    given_back = await storage.claim(
        NINE, now=host.clock(), lease=MINUTE, limit=10, types=["daily_brief", "generate_brief_email.daily_brief"]
    )
    assert {claim.job.attempts for claim in given_back.claims} == {1}  # whatever was given back does not count


async def test_what_does_not_finish_within_the_grace_is_cancelled_and_given_back(storage: MemoryStorage) -> None:
    host = Host(wall_clock(NINE), takes=50)
    await people(storage, "ana")
    begun = anyio.current_time()
    with anyio.move_on_after(5):
        await make(storage, host).serve(grace=timedelta(seconds=10))
    assert anyio.current_time() - begun == pytest.approx(15)
    assert host.begun == ["ana"]
    assert await status(storage, "ana") is JobStatus.PENDING


async def test_cancelling_between_turns_ends_at_once(storage: MemoryStorage) -> None:
    host = Host(wall_clock())
    begun = anyio.current_time()
    with anyio.move_on_after(61):
        await make(storage, host).serve(poll=timedelta(hours=1), grace=timedelta(hours=1))
    assert anyio.current_time() - begun == pytest.approx(61)


async def test_a_turn_that_fails_is_told_and_the_next_one_tries_again(
    storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [True]
    away = AwayForPlans(storage, lambda: bool(failures) and failures.pop())
    rounds: list[Round] = []
    host = Host(wall_clock(NINE))
    await people(storage, "ana")
    with anyio.move_on_after(121):
        await make(storage, host, preferences=away).serve(every=MINUTE, poll=MINUTE, on_round=rounds.append)
    assert [str(error) for error in rounds[0].errors] == ["the database is away"]
    assert (rounds[1].plan is not None, rounds[1].errors) == (True, ())
    assert [user_id for user_id, _ in host.mailed] == ["ana"]
    assert "the next turn tries again" in caplog.text


async def test_a_plan_that_failed_is_tried_again_before_its_next_turn(storage: MemoryStorage) -> None:
    rounds: list[Round] = []
    host = Host(wall_clock(NINE))
    away = AwayForPlans(storage, lambda: host.clock() < NINE + 4 * MINUTE)
    await people(storage, "ana")
    with anyio.move_on_after(45 * 60):
        await make(storage, host, preferences=away).serve(every=30 * MINUTE, poll=MINUTE, on_round=rounds.append)
    assert [(each.now - NINE) // MINUTE for each in rounds if each.errors] == [0, 1, 2, 3]
    assert [(each.now - NINE) // MINUTE for each in rounds if each.plan is not None] == [4, 34]


async def test_a_storage_that_is_away_is_told_and_the_server_goes_on(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, failures = storage.claim, [OSError("gone")]

    async def away_once(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await claim(*arguments, **options)

    monkeypatch.setattr(storage, "claim", away_once)
    rounds: list[Round] = []
    host = Host(wall_clock(NINE))
    await people(storage, "ana")
    with anyio.move_on_after(121):
        await make(storage, host).serve(poll=MINUTE, on_round=rounds.append)
    assert [str(error) for each in rounds for error in each.errors] == ["gone"]
    assert [user_id for user_id, _ in host.mailed] == ["ana"]


async def test_a_hook_that_fails_does_not_end_the_server(
    storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(wall_clock(NINE))
    await people(storage, "ana")

    def fail(done: Round) -> None:
        raise ValueError("broken hook")

    with anyio.move_on_after(10):
        await make(storage, host).serve(on_round=fail)
    assert [user_id for user_id, _ in host.mailed] == ["ana"]
    assert "the hook for turns failed" in caplog.text


async def test_two_servers_share_the_work_and_mail_each_person_once(storage: MemoryStorage) -> None:
    host = Host(wall_clock(), takes=3)
    names = [f"user-{number}" for number in range(30)]
    await people(storage, *names)
    with anyio.move_on_after(3600 + 60):
        async with anyio.create_task_group() as servers:
            servers.start_soon(make(storage, host).serve)
            servers.start_soon(make(storage, host).serve)
    assert sorted(user_id for user_id, _ in host.mailed) == sorted(names)


async def test_planning_less_often_than_the_horizon_is_refused(storage: MemoryStorage) -> None:
    briefs = make(storage, Host(wall_clock()))
    with pytest.raises(
        ValueError, match=r"every=datetime\.timedelta\(seconds=7200\): must not be longer than the horizon of 1:00:00"
    ):
        await briefs.serve(every=timedelta(hours=2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"every": 300}, "every=300: must be a timedelta of more than zero, or None"),
        ({"every": timedelta(0)}, "every=.*: must be a timedelta of more than zero, or None"),
        (
            {"poll": timedelta(0), "grace": -MINUTE},
            "poll=.*: must be .* of more than zero; grace=.*: must be .* of zero",
        ),
        ({"work": 1}, "work=1: must be a bool, or None"),
        ({"on_round": 7}, "on_round=7: must be callable"),
    ],
)
async def test_every_bad_argument_is_named_before_anything_is_done(
    storage: MemoryStorage, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        await make(storage, Host(wall_clock())).serve(**arguments)
