"""One day of one small application, from signing up to the last mail, and what must be so in the end.

Something goes wrong once, at a point that a test chooses; then the day goes on, in the same process or in a new one,
until nothing is left. Ten minutes pass from turn to turn, by an argument, so that leases end without anybody waiting.
"""

from __future__ import annotations

import email.policy
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta
from email.parser import BytesParser
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint
from attrs import define, field, frozen

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
    SkipReason,
    Window,
)
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.model import ENDED, Job
from fanout_briefs.ports import Mailer
from fanout_briefs.runs import Ended
from fanout_briefs.serve import Round
from fanout_briefs.testing.faults import Call, Faults
from fanout_briefs.timing import Retrying
from places import File, Place
from slots import AnyStorage

__all__ = [
    "Day",
    "Found",
    "Setting",
    "Told",
    "found",
    "is_right",
    "is_sound",
    "phase_now",
    "phase_of",
    "watched",
]

BEGIN = datetime(2026, 3, 9, 9, 5, tzinfo=UTC)
"""The first turn; everybody's brief was to be there five minutes ago."""
DATE = date(2026, 3, 9)
NAME, MAILS = "daily_brief", "generate_brief_email.daily_brief"
LEASE = timedelta(seconds=30)
TURN = timedelta(minutes=10)
TURNS = 14
"""After so many at most, nothing may be left: a job has six attempts."""
PEOPLE = [
    Preference(user_id=name, is_active=name != "gus") for name in ("ann", "bob", "cyd", "dan", "eve", "fay", "gus")
]
MAILED = ["ann", "bob", "cyd"]
BRIEFS = {
    **dict.fromkeys([*MAILED, "dan"], "completed"),
    "eve": "empty",  # has no projects
    "fay": "skipped engagement",  # was last seen three days ago
}
"""How each brief's slot must end. Gus has switched his off, and has no slot."""
SLOTS = len(BRIEFS) + len(MAILED) + 1
Told: TypeAlias = tuple[str, str, str]
"""What a process said: ``planned``, how many; or ``ended``, which job, how."""

_stage: ContextVar[str] = ContextVar("_stage", default="open")
_call: ContextVar[str] = ContextVar("_call", default="")


class Host:
    """The application: what a brief is about, where mail goes, and who was seen when."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await checkpoint()
        names = {"ann": ("apollo", "gemini"), "eve": ()}.get(user_id, ("apollo",))
        return [Project(name, name.title()) for name in names]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        await checkpoint()
        # No two makings are alike, so that a brief which was made again after its mail had left would show.
        return ProjectBrief(f"{request.project.name} of {request.user_id}: {uuid.uuid4()}")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await checkpoint()
        return {user_id: Recipient(f"{user_id}@example.org", opted_out=user_id == "dan") for user_id in user_ids}

    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        await checkpoint()
        since = {"fay": timedelta(days=3, hours=1)}
        return {user_id: BEGIN - since.get(user_id, timedelta(hours=1)) for user_id in user_ids}


class Log:
    """A provider that takes every mail it is given, also one that it was given before."""

    idempotent = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, mail: Mail, key: str) -> Receipt:
        await checkpoint()
        line = json.dumps([key, mail.rendered.text])
        log = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(log, f"{line}\n".encode())  # in one write, which no kill can cut in two
        finally:
            os.close(log)
        await checkpoint()
        return Receipt(key)


class Keyed:
    """A provider that knows each mail by its key. It needs no threads, with which time could not jump."""

    idempotent = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def send(self, mail: Mail, key: str) -> Receipt:
        await checkpoint()
        self._folder.mkdir(exist_ok=True)
        (self._folder / key).write_text(mail.rendered.text, encoding="utf-8")
        await checkpoint()
        return Receipt(key)


@define
class Clock:
    """Begins at ``BEGIN``, goes as the loop's does, and is set by hand."""

    shift: timedelta = timedelta(0)
    zero: float = field(factory=anyio.current_time)

    @property
    def moment(self) -> datetime:
        """The moment of this turn."""
        return BEGIN + self.shift

    def __call__(self) -> datetime:
        return self.moment + timedelta(seconds=anyio.current_time() - self.zero)


