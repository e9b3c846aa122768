"""What ought to happen: the rules of planning, running and mailing, written anew from the design and the docs.

It imports nothing of the library. Each rule names where it stands: "DESIGN" is the document that
the project was begun with (it is not in the repository; what holds of it is in the docs), a word with a
dot such as ``Work.claim`` is a docstring. One person and one occurrence is looked at after the other, in plain
dicts, with none of the library's batches; only the pages are kept, since they fail as a whole.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple, Protocol
from zoneinfo import ZoneInfo

from attrs import define, field, frozen

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ATTEMPTS = 3
"""docs/slots.md, Running: "repeated with exponential back-off"; how often is set here."""
RETRY_LATER_COUNTS = False
"""Whether an attempt that ended in RetryLater is one of the three. DESIGN and docs leave it open."""
LATE_GIVES_WAY = True
"""Whether under ``latest`` a planned slot that a worker outage made late is dropped for a newer one. Open likewise."""


# Schedules: DESIGN section 4 "Schedule", docs/how-to/time-zones.md


class Rule(NamedTuple):
    """The raw fields of a preference that make its schedule."""

    frequency: str | None = None
    time_of_day: str | None = None
    zone: str | None = None
    day_of_week: int | None = None
    days: tuple[int, ...] | None = None

    @property
    def is_valid(self) -> bool:
        return self.zone != "Nowhere/Atall"


def falls_on(rule: Rule, day: date) -> bool:
    """The table of docs/how-to/time-zones.md, with its defaults."""
    weekday = day.isoweekday() % 7  # 0 = Sunday
    match rule.frequency:
        case "weekdays":
            return weekday not in {0, 6}
        case "weekly":
            return weekday == (1 if rule.day_of_week is None else rule.day_of_week)
        case "custom":
            return not rule.days or weekday in rule.days
        case "monthly":
            last = monthrange(day.year, day.month)[1]
            return day.day in {min(wanted, last) for wanted in rule.days or (1,)}
        case _:
            return True


def instant_of(day: date, wall: time, zone: ZoneInfo) -> datetime | None:
    """When a wall clock shows this: docs/how-to/time-zones.md, "When clocks change". Without PEP 495's folds.

    The offsets a day before and a day after are the only ones the clock can have had.
    """
    before, after = (_offset(day, wall, zone, far) for far in (-26 * HOUR, 26 * HOUR))
    shown = _readings(day, wall, zone, before, after)
    if shown:
        return min(shown)  # a time that comes twice is taken the first time only
    if not _readings(day, time(0), zone, before, after) and not _readings(day, time(23, 59, 59), zone, before, after):
        return None  # a date that does not exist has no occurrence
    # A time that does not exist moves forward by the gap: it is what a clock that was not changed would show.
    return datetime.combine(day, wall, UTC) - before


def _offset(day: date, wall: time, zone: ZoneInfo, far: timedelta) -> timedelta:
    offset = (datetime.combine(day, wall, UTC) + far).astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _readings(day: date, wall: time, zone: ZoneInfo, *offsets: timedelta) -> set[datetime]:
    local = datetime.combine(day, wall)
    instants = {local.replace(tzinfo=UTC) - offset for offset in offsets}
    return {instant for instant in instants if instant.astimezone(zone).replace(tzinfo=None) == local}


class Slots(NamedTuple):
    """A rule's occurrences in order of their instants: ``days[n]`` is delivered at ``ats[n]``."""

    ats: list[datetime]
    days: list[date]
    by_day: dict[date, datetime]


