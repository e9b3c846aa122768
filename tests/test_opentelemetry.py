"""What a host's dashboards are told: counted by OpenTelemetry's own SDK, of real plans and runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from fanout_briefs import BackoffPolicy, Briefs, NotSent, Preference, Project, ProjectBrief, SectionRequest
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.opentelemetry import Telemetry
from fanout_briefs.briefs import BriefProgress
from fanout_briefs.model import Mail, Progress, Receipt, Recipient, Window
from fanout_briefs.serve import Round
from slots import job

AT = datetime(2026, 11, 23, 9, tzinfo=UTC)
BRIEF = {"brief.name": "daily_brief"}


class Host:
    """Ana's brief is whole, Bo's has a failed section, Chi's fails; Di stays away. Bo's mail is refused for good."""

    idempotent = False

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "Apollo"), Project("2", "Gemini")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        if request.user_id == "chi" or (request.user_id, request.project.id) == ("bo", "2"):
            raise RuntimeError("the tracker is down")
        return ProjectBrief("All is well.")

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        return {user_id: AT - timedelta(days=3 if user_id == "di" else 0) for user_id in user_ids}

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.org") for user_id in user_ids}

    async def send(self, mail: Mail, key: str) -> Receipt:
        if mail.user_id == "bo":
            raise NotSent("no such mailbox", permanent=True)
        return Receipt("sent")


class Meters:
    """An SDK that keeps what it is told."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def points(self, metric: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        found: Sequence[Any] = () if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return [point for each in found if each.name == metric for point in each.data.data_points]

    def values(self, metric: str, *by: str) -> dict[Any, float]:
        points = self.points(metric)
        assert all(point.attributes["brief.name"] == "daily_brief" for point in points)
        return {tuple(point.attributes[name] for name in by): point.value for point in points}


@pytest.fixture
def meters() -> Meters:
    return Meters()


def ticking() -> Any:
    numbers = count()
    return lambda: float(next(numbers))


async def some_briefs(telemetry: Telemetry, storage: MemoryStorage) -> Briefs:
    await storage.preferences.put([Preference(user_id=name) for name in ("ana", "bo", "chi", "di")])
    host = Host()
    return Briefs(
        storage,
        projects=host,
        generator=host,
        engagement=host,
        policy=BackoffPolicy(),
        recipients=host,
        mailer=host,
        on_progress=telemetry.on_progress,
    )


async def test_plans_and_runs_and_how_everything_stands_are_counted(meters: Meters) -> None:
    telemetry = Telemetry(meter_provider=meters.provider)
    async with MemoryStorage() as storage, await some_briefs(telemetry, storage) as briefs:
        for _ in range(2):
            telemetry.plan(await briefs.plan(AT))
        telemetry.run(await briefs.run_once(AT))
        telemetry.status(await briefs.status(AT + timedelta(hours=2)))

    assert meters.values("fanout_briefs.slots", "outcome") == {
        ("enqueued",): 3,
        ("engagement",): 2,  # decided anew by the second plan
        ("duplicate",): 3,
    }
    assert {point.attributes["phase"] for point in meters.points("fanout_briefs.plan.duration")} == {
        "due",
        "duplicates",
        "engagement",
        "enqueue",
    }
    assert meters.values("fanout_briefs.jobs", "kind", "status") == {
        ("brief", "completed"): 2,
        ("mail", "completed"): 1,
        ("mail", "failed"): 1,
        ("job", "put_off"): 1,
    }
    assert meters.values("fanout_briefs.partial") == {(): 1}
    waiting = meters.values("fanout_briefs.waiting", "kind", "state")
    assert {place: value for place, value in waiting.items() if value} == {
        ("brief", "overdue"): 1,
        ("mail", "failed"): 1,
    }
    assert len(waiting) == 10
    (oldest,) = [value for (kind,), value in meters.values("fanout_briefs.oldest", "kind").items() if kind == "brief"]
    assert 0 < oldest <= 7200
    assert list(meters.values("fanout_briefs.plan.age").values()) == [7200]


async def test_a_brief_that_is_saved_is_timed_and_one_that_is_not_is_forgotten(meters: Meters) -> None:
    telemetry = Telemetry(meter_provider=meters.provider, clock=ticking())
    async with MemoryStorage() as storage, await some_briefs(telemetry, storage) as briefs:
        await briefs.plan(AT)
        await briefs.run_once(AT)

    (point,) = meters.points("fanout_briefs.brief.duration")
    assert point.count == 2
    assert point.attributes == BRIEF
    assert set(vars(telemetry)["_begun"]) == {f"daily_brief:{AT.date()}:chi"}


def test_briefs_that_never_end_take_no_memory_for_long(meters: Meters) -> None:
    moments = iter([0.0, 1.0, 2.0, 3601.5])
    telemetry = Telemetry(meter_provider=meters.provider, clock=lambda: next(moments))
    for user in ("ana", "bo", "ana", "chi"):
        telemetry.on_progress(BriefProgress(job(user), Progress("projects")))

    assert [key.rpartition(":")[2] for key in vars(telemetry)["_begun"]] == ["ana", "chi"]


async def test_a_server_tells_of_its_turns_and_its_failures(meters: Meters) -> None:
    telemetry = Telemetry(meter_provider=meters.provider)
    told = anyio.Event()

    class Broken(MemoryStorage):
        async def advance(self, *args: Any, **how: Any) -> Any:
            raise OSError("the disk is gone")

    def on_round(each: Round) -> None:
        telemetry.on_round(each)
        told.set()

    async with Broken() as storage, await some_briefs(telemetry, storage) as briefs, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: briefs.serve(on_round=on_round))
        await told.wait()
        tasks.cancel_scope.cancel()

    assert meters.values("fanout_briefs.errors", "error.type") == {("OSError",): 1}


async def test_a_servers_reports_are_those_of_its_plan_and_its_run(meters: Meters) -> None:
    telemetry = Telemetry(meter_provider=meters.provider)
    async with MemoryStorage() as storage, await some_briefs(telemetry, storage) as briefs:
        plan = await briefs.plan(AT)
        run = await briefs.run_once(AT)
    telemetry.on_round(Round(now=AT, plan=plan, run=run))
    telemetry.on_round(Round(now=AT))

    assert meters.values("fanout_briefs.slots", "outcome")["enqueued",] == 3
    assert meters.values("fanout_briefs.jobs", "kind", "status")["brief", "completed"] == 2


def test_without_an_sdk_it_does_nothing_and_harms_nobody() -> None:
    telemetry = Telemetry()
    telemetry.on_progress(BriefProgress(job("ana"), Progress("projects")))
    telemetry.on_progress(BriefProgress(job("ana"), Progress("saving")))
    telemetry.on_round(Round(now=AT, errors=(OSError(),)))