@frozen
class Setting:
    """Where a day takes place.

    Attributes:
        place: The database.
        folder: Where mails go.
        mailer: As ``Day`` has it.
        backend: The event loop.
    """

    place: Place
    folder: Path
    mailer: str
    backend: str


@define
class Day:
    """The application in one process.

    Attributes:
        storage: Opened anew by each session.
        folder: Where mails go.
        mailer: ``eml`` or ``keyed``, which are idempotent, or ``log``, which is not.
        begun: How many turns there have been, in whatever processes.
        told: What was said, by whichever report.
        errors: What turns ended with.
    """

    storage: Callable[[], AnyStorage]
    folder: Path
    mailer: str
    begun: int = 0
    told: list[Told] = field(factory=list[Told])
    tell: Callable[[Told], object] | None = None
    errors: list[BaseException] = field(factory=list[BaseException])
    clock: Clock = field(factory=Clock)

    def briefs(self, faults: Faults, storage: AnyStorage) -> Briefs:
        host = faults.around(Host(), "host.")
        mailers: dict[str, Mailer] = {
            "eml": EmlMailer(self.folder / "outbox"),
            "keyed": Keyed(self.folder / "keyed"),
            "log": Log(self.folder / "log"),
        }
        return Briefs(
            faults.around(storage),
            name=NAME,
            projects=host,
            generator=host,
            recipients=host,
            engagement=host,
            mailer=faults.around(mailers[self.mailer], "mailer."),
            look_back=timedelta(hours=3),
            page_size=4,
            concurrency=2,
            mail_concurrency=2,
            lease=LEASE,
            retrying=Retrying(attempts=6, longest=TURN / 2),
            mail_retrying=Retrying(attempts=6, longest=TURN / 2),
            clock=self.clock,
        )

    def say(self, *told: str) -> None:
        what, which, how = told
        self.told.append((what, which, how))
        if self.tell is not None:
            self.tell((what, which, how))

    async def session(self, faults: Faults | None = None, turns: int = TURNS) -> bool:
        """Open the storage and take turns until one finds nothing left; False if that does not come about."""
        faults = Faults() if faults is None else faults
        storage = self.storage()
        _stage.set("open")
        try:
            async with self.briefs(faults, storage) as briefs:
                for _ in range(turns):
                    if await self.turn(briefs, faults.around(storage)) and not await live(storage, self.clock.moment):
                        return True
        except Exception as error:
            self.errors.append(error)
        return False

    async def service(self, faults: Faults) -> bool:
        """Serve until nothing is left, without a restart; False if that does not come about within three hours."""
        storage = self.storage()
        ended, slots = Counter[JobStatus](), list[Job]()

        def told(done: Round) -> None:
            self.errors += done.errors
            if done.plan is not None:
                self.say("planned", "", str(done.plan.enqueued))
            if done.run is not None:
                ended.update(done.run.briefs)
                ended.update(done.run.mails)

        async with storage:
            await storage.preferences.put(PEOPLE)
        _stage.set("serve")
        async with self.briefs(faults, storage) as briefs, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(briefs.serve, on_round=told))
            for _ in range(360):
                await anyio.sleep(30)
                slots = [*(await storage.select([NAME, MAILS], ENDED, since=BEGIN - timedelta(days=9))).items]
                if len(slots) == SLOTS:
                    break
            tasks.cancel_scope.cancel()
        assert not ended - Counter(slot.status for slot in slots), "what a round tells is not so"
        return len(slots) == SLOTS

    async def turn(self, briefs: Briefs, storage: AnyStorage) -> bool:
        """Sign everybody up, plan, run; true if nothing failed and nothing is left."""
        self.begun += 1
        before = len(self.errors)
        is_done = False
        for step in (self._sign_up, self._plan, self._run):
            try:
                is_done = await step(briefs, storage)
            except Exception as error:
                self.errors.append(error)
                if step == self._sign_up:
                    break  # Whoever signs up after a plan was not due by it.
        self.clock.shift += TURN
        return is_done and len(self.errors) == before

    async def _sign_up(self, briefs: Briefs, storage: AnyStorage) -> bool:
        _stage.set("sign up")
        await storage.preferences.put(PEOPLE)
        return True

    async def _plan(self, briefs: Briefs, storage: AnyStorage) -> bool:
        _stage.set("plan")
        report = await briefs.plan(self.clock.moment)
        self.say("planned", "", str(report.enqueued))
        self.errors += [RuntimeError(problem.message) for problem in report.problems]
        return True

    async def _run(self, briefs: Briefs, storage: AnyStorage) -> bool:
        def ended(what: Ended) -> None:
            self.say("ended", what.job.dedup_key, str(what.status))

        _stage.set("run")
        report = await briefs.run_once(self.clock.moment, ended)
        return not report.retrying and not report.lost


