"""Prototypical networks against nearest centroids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, double


def test_prototypes_classify_as_nearest_centroid_does() -> None:
    episodes = double(make_episodes(batch=1, shot=3, query=20))
    ours = Prototypical(Identity(), SETTING).query_logits(episodes).argmax(-1)[0]
    theirs = NearestCentroid().fit(episodes.support_x[0].flatten(1).numpy(), episodes.support_y[0].numpy())
    np.testing.assert_array_equal(ours, theirs.predict(episodes.query_x[0].flatten(1).numpy()))


def test_prototypical_scores_are_squared_distances_over_temperature() -> None:
    episodes = double(make_episodes(batch=1))
    logits = Prototypical(Identity(), SETTING, temperature=0.5).query_logits(episodes)[0]
    prototypes = episodes.support_x[0].flatten(1).reshape(3, 2, -1).mean(1)
    distances = torch.cdist(episodes.query_x[0].flatten(1), prototypes).square() / (0.5 * 128**0.5)
    torch.testing.assert_close(logits.log_softmax(-1), (-distances).log_softmax(-1))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_learned_temperature_starts_as_the_fixed_one_and_gets_its_gradient(metric: str) -> None:
    torch.manual_seed(25)
    episodes = double(make_episodes())
    fixed = Prototypical(Identity(), SETTING, temperature=0.3, metric=metric).double()
    learned = Prototypical(Identity(), SETTING, temperature=0.3, metric=metric, learned_temperature=True).double()
    assert not list(fixed.parameters())
    scores = learned.scores(episodes).detach()
    torch.testing.assert_close(scores, fixed.scores(episodes), rtol=1e-6, atol=1e-9)

    learned.outer_step(Fixed(episodes))
    (log_temperature,) = learned.parameters()
    # Scores are proportional to 1/t, so d loss / d log t = -Σ (p - y) scores over the number of query images.
    error = scores.softmax(-1) - torch.eye(3)[episodes.query_y]
    expected = -(error * scores).sum() / episodes.query_y.numel()
    torch.testing.assert_close(log_temperature.grad, expected)
