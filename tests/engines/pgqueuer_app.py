"""The host on PgQueuer: ``pgq run pgqueuer_app:main``."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from engine_app import BRIEFS_AT_ONCE, DSN, GRACE, PRIORITIES, SCHEMA, make
from pgqueuer import PgQueuer

from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher, carrying

dispatcher = PgQueuerDispatcher(DSN, schema=SCHEMA, priorities=PRIORITIES)
briefs = make(dispatcher, dispatcher.within)


@asynccontextmanager
async def main() -> AsyncGenerator[PgQueuer]:
    connection = await asyncpg.connect(os.environ["PGDSN"])
    try:
        async with carrying(
            PgQueuer.from_asyncpg_connection(connection),
            briefs,
            every=None,
            concurrency_limits={"daily_brief": BRIEFS_AT_ONCE},
            grace=GRACE,
        ) as worker:
            yield worker
    finally:
        await connection.close()
