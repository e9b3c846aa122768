"""How the storage reaches its server: scripts, threads, and failures in our words.

The client is the synchronous one, in threads: ``redis.asyncio`` runs on asyncio only, and a storage has to be right on
trio too. A call is one hop to a thread and always runs to its end, whoever is cancelled meanwhile; ``timeout`` bounds it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

import anyio
import redis
from anyio import CapacityLimiter, to_thread
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from fanout_briefs.errors import SchemaTooNew, StorageUnavailable
from redis_briefs.errors import explain, is_passing
from redis_briefs.scripts import KEYS, source

__all__ = ["Server", "Session"]

_T = TypeVar("_T")
_FORMAT: Final = 1
# The client's types leave most of it open.
_Redis: Final[Any] = redis.Redis
_LONGEST_PAUSE: Final = 0.1


class Server:
    """One server, and the keys with our prefix on it. Its connections are made when needed, one for each call at a time."""

    def __init__(
        self, url: str, prefix: str, *, timeout: timedelta, may_forget: bool, trace: Callable[[str], None] | None
    ) -> None:
        self.timeout = timeout.total_seconds()
        self._client = _client(url, self.timeout)
        self.place = f"{_where(self._client)}, keys {prefix}:*"
        # In braces, so that a cluster has all of them on one node; elsewhere a script could not reach them.
        self.keys = {name: f"{{{prefix}}}:{name}" for name in KEYS}
        self._may_forget = may_forget
        self._trace = trace
        self._scripts: dict[str, Script] = {}

    def open(self) -> None:
        """Look whether the server can be used, and whether it keeps what it is given."""
        found = int(self.script("open", [str(_FORMAT).encode()]))
        if found > _FORMAT:
            raise SchemaTooNew(self.place, found, _FORMAT)
        problem = _forgets(self._client.info())
        if problem is not None and not self._may_forget:
            raise StorageUnavailable(f"{self.place}: {problem}; or pass may_forget=True where that does no harm")

    def close(self) -> None:
        """Close all connections. What still runs on one is cut off, and its caller has left."""
        self._client.close()

    def command(self, name: str, key: str, values: Sequence[str]) -> Any:
        """Run one command on one of our keys."""
        self._tell(name)
        return self._client.execute_command(name, self.keys[key], *values)

    def script(self, name: str, values: Sequence[bytes]) -> Any:
        """Run one script. A server that does not know it, such as one that was started anew, is given it."""
        self._tell(name)
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(source(name))
        return self._scripts[name](keys=[*self.keys.values()], args=values)

    def _tell(self, name: str) -> None:
        if self._trace is not None:
            self._trace(name)


def _client(url: str, seconds: float) -> Any:
    try:
        return _Redis.from_url(
            url,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            # By itself the client would call again after a lost connection, and then a finish that was stored would
            # seem to have come too late.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError:
        # What is wrong with it is not repeated: it may be a part of the password.
        raise ValueError(
            "the URL is none of Redis: write redis://user:password@host:6379/0, rediss:// for TLS, or unix://path, and "
            "percent-encode special characters of the password"
        ) from None


def _where(client: Any) -> str:
    given = client.get_connection_kwargs()
    return f"Redis at {given.get('path') or '{}:{}'.format(given.get('host', 'localhost'), given.get('port', 6379))}"


def _forgets(facts: Mapping[str, Any]) -> str | None:
    """What makes the server lose what it has said it stored, and what to do; None where nothing does."""
    if not facts.get("aof_enabled", True):
        return (
            "this server has no append-only file and forgets what it was told last when it ends: set `appendonly yes`"
        )
    if facts.get("maxmemory") and str(facts.get("maxmemory_policy")).startswith("allkeys"):
        return "this server evicts keys when its memory is full: set `maxmemory-policy noeviction`"
    return None


class Session:
    """The time from the first opening to the last closing; what it holds belongs to one event loop.

    Heartbeats have a place of their own, for a lease must not run out behind a long queue.
    """

    def __init__(self, server: Server, connections: int) -> None:
        self.users = 0
        self._server = server
        self._work = CapacityLimiter(connections - 1)
        self._pulse = CapacityLimiter(1)

    async def open(self) -> None:
        """Look at the server, whoever has done so already."""
        await self._in_thread(self._server.open)

    async def close(self) -> None:
        """Close all connections, even while being cancelled."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._server.close)

    async def command(self, name: str, key: str, *values: str) -> Any:
        """Run one command on one of our keys."""
        return await self._in_thread(partial(self._server.command, name, key, values))

    async def script(self, name: str, *values: bytes) -> Any:
        """Run one script."""
        return await self._in_thread(partial(self._server.script, name, values))

    async def beat(self, *values: bytes) -> Any:
        """Run the script of heartbeats, whatever else is going on."""
        return await self._in_thread(partial(self._server.script, "heartbeat", values), self._pulse)

    async def _in_thread(self, work: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
        """Run work in a thread, again as long as the server may only be busy, and tell failures in our words."""
        deadline = monotonic() + self._server.timeout
        while True:
            try:
                return await to_thread.run_sync(work, limiter=limiter or self._work)
            except redis.RedisError as error:
                if not is_passing(error) or monotonic() >= deadline:
                    raise explain(error, self._server.place) from error
            await anyio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  # Spreads callers; no secret.
