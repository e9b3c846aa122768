"""A host application and a mail provider in few lines, for tests of the whole way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from anyio.lowlevel import checkpoint

from fanout_briefs.model import Mail, Project, ProjectBrief, Receipt, Recipient, SectionRequest, Window

__all__ = ["Host", "Provider"]


class Host:
    """A host application: two projects a user, a section for each, an address for everybody."""

    def __init__(self, act: Callable[[SectionRequest], ProjectBrief | None] | None = None, projects: int = 2) -> None:
        self.requests: list[SectionRequest] = []
        self.act = act
        self._projects = [Project(f"p{number}", f"Project {number}") for number in range(projects)]

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        await checkpoint()
        return self._projects

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        await checkpoint()
        self.requests.append(request)
        if self.act is not None:
            return self.act(request)
        return ProjectBrief(f"{request.project.name} since {request.window.start:%d %H:%M}")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await checkpoint()
        return {user_id: Recipient(f"{user_id}@example.com") for user_id in user_ids}


class Provider:
    """A mail provider; sending twice with one key delivers once if it is idempotent."""

    def __init__(self, *, idempotent: bool = True, fails: Sequence[Exception] = ()) -> None:
        self.idempotent = idempotent
        self.calls = Counter[str]()
        self.fails = list(fails)

    @property
    def delivered(self) -> Counter[str]:
        return Counter(dict.fromkeys(self.calls, 1)) if self.idempotent else self.calls

    async def send(self, mail: Mail, key: str) -> Receipt:
        await checkpoint()
        if self.fails:
            raise self.fails.pop(0)
        self.calls[key] += 1
        await checkpoint()
        return Receipt(f"message-{key}")
