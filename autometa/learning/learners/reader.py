"""Reader: a transformer reads the labelled support set and names the label of each query image.

Symbols: B episodes, N way, K shot, Q query images a class; T = N·(K + Q) tokens of an episode, E their length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, embed

_WIDEN = 2  # of the layer between two linear maps; 4 in Vaswani et al. 2017, whose tokens are many more


class Reader(EpisodicLearner):
    """A model-based learner: nothing is fitted to a new task, the network has learned to read it.

    In the spirit of SNAIL (Mishra et al. 2018), but over a set, as CAML (Fifty et al. 2024): a support token is
    the image's projected feature beside the embedding of its label, a query token the feature beside an embedding
    of "unknown". Support tokens attend to the support set, a query token to the support set and itself, so that
    neither the order of the support set nor the other query images matter. A logit is the inner product of a
    label's embedding with what stands in its place in the query's output.

    Label embeddings are fixed directions, orthogonal where there is room. In training each episode takes
    random ones, so that none of them comes to mean a class; in evaluation the first N are taken. So the scores
    depend somewhat on which class has which number.

    CAML takes a large backbone, pre-trained and frozen; here, as in SNAIL, all is trained together.

    Args:
        dim: E, length of a token, half of it for the label; even.
        depth: layers of attention.
        heads: of each layer; must divide `dim`.
        drop_rate: dropout of what a layer adds, in [0, 1).
        max_way: label embeddings, so the largest way of an episode.
    """

    labels: Tensor

    stackable_with = None  # its pass draws the embeddings of labels
    class_order_invariant_with = None  # each label has an embedding of its own

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        drop_rate: float = 0.0,
        max_way: int = 64,
    ) -> None:
        super().__init__(backbone, setting)
        for option, value in (("dim", dim), ("depth", depth), ("heads", heads), ("max_way", max_way)):
            if value < 1:
                raise ConfigError(f"reader.{option} = {value}: it must be at least 1")
        if dim % 2 or dim % heads:
            raise ConfigError(f"reader.dim = {dim}: it must be even and a multiple of reader.heads = {heads}")
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"reader.drop_rate = {drop_rate}: it must be in [0, 1)")
        self.max_way = max_way
        self._check(setting.way)
        half = dim // 2
        directions = nn.init.orthogonal_(torch.empty(max_way, half))
        self.register_buffer("labels", F.normalize(directions, dim=-1) * half**0.5)  # elements about 1, as features
        self.unknown = nn.Parameter(torch.zeros(half))
        self.project = nn.Sequential(nn.Linear(backbone.features, half), nn.LayerNorm(half))
        self.layers = nn.ModuleList(Layer(dim, heads, drop_rate) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        names = self._label_embeddings(episodes)  # (B, N, E/2)
        support, query = (self.project(features) for features in embed(self.backbone, episodes))
        known = names.gather(1, episodes.support_y[..., None].expand_as(support))
        labels = torch.cat([known, self.unknown.expand_as(query)], 1)
        tokens = torch.cat([torch.cat([support, query], 1), labels], -1)  # (B, T, E)
        seen = visible(support.shape[1], tokens.shape[1], tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, seen)
        read = self.norm(tokens[:, support.shape[1] :])[..., -names.shape[-1] :]  # where a label stands
        return read @ names.mT / names.shape[-1] ** 0.5

    def _label_embeddings(self, episodes: EpisodeBatch) -> Tensor:
        """Of each episode's classes: [B, N, E/2]."""
        self._check(episodes.way)
        if not self.training:
            return self.labels[: episodes.way].expand(episodes.batch, -1, -1)
        drawn = torch.rand(episodes.batch, self.max_way, device=self.labels.device)
        return self.labels[drawn.topk(episodes.way).indices]

    def _check(self, way: int) -> None:
        if way > self.max_way:
            raise ConfigError(f"reader.max_way = {self.max_way}: it must be at least the way of an episode, {way}")


class Layer(nn.Module):
    """Attention and a two-layer network, each added to the tokens (Vaswani et al. 2017), norms first.

    It starts as attention to similar tokens that adds what it reads as it is, a soft nearest neighbour. After 700
    steps of Adam on 5-way 1-shot CIFAR-FS (conv4-32, 4 episodes a step, one seed, 300 validation episodes) that
    was 38 % in place of 22 % from the usual random start.
    """

    def __init__(self, dim: int, heads: int, drop_rate: float) -> None:
        super().__init__()
        self.heads, self.drop_rate = heads, drop_rate
        self.norm, self.wide_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.widen, self.narrow = nn.Linear(dim, _WIDEN * dim), nn.Linear(_WIDEN * dim, dim)
        for there, back in ((self.query.weight, self.key.weight), (self.value.weight, self.out.weight.T)):
            nn.init.orthogonal_(there)
            back.data.copy_(there)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Tokens [B, T, E] after the layer, where [T, T] says what each of them may see."""
        tokens = tokens + self._dropped(self.attend(self.norm(tokens), seen))
        return tokens + self._dropped(self.narrow(F.gelu(self.widen(self.wide_norm(tokens)))))

    def attend(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """What each token reads from those it sees, [B, T, E]."""
        values = self._by_head(self.value(tokens))
        return self.out((self.weights(tokens, seen) @ values).transpose(1, 2).flatten(2))

    def weights(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Of every token in the sum that a token reads, [B, heads, T, T]; rows sum to one."""
        query, key = self._by_head(self.query(tokens)), self._by_head(self.key(tokens))
        return (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)

    def _by_head(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, E / heads)

    def _dropped(self, added: Tensor) -> Tensor:
        return F.dropout(added, self.drop_rate, self.training)


def visible(support: int, tokens: int, device: torch.device) -> Tensor:
    """Which token (row) sees which (column), [T, T]: all of them the support set, and a query itself besides."""
    place = torch.arange(tokens, device=device)
    return (place < support) | (place == place[:, None])
