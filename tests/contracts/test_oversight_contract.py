"""Clauses of ``ports.Oversight``, and of what ``Demand`` changes in the other two ports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from attrs import evolve

from fanout_briefs.model import (
    Change,
    Claim,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Overview,
    Progress,
    SkipReason,
    Trouble,
    Window,
)
from fanout_briefs.ports import Storage
from slots import DAY, HOUR, NOW, brief_of, bring, claim, claim_one, found, job

pytest_plugins = ["storages"]

MICROSECOND = timedelta(microseconds=1)
EVER = datetime(1, 1, 2, tzinfo=UTC)
ENDED = [status for status in JobStatus if status not in (JobStatus.PENDING, JobStatus.PROCESSING)]
EMPTY = Overview(ended={}, codes={})


async def claimable(storage: Storage, *types: str, now: datetime = NOW) -> list[str]:
    return sorted(f"{held.job.type} {held.job.user_id}" for held in (await claim(storage, now=now, types=types)).claims)


async def finished(storage: Storage, slot: Job, end: Finish) -> Job:
    """Bring a slot to this end, whatever its earlier slots are waiting for."""
    if slot.dedup_key not in await storage.find([slot.dedup_key]):
        await storage.enqueue([slot])
    assert await storage.finish(await claim_one(storage, slot), end)
    return await found(storage, slot.dedup_key)


async def briefed(storage: Storage, slot: Job) -> Job:
    return await finished(storage, slot, Finish(status=JobStatus.COMPLETED, brief=brief_of(slot)))


async def seen(storage: Storage, kind: str = "daily", *, now: datetime = NOW, since: datetime = EVER) -> Overview:
    return (await storage.overview([kind], now=now, since=since))[kind]


class TestPausing:
    async def test_nobody_claims_jobs_of_a_paused_type_and_others_go_on(self, storage: Storage) -> None:
        await storage.enqueue([job(type=kind) for kind in ("daily", "mail", "weekly")])
        assert await storage.pause(["daily", "mail"], NOW)
        assert await claimable(storage, "daily", "mail", "weekly") == ["weekly ann"]
        assert await claimable(storage, "daily") == []

    async def test_a_key_claims_nothing_of_a_paused_type_either(self, storage: Storage) -> None:
        await storage.enqueue([job(), job(type="weekly")])
        await storage.pause(["daily"], NOW)
        assert not (await claim(storage, key=job().dedup_key)).claims
        assert (await claim_one(storage, job(type="weekly"))).job.type == "weekly"

    async def test_nobody_takes_over_an_expired_lease_of_a_paused_type(self, storage: Storage) -> None:
        await storage.enqueue([job(), job(type="weekly")])
        await claim(storage, types=["daily", "weekly"])
        await storage.pause(["daily"], NOW)
        assert await claimable(storage, "daily", "weekly", now=NOW + DAY) == ["weekly ann"]
        assert not (await claim(storage, now=NOW + DAY, key=job().dedup_key)).claims

    async def test_there_is_no_lease_to_wait_for_in_a_paused_type(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        await claim(storage)
        await storage.pause(["daily"], NOW)
        assert (await claim(storage)).held_until is None

    async def test_what_is_held_goes_on_to_its_end(self, storage: Storage) -> None:
        await storage.enqueue([job(name) for name in ("beats", "ends", "retried", "let-go")])
        held = {each.job.user_id: each for each in (await claim(storage)).claims}
        await storage.pause(["daily"], NOW)
        assert not await storage.heartbeat([held["beats"]], NOW + 9 * HOUR)
        mail = FollowUp(job("ends", type="mail"), b"mail")
        assert await storage.finish(held["ends"], Finish(status=JobStatus.EMPTY), [mail])
        assert await storage.retry(held["retried"], NOW, "later")
        await storage.release([held["let-go"]])
        states = await storage.find([each.job.dedup_key for each in held.values()])
        assert {each.user_id: each.status for each in states.values()} == {
            "beats": JobStatus.PROCESSING,
            "ends": JobStatus.EMPTY,
            "retried": JobStatus.PENDING,
            "let-go": JobStatus.PENDING,
        }
        assert await claimable(storage, "daily") == []

    async def test_a_pause_changes_no_slot(self, storage: Storage) -> None:
        await storage.enqueue([job("ann"), job("bob")])
        held = await claim_one(storage, job("bob"))
        await storage.pause(["daily"], NOW)
        assert await found(storage, job("ann").dedup_key) == job("ann")
        assert await found(storage, job("bob").dedup_key) == held.job

    async def test_a_follow_up_of_a_paused_type_is_queued_and_waits(self, storage: Storage) -> None:
        await storage.pause(["mail"], NOW)
        mail = job(type="mail")
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
        assert await storage.finish(held, Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"mail")])
        assert await found(storage, mail.dedup_key) == mail
        assert await claimable(storage, "mail") == []
        await storage.resume(["mail"], since=NOW)
        assert (await claim_one(storage, mail)).payload == b"mail"

    async def test_pausing_twice_says_so_and_keeps_the_first_moment(self, storage: Storage) -> None:
        assert await storage.pause(["daily"], NOW)
        assert not await storage.pause(["daily"], NOW + HOUR)
        assert await storage.paused(["daily"]) == {"daily": NOW}

    async def test_a_pause_of_several_types_begins_for_those_that_ran(self, storage: Storage) -> None:
        await storage.pause(["daily"], NOW)
        assert await storage.pause(["daily", "mail"], NOW + HOUR)
        assert await storage.paused(["daily", "mail"]) == {"daily": NOW, "mail": NOW + HOUR}
        assert not await storage.pause(["daily", "mail"], NOW + DAY)
        assert not await storage.pause([], NOW)

    async def test_paused_tells_of_the_types_asked_for_and_in_utc(self, storage: Storage) -> None:
        assert await storage.paused(["daily"]) == {}
        await storage.pause(["daily", "mail"], NOW.astimezone(ZoneInfo("Asia/Tokyo")))
        since = await storage.paused(["daily", "weekly", "daily"])
        assert since == {"daily": NOW}
        assert since["daily"].tzinfo is UTC
        assert await storage.paused([]) == {}

    async def test_naive_instants_are_refused(self, storage: Storage) -> None:
        naive = NOW.replace(tzinfo=None)
        with pytest.raises(ValueError, match="must be aware"):
            await storage.pause(["daily"], naive)
        await storage.pause(["daily"], NOW)
        with pytest.raises(ValueError, match="must be aware"):
            await storage.resume(["daily"], since=naive)
        with pytest.raises(ValueError, match="must be aware"):
            await storage.advance("daily", start=NOW, planned_at=naive)
        for now, since in ((naive, NOW), (NOW, naive)):
            with pytest.raises(ValueError, match="must be aware"):
                await storage.overview(["daily"], now=now, since=since)
        with pytest.raises(ValueError, match="must be aware"):
            await storage.select(["daily"], [*JobStatus], since=naive)
        with pytest.raises(ValueError, match="must be aware"):
            await storage.prune(["daily"], naive, 1)
        assert await storage.paused(["daily"]) == {"daily": NOW}
        assert await storage.advance("daily") is None


class TestEnqueueingWhilePaused:
    async def test_a_new_slot_is_recorded_as_skipped(self, storage: Storage) -> None:
        await storage.pause(["daily"], NOW)
        slot = evolve(job(), reason="active", epoch=3)
        other = job(type="weekly")
        assert list(await storage.enqueue([slot, other])) == [Enqueued.PAUSED, Enqueued.CREATED]
        assert await found(storage, slot.dedup_key) == evolve(slot, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
        assert await found(storage, other.dedup_key) == other

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (JobStatus.SKIPPED, SkipReason.ENGAGEMENT),
            (JobStatus.SKIPPED, SkipReason.PAUSED),
            (JobStatus.CANCELLED, SkipReason.SUPERSEDED),
            (JobStatus.CANCELLED, SkipReason.PAUSED),
        ],
    )
    async def test_a_slot_that_would_be_taken_up_becomes_skipped_in_its_epoch(
        self, storage: Storage, status: JobStatus, code: SkipReason
    ) -> None:
        await bring(storage, job(), status, code)
        before = await found(storage, job().dedup_key)
        await storage.pause(["daily"], NOW)
        changed = evolve(job(run_at=NOW + HOUR), occurrence=evolve(job().occurrence, deliver_at=NOW + 3 * HOUR))
        assert list(await storage.enqueue([changed])) == [Enqueued.PAUSED]
        paused = evolve(changed, status=JobStatus.SKIPPED, code=SkipReason.PAUSED, epoch=before.epoch)
        assert await found(storage, job().dedup_key) == paused

    async def test_its_window_is_that_of_the_new_job_too(self, storage: Storage) -> None:
        await bring(storage, job(), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
        await storage.pause(["daily"], NOW)
        window = Window(NOW - 9 * DAY, NOW + HOUR)
        await storage.enqueue([evolve(job(), window=window)])
        assert (await found(storage, job().dedup_key)).window == window

    async def test_what_is_demanded_is_queued_and_waits(self, storage: Storage) -> None:
        await bring(storage, job("bob"), JobStatus.COMPLETED)
        await storage.pause(["daily"], NOW)
        ann, bob = (job(name, demand=Demand.RUN) for name in ("ann", "bob"))
        assert list(await storage.enqueue([ann, bob])) == [Enqueued.CREATED, Enqueued.TAKEN_UP]
        assert await found(storage, ann.dedup_key) == ann
        assert await found(storage, bob.dedup_key) == evolve(bob, epoch=2)
        assert await claimable(storage, "daily") == []

    async def test_what_is_skipped_keeps_its_own_code(self, storage: Storage) -> None:
        await storage.pause(["daily"], NOW)
        skipped = job(status=JobStatus.SKIPPED, code=SkipReason.MISSED)
        assert list(await storage.enqueue([skipped])) == [Enqueued.CREATED]
        assert await found(storage, skipped.dedup_key) == skipped

    @pytest.mark.parametrize("status", [*set(JobStatus) - {JobStatus.SKIPPED}])
    async def test_what_could_not_be_taken_up_is_a_duplicate(self, storage: Storage, status: JobStatus) -> None:
        await bring(storage, job(), status, SkipReason.WITHDRAWN if status is JobStatus.CANCELLED else None)
        before = await found(storage, job().dedup_key)
        await storage.pause(["daily"], NOW)
        assert list(await storage.enqueue([job(), job("bob"), job("bob")])) == [
            Enqueued.DUPLICATE,
            Enqueued.PAUSED,
            Enqueued.DUPLICATE,
        ]
        assert await found(storage, job().dedup_key) == before

    async def test_a_change_by_hand_waits_for_the_end_of_the_pause(self, storage: Storage) -> None:
        await bring(storage, job(), JobStatus.FAILED)
        await storage.pause(["daily"], NOW)
        assert await storage.change([job().dedup_key], Change.RETRY)
        assert await claimable(storage, "daily") == []
        await storage.resume(["daily"], since=NOW + DAY)
        assert await claimable(storage, "daily") == ["daily ann"]


class TestResuming:
    async def test_where_nothing_is_paused_nothing_is_changed(self, storage: Storage) -> None:
        skipped = job(status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
        await storage.enqueue([skipped, job("bob")])
        assert await storage.resume(["daily"], since=EVER) is None
        assert await storage.resume([], since=EVER) is None
        assert await storage.resume(["daily"], since=NOW + 9 * DAY) is None
        keys = [skipped.dedup_key, job("bob").dedup_key]
        assert list((await storage.find(keys)).values()) == [skipped, job("bob")]

    async def test_it_ends_the_pause_once(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        await storage.pause(["daily"], NOW)
        assert await storage.resume(["daily"], since=NOW) == 0
        assert await storage.paused(["daily"]) == {}
        assert await storage.resume(["daily"], since=NOW) is None
        assert await claimable(storage, "daily") == ["daily ann"]
        assert await storage.pause(["daily"], NOW + DAY)

    async def test_slots_to_be_delivered_from_then_on_become_pending(self, storage: Storage) -> None:
        since = job().occurrence.deliver_at
        timely, late = job("timely"), job("late")
        late = evolve(late, occurrence=evolve(late.occurrence, deliver_at=since - MICROSECOND))
        await storage.pause(["daily"], NOW)
        await storage.enqueue([timely, late])
        assert await storage.resume(["daily"], since=since.astimezone(ZoneInfo("Asia/Tokyo"))) == 1
        assert await found(storage, timely.dedup_key) == evolve(timely, epoch=2)
        skipped = evolve(late, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
        assert await found(storage, late.dedup_key) == skipped

    @pytest.mark.parametrize("status", [JobStatus.SKIPPED, JobStatus.CANCELLED])
    async def test_a_resumed_slot_has_nothing_of_its_old_epoch(self, storage: Storage, status: JobStatus) -> None:
        slot = evolve(job(demand=Demand.RUN), reason="active")
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        assert await storage.retry(held, NOW, "error")
        held = await claim_one(storage, slot)
        await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2))], NOW + HOUR)
        paused = Finish(status=status, code=SkipReason.PAUSED, error="error", reason="paused")
        assert await storage.finish(held, paused)
        await storage.pause(["daily"], NOW)
        assert await storage.resume(["daily"], since=NOW) == 1
        assert await found(storage, slot.dedup_key) == evolve(job(), epoch=2)
        again = await claim_one(storage, slot)
        assert (again.job.attempts, again.token > held.token) == (1, True)

    async def test_pending_slots_to_be_delivered_before_are_cancelled(self, storage: Storage) -> None:
        since = job().occurrence.deliver_at
        timely, late = job("timely"), evolve(job("late"), reason="active")
        late = evolve(late, occurrence=evolve(late.occurrence, deliver_at=since - MICROSECOND))
        await storage.enqueue([timely, late])
        await storage.pause(["daily"], NOW)
        assert await storage.resume(["daily"], since=since) == 0
        assert await found(storage, timely.dedup_key) == timely
        cancelled = evolve(late, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)
        assert await found(storage, late.dedup_key) == cancelled
        assert await claimable(storage, "daily") == ["daily timely"]

    @pytest.mark.parametrize("demand", Demand)
    async def test_what_is_demanded_is_left_alone(self, storage: Storage, demand: Demand) -> None:
        slot = job(demand=demand)
        await storage.enqueue([slot])
        await storage.pause(["daily"], NOW)
        assert await storage.resume(["daily"], since=NOW + 9 * DAY) == 0
        assert await found(storage, slot.dedup_key) == slot

    async def test_slots_in_other_states_and_with_other_codes_are_left_alone(self, storage: Storage) -> None:
        states = [(status, None) for status in JobStatus if status not in (JobStatus.PENDING, JobStatus.SKIPPED)]
        codes = [(status, SkipReason.WITHDRAWN) for status in (JobStatus.SKIPPED, JobStatus.CANCELLED)]
        odd = [(JobStatus.FAILED, SkipReason.PAUSED)]
        slots = [job(f"u{number}") for number in range(9)]
        for slot, (status, code) in zip(slots, [*states, *codes, *odd], strict=True):
            await bring(storage, slot, status, code)
        keys = [slot.dedup_key for slot in slots]
        before = await storage.find(keys)
        for since in (EVER, NOW + 9 * DAY):
            await storage.pause(["daily"], NOW)
            assert await storage.resume(["daily"], since=since) == 0
            assert await storage.find(keys) == before

    async def test_only_types_that_were_paused_are_resumed(self, storage: Storage) -> None:
        daily, weekly = (
            job(type=kind, status=JobStatus.SKIPPED, code=SkipReason.PAUSED) for kind in ("daily", "weekly")
        )
        old = job("bob", type="weekly")
        await storage.enqueue([daily, weekly, old])
        await storage.pause(["daily", "mail"], NOW)
        assert await storage.resume(["daily", "weekly"], since=NOW + HOUR) == 1
        assert await storage.resume(["weekly"], since=NOW + DAY) is None
        assert await found(storage, weekly.dedup_key) == weekly
        assert await found(storage, old.dedup_key) == old
        assert await storage.paused(["daily", "mail"]) == {"mail": NOW}

    async def test_a_worker_that_holds_a_slot_through_a_pause_keeps_it(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        held = await claim_one(storage, job())
        await storage.pause(["daily"], NOW)
        await storage.resume(["daily"], since=NOW + 9 * DAY)
        assert not await storage.heartbeat([held], NOW + DAY)
        assert await storage.finish(held, Finish(status=JobStatus.EMPTY))


class TestOverview:
    async def test_of_types_without_slots_it_is_empty(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        asked = await storage.overview(["weekly", "mail"], now=NOW, since=EVER)
        assert asked == {"weekly": EMPTY, "mail": EMPTY}
        assert await storage.overview([], now=NOW, since=EVER) == {}

    async def test_waiting_slots_are_told_apart_by_when_they_are_due(self, storage: Storage) -> None:
        due = [NOW - DAY, NOW, NOW + MICROSECOND, NOW + HOUR, NOW + HOUR + MICROSECOND, NOW + 9 * DAY]
        await storage.enqueue([job(f"u{number}", run_at=at) for number, at in enumerate(due)])
        expected = evolve(EMPTY, overdue=2, oldest=NOW - DAY, soon=2, later=2)
        assert await seen(storage, now=NOW.astimezone(ZoneInfo("Asia/Tokyo"))) == expected
        # What waits has no end yet, so it does not matter how far back one looks.
        assert await seen(storage, since=NOW + 99 * DAY) == expected

    async def test_held_slots_are_told_apart_by_whether_their_lease_has_ended(self, storage: Storage) -> None:
        leases = {"ann": HOUR - MICROSECOND, "bob": HOUR, "cid": HOUR + MICROSECOND, "dan": DAY}
        await storage.enqueue([job(name, run_at=NOW - number * HOUR) for number, name in enumerate(leases)])
        for name, lease in leases.items():
            await claim(storage, key=job(name).dedup_key, lease=lease)
        assert await seen(storage, now=NOW + HOUR) == evolve(EMPTY, running=2, abandoned=2, oldest=NOW - HOUR)
        assert await seen(storage) == evolve(EMPTY, running=4)

    async def test_the_oldest_is_of_those_that_wait_and_that_were_abandoned(self, storage: Storage) -> None:
        await storage.enqueue([job("ann", run_at=NOW - DAY), job("bob", run_at=NOW - HOUR), job("cid", run_at=NOW)])
        await claim(storage, key=job("ann").dedup_key, lease=2 * HOUR)
        assert (await seen(storage, now=NOW)).oldest == NOW - HOUR
        assert (await seen(storage, now=NOW + 2 * HOUR)).oldest == NOW - DAY

    async def test_ended_slots_are_counted_by_how_and_why_from_then_on(self, storage: Storage) -> None:
        since = job(day=1).occurrence.deliver_at
        for number, status in enumerate(ENDED):
            for day in (0, 1):
                for turn in range(number + 1):
                    code = SkipReason.ENGAGEMENT if status is JobStatus.SKIPPED else None
                    await bring(storage, job(f"{status}{turn}", day), status, code)
        await bring(storage, job("ann", 1), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
        overview = await seen(storage, since=since)
        numbers = {status: number + 1 for number, status in enumerate(ENDED)}
        assert overview.ended == {**numbers, JobStatus.CANCELLED: numbers[JobStatus.CANCELLED] + 1}
        assert overview.codes == {
            SkipReason.ENGAGEMENT: numbers[JobStatus.SKIPPED],
            SkipReason.SUPERSEDED: 1,
        }
        assert (await seen(storage, since=since + MICROSECOND)) == EMPTY
        assert sum((await seen(storage, since=since - MICROSECOND)).ended.values()) == sum(overview.ended.values())

    async def test_troubles_stand_by_how_often_they_happened(self, storage: Storage) -> None:
        failed, unknown = JobStatus.FAILED, JobStatus.UNKNOWN
        ends = [(unknown, "lost"), (failed, "boom"), (failed, "bang"), (failed, "boom"), (failed, None), (failed, "")]
        for number, (status, error) in enumerate([*ends, (unknown, "boom"), (JobStatus.EMPTY, "boom")]):
            await finished(storage, job(f"u{number}", number), Finish(status=status, error=error))
        at = job().occurrence.deliver_at
        assert list((await seen(storage)).troubles) == [
            Trouble(failed, "boom", 2, at + 3 * DAY),
            Trouble(failed, None, 1, at + 4 * DAY),
            Trouble(failed, "", 1, at + 5 * DAY),
            Trouble(failed, "bang", 1, at + 2 * DAY),
            Trouble(unknown, "boom", 1, at + 6 * DAY),
            Trouble(unknown, "lost", 1, at),
        ]
        assert [trouble.error for trouble in (await seen(storage, since=at + 4 * DAY)).troubles] == [None, "", "boom"]

    async def test_at_most_twenty_troubles_are_told(self, storage: Storage) -> None:
        for number in range(21):
            await finished(storage, job(f"u{number}"), Finish(status=JobStatus.FAILED, error=f"error {number:02}"))
        again = Finish(status=JobStatus.FAILED, error="error 20")
        await finished(storage, job("ann"), again)
        told = [trouble.error for trouble in (await seen(storage)).troubles]
        assert told == ["error 20", *(f"error {number:02}" for number in range(19))]
        assert (await seen(storage)).ended == {JobStatus.FAILED: 22}

    async def test_it_tells_of_the_mark_the_last_plan_and_the_pause(self, storage: Storage) -> None:
        await storage.advance("daily", start=NOW, planned_at=NOW + HOUR)
        await storage.advance("weekly", start=NOW - DAY)
        await storage.pause(["daily"], NOW + 2 * HOUR)
        expected = evolve(EMPTY, mark=NOW, planned_at=NOW + HOUR, paused_since=NOW + 2 * HOUR)
        asked = await storage.overview(["daily", "weekly", "mail"], now=NOW, since=EVER)
        assert asked == {"daily": expected, "weekly": evolve(EMPTY, mark=NOW - DAY), "mail": EMPTY}

    async def test_each_type_stands_for_itself(self, storage: Storage) -> None:
        await storage.enqueue([job("ann"), job("bob"), job(type="weekly")])
        await bring(storage, job("cid"), JobStatus.FAILED)
        asked = await storage.overview(["daily", "weekly"], now=NOW, since=EVER)
        assert (asked["daily"].overdue, asked["weekly"].overdue) == (2, 1)
        assert (asked["daily"].ended, asked["weekly"].ended) == ({JobStatus.FAILED: 1}, {})


class TestTheMomentOfThePlan:
    async def test_alone_it_makes_no_mark(self, storage: Storage) -> None:
        assert await storage.advance("daily", planned_at=NOW) is None
        assert await storage.advance("daily", NOW, planned_at=NOW) is None
        assert await seen(storage) == EMPTY
        assert await storage.advance("daily", start=NOW) == NOW
        assert await seen(storage) == evolve(EMPTY, mark=NOW)

    async def test_it_is_the_last_one_that_was_given(self, storage: Storage) -> None:
        await storage.advance("daily", start=NOW, planned_at=NOW)
        assert await storage.advance("daily", planned_at=NOW + HOUR) == NOW
        assert await storage.advance("daily", NOW + DAY) == NOW + DAY
        assert await seen(storage) == evolve(EMPTY, mark=NOW + DAY, planned_at=NOW + HOUR)
        # A plan may be made for a past moment.
        assert await storage.advance("daily", NOW, planned_at=NOW - HOUR) == NOW + DAY
        assert (await seen(storage)).planned_at == NOW - HOUR


class TestSelecting:
    async def test_the_earliest_come_first_over_all_types(self, storage: Storage) -> None:
        slots = [job("bob", 1), job("ann", 1), job("cid", 0), job("ann", 1, type="mail"), job("ann", 2, type="mail")]
        await storage.enqueue(slots)
        page = await storage.select(["mail", "daily", "mail"], [JobStatus.PENDING], since=EVER)
        assert list(page.items) == sorted(slots, key=lambda slot: (slot.occurrence.deliver_at, slot.dedup_key))
        assert page.next_cursor is None

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 13])
    async def test_pages_of_any_size_give_each_slot_once(self, storage: Storage, limit: int) -> None:
        # Most share one moment of delivery, so that a cursor often stands among equals.
        slots = [job(f"u{number}", number // 9, type=kind) for number in range(6) for kind in ("daily", "mail")]
        await storage.enqueue(slots)
        await bring(storage, job("x"), JobStatus.FAILED)
        got: list[Job] = []
        cursor: str | None = None
        statuses = [JobStatus.PENDING, JobStatus.FAILED]
        while True:
            page = await storage.select(["daily", "mail"], statuses, since=EVER, cursor=cursor, limit=limit)
            got += page.items
            assert len(page.items) <= limit
            assert len(got) <= 13
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.items) == limit
        assert [slot.dedup_key for slot in got] == sorted(slot.dedup_key for slot in [*slots, job("x")])

    async def test_since_is_inclusive(self, storage: Storage) -> None:
        await storage.enqueue([job(day=day) for day in range(3)])
        since = job(day=1).occurrence.deliver_at
        for at, days in ((since, [1, 2]), (since + MICROSECOND, [2]), (since - MICROSECOND, [1, 2])):
            page = await storage.select(["daily"], [JobStatus.PENDING], since=at.astimezone(ZoneInfo("Asia/Tokyo")))
            assert list(page.items) == [job(day=day) for day in days]

    @pytest.mark.parametrize("status", JobStatus)
    async def test_only_types_and_statuses_asked_for_are_given(self, storage: Storage, status: JobStatus) -> None:
        for each in JobStatus:
            code = SkipReason.ENGAGEMENT if each is JobStatus.SKIPPED else None
            for kind in ("daily", "weekly"):
                await bring(storage, job(each, type=kind), each, code)
        (only,) = (await storage.select(["daily"], [status, status], since=EVER)).items
        assert (only.user_id, only.type, only.status) == (status.value, "daily", status)
        others = (await storage.select(["daily"], set(JobStatus) - {status}, since=EVER)).items
        assert {each.status for each in others} == set(JobStatus) - {status}
        assert not (await storage.select([], [status], since=EVER)).items
        assert not (await storage.select(["daily"], [], since=EVER)).items

    async def test_it_gives_whole_slots(self, storage: Storage) -> None:
        slot = evolve(job(demand=Demand.RESEND), reason="why")
        await storage.enqueue([slot])
        held = await claim_one(storage, slot)
        await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2, 1))], NOW + HOUR)
        (only,) = (await storage.select(["daily"], [JobStatus.PROCESSING], since=EVER)).items
        assert only == await found(storage, slot.dedup_key)

    async def test_slots_that_leave_between_pages_hide_no_others(self, storage: Storage) -> None:
        for number in range(5):
            await bring(storage, job(f"u{number}"), JobStatus.FAILED)
        first = await storage.select(["daily"], [JobStatus.FAILED], since=EVER, limit=2)
        await storage.change([slot.dedup_key for slot in first.items], Change.RETRY)
        rest = await storage.select(["daily"], [JobStatus.FAILED], since=EVER, cursor=first.next_cursor, limit=9)
        assert [slot.user_id for slot in (*first.items, *rest.items)] == [f"u{number}" for number in range(5)]

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_a_limit_below_one_is_refused(self, storage: Storage, limit: int) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            await storage.select(["daily"], [JobStatus.PENDING], since=EVER, limit=limit)
        with pytest.raises(ValueError, match="at least 1"):
            await storage.prune(["daily"], NOW, limit)


class TestPruning:
    async def test_what_ended_before_then_is_erased_and_the_latest_stays(self, storage: Storage) -> None:
        for day in range(4):
            await bring(storage, job(day=day), JobStatus.EMPTY)
        before = job(day=2).occurrence.deliver_at
        assert await storage.prune(["daily"], before.astimezone(ZoneInfo("Asia/Tokyo")), 9) == 2
        keys = [job(day=day).dedup_key for day in range(4)]
        assert list(await storage.find(keys)) == keys[2:]
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 1
        assert list(await storage.find(keys)) == keys[3:]
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 0

    @pytest.mark.parametrize("status", JobStatus)
    async def test_live_slots_are_never_erased(self, storage: Storage, status: JobStatus) -> None:
        await storage.enqueue([job(day=1, status=JobStatus.SKIPPED, code=SkipReason.MISSED)])
        await bring(storage, job(day=2), JobStatus.COMPLETED)
        await bring(storage, job(), status, SkipReason.MISSED if status is JobStatus.SKIPPED else None)
        before = await found(storage, job().dedup_key)
        lives = status in (JobStatus.PENDING, JobStatus.PROCESSING)
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == (1 if lives else 2)
        assert await storage.find([job().dedup_key]) == ({job().dedup_key: before} if lives else {})

    async def test_no_more_than_the_limit_at_once(self, storage: Storage) -> None:
        for number in range(3):
            for day in range(3):
                await bring(storage, job(f"u{number}", day), JobStatus.EMPTY)
        erased = [await storage.prune(["daily"], NOW + 99 * DAY, 4) for _ in range(3)]
        assert erased == [4, 2, 0]

    async def test_other_types_are_left_alone_and_each_type_has_a_latest(self, storage: Storage) -> None:
        for kind in ("daily", "mail", "weekly"):
            for day in range(2):
                await bring(storage, job(day=day, type=kind), JobStatus.EMPTY)
        assert await storage.prune(["daily", "mail", "daily"], NOW + 99 * DAY, 9) == 2
        keys = [job(day=day, type=kind).dedup_key for kind in ("daily", "mail", "weekly") for day in range(2)]
        assert list(await storage.find(keys)) == [keys[1], keys[3], keys[4], keys[5]]
        assert await storage.prune([], NOW + 99 * DAY, 9) == 0

    async def test_of_slots_with_one_time_of_delivery_one_stays(self, storage: Storage) -> None:
        twin = evolve(job(day=1), occurrence=evolve(job(day=1).occurrence, deliver_at=job().occurrence.deliver_at))
        for slot in (job(), twin):
            await bring(storage, slot, JobStatus.EMPTY)
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 1
        assert list(await storage.find([job().dedup_key, twin.dedup_key])) == [twin.dedup_key]

    async def test_briefs_go_with_their_slots_and_the_latest_stays(self, storage: Storage) -> None:
        for day in range(3):
            await briefed(storage, job(day=day))
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 2
        for day in range(2):
            assert await storage.brief("daily", "ann", job(day=day).occurrence.local_date) is None
        assert await storage.brief("daily", "ann") == brief_of(job(day=2))

    async def test_whoever_was_skipped_since_keeps_their_last_brief_and_its_slot(self, storage: Storage) -> None:
        for day in (0, 1):
            await briefed(storage, job(day=day))
        skipped = [job(day=day, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT) for day in range(2, 5)]
        await storage.enqueue(skipped)
        last = job(day=1).occurrence.deliver_at
        assert await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}) == {"ann": last}
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 3
        assert await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}) == {"ann": last}
        assert await storage.brief("daily", "ann") == brief_of(job(day=1))
        await storage.enqueue([job(day=6)])
        assert (await claim_one(storage, job(day=6))).job.window.start == job(day=1).window.end

    async def test_the_last_brief_is_erased_once_there_is_a_later_one(self, storage: Storage) -> None:
        await briefed(storage, job())
        await storage.enqueue([job(day=1, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 0
        await briefed(storage, job(day=2))
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 2
        assert await storage.brief("daily", "ann", job().occurrence.local_date) is None

    async def test_a_brief_that_is_being_made_again_keeps_its_slot_however_that_ends(self, storage: Storage) -> None:
        await briefed(storage, job())
        await briefed(storage, job(day=1))
        await storage.change([job(day=1).dedup_key], Change.REGENERATE)
        await finished(storage, job(day=1), Finish(status=JobStatus.FAILED))
        await storage.enqueue([job(day=2, status=JobStatus.SKIPPED, code=SkipReason.ENGAGEMENT)])
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 0
        assert await storage.last_briefs("daily", {"ann": NOW + 9 * DAY}) == {"ann": job().occurrence.deliver_at}
        assert await storage.brief("daily", "ann") == brief_of(job(day=1))

    async def test_the_payload_goes_with_its_slot(self, storage: Storage) -> None:
        mail = job(type="mail")
        await storage.enqueue([job()])
        await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [FollowUp(mail, b"mail")])
        await finished(storage, mail, Finish(status=JobStatus.FAILED))
        await bring(storage, job(day=1, type="mail"), JobStatus.EMPTY)
        assert await storage.prune(["mail"], NOW + 99 * DAY, 9) == 1
        await storage.enqueue([mail])
        assert (await claim_one(storage, mail)).payload is None

    async def test_a_claim_from_before_does_not_fit_the_same_slot_planned_again(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        stale: list[Claim] = [await claim_one(storage, job(), now=NOW + turn * DAY) for turn in range(3)]
        await storage.finish(stale[-1], Finish(status=JobStatus.EMPTY))
        await bring(storage, job(day=1), JobStatus.EMPTY)
        assert await storage.prune(["daily"], NOW + 99 * DAY, 9) == 1
        await storage.enqueue([job()])
        new = await claim_one(storage, job())
        assert all(new.token > old.token for old in stale)
        assert not any([await storage.finish(old, Finish(status=JobStatus.FAILED)) for old in stale])
        assert await storage.finish(new, Finish(status=JobStatus.EMPTY))


class TestDemand:
    @pytest.mark.parametrize("demand", Demand)
    async def test_it_stays_with_the_slot_through_every_attempt(self, storage: Storage, demand: Demand) -> None:
        slot = job(demand=demand)
        await storage.enqueue([slot])
        assert await found(storage, slot.dedup_key) == slot
        held = await claim_one(storage, slot)
        assert held.job.demand is demand
        assert await storage.retry(held, NOW, "error")
        held = await claim_one(storage, slot)
        await storage.release([held])
        held = await claim_one(storage, slot)
        assert held.job.demand is demand
        assert await storage.finish(held, Finish(status=JobStatus.FAILED))
        assert (await found(storage, slot.dedup_key)).demand is demand

    @pytest.mark.parametrize(
        ("change", "status", "demand"),
        [
            (Change.RETRY, JobStatus.FAILED, Demand.RUN),
            (Change.REGENERATE, JobStatus.COMPLETED, Demand.RUN),
            (Change.RESEND, JobStatus.COMPLETED, Demand.RESEND),
        ],
    )
    @pytest.mark.parametrize("old", [None, *Demand])
    async def test_a_change_by_hand_sets_it(
        self, storage: Storage, change: Change, status: JobStatus, demand: Demand, old: Demand | None
    ) -> None:
        slot = job(demand=old)
        await bring(storage, slot, status)
        assert await storage.change([slot.dedup_key], change)
        assert await found(storage, slot.dedup_key) == evolve(slot, demand=demand, epoch=2)

    async def test_cancelling_asks_for_nothing(self, storage: Storage) -> None:
        await storage.enqueue([job()])
        await storage.change([job().dedup_key], Change.CANCEL)
        assert (await found(storage, job().dedup_key)).demand is None

    @pytest.mark.parametrize("status", JobStatus)
    async def test_enqueueing_on_demand_takes_up_any_slot_that_nobody_holds(
        self, storage: Storage, status: JobStatus
    ) -> None:
        old = evolve(job(), reason="active")
        held = await bring(storage, old, status, SkipReason.WITHDRAWN if status in ("cancelled", "skipped") else None)
        before = await found(storage, old.dedup_key)
        now = evolve(job(run_at=NOW + HOUR, demand=Demand.RUN), occurrence=evolve(old.occurrence, deliver_at=NOW))
        (outcome,) = await storage.enqueue([now])
        if status is JobStatus.PROCESSING:
            assert (outcome, await found(storage, old.dedup_key)) == (Enqueued.DUPLICATE, before)
            return
        assert (outcome, await found(storage, old.dedup_key)) == (Enqueued.TAKEN_UP, evolve(now, epoch=2))
        assert held is None or not await storage.finish(held, Finish(status=JobStatus.EMPTY))
        assert (await claim_one(storage, now)).job.demand is Demand.RUN

    async def test_a_skipped_job_takes_up_nothing_even_on_demand(self, storage: Storage) -> None:
        await bring(storage, job(), JobStatus.FAILED)
        before = await found(storage, job().dedup_key)
        skipped = job(status=JobStatus.SKIPPED, code=SkipReason.MISSED, demand=Demand.RUN)
        assert list(await storage.enqueue([skipped])) == [Enqueued.DUPLICATE]
        assert await found(storage, job().dedup_key) == before

    async def test_a_plan_that_takes_up_a_slot_ends_it(self, storage: Storage) -> None:
        await bring(storage, job(demand=Demand.RESEND), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
        assert list(await storage.enqueue([job()])) == [Enqueued.TAKEN_UP]
        assert await found(storage, job().dedup_key) == evolve(job(), epoch=2)


class TestFollowUpsThatAreSentAgain:
    @pytest.mark.parametrize("status", JobStatus)
    async def test_they_are_renewed_whatever_became_of_the_first(self, storage: Storage, status: JobStatus) -> None:
        mail = job(type="mail")
        held = await bring(storage, mail, status, SkipReason.OPTED_OUT if status is JobStatus.SKIPPED else None)
        if status is JobStatus.PROCESSING and held is not None:
            await storage.heartbeat([evolve(held, progress=Progress("sending"))], NOW + HOUR)
        renewal = evolve(job(type="mail", run_at=NOW + HOUR, demand=Demand.RESEND), epoch=5, attempts=3)
        await storage.enqueue([job()])
        brief = await claim_one(storage, job())
        assert await storage.finish(brief, Finish(status=JobStatus.EMPTY), [FollowUp(renewal, b"new")])
        assert await found(storage, mail.dedup_key) == evolve(renewal, attempts=0)
        again = await claim_one(storage, mail)
        assert (again.payload, again.job.demand, again.progress) == (b"new", Demand.RESEND, None)

    async def test_whoever_held_the_first_has_lost_it(self, storage: Storage) -> None:
        mail = job(type="mail")
        await storage.enqueue([mail, job()])
        held = await claim_one(storage, mail)
        renewal = FollowUp(job(type="mail", demand=Demand.RESEND), b"new")
        await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [renewal])
        for again in (None, await claim_one(storage, mail)):
            assert set(await storage.heartbeat([held], NOW + DAY)) == {mail.dedup_key}
            assert not await storage.retry(held, NOW, "error")
            await storage.release([held])
            assert not await storage.finish(held, Finish(status=JobStatus.COMPLETED))
            assert again is None or await found(storage, mail.dedup_key) == again.job

    @pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.UNKNOWN, JobStatus.PROCESSING])
    async def test_those_that_only_run_again_are_not(self, storage: Storage, status: JobStatus) -> None:
        mail = job(type="mail")
        await bring(storage, mail, status)
        before = await found(storage, mail.dedup_key)
        await storage.enqueue([job()])
        again = FollowUp(job(type="mail", demand=Demand.RUN), b"new")
        assert await storage.finish(await claim_one(storage, job()), Finish(status=JobStatus.EMPTY), [again])
        assert await found(storage, mail.dedup_key) == before


async def test_a_retry_that_is_not_counted_takes_the_attempt_back(storage: Storage) -> None:
    await storage.enqueue([job()])
    assert await storage.retry(await claim_one(storage, job()), NOW, "first")
    after = evolve(job(run_at=NOW + HOUR), attempts=1, error="come later")
    for _ in range(5):
        held = await claim_one(storage, job())
        assert held.job.attempts == 2
        assert await storage.retry(held, NOW + HOUR, "come later", counted=False)
        assert await found(storage, job().dedup_key) == after
        assert not await storage.retry(held, NOW, "stale", counted=False)
        assert await found(storage, job().dedup_key) == after