async def live(storage: AnyStorage, moment: datetime) -> int:
    """How many slots have not ended; asked past all faults."""
    _stage.set("look")
    views = (await storage.overview([NAME, MAILS], now=moment, since=BEGIN)).values()
    return sum(view.running + view.abandoned + view.overdue + view.soon + view.later for view in views)


def phase_of(call: Call) -> str:
    """Which part of the way a call belongs to."""
    stage = _stage.get()
    method = call.name.rpartition(".")[2]
    if stage not in ("run", "serve"):
        return stage
    if stage == "serve" and method in ("advance", "schedules", "page_for", "find", "standings", "enqueue"):
        return "plan"
    if call.name in ("host.of", "host.generate"):
        return "generate"
    if call.name in ("host.get", "mailer.send"):
        return "send"
    if method in ("finish", "retry"):
        return "save" if call.values[0].job.type == NAME else "send"
    if method == "heartbeat":
        return "send" if all(claim.job.type == MAILS for claim in call.values[0]) else "generate"
    return "claim"


def phase_now() -> str:
    """Which part of the way this is, also in a thread that works for a call of ``watched``."""
    return _call.get() or _stage.get()


def watched(before: Callable[[Call], object] = id, after: Callable[[Call], object] = id) -> Faults:
    """Nothing goes wrong by these, but each call knows its phase; what is given is called around each."""

    async def watch(call: Call) -> Any:
        here = _call.set(phase_of(call))
        try:
            before(call)
            answer = await call.go()
            after(call)
        finally:
            _call.reset(here)
        return answer

    return Faults(watch, range(1, sys.maxsize))


@frozen(kw_only=True)
class Found:
    """What somebody who opens the storage afresh finds.

    Attributes:
        briefs: How each brief's slot stands, by user; the code goes with it.
        mails: How each mail's slot stands.
        slots: Every slot's key and epoch.
        texts: The text of each brief that is saved.
        sent: The key and the text of every mail that the mailer took, in its order.
        codes: What ``explain`` answers for the day, by user, and for the days around.
        live: How many slots have not ended.
        ended: How ``status`` counts the mails that ended.
    """

    briefs: Mapping[str, str]
    mails: Mapping[str, str]
    slots: Sequence[tuple[str, int]]
    texts: Mapping[str, str]
    sent: Sequence[tuple[str, str]]
    codes: Mapping[str, str]
    others: Collection[str]
    live: int
    ended: Mapping[str, int]


async def found(day: Day, moment: datetime) -> Found:
    """Look at everything, by a storage that is opened for it."""
    storage = day.storage()
    async with day.briefs(Faults(), storage) as briefs:
        page = await storage.select([NAME, MAILS], [*JobStatus], since=BEGIN - timedelta(days=9))
        saved = [brief for each in PEOPLE if (brief := await storage.brief(NAME, each.user_id)) is not None]
        users = [*(each.user_id for each in PEOPLE), "zoe"]
        codes = {user: str((await briefs.explain(user, DATE, now=moment)).code) for user in users}
        around = [
            (await briefs.explain(user, DATE + timedelta(days=day), now=moment)).code
            for user in users
            for day in (-1, 1)
        ]
        status = await briefs.status(moment, since=timedelta(days=2))
        left = await live(storage, moment)
    assert page.next_cursor is None
    assert status.mails is not None
    return Found(
        briefs=_states(page.items, NAME),
        mails=_states(page.items, MAILS),
        slots=[(slot.dedup_key, slot.epoch) for slot in page.items],
        texts={brief.user_id: brief.rendered.text for brief in saved},
        sent=_sent(day.folder),
        codes=codes,
        others=[type(code).__name__ for code in around],
        live=left,
        ended={str(how): count for how, count in status.mails.ended.items()},
    )


