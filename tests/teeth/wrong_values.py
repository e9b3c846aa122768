"""Wrong ways with values and with cancellation."""

from __future__ import annotations

from wrong import SQLITE, Wrong

FRESH = "        fresh = [normal(job) for job in jobs]\n"

VALUES = [
    Wrong(
        "tells no capitals from small letters",
        {
            "        fresh = [normal(job) for job in jobs]\n": "        fresh = [normal(evolve(job, user_id=job.user_id.lower())) for job in jobs]\n"
        },
        fails=("values.ids.awkward-told-apart",),
    ),
    Wrong(
        "takes ids that look alike for one",
        {
            "from bisect import": "from unicodedata import normalize\nfrom bisect import",
            FRESH: FRESH.replace("normal(job)", 'normal(evolve(job, user_id=normalize("NFC", job.user_id)))'),
        },
        fails=("values.ids.awkward-told-apart",),
    ),
    Wrong(
        "trims ids",
        {FRESH: FRESH.replace("normal(job)", "normal(evolve(job, user_id=job.user_id.strip()))")},
        fails=("values.ids.awkward-told-apart",),
    ),
    Wrong(
        "cuts ids",
        {FRESH: FRESH.replace("normal(job)", "normal(evolve(job, user_id=job.user_id[:100]))")},
        fails=("values.ids.awkward-told-apart",),
    ),
    Wrong(
        "ends keys at their first NUL",
        {
            "{key: self._slots[key].job for key in keys if key in self._slots}": '{key: self._slots[key.split("\\0")[0]].job for key in keys if key.split("\\0")[0] in self._slots}'
        },
        fails=("values.ids.impossible-found-nowhere",),
    ),
    Wrong(
        "takes ids that no database can hold",
        {
            "            check_new(job)\n        fresh": '            check_new(evolve(job, user_id="anybody"))\n        fresh'
        },
        fails=("values.ids.impossible-refused",),
    ),
    Wrong(
        "cuts off microseconds",
        {FRESH: FRESH + "        fresh = [evolve(job, run_at=job.run_at.replace(microsecond=0)) for job in fresh]\n"},
        fails=(
            "work.claim.due-from-run-at-on",
            "overview.waiting-slots",
            "values.instants.exact-and-in-utc",
        ),
    ),
    Wrong(
        "keeps instants in their zone",
        {FRESH: "        fresh = list(jobs)\n"},
        fails=(
            "values.instants.answers-in-utc",
            "values.instants.exact-and-in-utc",
            "values.instants.outside-utc-refused",
        ),
    ),
    Wrong(
        "loses the fold",
        {FRESH: FRESH.replace("normal(job)", "normal(evolve(job, run_at=job.run_at.replace(fold=0)))")},
        fails=("values.instants.exact-and-in-utc",),
    ),
    Wrong(
        "takes the local date from UTC",
        {
            FRESH: FRESH
            + (
                "        dates = [job.occurrence.deliver_at.date() for job in fresh]\n"
                "        fresh = [evolve(job, occurrence=evolve(job.occurrence, local_date=on)) for job, on in zip(fresh, dates)]\n"
            )
        },
        fails=(
            "work.claim.equals-do-not-wait",
            "prune.of-equals-one-stays",
            "values.instants.exact-and-in-utc",
        ),
    ),
    Wrong(
        "compares naive instants",
        {
            "{user_id: utc(instant) for user_id, instant in before.items()}": "{user_id: instant if instant.tzinfo else instant.replace(tzinfo=NOON) for user_id, instant in before.items()}",
            "__all__ = [": "from datetime import UTC as NOON\n\n__all__ = [",
        },
        fails=("values.instants.naive-refused",),
    ),
    Wrong(
        "takes naive instants of an operator for UTC",
        {
            "__all__ = [": "from datetime import UTC\n\n_aware = utc\nutc = lambda at: _aware(at if at.tzinfo else at.replace(tzinfo=UTC))\n\n__all__ = ["
        },
        fails=(
            "values.instants.naive-refused",
            "values.instants.naive-refused-by-oversight",
        ),
    ),
    Wrong(
        "puts off until a naive instant",
        {
            "        at = utc(at)\n        slot": "        at = utc(at.replace(tzinfo=at.tzinfo or UTC))\n        slot",
            "__all__ = [": "from datetime import UTC\n\n__all__ = [",
        },
        fails=("values.instants.naive-refused",),
    ),
    Wrong(
        "answers in a zone of its own",
        {
            "                latest[user_id] = at\n": "                latest[user_id] = at.astimezone(timezone(timedelta(hours=9)))\n",
            "__all__ = [": "from datetime import timezone\n\n__all__ = [",
        },
        fails=("values.instants.answers-in-utc",),
    ),
    Wrong(
        "erases whoever has an id that has no encoding",
        {"        if not is_storable(user_id):\n            return 0\n": ""},
        fails=("values.ids.impossible-found-nowhere",),
        right=SQLITE,
    ),
    Wrong(
        "stores errors as they are",
        {"            error=readable(error),\n": "            error=error,\n"},
        fails=("values.errors.readable",),
    ),
    Wrong(
        "drops what cannot be encoded from errors",
        {
            "            error=readable(finish.error),\n": '            error=finish.error and finish.error.encode("utf-8", "ignore").decode(),\n'
        },
        fails=("values.errors.readable",),
    ),
    Wrong(
        "keeps briefs as they are given",
        {"decode_brief(encode_brief(finish.brief))": "finish.brief"},
        fails=(
            "values.nothing-is-shared",
            "values.briefs.awkward-content",
        ),
    ),
    Wrong(
        "cuts briefs short",
        {
            "decode_brief(encode_brief(finish.brief))": "decode_brief(encode_brief(evolve(finish.brief, sections=[evolve(each, text=each.text[:65535]) for each in finish.brief.sections])))"
        },
        fails=("values.briefs.awkward-content",),
    ),
    Wrong(
        "keeps the pages that it hands out",
        {
            "        self._floor = 0\n": "        self._floor = 0\n        self._pages = {}\n",
            "        return Page(page, _cursor(page[-1]) if begin": "        page = self._pages.setdefault((*types, *statuses, since, cursor, limit, *map(_turn, page)), page)\n        return Page(page, _cursor(page[-1]) if begin",
        },
        fails=("values.nothing-is-shared",),
    ),
]

