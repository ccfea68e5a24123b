"""Siamese networks against Koch's equation, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.learner import Setting
from autometa.learning.learners.siamese import Siamese
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Identity, Smooth, double


def logits_by_pair(learner: Siamese, episodes: EpisodeBatch, task: int) -> np.ndarray:
    """w·|q - s| + b of every pair of one task, [N·Q, N·K], of features that are pixels."""
    weight, bias = learner.same.weight[0].detach().numpy(), learner.same.bias.item()
    support, query = (x[task].flatten(1).numpy() for x in (episodes.support_x, episodes.query_x))
    return np.array([[weight @ np.abs(q - s) + bias for s in support] for q in query])


@pytest.mark.parametrize("match", ["max", "mean"])
def test_a_class_is_scored_by_its_pairs(match: str) -> None:
    torch.manual_seed(11)
    learner = Siamese(Identity(), SETTING, match=match).double()
    episodes = double(make_episodes(shot=3, query=2))
    for task in range(2):
        shots = logits_by_pair(learner, episodes, task).reshape(6, 3, 3)
        expected = shots.max(-1) if match == "max" else shots.mean(-1)
        np.testing.assert_allclose(learner.scores(episodes)[task].detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_both_kinds_of_pairs_have_half_of_the_binary_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(12)
    setting = Setting(way=3, train_classes=6, label_smoothing=smoothing)
    learner = Siamese(Identity(), setting).double()
    episodes = double(make_episodes(batch=2, shot=2, query=3))
    of_same, of_others = [], []
    for task in range(2):
        for row, label in zip(logits_by_pair(learner, episodes, task), episodes.query_y[task], strict=True):
            for z, other in zip(row, episodes.support_y[task], strict=True):
                p, t = 1 / (1 + math.exp(-z)), float(label == other)
                t = t * (1 - smoothing) + smoothing / 2
                terms = of_same if label == other else of_others
                terms.append(-(t * math.log(p) + (1 - t) * math.log(1 - p)))
    assert len(of_others) == 2 * len(of_same)
    loss, metrics = learner.loss(episodes)
    assert float(loss.detach()) == pytest.approx((np.mean(of_same) + np.mean(of_others)) / 2, rel=1e-9)
    right = learner.scores(episodes).argmax(-1) == episodes.query_y
    assert float(metrics["accuracy"]) == pytest.approx(float(right.float().mean()))


def test_gradients_are_those_of_the_differences_written_out() -> None:
    torch.manual_seed(13)
    learner = Siamese(Smooth(), SETTING, match="mean").double()
    task = double(make_episodes(batch=1))
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(F.cross_entropy(learner.scores(task)[0], task.query_y[0]), parameters)
    support, query = learner.backbone(task.support_x[0]), learner.backbone(task.query_x[0])
    pairs = learner.same((query[:, None] - support).abs())[..., 0]  # (N·Q, N·K)
    theirs = torch.autograd.grad(F.cross_entropy(pairs.reshape(12, 3, 2).mean(-1), task.query_y[0]), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_options_of_siamese_name_themselves() -> None:
    with pytest.raises(ConfigError, match=r"siamese\.match = 'min'"):
        Siamese(Identity(), SETTING, match="min")
