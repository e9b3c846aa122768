"""Wrong ways to hold a job and to end it."""

from __future__ import annotations

from wrong import Wrong

BEATING = [
    Wrong(
        "ignores the token",
        {"slot.token == claim.token and": "True and"},
        fails=(
            "demand.resend.claims-are-lost",
            "work.heartbeat.names-lost-claims",
            "work.stale-token.changes-nothing",
            "ledger.forget.tokens-never-return",
            "prune.tokens-never-return",
        ),
    ),
    Wrong(
        "ignores that the job left processing",
        {" and slot.job.status is JobStatus.PROCESSING\n": "\n"},
        fails=(
            "cancelling.finish.whole-or-not-at-all",
            "demand.takes-up-what-nobody-holds",
            "work.heartbeat.names-lost-claims",
            "work.ended-claim.changes-nothing",
            "work.retry.uncounted-takes-attempt-back",
        ),
    ),
    Wrong(
        "moves no lease",
        {"                slot.until = utc(until)\n": ""},
        fails=(
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.late-but-not-lost",
        ),
    ),
    Wrong(
        "records no progress",
        {"                slot.job = evolve(slot.job, progress=claim.progress or slot.job.progress)\n": ""},
        fails=("work.heartbeat.moves-lease-records-progress",),
    ),
    Wrong(
        "clears the progress where a beat has none to tell",
        {"progress=claim.progress or slot.job.progress)": "progress=claim.progress)"},
        fails=("work.heartbeat.moves-lease-records-progress",),
    ),
    Wrong(
        "loses a claim whose lease has ended",
        {
            "        for claim in claims:\n            if (slot": (
                "        held = {key: slot for key, slot in held.items() if slot.until > utc(until) - timedelta(days=3)}\n"
                "        for claim in claims:\n            if (slot"
            )
        },
        fails=(
            "work.heartbeat.late-but-not-lost",
            "work.heartbeat.names-lost-claims",
        ),
    ),
    Wrong(
        "tells of no lost claim",
        {"return {claim.job.dedup_key for claim in claims} - held.keys()": "return set()"},
        fails=(
            "demand.resend.claims-are-lost",
            "work.heartbeat.names-lost-claims",
            "ledger.forget.claims-are-lost",
        ),
    ),
    Wrong(
        "moves the lease of whoever took over",
        {
            "        for claim in claims:\n            if (slot := self._held(claim)) is not None:\n                slot.until": (
                "        for claim in claims:\n            if (slot := self._slots.get(claim.job.dedup_key)) is not None:\n"
                "                slot.until"
            )
        },
        fails=("work.heartbeat.names-lost-claims",),
    ),
    Wrong(
        "hides how far the last holder came",
        {"            progress=job.progress,\n": ""},
        fails=("work.heartbeat.moves-lease-records-progress",),
    ),
]

