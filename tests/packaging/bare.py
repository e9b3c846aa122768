"""A day with the wheel alone: ``python bare.py ADAPTER ...`` also has each adapter say that it needs the extra of its name.

A script, for environments without pytest; ``nox -s bare`` runs it.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fanout_briefs import Briefs, Preference, Project, ProjectBrief, SectionRequest, Window
from fanout_briefs.adapters.sqlite import SqliteStorage

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
NEITHER = {"trio", "pytest", "hypothesis", "typer", "rich", "jinja2", "psycopg", "celery"}


class Host:
    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "Apollo")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        return ProjectBrief(f"News for {request.user_id}")


async def day(folder: Path) -> None:
    host = Host()
    storage = SqliteStorage(folder / "briefs.db")
    async with Briefs(storage, projects=host, generator=host) as briefs:
        await storage.preferences.put([Preference(user_id="ana")])
        await briefs.plan(NOW)
        report = await briefs.run_once(NOW)
        assert report.ok, report
        brief = await briefs.latest("ana")
        assert brief is not None
        assert [section.title for section in brief.sections] == ["Apollo"]


def main(extras: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(day(Path(folder)))
    assert not NEITHER & sys.modules.keys(), NEITHER & sys.modules.keys()
    for extra in extras:
        told = "nothing: it can be imported"
        try:
            importlib.import_module(f"fanout_briefs.adapters.{extra}")
        except ImportError as missing:
            told = str(missing)
        assert f"fanout-briefs[{extra}]" in told, f"adapters.{extra} says {told}"
    print(f"one brief with Python {sys.version.split()[0]} and nothing else")


if __name__ == "__main__":
    main(sys.argv[1:])
