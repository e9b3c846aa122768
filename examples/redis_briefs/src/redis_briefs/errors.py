"""What a Redis storage says when it fails: the server, the reason, and what to do. Never a password."""

from __future__ import annotations

from typing import Final

import redis

from fanout_briefs.errors import StorageUnavailable

__all__ = ["explain", "is_passing"]

_PASSING: Final = ("BUSY", "LOADING", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN")
"""The server did nothing of what was asked, and may do it in a moment."""


def is_passing(error: redis.RedisError) -> bool:
    """Whether nothing was done, and asking again may help."""
    return _code(error) in _PASSING


def explain(error: redis.RedisError, place: str) -> StorageUnavailable:
    """Give our error for the client's."""
    advice = _ADVICE.get(_code(error), "this is what Redis says; if it is not about the server, report it")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError) and _code(error) not in _ADVICE:
        advice = _LOST
    return StorageUnavailable(f"{place}: {error}: {advice}")


def _code(error: redis.RedisError) -> str:
    # The first word of what the server said; the client keeps it elsewhere where it has a class for the error.
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


_LOST: Final = (
    "check that the server runs and can be reached; if the connection was lost in the middle, nobody knows whether this "
    "was still stored: call again, for everything here may be repeated"
)
_LOGIN: Final = (
    "check user and password in the URL, and that the user may run EVALSHA, SCRIPT, INFO and all commands on {prefix}:*"
)
_MOMENT: Final = "it took longer than the timeout; try again when it is less busy, or allow a longer timeout"
_ADVICE: Final = {
    "NOAUTH": _LOGIN,
    "WRONGPASS": _LOGIN,
    "NOPERM": _LOGIN,
    "BUSY": _MOMENT,
    "LOADING": _MOMENT,
    "TRYAGAIN": _MOMENT,
    "MASTERDOWN": "its primary cannot be reached; connect to the primary, or wait for the failover",
    "CLUSTERDOWN": "the cluster has no primary for these keys; wait for the failover",
    "MOVED": "this node of the cluster does not have these keys; connect to the one that has",
    "READONLY": "this is a replica; connect to the primary",
    "OOM": "its memory is full and nothing of this was stored; prune, or raise maxmemory",
    "MISCONF": "it cannot write to its disk and nothing of this was stored; look at its log",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write, and nothing of this was stored; look at them",
    "WRONGTYPE": "something else has written to these keys; choose another prefix",
}
"""By the first word of what the server says."""
