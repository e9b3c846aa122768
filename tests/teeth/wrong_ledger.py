"""Wrong ways to ask a ledger, to change it, and to forget."""

from __future__ import annotations

from wrong import Wrong

ASKING = [
    Wrong(
        "finds no more than 999 at once",
        {
            "return {key: self._slots[key].job for key in keys if": "return {key: self._slots[key].job for key in [*keys][:999] if"
        },
        fails=(
            "cancelling.enqueue.old-or-new",
            "ledger.find.thousands-at-once",
        ),
    ),
    Wrong(
        "has a None for each slot that it does not find",
        {
            "return {key: self._slots[key].job for key in keys if key in self._slots}": (
                "return {key: self._slots[key].job if key in self._slots else None for key in keys}"
            )
        },
        fails=(
            "cancelling.enqueue.old-or-new",
            "cancelling.finish.whole-or-not-at-all",
            "work.stale-token.changes-nothing",
            "ledger.nothing-is-fine",
            "ledger.enqueue.refuses-other-states",
            "ledger.find.thousands-at-once",
            "ledger.forget.erases-all-of-one-user",
            "opening.other-event-loops",
            "overview.troubles-by-frequency",
            "overview.at-most-twenty-troubles",
            "prune.latest-stays",
            "prune.live-slots-stay",
            "prune.each-type-for-itself",
            "prune.of-equals-one-stays",
            "prune.briefs-go-too",
            "prune.last-brief-stays",
            "prune.last-brief-goes-once-replaced",
            "prune.latest-brief-of-a-failure-stays",
            "values.ids.impossible-found-nowhere",
            "values.instants.naive-refused",
            "values.instants.outside-utc-refused",
        ),
    ),
    Wrong(
        "gives the mapping that it keeps",
        {
            "return {kind: self._paused[kind] for kind in types if kind in self._paused}": (
                "return self._paused if self._paused.keys() <= set(types) else {kind: self._paused[kind] for kind in types "
                "if kind in self._paused}"
            )
        },
        fails=("values.nothing-is-shared",),
    ),
    Wrong(
        "looks for last briefs up to and including the instant",
        {"if at < limit), default=None": "if at <= limit), default=None"},
        fails=("ledger.last-briefs.strictly-before",),
    ),
    Wrong(
        "takes every slot for a brief",
        {"for job in jobs if job.status in BRIEFED)": "for job in jobs)"},
        fails=(
            "ledger.last-briefs.live-and-completed",
            "prune.last-brief-stays",
            "prune.latest-brief-of-a-failure-stays",
        ),
    ),
    Wrong(
        "takes only completed slots for briefs",
        {"for job in jobs if job.status in BRIEFED)": "for job in jobs if job.status is JobStatus.COMPLETED)"},
        fails=(
            "cancelling.no-wrong-answer",
            "ledger.last-briefs.live-and-completed",
            "ledger.last-briefs.strictly-before",
            "values.ids.awkward-told-apart",
        ),
    ),
    Wrong(
        "gives the first brief for the last",
        {"at = max((at for at in delivered": "at = min((at for at in delivered"},
        fails=(
            "ledger.last-briefs.strictly-before",
            "prune.last-brief-stays",
        ),
    ),
    Wrong(
        "takes briefs of other types for last briefs",
        {
            "(slot.job for slot in self._owners.get((user_id, type), ()))": (
                "(slot.job for slot in self._slots.values() if slot.job.user_id == user_id)"
            )
        },
        fails=("ledger.last-briefs.only-that-type",),
    ),
    Wrong(
        "looks for all last briefs before one instant",
        {"if at < limit), default=None": "if at < max(limits.values())), default=None"},
        fails=("ledger.last-briefs.strictly-before",),
    ),
]

