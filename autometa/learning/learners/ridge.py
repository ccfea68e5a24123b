"""Ridge regression on features, solved in closed form: the support set's least squares classify the query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.head_learner import HeadLearner
from autometa.learning.heads import Head, ridge
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets, support_weights


class Ridge(EpisodicLearner, HeadLearner):
    """R2-D2: Bertinetto et al. 2019, Meta-learning with differentiable closed-form solvers.

    Scores are a learned scale times the regression on one-hot labels. The paper's learned bias is left out:
    the same for all classes, it is nothing to a softmax.

    Args:
        regularization: λ of the penalty λ|W|², which counts the bias as well. The authors' code has 50, for
            more features than the backbones here give.
        learned: learn λ and the scale, starting from these values.
        normalize: scale features to unit length first; then λ is in units of one support image.
        scale: multiplies the regressions, which are near 0 or 1; 10 is where cosine classifiers start.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        regularization: float = 1.0,
        learned: bool = True,
        normalize: bool = False,
        scale: float = 10.0,
    ) -> None:
        super().__init__(backbone, setting)
        for option, value in (("regularization", regularization), ("scale", scale)):
            if value <= 0:
                raise ConfigError(f"ridge.{option} = {value}: it must be positive")
        self.normalize = normalize
        self.log_regularization = nn.Parameter(torch.tensor(math.log(regularization)), requires_grad=learned)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes)
        return self.fitted(support, support_targets(episodes, support), support_weights(episodes))(query)

    def fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        support = self._regressed_on(support)
        if weights is not None:
            support, targets = (part * weights.sqrt()[:, None] for part in (support, targets))
        head = ridge(support, targets, penalty=self.log_regularization.exp(), scale=self.log_scale.exp())
        return lambda query: head(self._regressed_on(query))

    def _regressed_on(self, features: Tensor) -> Tensor:
        """Features [B, M, D] and a one, [B, M, D + 1]."""
        return F.pad(F.normalize(features, dim=-1) if self.normalize else features, (0, 1), value=1.0)
