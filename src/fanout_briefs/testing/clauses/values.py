"""Clauses about what is stored whole, and what is refused at the edge: ids, texts and instants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

from attrs import AttrsInstance, evolve, fields, has

from fanout_briefs.model import Brief, Change, Enqueued, Finish, Job, JobStatus, Occurrence, Section, Window
from fanout_briefs.ports import Storage
from fanout_briefs.testing.checks import holds, refuses, same
from fanout_briefs.testing.kits import storage_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW, brief_of, claim, claim_one, found, job

_AWKWARD = [
    "' OR 1=1 --",
    'quo"te\\back',
    "日本語😀",
    "e\u0301",
    "\u00e9",
    "ann",
    "Ann",
    " ann ",
    "x" * 255,
    "😀" * 255,
    "a:b:c",
    "%_*[]",
    "an_",
    "an%",
    "user\u200d\u2028",
]


_FAR = [
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 11, 1, 1, 30, fold=0, tzinfo=ZoneInfo("America/New_York")),
    datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=14, seconds=1, microseconds=1))),
]


@storage_kit.clause("values.ids.impossible-refused", each=["nul\0", "surrogate\ud800"])
async def _ids_that_cannot_be_told_apart_are_refused(storage: Storage, user_id: str) -> None:
    """Ids with a NUL or a lone surrogate, which a storage may be unable to tell apart, are refused."""
    with refuses(ValueError):
        await storage.enqueue([job(user_id)])


@storage_kit.clause("values.ids.impossible-found-nowhere")
async def _asking_for_impossible_ids_finds_nothing(storage: Storage) -> None:
    """Asking for impossible ids or types finds nothing, and never somebody else's."""
    await storage.enqueue([job("nul"), job("surrogate")])
    odd = ["nul\0", "nul\0more", "surrogate\ud800"]
    keys = [job(user_id).dedup_key for user_id in odd]
    same(await storage.find(keys), {})
    same(set(await storage.change(keys, Change.CANCEL)), set[str]())
    same(await storage.last_briefs("daily", dict.fromkeys(odd, NOW + DAY)), {})
    same(await storage.advance("nul\0"), None)
    same((await claim(storage, keys=keys)).claims, [])
    same([await storage.brief("daily", user_id) for user_id in odd], [None] * len(odd))
    same([await storage.forget(user_id) for user_id in odd], [0] * len(odd))
    same(await storage.pause(odd, NOW), False)
    same(await storage.paused(["daily", *odd]), {})


@storage_kit.clause("values.instants.naive-refused")
async def _naive_instants_are_refused(storage: Storage) -> None:
    """Naive instants are refused by all that planners and workers call, and nothing is changed."""
    naive = NOW.replace(tzinfo=None)
    with refuses(ValueError):
        await storage.enqueue([evolve(job(), run_at=naive)])
    with refuses(ValueError):
        await storage.last_briefs("daily", {"ann": naive})
    with refuses(ValueError):
        await storage.advance("daily", start=naive)
    same(await storage.find([job().dedup_key]), {})
    await storage.enqueue([job("bob")])
    for due_by, now in ((naive, NOW), (NOW, naive)):
        with refuses(ValueError):
            await storage.claim(due_by, now=now, lease=HOUR, limit=1, types=["daily"])
    held = await claim_one(storage, job("bob"))
    with refuses(ValueError):
        await storage.heartbeat([held], naive)
    with refuses(ValueError):
        await storage.retry(held, naive, "error")
    same(await storage.finish(held, Finish(status=JobStatus.EMPTY)), True)