CHANGING = [
    Wrong(
        "changes no more than 999 at once",
        {"        moved = {key for key in keys if": "        moved = {key for key in [*keys][:999] if"},
        fails=("ledger.change.thousands-at-once",),
    ),
    Wrong(
        "changes what is held",
        {
            "self._slots[key].job.status in rule.applies_to}": (
                "self._slots[key].job.status in (*rule.applies_to, JobStatus.PROCESSING)}"
            )
        },
        fails=("ledger.change.as-the-table-says",),
    ),
    Wrong(
        "says that it moved all",
        {"        return moved\n": "        return set(keys)\n"},
        fails=(
            "ledger.change.as-the-table-says",
            "values.ids.impossible-found-nowhere",
        ),
    ),
    Wrong(
        "keeps the reason of what a person cancels",
        {"status=rule.to, code=rule.code)": "status=rule.to, code=slot.job.code)"},
        fails=("ledger.change.as-the-table-says",),
    ),
    Wrong(
        "begins no new epoch by hand",
        {
            "evolve(_renewed(slot.job), demand=rule.demand)": "evolve(_renewed(slot.job), epoch=slot.job.epoch, demand=rule.demand)"
        },
        fails=(
            "work.brief.regenerated-replaces",
            "demand.set-by-changes",
            "ledger.change.as-the-table-says",
        ),
    ),
    Wrong(
        "keeps error and attempts of what is tried again by hand",
        {
            "evolve(_renewed(slot.job), demand=rule.demand)": "evolve(slot.job, epoch=slot.job.epoch + 1, demand=rule.demand)"
        },
        fails=(
            "demand.set-by-changes",
            "ledger.change.as-the-table-says",
        ),
    ),
    Wrong(
        "forgets that a person asked",
        {"slot.job = evolve(_renewed(slot.job), demand=rule.demand)": "slot.job = _renewed(slot.job)"},
        fails=(
            "demand.set-by-changes",
            "ledger.change.as-the-table-says",
            "pausing.change.waits-for-the-end",
        ),
    ),
    Wrong(
        "demands what a person cancels",
        {"status=rule.to, code=rule.code)": "status=rule.to, code=rule.code, demand=Demand.RUN)"},
        fails=(
            "demand.cancelling-asks-for-nothing",
            "ledger.change.as-the-table-says",
        ),
    ),
    Wrong(
        "keeps the demand that was there",
        {"demand=rule.demand)": "demand=slot.job.demand or rule.demand)"},
        fails=("demand.set-by-changes",),
    ),
    Wrong(
        "looks for the window again when a brief is made again",
        {
            "            if rule.demand is not None:\n": "            slot.window_fixed = False\n            if rule.demand is not None:\n"
        },
        fails=("ledger.change.regenerating-keeps-the-window",),
    ),
    Wrong(
        "changes slots while a type is paused only",
        {"        moved = {key for key in keys if": "        moved = {key for key in keys if not self._paused and"},
        fails=(
            "cancelling.no-wrong-answer",
            "pausing.change.waits-for-the-end",
        ),
    ),
]

