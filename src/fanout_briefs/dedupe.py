"""Finds planned jobs that already exist: one index over the existing jobs, then one look-up per candidate.

Pure. This only saves work; the ledger's unique key is what makes a slot exactly-once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from fanout_briefs.model import LIVE, Job, Slot

__all__ = ["BatchDeduplicator"]

_SlotT = TypeVar("_SlotT", bound=Slot)


class BatchDeduplicator:
    """Separates new candidates from those that already exist.

    Without a tolerance, a candidate is a duplicate if an existing job, whatever its status, has the same
    ``dedup_key``. With a tolerance, it is a duplicate if a pending or processing job of the same user and type is
    delivered at most ``tolerance`` before or after it, both ends included; keys and dates of existing jobs do not
    count then. The system that this library started from did so, with 30 minutes.

    In both modes, if several candidates have the same ``dedup_key``, only the first is examined; the others are
    duplicates in any case.

    Args:
        existing_jobs: The jobs to compare with; read once, here.
        tolerance: Zero or more, or None to compare keys.

    Raises:
        ValueError: ``tolerance`` is negative.
    """

    def __init__(self, existing_jobs: Iterable[Job], tolerance: timedelta | None = None) -> None:
        if tolerance is not None and tolerance < timedelta(0):
            raise ValueError(f"tolerance={tolerance!r}: must be zero or more, or None to compare keys")
        self._tolerance = tolerance
        self._keys = {job.dedup_key for job in existing_jobs} if tolerance is None else set[str]()
        self._times = {} if tolerance is None else _live_times(existing_jobs)

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> BatchDeduplicator:
        """Find duplicates by the keys of existing jobs alone, for callers that have only the keys."""
        made = cls(())
        made._keys.update(keys)
        return made

    def split(self, candidates: Iterable[_SlotT]) -> tuple[list[_SlotT], list[_SlotT]]:
        """Split the candidates into new ones and duplicates, both in the order given.

        Calls are independent: candidates of an earlier call do not count as existing.
        """
        fresh: list[_SlotT] = []
        duplicates: list[_SlotT] = []
        taken = set(self._keys)
        for job in candidates:
            key = job.dedup_key
            if key in taken or (self._tolerance is not None and self._is_near(job, self._tolerance)):
                duplicates.append(job)
            else:
                fresh.append(job)
            taken.add(key)
        return fresh, duplicates

    def _is_near(self, job: Slot, tolerance: timedelta) -> bool:
        at = job.occurrence.deliver_at
        times = self._times.get((job.user_id, job.type), [])
        index = bisect_left(times, at)
        # The nearest ones on either side are enough. Compare differences, since a sum may leave the calendar.
        return any(abs(at - near) <= tolerance for near in times[max(index - 1, 0) : index + 1])


def _live_times(jobs: Iterable[Job]) -> dict[tuple[str, str], list[datetime]]:
    times: dict[tuple[str, str], list[datetime]] = {}
    for job in jobs:
        if job.status in LIVE:
            times.setdefault((job.user_id, job.type), []).append(job.occurrence.deliver_at.astimezone(UTC))
    for instants in times.values():
        instants.sort()
    return times