@storage_kit.clause("values.instants.answers-in-utc")
async def _instants_are_answered_in_utc(storage: Storage) -> None:
    """Every answer gives its instants in UTC, also those that were given in another zone."""
    zone = timezone(timedelta(hours=9))
    now = NOW.astimezone(zone)
    ann, bob = (_in_zone(job(user_id), zone) for user_id in ("ann", "bob"))
    await storage.enqueue([ann, bob])
    await storage.pause(["mail"], now)
    answers: list[object] = [
        await storage.advance("daily", now, start=now, planned_at=now),
        await storage.paused(["mail"]),
        await storage.last_briefs("daily", {"ann": now + DAY}),
    ]
    claims = await storage.claim(now, now=now, lease=HOUR, limit=2, types=["daily"])
    answers += [claims, await storage.claim(now, now=now, lease=HOUR, limit=1, types=["daily"])]
    done = Finish(status=JobStatus.COMPLETED, brief=_in_zone(brief_of(ann), zone))
    same(await storage.finish(next(each for each in claims.claims if each.job.user_id == "ann"), done), True)
    answers += [
        await storage.find([ann.dedup_key, bob.dedup_key]),
        await storage.brief("daily", "ann"),
        await storage.overview(["daily", "mail"], now=now + DAY, since=now - DAY),
        (await storage.select(["daily"], [*JobStatus], since=now - DAY)).items,
    ]
    for answer in answers:
        instants = list(_instants(answer))
        holds(instants, f"an instant in {answer!r}")
        same({instant.tzinfo for instant in instants}, {UTC})


_Slot = TypeVar("_Slot", Job, Brief)


def _in_zone(slot: _Slot, zone: tzinfo) -> _Slot:
    occurrence = evolve(slot.occurrence, deliver_at=slot.occurrence.deliver_at.astimezone(zone))
    window = Window(slot.window.start.astimezone(zone), slot.window.end.astimezone(zone))
    return evolve(slot, occurrence=occurrence, window=window)


def _instants(value: object) -> Iterator[datetime]:
    """Yield the instants anywhere in an answer."""
    if isinstance(value, datetime):
        yield value
    elif has(type(value)):
        for attribute in fields(cast("type[AttrsInstance]", type(value))):
            yield from _instants(getattr(value, attribute.name))
    elif isinstance(value, Mapping):
        yield from _instants([*cast("Mapping[object, object]", value).values()])
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in cast("Sequence[object]", value):
            yield from _instants(each)


@storage_kit.clause("values.ids.awkward-told-apart")
async def _awkward_ids_are_told_apart_and_come_back_exactly(storage: Storage) -> None:
    """Awkward ids are told apart, and come back exactly."""
    jobs = [evolve(job(user_id), reason=user_id * 50) for user_id in _AWKWARD]
    same(set(await storage.enqueue(jobs)), {Enqueued.CREATED})
    same(await storage.find([slot.dedup_key for slot in jobs]), {slot.dedup_key: slot for slot in jobs})
    latest = await storage.last_briefs("daily", dict.fromkeys(_AWKWARD, NOW + DAY))
    same(latest, dict.fromkeys(_AWKWARD, NOW + HOUR))
    same(await storage.change([slot.dedup_key for slot in jobs], Change.CANCEL), {slot.dedup_key for slot in jobs})
    same([await storage.forget(user_id) for user_id in _AWKWARD], [1] * len(_AWKWARD))


@storage_kit.clause("values.nothing-is-shared")
async def _changing_what_was_given_or_got_changes_nothing_that_is_stored(storage: Storage) -> None:
    """Changing a list or mapping that was given or got changes nothing that is stored."""
    sections = [*brief_of(job()).sections]
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    done = Finish(status=JobStatus.COMPLETED, brief=evolve(brief_of(job()), sections=sections))
    same(await storage.finish(held, done), True)
    sections.clear()
    await storage.pause(["daily"], NOW)
    for _ in range(2):
        _empty(await storage.find([job().dedup_key]))
        _empty(await storage.last_briefs("daily", {"ann": NOW + DAY}))
        _empty(await storage.paused(["daily"]))
        _empty((await storage.select(["daily"], [*JobStatus], since=NOW)).items)
        overviews = await storage.overview(["daily"], now=NOW, since=NOW)
        same(overviews["daily"].ended, {JobStatus.COMPLETED: 1})
        _empty(overviews["daily"].ended)
        _empty(overviews)
        saved = await storage.brief("daily", "ann")
        same(saved, brief_of(job()))
        _empty(saved and saved.sections)


