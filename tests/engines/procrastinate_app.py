"""The host on Procrastinate: ``procrastinate --app=procrastinate_app.app worker``."""

import os

import procrastinate
from engine_app import DSN, LEASE, PRIORITIES, SCHEMA, make

from fanout_briefs.adapters.procrastinate import ProcrastinateDispatcher, add_tasks, autocommit_pool

dispatcher = ProcrastinateDispatcher(DSN, schema=SCHEMA, priorities=PRIORITIES)
briefs = make(dispatcher, dispatcher.within)
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["PGDSN"], pool_factory=autocommit_pool),
    worker_defaults={"update_heartbeat_interval": 1, "stalled_worker_timeout": 3},
)
add_tasks(app, briefs, dispatcher, plan=None, stalled_after=LEASE)