def _states(slots: Sequence[Job], kind: str) -> dict[str, str]:
    return {slot.user_id: " ".join(filter(None, [slot.status, slot.code])) for slot in slots if slot.type == kind}


def _sent(folder: Path) -> list[tuple[str, str]]:
    log = folder / "log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    read: list[tuple[str, str]] = [(key, text) for key, text in map(json.loads, lines)]
    read += [(path.name, path.read_text(encoding="utf-8")) for path in sorted((folder / "keyed").glob("*"))]
    for path in sorted((folder / "outbox").glob("[!.]*")):
        mail = BytesParser(policy=email.policy.default).parsebytes(path.read_bytes())
        text: Any = mail.get_body(("plain",))
        read.append((path.name.removesuffix(".eml"), text.get_content()))
    return read


def is_right(found: Found, told: Sequence[Told], mailer: str) -> None:
    """Hold what is there in the end against what holds whatever went wrong."""
    assert found.live == 0
    # Every slot is there once, and its brief with it.
    assert found.briefs == BRIEFS
    keys = [f"{NAME}:{DATE}:{user}" for user in BRIEFS] + [f"{MAILS}:{DATE}:{user}" for user in [*MAILED, "dan"]]
    assert sorted(found.slots) == sorted((key, 1) for key in keys)
    assert sorted(found.texts) == [*MAILED, "dan"]
    # The mailer saw each key once, with the brief that is saved; what nobody can know is said to be unknown.
    assert found.mails.keys() == {*MAILED, "dan"}
    assert found.mails["dan"] == "skipped opted_out"
    sent = {key.split(":")[2]: text for key, text in found.sent}
    assert sorted(key for key, _ in found.sent) == sorted(f"{NAME}:{DATE}:{user}:1" for user in sent)
    assert {user: text.split() for user, text in sent.items()} == {user: found.texts[user].split() for user in sent}
    completed = {user for user in MAILED if found.mails[user] == "completed"}
    unknown = {user for user in MAILED if found.mails[user] == "unknown"}
    assert completed | unknown == set(MAILED)
    assert completed <= sent.keys() <= completed | unknown
    assert mailer == "log" or not unknown
    # Everybody has an answer, and it is the true one.
    assert found.codes == {
        **{user: found.mails[user].split()[-1] for user in [*MAILED, "dan"]},
        "eve": "empty",
        "fay": "engagement",
        "gus": "switched_off",
        "zoe": "no_preference",
    }, found.codes
    assert set(found.others) == {SkipReason.__name__}
    assert found.ended == Counter(state.split()[0] for state in found.mails.values())
    _is_true(found, told)


def _is_true(found: Found, told: Sequence[Told]) -> None:
    """Whatever any report said to have ended did end so, and was said once."""
    stands = {f"{kind}:{DATE}:{user}": state.split()[0] for kind, states in
              ((NAME, found.briefs), (MAILS, found.mails)) for user, state in states.items()}  # fmt: skip
    said = [(key, how) for what, key, how in told if what == "ended" and how not in ("pending", "None")]
    assert len(said) == len(dict(said)), said
    assert [(key, stands[key]) for key, _ in said] == said
    assert sum(int(count) for what, _, count in told if what == "planned") <= len(BRIEFS) - 1


def is_sound(place: Place) -> None:
    """Nothing is half there, whatever the ports show."""
    key = "seq" if isinstance(place, File) else "dedup_key"
    assert place.ask(f"SELECT count(*) FROM outbox LEFT JOIN jobs USING ({key}) WHERE jobs.status IS NULL") == [(0,)]
    assert place.ask("SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing')") == [(0,)]
    if isinstance(place, File):
        assert place.ask("PRAGMA integrity_check") == [("ok",)]
        assert place.ask("PRAGMA foreign_key_check") == []
