"""Wrong storages in SQLite: what calls cost, and what two processes see of each other."""

from __future__ import annotations

from wrong import SQLITE, Wrong

OPENING = "        self._sessions: Final = Sessions(str(self._database.path), partial(Session, self._database))\n"

SQL = [
    Wrong(
        "finds one by one",
        {
            "lambda connection: {row[0]: sql.to_job(row) for row in connection.execute(sql.FIND, asked)}\n": (
                "lambda connection: {row[0]: sql.to_job(row) for key in keys\n"
                "                                for row in connection.execute(sql.FIND, (sql.array([key]),))}\n"
            )
        },
        right=SQLITE,
        fails=("costs.batches",),
    ),
    Wrong(
        "tells standings one by one",
        {
            "for key, status, at, code, reason in connection.execute(sql.STANDINGS, asked)": (
                "for each in keys\n"
                "                for key, status, at, code, reason in connection.execute(sql.STANDINGS, (sql.array([each]),))"
            )
        },
        right=SQLITE,
        fails=("costs.standings",),
    ),
    Wrong(
        "tells standings without the policy's word",
        {"None if code is None else SkipReason(code), reason)": "None if code is None else SkipReason(code), None)"},
        right=SQLITE,
        fails=("standings.as-find-has-it",),
    ),
    Wrong(
        "inserts one by one",
        {
            "    if rows:\n        connection.executemany(sql.PUT_JOB, rows)\n": "    for row in rows:\n        connection.execute(sql.PUT_JOB, row)\n"
        },
        right=SQLITE,
        fails=("costs.batches",),
    ),
    Wrong(
        "plans one by one",
        {"_CHUNK: Final = 4_000": "_CHUNK: Final = 1"},
        right=SQLITE,
        fails=("costs.batches",),
    ),
    Wrong(
        "beats one by one",
        {
            '        values = {"claims": sql.from_claims(claims), "until": sql.micros(until)}\n        rows = await self._open_session().pulse.write(_all(sql.BEAT, values))\n': (
                "        rows = []\n        for each in claims:\n"
                '            values = {"claims": sql.from_claims([each]), "until": sql.micros(until)}\n'
                "            rows += await self._open_session().pulse.write(_all(sql.BEAT, values))\n"
            )
        },
        right=SQLITE,
        fails=("costs.held-jobs",),
    ),
    Wrong(
        "lets go one by one",
        {
            '        await self._open_session().writer.write(_all(sql.RELEASE, {"claims": sql.from_claims(claims)}))\n': (
                "        for each in claims:\n"
                '            await self._open_session().writer.write(_all(sql.RELEASE, {"claims": sql.from_claims([each])}))\n'
            )
        },
        right=SQLITE,
        fails=("costs.held-jobs",),
    ),
    Wrong(
        "erases one by one",
        {
            '        return await writer.write(\n            partial(_prune, types=sorted(set(types)), values={"before": sql.micros(before), "limit": limit})\n        )\n': (
                "        erased = 0\n"
                '        one = partial(_prune, types=sorted(set(types)), values={"before": sql.micros(before), "limit": 1})\n'
                "        while erased < limit and await writer.write(one):\n"
                "            erased += 1\n"
                "        return erased\n"
            )
        },
        right=SQLITE,
        fails=("costs.oversight",),
    ),
    Wrong(
        "puts preferences one by one",
        {
            "            lambda connection: connection.executemany(sql.PUT_PREFERENCE, map(sql.from_preference, rows))\n": (
                "            lambda connection: [connection.execute(sql.PUT_PREFERENCE, sql.from_preference(row)) for row in rows]\n"
            )
        },
        right=SQLITE,
        fails=("costs.preferences",),
    ),
    Wrong(
        "reads people one by one",
        {
            "        if len(found) == limit:\n            break\n": (
                "        for each in found:\n            connection.execute(sql.PREFERENCES, (sql.array([each.user_id]),))\n"
                "        if len(found) == limit:\n            break\n"
            )
        },
        right=SQLITE,
        fails=("costs.schedule-index",),
    ),
    Wrong(
        "answers from memory",
        {
            OPENING: OPENING + "        self._known = {}\n",
            "        rows = await self._open_session().reader.read(_all(sql.PAUSES, (sql.array(types),)))\n": (
                "        self._open_session()\n"
                "        if self._known.get(tuple(types)) is None:\n"
                "            self._known[tuple(types)] = await self._open_session().reader.read(_all(sql.PAUSES, (sql.array(types),)))\n"
                "        rows = self._known[tuple(types)]\n"
            ),
        },
        right=SQLITE,
        fails=("shared.one-content",),
    ),
    Wrong(
        "opens a file of its own for each process",
        {
            "self._database = Database(path=Path(path),": 'self._database = Database(path=Path(path).with_suffix(f".{id(self)}"),'
        },
        right=SQLITE,
        fails=(
            "shared.one-content",
            "shared.planners-and-workers",
        ),
    ),
]
