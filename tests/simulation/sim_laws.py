"""What must hold of any simulated time, said without the oracle: of what the host saw, and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime
from itertools import pairwise

from sim_harness import Simulation
from sim_oracle import DAY, HOUR

from fanout_briefs.model import Brief


def nobody_gets_two_briefs_for_one_local_date(simulation: Simulation) -> None:
    for user_id, briefs in simulation.saved.items():
        for day, count in Counter(brief.occurrence.local_date for brief in briefs).items():
            assert count == 1, simulation.story(user_id, f"{count} briefs were saved for {day}")
    may_have_left = Counter((sent.user_id, sent.day) for sent in simulation.host.sent if sent.fate in {"ok", "unknown"})
    keys = {(sent.user_id, sent.day): sent.key for sent in simulation.host.sent}
    for (user_id, day), count in may_have_left.items():
        same_key = simulation.settings.idempotent and all(
            sent.key == keys[user_id, day]
            for sent in simulation.host.sent
            if (sent.user_id, sent.day) == (user_id, day)
        )
        assert count == 1 or same_key, simulation.story(user_id, f"{count} mails may have left for {day}")


def every_mail_is_accounted_for(simulation: Simulation) -> None:
    """Each saved brief has one mail: sent, unknown, failed, waiting, or not sent for a reason; none goes twice."""
    counts = simulation.tally.counts
    fates: dict[tuple[str, date], list[str]] = defaultdict(list)
    for sent in simulation.host.sent:
        fates[sent.user_id, sent.day].append(sent.fate)
    accepted = sum("ok" in each for each in fates.values())
    unknown = sum("unknown" in each for each in fates.values())
    where = f"seed {simulation.world.seed}"
    assert accepted == counts["mails completed"], f"{where}: {accepted} accepted, {counts['mails completed']} recorded"
    if not simulation.settings.idempotent:
        assert unknown == counts["mails unknown"], f"{where}: {unknown} unknown, {counts['mails unknown']} recorded"
        for (user_id, day), tried in fates.items():
            ends = [number for number, fate in enumerate(tried) if fate in {"ok", "unknown", "permanent"}]
            assert ends in ([], [len(tried) - 1]), simulation.story(user_id, f"the mail of {day} was tried on: {tried}")
    owners: dict[str, set[tuple[str, date]]] = defaultdict(set)
    for sent in simulation.host.sent:
        owners[sent.key].add((sent.user_id, sent.day))
    assert all(len(owner) == 1 for owner in owners.values()), f"{where}: one key for two mails"
    ended = sum(count for name, count in counts.items() if name.startswith("mails "))
    assert ended <= counts["briefs completed"], f"{where}: {ended} mails ended of {counts['briefs completed']} briefs"


def nothing_is_mailed_before_its_time(simulation: Simulation) -> None:
    for sent in simulation.host.sent:
        assert sent.at >= sent.deliver_at, simulation.story(sent.user_id, f"{sent.day} was mailed at {sent.at}")
        late = sent.at - sent.deliver_at
        assert late <= simulation.settings.max_lateness, simulation.story(sent.user_id, f"{sent.day} is {late} late")


def contents_have_no_hole_and_no_overlap(simulation: Simulation) -> None:
    lead = simulation.settings.lead
    for user_id, briefs in simulation.saved.items():
        latest: datetime | None = None
        in_order: list[Brief] = []
        for brief in briefs:
            end = brief.occurrence.deliver_at - lead
            assert brief.window.end == end, simulation.story(user_id, f"{brief.window} does not end at {end}")
            assert latest is None or brief.occurrence.deliver_at > latest, simulation.story(
                user_id, f"{brief.occurrence} was made after {latest}"
            )
            latest = brief.occurrence.deliver_at
            in_order.append(brief)
        for earlier, later in pairwise(in_order):
            assert later.window.start == earlier.window.end, simulation.story(
                user_id, f"{later.occurrence.local_date} begins at {later.window.start}, not {earlier.window.end}"
            )


def reminders_come_on_the_days_of_the_policy(simulation: Simulation) -> None:
    """docs/how-to/engagement.md; a window's reminder comes once an absence, a recurring one every 31 days."""
    exact = simulation.settings.policy == "phase1"
    last: dict[tuple[str, datetime, str], datetime] = {}
    for reminder in sorted(simulation.host.reminded, key=lambda each: each.at):
        user_id, visit, at, rule = reminder.user_id, reminder.visit, reminder.at, reminder.rule
        assert visit is not None, simulation.story(user_id, f"{rule} on {at}, without a visit ever")
        away = (at - visit) // DAY
        days = {
            "reengagement_day_4": {4} if exact else set(range(4, 10)),
            "reengagement_day_10": {10} if exact else set(range(10, 31)),
        }.get(rule, set(range(31, 1000)))
        assert away in days, simulation.story(user_id, f"{rule} on day {away} of being away, for {at}")
        before = last.get((user_id, visit, rule))
        if before is not None:
            least = 31 * DAY if exact else 31 * DAY - 2 * HOUR
            assert rule == "reengagement_recurring_31", simulation.story(user_id, f"{rule} for {before} and {at}")
            assert at - before >= least, simulation.story(user_id, f"{rule} for {before} and {at}")
        last[user_id, visit, rule] = at


def what_was_missed_is_caught_up_with_as_the_policy_says(simulation: Simulation) -> None:
    """``skip`` plans nothing that is past; ``latest`` at most one of a person at a time; none is older than allowed."""
    settings = simulation.settings
    for (now, user_id), rows in simulation.late_rows.items():
        planned = [row for row in rows if row.state == "pending"]
        told = simulation.story(user_id, f"{settings.catch_up}, and at {now} {len(planned)} were caught up with")
        assert not planned or settings.catch_up != "skip", told
        assert len(planned) <= 1 or settings.catch_up == "each", told
        assert all(now - row.at <= settings.max_lateness for row in planned), told
        assert all(row.state != "newer_occurrence" for row in rows) or settings.catch_up == "latest", told


LAWS = [
    nobody_gets_two_briefs_for_one_local_date,
    every_mail_is_accounted_for,
    nothing_is_mailed_before_its_time,
    contents_have_no_hole_and_no_overlap,
    reminders_come_on_the_days_of_the_policy,
    what_was_missed_is_caught_up_with_as_the_policy_says,
]