ENDING = [
    Wrong(
        "ends a job as pending", {"        check_finish(finish)\n": ""}, fails=("work.finish.refuses-what-is-no-end",)
    ),
    Wrong(
        "carries jobs that are no new slots",
        {"        for follow_up in follow_ups:\n            check_new(follow_up.job)\n": ""},
        fails=("work.finish.refuses-what-is-no-end",),
    ),
    Wrong(
        "ends without the brief",
        {"        if brief is not None:\n            self._briefs": "        if False:\n            self._briefs"},
        fails=(
            "work.brief.by-date-or-latest",
            "work.brief.regenerated-replaces",
            "cancelling.finish.whole-or-not-at-all",
            "work.claim.equals-do-not-wait",
            "work.window.starts-where-the-last-brief-ended",
            "work.window.never-beyond-its-end",
            "work.finish.saves-everything",
            "ledger.take-up.keeps-start-of-saved-brief",
            "ledger.forget.erases-all-of-one-user",
            "opening.content-stays",
            "prune.briefs-go-too",
            "prune.last-brief-stays",
            "prune.latest-brief-of-a-failure-stays",
            "values.nothing-is-shared",
            "values.briefs.awkward-content",
        ),
    ),
    Wrong(
        "saves the brief before it looks at the token",
        {
            "        slot = self._held(claim)\n        if slot is None:\n            return False\n        slot.until = None\n        slot.job = evolve(\n            slot.job,\n            status=finish.status": (
                "        if brief is not None:\n"
                "            self._briefs.setdefault((brief.type, brief.user_id), {})[brief.occurrence.local_date] = brief\n"
                "        slot = self._held(claim)\n        if slot is None:\n            return False\n        slot.until = None\n        slot.job = evolve(\n            slot.job,\n            status=finish.status"
            )
        },
        fails=(
            "work.stale-token.changes-nothing",
            "work.ended-claim.changes-nothing",
            "ledger.forget.claims-are-lost",
        ),
    ),
    Wrong(
        "ends in two steps",
        {
            "        if brief is not None:\n            self._briefs": "        for _ in range(9):\n            await checkpoint()\n        if brief is not None:\n            self._briefs"
        },
        fails=("cancelling.finish.whole-or-not-at-all",),
    ),
    Wrong(
        "forgets the error",
        {"            error=readable(finish.error),\n": ""},
        fails=(
            "work.finish.saves-everything",
            "overview.troubles-by-frequency",
            "overview.at-most-twenty-troubles",
            "values.errors.readable",
        ),
    ),
    Wrong(
        "forgets the code",
        {"            code=finish.code,\n            reason": "            reason"},
        fails=(
            "demand.ended-by-a-plan",
            "work.finish.keeps-the-reason",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "overview.ended-slots",
            "pausing.enqueue.taken-up-slots-are-skipped",
            "pausing.enqueue.window-of-the-new-job",
            "resuming.begins-a-new-epoch",
        ),
    ),
    Wrong(
        "forgets the reason",
        {
            "reason=slot.job.reason if finish.reason is None else readable(finish.reason)": "reason=readable(finish.reason)"
        },
        fails=(
            "work.finish.saves-everything",
            "work.finish.keeps-the-reason",
        ),
    ),
    Wrong(
        "keeps the reason for good",
        {"reason=slot.job.reason if finish.reason is None else readable(finish.reason)": "reason=slot.job.reason"},
        fails=(
            "work.finish.keeps-the-reason",
            "values.errors.readable",
        ),
    ),
    Wrong(
        "keeps the lease of what has ended",
        {
            "        slot.until = None\n        slot.job = evolve(\n            slot.job,\n            status=finish.status": "        slot.job = evolve(\n            slot.job,\n            status=finish.status"
        },
        fails=(
            "work.brief.regenerated-replaces",
            "ledger.change.regenerating-keeps-the-window",
            "pausing.change.waits-for-the-end",
            "prune.latest-brief-of-a-failure-stays",
            "resuming.begins-a-new-epoch",
        ),
    ),
    Wrong(
        "keeps the first brief of a slot",
        {
            "self._briefs.setdefault((brief.type, brief.user_id), {})[brief.occurrence.local_date] = brief": "self._briefs.setdefault((brief.type, brief.user_id), {}).setdefault(brief.occurrence.local_date, brief)"
        },
        fails=("work.brief.regenerated-replaces",),
    ),
    Wrong(
        "gives the brief that was saved last for the latest",
        {
            "return max(self._briefs.get((kind, user_id), {}).values(), key=_place, default=None)": "return next(reversed(self._briefs.get((kind, user_id), {}).values()), None)"
        },
        fails=("work.brief.by-date-or-latest",),
    ),
    Wrong(
        "gives a brief of another date",
        {
            "return self._briefs.get((type, user_id), {}).get(on)": "return self._briefs.get((type, user_id), {}).get(on) or self._last_brief(type, user_id)"
        },
        fails=(
            "work.brief.by-date-or-latest",
            "prune.briefs-go-too",
            "prune.last-brief-goes-once-replaced",
        ),
    ),
]

CARRYING = [
    Wrong(
        "carries nothing",
        {"            self._follow(job, follow_up.payload)": "            pass"},
        fails=(
            "cancelling.finish.whole-or-not-at-all",
            "demand.resend.renews-any-follow-up",
            "demand.resend.claims-are-lost",
            "work.finish.saves-everything",
            "work.follow-up.renews-as-the-table-says",
            "ledger.forget.erases-all-of-one-user",
            "pausing.pause.follow-ups-wait",
        ),
    ),
    Wrong(
        "carries no payload",
        {"        self._payloads[job.dedup_key] = payload\n": ""},
        fails=(
            "demand.resend.renews-any-follow-up",
            "work.finish.saves-everything",
            "work.follow-up.renews-as-the-table-says",
            "ledger.forget.erases-all-of-one-user",
            "pausing.pause.follow-ups-wait",
        ),
    ),
    Wrong(
        "keeps the first payload",
        {"self._payloads[job.dedup_key] = payload": "self._payloads.setdefault(job.dedup_key, payload)"},
        fails=("work.follow-up.renews-as-the-table-says",),
    ),
    Wrong(
        "carries a new payload to an old job",
        {"        else:\n            return\n        self._payloads": "        self._payloads"},
        fails=("work.follow-up.renews-as-the-table-says",),
    ),
    Wrong(
        "renews no follow-up",
        {"elif slot.job.status in RENEWABLE or job.demand is Demand.RESEND:": "elif False:"},
        fails=(
            "demand.resend.renews-any-follow-up",
            "demand.resend.claims-are-lost",
            "work.follow-up.renews-as-the-table-says",
        ),
    ),
    Wrong(
        "renews follow-ups that are out",
        {"elif slot.job.status in RENEWABLE or job.demand is Demand.RESEND:": "elif True:"},
        fails=(
            "demand.run.renews-no-ended-follow-up",
            "work.follow-up.renews-as-the-table-says",
        ),
    ),
    Wrong(
        "sends nothing again",
        {"elif slot.job.status in RENEWABLE or job.demand is Demand.RESEND:": "elif slot.job.status in RENEWABLE:"},
        fails=(
            "demand.resend.renews-any-follow-up",
            "demand.resend.claims-are-lost",
        ),
    ),
    Wrong(
        "sends again whatever is demanded",
        {
            "elif slot.job.status in RENEWABLE or job.demand is Demand.RESEND:": "elif slot.job.status in RENEWABLE or job.demand:"
        },
        fails=("demand.run.renews-no-ended-follow-up",),
    ),
    Wrong(
        "renews follow-ups in their old epoch",
        {
            "RESEND:\n            self._replace(slot, job)": "RESEND:\n            self._replace(slot, evolve(job, epoch=slot.job.epoch))"
        },
        fails=(
            "demand.resend.renews-any-follow-up",
            "work.follow-up.renews-as-the-table-says",
        ),
    ),
    Wrong(
        "leaves the claim on what is sent again",
        {
            "RESEND:\n            self._replace(slot, job)": "RESEND:\n            held = slot.job.status is JobStatus.PROCESSING\n            self._replace(slot, job)\n            slot.token -= held"
        },
        fails=("demand.resend.claims-are-lost",),
    ),
]

