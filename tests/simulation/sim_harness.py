"""Runs the library through a simulated world beside the oracle, and compares them after every step.

Only what a host sees is used: ``Briefs``, the ports it is given, and the storage's preferences. A disagreement says
who, which date, what was expected and what came, with the seed that makes it again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from anyio.lowlevel import checkpoint
from attrs import define, field
from sim_oracle import ATTEMPTS, DAY, Almanac, Asked, Event, Fate, Fault, Oracle, Planned, Ran, Row, Weather, Wish
from sim_world import Move, World, chance

from fanout_briefs import (
    BackoffPolicy,
    Briefs,
    Job,
    Mail,
    NotSent,
    PermanentFailure,
    PlanReport,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    Retrying,
    RetryLater,
    SectionRequest,
    Window,
)
from fanout_briefs.model import Brief, Claims, Page
from fanout_briefs.runs import Ended

POLICIES = {"phase1": BackoffPolicy.phase1(), "default": BackoffPolicy()}


class Broken(Exception):
    """What the simulated world raises."""


class Sky:
    """The moment, what does not work at it, and which of that was met."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.now = datetime.min.replace(tzinfo=UTC)
        self.weather = Weather()
        self.phase = "idle"
        self.faults: list[Fault] = []

    @contextmanager
    def during(self, phase: str) -> Generator[None]:
        self.phase, self.faults = phase, []
        try:
            yield
        finally:
            self.phase = "idle"

    def meet(self, call: str, user_ids: Iterable[str]) -> None:
        """Raise if this call of a plan is to fail for one of these people."""
        asked = frozenset(user_ids)
        if self.phase != "plan" or self.weather.broken_call != call:
            return
        if any(int(3 * chance(self.seed, "bucket", user_id)) == self.weather.bucket for user_id in asked):
            self.faults.append(Fault(call, asked))
            raise Broken(f"the ledger failed in {call}")

    def must_not(self, phase: str, broken: bool, what: str) -> None:
        if broken and self.phase == phase:
            raise Broken(what)


