"""What the dispatcher for Celery says of itself, and what it does when its broker is away or loses what it held."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from kombu.exceptions import OperationalError

from celery_carrier import CeleryCarrier, the_app
from fanout_briefs import Briefs, DispatcherPowers, JobRef, Preference
from fanout_briefs.adapters.celery import CeleryDispatcher, add_tasks
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from hosts import Host
from services import Schema, free_port

MINUTE = timedelta(minutes=1)
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def carrier(postgres: Schema, redis_url: str) -> CeleryCarrier:
    made = CeleryCarrier(postgres, redis_url, "threads")
    made.install()
    return made


def test_it_hands_over_shortly_before_the_time_and_takes_nothing_back() -> None:
    assert CeleryDispatcher(the_app(NOWHERE)).powers == DispatcherPowers(schedules=MINUTE)
    assert CeleryDispatcher(the_app(NOWHERE), ahead=5 * MINUTE).powers.schedules == 5 * MINUTE


def test_no_message_waits_so_long_that_its_broker_would_deliver_it_anew() -> None:
    app = the_app(NOWHERE)
    dispatcher = CeleryDispatcher(app, ahead=timedelta(days=1))
    assert dispatcher.powers.schedules == 15 * MINUTE
    app.conf.broker_transport_options = {"visibility_timeout": 60}
    assert dispatcher.powers.schedules == MINUTE / 2


def test_a_visibility_timeout_that_is_not_set_is_the_shortest_default() -> None:
    app = the_app(NOWHERE)
    app.conf.broker_transport_options = {"visibility_timeout": None}
    assert CeleryDispatcher(app, ahead=timedelta(days=1)).powers.schedules == 15 * MINUTE


def test_what_is_no_app_and_what_are_no_priorities_is_told() -> None:
    wrong: Any = None
    with pytest.raises(ValueError, match=r"^app=None: must be a Celery; priorities=7: must be a mapping"):
        CeleryDispatcher(wrong, priorities=cast("Any", 7))


def test_tasks_are_not_added_to_plan_never_or_to_end_badly() -> None:
    app, host = the_app(NOWHERE), Host()
    dispatcher = CeleryDispatcher(app)
    briefs = Briefs(MemoryStorage(), projects=host, generator=host, dispatcher=dispatcher)
    wrong: Any = 10
    with pytest.raises(
        ValueError, match=r"^every=.*seconds=7200.*at most 1:00:00, or None; grace=10: must be a timedelta"
    ):
        add_tasks(app, briefs, dispatcher, every=timedelta(hours=2), grace=wrong)
    assert not [name for name in app.tasks if name.startswith("fanout_briefs.")]


def test_every_bad_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"^ahead=.*zero or more; priorities\['mail'\]=10: .*0 to 9; .*\['daily'\]=-1"):
        CeleryDispatcher(the_app(NOWHERE), ahead=-MINUTE, priorities={"mail": 10, "x": 9, "daily": -1})


async def test_a_broker_that_is_away_is_told_soon() -> None:
    dispatcher = CeleryDispatcher(the_app(f"redis://127.0.0.1:{free_port()}/0"))
    begun = time.monotonic()
    with pytest.raises(OperationalError):
        await dispatcher.dispatch([JobRef("daily:2026-03-02:ann", "daily", datetime.now(UTC))])
    assert time.monotonic() - begun < 20


async def test_a_connection_that_broke_while_nobody_used_it_costs_no_message(carrier: CeleryCarrier) -> None:
    dispatcher = carrier.dispatcher
    now = datetime.now(UTC)
    await dispatcher.dispatch([JobRef("daily:2026-03-02:ann", "daily", now)])
    carrier.redis().client_kill_filter(_type="normal", skipme=True)
    await dispatcher.dispatch([JobRef("daily:2026-03-02:bo", "daily", now)])
    assert [key for key, _, _ in carrier.waiting()] == ["daily:2026-03-02:ann", "daily:2026-03-02:bo"]


async def test_what_comes_again_goes_ahead_of_others_of_its_type(carrier: CeleryCarrier) -> None:
    now = datetime.now(UTC)
    await carrier.dispatcher.dispatch([JobRef("a", "daily", now), JobRef("b", "daily", now, again=True)])
    with carrier.app.connection_for_read() as connection, connection.SimpleQueue(carrier.queue) as queue:
        taken = [queue.get(timeout=5) for _ in range(2)]
        assert [message.payload[0] for message in taken] == [["b"], ["a"]]
        for message in taken:
            message.ack()


async def test_reconciling_counts_what_a_flushed_broker_lost_and_what_comes_near(
    carrier: CeleryCarrier, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    host = Host()
    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        due, far = now - 10 * MINUTE, now + 40 * MINUTE
        await storage.preferences.put(
            [
                *(Preference(user_id=f"due{number}", time_of_day=f"{due:%H:%M:%S}") for number in range(3)),
                Preference(user_id="far", time_of_day=f"{far:%H:%M:%S}"),
            ]
        )
        briefs = Briefs(
            storage, projects=host, generator=host, dispatcher=carrier.dispatcher, look_back=timedelta(hours=1)
        )
        assert (await briefs.plan(now)).enqueued == 4
        assert [key[-4:] for key, _, _ in carrier.waiting()] == ["due0", "due1", "due2"]
        carrier.redis().flushall()
        assert (await briefs.reconcile(now)).dispatched == 3
        assert [key[-4:] for key, _, _ in carrier.waiting()] == ["due0", "due1", "due2"]
        assert (await briefs.reconcile(far)).dispatched == 4
        assert [key[-3:] for key, _, _ in carrier.waiting()][-1] == "far"