class Almanac:
    """Every occurrence of every rule from some days before the simulated time to some days after it."""

    def __init__(self, start: datetime, end: datetime) -> None:
        first = start.date() - 70 * DAY
        self._days = [first + n * DAY for n in range((end.date() - first).days + 10)]
        self._known: dict[Rule, Slots] = {}
        self._asked: dict[tuple[Rule, datetime, datetime], list[tuple[datetime, date]]] = {}

    def of(self, rule: Rule) -> Slots:
        known = self._known.get(rule)
        if known is None:
            wall, zone = time.fromisoformat(rule.time_of_day or "09:00"), ZoneInfo(rule.zone or "UTC")
            found = [(at, day) for day in self._days if falls_on(rule, day) and (at := instant_of(day, wall, zone))]
            found.sort()
            known = Slots([at for at, _ in found], [day for _, day in found], {day: at for at, day in found})
            self._known[rule] = known
        return known

    def between(self, rule: Rule, start: datetime, end: datetime) -> list[tuple[datetime, date]]:
        known = self._asked.get((rule, start, end))
        if known is None:
            slots = self.of(rule)
            begin, stop = bisect_left(slots.ats, start), bisect_left(slots.ats, end)
            if len(self._asked) > 1000:
                self._asked.clear()
            known = list(zip(slots.ats[begin:stop], slots.days[begin:stop], strict=True))
            self._asked[rule, start, end] = known
        return known

    def before(self, rule: Rule, at: datetime) -> datetime:
        """The occurrence before an instant."""
        slots = self.of(rule)
        return slots.ats[bisect_left(slots.ats, at) - 1]


# Engagement: DESIGN section 4 "Engagement", docs/how-to/engagement.md


class Word(NamedTuple):
    """What a policy says."""

    send: bool
    reason: str

    @property
    def is_reminder(self) -> bool:
        return self.reason.startswith("reengagement")


def phase1(visit: datetime | None, last: datetime | None, at: datetime) -> Word:
    """DESIGN: "the seed's table to the letter". Days are whole elapsed 24 h periods."""
    if visit is None:
        return Word(send=True, reason="no_last_visit")
    away = (at - visit) // DAY
    rest = 10**6 if last is None else (at - last) // DAY
    if away <= 2:
        return Word(send=True, reason="active")
    if away == 3:
        return Word(send=False, reason="cooling_off")
    if away == 4:
        return Word(send=True, reason="reengagement_day_4") if rest >= 2 else Word(send=False, reason="default")
    if away < 10:
        return Word(send=False, reason="first_backoff")
    if away == 10:
        return Word(send=True, reason="reengagement_day_10") if rest >= 6 else Word(send=False, reason="default")
    if away < 31:
        return Word(send=False, reason="second_backoff")
    if rest >= 31:
        return Word(send=True, reason="reengagement_recurring_31")
    return Word(send=False, reason="waiting_31_day_interval")


def backoff(visit: datetime | None, last: datetime | None, at: datetime) -> Word:
    """The table of docs/how-to/engagement.md; ``BackoffPolicy.slack``: two hours short of a gap's days are forgiven."""
    if visit is None:
        return Word(send=True, reason="no_last_visit")
    away = (at - visit) // DAY
    rest = 10**6 if last is None else (at - last + 2 * HOUR) // DAY
    last_on = -(10**6) if last is None else (last - visit) // DAY  # the day away on which the last brief came
    if away <= 2:
        return Word(send=True, reason="active")
    if away == 3:
        return Word(send=False, reason="cooling_off")
    if away <= 9:
        if rest >= 2 and last_on < 4:
            return Word(send=True, reason="reengagement_day_4")
        return Word(send=False, reason="first_backoff")
    if away <= 30:
        if rest >= 6 and last_on < 10:
            return Word(send=True, reason="reengagement_day_10")
        return Word(send=False, reason="second_backoff")
    if rest >= 31:
        return Word(send=True, reason="reengagement_recurring_31")
    return Word(send=False, reason="waiting_31_day_interval")


POLICIES: Mapping[str, Callable[[datetime | None, datetime | None, datetime], Word]] = {
    "phase1": phase1,
    "default": backoff,
}


# What the oracle is told of the world


@frozen
class Wish:
    """A preference as the oracle sees it."""

    rule: Rule
    active: bool = True
    since: datetime | None = None


