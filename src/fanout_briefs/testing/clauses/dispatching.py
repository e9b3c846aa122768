"""Clauses of ``ports.Dispatcher``."""

from __future__ import annotations

from typing import cast

import anyio
import anyio.lowlevel

from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import JobRef
from fanout_briefs.ports import CancellingDispatcher, Dispatcher
from fanout_briefs.testing.checks import holds, same
from fanout_briefs.testing.kits import dispatcher_kit
from fanout_briefs.testing.slots import DAY, NOW, job


def _reference(user_id: str, day: int = 0) -> JobRef:
    slot = job(user_id, day)
    return JobRef(slot.dedup_key, slot.type, slot.run_at)


@dispatcher_kit.clause("dispatcher.powers")
async def _powers_are_declared(dispatcher: Dispatcher) -> None:
    """Its powers are declared as ``DispatcherPowers``; one that cancels takes back jobs, also any it does not have."""
    powers = cast("object", getattr(dispatcher, "powers", None))  # by the adapter's own code
    holds(isinstance(powers, DispatcherPowers), "an attribute powers that is a DispatcherPowers")
    if isinstance(powers, DispatcherPowers) and powers.cancels:
        cancelling = cast("CancellingDispatcher", dispatcher)
        await dispatcher.dispatch([_reference("ann")])
        for jobs in ([], [_reference("ann")], [_reference("ann"), _reference("nobody"), _reference("nobody")]):
            await cancelling.cancel(jobs)


@dispatcher_kit.clause("dispatcher.nothing")
async def _nothing_is_fine(dispatcher: Dispatcher) -> None:
    """Dispatching nothing is fine."""
    await dispatcher.dispatch([])


@dispatcher_kit.clause("dispatcher.again-does-no-harm")
async def _the_same_job_again(dispatcher: Dispatcher) -> None:
    """The same job may be dispatched again, in one batch and in a later one."""
    await dispatcher.dispatch([_reference("ann"), _reference("ann")])
    await dispatcher.dispatch([_reference("ann")])


@dispatcher_kit.clause("dispatcher.thousands-at-once")
async def _thousands_at_once(dispatcher: Dispatcher) -> None:
    """Thousands of jobs are dispatched at once."""
    await dispatcher.dispatch([_reference(f"user{number}") for number in range(3_000)])


@dispatcher_kit.clause("dispatcher.any-key-and-time")
async def _any_key_and_time(dispatcher: Dispatcher) -> None:
    """Any key and any time will do: ids are unicode, and a job may have been due long ago."""
    ids = ("日本語😀", "' OR 1=1 --", "a:b:c", "%s {} \\", "x" * 255)
    await dispatcher.dispatch([_reference(user_id) for user_id in ids])
    await dispatcher.dispatch(
        [JobRef("daily:2026-03-02:ann", "daily", at) for at in (NOW - 3_000 * DAY, NOW + 300 * DAY)]
    )


@dispatcher_kit.clause("dispatcher.many-tasks")
async def _many_tasks_may_dispatch_at_once(dispatcher: Dispatcher) -> None:
    """Many tasks may dispatch at once, the same jobs among them."""
    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(dispatcher.dispatch, [_reference("ann"), _reference(f"user{number}")])


@dispatcher_kit.clause("dispatcher.cancellation")
async def _cancellation_is_let_through(dispatcher: Dispatcher) -> None:
    """A call that is cancelled ends, and the next one works."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await dispatcher.dispatch([_reference("ann")])
        await anyio.lowlevel.checkpoint()
    same(scope.cancelled_caught, True)
    await dispatcher.dispatch([_reference("ann")])
