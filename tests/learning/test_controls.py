"""Controls: where labels say nothing of images, every learner is at chance; where they do, the same test sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, EpisodeSampler, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.evaluation import score
from autometa.learning.learner import Learner
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec, TrialConfig
from autometa.trial.build import candidate, tables

SPEC = EpisodeSpec(way=5, shot=2, query=10)
EPISODES = 60
STEPS = 10
SEEN = Accuracy(mean=0.5, half_width=0.1, episodes=3, seed=0)
# Of n query images with shuffled labels, balanced over N classes, those of any predictions that are right have the mean
# n/N and at most the variance n²/(n - 1) · 1/N · (1 - 1/N), as the labels are a random permutation (Hoeffding 1951).
# Each episode has a shuffle of its own, so that their mean is close to normal. A false alarm beyond four of its
# deviations has probability 6e-5 for each learner, 0.1 % for all sixteen.
BAND = 4 * math.sqrt(1 / SPEC.way * (1 - 1 / SPEC.way) / (SPEC.way * SPEC.query - 1) / EPISODES)


@pytest.mark.parametrize("name", tables()["learner"])
def test_shuffled_labels_leave_every_learner_at_chance(
    name: str, digits: FewShotDataset, shuffled: Sequence[EpisodeBatch]
) -> None:
    learner = trained(name, with_shuffled_labels(digits, "train", seed=3))
    assert abs(accuracy(learner, shuffled) - 1 / SPEC.way) < BAND


@pytest.mark.parametrize("name", ["prototypical", "maml", "pretrain"])
def test_true_labels_are_seen_by_the_same_test(name: str, digits: FewShotDataset) -> None:
    batches = list(fixed_episodes(ImagePool(digits, "test"), SPEC, count=EPISODES, seed=4, batch=20))
    assert accuracy(trained(name, digits), batches) > 1 / SPEC.way + 5 * BAND


def test_a_query_image_that_is_in_the_support_set_would_be_seen(
    digits: FewShotDataset, shuffled: Sequence[EpisodeBatch]
) -> None:
    learner = trained("prototypical", with_shuffled_labels(digits, "train", seed=3))
    leaking = [dataclasses.replace(b, query_x=b.support_x, query_y=b.support_y) for b in shuffled]
    assert accuracy(learner, leaking) > 1 / SPEC.way + 5 * BAND


@pytest.fixture(scope="module")
def shuffled(digits: FewShotDataset) -> list[EpisodeBatch]:
    """Episodes of meta-test images, each with labels shuffled anew."""
    drawn = []
    for seed in range(EPISODES):
        pool = ImagePool(with_shuffled_labels(digits, "test", seed), "test")
        drawn.extend(fixed_episodes(pool, SPEC, count=1, seed=seed, batch=1))
    return [joined(drawn[start : start + 20]) for start in range(0, EPISODES, 20)]


def with_shuffled_labels(data: FewShotDataset, split: str, seed: int) -> FewShotDataset:
    """The data with the labels of one split shuffled over its images."""
    labels = data.labels.copy()
    images = np.flatnonzero(np.isin(labels, data.splits[split]))
    labels[images] = np.random.default_rng(seed).permutation(labels[images])
    return dataclasses.replace(data, labels=labels)


def joined(episodes: Sequence[EpisodeBatch]) -> EpisodeBatch:
    tensors = ("support_x", "support_y", "query_x", "query_y")
    return EpisodeBatch(**{name: torch.cat([getattr(e, name) for e in episodes]) for name in tensors}, way=SPEC.way)


def trained(name: str, data: FewShotDataset) -> Learner:
    """The learner with its default options, after a short training."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    values = {"learner": name, "backbone": "conv", "conv.depth": 2, "conv.width": 8, "norm": "support"}
    training = Training(
        candidate(TrialConfig(values=values)).build(
            image_shape=data.image_shape, way=SPEC.way, train_classes=len(data.splits["train"])
        ),
        EpisodeSampler(ImagePool(data, "train"), SPEC, batch=2, generator=generator),
        options=TrainingOptions(outer_lr=3e-3),
        budget=Budget(steps=STEPS, rungs=1),
        validate=lambda *_: SEEN,
        generator=generator,
    )
    assert [report.steps for report in training.rungs()] == [STEPS if training.learner.is_trained else 0]
    return training.learner


def accuracy(learner: Learner, batches: Sequence[EpisodeBatch]) -> float:
    scores = score(learner, batches)
    assert len(scores) == EPISODES
    return float(scores.mean())
