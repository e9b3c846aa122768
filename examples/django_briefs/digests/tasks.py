"""What Celery's workers do: the library's tasks, which carry ids and nothing else, and one of the site's own."""

from __future__ import annotations

from celery import shared_task

from fanout_briefs.adapters.celery import add_tasks
from mysite.celery import app

from .briefs import dispatcher, make_briefs, with_briefs

add_tasks(app, make_briefs(), dispatcher)  # Beats plan, every five minutes; workers make and mail.


@shared_task(ignore_result=True)
def brief_now(user_id: str) -> None:
    """Make somebody's brief of today at once, and have it mailed."""
    with_briefs(lambda briefs: briefs.generate_now(user_id))