def _empty(got: object) -> None:
    holds(got, "what was stored")
    if isinstance(got, MutableMapping | MutableSequence):
        cast("MutableMapping[object, object] | MutableSequence[object]", got).clear()


@storage_kit.clause("values.instants.exact-and-in-utc", each=_FAR)
async def _instants_come_back_exactly_and_in_utc(storage: Storage, at: datetime) -> None:
    """Instants come back exactly, to the microsecond, and in UTC: far ones, and both readings of a fold."""
    on = date.max if at.year == 9999 else date.min
    slot = Job(type="daily", user_id="ann", occurrence=Occurrence(on, at), run_at=at, window=Window(at, at))
    await storage.enqueue([slot])
    back = await found(storage, slot.dedup_key)
    instants = [back.occurrence.deliver_at, back.run_at, back.window.start, back.window.end]
    same(instants, [at.astimezone(UTC)] * 4)
    same({instant.tzinfo for instant in instants}, {UTC})
    same(back.occurrence.local_date, on)


@storage_kit.clause("values.instants.outside-utc-refused")
async def _an_instant_outside_the_years_of_utc_is_refused(storage: Storage) -> None:
    """An instant outside the years 1 to 9999 of UTC is refused."""
    early = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    with refuses(OverflowError, ValueError):
        await storage.enqueue([evolve(job(), run_at=early)])
    same(await storage.find([job().dedup_key]), {})


@storage_kit.clause("values.errors.readable")
async def _an_error_with_lone_surrogates_is_stored_readably(storage: Storage) -> None:
    """An error or reason with lone surrogates is stored in a readable form."""
    await storage.enqueue([job()])
    held = await claim_one(storage, job())
    same(await storage.retry(held, NOW, "no file caf\udce9.txt"), True)
    same((await found(storage, job().dedup_key)).error, r"no file caf\udce9.txt")
    held = await claim_one(storage, job())
    same(await storage.finish(held, Finish(status=JobStatus.FAILED, error="caf\udce9", reason="\ud800")), True)
    back = await found(storage, job().dedup_key)
    same((back.error, back.reason), (r"caf\udce9", r"\ud800"))


@storage_kit.clause("values.briefs.awkward-content")
async def _a_brief_comes_back_with_awkward_content_and_instants_in_utc(storage: Storage) -> None:
    """A brief comes back whole with awkward content, and with its window in UTC."""
    zone = ZoneInfo("America/New_York")
    slot = job("日本語 '\" 😀")
    await storage.enqueue([slot])
    held = await claim_one(storage, slot)
    window = Window(datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=zone), datetime.max.replace(tzinfo=UTC))
    section = Section(project_id="p", title="\ud800 lone", text="x" * 1_000_000 + "\0")
    brief = evolve(brief_of(slot), window=window, sections=[section])
    same(await storage.finish(held, Finish(status=JobStatus.COMPLETED, brief=brief)), True)
    back = await storage.brief("daily", slot.user_id)
    in_utc = Window(datetime(2026, 11, 1, 6, 30, tzinfo=UTC), window.end)
    same(back, evolve(brief, window=in_utc, sections=(section,)))
    same(back is not None and back.window.start.tzinfo, UTC)


@storage_kit.clause("values.instants.naive-refused-by-oversight")
async def _naive_instants_are_refused_by_oversight(storage: Storage) -> None:
    """Naive instants are refused by all that an operator may ask, and nothing is changed."""
    naive = NOW.replace(tzinfo=None)
    with refuses(ValueError):
        await storage.pause(["daily"], naive)
    await storage.pause(["daily"], NOW)
    with refuses(ValueError):
        await storage.resume(["daily"], since=naive)
    with refuses(ValueError):
        await storage.advance("daily", start=NOW, planned_at=naive)
    for now, since in ((naive, NOW), (NOW, naive)):
        with refuses(ValueError):
            await storage.overview(["daily"], now=now, since=since)
    with refuses(ValueError):
        await storage.select(["daily"], [*JobStatus], since=naive)
    with refuses(ValueError):
        await storage.prune(["daily"], naive, 1)
    same(await storage.paused(["daily"]), {"daily": NOW})
    same(await storage.advance("daily"), None)
