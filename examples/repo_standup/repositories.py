"""Finds Git repositories, and says which are whose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from fanout_briefs import Project
from fanout_briefs.model import Window

from .people import Person

DEPTH = 4
"""How many levels below the given folder a repository may lie."""


class NoRepositories(ValueError):
    """There is nothing to report on."""


@frozen
class Repository:
    """A repository: ``git_dir`` is its ``.git`` (a folder, or the file of a worktree), or itself if it is bare."""

    name: str
    path: Path
    git_dir: Path


class ProjectsOf:
    """``Projects``: a person's repositories are those they name, or all."""

    def __init__(self, people: Sequence[Person], repositories: Sequence[Repository]) -> None:
        self._people = {person.user_id: person for person in people}
        self._repositories = repositories

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:  # noqa: ARG002 - all, whatever happened
        """See ``fanout_briefs.ports.Projects``."""
        wanted = self._people[user_id].repositories
        return [
            Project(id=repository.name, name=repository.name, data=repository)
            for repository in self._repositories
            if not wanted or _answers_to(repository, wanted)
        ]


def unknown_names(people: Sequence[Person], repositories: Sequence[Repository]) -> Mapping[str, Sequence[str]]:
    """The repositories that people name and that were not found, by user."""
    unknown = {
        person.user_id: [name for name in person.repositories if not any(_answers_to(r, [name]) for r in repositories)]
        for person in people
    }
    return {user_id: names for user_id, names in unknown.items() if names}


def find_repositories(folder: Path, on_error: Callable[[OSError], object]) -> Sequence[Repository]:
    """Give every repository under a folder in order of name; the content of repositories is not searched.

    Args:
        folder: Where to look; it may be a repository itself.
        on_error: Told about each folder below it that cannot be read, and is passed over.

    Raises:
        NoRepositories: There is none, or no such folder.
        OSError: The folder itself cannot be read.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise NoRepositories(f"{folder}: there is no such folder; name one that holds Git repositories")
    os.scandir(root).close()  # What cannot be read at all is an error, not an empty folder.
    found = list(_search(root, root, DEPTH, set(), on_error))
    if not found:
        raise NoRepositories(f"{folder}: there is no Git repository in it, down to {DEPTH} levels; name another folder")
    return sorted(found, key=lambda repository: (repository.name.casefold(), repository.name))


def enclosing_repository(start: Path) -> Repository:
    """Give the repository that a folder lies in.

    Raises:
        NoRepositories: It lies in none.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        if (git_dir := _git_dir(folder)) is not None:
            return Repository(folder.name, folder, git_dir)
    raise NoRepositories(f"{start.resolve()} lies in no Git repository; name a folder that holds some with --repos")


def _answers_to(repository: Repository, names: Sequence[str]) -> bool:
    return repository.name in names or repository.path.name in names


def _search(
    root: Path, folder: Path, depth: int, seen: set[str], on_error: Callable[[OSError], object]
) -> Iterator[Repository]:
    real = os.path.realpath(folder)
    if real in seen:  # Links may lead in circles.
        return
    seen.add(real)
    git_dir = _git_dir(folder)
    if git_dir is not None:
        name = folder.name if folder == root else folder.relative_to(root).as_posix()
        yield Repository(name, folder, git_dir)
    elif depth > 0:
        try:
            below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        except OSError as error:
            on_error(error)
            return
        for path in below:
            yield from _search(root, Path(path), depth - 1, seen, on_error)


def _git_dir(folder: Path) -> Path | None:
    dot_git = folder / ".git"
    if os.path.exists(dot_git):  # noqa: PTH110 - Path.exists raises where permission is missing.
        return dot_git
    is_bare = os.path.isfile(folder / "HEAD") and all(os.path.isdir(folder / name) for name in ("objects", "refs"))  # noqa: PTH112, PTH113
    return folder if is_bare else None
