"""The views in which a model may see an episode, by name: plain data, for those that need no torch."""

from __future__ import annotations

# Symmetries of the square: turned by 90° so many times modulo 4, and mirrored before from 4 on.
VIEWS: dict[str, tuple[int, ...]] = {"plain": (0,), "mirrored": (0, 4), "turned": tuple(range(8))}
