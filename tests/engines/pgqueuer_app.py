"""The host on PgQueuer: ``pgq run pgqueuer_app:main``."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg
from engine_app import DSN, GRACE, SCHEMA, make
from pgqueuer import PgQueuer

from fanout_briefs.adapters.pgqueuer import PgQueuerDispatcher, carrying

dispatcher = PgQueuerDispatcher(DSN, schema=SCHEMA)
briefs = make(dispatcher, dispatcher.within)


@asynccontextmanager
async def main() -> AsyncGenerator[PgQueuer]:
    async with (
        await psycopg.AsyncConnection.connect(os.environ["PGDSN"], autocommit=True) as connection,
        carrying(PgQueuer.from_psycopg_connection(connection), briefs, every=None, grace=GRACE) as worker,
    ):
        yield worker
