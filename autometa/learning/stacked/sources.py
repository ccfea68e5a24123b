"""The training data of G candidates, each drawn as if it were alone, with an axis of candidates before all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch, EpisodeSampler, episodes_together, images_together
from autometa.learning.learner import TrainingSource


class StackedSource:
    """A `TrainingSource` of G others: what they give is gathered at once where all draw from the same images."""

    def __init__(self, sources: Sequence[TrainingSource]) -> None:
        self._sources = sources

    def episodes(self) -> EpisodeBatch:
        """Support and query images [G, B, M, C, H, W] and their labels [G, B, M]."""
        sources = self._sources
        if _draw_alike(sources):
            together = episodes_together(sources)
            return _combined(together.way, lambda name: getattr(together, name).unflatten(0, (len(sources), -1)))
        batches = [source.episodes() for source in sources]
        return _combined(batches[0].way, lambda name: torch.stack([getattr(batch, name) for batch in batches]))

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """Images [G, count, C, H, W] and their classes [G, count]."""
        sources = self._sources
        if _draw_alike(sources):
            images, classes = images_together(sources, count)
            return images.unflatten(0, (len(sources), -1)), classes.unflatten(0, (len(sources), -1))
        drawn = [source.images(count) for source in sources]
        return torch.stack([images for images, _ in drawn]), torch.stack([classes for _, classes in drawn])


def _draw_alike(sources: Sequence[TrainingSource]) -> TypeGuard[Sequence[EpisodeSampler]]:
    first = sources[0]
    return isinstance(first, EpisodeSampler) and all(
        isinstance(source, EpisodeSampler) and source.draws_like(first) for source in sources
    )


def _combined(way: int, part: Callable[[str], Tensor]) -> EpisodeBatch:
    return EpisodeBatch(
        support_x=part("support_x"),
        support_y=part("support_y"),
        query_x=part("query_x"),
        query_y=part("query_y"),
        way=way,
    )
