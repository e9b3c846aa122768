"""What connects the site to the library: ports over the models, as plain synchronous code that runs in threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import wraps
from typing import ParamSpec, TypeVar

import anyio
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import close_old_connections
from django.template.loader import render_to_string

from fanout_briefs import Briefs, Html, Page, Preference, Project, ProjectBrief, Recipient, SectionRequest, Window
from fanout_briefs.adapters.celery import CeleryDispatcher
from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.adapters.in_thread import in_thread
from fanout_briefs.adapters.postgres import PostgresStorage
from fanout_briefs.adapters.sqlite import SqliteStorage
from mysite.celery import app

from . import models

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _own_connection(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Do around each call in a thread what Django does around each request, which these are not."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        close_old_connections()
        try:
            return method(*args, **kwargs)
        finally:
            close_old_connections()

    return call


class Preferences:
    """Who wants a brief, and when."""

    @_own_connection
    def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        """Read on from the last key of the page before."""
        rows = list(models.BriefPreference.objects.filter(pk__gt=int(cursor or 0)).order_by("pk")[:limit])
        return Page([_preference(row) for row in rows], str(rows[-1].pk) if len(rows) == limit else None)

    @_own_connection
    def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        """Asked again right before the work, so that a switch to off wins over an older plan."""
        return {str(row.pk): _preference(row) for row in models.BriefPreference.objects.filter(pk__in=_keys(user_ids))}


class Projects:
    """What a brief is about: one section for each of the user's projects."""

    @_own_connection
    def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002  # the same whatever its span
        """In the order of their names."""
        rows = models.Project.objects.filter(members=int(user_id)).order_by("name")
        return [Project(id=str(row.pk), name=row.name) for row in rows]


class Sections:
    """How one section is made, from templates of Django's."""

    @_own_connection
    def generate(self, request: SectionRequest) -> ProjectBrief | None:
        """Tell what happened in the project in the brief's span of time; None where nothing did."""
        updates = models.Update.objects.filter(
            project=int(request.project.id), created_at__gt=request.window.start, created_at__lte=request.window.end
        ).order_by("created_at")
        if not updates:
            return None
        text, html = (render_to_string(f"digests/section.{kind}", {"updates": updates}) for kind in ("txt", "html"))
        return ProjectBrief(text, Html(html))


class Recipients:
    """Where mail goes."""

    @_own_connection
    def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        """Asked right before sending; whoever is inactive or has no address gets none."""
        users = get_user_model().objects.filter(pk__in=_keys(user_ids), is_active=True).exclude(email="")
        return {str(user.pk): Recipient(user.email, user.get_full_name() or None) for user in users}


def _keys(user_ids: Collection[str]) -> Sequence[int]:
    return [int(user_id) for user_id in user_ids if user_id.isascii() and user_id.isdigit()]


def _preference(row: models.BriefPreference) -> Preference:
    return Preference(
        user_id=str(row.pk),
        frequency=row.frequency,
        time_of_day=row.time_of_day.isoformat("seconds"),
        timezone=row.timezone,
        is_active=row.is_active,
    )


dispatcher = CeleryDispatcher(app)


def make_briefs() -> Briefs:
    """The briefs of the site."""
    ledger = settings.DATABASE_URL
    return Briefs(
        PostgresStorage(ledger) if ledger else SqliteStorage(settings.BRIEFS_LEDGER),
        projects=in_thread(Projects()),
        generator=in_thread(Sections()),
        preferences=in_thread(Preferences()),
        recipients=in_thread(Recipients()),
        mailer=EmlMailer(settings.BRIEFS_OUTBOX),  # SmtpMailer in production.
        dispatcher=dispatcher if settings.CELERY_BROKER_URL else None,
    )


def with_briefs(ask: Callable[[Briefs], Awaitable[_T]]) -> _T:
    """Ask something of the briefs from synchronous code, such as a command."""

    async def opened() -> _T:
        async with make_briefs() as briefs:
            return await ask(briefs)

    return anyio.run(opened)
