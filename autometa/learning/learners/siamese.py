"""Siamese networks: how likely two images are of the same class, and a query image takes its best match's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, by_class, embed, query_loss


class Siamese(EpisodicLearner):
    """Koch, Zemel & Salakhutdinov 2015, Siamese neural networks for one-shot image recognition.

    P(same) = sigmoid(w·|f(a) - f(b)| + b), trained by binary cross-entropy on all pairs of a query and a
    support image. The pairs of one class and those of two have half of the weight each, as in the paper,
    which draws as many of either.

    Args:
        match: a class's score is that of its "max" pair, or the "mean" of its pairs.
    """

    def __init__(self, backbone: Backbone, setting: Setting, *, match: str = "max") -> None:
        super().__init__(backbone, setting)
        if match not in ("max", "mean"):
            raise ConfigError(f"siamese.match = {match!r}: it may be max | mean")
        self.match = match
        self.same = nn.Linear(backbone.features, 1)

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        return self._of_classes(self.pairs(episodes), episodes)

    def loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = self.pairs(episodes)
        same = (episodes.query_y[:, :, None] == episodes.support_y[:, None]).to(pairs.dtype)  # (B, N·Q, N·K)
        weight = (same / same.sum() + (1 - same) / (1 - same).sum()) / 2
        smoothing = self.setting.label_smoothing
        target = same * (1 - smoothing) + smoothing / 2
        loss = F.binary_cross_entropy_with_logits(pairs, target, weight, reduction="sum")
        return loss, query_loss(self._of_classes(pairs.detach(), episodes), episodes)[1]

    def pairs(self, episodes: EpisodeBatch) -> Tensor:
        """Logits of being of the same class, of each query image with each support image: [B, N·Q, N·K]."""
        support, query = embed(self.backbone, episodes)
        weight = self.same.weight[0]  # (D,)
        # w·|q - s| as two city-block distances, of the positive weights and of the negative ones: a tenth of
        # the time of the tensor of all differences on a CPU, and none of its (B, N·Q, N·K, D) numbers. CUDA's
        # forward makes none of them either, but its backward makes them all, for one distance after the other.
        apart, alike = weight.relu(), (-weight).relu()
        pairs = torch.cdist(query * apart, support * apart, p=1) - torch.cdist(query * alike, support * alike, p=1)
        return pairs + self.same.bias

    def _of_classes(self, pairs: Tensor, episodes: EpisodeBatch) -> Tensor:
        parts = by_class(pairs, episodes, dim=-1)  # N of (B, N·Q, K)
        return torch.stack([part.amax(-1) if self.match == "max" else part.mean(-1) for part in parts], -1)
