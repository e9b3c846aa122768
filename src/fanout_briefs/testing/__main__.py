"""``python -m fanout_briefs.testing`` prints every clause; ``docs/reference/clauses.md`` is what it prints."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import groupby

from fanout_briefs.testing.clauses import dispatcher_kit, engagement_kit, generator_kit, storage_kit
from fanout_briefs.testing.kit import Clause, Kit

_KITS = (storage_kit, engagement_kit, generator_kit, dispatcher_kit)
_INTRODUCTION = """\
# Clauses

<!-- Made by `python -m fanout_briefs.testing`; change the clauses, not this page. -->

What an adapter is held to by [the contract kit](../contracts.md): {count} clauses, each with an id that stays from release
to release. One that needs a capability is asked of adapters that declare it."""


def _lines() -> Iterator[str]:
    yield _INTRODUCTION.format(count=sum(len([*kit]) for kit in _KITS))
    for kit in _KITS:
        yield from _of_kit(kit)


def _of_kit(kit: Kit) -> Iterator[str]:
    clauses = sorted(kit, key=lambda clause: clause.hold.__module__)
    yield f"\n## {kit.port.capitalize()}: {len(clauses)} clauses"
    if kit.capabilities:
        yield "\n| capability | an adapter that declares it promises |\n|---|---|"
        yield from (f"| `{name}` | {meaning} |" for name, meaning in kit.capabilities.items())
    for module, those in groupby(clauses, key=lambda clause: clause.hold.__module__):
        about = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        yield f"\n{_plain(about)}\n\n| clause | promise | needs |\n|---|---|---|"
        yield from map(_row, those)


def _row(clause: Clause) -> str:
    return f"| `{clause.id}` | {_plain(clause.promise)} | {', '.join(f'`{name}`' for name in clause.needs)} |"


def _plain(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    print("\n".join(_lines()))  # noqa: T201  # as said above
