"""What a storage promises, in plain dicts: written from ``ports`` and ``docs/slots.md``, without a storage's code.

Each method does what the port's method of that name does, and returns the expected answer. Where the port leaves a
choice (which of two jobs due at the same time goes first, which token, which of the old slots goes first), the method
takes the storage's answer, checks that it is allowed, and goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import permutations

from attrs import define, evolve

from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Demand,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Occurrence,
    Overview,
    Preference,
    ScheduleFields,
    SkipReason,
    Trouble,
    Window,
)
from fanout_briefs.testing.checks import Broken, same, shown

__all__ = ["Oracle", "Row"]

_LIVE = {JobStatus.PENDING, JobStatus.PROCESSING}
_BRIEFED = {JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.COMPLETED}
_RENEWED = {JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.FAILED, JobStatus.CANCELLED}
_DONE = {JobStatus.COMPLETED, JobStatus.EMPTY}
_MOVES = {
    Change.CANCEL: {JobStatus.PENDING, JobStatus.SKIPPED, JobStatus.CANCELLED},
    Change.RETRY: {JobStatus.FAILED, JobStatus.UNKNOWN, JobStatus.SKIPPED, JobStatus.CANCELLED},
    Change.REGENERATE: _DONE,
    Change.RESEND: _DONE,
}
_MOST_TROUBLES = 20
_HOUR = timedelta(hours=1)


@define
class Row:
    """A slot, with what only a storage knows of it: its token, the end of its lease, and a follow-up's payload."""

    job: Job
    token: int | None = None
    until: datetime | None = None
    payload: bytes | None = None
    has_window: bool = False

    @property
    def owner(self) -> tuple[str, str]:
        """The user and type whose slots wait for each other."""
        return self.job.user_id, self.job.type

    @property
    def turn(self) -> tuple[datetime, str]:
        """The slot's position among the slots of its owner."""
        return self.job.occurrence.deliver_at, self.job.dedup_key


