"""Accuracy of a learner on episodes, with its interval."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner
from autometa.records import Accuracy


def evaluate(
    learner: Learner,
    batches: Iterable[EpisodeBatch],
    *,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
    change: Callable[[Learner, EpisodeBatch], EpisodeBatch] | None = None,
    fitting: Fitting | None = None,
) -> Accuracy:
    """Adapt to each episode and score its query set; the learner's mode is restored afterwards.

    Args:
        seed: what the episodes were drawn with, for the record.
        change: what is done to episodes first, for example an attack.
        on_batch: told how many episodes were just done.
        fitting: knows how many episodes fit the memory, or finds out; of this call alone by default.
    """
    return interval(score(learner, batches, on_batch=on_batch, change=change, fitting=fitting).tolist(), seed)


@torch.no_grad()
def score(
    learner: Learner,
    batches: Iterable[EpisodeBatch],
    *,
    on_batch: Callable[[int], None] | None = None,
    change: Callable[[Learner, EpisodeBatch], EpisodeBatch] | None = None,
    fitting: Fitting | None = None,
) -> Tensor:
    """The accuracy on each episode, [episodes] in float64 and in their order; arguments as of `evaluate`."""
    fitting = fitting or Fitting()

    def accuracies(episodes: EpisodeBatch) -> Tensor:
        episodes = change(learner, episodes) if change else episodes
        return episode_accuracies(learner.query_logits(episodes), episodes)

    was_training = learner.training
    learner.eval()
    try:
        scores = []
        for episodes in batches:
            scores.extend(fitting.of_each_part(accuracies, episodes))
            if on_batch:
                on_batch(episodes.batch)
    finally:
        learner.train(was_training)
    return torch.cat(scores)


def episode_accuracies(logits: Tensor, episodes: EpisodeBatch) -> Tensor:
    """Share of query images of each episode that are classified rightly: [B], in float64."""
    return (logits.argmax(-1) == episodes.query_y).double().mean(1)


def interval(per_episode: Sequence[float], seed: int) -> Accuracy:
    """Mean and half width of the 95 % interval by Student's t over episodes.

    One episode says nothing of the spread: its half width is 1, the whole range.
    """
    values = torch.tensor(per_episode, dtype=torch.float64)
    count = len(values)
    half_width = _student_t(count - 1) * float(values.std()) / count**0.5 if count > 1 else 1.0
    return Accuracy(mean=float(values.mean()), half_width=half_width, episodes=count, seed=seed)


@functools.cache
def _student_t(degrees: int) -> float:
    from scipy.special import stdtrit  # what scipy.stats would ask, after a second of imports

    return float(stdtrit(degrees, 0.975))
