"""A multi-class support vector machine on features, solved by steps that are part of the graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets, support_weights


class Svm(EpisodicLearner):
    """MetaOptNet: Lee et al. 2019, Meta-learning with differentiable convex optimization.

    The SVM is Crammer & Singer's (2001), linear and without bias, in its dual. The paper's interior-point
    solver differentiates the optimality conditions; here a fixed number of projected gradient steps is
    differentiated as it stands. Scores are a learned scale times the SVM's decision values.

    Args:
        penalty: C, what a support image within the margin costs; 0.1 in the paper.
        solver_steps: projected gradient steps, 1 to 1000. 100 leave 0.1 % of the decision values in 5-way 5-shot and
            3 % in 20-way 5-shot (features after a ReLU, C = 0.1).
        scale: what the decision values are multiplied by at first; 1 in the authors' code, which trains with SGD
            at a rate of 0.1.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        penalty: float = 0.1,
        solver_steps: int = 100,
        scale: float = 10.0,
    ) -> None:
        super().__init__(backbone, setting)
        for option, value in (("penalty", penalty), ("scale", scale)):
            if value <= 0:
                raise ConfigError(f"svm.{option} = {value}: it must be positive")
        if not 1 <= solver_steps <= 1000:
            raise ConfigError(f"svm.solver_steps = {solver_steps}: it may be 1 … 1000")
        self.penalty = penalty
        self.solver_steps = solver_steps
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes)
        target = support_targets(episodes, support)
        weights, penalty = support_weights(episodes), self.penalty
        costs = penalty if weights is None else penalty * weights[:, None]
        dual = dual_solution(support @ support.mT, target, penalty=costs, steps=self.solver_steps)
        return self.log_scale.exp() * (query @ support.mT @ dual)


def dual_solution(kernel: Tensor, target: Tensor, *, penalty: float | Tensor, steps: int) -> Tensor:
    """Dual variables α [B, M, N] of an SVM from the kernel [B, M, M] of M support images and one-hot labels.

    `penalty` is C, or that of each image [M, 1].

    They minimise ½ Σ_n α_nᵀ K α_n - Σ_i α_i,y_i with α_in ≤ C·1[y_i = n] and Σ_n α_in = 0, which are all
    α = C (Y - s) with each row of s on the simplex. Nesterov's steps on s; the Frobenius norm bounds K's
    largest eigenvalue, and is smooth.
    """
    if isinstance(penalty, Tensor):  # the objective itself, in place of that over C²
        kernel, linear = penalty * kernel * penalty.mT, target * penalty
    else:
        linear = target / penalty
    rate = 1 / torch.linalg.matrix_norm(kernel)[:, None, None]
    s = ahead = target.new_full(target.shape, 1 / target.shape[-1])
    for step in range(steps):
        gradient = linear - kernel @ (target - ahead)  # in s, of the objective over C²
        before, s = s, on_simplex(ahead - rate * gradient)
        ahead = s + step / (step + 3) * (s - before)
    return penalty * (target - s)


def on_simplex(x: Tensor) -> Tensor:
    """The nearest point to each row of x [..., N] with entries that are at least 0 and sum to 1.

    Held, Wolfe & Crowder 1974: subtract what leaves a sum of one, of which the k largest entries stay positive.
    """
    ordered = x.sort(-1, descending=True).values
    ranks = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    thresholds = (ordered.cumsum(-1) - 1) / ranks
    # At least one, but not for NaN, with which a diverged trial must reach its loss.
    positive = (ordered > thresholds).sum(-1, keepdim=True).clamp(min=1)
    return (x - thresholds.gather(-1, positive - 1)).relu()
