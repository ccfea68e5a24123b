"""How sure one may be that a query image is of one of the support classes: scores by which unknown ones stand out.

Symbols: B episodes, M support images, Q query images, N classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.ensemble import Ensemble
from autometa.learning.learner import Learner, embed

_MOST_NEIGHBOURS = 3
Score = Callable[[Learner, EpisodeBatch, Tensor], Tensor]


def similarity(learner: Learner, episodes: EpisodeBatch, logits: Tensor) -> Tensor:
    """Mean cosine of features with the nearest support images: [B, Q].

    As many of them as the class with fewest has, three at most (deep nearest neighbours, Sun et al. 2022, ICML). Of an
    ensemble it is the weighted mean of its members'.
    """
    if isinstance(learner, Ensemble):
        parts = [
            weight * similarity(member, episodes, logits)
            for member, weight in zip(learner.learners, learner.mixture.weights, strict=True)
        ]
        return torch.stack(parts).sum(0) / sum(learner.mixture.weights)
    support, query = (F.normalize(features, dim=-1) for features in embed(learner.backbone, episodes))
    count = min(min(episodes.shots) if episodes.shots else episodes.shot, _MOST_NEIGHBOURS)
    return (query @ support.mT).topk(count, dim=-1).values.mean(-1)


def confidence(learner: Learner, episodes: EpisodeBatch, logits: Tensor) -> Tensor:
    """Log-probability of the likeliest class, [B, Q] (maximum softmax, Hendrycks & Gimpel 2017, ICLR)."""
    return logits.log_softmax(-1).amax(-1)


def energy(learner: Learner, episodes: EpisodeBatch, logits: Tensor) -> Tensor:
    """The negative free energy of the logits, [B, Q] (Liu et al. 2020, NeurIPS)."""
    return logits.logsumexp(-1)


# All are higher for known classes.
SCORES: Mapping[str, Score] = {"similarity": similarity, "confidence": confidence, "energy": energy}
