"""A storage on one Redis server: for any number of machines, as fast as the server, and as durable as it is set up.

Each method is one script, and so one atomic step; this class asks, and ``scripts/`` answers. Redis' own clock is never
looked at: every moment is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Final, Self

from fanout_briefs.encoding import decode_brief, encode_brief
from fanout_briefs.model import (
    Brief,
    Change,
    Claim,
    Claims,
    Enqueued,
    Finish,
    FollowUp,
    Job,
    JobStatus,
    Overview,
    Page,
    SkipReason,
    Standing,
    slot_key,
)
from fanout_briefs.rules import (
    ENDED,
    SOON,
    TRANSITIONS,
    TROUBLED,
    check_finish,
    check_limit,
    check_new,
    is_storable,
    not_open,
    readable,
    utc,
)
from redis_briefs.preferences import RedisPreferences
from redis_briefs.rows import (
    from_brief,
    from_claim,
    from_instant,
    from_job,
    packed,
    present,
    to_claim,
    to_instant,
    to_job,
    to_overview,
    to_standing,
)
from redis_briefs.server import Server, Session

__all__ = ["RedisStorage"]

_CHUNK: Final = 2_000
"""Slots a script, so that others get their turn within some hundredths of a second."""


class RedisStorage:
    """Keeps everything in keys of one prefix on the Redis server at ``url``.

    Args:
        url: ``redis://user:password@host:6379/0``, ``rediss://`` for TLS, or ``unix://path``.
        prefix: What the keys begin with; storages with the same one share their content.
        connections: How many calls run at once, at least 2. One place is kept for heartbeats.
        timeout: How long to wait for the server, a call at a time; also how long a cancelled call may take to end.
        may_forget: Also use a server that does not keep what it is given: without an append-only file, or one that
            evicts keys when its memory is full. For tests.
        trace: For diagnostics: called with the name of each script or command before it is sent, in a thread.
    """

    tells_standings = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "fanout_briefs",
        connections: int = 5,
        timeout: timedelta = timedelta(seconds=30),
        may_forget: bool = False,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        if not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(
                f"prefix={prefix!r}: must be a text without braces, which would name another slot of a cluster"
            )
        if connections < 2:
            raise ValueError(f"connections={connections!r}: must be at least 2, since one is for heartbeats")
        self._server = Server(url, prefix, timeout=timeout, may_forget=may_forget, trace=trace)
        self._connections = connections
        self._session: Session | None = None
        self.prefix: Final = prefix
        self.preferences: Final = RedisPreferences(self._opened)

    @property
    def keys(self) -> Sequence[str]:
        """All keys that it may write: to be granted, watched, or deleted once nobody uses them any more."""
        return tuple(self._server.keys.values())

    async def __aenter__(self) -> Self:
        # No await before the count is right: another task may enter or leave at any.
        session = self._session = self._session or Session(self._server, self._connections)
        session.users += 1
        try:
            await session.open()
        except BaseException:
            await self._leave(session)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._leave(self._session)

    async def _leave(self, session: Session) -> None:
        session.users -= 1
        if session.users == 0:
            self._session = None
            await session.close()

    def _opened(self) -> Session:
        if self._session is None:
            raise not_open(self._server.place)
        return self._session

    # The ledger: what was planned, and what became of it.

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        session = self._opened()
        first: dict[str, Job] = {}
        for job in jobs:
            check_new(job)
            first.setdefault(job.dedup_key, job)
        # Every row is made before the first is sent, so that a bad one refuses the whole batch.
        rows = {key: from_job(first[key]) for key in sorted(first)}
        outcomes: dict[str, Enqueued] = {}
        for keys in _chunks([*rows]):
            answers = await session.script("enqueue", packed([rows[key] for key in keys]))
            outcomes.update(zip(keys, (Enqueued(answer.decode()) for answer in answers), strict=True))
        # The outcome belongs to the first of equal keys; popping leaves none for the others.
        return [outcomes.pop(job.dedup_key, Enqueued.DUPLICATE) for job in jobs]

    async def find(self, keys: Collection[str]) -> Mapping[str, Job]:
        return {key: to_job(row) for key, row in await self._rows(keys)}

    async def standings(self, keys: Collection[str]) -> Mapping[str, Standing]:
        return {key: to_standing(row) for key, row in await self._rows(keys)}

    async def _rows(self, keys: Collection[str]) -> Sequence[tuple[str, bytes]]:
        session = self._opened()
        asked = [*filter(is_storable, keys)]
        rows: list[bytes | None] = await session.command("HMGET", "slots", *asked) if asked else []
        return [(key, row) for key, row in zip(asked, rows, strict=True) if row is not None]

    async def last_briefs(self, type: str, before: Mapping[str, datetime]) -> Mapping[str, datetime]:  # noqa: A002  # the port's name
        session = self._opened()
        limits = {user: from_instant(instant) for user, instant in before.items() if is_storable(user)}
        answers = await session.script("last_briefs", packed({"type": type, "before": [*limits.items()]}))
        return {user: to_instant(at.decode()) for user, at in zip(limits, answers, strict=True) if at}

    async def change(self, keys: Collection[str], change: Change) -> Collection[str]:
        session = self._opened()
        rule = TRANSITIONS[change]
        applies_to = dict.fromkeys(rule.applies_to, True)
        asked = present(applies_to=applies_to, to=rule.to, code=rule.code, demand=rule.demand)
        moved: set[str] = set()
        for chunk in _chunks(sorted(filter(is_storable, set(keys)))):
            moved.update(key.decode() for key in await session.script("change", packed({**asked, "keys": chunk})))
        return moved

    async def advance(
        self,
        name: str,
        to: datetime | None = None,
        *,
        start: datetime | None = None,
        planned_at: datetime | None = None,
    ) -> datetime | None:
        session = self._opened()
        given = {"to": to, "start": start, "planned_at": planned_at}
        moves = {each: from_instant(instant) for each, instant in given.items() if instant is not None}
        if not is_storable(name):
            return None
        mark = await session.script("advance", packed({"name": name, **moves}))
        return None if mark is None else to_instant(mark.decode())

    async def forget(self, user_id: str) -> int:
        session = self._opened()
        return int(await session.script("forget", user_id.encode())) if is_storable(user_id) else 0

    # The work: how jobs are taken, and what was made is handed in.

    async def claim(
        self,
        due_by: datetime,
        *,
        now: datetime,
        lease: timedelta,
        limit: int,
        types: Collection[str],
        keys: Collection[str] | None = None,
    ) -> Claims:
        session = self._opened()
        check_limit(limit)
        until = utc(now) + lease
        asked = present(
            due_by=from_instant(due_by),
            now=from_instant(now),
            lease=from_instant(until),
            limit=limit,
            types=sorted(set(types)),
            keys=None if keys is None else sorted(filter(is_storable, set(keys))),
        )
        held_until, taken = await session.script("claim", packed(asked))
        claims = [to_claim(row, payload, until) for row, payload in taken]
        return Claims(claims, to_instant(held_until.decode()) if held_until else None)

    async def heartbeat(self, claims: Collection[Claim], until: datetime) -> Collection[str]:
        session = self._opened()
        asked = {"lease": from_instant(until), "claims": [*map(from_claim, claims)]}
        kept = {key.decode() for key in await session.beat(packed(asked))}
        return {claim.job.dedup_key for claim in claims} - kept

    async def finish(self, claim: Claim, finish: Finish, follow_ups: Sequence[FollowUp] = ()) -> bool:
        session = self._opened()
        check_finish(finish)
        for follow_up in follow_ups:
            check_new(follow_up.job)
        asked = present(
            status=finish.status,
            code=finish.code,
            reason=readable(finish.reason),
            error=readable(finish.error),
            brief=None if finish.brief is None else from_brief(finish.brief),
            follow_ups=[from_job(follow_up.job) for follow_up in follow_ups],
        )
        body = b"" if finish.brief is None else encode_brief(finish.brief)
        payloads = [follow_up.payload for follow_up in follow_ups]
        return bool(await session.script("finish", packed({**from_claim(claim), **asked}), body, *payloads))

    async def retry(self, claim: Claim, at: datetime, error: str, *, counted: bool = True) -> bool:
        asked = {**from_claim(claim), "run_at": from_instant(at), "error": readable(error), "counted": counted}
        return bool(await self._opened().script("retry", packed(asked)))

    async def release(self, claims: Collection[Claim]) -> None:
        await self._opened().script("release", packed([*map(from_claim, claims)]))

    async def brief(self, type: str, user_id: str, on: date | None = None) -> Brief | None:  # noqa: A002  # the port's name
        session = self._opened()
        if not is_storable(type + user_id):
            return None
        if on is None:
            body = await session.script("last_brief", type.encode(), user_id.encode())
        else:
            body = await session.command("HGET", "briefs", slot_key(type, on, user_id))
        return None if body is None else decode_brief(body)

    # The oversight: what an operator sees and does.

    async def pause(self, types: Collection[str], at: datetime) -> bool:
        asked = {"types": sorted(filter(is_storable, set(types))), "at": from_instant(at)}
        return bool(await self._opened().script("pause", packed(asked)))

    async def resume(self, types: Collection[str], *, since: datetime) -> int | None:
        asked = {"types": sorted(set(types)), "since": from_instant(since)}
        resumed = await self._opened().script("resume", packed(asked))
        return None if resumed is None else int(resumed)

    async def paused(self, types: Collection[str]) -> Mapping[str, datetime]:
        session = self._opened()
        asked = sorted(filter(is_storable, set(types)))
        since: list[bytes | None] = await session.command("HMGET", "pauses", *asked) if asked else []
        return {kind: to_instant(at.decode()) for kind, at in zip(asked, since, strict=True) if at is not None}

    async def overview(self, types: Collection[str], *, now: datetime, since: datetime) -> Mapping[str, Overview]:
        asked = {
            "types": sorted(set(types)),
            "now": from_instant(now),
            "soon": from_instant(now + SOON),
            "since": from_instant(since),
            "ended": ENDED,
            "codes": [*SkipReason],
            "troubled": TROUBLED,
        }
        answers = json.loads(await self._opened().script("overview", packed(asked)))
        return {kind: to_overview(row) for kind, row in answers.items()}

    async def select(
        self,
        types: Collection[str],
        statuses: Collection[JobStatus],
        *,
        since: datetime,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> Page[Job]:
        session = self._opened()
        check_limit(limit)
        begin, after = (from_instant(since), None) if cursor is None else json.loads(cursor)
        asked = present(
            types=sorted(set(types)),
            statuses=sorted(set(statuses)),
            since=begin,
            after=after,
            limit=limit + 1,  # One row more than asked for tells whether this page is the last.
        )
        jobs = sorted(map(to_job, await session.script("select", packed(asked))), key=_turn)
        return Page(jobs[:limit], json.dumps(_turn(jobs[limit - 1])) if len(jobs) > limit else None)

    async def prune(self, types: Collection[str], before: datetime, limit: int) -> int:
        session = self._opened()
        check_limit(limit)
        asked = {
            "types": sorted(set(types)),
            "before": from_instant(before),
            "limit": limit,
            "ended": ENDED,
            "statuses": [*JobStatus],
        }
        return int(await session.script("prune", packed(asked)))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[begin : begin + _CHUNK] for begin in range(0, len(keys), _CHUNK))


def _turn(job: Job) -> tuple[str, str]:
    return from_instant(job.occurrence.deliver_at), job.dedup_key