CANCELLATION = [
    Wrong(
        "swallows cancellation",
        {
            "        await self._ready()\n        for job in jobs:\n": "        if not await self._goes_on():\n            return []\n        for job in jobs:\n",
            "    async def _ready(self) -> None:\n        await checkpoint()\n        if not self._users": (
                "    async def _goes_on(self):\n        try:\n            await self._ready()\n"
                "        except BaseException as error:\n            if isinstance(error, Exception):\n                raise\n"
                "            return False\n        return True\n\n"
                "    async def _ready(self) -> None:\n        await checkpoint()\n        if not self._users"
            ),
        },
        fails=("cancelling.no-wrong-answer",),
    ),
    Wrong(
        "answers a cancelled claim with nothing",
        {
            "        await self._ready()\n        check_limit(limit)\n        due_by": "        try:\n            await self._ready()\n        except BaseException as error:\n            if isinstance(error, Exception):\n                raise\n            return Claims([])\n        check_limit(limit)\n        due_by"
        },
        fails=("cancelling.no-wrong-answer",),
    ),
    Wrong(
        "plans in two steps",
        {
            "job.dedup_key in seen else self._plan(job))": "job.dedup_key in seen else await self._plan(job))",
            "    def _plan(self": "    async def _plan(self",
            "        if slot is None:\n            self._create(job)\n        elif outcome is not": (
                "        if slot is None:\n            self._create(evolve(job, run_at=job.window.start))\n"
                "            await checkpoint()\n            self._slots[job.dedup_key].job = job\n        elif outcome is not"
            ),
        },
        fails=("cancelling.enqueue.old-or-new",),
    ),
]
