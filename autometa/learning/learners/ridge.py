"""Ridge regression on features, solved in closed form: the support set's least squares classify the query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.heads import ridge
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets, support_weights


class Ridge(EpisodicLearner):
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
        if self.normalize:
            support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        support, targets = _with_ones(support), support_targets(episodes, support)
        weights = support_weights(episodes)
        if weights is not None:
            support, targets = (part * weights.sqrt()[:, None] for part in (support, targets))
        penalty, scale = self.log_regularization.exp(), self.log_scale.exp()
        return ridge(support, targets, penalty=penalty, scale=scale)(_with_ones(query))


def _with_ones(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)
