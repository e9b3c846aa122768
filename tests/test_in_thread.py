"""Plain synchronous objects as ports."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fanout_briefs import ports
from fanout_briefs.adapters.in_thread import in_thread
from fanout_briefs.engine import DispatcherPowers
from fanout_briefs.model import (
    JobRef,
    Mail,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    Window,
)

tenant = contextvars.ContextVar("tenant", default="nobody")


class People:
    """What a host over a synchronous ORM writes."""

    def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        return Page([Preference(user_id=f"{tenant.get()}:{cursor}:{limit}")])

    def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        tenant.set("changed in the thread")
        return {threading.current_thread().name: Preference(user_id=user_id) for user_id in user_ids}


class Addresses:
    def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.com") for user_id in user_ids}


class Work:
    def of(self, user_id: str, window: Window) -> Sequence[Project]:
        raise LookupError(user_id)


class Writer:
    def generate(self, request: SectionRequest) -> ProjectBrief | None:
        return None


class Visits:
    def last_visits(self, user_ids: Collection[str]) -> Mapping[str, datetime | None]:
        return dict.fromkeys(user_ids)


class Post:
    idempotent = True

    def send(self, mail: Mail, key: str) -> Receipt:
        return Receipt(key)


class Queue:
    powers = DispatcherPowers()

    def dispatch(self, jobs: Sequence[JobRef]) -> None:
        return None


async def test_each_port_can_be_had_and_type_checkers_know_which() -> None:
    preferences: ports.Preferences = in_thread(People())
    projects: ports.Projects = in_thread(Work())
    generator: ports.Generator = in_thread(Writer())
    engagement: ports.Engagement = in_thread(Visits())
    recipients: ports.Recipients = in_thread(Addresses())
    mailer: ports.Mailer = in_thread(Post())
    dispatcher: ports.Dispatcher = in_thread(Queue())

    assert (await preferences.page("c", limit=7)).items[0].user_id == "nobody:c:7"
    assert await engagement.last_visits(["ada"]) == {"ada": None}
    assert (await recipients.get(["ada"]))["ada"].address == "ada@example.com"
    assert mailer.idempotent is True
    await dispatcher.dispatch([])
    assert callable(projects.of)
    assert callable(generator.generate)


async def test_a_method_runs_in_another_thread() -> None:
    (name,) = await in_thread(People()).get(["ada"])
    assert name != threading.current_thread().name


async def test_what_a_method_raises_comes_to_the_caller() -> None:
    any_window: Any = None
    with pytest.raises(LookupError, match="ada"):
        await in_thread(Work()).of("ada", any_window)


async def test_the_thread_sees_context_variables_and_keeps_its_own_changes() -> None:
    token = tenant.set("acme")
    people = in_thread(People())
    assert (await people.page(None, 1)).items[0].user_id == "acme:None:1"
    await people.get(["ada"])
    assert tenant.get() == "acme"
    tenant.reset(token)


class Meeting(Queue):
    """Counts how many are inside at once; each waits until the expected number has come."""

    def __init__(self, expected: int) -> None:
        self.barrier = threading.Barrier(expected, timeout=10)
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def dispatch(self, jobs: Sequence[JobRef]) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.barrier.wait()
        with self.lock:
            self.inside -= 1


def test_a_number_limits_the_threads_anew_in_every_event_loop(anyio_backend_name: str) -> None:
    meeting = Meeting(expected=3)
    queue = in_thread(meeting, limiter=3)  # Made where no event loop runs.

    async def six() -> None:
        none: list[JobRef] = []
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(queue.dispatch, none)

    for _ in range(2):
        anyio.run(six, backend=anyio_backend_name)
    assert meeting.most == 3


async def test_a_limiter_may_be_shared_and_two_numbers_are_not() -> None:
    shared = anyio.CapacityLimiter(2)
    borrowed: list[float] = []

    class Look(Queue):
        def dispatch(self, jobs: Sequence[JobRef]) -> None:
            borrowed.append(shared.borrowed_tokens)

    await in_thread(Look(), limiter=shared).dispatch([])
    await in_thread(Look(), limiter=5).dispatch([])
    assert borrowed == [1, 0]


async def test_a_cancelled_call_ends_only_when_the_method_does() -> None:
    done = threading.Event()
    scope = anyio.CancelScope()

    class Slow(Queue):
        def dispatch(self, jobs: Sequence[JobRef]) -> None:
            anyio.from_thread.run_sync(scope.cancel)
            done.set()

    with scope:
        await in_thread(Slow()).dispatch([])
    assert done.is_set()


class Wrong:
    limit = 5

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        raise NotImplementedError

    def get(self, user_ids: Collection[str]) -> Iterator[str]:
        yield from user_ids

    @staticmethod
    async def of() -> None: ...

    @functools.partial
    async def last_visits() -> None: ...

    async def _private(self) -> None: ...


def test_async_methods_and_generators_are_refused_at_once_and_all_named() -> None:
    wrong: Any = Wrong()
    with pytest.raises(TypeError) as caught:
        in_thread(wrong)
    assert str(caught.value) == (
        "in_thread(Wrong): get is a generator: return a list; last_visits is async: give the object itself as the"
        " port; of is async: give the object itself as the port; page is async: give the object itself as the port"
    )


async def test_a_coroutine_that_comes_out_of_a_plain_method_is_refused_too() -> None:
    class Hidden(Queue):
        def dispatch(self, jobs: Sequence[JobRef]) -> Any:
            return anyio.lowlevel.checkpoint()

    with pytest.raises(TypeError, match="returned a coroutine"):
        await in_thread(Hidden()).dispatch([])


def test_a_property_is_not_read_while_wrapping_and_errors_of_reading_it_come_through() -> None:
    class Remote:
        def send(self, mail: Mail, key: str) -> Receipt:
            return Receipt(key)

        @property
        def idempotent(self) -> bool:
            raise ConnectionError("no database")

    mailer = in_thread(Remote())
    with pytest.raises(ConnectionError):
        _ = mailer.idempotent
    assert not hasattr(mailer, "page")


@pytest.mark.parametrize("limiter", [0, -1, "3", 1.5, True])
def test_what_is_no_limit_is_refused(limiter: Any) -> None:
    with pytest.raises(ValueError, match=r"^limiter=.*must be an int of at least 1, a CapacityLimiter, or None"):
        in_thread(Queue(), limiter=limiter)


def test_a_class_is_refused() -> None:
    wrong: Any = Queue
    with pytest.raises(TypeError, match=r"^in_thread\(Queue\): must be an object, not a class: Queue\(\.\.\.\)$"):
        in_thread(wrong)
