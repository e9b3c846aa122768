"""Wrong ways of being opened and closed."""

from __future__ import annotations

from wrong import Wrong

ENTER = "        await checkpoint()\n        self._users += 1\n        return self\n"
LEAVE = "        self._users = max(0, self._users - 1)\n"
CLOSED = "        if not self._users:\n            raise not_open("

OPENING = [
    Wrong(
        "shares marks with every other storage",
        {
            "        self._marks: dict[str, datetime] = {}\n": "",
            "    def __init__(self) -> None:\n        self.preferences": "    _marks = {}\n\n    def __init__(self) -> None:\n        self.preferences",
        },
        fails=(
            "cancelling.no-wrong-answer",
            "ledger.mark.begins-where-start-says",
            "ledger.mark.in-utc",
            "opening.fresh-and-empty",
            "opening.reading-changes-nothing",
            "opening.content-stays",
            "overview.waiting-slots",
            "overview.held-slots",
            "overview.ended-slots",
            "overview.mark-plan-and-pause",
            "ledger.planned-at.makes-no-mark",
            "ledger.planned-at.is-the-last-given",
            "values.instants.naive-refused-by-oversight",
        ),
    ),
    Wrong(
        "counts as an attempt that somebody looked",
        {
            "        await self._ready()\n        now, since = utc(now), utc(since)": "        await self._ready()\n        for slot in self._slots.values():\n            slot.job = evolve(slot.job, attempts=slot.job.attempts + 1)\n        now, since = utc(now), utc(since)"
        },
        fails=("opening.reading-changes-nothing",),
    ),
    Wrong(
        "makes a mark for whoever asks for one",
        {
            "mark = self._marks.get(name, begin)": 'mark = self._marks.get(name, begin or (None if to or planned_at else utc(datetime.fromisoformat("2026-03-02T08:00:00Z"))))'
        },
        fails=(
            "ledger.mark.begins-where-start-says",
            "opening.fresh-and-empty",
            "opening.reading-changes-nothing",
            "values.ids.impossible-found-nowhere",
            "values.instants.naive-refused-by-oversight",
        ),
    ),
    Wrong(
        "does as though it were open",
        {CLOSED: "        if False:\n            raise not_open("},
        fails=(
            "opening.closed-says-so",
            "opening.twice-is-harmless",
            "opening.closing-once-more-is-harmless",
            "opening.cancelled-opening-closes",
            "opening.leaving-while-cancelled-closes",
            "preferences.closed-says-so",
        ),
    ),
    Wrong(
        "raises what it likes when it is closed",
        {CLOSED: "        if not self._users:\n            raise RuntimeError("},
        fails=(
            "opening.closed-says-so",
            "opening.twice-is-harmless",
            "opening.closing-once-more-is-harmless",
            "opening.cancelled-opening-closes",
            "opening.leaving-while-cancelled-closes",
            "preferences.closed-says-so",
        ),
    ),
    Wrong(
        "answers when it is closed where nothing is asked",
        {
            "        await self._ready()\n        return {key: self._slots": "        if not keys:\n            return {}\n        await self._ready()\n        return {key: self._slots"
        },
        fails=(
            "opening.closed-says-so",
            "opening.twice-is-harmless",
            "opening.closing-once-more-is-harmless",
            "opening.cancelled-opening-closes",
            "opening.leaving-while-cancelled-closes",
        ),
    ),
    Wrong(
        "breaks when it is closed twice",
        {LEAVE: "        if not self._users:\n            raise RuntimeError\n" + LEAVE},
        fails=(
            "opening.twice-is-harmless",
            "opening.closing-once-more-is-harmless",
            "opening.content-stays",
            "opening.many-tasks-open-and-close",
            "opening.cancelled-opening-closes",
            "opening.leaving-while-cancelled-closes",
            "opening.other-event-loops",
        ),
    ),
    Wrong(
        "counts how often it was closed",
        {LEAVE: "        self._users -= 1\n"},
        fails=("opening.closing-once-more-is-harmless",),
    ),
    Wrong(
        "closes when the first leaves",
        {LEAVE: "        self._users = 0\n"},
        fails=(
            "opening.twice-is-harmless",
            "opening.many-tasks-open-and-close",
        ),
    ),
    Wrong(
        "refuses to be opened twice",
        {ENTER: "        if self._users:\n            raise RuntimeError\n" + ENTER},
        fails=("opening.twice-is-harmless",),
    ),
    Wrong(
        "stays open",
        {LEAVE: "        pass\n"},
        fails=(
            "opening.closed-says-so",
            "opening.twice-is-harmless",
            "opening.closing-once-more-is-harmless",
            "opening.cancelled-opening-closes",
            "opening.leaving-while-cancelled-closes",
            "preferences.closed-says-so",
        ),
    ),
    Wrong(
        "is opened as something else",
        {
            ENTER: ENTER.replace(
                "return self",
                "other = type(self).__new__(type(self))\n        other.__dict__ = self.__dict__\n        return other",
            )
        },
        fails=("opening.twice-is-harmless",),
    ),
    Wrong(
        "forgets everything when it is closed",
        {LEAVE: LEAVE + "        self._slots.clear()\n        self._owners.clear()\n"},
        fails=(
            "opening.content-stays",
            "opening.many-tasks-open-and-close",
            "opening.other-event-loops",
        ),
    ),
    Wrong(
        "forgets pauses when it is closed",
        {LEAVE: LEAVE + "        self._paused.clear()\n"},
        fails=("opening.content-stays",),
    ),
    Wrong(
        "counts an opening that is cancelled",
        {ENTER: "        self._users += 1\n        await checkpoint()\n        return self\n"},
        fails=("opening.cancelled-opening-closes",),
    ),
    Wrong(
        "does not close while it is being cancelled",
        {LEAVE: "        await checkpoint()\n" + LEAVE},
        fails=("opening.leaving-while-cancelled-closes",),
    ),
    Wrong(
        "lets no cancellation through when it is left",
        {LEAVE: LEAVE + "        return True\n"},
        fails=("opening.leaving-while-cancelled-closes",),
    ),
    Wrong(
        "stays with the event loop that it was first opened in",
        {
            ENTER: '        from anyio.lowlevel import current_token\n        self._loop = getattr(self, "_loop", None) or current_token()\n        if self._loop != current_token():\n            raise RuntimeError\n'
            + ENTER
        },
        fails=("opening.other-event-loops",),
    ),
]
