"""Wrong claims, and wrong windows."""

from __future__ import annotations

from wrong import Wrong

DUE = "due = [slot for slot in asked if (slot.job.run_at <= due_by if slot.until is None else slot.until <= now)]"

HELD = "end > now and slot.job.run_at <= due_by]"

CLAIMING = [
    Wrong(
        "claims what is not due yet",
        {DUE: DUE.replace("slot.job.run_at <= due_by", "True")},
        fails=(
            "work.claim.due-from-run-at-on",
            "work.claim.key-looks-at-one-slot",
            "work.retry.puts-back",
            "opening.reading-changes-nothing",
        ),
    ),
    Wrong(
        "claims only what was due before",
        {DUE: DUE.replace("slot.job.run_at <= due_by", "slot.job.run_at < due_by")},
        fails=(
            "work.claim.due-from-run-at-on",
            "work.claim.leases-run-by-now",
            "work.retry.puts-back",
        ),
    ),
    Wrong(
        "claims the latest first",
        {"due.sort(key=lambda slot: slot.job.run_at)": "due.sort(key=lambda slot: slot.job.run_at, reverse=True)"},
        fails=(
            "work.claim.longest-due-first",
            "work.claim.one-order-over-types",
        ),
    ),
    Wrong(
        "claims in no order",
        {"due.sort(key=lambda slot: slot.job.run_at)": "pass"},
        fails=(
            "work.claim.longest-due-first",
            "work.claim.one-order-over-types",
        ),
    ),
    Wrong(
        "claims one type after the other",
        {"due.sort(key=lambda slot: slot.job.run_at)": "due.sort(key=lambda slot: (slot.job.type, slot.job.run_at))"},
        fails=("work.claim.one-order-over-types",),
    ),
    Wrong(
        "claims expired jobs last",
        {
            "due.sort(key=lambda slot: slot.job.run_at)": (
                "due.sort(key=lambda slot: (slot.until is not None, slot.job.run_at))"
            )
        },
        fails=("work.claim.one-order-over-types",),
    ),
    Wrong(
        "claims one more than the limit",
        {"filterfalse(self._waits, due), limit)": "filterfalse(self._waits, due), limit + 1)"},
        fails=(
            "work.claim.longest-due-first",
            "work.claim.one-order-over-types",
        ),
    ),
    Wrong(
        "claims nothing where the limit is nothing",
        {"        check_limit(limit)\n        due_by, now": "        limit = max(0, limit)\n        due_by, now"},
        fails=("work.claim.limit-below-one-refused",),
    ),
    Wrong(
        "claims jobs of any type",
        {
            "open_types = set(types) - self._paused.keys()": (
                "open_types = {slot.job.type for slot in self._slots.values()} - self._paused.keys()"
            )
        },
        fails=(
            "work.claim.only-types-asked-for",
            "work.claim.key-looks-at-one-slot",
            "work.claim.held-until",
            "ledger.forget.erases-all-of-one-user",
            "pausing.pause.what-is-held-goes-on",
        ),
    ),
    Wrong(
        "looks beyond the key",
        {
            "self._slots.values() if keys is None else filter(None, map(self._slots.get, dict.fromkeys(keys)))": (
                "self._slots.values() if keys else ()"
            )
        },
        fails=(
            "at-once.claim.never-the-same-job",
            "cancelling.no-wrong-answer",
            "work.claim.processing-with-a-lease",
            "work.claim.due-from-run-at-on",
            "work.claim.longest-due-first",
            "work.claim.one-order-over-types",
            "work.claim.only-types-asked-for",
            "work.claim.key-looks-at-one-slot",
            "work.claim.keys-look-at-those-slots",
            "work.claim.expired-leases-are-taken-over",
            "work.claim.leases-run-by-now",
            "work.claim.held-until",
            "work.claim.waits-for-earlier-slots",
            "work.claim.others-hold-nobody-up",
            "work.claim.equals-do-not-wait",
            "work.claim.one-slot-of-a-user",
            "work.claim.expired-jobs-wait-too",
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.names-lost-claims",
            "work.finish.saves-everything",
            "work.follow-up.renews-as-the-table-says",
            "work.retry.puts-back",
            "work.release.as-though-never-claimed",
            "ledger.enqueue.takes-up-what-may-be",
            "ledger.last-briefs.live-and-completed",
            "ledger.forget.erases-all-of-one-user",
            "opening.content-stays",
            "opening.many-tasks-open-and-close",
            "overview.held-slots",
            "overview.oldest",
            "overview.each-type-for-itself",
            "select.each-slot-once",
            "select.only-what-is-asked-for",
            "pausing.pause.nobody-claims",
            "pausing.pause.nor-expired-leases",
            "pausing.pause.what-is-held-goes-on",
            "pausing.pause.changes-no-slot",
            "pausing.change.waits-for-the-end",
            "preferences.remove.only-those",
            "resuming.ends-the-pause-once",
            "resuming.late-slots-are-cancelled",
        ),
    ),
    Wrong(
        "looks at the first of many keys",
        {"map(self._slots.get, dict.fromkeys(keys))": "map(self._slots.get, [*keys][:1])"},
        fails=("work.claim.keys-look-at-those-slots",),
    ),
    Wrong(
        "claims twice what is asked for twice",
        {"map(self._slots.get, dict.fromkeys(keys))": "map(self._slots.get, keys)"},
        fails=("work.claim.keys-look-at-those-slots",),
    ),
    Wrong(
        "claims by a key whatever the type",
        {
            "for slot in self._asked(keys) if slot.job.type in open_types]": (
                "for slot in self._asked(keys) if keys or slot.job.type in open_types]"
            )
        },
        fails=(
            "work.claim.key-looks-at-one-slot",
            "pausing.pause.nor-by-key",
            "pausing.pause.nor-expired-leases",
        ),
    ),
    Wrong(
        "claims by a key what is not due",
        {DUE: DUE.replace("slot.job.run_at <= due_by", "keys or slot.job.run_at <= due_by")},
        fails=("work.claim.key-looks-at-one-slot",),
    ),
    Wrong(
        "claims what has ended",
        {"return (slot for slot in slots if slot.job.status in LIVE)": "return slots"},
        fails=(
            "work.claim.ended-jobs-are-not",
            "work.claim.one-slot-of-a-user",
            "resuming.late-slots-are-cancelled",
        ),
    ),
    Wrong(
        "never takes over",
        {DUE: DUE.replace("else slot.until <= now", "else False")},
        fails=(
            "work.claim.one-order-over-types",
            "work.claim.expired-leases-are-taken-over",
            "work.window.stays-fixed",
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.names-lost-claims",
            "work.follow-up.renews-as-the-table-says",
            "work.stale-token.changes-nothing",
            "work.release.as-though-never-claimed",
            "pausing.pause.nor-expired-leases",
            "prune.tokens-never-return",
        ),
    ),
    Wrong(
        "takes over at any time",
        {DUE: DUE.replace("else slot.until <= now", "else True")},
        fails=(
            "at-once.claim.never-the-same-job",
            "at-once.claim.one-wins",
            "cancelling.no-wrong-answer",
            "work.claim.due-from-run-at-on",
            "work.claim.longest-due-first",
            "work.claim.expired-leases-are-taken-over",
            "work.claim.leases-run-by-now",
            "work.claim.held-until",
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.late-but-not-lost",
        ),
    ),
    Wrong(
        "takes over a moment late",
        {DUE: DUE.replace("else slot.until <= now", "else slot.until < now")},
        fails=(
            "work.claim.one-order-over-types",
            "work.claim.expired-leases-are-taken-over",
            "work.heartbeat.moves-lease-records-progress",
        ),
    ),
    Wrong(
        "lets leases end by the schedule",
        {DUE: DUE.replace("else slot.until <= now", "else slot.until <= due_by")},
        fails=(
            "at-once.claim.never-the-same-job",
            "at-once.claim.one-wins",
            "cancelling.no-wrong-answer",
            "work.claim.longest-due-first",
            "work.claim.expired-leases-are-taken-over",
            "work.claim.leases-run-by-now",
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.late-but-not-lost",
        ),
    ),
    Wrong(
        "lets leases begin by the schedule",
        {"until = now + lease": "until = due_by + lease"},
        fails=(
            "work.claim.processing-with-a-lease",
            "work.claim.one-order-over-types",
            "work.claim.expired-leases-are-taken-over",
            "work.claim.leases-run-by-now",
            "work.claim.held-until",
            "work.window.stays-fixed",
            "work.heartbeat.names-lost-claims",
            "work.follow-up.renews-as-the-table-says",
            "work.stale-token.changes-nothing",
            "work.release.as-though-never-claimed",
            "overview.held-slots",
            "overview.oldest",
            "pausing.pause.nor-expired-leases",
            "prune.tokens-never-return",
        ),
    ),
    Wrong(
        "gives the same token again",
        {
            "slot.token, slot.until, slot.window_fixed = slot.token + 1,": "slot.token, slot.until, slot.window_fixed = slot.token or 1,"
        },
        fails=(
            "work.claim.expired-leases-are-taken-over",
            "demand.resend.claims-are-lost",
            "work.heartbeat.names-lost-claims",
            "work.stale-token.changes-nothing",
            "work.retry.puts-back",
            "work.release.as-though-never-claimed",
            "ledger.forget.tokens-never-return",
            "prune.tokens-never-return",
            "resuming.begins-a-new-epoch",
        ),
    ),
    Wrong(
        "counts no attempt for a lease that ended",
        {"attempts=job.attempts + 1, window": "attempts=job.attempts + (slot.until is None), window"},
        fails=("work.claim.expired-leases-are-taken-over",),
    ),
    Wrong(
        "counts no attempt at all",
        {"attempts=job.attempts + 1, window": "attempts=job.attempts, window"},
        fails=(
            "cancelling.no-wrong-answer",
            "work.claim.processing-with-a-lease",
            "work.claim.expired-leases-are-taken-over",
            "work.finish.saves-everything",
            "work.retry.puts-back",
            "work.release.as-though-never-claimed",
            "work.retry.uncounted-takes-attempt-back",
            "resuming.begins-a-new-epoch",
        ),
    ),
    Wrong(
        "checks then claims",
        {"        # Choose all": "        free = tuple(free)\n        await checkpoint()\n        # Choose all"},
        fails=(
            "at-once.claim.never-the-same-job",
            "at-once.claim.one-wins",
        ),
    ),
    Wrong(
        "tells no lease to wait for",
        {"min(held, default=None))": "None)"},
        fails=(
            "work.claim.held-until",
            "work.heartbeat.moves-lease-records-progress",
            "work.heartbeat.names-lost-claims",
        ),
    ),
    Wrong(
        "tells the last lease to wait for",
        {"min(held, default=None))": "max(held, default=None))"},
        fails=(
            "work.claim.held-until",
            "work.heartbeat.names-lost-claims",
        ),
    ),
    Wrong("waits for leases of what is not due", {HELD: "end > now]"}, fails=("work.claim.held-until",)),
    Wrong(
        "waits for leases of any type",
        {"        held = [end for slot in asked": "        held = [end for slot in self._asked(keys)"},
        fails=(
            "work.claim.held-until",
            "pausing.pause.no-lease-to-wait-for",
        ),
    ),
    Wrong(
        "waits for leases of other slots",
        {
            "        held = [end for slot in asked": (
                "        held = [end for slot in self._asked(None) if slot.job.type in open_types"
            )
        },
        fails=("work.claim.held-until",),
    ),
    Wrong("waits for leases that have ended", {HELD: "slot.job.run_at <= due_by]"}, fails=("work.claim.held-until",)),
    Wrong(
        "lets nobody wait",
        {"filterfalse(self._waits, due)": "due"},
        fails=(
            "work.claim.waits-for-earlier-slots",
            "work.claim.one-slot-of-a-user",
            "work.claim.expired-jobs-wait-too",
        ),
    ),
    Wrong(
        "waits for pending slots only",
        {"any(peer.job.status in LIVE and": "any(peer.job.status is JobStatus.PENDING and"},
        fails=("work.claim.waits-for-earlier-slots",),
    ),
    Wrong(
        "waits for held slots only",
        {"any(peer.job.status in LIVE and": "any(peer.job.status is JobStatus.PROCESSING and"},
        fails=(
            "work.claim.waits-for-earlier-slots",
            "work.claim.one-slot-of-a-user",
            "work.claim.expired-jobs-wait-too",
        ),
    ),
    Wrong(
        "waits for slots that failed",
        {"any(peer.job.status in LIVE and": "any(peer.job.status in (*LIVE, JobStatus.FAILED) and"},
        fails=(
            "work.claim.waits-for-earlier-slots",
            "work.claim.expired-jobs-wait-too",
            "overview.ended-slots",
            "prune.payloads-go-too",
        ),
    ),
    Wrong(
        "waits for all other slots",
        {"peer.job.occurrence.deliver_at < at for": "peer is not slot for"},
        fails=(
            "work.claim.others-hold-nobody-up",
            "work.claim.equals-do-not-wait",
            "work.claim.one-slot-of-a-user",
            "work.claim.expired-jobs-wait-too",
            "work.window.stays-fixed",
            "work.follow-up.renews-as-the-table-says",
            "ledger.forget.erases-all-of-one-user",
        ),
    ),
    Wrong(
        "waits for slots of other types",
        {
            "        peers = self._owners[slot.job.user_id, slot.job.type]\n": (
                "        peers = [peer for peer in self._slots.values() if peer.job.user_id == slot.job.user_id]\n"
            )
        },
        fails=(
            "work.claim.others-hold-nobody-up",
            "work.follow-up.renews-as-the-table-says",
        ),
    ),
    Wrong(
        "waits for other users",
        {
            "        peers = self._owners[slot.job.user_id, slot.job.type]\n": (
                "        peers = [peer for peer in self._slots.values() if peer.job.type == slot.job.type]\n"
            )
        },
        fails=("work.claim.others-hold-nobody-up",),
    ),
    Wrong(
        "lets expired jobs not wait",
        {"return any(peer.job.status in LIVE": "return slot.until is None and any(peer.job.status in LIVE"},
        fails=("work.claim.expired-jobs-wait-too",),
    ),
]

