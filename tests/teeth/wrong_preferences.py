"""Wrong preferences."""

from __future__ import annotations

from wrong import Wrong

PUT = "        rows = storable(preferences)\n"
STORE = "        self._rows.update((row.user_id, row) for row in rows)\n"
BY_SCHEDULE = "                if row.is_active:\n"

KEPT = [
    Wrong(
        "switches everybody on",
        {STORE: "        self._rows.update((row.user_id, evolve(row, is_active=True)) for row in rows)\n"},
        fails=(
            "preferences.put.comes-back",
            "preferences.reading-changes-nothing",
            "schedule-index.as-things-are-now",
            "schedule-index.page-for.each-user-once",
        ),
    ),
    Wrong(
        "keeps the list of days that it is given",
        {
            PUT: "        preferences = list(preferences)\n        rows = [evolve(row, days=old.days) for row, old in zip(storable(preferences), preferences, strict=True)]\n"
        },
        fails=("preferences.put.normal-form",),
    ),
    Wrong(
        "keeps instants as they are given",
        {
            PUT: "        preferences = list(preferences)\n        rows = [evolve(row, effective_from=old.effective_from) for row, old in zip(storable(preferences), preferences, strict=True)]\n"
        },
        fails=("preferences.put.normal-form",),
    ),
    Wrong(
        "takes no days for all days",
        {STORE: "        self._rows.update((row.user_id, evolve(row, days=row.days or None)) for row in rows)\n"},
        fails=("preferences.put.comes-back", "schedule-index.each-schedule-once"),
    ),
    Wrong(
        "fills in what is not said",
        {
            STORE: '        self._rows.update((row.user_id, evolve(row, frequency=row.frequency or "daily")) for row in rows)\n'
        },
        fails=(
            "preferences.put.comes-back",
            "preferences.put.normal-form",
            "preferences.put.again-replaces",
            "preferences.remove.only-those",
            "preferences.forget.erases",
            "schedule-index.each-schedule-once",
            "schedule-index.as-things-are-now",
            "schedule-index.page-for.each-user-once",
            "schedule-index.fields-of-any-length",
        ),
    ),
    Wrong(
        "refuses what makes no schedule",
        {
            PUT: PUT
            + "        from fanout_briefs.schedule import Schedule\n        for row in rows:\n            Schedule.parse(row.frequency, row.time_of_day, row.timezone, row.day_of_week, row.days)\n"
        },
        fails=(
            "preferences.put.odd-values-stay",
            "schedule-index.each-schedule-once",
            "schedule-index.fields-of-any-length",
        ),
    ),
    Wrong(
        "keeps the row that was there",
        {STORE: "        for row in rows:\n            self._rows.setdefault(row.user_id, row)\n"},
        fails=(
            "preferences.put.again-replaces",
            "schedule-index.as-things-are-now",
            "schedule-index.page-for.each-user-once",
        ),
    ),
    Wrong(
        "changes only what is said",
        {
            STORE: "        for row in rows:\n            old = self._rows.get(row.user_id)\n            self._rows[row.user_id] = row if old is None else evolve(row, frequency=row.frequency or old.frequency)\n"
        },
        fails=("preferences.put.again-replaces",),
    ),
    Wrong(
        "replaces all rows",
        {STORE: "        self._rows = {row.user_id: row for row in rows}\n"},
        fails=(
            "preferences.put.again-replaces",
            "preferences.page.rows-come-and-go",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "stores what is good of a bad batch",
        {
            PUT: "        preferences = list(preferences)\n        for row in preferences[:1]:\n            self._rows.update((each.user_id, each) for each in storable([row]))\n            self._order = None\n"
            + PUT
        },
        fails=(
            "preferences.put.refuses-bad-values",
            "preferences.put.names-all-bad-values",
        ),
    ),
    Wrong(
        "names the first bad value only",
        {PUT: "        rows = [row for each in preferences for row in storable([each])]\n"},
        fails=("preferences.put.names-all-bad-values",),
    ),
    Wrong(
        "takes a user twice",
        {PUT: "        preferences = list({row.user_id: row for row in preferences}.values())\n" + PUT},
        fails=(
            "preferences.put.refuses-bad-values",
            "preferences.put.names-all-bad-values",
        ),
    ),
    Wrong(
        "checks nothing",
        {
            PUT: "        rows = [evolve(row, days=row.days and tuple(row.days), effective_from=row.effective_from and utc(row.effective_from)) for row in preferences]\n"
        },
        fails=("preferences.put.refuses-bad-values", "preferences.put.names-all-bad-values"),
    ),
    Wrong(
        "gives no more than 999 at once",
        {
            "return {user_id: self._rows[user_id] for user_id in user_ids if": "return {user_id: self._rows[user_id] for user_id in [*user_ids][:999] if"
        },
        fails=("preferences.thousands-at-once",),
    ),
    Wrong(
        "gives preferences of others",
        {
            "return {user_id: self._rows[user_id] for user_id in user_ids if user_id in self._rows}": "return dict(self._rows)"
        },
        fails=("preferences.put.comes-back",),
    ),
    Wrong(
        "removes everybody",
        {
            "        for user_id in user_ids:\n            self.erase": "        for user_id in list(self._rows):\n            self.erase"
        },
        fails=(
            "preferences.page.rows-come-and-go",
            "preferences.remove.only-those",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "removes nobody",
        {"        for user_id in user_ids:\n            self.erase(user_id)": "        pass"},
        fails=("preferences.remove.only-those", "schedule-index.as-things-are-now"),
    ),
    Wrong(
        "breaks where nobody is to be removed",
        {"return int(self._rows.pop(user_id, None) is not None)": "return int(self._rows.pop(user_id) is not None)"},
        fails=(
            "cancelling.no-wrong-answer",
            "work.heartbeat.names-lost-claims",
            "ledger.forget.erases-all-of-one-user",
            "ledger.forget.claims-are-lost",
            "ledger.forget.tokens-never-return",
            "opening.closed-says-so",
            "preferences.page.rows-come-and-go",
            "preferences.remove.only-those",
            "preferences.closed-says-so",
            "schedule-index.page-for.rows-come-and-go",
            "values.ids.awkward-told-apart",
        ),
    ),
    Wrong(
        "removes slots with preferences",
        {
            "MemoryPreferences(self._ready)": "MemoryPreferences(self._ready)\n        self.preferences._storage = self",
            "        for user_id in user_ids:\n            self.erase(user_id)": "        for user_id in user_ids:\n            await self._storage.forget(user_id)",
        },
        fails=("preferences.remove.only-those",),
    ),
    Wrong(
        "gives preferences when it is closed",
        {"        await self._ready()\n        return {user_id: self._rows": "        return {user_id: self._rows"},
        fails=("preferences.closed-says-so",),
    ),
    Wrong(
        "forgets whom it has given",
        {
            "        await self._ready()\n        return {user_id: self._rows[user_id]": "        await self._ready()\n        self._order = None\n        return {user_id: self._rows.pop(user_id)"
        },
        fails=(
            "preferences.put.comes-back",
            "preferences.thousands-at-once",
            "preferences.reading-changes-nothing",
        ),
    ),
]

PAGED = [
    Wrong(
        "gives more than the limit",
        {"people = order[begin : begin + limit]": "people = order[begin : begin + limit + 1]"},
        fails=(
            "preferences.page.each-user-once",
            "preferences.page.ends-when-none-are-left",
            "preferences.page.rows-come-and-go",
            "preferences.thousands-at-once",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "loses a row at the border of two pages",
        {
            "begin = 0 if cursor is None else bisect_right(order, cursor)": "begin = 0 if cursor is None else bisect_right(order, cursor) + 1"
        },
        fails=(
            "preferences.page.each-user-once",
            "preferences.page.ends-when-none-are-left",
            "preferences.page.rows-come-and-go",
            "preferences.thousands-at-once",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "gives the last row of a page again",
        {
            "begin = 0 if cursor is None else bisect_right(order, cursor)": "begin = 0 if cursor is None else max(1, bisect_right(order, cursor) - (limit > 1))"
        },
        fails=(
            "preferences.page.each-user-once",
            "preferences.page.ends-when-none-are-left",
            "preferences.page.rows-come-and-go",
            "preferences.thousands-at-once",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "ends a scan before its last page",
        {
            "people[-1] if begin + limit < len(order) else None": "people[-1] if begin + 2 * limit < len(order) else None"
        },
        fails=(
            "preferences.page.each-user-once",
            "preferences.page.ends-when-none-are-left",
            "preferences.page.rows-come-and-go",
            "preferences.thousands-at-once",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "never ends a scan",
        {"people[-1] if begin + limit < len(order) else None": "people[-1] if people else cursor or ''"},
        fails=(
            "preferences.forget.erases",
            "preferences.page.each-user-once",
            "preferences.page.ends-when-none-are-left",
            "preferences.put.again-replaces",
            "preferences.put.comes-back",
            "preferences.put.odd-values-stay",
            "preferences.put.refuses-bad-values",
            "preferences.reading-changes-nothing",
            "preferences.remove.only-those",
            "preferences.thousands-at-once",
            "schedule-index.as-things-are-now",
            "schedule-index.each-schedule-once",
            "schedule-index.fields-of-any-length",
            "schedule-index.forgotten-leave-none",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.since-when",
        ),
    ),
    Wrong(
        "counts pages of rows by their place",
        {
            "begin = 0 if cursor is None else bisect_right(order, cursor)": "begin = int(cursor or 0)",
            "people[-1] if begin + limit": "str(begin + limit) if begin + limit",
        },
        fails=(
            "preferences.page.rows-come-and-go",
            "schedule-index.page-for.rows-come-and-go",
        ),
    ),
    Wrong(
        "gives rows in another order each time",
        {
            "_page(self._in_order(), cursor, limit)": "_page(sorted(self._in_order(), reverse=limit > 50), cursor, limit)"
        },
        fails=("preferences.page.each-user-once", "preferences.thousands-at-once"),
    ),
    Wrong(
        "gives a page of no rows",
        {
            "        check_limit(limit)\n        people, next_cursor = _page(self._in_order()": "        limit = max(limit, 0)\n        people, next_cursor = _page(self._in_order()"
        },
        fails=("preferences.page.limit-below-one-refused",),
    ),
]

INDEXED = [
    Wrong(
        "does not say that it has an index",
        {"    schedule_index = True\n": "    schedule_index = False\n"},
        fails=("schedule-index.each-schedule-once",),
    ),
    Wrong(
        "indexes who has switched the brief off",
        {BY_SCHEDULE: "                if True:\n"},
        fails=("schedule-index.as-things-are-now", "schedule-index.page-for.each-user-once"),
    ),
    Wrong(
        "reads who has switched the brief off",
        {BY_SCHEDULE: "                if row.is_active or fields_of(row) in self._fields.values():\n"},
        fails=("schedule-index.as-things-are-now", "schedule-index.page-for.each-user-once"),
    ),
    Wrong(
        "keeps schedules that nobody has",
        {"            self._by_schedule, self._fields = {}, {}\n": "            self._by_schedule = {}\n"},
        fails=("schedule-index.as-things-are-now", "schedule-index.forgotten-leave-none"),
    ),
    Wrong(
        "joins fields to an id",
        {
            "    def _in_order(self)": '    def _id(self, fields):\n        return "".join(map(str, (fields.frequency, fields.time_of_day, fields.timezone, fields.day_of_week, fields.days)))\n\n    def _in_order(self)',
            "self._fields[repr(fields)] = fields": "self._fields[self._id(fields)] = fields",
            "self._by_schedule.setdefault(repr(fields), [])": "self._by_schedule.setdefault(self._id(fields), [])",
        },
        fails=("schedule-index.each-schedule-once",),
    ),
    Wrong(
        "takes nothing and the empty text for one",
        {
            "                    fields = fields_of(row)\n": "                    fields = fields_of(evolve(row, timezone=row.timezone or None))\n"
        },
        fails=("schedule-index.each-schedule-once",),
    ),
    Wrong(
        "takes days for a set",
        {
            "                    fields = fields_of(row)\n": "                    fields = fields_of(evolve(row, days=row.days and tuple(sorted({*row.days}))))\n"
        },
        fails=("schedule-index.each-schedule-once",),
    ),
    Wrong(
        "cuts what it indexes",
        {
            "                    fields = fields_of(row)\n": "                    fields = fields_of(evolve(row, timezone=row.timezone and row.timezone[:255]))\n"
        },
        fails=("schedule-index.fields-of-any-length",),
    ),
    Wrong(
        "reads people of one schedule only",
        {"for schedule in set(schedules) for user_id": "for schedule in sorted(schedules)[:1] for user_id"},
        fails=("schedule-index.page-for.each-user-once",),
    ),
    Wrong(
        "breaks where nobody has a schedule",
        {"self._by_schedule.get(schedule, ())": "self._by_schedule[schedule]"},
        fails=(
            "schedule-index.as-things-are-now",
            "schedule-index.page-for.each-user-once",
            "schedule-index.forgotten-leave-none",
        ),
    ),
    Wrong(
        "reads everybody where no schedule is asked for",
        {
            "for schedule in set(schedules) for user_id": "for schedule in set(schedules or self._by_schedule) for user_id"
        },
        fails=("schedule-index.page-for.each-user-once",),
    ),
    Wrong(
        "gives people twice",
        {"        return Page(items, next_cursor)": "        return Page([*items, *items], next_cursor)"},
        fails=(
            "schedule-index.each-schedule-once",
            "schedule-index.as-things-are-now",
            "schedule-index.page-for.each-user-once",
            "schedule-index.page-for.rows-come-and-go",
            "schedule-index.page-for.since-when",
            "schedule-index.fields-of-any-length",
        ),
    ),
    Wrong(
        "forgets since when a schedule holds",
        {"having[user_id], self._rows[user_id].effective_from)": "having[user_id])"},
        fails=("schedule-index.page-for.since-when",),
    ),
    Wrong(
        "counts pages of people by their place",
        {
            "people, next_cursor = _page(sorted(having), cursor, limit)": "order, begin = sorted(having), int(cursor or 0)\n        people = order[begin : begin + limit]\n        next_cursor = str(begin + limit) if begin + limit < len(order) else None"
        },
        fails=("schedule-index.page-for.rows-come-and-go",),
    ),
    Wrong(
        "gives a page of no people",
        {
            "        check_limit(limit)\n        self._in_order()": "        limit = max(limit, 0)\n        self._in_order()"
        },
        fails=("schedule-index.page-for.limit-below-one-refused",),
    ),
    Wrong(
        "keeps the schedule of whom it forgets",
        {"        self._order = None\n        return int(": "        return int("},
        fails=("schedule-index.as-things-are-now", "schedule-index.forgotten-leave-none"),
    ),
]

PREFERENCES = [*KEPT, *PAGED, *INDEXED]
