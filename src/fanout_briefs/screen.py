"""Decides again about claimed jobs: those too late, or no longer matching preference or activity, do not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from attrs import frozen

from fanout_briefs.arguments import answered
from fanout_briefs.eligibility import Eligibility, Refusal, parse, superseded, withdrawn
from fanout_briefs.model import EngagementDecision, Job, Preference, SkipReason
from fanout_briefs.ports import Preferences
from fanout_briefs.timing import CatchUp

__all__ = ["Cleared", "Screen"]


@frozen
class Cleared:
    """A job that may run.

    Attributes:
        preference: The user's current preference.
        decision: The engagement policy's current decision; None for mails, and for a demanded job that the policy
            would not send.
    """

    preference: Preference | None
    decision: EngagementDecision | None = None


@frozen(kw_only=True)
class Screen:
    """Judges claimed jobs by the current facts, which it reads once per batch.

    Attributes:
        name: The job type of briefs; jobs of any other type are mails.
        max_lateness: A job whose delivery time is longer ago than this does not run.
        catch_up: With ``latest``, a late brief gives way to a newer one of the same user that is also due.
    """

    name: str
    preferences: Preferences
    eligibility: Eligibility
    max_lateness: timedelta
    catch_up: CatchUp

    async def judge(self, jobs: Sequence[Job], due_by: datetime) -> Mapping[str, Cleared | Refusal | Exception]:
        """Return for each job, by key, what it runs with, why it does not run, or the error that prevents a decision.

        Being too late does not depend on facts, so such jobs are refused even while the facts cannot be read.
        """
        judged: dict[str, Cleared | Refusal | Exception] = {
            job.dedup_key: refusal for job in jobs if (refusal := self._too_late(job, due_by)) is not None
        }
        in_time = [job for job in jobs if job.dedup_key not in judged]
        try:
            judged |= await self._judge(in_time, due_by) if in_time else {}
        except Exception as error:
            judged |= dict.fromkeys((job.dedup_key for job in in_time), error)
        return judged

    def _too_late(self, job: Job, due_by: datetime) -> Refusal | None:
        if job.demand is not None or job.occurrence.deliver_at >= due_by - self.max_lateness:
            return None
        return Refusal(SkipReason.TOO_LATE, f"it was to be delivered more than {self.max_lateness} ago")

    async def _judge(self, jobs: Sequence[Job], due_by: datetime) -> Mapping[str, Cleared | Refusal]:
        """Judge by preference and engagement; errors from reading preferences or the ledger are raised."""
        found = await self.preferences.get([job.user_id for job in jobs])
        preferences = answered("preferences.get", found, Preference)
        judged: dict[str, Cleared | Refusal] = {}
        cleared: dict[str, Job] = {}
        for job in jobs:
            preference = preferences.get(job.user_id)
            refusal = self._refusal(job, preference, due_by)
            judged[job.dedup_key] = Cleared(preference) if refusal is None else refusal
            if refusal is None and job.type == self.name:
                cleared[job.dedup_key] = job
        for key, decision in (await self.eligibility.decide(list(cleared.values()))).items():
            job = cleared[key]
            if not isinstance(decision, Refusal):
                judged[key] = Cleared(preferences.get(job.user_id), decision)
            elif job.demand is None:
                judged[key] = decision
        return judged

    def _refusal(self, job: Job, preference: Preference | None, due_by: datetime) -> Refusal | None:
        if job.demand is not None or job.type != self.name:
            return withdrawn(preference)  # A mail belongs to the time it was planned for.
        return superseded(job, preference) or self._outrun(job, preference, due_by)

    def _outrun(self, job: Job, preference: Preference | None, due_by: datetime) -> Refusal | None:
        """Why a late brief gives way to a newer one, which covers its content too; None if it does not."""
        if self.catch_up is not CatchUp.LATEST or preference is None or job.occurrence.deliver_at >= due_by:
            return None
        newer = parse(preference).previous_before(due_by).deliver_at
        if job.occurrence.deliver_at >= newer:
            return None
        return Refusal(SkipReason.NEWER_OCCURRENCE, f"it was late, and so is the one of {newer:%Y-%m-%d %H:%M:%S} UTC")
