"""The results of a plan: its decisions, counts and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from attrs import define, field, frozen

from fanout_briefs.eligibility import Refusal
from fanout_briefs.model import KEPT_PROBLEMS, JobStatus, Occurrence, Problem, SkipReason, Slot, Window

__all__ = ["Phase", "PlanReport", "Tally", "Verdict"]


@frozen
class Phase:
    """The items handled and seconds spent by one phase over all pages; overlapping pages are each counted in full."""

    items: int
    seconds: float


@frozen(kw_only=True)
class Verdict:
    """What a plan decided about one preference or one of its occurrences.

    Attributes:
        status: The slot's status now, or in a dry run what it would be; None if there is no slot.
        code: Why there is no pending slot.
        detail: An explanation for people.
        is_new: Whether this plan created or took up the slot.
    """

    user_id: str
    occurrence: Occurrence | None = None
    status: JobStatus | None = None
    code: SkipReason | None = None
    detail: str | None = None
    is_new: bool = False


@frozen(kw_only=True)
class PlanReport:
    """What one plan did. Every due slot is enqueued, a duplicate, failed or skipped.

    Attributes:
        now: The moment planned for.
        window: The span of delivery times that was scanned, excluding its end.
        mark: Up to when planning is now complete; None after a dry run on a fresh ledger.
        scanned: Preferences read: all, or only those that may be due if they can be read by schedule.
        due: Slots in the window.
        enqueued: Slots that are pending because of this plan.
        duplicates: Slots that already existed; ``existing`` counts them by status.
        failed: Due slots that could not be decided on or recorded; the next plan tries again.
        skipped: Slots decided against, by reason; also counts people with an unusable preference.
        problems: The first hundred problems that need attention.
        phases: The work of each phase: ``due``, ``duplicates``, ``engagement``, ``enqueue``.
    """

    now: datetime
    window: Window
    mark: datetime | None
    dry_run: bool
    scanned: int
    due: int
    enqueued: int
    duplicates: int
    existing: Mapping[JobStatus, int]
    failed: int
    skipped: Mapping[SkipReason, int]
    problems: Sequence[Problem]
    phases: Mapping[str, Phase]

    @property
    def ok(self) -> bool:
        """Whether nothing needs attention."""
        return not self.failed and not self.problems


@define
class Tally:
    """The counts of a plan, or of one page until the page is complete.

    Attributes:
        keeps_verdicts: Whether to keep verdicts for a listener; they are many, and otherwise only counted.
    """

    keeps_verdicts: bool = False
    due: int = 0
    enqueued: int = 0
    duplicates: int = 0
    failed: int = 0
    existing: Counter[JobStatus] = field(factory=Counter[JobStatus])
    skipped: Counter[SkipReason] = field(factory=Counter[SkipReason])
    problems: list[Problem] = field(factory=list[Problem])
    verdicts: list[Verdict] = field(factory=list[Verdict])
    undecided: datetime | None = None

    def add(self, page: Tally) -> None:
        """Add the counts of a page."""
        self.due += page.due
        self.enqueued += page.enqueued
        self.duplicates += page.duplicates
        self.failed += page.failed
        self.existing += page.existing
        self.skipped += page.skipped
        self.problems += page.problems[: KEPT_PROBLEMS - len(self.problems)]
        if page.undecided is not None:
            self.hold(page.undecided)

    def hold(self, at: datetime) -> None:
        """Keep the mark from passing a slot without a final decision, so that the next plan sees it again."""
        self.undecided = at if self.undecided is None else min(at, self.undecided)

    def enqueue(self, slot: Slot) -> None:
        """Count a slot that is pending because of this plan."""
        self.enqueued += 1
        if self.keeps_verdicts:
            self.tell(slot, JobStatus.PENDING, is_new=True)

    def skip(self, slot: Slot, code: SkipReason, detail: str | None) -> None:
        """Count a slot that was decided against."""
        self.skipped[code] += 1
        if self.keeps_verdicts:
            self.tell(slot, JobStatus.SKIPPED, code, detail)

    def duplicate(self, slot: Slot, status: JobStatus, code: SkipReason | None = None) -> None:
        """Count a slot that already existed."""
        self.duplicates += 1
        self.existing[status] += 1
        if self.keeps_verdicts:
            self.tell(slot, status, code)

    def put_off(self, slot: Slot, refusal: Refusal) -> None:
        """Count a slot about which nothing is recorded, because the facts could not be read."""
        detail = str(refusal.detail)
        self.skipped[refusal.code] += 1
        self.tell(slot, None, refusal.code, detail)
        self._look_at(Problem(detail, slot.user_id, refusal.code))
        self.hold(slot.occurrence.deliver_at)

    def fail(self, slots: Sequence[Slot], error: Exception) -> None:
        """Count slots that could not be recorded."""
        self.due += len(slots)
        self.failed += len(slots)
        message = f"{len(slots)} due slots could not be recorded, the next plan tries again: {error!r}"
        self._look_at(Problem(message))
        for slot in slots:
            self.tell(slot, None, SkipReason.STORAGE_UNAVAILABLE, repr(error))
            self.hold(slot.occurrence.deliver_at)

    def refuse(self, user_id: str, code: SkipReason, detail: str) -> None:
        """Count an unusable preference, which a person should correct."""
        self.skipped[code] += 1
        self.tell_of(user_id, code, detail=detail)
        self._look_at(Problem(detail, user_id, code))

    def tell(
        self,
        slot: Slot,
        status: JobStatus | None,
        code: SkipReason | None = None,
        detail: str | None = None,
        *,
        is_new: bool = False,
    ) -> None:
        """Keep the decision about a slot, if there is a listener."""
        if self.keeps_verdicts:
            self.verdicts.append(
                Verdict(
                    user_id=slot.user_id,
                    occurrence=slot.occurrence,
                    status=status,
                    code=code,
                    detail=detail,
                    is_new=is_new,
                )
            )

    def tell_of(
        self, user_id: str, code: SkipReason, occurrence: Occurrence | None = None, detail: str | None = None
    ) -> None:
        """Keep why a user has no slot, if there is a listener."""
        if self.keeps_verdicts:
            self.verdicts.append(Verdict(user_id=user_id, occurrence=occurrence, code=code, detail=detail))

    def _look_at(self, problem: Problem) -> None:
        self.problems += [problem][: KEPT_PROBLEMS - len(self.problems)]