MARKS = [
    Wrong(
        "moves a mark back",
        {"mark if end is None else max(mark, end)": "mark if end is None else end"},
        fails=(
            "at-once.mark.furthest-stays",
            "ledger.mark.begins-where-start-says",
            "ledger.mark.never-moves-back",
            "ledger.planned-at.is-the-last-given",
        ),
    ),
    Wrong(
        "lets a mark begin at its end",
        {"mark = self._marks.get(name, begin)": "mark = self._marks.get(name, begin or end)"},
        fails=(
            "ledger.mark.begins-where-start-says",
            "ledger.planned-at.makes-no-mark",
        ),
    ),
    Wrong(
        "lets a mark begin again",
        {"mark = self._marks.get(name, begin)": "mark = begin or self._marks.get(name)"},
        fails=(
            "ledger.mark.begins-where-start-says",
            "ledger.mark.never-moves-back",
        ),
    ),
    Wrong(
        "keeps one mark for all",
        {"mark = self._marks.get(name, begin)": 'name = ""\n        mark = self._marks.get(name, begin)'},
        fails=(
            "ledger.mark.begins-where-start-says",
            "overview.mark-plan-and-pause",
            "ledger.planned-at.makes-no-mark",
            "ledger.planned-at.is-the-last-given",
        ),
    ),
    Wrong(
        "keeps a mark in the zone it was given in",
        {"(None if at is None else utc(at) for at in (start, to, planned_at))": "(start, to, planned_at)"},
        fails=(
            "values.instants.answers-in-utc",
            "ledger.mark.in-utc",
            "values.instants.naive-refused",
            "values.instants.naive-refused-by-oversight",
        ),
    ),
    Wrong(
        "loses updates of a mark",
        {"mark = self._marks.get(name, begin)": "mark = self._marks.get(name, begin)\n        await checkpoint()"},
        fails=("at-once.mark.furthest-stays",),
    ),
    Wrong(
        "keeps the latest moment of a plan and not the last",
        {"self._planned_at[name] = noted": "self._planned_at[name] = max(noted, self._planned_at.get(name, noted))"},
        fails=("ledger.planned-at.is-the-last-given",),
    ),
    Wrong(
        "keeps the moment of a plan that has no mark",
        {
            "        if mark is not None:\n            self._marks": (
                "        if noted is not None:\n            self._planned_at[name] = noted\n"
                "        if mark is not None:\n            self._marks"
            )
        },
        fails=("ledger.planned-at.makes-no-mark",),
    ),
    Wrong(
        "makes a mark of the moment of a plan",
        {"mark = self._marks.get(name, begin)": "mark = self._marks.get(name, begin or noted)"},
        fails=("ledger.planned-at.makes-no-mark",),
    ),
    Wrong(
        "forgets the moment of the plan with the next mark",
        {
            "            if noted is not None:\n                self._planned_at[name] = noted\n": (
                "            self._planned_at[name] = noted\n"
            )
        },
        fails=("ledger.planned-at.is-the-last-given",),
    ),
]

FORGETTING = [
    Wrong(
        "forgets everybody whose id begins so",
        {"if owner[0] == user_id]": "if owner[0].startswith(user_id)]"},
        fails=("ledger.forget.erases-all-of-one-user",),
    ),
    Wrong(
        "keeps the briefs of whom it forgets",
        {"briefs = [self._briefs.pop(owner) for owner in list(self._briefs) if owner[1] == user_id]": "briefs = []"},
        fails=("ledger.forget.erases-all-of-one-user",),
    ),
    Wrong(
        "counts slots only",
        {
            "rows = len(slots) + sum(payload is not None for payload in payloads) + sum(map(len, briefs))": "rows = len(slots)"
        },
        fails=("ledger.forget.erases-all-of-one-user",),
    ),
    Wrong(
        "gives tokens again after forgetting",
        {"            self._floor = max(self._floor, slot.token)\n        rows": "        rows"},
        fails=("ledger.forget.tokens-never-return",),
    ),
    Wrong(
        "forgets nothing that is held",
        {
            "owners = [owner for owner in self._owners if owner[0] == user_id]": (
                "owners = [owner for owner in self._owners if owner[0] == user_id]\n"
                "        owners = [owner for owner in owners if all(slot.until is None for slot in self._owners[owner])]"
            )
        },
        fails=(
            "cancelling.no-wrong-answer",
            "work.heartbeat.names-lost-claims",
            "ledger.forget.claims-are-lost",
            "ledger.forget.tokens-never-return",
        ),
    ),
    Wrong(
        "keeps the preference of whom it forgets",
        {"return rows + self.preferences.erase(user_id)": "return rows"},
        fails=(
            "preferences.forget.erases",
            "schedule-index.forgotten-leave-none",
        ),
    ),
]

LEDGERS = [*ASKING, *CHANGING, *MARKS, *FORGETTING]