@frozen(kw_only=True)
class Settings:
    """One kind of brief."""

    name: str
    policy: str
    catch_up: str
    lead: timedelta = 15 * MINUTE
    deadline: timedelta = 5 * MINUTE
    horizon: timedelta = HOUR
    max_lateness: timedelta = 12 * HOUR
    page_size: int = 1000
    idempotent: bool = False
    engaged: bool = True
    run_after: timedelta = timedelta(0)
    """How long after each tick's plan its run comes."""


class Fate(NamedTuple):
    """How one thing the host does turns out: ``ok``, ``none``, ``error``, ``later``, ``permanent``, ..."""

    kind: str
    seconds: float = 0.0


class Facts(Protocol):
    """What the host's own data say at a moment; both the library and the oracle ask here."""

    def visit(self, user_id: str, now: datetime) -> datetime | None:
        """The last visit until now."""
        ...

    def is_readable(self, user_id: str, now: datetime) -> bool:
        """Whether visits can be read now."""
        ...

    def projects(self, user_id: str, now: datetime) -> Sequence[Fate]:
        """What becomes of each section, of somebody's projects now."""
        ...

    def projects_fate(self, user_id: str, now: datetime) -> Fate:
        """What becomes of reading the projects."""
        ...

    def address(self, user_id: str, now: datetime) -> str:
        """``ok``, ``absent`` or ``opted_out``."""
        ...

    def mailing(self, user_id: str, now: datetime) -> Fate:
        """What the mail provider does."""
        ...


@frozen(kw_only=True)
class Weather:
    """What does not work at one tick."""

    plans: bool = True
    runs: bool = True
    broken_page: int | None = None
    """The page of preferences that cannot be read."""
    broken_call: str | None = None
    """``find``, ``last_briefs``, ``enqueue`` or ``enqueue, though done``: which call of the ledger fails in a plan."""
    bucket: int = 0
    """For which third of the people."""
    mark_fails: bool = False
    visits_fail_planning: bool = False
    visits_fail_running: bool = False
    claims_fail: bool = False
    preferences_fail_running: bool = False
    recipients_fail: bool = False


class Fault(NamedTuple):
    """A failure that happened while the library planned: which call, about whom."""

    call: str
    user_ids: frozenset[str]


# Slots


@define
class Post:
    """The mail of a saved brief."""

    run_at: datetime
    status: str = "pending"
    code: str | None = None
    attempts: int = 0


@define(kw_only=True)
class Slot:
    """One brief of one person for one local date: docs/slots.md."""

    at: datetime
    status: str
    code: str | None = None
    run_at: datetime
    content_from: datetime
    """Where the content begins if nothing was saved before."""
    start: datetime | None = None
    end: datetime
    epoch: int = 1
    attempts: int = 0
    mail: Post | None = None
    word: Word | None = None

    @property
    def can_be_taken_up(self) -> bool:
        """DESIGN, Ledger: "Planners may take up again only skipped and cancelled(superseded | paused) slots"."""
        return self.status == "skipped" or (self.status == "cancelled" and self.code == "superseded")

    @property
    def counts_as_brief(self) -> bool:
        """DESIGN, Engagement: "live and delivered slots, planned ones included"."""
        return self.status in {"pending", "completed"}

    @property
    def answer(self) -> str:
        """The code that explains it: docs/slots.md, "Why was it not sent?"."""
        if self.status == "completed" and self.mail is not None:
            return self.mail.code or self.mail.status
        return self.code or self.status


@define
class Person:
    """What is known of one person, and what was promised to them."""

    wish: Wish | None = None
    slots: dict[date, Slot] = field(factory=dict[date, Slot])
    saved: list[tuple[datetime, datetime]] = field(factory=list[tuple[datetime, datetime]])
    """When each saved brief was to be delivered, and where its content ended; in the order in which they were saved."""

    def saved_to(self) -> datetime | None:
        """Where the content of the next brief begins. DESIGN, Generation: at the "last saved brief's cutoff"."""
        return max(self.saved)[1] if self.saved else None


class Of(NamedTuple):
    """Whose slot."""

    user_id: str
    person: Person
    day: date
    slot: Slot


