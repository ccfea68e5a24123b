"""Accuracy of a learner on episodes, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.fitting import Fitting
from autometa.learning.intervals import student_t
from autometa.learning.learner import Learner, each_image_once
from autometa.learning.scores import Scores
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
    return torch.cat(_of_all(episode_accuracies, learner, batches, on_batch, change, fitting or Fitting()))


@torch.no_grad()
def answers(
    learner: Learner,
    batches: Iterable[EpisodeBatch],
    families: np.ndarray,
    *,
    images: np.ndarray | None = None,
    on_batch: Callable[[int], None] | None = None,
    change: Callable[[Learner, EpisodeBatch], EpisodeBatch] | None = None,
    fitting: Fitting | None = None,
) -> Scores:
    """What the learner takes each episode's classes for; batches must say their classes, other arguments as above.

    Args:
        families: [classes of the split], which of them belong together.
        images: [classes of the split], as of `Scores`.
    """
    classes: list[Tensor] = []

    def with_classes() -> Iterator[EpisodeBatch]:
        for episodes in batches:
            assert episodes.classes is not None
            classes.append(episodes.classes)
            yield episodes

    counts = _of_all(episode_answers, learner, with_classes(), on_batch, change, fitting or Fitting())
    return Scores(torch.cat(classes).numpy(), torch.cat(counts).numpy(), families, images)


def _of_all(
    of_batch: Callable[[Tensor, EpisodeBatch], Tensor],
    learner: Learner,
    batches: Iterable[EpisodeBatch],
    on_batch: Callable[[int], None] | None,
    change: Callable[[Learner, EpisodeBatch], EpisodeBatch] | None,
    fitting: Fitting,
) -> list[Tensor]:
    """`of_batch(logits, episodes)` of all episodes, in their order, a part at a time."""

    def of_part(episodes: EpisodeBatch) -> Tensor:
        episodes = change(learner, episodes) if change else episodes
        return of_batch(learner.query_logits(episodes), episodes)

    was_training = learner.training
    learner.eval()
    try:
        found: list[Tensor] = []
        with each_image_once(learner):
            for episodes in batches:
                found.extend(fitting.of_each_part(of_part, episodes))
                if on_batch:
                    on_batch(episodes.batch)
    finally:
        learner.train(was_training)
    return found


def episode_accuracies(logits: Tensor, episodes: EpisodeBatch) -> Tensor:
    """Share of query images of each episode that are classified rightly: [B], in float64."""
    return (logits.argmax(-1) == episodes.query_y).double().mean(1)


def episode_answers(logits: Tensor, episodes: EpisodeBatch) -> Tensor:
    """How many query images of each class are taken for each class: counts [B, N, N] on the CPU."""
    return answer_counts(logits, episodes.query_y)


def answer_counts(logits: Tensor, targets: Tensor) -> Tensor:
    """The same of logits [B, Q, N] and targets [B, Q]."""
    way = logits.shape[-1]
    cells = targets * way + logits.argmax(-1)  # (B, Q)
    return torch.nn.functional.one_hot(cells, way * way).sum(1).view(-1, way, way).cpu()


def interval(per_episode: Sequence[float], seed: int) -> Accuracy:
    """Mean and half width of the 95 % interval by Student's t over episodes.

    One episode says nothing of the spread: its half width is 1, the whole range.
    """
    values = torch.tensor(per_episode, dtype=torch.float64)
    count = len(values)
    half_width = student_t(count - 1) * float(values.std()) / count**0.5 if count > 1 else 1.0
    return Accuracy(mean=float(values.mean()), half_width=half_width, episodes=count, seed=seed)
