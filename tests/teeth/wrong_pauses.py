"""Wrong pauses."""

from __future__ import annotations

from wrong import Wrong

OPEN = "open_types = set(types) - self._paused.keys()"

IN_TYPES = "asked = [slot for slot in self._asked(keys) if slot.job.type in open_types]"

PAUSED = "if outcome is Enqueued.PAUSED:\n"

PAUSING = [
    Wrong(
        "ignores pauses when it claims",
        {OPEN: "open_types = set(types)"},
        fails=(
            "pausing.pause.nobody-claims",
            "pausing.pause.nor-by-key",
            "pausing.pause.nor-expired-leases",
            "pausing.pause.no-lease-to-wait-for",
            "pausing.pause.what-is-held-goes-on",
            "pausing.pause.follow-ups-wait",
            "pausing.enqueue.demanded-is-queued",
            "pausing.change.waits-for-the-end",
        ),
    ),
    Wrong(
        "claims nothing while anything is paused",
        {OPEN: "open_types = set() if self._paused else set(types)"},
        fails=(
            "cancelling.no-wrong-answer",
            "pausing.pause.nobody-claims",
            "pausing.pause.nor-by-key",
            "pausing.pause.nor-expired-leases",
            "pausing.pause.follow-ups-wait",
        ),
    ),
    Wrong(
        "claims by key what is paused",
        {OPEN: "open_types = set(types) - (set() if keys else self._paused.keys())"},
        fails=("pausing.pause.nor-by-key", "pausing.pause.nor-expired-leases"),
    ),
    Wrong(
        "takes over what is paused",
        {
            IN_TYPES: "asked = [slot for slot in self._asked(keys) if slot.job.type in (types if slot.until else open_types)]"
        },
        fails=("pausing.pause.nor-expired-leases", "pausing.pause.no-lease-to-wait-for"),
    ),
    Wrong(
        "waits for leases of what is paused",
        {
            "        held = [end for slot in asked": "        held = [end for slot in self._asked(keys) if slot.job.type in types"
        },
        fails=("pausing.pause.no-lease-to-wait-for",),
    ),
    Wrong(
        "ignores pauses when it enqueues",
        {"paused=job.type in self._paused": "paused=False"},
        fails=(
            "pausing.enqueue.new-slots-are-skipped",
            "pausing.enqueue.taken-up-slots-are-skipped",
            "pausing.enqueue.others-are-duplicates",
            "resuming.timely-slots-become-pending",
        ),
    ),
    Wrong(
        "skips every type while one is paused",
        {"paused=job.type in self._paused": "paused=bool(self._paused)"},
        fails=("cancelling.no-wrong-answer", "pausing.pause.follow-ups-wait", "pausing.enqueue.new-slots-are-skipped"),
    ),
    Wrong(
        "skips what is demanded while it is paused",
        {
            "        outcome = enqueued(\n            job,": (
                "        outcome = enqueued(\n            job if job.type not in self._paused else evolve(job, demand=None),"
            )
        },
        fails=("pausing.enqueue.demanded-is-queued",),
    ),
    Wrong(
        "calls what is skipped paused",
        {
            PAUSED: "if outcome is Enqueued.CREATED and job.type in self._paused and job.demand is None:\n            outcome = Enqueued.PAUSED\n        "
            + PAUSED
        },
        fails=("pausing.enqueue.skipped-keeps-its-code",),
    ),
    Wrong(
        "calls duplicates paused",
        {
            PAUSED: "if outcome is Enqueued.DUPLICATE and job.type in self._paused:\n            return Enqueued.PAUSED\n        "
            + PAUSED
        },
        fails=("pausing.enqueue.others-are-duplicates",),
    ),
    Wrong(
        "leaves a slot that it would have taken up while it is paused",
        {"elif outcome is not Enqueued.DUPLICATE:": "elif outcome is Enqueued.TAKEN_UP:"},
        fails=("pausing.enqueue.taken-up-slots-are-skipped", "pausing.enqueue.window-of-the-new-job"),
    ),
    Wrong(
        "keeps the window of a slot that it skips",
        {PAUSED: PAUSED + "            job = job if slot is None else evolve(job, window=slot.job.window)\n"},
        fails=("pausing.enqueue.window-of-the-new-job",),
    ),
    Wrong(
        "begins a pause anew",
        {"self._paused.update(dict.fromkeys(running, at))": "self._paused.update(dict.fromkeys(types, at))"},
        fails=("pausing.pause.twice-keeps-the-first-moment", "pausing.pause.begins-for-those-that-ran"),
    ),
    Wrong(
        "says that every pause has begun",
        {"return bool(running)": "return True"},
        fails=("pausing.pause.twice-keeps-the-first-moment", "pausing.pause.begins-for-those-that-ran"),
    ),
    Wrong(
        "says that no pause begins where one was",
        {"return bool(running)": "return running == set(types) and bool(running)"},
        fails=("pausing.pause.begins-for-those-that-ran",),
    ),
    Wrong(
        "lets go of what is held when a pause begins",
        {
            "        return bool(running)": "        for slot in self._slots.values():\n            if slot.job.type in running and slot.until:\n                slot.job, slot.until = evolve(slot.job, status=JobStatus.PENDING), None\n        return bool(running)"
        },
        fails=(
            "pausing.pause.what-is-held-goes-on",
            "pausing.pause.changes-no-slot",
            "pausing.enqueue.others-are-duplicates",
            "resuming.others-are-left-alone",
            "resuming.workers-keep-what-they-hold",
        ),
    ),
    Wrong(
        "skips what waits when a pause begins",
        {
            "        return bool(running)": "        for slot in self._slots.values():\n            if slot.job.type in running and slot.job.status is JobStatus.PENDING:\n                slot.job = evolve(slot.job, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)\n        return bool(running)"
        },
        fails=(
            "pausing.pause.changes-no-slot",
            "pausing.enqueue.others-are-duplicates",
            "resuming.ends-the-pause-once",
            "resuming.late-slots-are-cancelled",
            "resuming.demanded-is-left-alone",
        ),
    ),
    Wrong(
        "tells of every pause",
        {"return {kind: self._paused[kind] for kind in types if kind in self._paused}": "return dict(self._paused)"},
        fails=("pausing.paused.types-asked-for-in-utc",),
    ),
    Wrong(
        "keeps the moment of a pause in its zone",
        {"        at = utc(at)\n        running": "        running"},
        fails=(
            "values.instants.answers-in-utc",
            "pausing.paused.types-asked-for-in-utc",
            "values.instants.naive-refused-by-oversight",
        ),
    ),
    Wrong(
        "skips follow-ups that are paused",
        {
            "        if slot is None:\n            self._create(job)\n        elif slot.job.status in RENEWABLE": "        if job.type in self._paused:\n            job = evolve(job, status=JobStatus.SKIPPED, code=SkipReason.PAUSED)\n        if slot is None:\n            self._create(job)\n        elif slot.job.status in RENEWABLE"
        },
        fails=("pausing.pause.follow-ups-wait",),
    ),
    Wrong(
        "lets held jobs end only while nothing is paused",
        {"slot is not None and slot.token": "slot is not None and slot.job.type not in self._paused and slot.token"},
        fails=("pausing.pause.what-is-held-goes-on",),
    ),
]