class Row(NamedTuple):
    """A slot that a plan made or took up."""

    user_id: str
    day: date
    at: datetime
    state: str


class Event(NamedTuple):
    """What a run did with one job: ``status`` is ``pending`` where it is to be tried again."""

    kind: str
    user_id: str
    day: date
    status: str


class Asked(NamedTuple):
    """What the host was asked to make sections of; ``reason`` is the policy's word, if there were sections."""

    user_id: str
    start: datetime
    end: datetime
    reason: str


@define
class Planned:
    """What one plan comes to; ``raised`` if it stops half-way."""

    raised: bool = False
    due: int = 0
    enqueued: int = 0
    failed: int = 0
    put_off: int = 0
    rows: list[Row] = field(factory=list[Row])
    undecided: list[datetime] = field(factory=list[datetime])


@define
class Ran:
    """One run, and what it comes to."""

    now: datetime
    weather: Weather
    raised: bool = False
    events: list[Event] = field(factory=list[Event])
    asked: list[Asked] = field(factory=list[Asked])


class Oracle:
    """Says what becomes of every person and local date of one kind of brief.

    Args:
        settings: The brief's.
        almanac: When each schedule occurs.
        facts: The host's data.
        spread: How long after the cut-off a person's brief is begun. DESIGN, Window: a stable hash, which one is
            the library's own affair, so the oracle is told; the harness checks that it never changes.
    """

    def __init__(self, settings: Settings, almanac: Almanac, facts: Facts, spread: Callable[[str], timedelta]) -> None:
        self.settings = settings
        self.almanac = almanac
        self.facts = facts
        self.spread = spread
        self.people: dict[str, Person] = {}
        self.mark: datetime | None = None
        self.unrecorded: set[tuple[str, date]] = set()
        """Slots that the mark passed while their page could not be recorded."""
        self._live: set[str] = set()

    # what people do ----------------------------------------------------------------------------------

    def put(self, user_id: str, wish: Wish) -> None:
        self.people.setdefault(user_id, Person()).wish = wish

    def remove(self, user_id: str) -> None:
        if user_id in self.people:
            self.people[user_id].wish = None

    def forget(self, user_id: str) -> None:
        self.people.pop(user_id, None)
        self._live.discard(user_id)

    # planning ----------------------------------------------------------------------------------------

    def plan(self, now: datetime, weather: Weather, faults: Sequence[Fault] = ()) -> Planned:
        """DESIGN, Window: "A plan scans half-open [W, now + horizon)", horizon being lead + one hour."""
        settings, planned = self.settings, Planned()
        if self.mark is None:
            self.mark = now  # DESIGN: "it starts at the first plan's now"
        end = now + settings.lead + settings.horizon
        lost: list[tuple[str, date, datetime]] = []
        for number, page in enumerate(self._pages()):
            if number == weather.broken_page:
                planned.raised = (
                    True  # Preferences.page: "The plan stops with this error. What earlier pages planned stays"
                )
                return planned
            due = {user_id: self._due(user_id, self.mark, end) for user_id in page}
            broken = next((fault.call for fault in faults if not fault.user_ids.isdisjoint(page)), None)
            slots = [(user_id, day, at) for user_id, found in due.items() for at, day in found]
            planned.due += len(slots)
            if broken is not None:  # DESIGN: "a page that failed is no verdict and holds W back"
                planned.failed += len(slots)
                planned.undecided += [at for _, _, at in slots]
                lost += slots
            if broken is None:
                for user_id, found in due.items():
                    if found:
                        self._decide(user_id, found, now, weather, planned)
            elif broken == "enqueue, though done":
                done = Planned()
                for user_id, found in due.items():
                    self._decide(user_id, found, now, weather, done)
                planned.rows += done.rows
        if weather.mark_fails:
            planned.raised = True
            return planned
        # DESIGN: it advances "monotonically, to at most now", and is held back "at most max_lateness".
        self.mark = max(self.mark, min([now, *planned.undecided]), now - settings.max_lateness)
        self.unrecorded |= {
            (user_id, day) for user_id, day, at in lost if at < self.mark and day not in self.people[user_id].slots
        }
        return planned

    def _pages(self) -> Iterator[list[str]]:
        known = sorted(user_id for user_id, person in self.people.items() if person.wish is not None)
        for begin in range(0, max(len(known), 1), self.settings.page_size):
            yield known[begin : begin + self.settings.page_size]

    def _due(self, user_id: str, start: datetime, end: datetime) -> list[tuple[datetime, date]]:
        wish = self.people[user_id].wish
        if wish is None or not wish.active or not wish.rule.is_valid:
            return []
        found = self.almanac.between(wish.rule, start, end)
        if not found:
            return found
        # Preference.effective_from: "Occurrences before it were never promised, so they are not missed."
        return [slot for slot in found if wish.since is None or slot[0] >= wish.since]

    def _decide(
        self, user_id: str, due: Sequence[tuple[datetime, date]], now: datetime, weather: Weather, planned: Planned
    ) -> None:
        person = self.people[user_id]
        latest = max((at for at, _ in due if at < now), default=now)
        for at, day in due:
            slot = person.slots.get(day)
            if slot is not None and not slot.can_be_taken_up:
                if slot.status == "pending" and slot.at != at:
                    # DESIGN, Engagement: claiming will supersede it, and only then can the new time be planned.
                    planned.undecided.append(at)
                continue
            code = self._missed(at, now, latest)
            word: Word | None = None
            if code is None:
                readable = not weather.visits_fail_planning and self.facts.is_readable(user_id, now)
                visit = self.facts.visit(user_id, now)
                word = self._engagement(person, visit, at, readable=readable)
                if word is None:  # DESIGN, Engagement: "retryable, not a verdict"
                    planned.undecided.append(at)
                    planned.put_off += 1
                    continue
                # DESIGN, Engagement: a function "at the occurrence's own instant", so a visit after it changes nothing
                # about a slot that was judged already.
                judged = slot is not None and slot.code == "engagement" and slot.at == at
                seen_since = self.settings.engaged and readable and visit is not None and visit > at
                if not word.send or (judged and seen_since):
                    code = "engagement"
            if code is None:
                planned.enqueued += 1
                planned.rows.append(Row(user_id, day, at, "pending"))
                person.slots[day] = self._fresh(user_id, person, at, slot, word)
                self._live.add(user_id)
            elif slot is None:  # DESIGN, Ledger: "skipped for good leaves a skipped row with its code"
                planned.rows.append(Row(user_id, day, at, code))
                fresh = self._fresh(user_id, person, at, None, word)
                fresh.status, fresh.code = "skipped", code
                person.slots[day] = fresh

    def _fresh(self, user_id: str, person: Person, at: datetime, old: Slot | None, word: Word | None) -> Slot:
        assert person.wish is not None
        lead = self.settings.lead
        return Slot(
            at=at,
            status="pending",
            run_at=at - lead + self.spread(user_id),  # DESIGN, Window
            content_from=self.almanac.before(person.wish.rule, at) - lead,
            start=None,  # Ledger.enqueue: kept only "if a brief is saved from it", and plans take up no such slot
            end=at - lead,  # DESIGN, Window: "cutoff = deliver_at - lead"
            epoch=1 if old is None else old.epoch + 1,  # DESIGN, Ledger
            word=word,
        )

    def _missed(self, at: datetime, now: datetime, latest: datetime) -> str | None:
        """DESIGN, Window: "Missed occurrences: skip, latest or each, never older than max_lateness"."""
        if at >= now:
            return None
        if now - at > self.settings.max_lateness:
            return "too_late"
        if self.settings.catch_up == "skip":
            return "missed"
        if self.settings.catch_up == "latest" and at < latest:
            return "newer_occurrence"
        return None

    def _engagement(self, person: Person, visit: datetime | None, at: datetime, *, readable: bool) -> Word | None:
        """None where there is no verdict. DESIGN: unreadable, "phase1() sends; the default skips"."""
        if not self.settings.engaged:
            return Word(send=True, reason="everyone")
        if not readable:
            blindly = self.settings.policy == "phase1"
            return Word(send=True, reason="engagement_unavailable") if blindly else None
        last = max((slot.at for slot in person.slots.values() if slot.counts_as_brief and slot.at < at), default=None)
        return POLICIES[self.settings.policy](visit, last, at)

    # running -----------------------------------------------------------------------------------------

    def run(self, now: datetime, weather: Weather) -> Ran:
        """Everything that is due, of each person the earliest first; a job waits for an earlier one: ``Work.claim``."""
        ran = Ran(now, weather, raised=weather.claims_fail)
        if ran.raised:
            return ran
        for user_id in sorted(self._live):
            person = self.people[user_id]
            slots = sorted(person.slots.items(), key=lambda item: item[1].at)
            waits_for: datetime | None = None
            for day, slot in slots:
                if slot.status != "pending" or (waits_for is not None and slot.at > waits_for):
                    continue
                if slot.run_at <= now:
                    self._make(Of(user_id, person, day, slot), ran)
                if slot.status == "pending":
                    waits_for = slot.at
            waits_for = None
            for day, slot in slots:
                mail = slot.mail
                if mail is None or mail.status != "pending" or (waits_for is not None and slot.at > waits_for):
                    continue
                if mail.run_at <= now:
                    self._send(Of(user_id, person, day, slot), mail, ran)
                if mail.status == "pending":
                    waits_for = slot.at
            if not any(s.status == "pending" or (s.mail and s.mail.status == "pending") for _, s in slots):
                self._live.discard(user_id)
        return ran

    def _make(self, of: Of, ran: Ran) -> None:
        slot = of.slot
        slot.attempts += 1
        if slot.start is None:  # DESIGN, Generation: "(last saved brief's cutoff, cutoff], fixed at the first claim"
            slot.start = min(of.person.saved_to() or slot.content_from, slot.end)
        fate = self._made(of, slot.start, ran)
        status = _settle(slot, fate, ran.now)
        if fate.kind == "ok":
            of.person.saved.append((slot.at, slot.end))
            slot.mail = Post(run_at=slot.at)  # DESIGN, Delivery, "never before deliver_at"
        ran.events.append(Event("brief", of.user_id, of.day, status))

    def _made(self, of: Of, start: datetime, ran: Ran) -> Fate:
        now, slot = ran.now, of.slot
        if ran.weather.preferences_fail_running:
            return Fate("error")
        # DESIGN, Engagement: "claiming decides again from preference and activity as they are then"
        if slot.at < now - self.settings.max_lateness:  # docs/slots.md, Running
            return Fate("too_late")
        if not self._still_wants(of.person, of.day, slot):
            return Fate("superseded")
        if LATE_GIVES_WAY and self._is_outrun(of.person, slot, now):
            return Fate("newer_occurrence")
        readable = not ran.weather.visits_fail_running and self.facts.is_readable(of.user_id, now)
        word = self._engagement(of.person, self.facts.visit(of.user_id, now), slot.at, readable=readable)
        if word is None:
            return Fate("error")
        slot.word = word
        if not word.send:
            return Fate("engagement")
        if start >= slot.end:  # DESIGN, Generation, "no overlap": a later brief has told all of it
            return Fate("empty")
        reading = self.facts.projects_fate(of.user_id, now)
        sections = self.facts.projects(of.user_id, now) if reading.kind == "ok" else ()
        ran.asked.append(Asked(of.user_id, start, slot.end, word.reason if sections else ""))
        return _compose(sections) if reading.kind == "ok" else reading

    def _still_wants(self, person: Person, day: date, slot: Slot) -> bool:
        """DESIGN, Engagement: "A slot that no longer matches becomes cancelled(superseded)"."""
        wish = person.wish
        if wish is None or not wish.active or not wish.rule.is_valid:
            return False
        return self.almanac.of(wish.rule).by_day.get(day) == slot.at

    def _is_outrun(self, person: Person, slot: Slot, now: datetime) -> bool:
        assert person.wish is not None
        late = self.settings.catch_up == "latest" and slot.at < now
        return late and slot.at < self.almanac.before(person.wish.rule, now)

    def _send(self, of: Of, mail: Post, ran: Ran) -> None:
        mail.attempts += 1
        status = _settle(mail, self._sent(of, ran), ran.now)
        ran.events.append(Event("mail", of.user_id, of.day, status))

    def _sent(self, of: Of, ran: Ran) -> Fate:
        """docs/slots.md, Delivering: "Preference, address and opt-out are read right before it is sent"."""
        now, wish = ran.now, of.person.wish
        if ran.weather.preferences_fail_running:
            return Fate("error")
        if of.slot.at < now - self.settings.max_lateness:
            return Fate("too_late")
        if wish is None or not wish.active:
            return Fate("superseded")  # "switching off stops a mail that is queued already"
        if ran.weather.recipients_fail:
            return Fate("error")
        address = self.facts.address(of.user_id, now)
        if address != "ok":
            return Fate({"absent": "unreachable"}.get(address, address))
        fate = self.facts.mailing(of.user_id, now)
        if fate.kind == "unknown" and self.settings.idempotent:
            return Fate("error")  # Mailer.send: "or is sent again if the mailer is idempotent"
        return fate

    # explaining --------------------------------------------------------------------------------------

    def explain(self, user_id: str, day: date, now: datetime, *, readable: bool) -> str:
        """DESIGN, Explain: "Every user and date has an answer"; the codes' own words in ``SkipReason``."""
        person = self.people.get(user_id, Person())
        slot, wish = person.slots.get(day), person.wish
        if slot is not None:
            return slot.answer
        if wish is None:
            return "no_preference"
        if not wish.active:
            return "switched_off"
        if not wish.rule.is_valid:
            return "invalid_schedule"
        at = self.almanac.of(wish.rule).by_day.get(day)
        if at is None:
            return "not_scheduled"
        if at < (wish.since or at) or at < (self.mark or now):
            return "not_yet_effective"
        if at >= now + self.settings.lead + self.settings.horizon:
            return "not_yet_due"
        code = self._missed(at, now, self.almanac.before(wish.rule, now))
        if code is not None:
            return code
        word = self._engagement(person, self.facts.visit(user_id, now), at, readable=readable)
        if word is None:
            return "engagement_unavailable"
        return "not_yet_due" if word.send else "engagement"