WINDOWS = [
    Wrong(
        "covers what was covered",
        {"window = job.window if slot.window_fixed else self._window(job)": "window = job.window"},
        fails=(
            "work.claim.equals-do-not-wait",
            "work.window.starts-where-the-last-brief-ended",
            "work.window.never-beyond-its-end",
            "prune.last-brief-stays",
        ),
    ),
    Wrong(
        "lets a window start beyond its end",
        {"start=min(saved.window.end, job.window.end))": "start=saved.window.end)"},
        fails=("work.window.never-beyond-its-end",),
    ),
    Wrong(
        "looks for the window at each claim",
        {"window = job.window if slot.window_fixed else self._window(job)": "window = self._window(job)"},
        fails=(
            "work.window.stays-fixed",
            "ledger.take-up.keeps-start-of-saved-brief",
            "ledger.change.regenerating-keeps-the-window",
        ),
    ),
    Wrong(
        "lets a window start where the first brief ended",
        {
            "saved = self._last_brief(job.type, job.user_id)\n        return": (
                "saved = min(self._briefs.get((job.type, job.user_id), {}).values(), key=_place, default=None)\n        return"
            )
        },
        fails=("work.window.starts-where-the-last-brief-ended",),
    ),
    Wrong(
        "lets a window start where a brief of another type ended",
        {
            "saved = self._last_brief(job.type, job.user_id)\n        return": (
                'saved = self._last_brief("daily", job.user_id)\n        return'
            )
        },
        fails=(
            "work.window.starts-where-the-last-brief-ended",
            "work.finish.saves-everything",
        ),
    ),
    Wrong(
        "fixes no window in the slot",
        {
            "status=JobStatus.PROCESSING, attempts=job.attempts + 1, window=window)": (
                "status=JobStatus.PROCESSING, attempts=job.attempts + 1)\n        job = evolve(job, window=window)"
            )
        },
        fails=("work.window.starts-where-the-last-brief-ended",),
    ),
]

CLAIMS = [*CLAIMING, *WINDOWS]
