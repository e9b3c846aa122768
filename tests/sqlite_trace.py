"""Steps into a SQLite storage at one of its statements, for tests."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread

A_WHILE = 60


class Trace:
    """Keeps the statements of a storage, and lets a test step in at one of them."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.at: Callable[[str], None] | None = None

    def __call__(self, statement: str) -> None:
        self.statements.append(statement.strip())
        if self.at is not None:
            self.at(statement.strip())

    def take(self) -> list[str]:
        taken, self.statements = self.statements, []
        return taken


class Gate:
    """Holds the thread of a storage at one statement until a test lets it go on."""

    def __init__(self, at: str) -> None:
        self.at, self.reached, self.open = at, threading.Event(), threading.Event()

    def __call__(self, statement: str) -> None:
        if statement.startswith(self.at) and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(A_WHILE)


async def reached(gate: Gate) -> None:
    assert await anyio.to_thread.run_sync(gate.reached.wait, A_WHILE)


def header(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        questions = ("PRAGMA application_id", "PRAGMA user_version")
        application, version = (connection.execute(question).fetchone()[0] for question in questions)
        return application, version


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