def _compose(sections: Sequence[Fate]) -> Fate:
    """DESIGN, Generation: "all sections failing is a failure"; "No projects, or every section None: empty"."""
    shown = [section for section in sections if section.kind != "none"]
    if not shown:
        return Fate("empty")
    if any(section.kind == "ok" for section in shown):
        return Fate("ok")
    waits = [section.seconds for section in shown if section.kind == "later"]
    if waits:
        return Fate("later", max(waits))
    return Fate("permanent" if all(section.kind == "permanent" for section in shown) else "error")


def _settle(job: Slot | Post, fate: Fate, now: datetime) -> str:
    """Give a job its next state: docs/slots.md, States and Running."""
    match fate.kind:
        case "ok":
            job.status = "completed"
        case "empty" | "unknown":
            job.status = fate.kind
        case "superseded":
            job.status, job.code = "cancelled", fate.kind
        case "too_late" | "engagement" | "newer_occurrence" | "unreachable" | "opted_out":
            job.status, job.code = "skipped", fate.kind
        case "permanent":
            job.status = "failed"
        case "later" if not RETRY_LATER_COUNTS:
            job.attempts -= 1
            job.run_at = now + timedelta(seconds=fate.seconds)
        case "later" | "error" if job.attempts >= ATTEMPTS:
            job.status = "failed"
        case "later":
            job.run_at = now + timedelta(seconds=fate.seconds)
        case "error":  # back-off takes minutes here, and the next tick comes in an hour
            job.run_at = now + MINUTE
        case other:
            raise AssertionError(other)
    return job.status
