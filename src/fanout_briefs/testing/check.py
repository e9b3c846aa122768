"""Check an adapter against its clauses, without pytest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from fanout_briefs.model import Project
from fanout_briefs.ports import Dispatcher, Engagement, Generator, Storage
from fanout_briefs.testing.clauses import dispatcher_kit, engagement_kit, generator_kit, storage_kit
from fanout_briefs.testing.kit import BrokenClause, Open

__all__ = ["SOME_PROJECTS", "check_dispatcher", "check_engagement", "check_generator", "check_storage"]

SOME_PROJECTS: Final = (Project("apollo", "Apollo"), Project("gemini", "Gemini"), Project("3", "Projekt Ü <3>"))
"""The projects that a generator is asked to write about by default."""


async def check_storage(open_storage: Open[Storage], *, capabilities: Collection[str] = ()) -> Sequence[BrokenClause]:
    """Check a storage against every clause, and return those that it breaks; print one to see what went wrong.

    Args:
        open_storage: A function without arguments that returns an async context manager, which opens a fresh, empty
            storage that shares nothing with any other. Some capabilities require it to accept arguments.
        capabilities: What the storage offers beyond the port; the reference of clauses lists the capabilities.

    Raises:
        ValueError: A capability is unknown; the message names all of them.
    """
    return await storage_kit.check(open_storage, capabilities)


async def check_engagement(
    open_engagement: Open[Engagement], *, capabilities: Collection[str] = ()
) -> Sequence[BrokenClause]:
    """Check an engagement adapter against every clause, and return those that it breaks.

    Args:
        open_engagement: Takes a mapping of user ids to last visits, each an aware instant or None for never, and opens
            an adapter that knows exactly these users and visits.
        capabilities: What the adapter offers beyond the port; the reference of clauses lists the capabilities.

    Raises:
        ValueError: A capability is unknown; the message names all of them.
    """
    return await engagement_kit.check(open_engagement, capabilities)


async def check_generator(
    open_generator: Open[Generator], *, capabilities: Collection[str] = (), projects: Sequence[Project] = SOME_PROJECTS
) -> Sequence[BrokenClause]:
    """Check a generator against every clause, and return those that it breaks.

    Args:
        open_generator: A function without arguments that returns an async context manager, which opens a generator.
        capabilities: What the generator offers beyond the port; the reference of clauses lists the capabilities.
        projects: Some projects that it can write about, with the ``data`` that it needs.

    Raises:
        ValueError: A capability is unknown; the message names all of them.
    """
    return await generator_kit.check(open_generator, capabilities, projects)


async def check_dispatcher(open_dispatcher: Open[Dispatcher]) -> Sequence[BrokenClause]:
    """Check a dispatcher against every clause, and return those that it breaks.

    Args:
        open_dispatcher: A function without arguments that returns an async context manager, which opens a dispatcher.
    """
    return await dispatcher_kit.check(open_dispatcher, ())