class Frail:
    """A storage whose calls fail as the weather has it; it also notes what plans recorded.

    A call that fails in a plan is one of a page. What is not named here is passed on.
    """

    def __init__(self, storage: Any, sky: Sky, lead: timedelta) -> None:
        self._storage, self._sky, self._lead = storage, sky, lead
        self.rows: list[Row] = []
        self.spread: dict[str, timedelta] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        self._sky.meet("find", {key.split(":", 2)[2] for key in keys})
        found: Mapping[str, Job] = await self._storage.find(keys)
        return found

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002
        self._sky.meet("last_briefs", before)
        found: Mapping[str, datetime] = await self._storage.last_briefs(type, before)
        return found

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[str]:
        self._sky.meet("enqueue", {job.user_id for job in jobs})
        outcomes: Sequence[str] = await self._storage.enqueue(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome in {"created", "taken_up"}:
                self.note(job)
        self._sky.meet("enqueue, though done", {job.user_id for job in jobs})
        return outcomes

    def note(self, job: Job) -> None:
        at = job.occurrence.deliver_at
        self.rows.append(Row(job.user_id, job.occurrence.local_date, at, str(job.code or job.status)))
        begun = job.run_at - (at - self._lead)
        first = self.spread.setdefault(job.user_id, begun)
        assert begun == first, f"{job.dedup_key}: is begun {begun} after its cut-off, and earlier ones {first} after"

    async def advance(self, name: str, to: datetime | None = None, **more: Any) -> datetime | None:
        self._sky.must_not("plan", to is not None and self._sky.weather.mark_fails, "the mark cannot be written")
        found: datetime | None = await self._storage.advance(name, to, **more)
        return found

    async def claim(self, due_by: datetime, **more: Any) -> Claims:
        self._sky.must_not("run", self._sky.weather.claims_fail, "nothing can be claimed")
        found: Claims = await self._storage.claim(due_by, **more)
        return found


class Indexed(Frail):
    """The same for long runs: it remembers which slots are live and claims those by their keys.

    A claim of ``MemoryStorage`` looks at every slot it ever had, which makes a year of hourly ones quadratic.
    """

    def __init__(self, storage: Any, sky: Sky, lead: timedelta) -> None:
        super().__init__(storage, sky, lead)
        self._live: dict[str, Job] = {}

    def note(self, job: Job) -> None:
        super().note(job)
        if job.status == "pending":
            self._live[job.dedup_key] = job

    async def claim(self, due_by: datetime, **more: Any) -> Claims:
        limit, types = more.pop("limit"), more["types"]
        assert more.pop("keys", None) is None, "the simulated world asks for no single slot"
        self._sky.must_not("run", self._sky.weather.claims_fail, "nothing can be claimed")
        due = [job for job in self._live.values() if job.run_at <= due_by and job.type in types]
        due.sort(key=lambda job: (job.run_at, job.occurrence.deliver_at))
        claims: list[Any] = []
        for job in due:
            if len(claims) == limit:
                break
            got = await self._storage.claim(due_by, limit=1, keys=[job.dedup_key], **more)
            claims += got.claims
        return Claims(claims)

    async def finish(self, claim: Any, finish: Any, follow_ups: Sequence[Any] = ()) -> bool:
        kept: bool = await self._storage.finish(claim, finish, follow_ups)
        if kept:
            self._live.pop(claim.job.dedup_key, None)
            self._live |= {each.job.dedup_key: each.job for each in follow_ups}
        return kept

    async def retry(self, claim: Any, at: datetime, error: str, **more: Any) -> bool:
        kept: bool = await self._storage.retry(claim, at, error, **more)
        if kept:
            (self._live[claim.job.dedup_key],) = (await self._storage.find([claim.job.dedup_key])).values()
        return kept

    async def forget(self, user_id: str) -> int:
        rows: int = await self._storage.forget(user_id)
        self._live = {key: job for key, job in self._live.items() if job.user_id != user_id}
        return rows


class Rows:
    """The preferences of the people of one world, of those that the storage keeps."""

    def __init__(self, kept: Any, world: World, sky: Sky) -> None:
        self._kept, self._world, self._sky = kept, world, sky
        self.known: list[str] = []
        self._pages = 0

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        self._pages = 0 if cursor is None else self._pages + 1
        if self._sky.weather.broken_page == self._pages and self._sky.phase == "plan":
            raise Broken("this page of preferences cannot be read")
        begin = 0 if cursor is None else bisect_right(self.known, cursor)
        ids = self.known[begin : begin + limit]
        found = await self._kept.get(ids)
        more = begin + limit < len(self.known)
        return Page([found[user_id] for user_id in ids], ids[-1] if more else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        self._sky.must_not("run", self._sky.weather.preferences_fail_running, "preferences cannot be read")
        found: Mapping[str, Preference] = await self._kept.get(user_ids)
        return found

    async def apply(self, move: Move) -> None:
        if move.wish is not None:
            await self._kept.put([preference_of(move.user_id, move.wish)])
            self.known = sorted({*self.known, move.user_id})
        else:
            await self._kept.remove([move.user_id])
            self.known = [user_id for user_id in self.known if user_id != move.user_id]


def preference_of(user_id: str, wish: Wish) -> Preference:
    rule = wish.rule
    return Preference(
        user_id=user_id,
        frequency=rule.frequency,
        time_of_day=rule.time_of_day,
        timezone=rule.zone,
        day_of_week=rule.day_of_week,
        days=rule.days,
        is_active=wish.active,
        effective_from=wish.since,
    )


@define
class Sent:
    """One call of the mail provider."""

    key: str
    user_id: str
    day: date
    deliver_at: datetime
    at: datetime
    fate: str


@define
class Reminder:
    """A saved brief that was to call somebody back."""

    user_id: str
    visit: datetime | None
    at: datetime
    rule: str


class Host:
    """The host application: visits, projects, sections, addresses and a mail provider, all as the world has it."""

    def __init__(self, world: World, sky: Sky, *, yields: bool) -> None:
        self.world, self.sky, self._yields = world, sky, yields
        self.asked: dict[tuple[str, Window], str] = {}
        self.twice: list[tuple[str, Window]] = []
        """Whose projects were read twice in one run, for the same window."""
        self.sent: list[Sent] = []
        self.reminded: list[Reminder] = []

    async def _pause(self) -> None:
        if self._yields:
            await checkpoint()

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        await self._pause()
        weather, now = self.sky.weather, self.sky.now
        self.sky.must_not("plan", weather.visits_fail_planning, "visits cannot be read")
        self.sky.must_not("run", weather.visits_fail_running, "visits cannot be read")
        world = self.world
        return {user_id: world.visit(user_id, now) for user_id in user_ids if world.is_readable(user_id, now)}

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await self._pause()
        asked = (user_id, window)
        if asked in self.asked:
            self.twice.append(asked)
        self.asked[asked] = ""
        _raise(self.world.projects_fate(user_id, self.sky.now))
        fates = self.world.projects(user_id, self.sky.now)
        return [Project(str(number), f"Project {number}", fate) for number, fate in enumerate(fates)]

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        await self._pause()
        assert request.decision is not None
        self.asked[request.user_id, request.window] = request.decision.reason
        fate: Fate = request.project.data
        if fate.kind == "none":
            return None
        _raise(fate)
        return ProjectBrief("news")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await self._pause()
        self.sky.must_not("run", self.sky.weather.recipients_fail, "addresses cannot be read")
        now = self.sky.now
        addresses = {user_id: self.world.address(user_id, now) for user_id in user_ids}
        return {
            user_id: Recipient("somebody@example.org", opted_out=state == "opted_out")
            for user_id, state in addresses.items()
            if state != "absent"
        }

    @property
    def idempotent(self) -> bool:
        return self.world.settings.idempotent

    async def send(self, mail: Mail, key: str) -> Receipt:
        await self._pause()
        now = self.sky.now
        fate = self.world.mailing(mail.user_id, now)
        occurrence = mail.occurrence
        self.sent.append(Sent(key, mail.user_id, occurrence.local_date, occurrence.deliver_at, now, fate.kind))
        if fate.kind == "unknown":
            raise ConnectionResetError("the line went dead half-way")
        if fate.kind in {"error", "permanent"}:
            raise NotSent("refused", permanent=fate.kind == "permanent")
        _raise(fate)
        return Receipt(key)


def _raise(fate: Fate) -> None:
    match fate.kind:
        case "error":
            raise Broken("it failed")
        case "later":
            raise RetryLater(fate.seconds)
        case "permanent":
            raise PermanentFailure("it can never be")
        case _:
            pass


@define
class Tally:
    """What happened, for people."""

    counts: Counter[str] = field(factory=Counter[str])
    codes: Counter[str] = field(factory=Counter[str])
    reminders: Counter[str] = field(factory=Counter[str])
    caught_up: Counter[str] = field(factory=Counter[str])

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.codes += other.codes
        self.reminders += other.reminders
        self.caught_up += other.caught_up

    def __str__(self) -> str:
        def told(what: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(what.items())) or "none"

        parts = [f"{told(self.counts)}", f"answers: {told(self.codes)}", f"caught up: {told(self.caught_up)}"]
        return "\n  ".join([*parts, f"reminders: {told(self.reminders)}", "disagreements 0"])


class Simulation:
    """One kind of brief in its world, in a storage that may hold others too."""

    def __init__(
        self, storage: Any, world: World, almanac: Almanac, *, indexed: bool = False, yields: bool = True
    ) -> None:
        self.world, self.settings, self.almanac = world, world.settings, almanac
        settings = world.settings
        self.sky = Sky(world.seed)
        self.ledger = (Indexed if indexed else Frail)(storage, self.sky, settings.lead)
        self.host = Host(world, self.sky, yields=yields)
        self.rows = Rows(storage.preferences, world, self.sky)
        self.oracle = Oracle(settings, almanac, world, self._spread)
        self.tally = Tally()
        self.saved: dict[str, list[Brief]] = defaultdict(list)
        self.answers: list[str] = []
        self._moves = iter(world.moves)
        self._next_move = next(self._moves, None)
        self.late_rows: dict[tuple[datetime, str], list[Row]] = defaultdict(list)
        """What plans recorded of occurrences that were past, by moment and person."""
        storage_port: Any = self.ledger
        retrying = Retrying(attempts=ATTEMPTS)
        self.briefs = Briefs(
            storage_port,
            name=settings.name,
            projects=self.host,
            generator=self.host,
            preferences=self.rows,
            engagement=self.host if settings.engaged else None,
            recipients=self.host,
            mailer=self.host,
            policy=POLICIES[settings.policy],
            lead=settings.lead,
            deadline=settings.deadline,
            horizon=settings.horizon,
            catch_up=settings.catch_up,
            max_lateness=settings.max_lateness,
            page_size=settings.page_size,
            clock=lambda: self.sky.now,
            retrying=retrying,
            mail_retrying=retrying,
        )

    def _spread(self, user_id: str) -> timedelta:
        begun = self.ledger.spread.get(user_id)
        room = self.settings.lead - self.settings.deadline
        assert begun is not None, self.story(user_id, "a slot was to be planned, and none ever was")
        assert timedelta(0) <= begun <= room, self.story(
            user_id, f"is begun {begun} after its cut-off, not within {room}"
        )
        return begun

    # one tick ----------------------------------------------------------------------------------------

    async def tick(self, now: datetime) -> None:
        """Plan and run as the weather allows, with what people did before each."""
        weather = self.world.weather[now]
        self.sky.weather = weather
        self.tally.counts["ticks"] += 1
        self.tally.counts["ticks without planner"] += not weather.plans
        self.tally.counts["ticks without worker"] += not weather.runs
        await self._live_until(now)
        if weather.plans:
            await self._plan(now, weather)
        now += self.settings.run_after
        await self._live_until(now)
        if weather.runs:
            await self._run(now, weather)

    async def _live_until(self, now: datetime) -> None:
        self.sky.now = now
        while self._next_move is not None and self._next_move.at <= now:
            move, self._next_move = self._next_move, next(self._moves, None)
            if move.forget:
                await self.briefs.forget(move.user_id)
                self.oracle.forget(move.user_id)
                self.saved.pop(move.user_id, None)
                self.host.reminded = [each for each in self.host.reminded if each.user_id != move.user_id]
            elif move.wish is None:
                self.oracle.remove(move.user_id)
            else:
                self.oracle.put(move.user_id, move.wish)
            await self.rows.apply(move)
            self.tally.counts["changes"] += 1

    async def _plan(self, now: datetime, weather: Weather) -> None:
        self.ledger.rows.clear()
        report: PlanReport | None = None
        with self.sky.during("plan"), suppress(Broken):
            report = await self.briefs.plan(now)
        expected = self.oracle.plan(now, weather, self.sky.faults)
        for row in self.ledger.rows:
            if row.at < now:
                self.late_rows[now, row.user_id].append(row)
        self._compare_rows(now, expected)
        came = None if report is None else (report.due, report.enqueued, report.failed, report.mark)
        wanted = None if expected.raised else (expected.due, expected.enqueued, expected.failed, self.oracle.mark)
        assert came == wanted, (
            f"{self._where(now)}: the plan was to have (due, enqueued, failed, mark) {wanted}, and has {came}"
        )
        self.tally.counts["calls that failed in plans"] += len(self.sky.faults)
        self.tally.counts["slots put off as unreadable"] += expected.put_off
        for row in expected.rows:
            if row.state == "pending" and row.at < now:
                self.tally.caught_up[self.settings.catch_up] += 1

    def _compare_rows(self, now: datetime, expected: Planned) -> None:
        wanted, came = Counter(expected.rows), Counter(self.ledger.rows)
        for row in (wanted - came) + (came - wanted):
            ours, theirs = (
                [each.state for each in rows if (each.user_id, each.day, each.at) == row[:3]]
                for rows in (expected.rows, self.ledger.rows)
            )
            raise AssertionError(
                self.story(
                    row.user_id,
                    f"the plan was to record {row.day}, {row.at:%d %H:%M:%S} UTC as {ours or 'nothing'}, and did as"
                    f" {theirs or 'nothing'}",
                    now,
                )
            )

    async def _run(self, now: datetime, weather: Weather) -> None:
        ended: list[Ended] = []
        raised = False
        self.host.asked.clear()
        with self.sky.during("run"):
            try:
                await self.briefs.run_once(now, ended.append)
            except Broken:
                raised = True
        expected = self.oracle.run(now, weather)
        assert raised == expected.raised, f"{self._where(now)}: the run was {'' if expected.raised else 'not '}to fail"
        events = [self._event(each) for each in ended]
        self._compare(now, "the run", expected.events, events)
        asked = [
            Asked(user_id, window.start, window.end, reason) for (user_id, window), reason in self.host.asked.items()
        ]
        self._compare(now, "the host", expected.asked, asked)
        assert not self.host.twice, f"{self._where(now)}: was asked twice in one run for {self.host.twice}"
        self._note(now, ended, expected)

    def _event(self, ended: Ended) -> Event:
        job = ended.job
        kind = "brief" if job.type == self.settings.name else "mail"
        return Event(kind, job.user_id, job.occurrence.local_date, str(ended.status or "lost"))

    def _compare(
        self, now: datetime, who: str, expected: Sequence[Event | Asked], came: Sequence[Event | Asked]
    ) -> None:
        if sorted(map(tuple, expected)) == sorted(map(tuple, came)):
            return
        wanted, got = Counter(map(tuple, expected)), Counter(map(tuple, came))
        missing, surplus = list((wanted - got).elements()), list((got - wanted).elements())
        user_id = next(part for part in (missing + surplus)[0] if part in self.world.lives)
        told = [[each for each in some if user_id in each] for some in (missing, surplus)]
        raise AssertionError(self.story(str(user_id), f"{who} was to have {told[0]}, and had {told[1]}", now))

    def _note(self, now: datetime, ended: Sequence[Ended], expected: Ran) -> None:
        for each in ended:
            if each.brief is not None:
                self.saved[each.job.user_id].append(each.brief)
        for event in expected.events:
            if event.status == "pending":
                self.tally.counts[f"{event.kind} attempts to repeat"] += 1
            else:
                self.tally.counts[f"{event.kind}s {event.status}"] += 1
        reasons = {(user_id, window): reason for (user_id, window), reason in self.host.asked.items() if reason}
        for each in ended:
            reason = reasons.get((each.job.user_id, each.job.window), "")
            if each.brief is not None and reason.startswith("reengagement"):
                visit = self.world.visit(each.job.user_id, now)
                self.host.reminded.append(Reminder(each.job.user_id, visit, each.job.occurrence.deliver_at, reason))
        for asked in expected.asked:
            if asked.reason.startswith("reengagement"):
                self.tally.reminders[asked.reason] += 1

    # afterwards --------------------------------------------------------------------------------------

    async def compare_slots(self, user_ids: Collection[str]) -> None:
        """Every local date of these people, from before the first plan to after the last."""
        days = {day for now in (min(self.world.weather), max(self.world.weather)) for day in [now.date()]}
        first, last = min(days) - 3 * DAY, max(days) + 3 * DAY
        dates = [first + number * DAY for number in range((last - first).days + 1)]
        for user_id in user_ids:
            keys = {f"{self.settings.name}:{day}:{user_id}": day for day in dates}
            found = await self.ledger.find(list(keys))
            person = self.oracle.people.get(user_id)
            slots = {} if person is None else person.slots
            assert set(slots) <= set(dates)
            for key, day in keys.items():
                job, slot = found.get(key), slots.get(day)
                came = None if job is None else _told(job)
                wanted = None
                if slot is not None:
                    start = slot.start or slot.content_from
                    wanted = (slot.status, slot.code, slot.at, slot.epoch, start, slot.end)
                    self.tally.codes[slot.answer] += 1
                if came != wanted:
                    raise AssertionError(
                        self.story(user_id, f"{day} was to be {_shown(wanted)} in the end, and is {_shown(came)}")
                    )
                if job is not None and slot is not None and job.code == "engagement":
                    word = slot.word.reason if slot.word else None
                    if slot.status == "skipped" and word is not None and not slot.word.send:  # type: ignore[union-attr]  # it has one
                        assert job.reason == word, self.story(
                            user_id, f"{day}: {word} was to be the policy's word, not {job.reason}"
                        )

    async def compare_answers(self, pairs: Iterable[tuple[str, date]], now: datetime) -> None:
        """What ``explain`` says of these people and dates."""
        self.sky.now = now
        for user_id, day in pairs:
            came = (await self.briefs.explain(user_id, on=day, now=now)).code
            readable = self.world.is_readable(user_id, now)
            wanted = self.oracle.explain(user_id, day, now, readable=readable)
            self.tally.counts["answers asked for"] += 1
            if str(came) != wanted:
                raise AssertionError(
                    self.story(user_id, f"explain was to answer {wanted} for {day}, and says {came}", now)
                )

    # words -------------------------------------------------------------------------------------------

    def _where(self, now: datetime | None) -> str:
        return f"seed {self.world.seed}" + (f", tick {now:%Y-%m-%d %H:%M} UTC" if now else "")

    def story(self, user_id: str, what: str, now: datetime | None = None) -> str:
        """What went wrong with whom, and what is needed to see why."""
        now = now or self.sky.now
        life, person = self.world.lives[user_id], self.oracle.people.get(user_id)
        lines = [f"{self._where(now)}: {user_id}: {what}"]
        lines += [
            f"  they did: {move.at:%m-%d %H:%M:%S} {_shown(move.wish)}"
            for move in life.moves
            if abs(move.at - now) < 40 * DAY
        ]
        lines.append(
            f"  they were last seen: {self.world.visit(user_id, now)}, briefs end: {person and person.saved[-1:]}"
        )
        if person is not None:
            near = sorted((day, slot) for day, slot in person.slots.items() if abs(slot.at - now) < 3 * DAY)
            lines += [f"  {day}: {slot}" for day, slot in near]
        lines.append(
            f"  the oracle's mark: {self.oracle.mark}; weather: {self.world.weather.get(now.replace(minute=0))}"
        )
        return "\n".join(lines)


def _told(job: Job) -> tuple[object, ...]:
    code = None if job.code is None else str(job.code)
    window = job.window
    return (str(job.status), code, job.occurrence.deliver_at, job.epoch, window.start, window.end)


def _shown(what: object) -> str:
    return "nothing" if what is None else str(what)
