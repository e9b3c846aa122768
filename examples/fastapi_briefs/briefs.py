"""What connects the host to the library: four ports over its tables, and the engine that carries the jobs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import procrastinate
from sqlalchemy import select

from fanout_briefs import Briefs, Page, Preference, Project, ProjectBrief, Recipient, SectionRequest, Window
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher, add_tasks, autocommit_pool

from .database import DSN, Session, Task, User


class Users:
    """Who wants a brief, and when."""

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        """Read on from the last id of the page before."""
        query = select(User).where(User.id > (cursor or "")).order_by(User.id).limit(limit)
        async with Session() as session:
            users = (await session.scalars(query)).all()
        return Page([_preference(user) for user in users], users[-1].id if len(users) == limit else None)

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """Asked again right before the work, so that a switch to off wins over an older plan."""
        return {user.id: _preference(user) for user in await _users(user_ids)}


class Addresses:
    """Where mail goes."""

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """Asked right before sending."""
        return {user.id: Recipient(user.email, opted_out=not user.wants_brief) for user in await _users(user_ids)}


class Projects:
    """What a brief is about: each project in which the user has tasks."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002  # the same whatever its span
        """One section each, in this order."""
        query = select(Task.project).where(Task.user_id == user_id).distinct().order_by(Task.project)
        async with Session() as session:
            return [Project(id=name, name=name) for name in await session.scalars(query)]


class Summaries:
    """How one section is made."""

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        """List the project's tasks, and say which are new since the brief before."""
        query = select(Task).where(Task.user_id == request.user_id, Task.project == request.project.id)
        async with Session() as session:
            tasks = (await session.scalars(query.order_by(Task.id))).all()
        since = request.window.start
        lines = [f"- {task.title}{' (new)' if task.created_at > since else ''}" for task in tasks]
        return ProjectBrief("\n".join(lines)) if lines else None


async def _users(user_ids: Collection[str]) -> Sequence[User]:
    async with Session() as session:
        return (await session.scalars(select(User).where(User.id.in_(user_ids)))).all()


def _preference(user: User) -> Preference:
    return Preference(
        user_id=user.id,
        frequency=user.frequency,
        time_of_day=user.time_of_day,
        timezone=user.timezone,
        is_active=user.wants_brief,
    )


dispatcher = ProcrastinateDispatcher(DSN)
storage = PostgresStorage(DSN, on_pending=dispatcher.within)  # A job and its message are one transaction.
briefs = Briefs(
    storage,
    projects=Projects(),
    generator=Summaries(),
    preferences=Users(),
    recipients=Addresses(),
    mailer=EmlMailer(os.environ.get("OUTBOX", "outbox")),  # SmtpMailer in production.
    dispatcher=dispatcher,  # What was lost on the way to a worker is sent again.
)

worker = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN, pool_factory=autocommit_pool))
add_tasks(worker, briefs, dispatcher)  # Its workers also plan, every five minutes.
