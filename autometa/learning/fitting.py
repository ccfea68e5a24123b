"""The largest part of a batch of episodes that fits the memory, found once and remembered.

Nothing changes where the whole batch fits. It does not know whether parts are trained on or scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.device import give_back_memory, is_out_of_memory
from autometa.learning.learner import Learner, TrainingSource

T = TypeVar("T")
Metrics = dict[str, Tensor]


class Fitting:
    """How many episodes go through a learner at once: all, until memory runs out, then half as many, for good."""

    def __init__(self) -> None:
        self.most: int | None = None

    def of_each_part(
        self,
        function: Callable[[EpisodeBatch], T],
        episodes: EpisodeBatch,
        *,
        most: int | None = None,
        anew: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """`function` of the episodes, or of each part of them, in order; never of more than `most`.

        It starts again with the first part after memory ran out, when `anew` undoes what was done; out of memory is
        raised where one episode does not fit.
        """
        most = min(most or episodes.batch, episodes.batch)
        while True:
            try:
                return [function(part) for part in episodes.split(min(self.most or most, most))]
            except (RuntimeError, MemoryError) as error:
                self._shrink(most, error)
            anew()
            give_back_memory()  # out of the handler, whose traceback holds tensors

    def outer_step(
        self, step: Callable[[TrainingSource], Metrics], learner: Learner, source: TrainingSource
    ) -> Metrics:
        """`step` on the next training episodes, leaving the learner's gradient, with the mean of its metrics.

        In parts it is the mean over parts, by their episodes. That is the gradient of the whole batch but for what
        its images share: running statistics, and terms on their features. A learner whose step is more than a mean
        over episodes takes it whole.
        """
        if not learner.averages_over_episodes:
            return step(source)
        episodes = source.episodes()
        while True:
            try:
                learner.zero_grad(set_to_none=True)
                parts = episodes.split(self.most or episodes.batch)
                return _mean_step(step, learner, parts, source, of=episodes.batch)
            except (RuntimeError, MemoryError) as error:
                self._shrink(episodes.batch, error)
            give_back_memory()

    def _shrink(self, batch: int, error: Exception) -> None:
        tried = min(self.most or batch, batch)
        if tried == 1 or not is_out_of_memory(error):
            raise error
        self.most = (tried + 1) // 2


def _mean_step(
    step: Callable[[TrainingSource], Metrics],
    learner: Learner,
    parts: Iterator[EpisodeBatch],
    source: TrainingSource,
    *,
    of: int,
) -> Metrics:
    """Gradient and metrics of `of` episodes from those of their parts."""
    first = next(parts)
    metrics = step(_Given(first, source))
    if first.batch == of:
        return metrics
    metrics = {name: value * (first.batch / of) for name, value in metrics.items()}
    gradients = _taken(learner, first.batch / of)
    for part in parts:
        learner.zero_grad(set_to_none=True)
        for name, value in step(_Given(part, source)).items():
            metrics[name] = metrics[name] + value * (part.batch / of)
        for parameter, gradient in _taken(learner, part.batch / of).items():
            gradients[parameter] = gradients[parameter] + gradient if parameter in gradients else gradient
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    return metrics


def _taken(learner: Learner, share: float) -> dict[torch.nn.Parameter, Tensor]:
    return {p: p.grad * share for p in learner.parameters() if p.grad is not None}


class _Given:
    """A training source that gives these episodes."""

    def __init__(self, episodes: EpisodeBatch, source: TrainingSource) -> None:
        self._episodes = episodes
        self._source = source

    def episodes(self) -> EpisodeBatch:
        return self._episodes

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        return self._source.images(count)
