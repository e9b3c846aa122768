"""The host on Celery: ``celery -A celery_app worker`` and ``celery -A celery_app beat``."""

import os

from celery import Celery
from engine_app import BRIEFS_AT_ONCE, GRACE, PRIORITIES, make

from fanout_briefs.adapters.celery import CeleryDispatcher, add_tasks

app = Celery("engine_app", broker=os.environ["CELERY_BROKER"])
app.conf.task_default_queue = os.environ["CELERY_QUEUE"]
app.conf.event_exchange = f"{app.conf.task_default_queue}.events"
app.conf.task_queue_max_priority = 10
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_enable_remote_control = False
app.conf.broker_connection_retry_on_startup = True
if BRIEFS_AT_ONCE:  # The workers' command says how many: those of a queue of their own.
    app.conf.task_routes = {"fanout_briefs.daily_brief": {"queue": f"{app.conf.task_default_queue}.briefs"}}
dispatcher = CeleryDispatcher(app, priorities=PRIORITIES)
briefs = make(dispatcher, None)
add_tasks(app, briefs, dispatcher, every=None, grace=GRACE)