class Oracle:
    """One row per slot, and everything else that a storage keeps."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.briefs: dict[tuple[str, str, date], Brief] = {}
        self.marks: dict[str, datetime] = {}
        self.plans: dict[str, datetime] = {}
        self.pauses: dict[str, datetime] = {}
        self.preferences: dict[str, Preference] = {}
        # Includes erased rows: no token is ever given twice.
        self.tokens: dict[str, int] = {}

    def copy(self) -> Oracle:
        """Return an independent copy, for trying what would happen."""
        other = Oracle()
        other.rows = {key: evolve(row) for key, row in self.rows.items()}
        other.briefs, other.marks, other.plans = dict(self.briefs), dict(self.marks), dict(self.plans)
        other.pauses, other.preferences, other.tokens = dict(self.pauses), dict(self.preferences), dict(self.tokens)
        return other

    # Ledger

    def enqueue(self, jobs: Iterable[Job]) -> list[Enqueued]:
        """Return what becomes of each job of a batch."""
        seen: set[str] = set()
        outcomes: list[Enqueued] = []
        for job in jobs:
            outcomes.append(Enqueued.DUPLICATE if job.dedup_key in seen else self._plan(_normal(job)))
            seen.add(job.dedup_key)
        return outcomes

    def _plan(self, job: Job) -> Enqueued:
        row = self.rows.get(job.dedup_key)
        if row is not None and not _takes_up(job, row.job):
            return Enqueued.DUPLICATE
        if job.status is JobStatus.PENDING and job.demand is None and job.type in self.pauses:
            job = evolve(job, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)
            outcome, raised = Enqueued.PAUSED, 0
        else:
            outcome, raised = (Enqueued.CREATED if row is None else Enqueued.TAKEN_UP), 1
        if row is None:
            self.rows[job.dedup_key] = Row(job)
        else:
            self._renew(row, evolve(job, epoch=row.job.epoch + raised))
        return outcome

    def _renew(self, row: Row, job: Job) -> None:
        was_saved = (job.type, job.user_id, job.occurrence.local_date) in self.briefs
        start = row.job.window.start if was_saved else job.window.start
        row.job = evolve(job, attempts=0, progress=None, window=Window(start=start, end=job.window.end))
        row.until, row.has_window = None, was_saved

    def find(self, keys: Iterable[str]) -> dict[str, Job]:
        """Return the existing slots of these keys."""
        return {key: self.rows[key].job for key in keys if key in self.rows}

    def last_briefs(self, kind: str, before: Mapping[str, datetime]) -> dict[str, datetime]:
        """Return the latest delivery of each user's live and completed slots, strictly before the given instant."""
        told: dict[str, datetime] = {}
        for row in self.rows.values():
            job, at = row.job, row.job.occurrence.deliver_at
            if job.type == kind and job.status in _BRIEFED and job.user_id in before and at < before[job.user_id]:
                told[job.user_id] = max(at, told.get(job.user_id, at))
        return told

    def change(self, keys: Collection[str], change: Change) -> set[str]:
        """Return the keys of the slots that change."""
        moved = {key for key in keys if key in self.rows and self.rows[key].job.status in _MOVES[change]}
        for row in (self.rows[key] for key in moved):
            if change is Change.CANCEL:
                row.job = evolve(row.job, status=JobStatus.CANCELLED, code=SkipReason.WITHDRAWN)
            else:
                row.job = _again(row.job, Demand.RESEND if change is Change.RESEND else Demand.RUN)
        return moved

    def advance(
        self, name: str, to: datetime | None, start: datetime | None, planned_at: datetime | None
    ) -> datetime | None:
        """Return the mark after the call."""
        if name not in self.marks and start is not None:
            self.marks[name] = start
        if name in self.marks:
            self.marks[name] = max(self.marks[name], to or self.marks[name])
            if planned_at is not None:
                self.plans[name] = planned_at
        return self.marks.get(name)

    def forget(self, user_id: str) -> int:
        """Return how many slots, payloads, briefs and preferences are erased."""
        gone = [key for key, row in self.rows.items() if row.job.user_id == user_id]
        payloads = [key for key in gone if self.rows[key].payload is not None]
        briefs = [place for place in self.briefs if place[1] == user_id]
        for key in gone:
            del self.rows[key]
        for place in briefs:
            del self.briefs[place]
        preference = self.preferences.pop(user_id, None)
        return len(gone) + len(payloads) + len(briefs) + (preference is not None)

    def enqueue_at_once(
        self, batches: Sequence[Sequence[Job]], got: Sequence[Sequence[Enqueued]], found: Mapping[str, Job]
    ) -> None:
        """Check the outcomes of batches enqueued at once: some order of its jobs must explain each slot.

        Raises:
            Broken: No order explains a slot.
        """
        asked: dict[str, list[tuple[Job, Enqueued]]] = {}
        for batch, outcomes in zip(batches, got, strict=True):
            same([*outcomes], [*outcomes] if len(outcomes) == len(batch) else f"{len(batch)} outcomes")
            for job, outcome in zip(batch, outcomes, strict=True):
                asked.setdefault(job.dedup_key, []).append((job, outcome))
        for key, those in asked.items():
            ways = [way for order in permutations(those) if (way := self._way(order)) is not None]
            row = next((row for row in ways if row.job == found.get(key)), None)
            if row is None:
                raise Broken(
                    f"came back: {[outcome.value for _, outcome in those]} for {key!r}, and it is {shown(found.get(key))}\n"
                    "promised:  what comes of one after the other, in some order"
                )
            self.rows[key] = row

    def _way(self, order: Sequence[tuple[Job, Enqueued]]) -> Row | None:
        trial = self.copy()
        outcomes = [trial.enqueue([job]) for job, _ in order]
        return trial.rows[order[0][0].dedup_key] if outcomes == [[outcome] for _, outcome in order] else None

    # Work

    def claim(
        self,
        got: Claims,
        due_by: datetime,
        *,
        now: datetime,
        lease: timedelta,
        limit: int,
        types: Collection[str],
        keys: Collection[str] | None,
    ) -> None:
        """Check what a claim returned, and mark it as claimed.

        Raises:
            Broken: It is not what a storage may return.
        """
        asked = [
            row for row in self.rows.values() if row.job.type in types and (keys is None or row.job.dedup_key in keys)
        ]
        asked = [row for row in asked if row.job.status in _LIVE and row.job.type not in self.pauses]
        leases = [row.until for row in asked if row.until is not None and row.job.run_at <= due_by]
        free = sorted((row for row in asked if self.is_free(row, due_by, now)), key=lambda row: row.job.run_at)
        _hold_choice(got.claims, free, limit)
        for claim in got.claims:
            self.take(claim, now + lease)
        same(got.held_until, min((until for until in leases if until > now), default=None))

    def claim_at_once(
        self,
        got: Sequence[Claims],
        due_by: datetime,
        *,
        now: datetime,
        lease: timedelta,
        limit: int,
        types: Collection[str],
    ) -> None:
        """Check what simultaneous claims returned, and mark it as claimed: each job once, at least one if any is due.

        Raises:
            Broken: It is not what a storage may return.
        """
        free = {key for key, row in self.rows.items() if row.job.type in types and self.is_free(row, due_by, now)}
        taken = [claim for claims in got for claim in claims.claims]
        keys = [claim.job.dedup_key for claim in taken]
        is_right = len({*keys}) == len(keys) and free.issuperset(keys) and (keys or not free)
        if not is_right or any(len(claims.claims) > limit for claims in got):
            each = [[claim.job.dedup_key for claim in claims.claims] for claims in got]
            raise Broken(
                f"came back: claims on {each}\npromised:  each of {sorted(free)} to one at most, {limit} to each"
            )
        for claim in taken:
            self.take(claim, now + lease)

    def is_free(self, row: Row, due_by: datetime, now: datetime) -> bool:
        """Whether a slot may be claimed, if its type is among those asked for."""
        job = row.job
        is_due = job.run_at <= due_by if row.until is None else row.until <= now
        line = (other for other in self.rows.values() if other.owner == row.owner and other.job.status in _LIVE)
        at = job.occurrence.deliver_at
        is_first = all(other.job.occurrence.deliver_at >= at for other in line)
        return job.status in _LIVE and job.type not in self.pauses and is_due and is_first

    def take(self, claim: Claim, until: datetime) -> None:
        """Check one claim, and mark its slot as claimed.

        Raises:
            Broken: The claim is not what it should be.
        """
        key = claim.job.dedup_key
        row = self.rows[key]
        window = row.job.window
        last = self.latest_brief(row.job.type, row.job.user_id)
        if not row.has_window and last is not None:
            window = Window(start=min(last.window.end, window.end), end=window.end)
        row.job = evolve(row.job, status=JobStatus.PROCESSING, attempts=row.job.attempts + 1, window=window)
        row.until, row.has_window, row.token = until, True, claim.token
        promised = Claim(job=row.job, token=claim.token, until=until, payload=row.payload, progress=row.job.progress)
        same(claim, promised)
        if claim.token <= self.tokens.get(key, claim.token - 1):
            raise Broken(
                f"came back: token {claim.token} for {key!r}\n"
                f"promised:  one higher than {self.tokens[key]}, which was given before"
            )
        self.tokens[key] = claim.token

    def held(self, claim: Claim) -> Row | None:
        """Return the slot that a claim still holds; None if the claim is lost."""
        row = self.rows.get(claim.job.dedup_key)
        is_held = row is not None and row.job.status is JobStatus.PROCESSING and row.token == claim.token
        return row if is_held else None

    def heartbeat(self, claims: Collection[Claim], until: datetime) -> set[str]:
        """Return the keys that are lost."""
        lost: set[str] = set()
        for claim in claims:
            row = self.held(claim)
            if row is None:
                lost.add(claim.job.dedup_key)
            else:
                row.until, row.job = until, evolve(row.job, progress=claim.progress or row.job.progress)
        return lost

    def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp]) -> bool:
        """Whether the claim was good."""
        row = self.held(claim)
        if row is None:
            return False
        row.until = None
        reason = row.job.reason if finish.reason is None else _readable(finish.reason)
        row.job = evolve(row.job, status=finish.status, code=finish.code, error=_readable(finish.error), reason=reason)
        if (brief := finish.brief) is not None:
            self.briefs[brief.type, brief.user_id, brief.occurrence.local_date] = brief
        for follow_up in follow_ups:
            self._follow(_normal(follow_up.job), follow_up.payload)
        return True

    def _follow(self, job: Job, payload: bytes) -> None:
        row = self.rows.get(job.dedup_key)
        if row is None:
            self.rows[job.dedup_key] = Row(job, payload=payload)
        elif row.job.status in _RENEWED or job.demand is Demand.RESEND:
            self._renew(row, job)
            row.payload = payload

    def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool) -> bool:
        """Whether the claim was good."""
        row = self.held(claim)
        if row is not None:
            attempts = row.job.attempts if counted else row.job.attempts - 1
            row.until = None
            row.job = evolve(
                row.job,
                status=JobStatus.PENDING,
                run_at=at,
                error=_readable(error),
                attempts=attempts,
                progress=None,
            )
        return row is not None

    def release(self, claims: Iterable[Claim]) -> None:
        """Put back the jobs that are still held."""
        for row in filter(None, map(self.held, claims)):
            row.until = None
            row.job = evolve(row.job, status=JobStatus.PENDING, attempts=row.job.attempts - 1, progress=None)

    def latest_brief(self, kind: str, user_id: str) -> Brief | None:
        """Return the saved brief with the latest delivery."""
        saved = [brief for place, brief in self.briefs.items() if place[:2] == (kind, user_id)]
        return max(saved, key=lambda brief: brief.occurrence.deliver_at, default=None)

    # Oversight

    def pause(self, types: Collection[str], at: datetime) -> bool:
        """Whether a pause began."""
        begun = {kind for kind in types if kind not in self.pauses}
        self.pauses.update(dict.fromkeys(begun, at))
        return bool(begun)

    def resume(self, types: Collection[str], since: datetime) -> int | None:
        """Return how many slots become pending; None if nothing was paused."""
        ended = [kind for kind in {*types} if self.pauses.pop(kind, None) is not None]
        resumed = 0
        for row in (row for row in self.rows.values() if row.job.type in ended):
            job, is_timely = row.job, row.job.occurrence.deliver_at >= since
            was_skipped = job.status in (JobStatus.SKIPPED, JobStatus.CANCELLED) and job.code is SkipReason.PAUSED
            if is_timely and was_skipped:
                row.job, resumed = _again(job, None), resumed + 1
            elif not is_timely and job.status is JobStatus.PENDING and job.demand is None:
                row.job = evolve(job, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)
        return resumed if ended else None

    def overview(self, kind: str, now: datetime, since: datetime) -> Overview:
        """Return how a type stands; equally frequent troubles may come in any order."""
        rows = [row for row in self.rows.values() if row.job.type == kind]
        waiting = [row.job.run_at for row in rows if row.job.status is JobStatus.PENDING]
        held = [row for row in rows if row.job.status is JobStatus.PROCESSING]
        left = [row.job.run_at for row in held if row.until is not None and row.until <= now]
        ended = [row.job for row in rows if row.job.status not in _LIVE and row.job.occurrence.deliver_at >= since]
        bad = [job for job in ended if job.status in (JobStatus.FAILED, JobStatus.UNKNOWN)]
        return Overview(
            planned_at=self.plans.get(kind),
            mark=self.marks.get(kind),
            paused_since=self.pauses.get(kind),
            running=len(held) - len(left),
            abandoned=len(left),
            overdue=len([at for at in waiting if at <= now]),
            oldest=min([*left, *(at for at in waiting if at <= now)], default=None),
            soon=len([at for at in waiting if now < at <= now + _HOUR]),
            later=len([at for at in waiting if at > now + _HOUR]),
            ended=Counter(job.status for job in ended),
            codes=Counter(job.code for job in ended if job.code is not None),
            troubles=_troubles(bad),
        )

    def select(self, types: Collection[str], statuses: Collection[JobStatus], since: datetime) -> list[Job]:
        """Return all slots that the pages must hold; those with the same delivery may come in any order."""
        rows = sorted(self.rows.values(), key=lambda row: row.turn)
        jobs = [row.job for row in rows if row.job.type in types and row.job.status in statuses]
        return [job for job in jobs if job.occurrence.deliver_at >= since]

    def prunable(self, types: Collection[str], before: datetime) -> set[str]:
        """Return the keys of slots that may be erased."""
        return {
            row.job.dedup_key
            for row in self.rows.values()
            if row.job.type in types
            and row.job.status not in _LIVE
            and row.job.occurrence.deliver_at < before
            and not self._is_kept(row)
        }

    def _is_kept(self, row: Row) -> bool:
        line = [other for other in self.rows.values() if other.owner == row.owner]
        completed = [other for other in line if other.job.status is JobStatus.COMPLETED]
        brief = self.latest_brief(row.job.type, row.job.user_id)
        last = None if brief is None else brief.occurrence.local_date
        return row in (
            max(line, key=lambda other: other.turn),
            max(completed, key=lambda other: other.turn, default=None),
        ) or (row.job.occurrence.local_date == last)

    def prune(self, gone: Collection[str]) -> None:
        """Erase these slots, with their briefs and payloads."""
        for job in [self.rows.pop(key).job for key in gone]:
            self.briefs.pop((job.type, job.user_id, job.occurrence.local_date), None)

    # Preferences

    def put(self, rows: Iterable[Preference]) -> None:
        """Store these preferences in place of existing ones."""
        for row in rows:
            days = None if row.days is None else tuple(row.days)
            since = None if row.effective_from is None else row.effective_from.astimezone(UTC)
            self.preferences[row.user_id] = evolve(row, days=days, effective_from=since)

    def remove(self, user_ids: Iterable[str]) -> None:
        """Remove the preferences of these users."""
        for user_id in user_ids:
            self.preferences.pop(user_id, None)

    def schedules(self) -> dict[ScheduleFields, set[str]]:
        """Return the users with an active preference, by schedule fields."""
        told: dict[ScheduleFields, set[str]] = {}
        for row in self.preferences.values():
            if row.is_active:
                fields = ScheduleFields(row.frequency, row.time_of_day, row.timezone, row.day_of_week, row.days)
                told.setdefault(fields, set()).add(row.user_id)
        return told


