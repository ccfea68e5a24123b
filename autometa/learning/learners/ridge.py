"""Ridge regression on features, solved in closed form: the support set's least squares classify the query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets


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
        target = support_targets(episodes, support)
        weight = ridge_regression(_with_ones(support), target, self.log_regularization.exp())
        return self.log_scale.exp() * (_with_ones(query) @ weight)


def ridge_regression(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """W [B, D, N] that minimises |x W - y|² + penalty |W|², for x [B, M, D] and y [B, M, N].

    Solves for as many unknowns as the smaller of M and D (equations 5 and 6 of the paper).
    """
    # `solve_ex`, since what is singular in float32 shall give a diverged loss, not an exception.
    images, features = x.shape[1:]
    ridge = penalty * torch.eye(min(images, features), dtype=x.dtype, device=x.device)
    if images < features:
        return x.mT @ torch.linalg.solve_ex(x @ x.mT + ridge, y).result
    return torch.linalg.solve_ex(x.mT @ x + ridge, x.mT @ y).result


def _with_ones(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)
