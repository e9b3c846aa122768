"""What every dispatcher promises, by the powers it declares; each clause runs against every engine."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import psycopg
import pytest

from carriers import Carrier
from fanout_briefs import JobRef, JobStatus, StorageUnavailable
from fanout_briefs.model import Change, Finish, FollowUp
from fanout_briefs.ports import CancellingDispatcher
from services import Schema
from slots import DAY, HOUR, NOW, claim, job

LATER = NOW + 400 * DAY


def ref(user_id: str = "ann", *, kind: str = "daily", after: timedelta = timedelta(0)) -> JobRef:
    return JobRef(f"{kind}:2026-03-02:{user_id}", kind, LATER + after)


def needs(carrier: Carrier, power: str) -> None:
    if not getattr(carrier.dispatcher.powers, power):
        pytest.skip(f"{carrier.name} does not declare {power}")


async def test_each_job_waits_in_the_engine_for_its_own_time(carrier: Carrier) -> None:
    await carrier.dispatcher.dispatch([ref("bo", after=HOUR), ref("ann")])
    assert [(key, round((at - LATER) / HOUR)) for key, at, _ in carrier.waiting()] == [
        ("daily:2026-03-02:ann", 0),
        ("daily:2026-03-02:bo", 1),
    ]


async def test_nothing_to_hand_over_is_nothing_done(carrier: Carrier) -> None:
    await carrier.dispatcher.dispatch([])
    assert not carrier.waiting()


async def test_what_waits_already_is_not_handed_over_twice(carrier: Carrier) -> None:
    needs(carrier, "reports_duplicates")
    await carrier.dispatcher.dispatch([ref(), ref(), ref("bo")])
    await carrier.dispatcher.dispatch([ref("cy"), ref("bo"), ref()])
    assert [key[-2:] for key, _, _ in carrier.waiting()] == ["nn", "bo", "cy"]


async def test_a_job_that_came_to_be_run_earlier_does_not_wait_for_its_old_time(carrier: Carrier) -> None:
    await carrier.dispatcher.dispatch([ref(after=HOUR)])
    await carrier.dispatcher.dispatch([ref()])
    assert round((min(at for _, at, _ in carrier.waiting()) - LATER) / HOUR) == 0


async def test_job_types_have_priorities(carrier: Carrier) -> None:
    await carrier.with_priorities({"mail": 5}).dispatch([ref(kind="daily"), ref(kind="mail")])
    assert [priority for _, _, priority in carrier.waiting()] == [0, 5]


async def test_what_is_cancelled_no_longer_waits(carrier: Carrier) -> None:
    needs(carrier, "cancels")
    await carrier.dispatcher.dispatch([ref(), ref("bo")])
    await cast("CancellingDispatcher", carrier.dispatcher).cancel([ref(), ref("nobody")])
    assert [key for key, _, _ in carrier.waiting()] == ["daily:2026-03-02:bo"]


async def test_an_engine_that_is_not_installed_says_what_to_run(carrier: Carrier) -> None:
    needs(carrier, "transactional")
    with pytest.raises(StorageUnavailable, match=r"has no tables in schema 'nothing_here' of this database: run `"):
        await carrier.without_tables().dispatch([ref()])


async def test_a_ledger_hands_over_what_becomes_pending_when_it_commits(carrier: Carrier, postgres: Schema) -> None:
    needs(carrier, "transactional")
    within = getattr(carrier.dispatcher, "within")  # noqa: B009
    async with postgres.storage(on_pending=within) as storage:
        await storage.enqueue([job(run_at=LATER), job("bo", run_at=LATER + HOUR)])
        assert [key[-3:] for key, _, _ in carrier.waiting()] == ["ann", ":bo"]
        ((held),) = (await claim(storage, due_by=LATER)).claims
        mail = job(type="mail", run_at=LATER + DAY)
        await storage.finish(held, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"mail")])
        assert [key for key, _, _ in carrier.waiting()][-1] == "mail:2026-03-02:ann"
        await storage.change(["daily:2026-03-02:ann"], Change.REGENERATE)
        assert [key[-3:] for key, _, _ in carrier.waiting()] == ["ann", ":bo", "ann"]


async def test_what_a_ledger_undoes_was_never_handed_over(carrier: Carrier, postgres: Schema) -> None:
    needs(carrier, "transactional")
    within = getattr(carrier.dispatcher, "within")  # noqa: B009
    storage = postgres.storage(on_pending=within)
    with psycopg.connect(postgres.dsn) as connection:
        connection.execute("SET search_path TO public, pg_temp")
        await storage.on(connection).enqueue([job(run_at=LATER)])
        assert not carrier.waiting()
        connection.rollback()
        assert not carrier.waiting()
        connection.execute("SET search_path TO public, pg_temp")
        await storage.on(connection).enqueue([job("bo", run_at=LATER)])
        (looks_in,) = connection.execute("SHOW search_path").fetchone() or ("",)
        assert looks_in == "public, pg_temp"
        connection.commit()
    assert [key for key, _, _ in carrier.waiting()] == ["daily:2026-03-02:bo"]


async def test_an_engine_that_refuses_leaves_the_ledger_as_it_was(carrier: Carrier, postgres: Schema) -> None:
    needs(carrier, "transactional")
    within = getattr(carrier.without_tables(), "within")  # noqa: B009
    async with postgres.storage(on_pending=within) as storage:
        with pytest.raises(StorageUnavailable, match="nothing_here"):
            await storage.enqueue([job()])
        assert not await storage.find([job().dedup_key])


async def test_ten_thousand_slots_are_handed_over_in_one_batch(carrier: Carrier, postgres: Schema) -> None:
    needs(carrier, "transactional")
    within = getattr(carrier.dispatcher, "within")  # noqa: B009
    async with postgres.storage(on_pending=within) as storage:
        slots = [job(f"user{number:05}", run_at=LATER) for number in range(10_000)]
        await storage.enqueue(slots)
        await storage.enqueue(slots)
    assert len(carrier.waiting()) == 10_000