def _normal(job: Job) -> Job:
    """Return the job as a storage must return it: instants in UTC, and no lone surrogates in texts."""
    at, window = job.occurrence, job.window
    return evolve(
        job,
        occurrence=Occurrence(at.local_date, at.deliver_at.astimezone(UTC)),
        run_at=job.run_at.astimezone(UTC),
        window=Window(window.start.astimezone(UTC), window.end.astimezone(UTC)),
        reason=_readable(job.reason),
        error=_readable(job.error),
    )


def _readable(text: str | None) -> str | None:
    """Return the text as a storage must return it: lone surrogates, which no database accepts, are written out."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _takes_up(job: Job, there: Job) -> bool:
    if job.status is not JobStatus.PENDING:
        return False
    if job.demand is not None:
        return there.status is not JobStatus.PROCESSING
    changed = there.code in (SkipReason.SUPERSEDED, SkipReason.PAUSED)
    return there.status is JobStatus.SKIPPED or (there.status is JobStatus.CANCELLED and changed)


def _again(job: Job, demand: Demand | None) -> Job:
    return evolve(
        job,
        status=JobStatus.PENDING,
        code=None,
        reason=None,
        error=None,
        epoch=job.epoch + 1,
        attempts=0,
        progress=None,
        demand=demand,
    )


def _hold_choice(claims: Sequence[Claim], free: Sequence[Row], limit: int) -> None:
    """Check that the longest due were claimed; those due since the same moment may be chosen freely."""
    keys = [claim.job.dedup_key for claim in claims]
    since = {row.job.dedup_key: row.job.run_at for row in free}
    promised = [row.job.dedup_key for row in free[:limit]]
    is_right = len({*keys}) == len(keys) and [since.get(key) for key in keys] == [since[key] for key in promised]
    if not is_right:
        others = [key for key in since if key not in promised and since[key] == since[promised[-1]]]
        instead = f" (or, due since the same moment as the last: {shown(others)})" if others else ""
        raise Broken(f"came back: claims on {keys}\npromised:  claims on {promised}, the longest due first{instead}")


def _troubles(jobs: Collection[Job]) -> list[Trouble]:
    kinds = Counter((job.status, job.error) for job in jobs)
    latest = {kind: max(job.occurrence.deliver_at for job in jobs if (job.status, job.error) == kind) for kind in kinds}
    # None sorts before every text, as in the clauses.
    order = sorted(kinds, key=lambda kind: (-kinds[kind], kind[0], kind[1] is not None, kind[1] or ""))
    return [Trouble(*kind, kinds[kind], latest[kind]) for kind in order[:_MOST_TROUBLES]]
