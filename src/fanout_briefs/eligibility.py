"""Decides whether slots are sent, from the current preference and activity.

The planner asks before it enqueues, to save work. A worker asks again when it claims, so that changes in between
count. Both use this module, so the same facts give the same answer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, tzinfo
from typing import TypeAlias, cast

from fanout_briefs.arguments import answered
from fanout_briefs.engagement import EngagementPolicy
from fanout_briefs.errors import BadValue, InvalidSchedule
from fanout_briefs.model import (
    BRIEFED,
    Activity,
    EngagementDecision,
    Job,
    Preference,
    ScheduleFields,
    SkipReason,
    Slot,
    Standing,
    frozen_by_convention,
)
from fanout_briefs.ports import Engagement, Ledger, Preferences
from fanout_briefs.schedule import Schedule

__all__ = [
    "Decision",
    "Eligibility",
    "Refusal",
    "invalid_fields",
    "local_date",
    "parse",
    "preference_of",
    "superseded",
    "withdrawn",
]

EVERYONE = EngagementDecision(send=True, is_reengagement=False, reason="everyone")
"""The decision if no engagement is plugged in."""


@frozen_by_convention
class Refusal:
    """Why a slot is not sent.

    Attributes:
        retryable: True if this is no verdict: the facts could not be read, so ask again later.
        detail: For people: the policy's reason, or what failed.
    """

    code: SkipReason
    detail: str | None = None
    retryable: bool = False


Decision: TypeAlias = EngagementDecision | Refusal


def parse(fields: Preference | ScheduleFields) -> Schedule:
    """Return the schedule of a preference, or of its fields alone.

    Raises:
        InvalidSchedule: Names every bad field.
    """
    return Schedule.parse(fields.frequency, fields.time_of_day, fields.timezone, fields.day_of_week, fields.days)


async def preference_of(user_id: str, preferences: Preferences) -> Preference | None:
    """Read one user's preference; return None if there is none.

    Raises:
        TypeError: The answer is not a mapping to preferences.
        Exception: What ``preferences`` raises.
    """
    return answered("preferences.get", await preferences.get([user_id]), Preference).get(user_id)


def invalid_fields(schedule: InvalidSchedule | None, effective_from: object) -> InvalidSchedule | None:
    """Return all reasons why a preference cannot be used, so that one report is enough to fix it; None if it can.

    Args:
        schedule: The problems of its schedule fields.
        effective_from: Its value in the preference.
    """
    problems = [] if schedule is None else list(schedule.problems)
    if effective_from is not None and not isinstance(effective_from, datetime):
        problems.append(BadValue("effective_from", effective_from, "must be an aware datetime"))
    elif effective_from is not None and effective_from.utcoffset() is None:
        problems.append(BadValue("effective_from", effective_from, "must be aware"))
    return InvalidSchedule(problems) if problems else None


def local_date(preference: Preference | None, now: datetime) -> date:
    """Return today's date in the user's zone, or in UTC if no preference gives one."""
    zone: tzinfo = UTC
    if preference is not None:
        with suppress(InvalidSchedule):
            zone = parse(preference).zone
    return now.astimezone(zone).date()


def withdrawn(preference: Preference | None) -> Refusal | None:
    """Return why the user no longer wants the brief at all; None if they still do."""
    if preference is None:
        return Refusal(SkipReason.SUPERSEDED, "the preference is gone")
    if not preference.is_active:
        return Refusal(SkipReason.SUPERSEDED, "the brief was switched off")
    return None


def superseded(job: Job, preference: Preference | None) -> Refusal | None:
    """Return why a planned slot no longer matches the preference; None if it still does."""
    refusal = withdrawn(preference)
    if preference is None or refusal is not None:
        return refusal
    try:
        now_planned = parse(preference).on(job.occurrence.local_date)
    except InvalidSchedule as error:
        return Refusal(SkipReason.SUPERSEDED, f"the preference makes no schedule any more: {error}")
    if now_planned is None:
        return Refusal(SkipReason.SUPERSEDED, f"the schedule no longer has {job.occurrence.local_date}")
    if now_planned.deliver_at != job.occurrence.deliver_at:
        return Refusal(SkipReason.SUPERSEDED, f"the schedule now says {now_planned.deliver_at:%Y-%m-%d %H:%M:%S} UTC")
    return None


class Eligibility:
    """Asks the engagement policy about a batch of slots of one brief, with two reads whatever the size of the batch."""

    def __init__(self, engagement: Engagement | None, ledger: Ledger, policy: EngagementPolicy) -> None:
        self._engagement = engagement
        self._ledger = ledger
        self._policy = policy
        # Optional and declared as data; a policy without it does not send blindly.
        self._sends_blindly = bool(getattr(policy, "sends_when_unavailable", False))

    async def decide(
        self, slots: Sequence[Slot], standings: Mapping[str, Standing] | None = None, among: Sequence[Slot] = ()
    ) -> Mapping[str, Decision]:
        """Return each slot's decision by its ``dedup_key``.

        Args:
            slots: Slots of one type. If a user has several, an earlier one that is to be sent counts as the last brief
                for the later ones.
            standings: How slots of these users stand, by key, as far as the caller has looked them up. A visit after
                the slot's own instant does not overturn a refusal recorded there.
            among: The slots that were looked up.

        Raises:
            Exception: What the ledger raises. A failing engagement is a decision, not an error.
        """
        if self._engagement is None or not slots:
            return {slot.dedup_key: EVERYONE for slot in slots}
        first = {slot.user_id: slot.occurrence.deliver_at for slot in slots}
        if len(first) < len(slots):
            slots = sorted(slots, key=_deliver_at)
            first = {slot.user_id: slot.occurrence.deliver_at for slot in reversed(slots)}
        visits, problem = await self._visits(self._engagement, list(first))
        last_briefs = dict(await self._ledger.last_briefs(slots[0].type, first))
        standings = standings or {}
        known = _briefs_of(first, standings, among)
        decisions: dict[str, Decision] = {}
        for slot in slots:
            user_id, at = slot.user_id, slot.occurrence.deliver_at
            last = last_briefs.get(user_id)
            if user_id in known:
                last = max(
                    (brief for brief in (*known[user_id], last) if brief is not None and brief < at), default=None
                )
            decision = self._decide(slot, visits, problem, last, standings.get(slot.dedup_key))
            decisions[slot.dedup_key] = decision
            if isinstance(decision, EngagementDecision):
                last_briefs[user_id] = at
        return decisions

    async def _visits(
        self, engagement: Engagement, user_ids: Sequence[str]
    ) -> tuple[Mapping[str, datetime | None], str | None]:
        try:
            return dict(await engagement.last_visits(user_ids)), None
        except Exception as error:
            return {}, f"reading activity failed: {error!r}"

    def _decide(
        self,
        slot: Slot,
        visits: Mapping[str, datetime | None],
        problem: str | None,
        last_brief: datetime | None,
        standing: Standing | None,
    ) -> Decision:
        user_id, at = slot.user_id, slot.occurrence.deliver_at
        if user_id not in visits:
            return self._unavailable(problem or "the user's activity could not be read")
        try:
            activity = Activity(user_id, visits[user_id], last_brief)
            if standing is not None and _came_back_later(activity, standing, at):
                # A slot is judged by its own instant, even if another user's failure makes a plan look at it again.
                return Refusal(SkipReason.ENGAGEMENT, standing.reason)
            decision = cast("object", self._policy.decide(activity, at))  # by the host's own code
        except Exception as error:
            return self._unavailable(f"deciding failed: {error!r}")
        if not isinstance(decision, EngagementDecision):
            return self._unavailable(f"the policy gave {type(decision).__name__} instead of an EngagementDecision")
        return decision if decision.send else Refusal(SkipReason.ENGAGEMENT, decision.reason)

    def _unavailable(self, detail: str) -> Decision:
        if self._sends_blindly:
            return EngagementDecision(send=True, is_reengagement=False, reason=SkipReason.ENGAGEMENT_UNAVAILABLE.value)
        return Refusal(SkipReason.ENGAGEMENT_UNAVAILABLE, detail, retryable=True)


def _deliver_at(slot: Slot) -> datetime:
    return slot.occurrence.deliver_at


def _briefs_of(
    users: Container[str], standings: Mapping[str, Standing], slots: Iterable[Slot]
) -> Mapping[str, list[datetime]]:
    """Return when briefs of these users are delivered."""
    briefs: dict[str, list[datetime]] = {}
    for slot in slots:
        standing = standings.get(slot.dedup_key)
        if standing is not None and standing.status in BRIEFED and slot.user_id in users:
            briefs.setdefault(slot.user_id, []).append(standing.deliver_at)
    return briefs


def _came_back_later(activity: Activity, standing: Standing, at: datetime) -> bool:
    """Whether a slot refused at this instant would now be judged by a later visit."""
    return (
        standing.code is SkipReason.ENGAGEMENT
        and standing.deliver_at == at
        and activity.last_visit is not None
        and activity.last_visit > at
    )
