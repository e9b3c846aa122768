"""Clauses of ``ports.Engagement``. Each says with which visits the adapter is opened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import anyio

from fanout_briefs.ports import Engagement
from fanout_briefs.testing.checks import Broken, same
from fanout_briefs.testing.kits import engagement_kit
from fanout_briefs.testing.slots import DAY, HOUR, NOW

_AWKWARD = (
    "ann",
    "Ann",
    "ANN",
    "an",
    "' OR 1=1 --",
    "%",
    "_",
    "e\u0301",
    "\u00e9",
    "日本語😀",
    "a:b",
    "1",
    "01",
    "x" * 255,
)
_MANY = {f"user{number}": NOW - number * HOUR for number in range(3_000)}
_TOKYO = timezone(timedelta(hours=9))
_FEW: Mapping[str, datetime | None] = {"ann": NOW, "bob": NOW - DAY, "never": None}


@engagement_kit.clause("engagement.last-visits", given=(_FEW,))
async def _last_visits_are_given(engagement: Engagement) -> None:
    """Each user's last visit is given, as the instant that it was."""
    same(await engagement.last_visits(["ann", "bob"]), {"ann": NOW, "bob": NOW - DAY})
    same(await engagement.last_visits({"bob"}), {"bob": NOW - DAY})


@engagement_kit.clause("engagement.never-is-none", given=(_FEW,))
async def _never_is_none(engagement: Engagement) -> None:
    """A user who was never seen is given as None; left out would mean that nobody can tell."""
    same(await engagement.last_visits(["never", "ann"]), {"never": None, "ann": NOW})


@engagement_kit.clause(
    "engagement.aware", given=({"ann": NOW.astimezone(_TOKYO), "bob": NOW + timedelta(microseconds=1)},)
)
async def _instants_are_aware(engagement: Engagement) -> None:
    """Instants are aware and exact, in whatever zone they were recorded."""
    visits = await engagement.last_visits(["ann", "bob"])
    naive = [user_id for user_id, at in visits.items() if at is not None and at.utcoffset() is None]
    if naive:
        raise Broken(f"came back: naive instants for {naive}\npromised:  aware ones")
    same(visits, {"ann": NOW, "bob": NOW + timedelta(microseconds=1)})


@engagement_kit.clause("engagement.nobody", given=(_FEW,))
async def _nobody_is_fine(engagement: Engagement) -> None:
    """Asked for nobody, it answers with nobody."""
    same(await engagement.last_visits([]), {})


@engagement_kit.clause("engagement.only-those", given=(_FEW,))
async def _only_users_asked_for(engagement: Engagement) -> None:
    """Nobody is in the answer who was not asked for, and who is asked for twice is there once."""
    same(await engagement.last_visits(["bob", "bob"]), {"bob": NOW - DAY})


@engagement_kit.clause("engagement.unknown-users", given=(_FEW,))
async def _unknown_users_break_nothing(engagement: Engagement) -> None:
    """A user whom the host does not know is None or left out, and nobody else's visit is lost."""
    visits = dict(await engagement.last_visits(["ann", "nobody", "bob"]))
    same(visits.pop("nobody", None), None)
    same(visits, {"ann": NOW, "bob": NOW - DAY})


@engagement_kit.clause(
    "engagement.awkward-ids", given=({user_id: NOW - number * DAY for number, user_id in enumerate(_AWKWARD)},)
)
async def _awkward_ids_are_told_apart(engagement: Engagement) -> None:
    """Awkward ids are told apart, by case, by accent and by length."""
    same(
        await engagement.last_visits(_AWKWARD), {user_id: NOW - number * DAY for number, user_id in enumerate(_AWKWARD)}
    )


@engagement_kit.clause("engagement.thousands-at-once", given=(_MANY,))
async def _thousands_at_once(engagement: Engagement) -> None:
    """Thousands of users are answered at once."""
    same(await engagement.last_visits([*_MANY]), _MANY)


@engagement_kit.clause("engagement.many-tasks", given=(_FEW,))
async def _many_tasks_may_ask_at_once(engagement: Engagement) -> None:
    """Many tasks may ask at once, and each gets its own answer."""
    answers: dict[str, Mapping[str, datetime | None]] = {}

    async def ask(user_id: str) -> None:
        answers[user_id] = await engagement.last_visits([user_id])

    for _ in range(5):
        answers.clear()
        async with anyio.create_task_group() as tasks:
            for user_id in _FEW:
                tasks.start_soon(ask, user_id)
        same(answers, {user_id: {user_id: at} for user_id, at in _FEW.items()})


@engagement_kit.clause("engagement.cancellation", given=(_FEW,))
async def _cancellation_is_let_through(engagement: Engagement) -> None:
    """A call that is cancelled gives no wrong answer, and the next one works."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        same(await engagement.last_visits(["ann"]), {"ann": NOW})
    same(await engagement.last_visits(["ann"]), {"ann": NOW})


@engagement_kit.clause("engagement.costs", needs=("trace",), given=(_MANY,))
async def _a_page_costs_as_many_statements(engagement: Engagement, statements: list[str]) -> None:
    """A page costs as many statements whatever its size."""
    costs: list[int] = []
    for size in (2, len(_MANY)):
        statements.clear()
        await engagement.last_visits([*_MANY][:size])
        costs.append(len(statements))
    same(costs, [max(costs[0], 1)] * 2)