PUTTING_BACK = [
    Wrong(
        "tries again at once",
        {"            run_at=at,\n": ""},
        fails=(
            "work.retry.puts-back",
            "work.retry.uncounted-takes-attempt-back",
        ),
    ),
    Wrong(
        "forgets the error of an attempt",
        {"            error=readable(error),\n": ""},
        fails=(
            "work.retry.puts-back",
            "work.retry.uncounted-takes-attempt-back",
            "values.errors.readable",
        ),
    ),
    Wrong(
        "cuts errors short",
        {"            error=readable(error),\n": "            error=readable(error)[:1000],\n"},
        fails=("work.retry.puts-back",),
    ),
    Wrong(
        "keeps progress across retries",
        {"            attempts=attempts,\n            progress=None,\n": "            attempts=attempts,\n"},
        fails=("work.retry.puts-back",),
    ),
    Wrong(
        "forgets the demand with the first attempt",
        {
            "            attempts=attempts,\n            progress=None,\n": "            attempts=attempts,\n            demand=None,\n            progress=None,\n"
        },
        fails=("demand.stays-through-attempts",),
    ),
    Wrong(
        "counts what is not to be counted",
        {"attempts = slot.job.attempts - (not counted)": "attempts = slot.job.attempts"},
        fails=("work.retry.uncounted-takes-attempt-back",),
    ),
    Wrong(
        "counts no failed attempt",
        {"attempts = slot.job.attempts - (not counted)": "attempts = slot.job.attempts - 1"},
        fails=(
            "work.retry.puts-back",
            "work.retry.uncounted-takes-attempt-back",
        ),
    ),
    Wrong(
        "keeps the lease of what is tried again",
        {"        slot.until = None\n        attempts": "        attempts"},
        fails=(
            "work.window.stays-fixed",
            "demand.stays-through-attempts",
            "work.retry.puts-back",
            "work.retry.uncounted-takes-attempt-back",
            "resuming.begins-a-new-epoch",
            "values.errors.readable",
        ),
    ),
    Wrong(
        "counts an attempt that was let go",
        {
            "attempts=slot.job.attempts - 1, progress=None)\n\n    async def brief": "progress=None)\n\n    async def brief"
        },
        fails=("work.release.as-though-never-claimed",),
    ),
    Wrong(
        "keeps the progress of what was let go",
        {
            "attempts=slot.job.attempts - 1, progress=None)\n\n    async def brief": "attempts=slot.job.attempts - 1)\n\n    async def brief"
        },
        fails=("work.release.as-though-never-claimed",),
    ),
    Wrong(
        "takes the token back with the job",
        {
            "                slot.until = None\n                slot.job = evolve(slot.job, status=JobStatus.PENDING": "                slot.until, slot.token = None, slot.token - 1\n                slot.job = evolve(slot.job, status=JobStatus.PENDING"
        },
        fails=("work.release.as-though-never-claimed",),
    ),
    Wrong(
        "lets go of what somebody else holds",
        {
            "for slot in map(self._held, claims):": "for slot in (self._slots.get(claim.job.dedup_key) for claim in claims):"
        },
        fails=(
            "demand.resend.claims-are-lost",
            "work.stale-token.changes-nothing",
            "work.ended-claim.changes-nothing",
        ),
    ),
    Wrong(
        "raises on a lost claim",
        {
            "        holds = slot is not None and": "        if slot is None or slot.token != claim.token:\n            raise KeyError(claim.job.dedup_key)\n        holds = slot is not None and"
        },
        fails=(
            "demand.resend.claims-are-lost",
            "work.heartbeat.names-lost-claims",
            "work.stale-token.changes-nothing",
            "ledger.forget.claims-are-lost",
            "ledger.forget.tokens-never-return",
            "opening.closed-says-so",
            "prune.tokens-never-return",
        ),
    ),
]

WORK = [*BEATING, *ENDING, *CARRYING, *PUTTING_BACK]
