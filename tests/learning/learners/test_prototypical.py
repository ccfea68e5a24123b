"""Prototypical networks against nearest centroids."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import NearestCentroid

from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Identity, double


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
