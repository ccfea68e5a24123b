"""Relation networks: a small network learns how well a query image goes with a class."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape, pooled_sides
from autometa.learning.learner import EpisodicLearner, Setting, class_means, embed_maps, query_loss
from autometa.learning.normalization import Norm

_USUAL_SIDE = 5  # of a map in a pair


class Relation(EpisodicLearner):
    """Sung et al. 2018, Learning to compare: relation network for few-shot learning.

    A class is the mean of its support maps (the paper's sum grows with the shots), so that any number of shots
    can be evaluated. Maps larger than `side` are averaged to that size before they are put side by side, since there
    are as many pairs as query images times classes: maps of 16 × 16 take ten times the memory of 5 × 5. The paper's
    maps come from a network that halves twice: `conv.pooled_blocks = 2`.

    Args:
        side: of a map in a pair at most; 5, the paper's of Omniglot, or up to 19, its of mini-ImageNet.
        hidden: units of the relation module's hidden linear layer.
        width: channels of its two blocks, 1 to 1024.
        loss_kind: "mse", as in the paper, of a sigmoid of each score to 1 for the right class and 0 for the
            others, or "cross_entropy" over the classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        hidden: int = 8,
        width: int = 64,
        loss_kind: str = "mse",
        side: int = _USUAL_SIDE,
    ) -> None:
        super().__init__(backbone, setting)
        if not 1 <= side <= 32:
            raise ConfigError(f"relation.side = {side}: it may be 1 … 32")
        if hidden < 1:
            raise ConfigError(f"relation.hidden = {hidden}: it must be at least 1")
        if not 1 <= width <= 1024:
            raise ConfigError(f"relation.width = {width}: it may be 1 … 1024")
        if loss_kind not in ("mse", "cross_entropy"):
            raise ConfigError(f"relation.loss_kind = {loss_kind!r}: it may be mse | cross_entropy")
        self.loss_kind = loss_kind
        self.relation = RelationModule(backbone.map_shape, hidden, width, side)

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed_maps(self.backbone, episodes)
        return self.relation(class_means(support, episodes), query)

    def loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scores = self.scores(episodes)
        smoothing = self.setting.label_smoothing
        cross_entropy, metrics = query_loss(scores, episodes, smoothing)
        if self.loss_kind == "cross_entropy":
            return cross_entropy, metrics
        right = F.one_hot(episodes.query_y, episodes.way).to(scores.dtype)
        target = right * (1 - smoothing) + smoothing / episodes.way
        return F.mse_loss(scores.sigmoid(), target), metrics


class RelationModule(nn.Module):
    """Two convolutional blocks and two linear layers on the maps of a class and a query image, side by side.

    Batch norm as in the paper, by running averages in evaluation, so that no query image influences another's
    score there. With group norm, layer norm or none it stayed at chance for the first hundreds of steps on
    synthetic episodes, where batch norm and statistics of the support pairs alone left it at once.
    """

    def __init__(self, map_shape: Shape, hidden: int, width: int, most_side: int = _USUAL_SIDE) -> None:
        super().__init__()
        channels, height, side = map_shape
        self.sides = min(height, most_side), min(side, most_side)
        pooled_height, pooled_side = pooled_sides(*self.sides, 2)
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        self.first_norm = Norm(width, "running")
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = Norm(width, "running")
        self.hidden = nn.Linear(width * pooled_height * pooled_side, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Scores [B, M, N] of M query maps [B, M, C, H, W] with N class maps [B, N, C, H, W]."""
        pairs = self._first(self._averaged(classes), self._averaged(query))  # (B, M, N, width, H, W)
        x = _pooled(self.first_norm(pairs.flatten(0, 2)))
        x = _pooled(self.second_norm(self.second(x)))
        x = F.relu(self.hidden(x.flatten(1)))
        return self.score(x).view(pairs.shape[:3])

    def _averaged(self, maps: Tensor) -> Tensor:
        """Maps [B, M, C, H, W] at the size in which they meet."""
        return F.adaptive_avg_pool2d(maps.flatten(0, 1), self.sides).unflatten(0, maps.shape[:2])

    def _first(self, classes: Tensor, query: Tensor) -> Tensor:
        """The first convolution of all pairs; that of a concatenation is the sum of those of its parts."""
        of_class, of_query = self.first.weight.chunk(2, dim=1)
        a = F.conv2d(classes.flatten(0, 1), of_class, padding=1).unflatten(0, classes.shape[:2])
        b = F.conv2d(query.flatten(0, 1), of_query, padding=1).unflatten(0, query.shape[:2])
        return a[:, None] + b[:, :, None]


def _pooled(x: Tensor) -> Tensor:
    # ReLU after pooling is the same function, on a quarter of the numbers.
    return F.relu(F.max_pool2d(x, 2) if min(x.shape[-2:]) >= 2 else x)
