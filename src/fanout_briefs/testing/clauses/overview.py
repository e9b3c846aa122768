"""Clauses of ``ports.Oversight`` about what an operator sees: overviews, and slots page by page."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from attrs import evolve

from fanout_briefs.model import ENDED, Change, Demand, Finish, Job, JobStatus, Overview, Progress, SkipReason, Trouble
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import (
    DAY,
    EVER,
    HOUR,
    MICROSECOND,
    NOW,
    bring,
    claim,
    claim_one,
    finished,
    found,
    job,
)

_NOTHING = Overview(ended={}, codes={})


async def _seen(storage: Storage, kind: str = "daily", *, now: datetime = NOW, since: datetime = EVER) -> Overview:
    return (await storage.overview([kind], now=now, since=since))[kind]


@storage_kit.clause("overview.types-without-slots")
async def _of_types_without_slots_it_is_empty(storage: Storage) -> None:
    """The overview of a type without slots is empty."""
    await storage.enqueue([job()])
    asked = await storage.overview(["weekly", "mail"], now=NOW, since=EVER)
    same(asked, {"weekly": _NOTHING, "mail": _NOTHING})
    same(await storage.overview([], now=NOW, since=EVER), {})


@storage_kit.clause("overview.waiting-slots")
async def _waiting_slots_are_told_apart_by_when_they_are_due(storage: Storage) -> None:
    """Waiting slots are told apart by when they are due."""
    due = [NOW - DAY, NOW, NOW + MICROSECOND, NOW + HOUR, NOW + HOUR + MICROSECOND, NOW + 9 * DAY]
    await storage.enqueue([job(f"u{number}", run_at=at) for number, at in enumerate(due)])
    expected = evolve(_NOTHING, overdue=2, oldest=NOW - DAY, soon=2, later=2)
    same(await _seen(storage, now=NOW.astimezone(ZoneInfo("Asia/Tokyo"))), expected)
    # What waits has no end yet, so it does not matter how far back one looks.
    same(await _seen(storage, since=NOW + 99 * DAY), expected)


@storage_kit.clause("overview.held-slots")
async def _held_slots_are_told_apart_by_whether_their_lease_has_ended(storage: Storage) -> None:
    """Held slots are told apart by whether their lease has ended."""
    leases = {"ann": HOUR - MICROSECOND, "bob": HOUR, "cid": HOUR + MICROSECOND, "dan": DAY}
    await storage.enqueue([job(name, run_at=NOW - number * HOUR) for number, name in enumerate(leases)])
    for name, lease in leases.items():
        await claim(storage, key=job(name).dedup_key, lease=lease)
    same(await _seen(storage, now=NOW + HOUR), evolve(_NOTHING, running=2, abandoned=2, oldest=NOW - HOUR))
    same(await _seen(storage), evolve(_NOTHING, running=4))


@storage_kit.clause("overview.oldest")
async def _the_oldest_is_of_those_that_wait_and_that_were_abandoned(storage: Storage) -> None:
    """The oldest is of those that wait and of those that were abandoned."""
    await storage.enqueue([job("ann", run_at=NOW - DAY), job("bob", run_at=NOW - HOUR), job("cid", run_at=NOW)])
    await claim(storage, key=job("ann").dedup_key, lease=2 * HOUR)
    same((await _seen(storage, now=NOW)).oldest, NOW - HOUR)
    same((await _seen(storage, now=NOW + 2 * HOUR)).oldest, NOW - DAY)


@storage_kit.clause("overview.ended-slots")
async def _ended_slots_are_counted_by_how_and_why_from_then_on(storage: Storage) -> None:
    """Ended slots to be delivered from then on are counted by how and why they ended."""
    since = job(day=1).occurrence.deliver_at
    for number, status in enumerate(ENDED):
        for day in (0, 1):
            for turn in range(number + 1):
                code = SkipReason.ENGAGEMENT if status is JobStatus.SKIPPED else None
                await bring(storage, job(f"{status}{turn}", day), status, code)
    await bring(storage, job("ann", 1), JobStatus.CANCELLED, SkipReason.SUPERSEDED)
    overview = await _seen(storage, since=since)
    numbers = {status: number + 1 for number, status in enumerate(ENDED)}
    same(overview.ended, {**numbers, JobStatus.CANCELLED: numbers[JobStatus.CANCELLED] + 1})
    same(
        overview.codes,
        {
            SkipReason.ENGAGEMENT: numbers[JobStatus.SKIPPED],
            SkipReason.SUPERSEDED: 1,
        },
    )
    same(await _seen(storage, since=since + MICROSECOND), _NOTHING)
    same(sum((await _seen(storage, since=since - MICROSECOND)).ended.values()), sum(overview.ended.values()))


@storage_kit.clause("overview.troubles-by-frequency")
async def _troubles_stand_by_how_often_they_happened(storage: Storage) -> None:
    """Troubles stand by how often they happened."""
    failed, unknown = JobStatus.FAILED, JobStatus.UNKNOWN
    ends = [(unknown, "lost"), (failed, "boom"), (failed, "bang"), (failed, "boom"), (failed, None), (failed, "")]
    for number, (status, error) in enumerate([*ends, (unknown, "boom"), (JobStatus.EMPTY, "boom")]):
        await finished(storage, job(f"u{number}", number), Finish(status=status, error=error))
    at = job().occurrence.deliver_at
    same(
        (await _seen(storage)).troubles,
        [
            Trouble(failed, "boom", 2, at + 3 * DAY),
            Trouble(failed, None, 1, at + 4 * DAY),
            Trouble(failed, "", 1, at + 5 * DAY),
            Trouble(failed, "bang", 1, at + 2 * DAY),
            Trouble(unknown, "boom", 1, at + 6 * DAY),
            Trouble(unknown, "lost", 1, at),
        ],
    )
    same([trouble.error for trouble in (await _seen(storage, since=at + 4 * DAY)).troubles], [None, "", "boom"])


@storage_kit.clause("overview.at-most-twenty-troubles")
async def _at_most_twenty_troubles_are_told(storage: Storage) -> None:
    """At most twenty troubles are told."""
    for number in range(21):
        await finished(storage, job(f"u{number}"), Finish(status=JobStatus.FAILED, error=f"error {number:02}"))
    again = Finish(status=JobStatus.FAILED, error="error 20")
    await finished(storage, job("ann"), again)
    told = [trouble.error for trouble in (await _seen(storage)).troubles]
    same(told, ["error 20", *(f"error {number:02}" for number in range(19))])
    same((await _seen(storage)).ended, {JobStatus.FAILED: 22})


@storage_kit.clause("overview.mark-plan-and-pause")
async def _it_tells_of_the_mark_the_last_plan_and_the_pause(storage: Storage) -> None:
    """The overview tells of the mark, of the last plan and of the pause."""
    await storage.advance("daily", start=NOW, planned_at=NOW + HOUR)
    await storage.advance("weekly", start=NOW - DAY)
    await storage.pause(["daily"], NOW + 2 * HOUR)
    expected = evolve(_NOTHING, mark=NOW, planned_at=NOW + HOUR, paused_since=NOW + 2 * HOUR)
    asked = await storage.overview(["daily", "weekly", "mail"], now=NOW, since=EVER)
    same(asked, {"daily": expected, "weekly": evolve(_NOTHING, mark=NOW - DAY), "mail": _NOTHING})


@storage_kit.clause("overview.each-type-for-itself")
async def _each_type_stands_for_itself(storage: Storage) -> None:
    """Each type stands for itself."""
    await storage.enqueue([job("ann"), job("bob"), job(type="weekly")])
    await bring(storage, job("cid"), JobStatus.FAILED)
    asked = await storage.overview(["daily", "weekly"], now=NOW, since=EVER)
    same((asked["daily"].overdue, asked["weekly"].overdue), (2, 1))
    same((asked["daily"].ended, asked["weekly"].ended), ({JobStatus.FAILED: 1}, dict[JobStatus, int]()))


@storage_kit.clause("ledger.planned-at.makes-no-mark")
async def _alone_it_makes_no_mark(storage: Storage) -> None:
    """The moment of a plan alone makes no mark."""
    same(await storage.advance("daily", planned_at=NOW), None)
    same(await storage.advance("daily", NOW, planned_at=NOW), None)
    same(await _seen(storage), _NOTHING)
    same(await storage.advance("daily", start=NOW), NOW)
    same(await _seen(storage), evolve(_NOTHING, mark=NOW))


@storage_kit.clause("ledger.planned-at.is-the-last-given")
async def _it_is_the_last_one_that_was_given(storage: Storage) -> None:
    """The moment of the plan is the last one that was given, even if it lies before."""
    await storage.advance("daily", start=NOW, planned_at=NOW)
    same(await storage.advance("daily", planned_at=NOW + HOUR), NOW)
    same(await storage.advance("daily", NOW + DAY), NOW + DAY)
    same(await _seen(storage), evolve(_NOTHING, mark=NOW + DAY, planned_at=NOW + HOUR))
    # A plan may be made for a past moment.
    same(await storage.advance("daily", NOW, planned_at=NOW - HOUR), NOW + DAY)
    same((await _seen(storage)).planned_at, NOW - HOUR)


@storage_kit.clause("select.earliest-first")
async def _the_earliest_come_first_over_all_types(storage: Storage) -> None:
    """The earliest slots come first, over all types."""
    slots = [job("bob", 1), job("ann", 1), job("cid", 0), *(job("ann", day, type="mail") for day in range(3))]
    await storage.enqueue(slots)
    page = await storage.select(["mail", "daily", "mail"], [JobStatus.PENDING], since=EVER)
    same(list(page.items), sorted(slots, key=lambda slot: (slot.occurrence.deliver_at, slot.dedup_key)))
    same(page.next_cursor, None)


@storage_kit.clause("select.each-slot-once", each=[1, 2, 3, 7, 12, 13])
async def _pages_of_any_size_give_each_slot_once(storage: Storage, limit: int) -> None:
    """Pages of any size give each slot once."""
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
        holds(
            len(page.items) <= limit and len(got) <= 13,
            "no more than `limit` in a page, and no more slots than there are",
        )
        cursor = page.next_cursor
        if cursor is None:
            break
        same(len(page.items), limit)
    same([slot.dedup_key for slot in got], sorted(slot.dedup_key for slot in [*slots, job("x")]))


@storage_kit.clause("select.since-is-inclusive")
async def _since_is_inclusive(storage: Storage) -> None:
    """``since`` is inclusive."""
    await storage.enqueue([job(day=day) for day in range(3)])
    since = job(day=1).occurrence.deliver_at
    for at, days in ((since, [1, 2]), (since + MICROSECOND, [2]), (since - MICROSECOND, [1, 2])):
        page = await storage.select(["daily"], [JobStatus.PENDING], since=at.astimezone(ZoneInfo("Asia/Tokyo")))
        same(list(page.items), [job(day=day) for day in days])


@storage_kit.clause("select.only-what-is-asked-for", each=JobStatus)
async def _only_types_and_statuses_asked_for_are_given(storage: Storage, status: JobStatus) -> None:
    """Only slots of the types and statuses asked for are given."""
    for each in JobStatus:
        code = SkipReason.ENGAGEMENT if each is JobStatus.SKIPPED else None
        for kind in ("daily", "weekly"):
            await bring(storage, job(each, type=kind), each, code)
    (only,) = (await storage.select(["daily"], [status, status], since=EVER)).items
    same((only.user_id, only.type, only.status), (status.value, "daily", status))
    others = (await storage.select(["daily"], set(JobStatus) - {status}, since=EVER)).items
    same({each.status for each in others}, set(JobStatus) - {status})
    same((await storage.select([], [status], since=EVER)).items, [])
    same((await storage.select(["daily"], [], since=EVER)).items, [])


@storage_kit.clause("select.whole-slots")
async def _it_gives_whole_slots(storage: Storage) -> None:
    """Slots are given whole, with progress and demand."""
    slot = evolve(job(demand=Demand.RESEND), reason="why")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    await storage.heartbeat([evolve(held, progress=Progress("sections", 1, 2, 1))], NOW + HOUR)
    (only,) = (await storage.select(["daily"], [JobStatus.PROCESSING], since=EVER)).items
    same(only, await found(storage, slot.dedup_key))


@storage_kit.clause("select.leavers-hide-no-others")
async def _slots_that_leave_between_pages_hide_no_others(storage: Storage) -> None:
    """Slots that leave between pages hide no others."""
    for number in range(5):
        await bring(storage, job(f"u{number}"), JobStatus.FAILED)
    first = await storage.select(["daily"], [JobStatus.FAILED], since=EVER, limit=2)
    await storage.change([slot.dedup_key for slot in first.items], Change.RETRY)
    rest = await storage.select(["daily"], [JobStatus.FAILED], since=EVER, cursor=first.next_cursor, limit=9)
    same([slot.user_id for slot in (*first.items, *rest.items)], [f"u{number}" for number in range(5)])


@storage_kit.clause("select.limit-below-one-refused", each=[0, -1])
async def _a_limit_below_one_is_refused(storage: Storage, limit: int) -> None:
    """A limit below one is refused, of pages and of prunes."""
    with refuses(ValueError):
        await storage.select(["daily"], [JobStatus.PENDING], since=EVER, limit=limit)
    with refuses(ValueError):
        await storage.prune(["daily"], NOW, limit)
