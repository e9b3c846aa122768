"""Finds planned jobs that already exist: one index over the existing ones, then one look-up per candidate.

Pure. It saves work; what makes a slot exactly-once is the ledger's unique key.
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
    ``dedup_key``. With one, it is a duplicate if a pending or processing job of the same user and type is to be
    delivered at most ``tolerance`` before or after it, both ends included; keys and dates of existing jobs do not
    count then. The system this library started from did so, with 30 minutes.

    In both modes only the first of the candidates with one ``dedup_key`` is looked at; the others are duplicates,
    whatever became of the first.

    Args:
        existing_jobs: Read once, here.
        tolerance: None, or zero or more.

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
        """Find duplicates by the keys of existing jobs alone, for callers that have nothing else of them."""
        made = cls(())
        made._keys.update(keys)
        return made

    def split(self, candidates: Iterable[_SlotT]) -> tuple[list[_SlotT], list[_SlotT]]:
        """Split the candidates into new ones and duplicates, both in the order given.

        It may be called again: candidates of an earlier call do not count, the existing jobs are the whole truth.
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
