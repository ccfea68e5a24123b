"""Supervised pre-training and its heads."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from autometa.learning.learners.pretrain import Pretrain
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Identity, double


def test_the_finetuned_head_is_a_logistic_regression() -> None:
    episodes = double(make_episodes(batch=1, shot=5, query=30))
    learner = Pretrain(Identity(), SETTING, head="finetune", finetune_steps=2000)
    ours = learner.query_logits(episodes)[0].softmax(-1)
    support, query = (F.normalize(x[0].flatten(1), dim=-1).numpy() for x in (episodes.support_x, episodes.query_x))
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(support, episodes.support_y[0].numpy())
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(query), atol=1e-3)
