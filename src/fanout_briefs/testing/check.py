"""Hold an adapter to its clauses without pytest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from fanout_briefs.model import Project
from fanout_briefs.ports import Dispatcher, Engagement, Generator, Storage
from fanout_briefs.testing.clauses import dispatcher_kit, engagement_kit, generator_kit, storage_kit
from fanout_briefs.testing.kit import BrokenClause, Open

__all__ = ["SOME_PROJECTS", "check_dispatcher", "check_engagement", "check_generator", "check_storage"]

SOME_PROJECTS: Final = (Project("apollo", "Apollo"), Project("gemini", "Gemini"), Project("3", "Projekt Ü <3>"))
"""What a generator is asked to write about, unless its author gives others."""


async def check_storage(open_storage: Open[Storage], *, capabilities: Collection[str] = ()) -> Sequence[BrokenClause]:
    """Hold a storage to every clause, and give those that it breaks; printed, each tells what went wrong.

    Args:
        open_storage: An async context manager function without arguments that opens a storage: fresh, empty, and sharing
            nothing with any other. Capabilities may have it take more.
        capabilities: What the storage offers beyond the port; ``StorageContract`` tells which there are.

    Raises:
        ValueError: A capability is unknown; all of them are named.
    """
    return await storage_kit.check(open_storage, capabilities)


async def check_engagement(
    open_engagement: Open[Engagement], *, capabilities: Collection[str] = ()
) -> Sequence[BrokenClause]:
    """Hold an engagement adapter to every clause, and give those that it breaks.

    Args:
        open_engagement: Takes a mapping of user ids to aware instants, or None for never, and opens an adapter for
            which these are the last visits of these users, and which knows no others.
        capabilities: What it offers beyond the port; ``EngagementContract`` tells which there are.

    Raises:
        ValueError: A capability is unknown; all of them are named.
    """
    return await engagement_kit.check(open_engagement, capabilities)


async def check_generator(
    open_generator: Open[Generator], *, capabilities: Collection[str] = (), projects: Sequence[Project] = SOME_PROJECTS
) -> Sequence[BrokenClause]:
    """Hold a generator to every clause, and give those that it breaks.

    Args:
        open_generator: An async context manager function without arguments that opens a generator.
        capabilities: What it offers beyond the port; ``GeneratorContract`` tells which there are.
        projects: Some that it can write about, with ``data`` as it wants it.

    Raises:
        ValueError: A capability is unknown; all of them are named.
    """
    return await generator_kit.check(open_generator, capabilities, projects)


async def check_dispatcher(open_dispatcher: Open[Dispatcher]) -> Sequence[BrokenClause]:
    """Hold a dispatcher to every clause, and give those that it breaks.

    Args:
        open_dispatcher: An async context manager function without arguments that opens a dispatcher.
    """
    return await dispatcher_kit.check(open_dispatcher, ())
