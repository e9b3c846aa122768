"""The host on Celery: ``celery -A celery_app worker`` and ``celery -A celery_app beat``."""

import os

from celery import Celery
from engine_app import GRACE, make

from fanout_briefs.adapters.celery import CeleryDispatcher, add_tasks

app = Celery("engine_app", broker=os.environ["CELERY_BROKER"])
app.conf.task_default_queue = os.environ["CELERY_QUEUE"]
app.conf.event_exchange = f"{app.conf.task_default_queue}.events"
app.conf.task_queue_max_priority = 10
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_enable_remote_control = False
app.conf.broker_connection_retry_on_startup = True
dispatcher = CeleryDispatcher(app)
briefs = make(dispatcher, None)
add_tasks(app, briefs, dispatcher, every=None, grace=GRACE)
