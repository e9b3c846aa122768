"""Wrong oversight: pauses, overviews, pages and prunes."""

from __future__ import annotations

from wrong import Wrong

OPEN = "open_types = set(types) - self._paused.keys()"
IN_TYPES = "asked = [slot for slot in self._asked(key) if slot.job.type in open_types]"
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
        {OPEN: "open_types = set(types) - (set() if key else self._paused.keys())"},
        fails=("pausing.pause.nor-by-key", "pausing.pause.nor-expired-leases"),
    ),
    Wrong(
        "takes over what is paused",
        {
            IN_TYPES: "asked = [slot for slot in self._asked(key) if slot.job.type in (types if slot.until else open_types)]"
        },
        fails=("pausing.pause.nor-expired-leases", "pausing.pause.no-lease-to-wait-for"),
    ),
    Wrong(
        "waits for leases of what is paused",
        {
            "        held = [end for slot in asked": "        held = [end for slot in self._asked(key) if slot.job.type in types"
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
        fails=("pausing.paused.types-asked-for-in-utc", "values.instants.naive-refused-by-oversight"),
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

OVERVIEWS = [
    Wrong(
        "overlooks what is due this moment",
        {"overdue = [at for at in pending if at <= now]": "overdue = [at for at in pending if at < now]"},
        fails=("overview.waiting-slots", "overview.each-type-for-itself"),
    ),
    Wrong(
        "looks less than an hour ahead",
        {"now < at <= now + SOON]": "now < at < now + SOON]"},
        fails=("overview.waiting-slots",),
    ),
    Wrong(
        "takes a lease that ends this moment for a running one",
        {"slot.until is not None and slot.until <= now]": "slot.until is not None and slot.until < now]"},
        fails=("overview.held-slots", "overview.oldest"),
    ),
    Wrong(
        "overlooks abandoned slots when it looks for the oldest",
        {"oldest=min((*overdue, *abandoned), default=None)": "oldest=min(overdue, default=None)"},
        fails=("overview.held-slots", "overview.oldest"),
    ),
    Wrong(
        "takes running slots for waiting ones",
        {
            "oldest=min((*overdue, *abandoned), default=None)": "oldest=min((slot.job.run_at for slot in slots if slot.job.status in LIVE and slot.job.run_at <= now), default=None)"
        },
        fails=("overview.held-slots", "overview.oldest"),
    ),
    Wrong(
        "counts abandoned slots as running",
        {"running=len(leases) - len(abandoned)": "running=len(leases)"},
        fails=("overview.held-slots",),
    ),
    Wrong(
        "counts ended slots from after the instant",
        {
            "slot.job.status in ENDED and slot.job.occurrence.deliver_at >= since]": "slot.job.status in ENDED and slot.job.occurrence.deliver_at > since]"
        },
        fails=("overview.ended-slots", "overview.troubles-by-frequency"),
    ),
    Wrong(
        "counts waiting slots from the instant only",
        {
            "pending = [slot.job.run_at for slot in slots if slot.job.status is JobStatus.PENDING]": "pending = [slot.job.run_at for slot in slots if slot.job.status is JobStatus.PENDING and slot.job.run_at >= since]"
        },
        fails=("overview.waiting-slots",),
    ),
    Wrong(
        "counts no codes",
        {"codes=Counter(job.code for job in ended if job.code is not None)": "codes={}"},
        fails=("overview.ended-slots",),
    ),
    Wrong(
        "tells all ends as troubles",
        {"_troubles(job for job in ended if job.status in TROUBLED)": "_troubles(ended)"},
        fails=("overview.troubles-by-frequency",),
    ),
    Wrong(
        "tells troubles in the order of their errors",
        {"key=lambda kind: (-counts[kind], kind[0],": "key=lambda kind: (kind[0],"},
        fails=("overview.troubles-by-frequency", "overview.at-most-twenty-troubles"),
    ),
    Wrong(
        "tells every trouble",
        {'kind[1] or ""))[:TROUBLES]': 'kind[1] or ""))'},
        fails=("overview.at-most-twenty-troubles",),
    ),
    Wrong(
        "tells the first of a trouble for the latest",
        {"latest[kind] = max(latest.get": "latest[kind] = min(latest.get"},
        fails=("overview.troubles-by-frequency",),
    ),
    Wrong(
        "tells no mark",
        {"            mark=self._marks.get(kind),\n": ""},
        fails=(
            "overview.mark-plan-and-pause",
            "ledger.planned-at.makes-no-mark",
            "ledger.planned-at.is-the-last-given",
        ),
    ),
    Wrong(
        "tells no plan",
        {"            planned_at=self._planned_at.get(kind),\n": ""},
        fails=("overview.mark-plan-and-pause", "ledger.planned-at.is-the-last-given"),
    ),
    Wrong(
        "tells no pause",
        {"            paused_since=self._paused.get(kind),\n": ""},
        fails=("overview.mark-plan-and-pause",),
    ),
    Wrong(
        "counts all types as one",
        {
            "slots = [slot for slot in self._slots.values() if slot.job.type == kind]": "slots = list(self._slots.values())"
        },
        fails=("overview.types-without-slots", "overview.each-type-for-itself"),
    ),
    Wrong(
        "leaves out types that have nothing",
        {
            "return {kind: self._overview(kind, now, since) for kind in types}": "return {kind: self._overview(kind, now, since) for kind in types if any(slot.job.type == kind for slot in self._slots.values())}"
        },
        fails=(
            "overview.types-without-slots",
            "overview.mark-plan-and-pause",
            "ledger.planned-at.makes-no-mark",
            "ledger.planned-at.is-the-last-given",
        ),
    ),
]

PAGES = [
    Wrong(
        "gives slots from after the instant",
        {"if job.occurrence.deliver_at >= since), key=_turn)": "if job.occurrence.deliver_at > since), key=_turn)"},
        fails=("select.since-is-inclusive",),
    ),
    Wrong(
        "gives slots however old",
        {"if job.occurrence.deliver_at >= since), key=_turn)": "), key=_turn)"},
        fails=("select.since-is-inclusive",),
    ),
    Wrong(
        "gives slots by their keys",
        {
            "if job.occurrence.deliver_at >= since), key=_turn)": "if job.occurrence.deliver_at >= since), key=lambda job: job.dedup_key)"
        },
        fails=("select.earliest-first",),
    ),
    Wrong(
        "gives one type after the other",
        {
            "if job.occurrence.deliver_at >= since), key=_turn)": "if job.occurrence.deliver_at >= since), key=lambda job: (job.type, *_turn(job)))"
        },
        fails=("select.earliest-first",),
    ),
    Wrong(
        "loses a slot at the border of two pages",
        {
            "page = jobs[begin : begin + limit]": "begin += cursor is not None\n        page = jobs[begin : begin + limit]"
        },
        fails=("select.each-slot-once", "select.leavers-hide-no-others"),
    ),
    Wrong(
        "loses slots of one moment at the border of two pages",
        {
            "bisect_right(jobs, cursor, key=_cursor)": "bisect_right(jobs, cursor.split()[0], key=lambda job: _cursor(job).split()[0])"
        },
        fails=("select.each-slot-once", "select.leavers-hide-no-others"),
    ),
    Wrong(
        "gives the last slot of a page again",
        {"bisect_right(jobs, cursor, key=_cursor)": "bisect_right(jobs, cursor, key=_cursor) - 1"},
        fails=("select.each-slot-once", "select.leavers-hide-no-others"),
    ),
    Wrong(
        "gives no end of the pages",
        {
            "return Page(page, _cursor(page[-1]) if begin + limit < len(jobs) else None)": "return Page(page, _cursor(page[-1]) if page else None)"
        },
        fails=("select.earliest-first", "select.each-slot-once"),
    ),
    Wrong(
        "counts pages by their place",
        {
            "bisect_right(jobs, cursor, key=_cursor)": "int(cursor)",
            "return Page(page, _cursor(page[-1]) if begin": "return Page(page, str(begin + limit) if begin",
        },
        fails=("select.leavers-hide-no-others",),
    ),
    Wrong(
        "gives slots of any status",
        {"slot.job.type in types and slot.job.status in statuses)": "slot.job.type in types)"},
        fails=("select.only-what-is-asked-for",),
    ),
    Wrong(
        "gives slots of any type",
        {"slot.job.type in types and slot.job.status in statuses)": "slot.job.status in statuses)"},
        fails=("select.only-what-is-asked-for",),
    ),
    Wrong(
        "takes no status for all of them",
        {
            "slot.job.type in types and slot.job.status in statuses)": "slot.job.type in types and (not statuses or slot.job.status in statuses))"
        },
        fails=("select.only-what-is-asked-for",),
    ),
    Wrong(
        "gives slots without progress",
        {
            "page = jobs[begin : begin + limit]": "page = [evolve(job, progress=None) for job in jobs[begin : begin + limit]]"
        },
        fails=("select.whole-slots",),
    ),
    Wrong(
        "gives a page of nothing",
        {
            "        check_limit(limit)\n        since = utc(since)": "        limit = max(limit, 0)\n        since = utc(since)"
        },
        fails=("select.limit-below-one-refused",),
    ),
]

NEWER = "(JobStatus.COMPLETED in newer or (bool(newer) and job.status is not JobStatus.COMPLETED))"
KEEPS = " and (\n            brief is None or brief.occurrence.local_date != job.occurrence.local_date\n        )"
PRUNING = [
    Wrong(
        "erases the latest too",
        {NEWER: "True"},
        fails=(
            "prune.latest-stays",
            "prune.live-slots-stay",
            "prune.no-more-than-the-limit",
            "prune.each-type-for-itself",
            "prune.of-equals-one-stays",
            "prune.last-brief-stays",
            "prune.last-brief-goes-once-replaced",
            "prune.latest-brief-of-a-failure-stays",
            "prune.payloads-go-too",
            "prune.tokens-never-return",
        ),
    ),
    Wrong("erases what lives", {"or job.status in LIVE or": "or"}, fails=("prune.live-slots-stay",)),
    Wrong(
        "erases what was to be delivered then",
        {"job.occurrence.deliver_at >= before:": "job.occurrence.deliver_at > before:"},
        fails=("prune.latest-stays",),
    ),
    Wrong(
        "erases whatever has ended", {"job.occurrence.deliver_at >= before:": "False:"}, fails=("prune.latest-stays",)
    ),
    Wrong(
        "erases without limit",
        {"erased = sorted(old, key=_turn)[:limit]": "erased = sorted(old, key=_turn)"},
        fails=("prune.no-more-than-the-limit",),
    ),
    Wrong(
        "erases slots of any type",
        {"if job.type not in types or job.status": "if not types or job.status"},
        fails=("prune.each-type-for-itself",),
    ),
    Wrong(
        "keeps one slot of all types",
        {
            "peers = (slot.job for slot in self._owners[job.user_id, job.type])\n        newer": "peers = (slot.job for slot in self._slots.values() if slot.job.user_id == job.user_id)\n        newer"
        },
        fails=("prune.each-type-for-itself",),
    ),
    Wrong(
        "keeps one slot of all users",
        {
            "peers = (slot.job for slot in self._owners[job.user_id, job.type])\n        newer": "peers = (slot.job for slot in self._slots.values() if slot.job.type == job.type)\n        newer"
        },
        fails=("prune.no-more-than-the-limit",),
    ),
    Wrong(
        "erases all of one moment",
        {"if _turn(peer) > _turn(job)]": "if peer is not job and _turn(peer)[0] >= _turn(job)[0]]"},
        fails=("prune.of-equals-one-stays",),
    ),
    Wrong(
        "erases none of one moment",
        {"if _turn(peer) > _turn(job)]": "if _turn(peer)[0] > _turn(job)[0]]"},
        fails=("prune.of-equals-one-stays",),
    ),
    Wrong(
        "keeps the briefs of erased slots",
        {"            self._briefs.get((job.type, job.user_id), {}).pop(job.occurrence.local_date, None)\n": ""},
        fails=("prune.briefs-go-too", "prune.last-brief-goes-once-replaced"),
    ),
    Wrong(
        "erases the last brief",
        {NEWER: "newer", KEEPS: ""},
        fails=(
            "prune.last-brief-stays",
            "prune.last-brief-goes-once-replaced",
            "prune.latest-brief-of-a-failure-stays",
        ),
    ),
    Wrong(
        "erases the slot by which engagement goes", {NEWER: "newer"}, fails=("prune.latest-brief-of-a-failure-stays",)
    ),
    Wrong(
        "erases the latest brief where its slot failed", {KEEPS: ""}, fails=("prune.latest-brief-of-a-failure-stays",)
    ),
    Wrong(
        "keeps every slot that has a brief",
        {KEEPS: " and job.occurrence.local_date not in self._briefs.get((job.type, job.user_id), {})"},
        fails=("prune.briefs-go-too", "prune.last-brief-stays", "prune.last-brief-goes-once-replaced"),
    ),
    Wrong(
        "keeps the payloads of erased slots",
        {"            self._payloads.pop(job.dedup_key, None)\n": ""},
        fails=("prune.payloads-go-too",),
    ),
    Wrong(
        "gives tokens again after a prune",
        {"            self._floor = max(self._floor, slot.token)  # as in forget\n": ""},
        fails=("prune.tokens-never-return",),
    ),
    Wrong(
        "erases nothing where the limit is nothing",
        {"        check_limit(limit)\n        before": "        limit = max(limit, 0)\n        before"},
        fails=("select.limit-below-one-refused",),
    ),
]

OVERSIGHT = [*PAUSING, *RESUMING, *OVERVIEWS, *PAGES, *PRUNING]
