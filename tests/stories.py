"""How many stories the model machine makes up for a shipped storage: a fifth of what a profile asks of other properties."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["STORIES"]

# A story of 25 steps costs as much as a hundred examples of most others.
STORIES = settings(max_examples=settings().max_examples // 5, stateful_step_count=25)
