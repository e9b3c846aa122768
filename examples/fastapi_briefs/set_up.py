"""Makes the tables that are missing: the host's, the library's and the engine's. Harmless where they are."""

from __future__ import annotations

import asyncio

from sqlalchemy import func, select

from .briefs import storage, worker
from .database import Base, engine


async def make_tables() -> None:
    """Of processes that start at once, one makes them and the others wait."""
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(20260309)))
        await connection.run_sync(Base.metadata.create_all)
        await storage.migrate()
        async with worker.open_async():
            if not await worker.check_connection_async():
                await worker.schema_manager.apply_schema_async()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables())
