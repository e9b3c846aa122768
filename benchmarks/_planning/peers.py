"""Other people's schedulers and queues, asked for the part of the work that they have.

APScheduler has one schedule a user, which is how its documentation would have it, and is measured when one in 24 of
them is due and does nothing at all. Procrastinate has one deferred job for each slot that is to be sent, with a lock
so that it waits once; who is due, and who is skipped, somebody else has found out before the clock starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Final, Protocol

import psycopg

from _report import is_installed

from .bed import Bed, Rival, Step
from .world import BAD, LEAD, NAME, Wrong

APSCHEDULER_ADD, APSCHEDULER_RUN = "APScheduler: add a schedule a user", "APScheduler: run those that are due"
PROCRASTINATE, SINGLY = "Procrastinate: batch_defer of 1,000", "Procrastinate: defer one by one"
PACKAGES = ("apscheduler", "procrastinate", "sqlalchemy")
_BATCH = 1_000


class PostgresLike(Bed, Protocol):
    """What is needed of a bed."""

    dsn: str
    connection: psycopg.Connection[Any]


def postgres_peers(bed: PostgresLike) -> dict[str, Rival]:
    """Give those that are installed. Sizes are those that take seconds and not minutes."""
    found: dict[str, Rival] = {}
    if is_installed("apscheduler") and is_installed("sqlalchemy"):
        found[APSCHEDULER_RUN] = Rival(lambda: _apscheduler(bed), most_users=10_000)
    if is_installed("procrastinate"):
        found[PROCRASTINATE] = Rival(lambda: _procrastinate(bed, PROCRASTINATE, _BATCH), most_due=150_000)
        found[SINGLY] = Rival(lambda: _procrastinate(bed, SINGLY, 1), most_due=5_000)
    return found


class _Ran:
    """What APScheduler has run. It knows jobs by the names of functions, so this cannot be anybody's argument."""

    users: Final[list[str]] = []
    is_enough = threading.Event()
    enough = 0


def note(user_id: str) -> None:
    """Be the job that APScheduler runs."""
    _Ran.users.append(user_id)
    if len(_Ran.users) == _Ran.enough:
        _Ran.is_enough.set()


@contextmanager
def _apscheduler(bed: PostgresLike) -> Generator[list[Step]]:
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler_of = import_module("apscheduler.schedulers.background").BackgroundScheduler
    store_of = import_module("apscheduler.jobstores.sqlalchemy").SQLAlchemyJobStore
    trigger_of = import_module("apscheduler.triggers.cron").CronTrigger
    bed.connection.execute("DROP TABLE IF EXISTS public.apscheduler_jobs")
    address = bed.dsn.replace("postgresql://", "postgresql+psycopg://")
    scheduler = scheduler_of(jobstores={"default": store_of(url=address, tableschema="public")}, timezone=UTC)
    users = [user for user in bed.world.people if user.wish not in BAD]
    _Ran.users.clear()
    _Ran.is_enough.clear()
    _Ran.enough = bed.world.due
    scheduler.start(paused=True)

    def add() -> None:
        now = datetime.now(UTC)
        for user in users:
            hour, minute, *_ = (user.wish.time_of_day or "09:00").split(":")
            scheduler.add_job(
                note,
                trigger_of(hour=int(hour), minute=int(minute), timezone=user.wish.timezone),
                args=[user.user_id],
                id=user.user_id,
                next_run_time=now - timedelta(seconds=1) if user.slot else now + timedelta(days=1),
                misfire_grace_time=None,
            )

    def run() -> None:
        scheduler.resume()
        _Ran.is_enough.wait(600)
        scheduler.shutdown(wait=True)

    def is_added(_: object) -> None:
        found = bed.connection.execute("SELECT count(*) FROM public.apscheduler_jobs").fetchone()
        if found != (len(users),):
            raise Wrong(f"APScheduler keeps {found} schedules of {len(users)}")

    def has_run(_: object) -> None:
        if sorted(_Ran.users) != sorted(bed.world.expected):
            raise Wrong(f"APScheduler ran {len(_Ran.users)} jobs where {bed.world.due} were due")

    yield [Step(APSCHEDULER_ADD, add, is_added), Step(APSCHEDULER_RUN, run, has_run)]


@contextmanager
def _procrastinate(bed: PostgresLike, name: str, batch: int) -> Generator[list[Step]]:
    module = import_module("procrastinate")
    job_of = import_module("procrastinate.jobs").Job
    bed.connection.execute("DROP SCHEMA IF EXISTS procrastinate CASCADE")
    bed.connection.execute("CREATE SCHEMA procrastinate")
    app = module.App(
        connector=module.SyncPsycopgConnector(
            conninfo=f"{bed.dsn}&options=-csearch_path%3Dprocrastinate", min_size=1, max_size=1
        )
    )
    wanted = [user for user in bed.world.people if bed.world.expected.get(user.user_id) == "pending"]

    def run() -> None:
        jobs = [
            job_of(
                queue="briefs",
                lock=None,
                queueing_lock=f"{NAME}:{user.slot.local_date}:{user.user_id}",
                task_name=NAME,
                task_kwargs={"user_id": user.user_id, "on": str(user.slot.local_date)},
                scheduled_at=user.slot.deliver_at - LEAD,
            )
            for user in wanted
            if user.slot is not None
        ]
        for begin in range(0, len(jobs), batch):
            app.job_manager.batch_defer_jobs(jobs[begin : begin + batch])

    def check(_: object) -> None:
        question = "SELECT count(DISTINCT queueing_lock) FROM procrastinate.procrastinate_jobs WHERE status = 'todo'"
        found = bed.connection.execute(question).fetchone()
        if found != (bed.world.sent,):
            raise Wrong(f"Procrastinate keeps {found} jobs of {bed.world.sent}")

    with app.open():
        app.schema_manager.apply_schema()
        yield [Step(name, run, check)]