RESUMING = [
    Wrong(
        "resumes what was not paused",
        {"        if not paused:\n            return None\n": ""},
        fails=("resuming.nothing-paused-nothing-changed", "resuming.ends-the-pause-once", "resuming.only-paused-types"),
    ),
    Wrong(
        "resumes other types too",
        {
            "        for kind in paused:\n            del self._paused[kind]\n": "        for kind in paused:\n            del self._paused[kind]\n        paused |= set(types)\n"
        },
        fails=("resuming.only-paused-types",),
    ),
    Wrong(
        "resumes all that is paused",
        {
            "paused = set(types) & self._paused.keys()": "paused = set(self._paused) if set(types) & self._paused.keys() else set()"
        },
        fails=("resuming.only-paused-types",),
    ),
    Wrong(
        "never ends a pause",
        {"            del self._paused[kind]\n": "            pass\n"},
        fails=(
            "pausing.pause.follow-ups-wait",
            "pausing.change.waits-for-the-end",
            "resuming.ends-the-pause-once",
            "resuming.begins-a-new-epoch",
            "resuming.late-slots-are-cancelled",
            "resuming.only-paused-types",
        ),
    ),
    Wrong(
        "resumes from after the instant",
        {"slot.job.occurrence.deliver_at >= since\n": "slot.job.occurrence.deliver_at > since\n"},
        fails=(
            "resuming.timely-slots-become-pending",
            "resuming.late-slots-are-cancelled",
            "resuming.only-paused-types",
        ),
    ),
    Wrong(
        "resumes however late",
        {"job, is_timely = slot.job, slot.job.occurrence.deliver_at >= since": "job, is_timely = slot.job, True"},
        fails=("resuming.timely-slots-become-pending", "resuming.late-slots-are-cancelled"),
    ),
    Wrong(
        "resumes what was skipped for any reason",
        {"job.status in PAUSED and job.code is SkipReason.PAUSED": "job.status in PAUSED"},
        fails=("resuming.others-are-left-alone",),
    ),
    Wrong(
        "resumes only what was skipped",
        {"job.status in PAUSED and job.code": "job.status is JobStatus.SKIPPED and job.code"},
        fails=("resuming.begins-a-new-epoch",),
    ),
    Wrong(
        "resumes whatever has the code",
        {"job.status in PAUSED and job.code": "job.code"},
        fails=("resuming.others-are-left-alone",),
    ),
    Wrong(
        "resumes in the old epoch",
        {
            "slot.job = evolve(_renewed(job), status=JobStatus.PENDING, code=None)": "slot.job = evolve(job, status=JobStatus.PENDING, code=None)"
        },
        fails=("resuming.timely-slots-become-pending", "resuming.begins-a-new-epoch"),
    ),
    Wrong(
        "counts what it cancels as resumed",
        {
            "                slot.job = evolve(job, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)\n": "                slot.job = evolve(job, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)\n                resumed += 1\n"
        },
        fails=("resuming.late-slots-are-cancelled",),
    ),
    Wrong(
        "lets run what is too late",
        {"elif not is_timely and": "elif False and"},
        fails=("resuming.late-slots-are-cancelled",),
    ),
    Wrong(
        "cancels what is demanded",
        {"job.status is JobStatus.PENDING and job.demand is None:": "job.status is JobStatus.PENDING:"},
        fails=("pausing.change.waits-for-the-end", "resuming.demanded-is-left-alone"),
    ),
    Wrong(
        "cancels what is held",
        {"elif not is_timely and job.status is JobStatus.PENDING": "elif not is_timely and job.status in LIVE"},
        fails=("resuming.others-are-left-alone", "resuming.workers-keep-what-they-hold"),
    ),
    Wrong(
        "cancels without a code",
        {
            "slot.job = evolve(job, status=JobStatus.CANCELLED, code=SkipReason.PAUSED)": "slot.job = evolve(job, status=JobStatus.CANCELLED)"
        },
        fails=("resuming.late-slots-are-cancelled",),
    ),
]

PAUSES = [*PAUSING, *RESUMING]
