"""Meta networks: support gradients become fast weights, which a query image recalls by attention.

Symbols: B episodes, N way, M support images, R query images, D features, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, by_class, embed
from autometa.learning.learners.lstm import preprocessed

_COSINE_SCALE = 10.0  # of the representation loss, as in `Pretrain`
_GENERATOR_UNITS = 20
# Of u below zero. On features that are not negative all fast weights turn negative together. After 60 steps with
# rates of 5e-4 to 1e-2, d then had no gradient in 23 of 24 runs with the paper's ReLU for each layer, in 8 with a
# ReLU of the sum, and in none with this.
_LEAK = 0.1
_SMALL = 0.01  # bound of a generator's last layer at the start, so that fast weights are small


class MetaNetworks(EpisodicLearner):
    """Munkhdalai & Yu 2017, Meta networks (algorithm 1).

    The representation learner u is a slow layer Q beside a fast layer Q*, which the generator d makes from the
    gradient that a contrastive loss of one support image a class has in Q. The base learner b is a slow hidden
    layer and a softmax layer; m makes from each support image's gradient in the softmax layer fast weights for it,
    kept in a memory under u of that image. A query image uses their mean, weighted by attention with u of itself.

    Where this is not the paper: fast weights for dense layers only; u and b share one backbone; u has one
    leaky ReLU, on the sum of its slow and its fast layer; d is a network for each coordinate as m is, its outputs
    averaged over the images, instead of an LSTM over them, so that their order does not matter; the slow softmax
    layer is zero (what symmetry between classes makes of it), so any way can be evaluated; attention is sharpened by
    `attention_scale`.

    Args:
        hidden: units H of u and of b's hidden layer, 1 to 1024.
        attention_scale: multiplies the cosines before attention's softmax; 1 in the paper, which with few support
            images leaves attention almost even.
    """

    stackable_with = None  # its pass differentiates

    def __init__(
        self, backbone: Backbone, setting: Setting, *, hidden: int = 64, attention_scale: float = 10.0
    ) -> None:
        super().__init__(backbone, setting)
        if not 1 <= hidden <= 1024:
            raise ConfigError(f"meta_networks.hidden = {hidden}: it may be 1 … 1024")
        if attention_scale <= 0:
            raise ConfigError(f"meta_networks.attention_scale = {attention_scale}: it must be positive")
        self.attention_scale = attention_scale
        self.slow = nn.Linear(backbone.features, hidden, bias=False)  # Q
        self.base = nn.Linear(backbone.features, hidden)
        self.fast_of_representation = Generator()  # d
        self.fast_of_base = Generator()  # m

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes)  # (B, M, D), (B, R, D)
        first = torch.stack([images[:, 0] for images in by_class(support, episodes)], 1)  # (B, N, D)
        fast = self.representation_weights(first)
        keys, wanted = self.represent(support, fast), self.represent(query, fast)
        attention = self.attention(keys, wanted)
        memory = self.base_weights(support, episodes.support_y, episodes.way)
        weights = (attention @ memory.flatten(2)).unflatten(2, memory.shape[2:])  # (B, R, N, H)
        return (weights @ self.base(query).relu()[..., None]).squeeze(-1)

    def represent(self, features: Tensor, fast: Tensor) -> Tensor:
        """u: features [B, M, D] under the sum of the slow and of fast weights [B, H, D]: [B, M, H]."""
        return F.leaky_relu(self.slow(features) + features @ fast.mT, _LEAK)

    def attention(self, keys: Tensor, wanted: Tensor) -> Tensor:
        """How much of each support image's fast weights a query image takes, [B, R, M]; each row sums to one."""
        cosines = F.normalize(wanted, dim=-1) @ F.normalize(keys, dim=-1).mT
        return (self.attention_scale * cosines).softmax(-1)

    def representation_weights(self, first: Tensor) -> Tensor:
        """Q*: [B, H, D], from features [B, N, D] of the first support image of each class.

        One image after the other, and once more in the backward pass: of each coordinate the generator would keep
        22 numbers, 1.4 GB for 8 episodes of 20 classes with 1536 features and 64 hidden units.
        """
        found = representation_gradients(first, self.slow.weight)  # (B, N, H, D)
        total = torch.zeros_like(found[:, 0])
        for image in found.unbind(1):
            total = total + checkpoint(
                self.fast_of_representation, image, use_reentrant=False, preserve_rng_state=False
            )
        return total / first.shape[1]

    def base_weights(self, support: Tensor, labels: Tensor, way: int) -> Tensor:
        """The memory's W*, [B, M, N, H], from the gradient of each support image's loss in a softmax layer of zeros."""
        hidden = self.base(support).relu()
        error = 1 / way - F.one_hot(labels, way).to(hidden.dtype)  # (B, M, N), the gradient in the scores
        return self.fast_of_base(error[..., None] * hidden[..., None, :])


class Generator(nn.Module):
    """Fast weights from gradients, each coordinate by itself with the same small network: [...] to [...]."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(_GENERATOR_UNITS, 1)
        nn.init.uniform_(last.weight, -_SMALL, _SMALL)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2, _GENERATOR_UNITS), nn.ReLU(), last)

    def forward(self, gradient: Tensor) -> Tensor:
        """Fast weights like `gradient`, which is an input: nothing is differentiated through it."""
        return self.layers(preprocessed(gradient.detach())).squeeze(-1)


def representation_gradients(features: Tensor, slow: Tensor) -> Tensor:
    """What each of N images [B, N, D], one a class, adds to the gradient of the contrastive loss in Q [H, D].

    The loss is the cross-entropy of telling the N images apart by the cosine of their representations, summed over
    them; the addends are [B, N, H, D], the outer products of its gradient in Q x with x.
    """
    features = features.detach()
    with torch.enable_grad():
        before = F.linear(features, slow.detach()).requires_grad_()  # (B, N, H), Q x
        unit = F.normalize(F.leaky_relu(before, _LEAK), dim=-1)
        similar = _COSINE_SCALE * unit @ unit.mT  # (B, N, N)
        loss = -similar.log_softmax(-1).diagonal(dim1=1, dim2=2).sum()
        (found,) = torch.autograd.grad(loss, before)
    return found[..., None] * features[:, :, None]
