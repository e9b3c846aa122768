"""Steps of planners, workers and people: ``ports.Ledger`` and ``ports.Work``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from fanout_briefs.model import Change, Claim, Claims, Finish, FollowUp, Job, JobStatus, Progress
from fanout_briefs.testing import strategies
from fanout_briefs.testing.checks import same
from fanout_briefs.testing.machine.stage import Told, spoil
from fanout_briefs.testing.machine.story import (
    DAYS,
    KEYS,
    TYPES,
    USERS,
    Story,
    as_told,
    leases,
    offsets,
    some_types,
    step,
    which,
)
from fanout_briefs.testing.slots import DAY, HOUR, NOW, brief_of, job

__all__ = ["LedgerSteps", "WorkSteps"]

_jobs = strategies.jobs(users=USERS, types=TYPES, days=DAYS)
_mails = strategies.jobs(users=USERS, types=["mail"], days=DAYS)
_follow_ups = as_told(
    st.lists(
        st.builds(FollowUp, _mails, st.sampled_from([b"mail", b"", b"\x00\xff"])),
        max_size=2,
        unique_by=lambda follow_up: follow_up.job.dedup_key,
    )
)
_keys = as_told(st.lists(st.sampled_from(KEYS), max_size=5))
_few = st.lists(which, max_size=3)
_instants = st.none() | as_told(offsets.map(lambda span: NOW + span))
_limits = st.sampled_from([9, 1, 2])
_only = st.none() | st.none() | st.lists(st.sampled_from(KEYS), max_size=3).map(tuple)

# How far ahead of the clock a worker looks.
_AHEAD: Final = (9 * DAY, timedelta(0), -HOUR)
_ahead = st.sampled_from(_AHEAD)


def _value(told: Told | None) -> datetime | None:
    return None if told is None else told.value


class LedgerSteps(Story):
    """Steps of planning, manual changes, marks and forgetting."""

    def _enqueue(self, jobs: Sequence[Job]) -> None:
        given = [*jobs]
        self.hold(self.do("enqueue", given), self.oracle.enqueue(jobs))
        spoil(given)

    @step(initialize, batch=as_told(strategies.batches(_jobs, min_size=3)))
    def begin(self, batch: Told) -> None:
        """Plan something first, so that there is work from the start."""
        self._enqueue(batch.value)

    @step(batch=as_told(strategies.batches(_jobs)), again=st.booleans())
    def enqueue(self, batch: Told, *, again: bool) -> None:
        """Plan a batch, or plan the same one twice, which changes only slots that may be taken up again."""
        for _ in range(1 + again):
            self._enqueue(batch.value)

    @step(batch=as_told(strategies.batches(_jobs, max_size=3)), other=as_told(strategies.batches(_jobs, max_size=2)))
    def enqueue_at_once(self, batch: Told, other: Told) -> None:
        """Let two planners enqueue overlapping batches at once."""
        batches: list[list[Job]] = [batch.value, [*other.value, *batch.value[::-1]]]
        firsts = [[*{job.dedup_key: job for job in each[::-1]}.values()] for each in batches]
        got = self.stage.at_once((place, "enqueue", (each,), {}) for place, each in enumerate(firsts))
        found = self.stage.do(0, "find", [*KEYS])
        self.oracle.enqueue_at_once(firsts, got, found)

    @step(keys=_keys, change=as_told(st.sampled_from(Change)))
    def change(self, keys: Told, change: Told) -> None:
        """Change slots by hand."""
        self.hold({*self.do("change", [*keys.value], change.value)}, self.oracle.change(keys.value, change.value))

    @step(to=_instants, start=_instants, planned_at=_instants)
    def advance(self, to: Told | None, start: Told | None, planned_at: Told | None) -> None:
        """Read a mark, or move it."""
        ends = {"to": _value(to), "start": _value(start), "planned_at": _value(planned_at)}
        self.hold(self.do("advance", "daily", **ends), self.oracle.advance("daily", **ends))

    @step(user=st.sampled_from(USERS))
    def forget(self, user: str) -> None:
        """Erase a user."""
        self.hold(self.do("forget", user), self.oracle.forget(user))


class WorkSteps(Story):
    """Steps of claiming, and of everything done with claims."""

    def _claim(
        self, ahead: timedelta, lease: timedelta, limit: int, types: Sequence[str], keys: Sequence[str] | None
    ) -> Claims:
        due_by, now = self.clock() + ahead, self.clock()
        asked = None if keys is None else [*keys]
        got: Claims = self.do("claim", due_by, now=now, lease=lease, limit=limit, types=[*types], keys=asked)
        self.oracle.claim(got, due_by, now=now, lease=lease, limit=limit, types=types, keys=keys)
        self.claims.extend(got.claims)
        return got

    def chosen(self, number: int) -> Claim | None:
        """Return a good claim, counted from the latest, or any past claim if below zero; claim more if none is good."""
        if number >= 0 and not self.good():
            self._claim(9 * DAY, HOUR, 9, TYPES, None)
        among = self.good() if number >= 0 else self.claims
        return among[-1 - abs(number) % len(among)] if among else None

    def all_chosen(self, numbers: Sequence[int]) -> list[Claim]:
        """Return such claims, no two on the same slot."""
        chosen = filter(None, map(self.chosen, numbers))
        return [*{claim.job.dedup_key: claim for claim in chosen}.values()]

    @step(ahead=as_told(_ahead), lease=as_told(leases), limit=_limits, types=some_types, keys=_only)
    def claim(self, ahead: Told, lease: Told, limit: int, types: Sequence[str], keys: Sequence[str] | None) -> None:
        """Claim what is due, or only certain slots, as an engine's workers do."""
        spoil(self._claim(ahead.value, lease.value, limit, types, keys))

    @step(lease=as_told(leases), limit=_limits)
    def claim_at_once(self, lease: Told, limit: int) -> None:
        """Let three workers claim at once."""
        now = self.clock()
        named = {"now": now, "lease": lease.value, "limit": limit, "types": [*TYPES]}
        got: list[Claims] = self.stage.at_once((place, "claim", (now + 9 * DAY,), named) for place in range(3))
        self.oracle.claim_at_once(got, now + 9 * DAY, now=now, lease=lease.value, limit=limit, types=TYPES)
        for claims in got:
            self.claims.extend(claims.claims)

    @step(several=_few, lease=as_told(leases), progress=st.none() | as_told(strategies.progress()))
    def heartbeat(self, several: list[int], lease: Told, progress: Told | None) -> None:
        """Extend leases and record progress."""
        said: Progress | None = None if progress is None else progress.value
        claims = [evolve(claim, progress=said) for claim in self.all_chosen(several)]
        until = self.clock() + lease.value
        self.hold({*self.do("heartbeat", [*claims], until)}, self.oracle.heartbeat(claims, until))

    @step(
        claim=which, end=as_told(strategies.ends()), text=st.none() | st.sampled_from(["one", "two"]), mails=_follow_ups
    )
    def finish(self, claim: int, end: Told, text: str | None, mails: Told) -> None:
        """End a job, with or without a brief, and with follow-up mails."""
        held = self.chosen(claim)
        if held is not None:
            ended = _with_brief(end.value, held, text)
            mails_of_others = [mail for mail in mails.value if mail.job.dedup_key != held.job.dedup_key]
            given = _with_lists(ended)
            got = self.do("finish", held, given, [*mails_of_others])
            spoil(given)
            self.hold(got, self.oracle.finish(held, ended, mails_of_others))

    # Jobs that have ended reveal the most, so this step is taken more often.
    finish_too = finish
    finish_three = finish

    @step(claim=which, after=as_told(offsets), error=strategies.texts(), counted=st.booleans())
    def retry(self, claim: int, after: Told, error: str, *, counted: bool) -> None:
        """Put a job back for another attempt."""
        held = self.chosen(claim)
        if held is not None:
            at = self.clock() + after.value
            got = self.do("retry", held, at, error, counted=counted)
            self.hold(got, self.oracle.retry(held, at, error, counted=counted))

    @step(several=_few)
    def release(self, several: list[int]) -> None:
        """Release jobs."""
        claims = self.all_chosen(several)
        self.do("release", [*claims])
        self.oracle.release(claims)

    def drain(self) -> None:
        """Plan everything that may be planned and claim all of it, which reveals tokens, payloads and windows."""
        every = [job(user, day, type=kind) for kind in TYPES for user in USERS for day in DAYS]
        self.hold(self.do("enqueue", [*every]), self.oracle.enqueue(every))
        # Each claim gets at most one slot per user and type.
        for _ in DAYS:
            claims = self._claim(timedelta(0), HOUR, 99, TYPES, None).claims
            lost = {claim.job.dedup_key: claim for claim in self.claims if self.oracle.held(claim) is None}
            self.hold({*self.do("heartbeat", [*lost.values()], self.clock() + DAY)}, {*lost})
            for claim in claims:
                end = Finish(status=JobStatus.EMPTY)
                same(self.do("finish", claim, end), self.oracle.finish(claim, end, ()))
            self.see()
        same(self.do("claim", self.clock(), now=self.clock(), lease=HOUR, limit=9, types=[*TYPES]), Claims([]))


def _with_brief(end: Finish, held: Claim, text: str | None) -> Finish:
    if text is None or held.job.type == "mail":
        return end
    later = HOUR if text == "two" else timedelta(0)
    return evolve(end, brief=brief_of(held.job, text=text, end=held.job.window.end + later))


def _with_lists(end: Finish) -> Finish:
    return end if end.brief is None else evolve(end, brief=evolve(end.brief, sections=[*end.brief.sections]))
