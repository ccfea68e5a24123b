"""Matching networks: a query image attends to the support images, and its class is what it attends to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, by_class, embed

_ORDERS_SEED = 0
_MOST_FEATURES = 1024  # D with full context: its 28 D² weights are then 29 M, and would be 1 G at D = 6144


class Matching(EpisodicLearner):
    """Vinyals et al. 2016, Matching networks for one shot learning.

    P(class) is the sum of a softmax over the support set, of cosine similarities, at the class's images.

    With full context, support and query are first embedded in the light of the whole support set, by networks
    that do not see labels. The one for the support set reads it as a sequence, so scores depend on its order,
    of which the paper says nothing. In training it is a random one for each batch, from torch's global generator; in
    evaluation that of the labels, which puts images of a class together as they seldom were in training, or `orders`
    fixed random ones, over which attention is averaged.

    Args:
        scale: multiplies the cosines; 1 in the paper, where it makes a flat softmax.
        learned_scale: learn it, starting from `scale`.
        full_context: full context embeddings, of at most 1024 features, since they have 28 D² weights.
        context_steps: how often a query image reads the support set, with `full_context`, 1 to 16.
        orders: random orders of the support set in evaluation, with `full_context`, the same for all episodes of one
            size; 0 is the order of the labels, at most 64.
    """

    stackable_with = {"full_context": False}
    class_order_invariant_with = {"full_context": False}

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        scale: float = 10.0,
        learned_scale: bool = False,
        full_context: bool = False,
        context_steps: int = 3,
        orders: int = 0,
    ) -> None:
        super().__init__(backbone, setting)
        if scale <= 0:
            raise ConfigError(f"matching.scale = {scale}: it must be positive")
        if not 1 <= context_steps <= 16:
            raise ConfigError(f"matching.context_steps = {context_steps}: it may be 1 … 16")
        if not 0 <= orders <= 64:
            raise ConfigError(f"matching.orders = {orders}: it may be 0 … 64")
        if orders and not full_context:
            raise ConfigError(f"matching.orders = {orders}: only with matching.full_context = true")
        if full_context and backbone.features > _MOST_FEATURES:
            raise ConfigError(
                f"matching.full_context = true: the backbone gives {backbone.features:,} features, more than "
                f"{_MOST_FEATURES:,} make networks of too many weights"
            )
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned_scale)
        self.context = FullContext(backbone.features, context_steps) if full_context else None
        self.orders = orders

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        attention = self.log_attention(episodes)  # (B, N·Q, N·K)
        if episodes.shots is None:
            return attention.unflatten(-1, (episodes.way, -1)).logsumexp(-1)
        # A class with more images is not likelier: each class counts as if it had as many as there are on average.
        parts, even = by_class(attention, episodes, dim=-1), attention.shape[-1] / episodes.way
        return torch.stack([part.logsumexp(-1) + math.log(even / part.shape[-1]) for part in parts], -1)

    def log_attention(self, episodes: EpisodeBatch) -> Tensor:
        """Logarithm of the attention of each query image to each support image: [B, N·Q, N·K]."""
        support, query = embed(self.backbone, episodes)
        if self.context is None:
            return self._attention(support, query)
        if self.training or not self.orders:
            return self._attention(*self.context(support, query))
        read = [self._attention(*self.context(support, query, order)) for order in self._orders(support)]
        return torch.stack(read).logsumexp(0) - math.log(len(read))

    def _orders(self, support: Tensor) -> list[Tensor]:
        """Orders [N·K] in which to read support features [B, N·K, D]."""
        generator = torch.Generator().manual_seed(_ORDERS_SEED)
        return [torch.randperm(support.shape[1], generator=generator).to(support.device) for _ in range(self.orders)]

    def _attention(self, support: Tensor, query: Tensor) -> Tensor:
        cosines = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mT
        return (self.log_scale.exp() * cosines).log_softmax(-1)


class FullContext(nn.Module):
    """Embeds features of support and query in the context of the support set (appendix A.1 and A.2).

    Names are the paper's: g of the support, f of the query, h the state of the LSTM that makes f, c its
    cell, r what it reads from the support.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.of_support = nn.LSTM(features, features, bidirectional=True, batch_first=True)
        # The paper's cell has the input f' and the state [h, r]; with input [f', r] and state h it is the same.
        self.of_query = nn.LSTMCell(2 * features, features)

    def forward(self, support: Tensor, query: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Support [B, N·K, D] and query [B, N·Q, D], and the same shapes out; the support is read in `order` [N·K]."""
        g = self.in_context(support, order)
        return g, self.reading(query, g)

    def in_context(self, support: Tensor, order: Tensor | None = None) -> Tensor:
        """g(x_i) = →h_i + ←h_i + g'(x_i), reading the support set as it is, or in a random order while training."""
        images = support.shape[1]
        if order is None:
            indices = torch.arange(images, device=support.device)
            order = torch.randperm(images, device=support.device) if self.training else indices
        states = self.of_support(support[:, order])[0][:, order.argsort()]  # (B, N·K, 2·D)
        forward, backward = states.chunk(2, dim=-1)
        return forward + backward + support

    def reading(self, query: Tensor, g: Tensor) -> Tensor:
        """f(x): `steps` times, r = Σ softmax(h·g_i) g_i and then h = LSTM(f'(x), [h, r]) + f'(x).

        The LSTM's state starts from zero, so the first r is read with h = f'(x).
        """
        flat = query.flatten(0, 1)  # (B·N·Q, D)
        h, c = query, torch.zeros_like(flat)
        for _ in range(self.steps):
            r = (h @ g.mT).softmax(-1) @ g  # (B, N·Q, D)
            state, c = self.of_query(torch.cat([flat, r.flatten(0, 1)], -1), (h.flatten(0, 1), c))
            h = state.unflatten(0, query.shape[:2]) + query
        return h
