"""Wrong overviews, pages and prunes."""

from __future__ import annotations

from wrong import Wrong

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

OVERSIGHT = [*OVERVIEWS, *PAGES, *PRUNING]
