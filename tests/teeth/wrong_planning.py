"""Wrong ways to enqueue."""

from __future__ import annotations

from wrong import Wrong

PLANNING = [
    Wrong(
        "begins every new slot from nothing",
        {
            "        if slot is None:\n            self._create(job)\n        elif outcome is not": (
                "        if slot is None:\n            self._create(evolve(job, epoch=1, attempts=0, progress=None))\n"
                "        elif outcome is not"
            )
        },
        fails=("ledger.enqueue.reads-back-as-given", "pausing.enqueue.new-slots-are-skipped"),
    ),
    Wrong(
        "checks then inserts",
        {
            "job.dedup_key in seen else self._plan(job))": "job.dedup_key in seen else await self._plan(job))",
            "    def _plan(self": "    async def _plan(self",
            "        slot = self._slots.get(job.dedup_key)\n        outcome": (
                "        slot = self._slots.get(job.dedup_key)\n        await checkpoint()\n        outcome"
            ),
        },
        fails=("at-once.planners.one-slot-each",),
    ),
    Wrong(
        "stores some of a batch before it refuses the rest",
        {
            "        for job in jobs:\n            check_new(job)\n": "",
            "        fresh = [normal(job) for job in jobs]\n": "",
            "        for job in fresh:\n": "        for job in map(normal, jobs):\n            check_new(job)\n",
        },
        fails=("ledger.enqueue.refuses-other-states",),
    ),
    Wrong(
        "answers in the order of the keys",
        {"        for job in fresh:\n": "        for job in sorted(fresh, key=lambda job: job.dedup_key):\n"},
        fails=("ledger.enqueue.outcomes-in-order",),
    ),
    Wrong(
        "lets the last of equal keys count",
        {"        for job in fresh:\n": "        for job in {job.dedup_key: job for job in fresh}.values():\n"},
        fails=(
            "ledger.enqueue.outcomes-in-order",
            "ledger.enqueue.first-of-equal-keys-counts",
            "pausing.enqueue.others-are-duplicates",
        ),
    ),
    Wrong(
        "raises on conflicts",
        {
            "        if slot is None:\n            self._create(job)\n        elif outcome is not": (
                "        if slot is None:\n            self._create(job)\n        elif outcome is Enqueued.DUPLICATE:\n"
                "            raise ValueError(job.dedup_key)\n        elif outcome is not"
            )
        },
        fails=(
            "at-once.planners.one-slot-each",
            "at-once.planners.one-takes-up",
            "cancelling.enqueue.old-or-new",
            "demand.takes-up-what-nobody-holds",
            "demand.skipped-takes-up-nothing",
            "ledger.enqueue.outcomes-in-order",
            "ledger.enqueue.takes-up-what-may-be",
            "opening.closed-says-so",
            "opening.many-tasks-open-and-close",
            "pausing.enqueue.others-are-duplicates",
        ),
    ),
    Wrong(
        "forgets finished slots",
        {
            "        if brief is not None:\n            self._briefs": (
                "        self._slots.pop(slot.job.dedup_key)\n"
                "        self._owners[slot.job.user_id, slot.job.type].remove(slot)\n"
                "        if brief is not None:\n            self._briefs"
            )
        },
        fails=(
            "work.brief.regenerated-replaces",
            "cancelling.finish.whole-or-not-at-all",
            "work.claim.expired-jobs-wait-too",
            "demand.stays-through-attempts",
            "demand.set-by-changes",
            "demand.takes-up-what-nobody-holds",
            "demand.skipped-takes-up-nothing",
            "demand.ended-by-a-plan",
            "demand.resend.renews-any-follow-up",
            "demand.run.renews-no-ended-follow-up",
            "work.finish.saves-everything",
            "work.finish.keeps-the-reason",
            "work.follow-up.renews-as-the-table-says",
            "work.ended-claim.changes-nothing",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.keeps-start-of-saved-brief",
            "ledger.last-briefs.live-and-completed",
            "ledger.change.as-the-table-says",
            "ledger.change.regenerating-keeps-the-window",
            "ledger.forget.erases-all-of-one-user",
            "overview.ended-slots",
            "overview.troubles-by-frequency",
            "overview.at-most-twenty-troubles",
            "overview.each-type-for-itself",
            "select.each-slot-once",
            "select.only-what-is-asked-for",
            "select.leavers-hide-no-others",
            "pausing.pause.what-is-held-goes-on",
            "pausing.enqueue.taken-up-slots-are-skipped",
            "pausing.enqueue.demanded-is-queued",
            "pausing.enqueue.others-are-duplicates",
            "pausing.change.waits-for-the-end",
            "prune.latest-stays",
            "prune.live-slots-stay",
            "prune.no-more-than-the-limit",
            "prune.each-type-for-itself",
            "prune.of-equals-one-stays",
            "prune.briefs-go-too",
            "prune.last-brief-stays",
            "prune.last-brief-goes-once-replaced",
            "prune.latest-brief-of-a-failure-stays",
            "prune.payloads-go-too",
            "prune.tokens-never-return",
            "resuming.begins-a-new-epoch",
            "values.nothing-is-shared",
            "values.errors.readable",
        ),
    ),
    Wrong(
        "takes up whatever has ended",
        {
            "(slot.job.status, slot.job.code), paused": (
                "(JobStatus.SKIPPED if slot.job.status in ENDED else slot.job.status, slot.job.code), paused"
            )
        },
        fails=(
            "ledger.enqueue.takes-up-what-may-be",
            "pausing.enqueue.others-are-duplicates",
        ),
    ),
    Wrong(
        "takes up nothing by itself",
        {"(slot.job.status, slot.job.code), paused": "(JobStatus.PENDING, None), paused"},
        fails=(
            "at-once.planners.one-takes-up",
            "demand.takes-up-what-nobody-holds",
            "demand.ended-by-a-plan",
            "ledger.enqueue.outcomes-in-order",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.new-window-if-unclaimed",
            "pausing.enqueue.taken-up-slots-are-skipped",
            "pausing.enqueue.window-of-the-new-job",
        ),
    ),
    Wrong(
        "takes up what was withdrawn",
        {
            "(slot.job.status, slot.job.code), paused": (
                "(slot.job.status, SkipReason.PAUSED if slot.job.status in PAUSED else None), paused"
            )
        },
        fails=(
            "ledger.enqueue.takes-up-what-may-be",
            "pausing.enqueue.others-are-duplicates",
        ),
    ),
    Wrong(
        "lets skipped jobs take up slots",
        {
            "        if outcome is Enqueued.PAUSED:\n": (
                "        if job.status is JobStatus.SKIPPED and slot and slot.job.can_be_taken_up:\n"
                "            outcome = Enqueued.TAKEN_UP\n"
                "        if outcome is Enqueued.PAUSED:\n"
            )
        },
        fails=("ledger.enqueue.takes-up-what-may-be",),
    ),
    Wrong(
        "lets a demand replace what is held",
        {
            "(slot.job.status, slot.job.code), paused": (
                "(JobStatus.FAILED if job.demand else slot.job.status, slot.job.code), paused"
            )
        },
        fails=("demand.takes-up-what-nobody-holds",),
    ),
    Wrong(
        "takes demands for wishes of the schedule",
        {
            "        outcome = enqueued(\n            job,": (
                "        outcome = enqueued(\n            evolve(job, demand=None),"
            )
        },
        fails=(
            "demand.takes-up-what-nobody-holds",
            "ledger.take-up.keeps-start-of-saved-brief",
            "pausing.enqueue.demanded-is-queued",
        ),
    ),
    Wrong(
        "lets skipped jobs take up slots on demand",
        {
            "        if outcome is Enqueued.PAUSED:\n": (
                "        if job.status is JobStatus.SKIPPED and job.demand:\n"
                "            outcome = Enqueued.TAKEN_UP\n"
                "        if outcome is Enqueued.PAUSED:\n"
            )
        },
        fails=("demand.skipped-takes-up-nothing",),
    ),
    Wrong(
        "does not raise the epoch of a slot that it takes up",
        {"epoch=slot.job.epoch + (outcome is Enqueued.TAKEN_UP)": "epoch=slot.job.epoch"},
        fails=(
            "at-once.planners.one-takes-up",
            "demand.takes-up-what-nobody-holds",
            "demand.ended-by-a-plan",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.keeps-start-of-saved-brief",
            "ledger.take-up.new-window-if-unclaimed",
            "pausing.enqueue.demanded-is-queued",
        ),
    ),
    Wrong(
        "raises the epoch of a slot that it skips",
        {"epoch=slot.job.epoch + (outcome is Enqueued.TAKEN_UP)": "epoch=slot.job.epoch + 1"},
        fails=("pausing.enqueue.taken-up-slots-are-skipped",),
    ),
    Wrong(
        "takes the epoch of the new job",
        {"evolve(job, epoch=slot.job.epoch + (outcome is Enqueued.TAKEN_UP))": "evolve(job, epoch=job.epoch)"},
        fails=(
            "at-once.planners.one-takes-up",
            "demand.takes-up-what-nobody-holds",
            "demand.ended-by-a-plan",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.keeps-start-of-saved-brief",
            "ledger.take-up.new-window-if-unclaimed",
            "pausing.enqueue.demanded-is-queued",
        ),
    ),
    Wrong(
        "keeps the attempts of the epoch before",
        {"        slot.job = evolve(job, attempts=0,": "        slot.job = evolve(job, attempts=slot.job.attempts,"},
        fails=(
            "demand.takes-up-what-nobody-holds",
            "demand.ended-by-a-plan",
            "demand.resend.renews-any-follow-up",
            "work.follow-up.renews-as-the-table-says",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.keeps-start-of-saved-brief",
            "pausing.enqueue.taken-up-slots-are-skipped",
            "pausing.enqueue.demanded-is-queued",
        ),
    ),
    Wrong(
        "takes the attempts of the new job",
        {"        slot.job = evolve(job, attempts=0,": "        slot.job = evolve(job,"},
        fails=(
            "demand.resend.renews-any-follow-up",
            "work.follow-up.renews-as-the-table-says",
            "ledger.take-up.new-window-if-unclaimed",
        ),
    ),
    Wrong(
        "keeps the progress of the epoch before",
        {"attempts=0, progress=None, window=Window(": "attempts=0, progress=slot.job.progress, window=Window("},
        fails=("demand.resend.renews-any-follow-up",),
    ),
    Wrong(
        "keeps the lease of the epoch before",
        {"end=job.window.end))\n        slot.until = None\n": "end=job.window.end))\n"},
        fails=(
            "demand.resend.renews-any-follow-up",
            "demand.resend.claims-are-lost",
        ),
    ),
    Wrong(
        "keeps the demand for good",
        {
            "            self._replace(slot, evolve(job, epoch=": (
                "            self._replace(slot, evolve(job, demand=job.demand or slot.job.demand, epoch="
            )
        },
        fails=("demand.ended-by-a-plan",),
    ),
    Wrong(
        "keeps the window of the epoch before",
        {
            "        start = slot.job.window.start if slot.window_fixed else job.window.start\n": (
                "        start = slot.job.window.start\n"
            )
        },
        fails=(
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.new-window-if-unclaimed",
            "pausing.enqueue.window-of-the-new-job",
        ),
    ),
    Wrong(
        "keeps a fixed window though no brief was saved",
        {"slot.window_fixed = slot.window_fixed and job.occurrence.local_date in saved": "saved"},
        fails=(
            "ledger.take-up.new-window-without-brief",
            "pausing.enqueue.window-of-the-new-job",
        ),
    ),
    Wrong(
        "forgets the window that a brief was saved from",
        {
            "slot.window_fixed = slot.window_fixed and job.occurrence.local_date in saved": (
                "slot.window_fixed = saved is None"
            )
        },
        fails=("ledger.take-up.keeps-start-of-saved-brief",),
    ),
    Wrong(
        "fixes the window of every slot that it takes up",
        {"slot.window_fixed = slot.window_fixed and job.occurrence.local_date in saved": "slot.window_fixed = True"},
        fails=(
            "ledger.take-up.new-window-without-brief",
            "ledger.take-up.new-window-if-unclaimed",
            "pausing.enqueue.window-of-the-new-job",
        ),
    ),
]
