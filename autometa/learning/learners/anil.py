"""ANIL: as MAML, but only the head adapts in the inner loop; the backbone is shared by all tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets, support_weights


class Anil(EpisodicLearner):
    """Raghu et al. 2020, Rapid learning or feature reuse? Towards understanding the effectiveness of MAML.

    The head is softmax regression, whose gradient is written out, so all tasks adapt in one batch and
    second derivatives come exactly by back-propagation through it. As in `Maml`, the head starts from zero.

    Args:
        inner_lr: step size of the inner loop.
        inner_steps: gradient steps on the head, 1 to 256.
        learned_rates: learn the inner rate of each step, starting from `inner_lr`.
    """

    stackable_with = None  # they can, but whether it is worth it was not measured

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        learned_rates: bool = False,
    ) -> None:
        super().__init__(backbone, setting)
        if inner_lr <= 0:
            raise ConfigError(f"anil.inner_lr = {inner_lr}: it must be positive")
        if not 1 <= inner_steps <= 256:
            raise ConfigError(f"anil.inner_steps = {inner_steps}: it may be 1 … 256")
        self.rates = nn.Parameter(torch.full((inner_steps,), float(inner_lr)), requires_grad=learned_rates)

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes)  # (B, N·K, D), (B, N·Q, D)
        weight, bias = self._adapted_head(support, episodes)
        return torch.baddbmm(bias[:, None], query, weight.mT)

    def _adapted_head(self, support: Tensor, episodes: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Head weight [B, N, D] and bias [B, N] after the inner steps."""
        (batch, images, features), way = support.shape, episodes.way
        weight, bias = support.new_zeros(batch, way, features), support.new_zeros(batch, way)
        target = support_targets(episodes, support)  # (B, N·K, N)
        weights = support_weights(episodes)
        for rate in self.rates:
            scores = torch.baddbmm(bias[:, None], support, weight.mT)
            error = (scores.softmax(-1) - target) / images  # the gradient of the mean cross-entropy in the scores
            error = error if weights is None else error * weights[:, None]
            weight = weight - rate * error.mT @ support
            bias = bias - rate * error.sum(1)
        return weight, bias
