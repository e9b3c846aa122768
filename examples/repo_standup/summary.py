"""Says who got what, who did not and why: asked of the ledger, so that a second run answers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from attrs import frozen

from fanout_briefs import Brief, Briefs, Explanation, JobStatus, PlanReport, RunReport, SkipReason, Verdict

from .people import Person

BAD = (JobStatus.FAILED, JobStatus.UNKNOWN, SkipReason.INVALID_SCHEDULE, SkipReason.INVALID_USER_ID)


@frozen
class Outcome:
    """What one person got for one date, or why not.

    Attributes:
        is_bad: Whether somebody has to look at it.
        mail: Where the mail lies.
    """

    user_id: str
    says: str
    is_bad: bool = False
    brief: Brief | None = None
    mail: str | None = None


async def outcomes(
    briefs: Briefs, verdicts: Sequence[Verdict], people: Sequence[Person], now: datetime
) -> list[Outcome]:
    """One for each verdict of the plan, in the order of people, as things stand after the run."""
    order = {person.user_id: number for number, person in enumerate(people)}
    zones = {person.user_id: person.preference.timezone or "UTC" for person in people}
    found: list[Outcome] = []
    for verdict in sorted(verdicts, key=lambda verdict: order.get(verdict.user_id, 0)):
        user_id, occurrence = verdict.user_id, verdict.occurrence
        if verdict.code in BAD or occurrence is None:
            says = f"no brief: {verdict.detail or verdict.code}"
            found.append(Outcome(user_id, says, is_bad=True))
            continue
        at = f"{occurrence.deliver_at.astimezone(ZoneInfo(zones[user_id])):%a %d %b, %H:%M} {zones[user_id]}"
        if verdict.code is SkipReason.NOT_YET_DUE:
            found.append(Outcome(user_id, f"not due; the next is for {at}"))
            continue
        explanation = await briefs.explain(user_id, occurrence.local_date, now=now)
        brief = await briefs.latest(user_id)
        if brief is not None and brief.occurrence != occurrence:
            brief = None
        found.append(_outcome(explanation, brief, at))
    return found


def _outcome(explanation: Explanation, brief: Brief | None, at: str) -> Outcome:
    job, mail, code = explanation.job, explanation.mail, explanation.code
    error = (mail and mail.error) or (job and job.error)
    match code:
        case JobStatus.COMPLETED:
            says = "mailed"
        case JobStatus.EMPTY:
            says = "nothing to say: no repository of theirs has a commit"
        case JobStatus.PENDING if error:
            says = f"will be tried again: {error}"
        case JobStatus.PENDING:
            says = "made, and to be mailed" if brief else "to be made"
        case JobStatus.FAILED | JobStatus.UNKNOWN:
            says = f"{code}: {error}"
        case _:
            says = f"not sent: {code}"
    return Outcome(
        explanation.user_id,
        f"{says} (for {at})",
        is_bad=code in BAD or (code is JobStatus.PENDING and error is not None),
        brief=brief,
        mail=mail.reason if mail is not None and code is JobStatus.COMPLETED else None,
    )


def lines(found: Sequence[Outcome]) -> Iterator[str]:
    """One line a person and date, and one for each section that failed."""
    width = max((len(outcome.user_id) for outcome in found), default=0)
    for outcome in found:
        sections = _sections(outcome.brief) if outcome.brief else ""
        yield f"  {outcome.user_id:<{width}}  {outcome.says}{sections}"
        for section in outcome.brief.failed if outcome.brief else ():
            yield f"  {'':<{width}}  ! {section.title}: {section.error}"


def totals(plan: PlanReport, run: RunReport) -> str:
    """What this run did, in one sentence."""
    made, mailed = run.briefs.get(JobStatus.COMPLETED, 0), run.mails.get(JobStatus.COMPLETED, 0)
    if made or mailed or plan.enqueued:
        return f"Briefs made: {made}; mails written: {mailed}; already done before: {plan.duplicates}."
    if plan.duplicates:
        states = ", ".join(f"{count} {status}" for status, count in sorted(plan.existing.items()))
        return f"Already done: {plan.duplicates} briefs ({states}); nothing was sent."
    return "Nobody is due; nothing was sent."


def _sections(brief: Brief) -> str:
    count, failed = len(brief.sections), len(brief.failed)
    return f", {count} section{'' if count == 1 else 's'}" + (f", {failed} of them failed" if failed else "")
