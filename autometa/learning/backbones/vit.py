"""`vit`: a small vision transformer, patches as tokens that attend to each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout
from autometa.learning.ops.table import attention

_MOST_TOKENS = 256  # of which attention by four heads keeps 3 MB an image and layer for the gradient; of 1024, 24 MB


class ViT(Backbone):
    """Vision transformer (Dosovitskiy et al. 2021, An image is worth 16x16 words), with learned positions.

    Features are the mean of the patch tokens, as in Beyer et al. 2022 (Better plain ViT baselines); a class
    token would have no place in a map. Only images' own tokens meet: layer norm (Ba et al. 2016) is inside, so
    there is no option `norm`, and `layout` plays no part.

    Args:
        image_shape: (channels, height, width).
        patch: side of a patch in pixels; it must divide height and width, and leave at most 256 patches: what
            attention keeps for the gradient is quadratic in their number.
        dim: length of a token.
        depth: transformer layers.
        heads: of attention; they must divide `dim`.
        mlp_ratio: hidden units of a layer's MLP, in units of `dim`.
        drop_rate: dropout of the embedding and of what each layer adds, in [0, 1).
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        patch: int = 4,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 2,
        drop_rate: float = 0.0,
    ) -> None:
        channels, height, width = image_shape
        _check_sizes(dim, depth, heads, mlp_ratio, drop_rate)
        if patch < 1 or height % patch or width % patch:
            raise ConfigError(f"vit.patch = {patch}: must divide the image's sides ({height} x {width})")
        tokens = (height // patch) * (width // patch)
        if tokens > _MOST_TOKENS:
            raise ConfigError(
                f"vit.patch = {patch}: makes {tokens} tokens of {height} x {width}, more than {_MOST_TOKENS} take "
                "too much memory; choose a larger patch or smaller images"
            )
        super().__init__(image_shape, (dim, height // patch, width // patch), "mean")
        self.embedding = nn.Conv2d(channels, dim, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(tokens, dim))  # (T, D), T tokens
        self.layers = nn.ModuleList(_Layer(dim, heads, int(mlp_ratio * dim), drop_rate) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.drop_rate = drop_rate
        nn.init.normal_(self.positions, std=0.02)
        nn.init.normal_(self.embedding.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(self.embedding.bias)  # type: ignore[arg-type]

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        tokens = self.embedding(images).flatten(2).mT + self.positions  # (M, T, D)
        tokens = F.dropout(tokens, self.drop_rate, self.training)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens).mT.unflatten(2, self.map_shape[1:])


class _Layer(nn.Module):
    """Attention, then an MLP; each normalises what it reads and adds what it finds."""

    def __init__(self, dim: int, heads: int, hidden: int, drop_rate: float) -> None:
        super().__init__()
        self.heads, self.drop_rate = heads, drop_rate
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.projection = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for weight in (*self.query_key_value.weight.chunk(3), *(m.weight for m in self.after_attention())):
            nn.init.xavier_uniform_(weight)
        for linear in self.after_attention():
            nn.init.zeros_(linear.bias)

    def after_attention(self) -> tuple[nn.Linear, ...]:
        return self.projection, self.widen, self.narrow

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._dropped(self.projection(self._attended(self.norm1(tokens))))
        hidden = F.gelu(self.widen(self.norm2(tokens)))
        return tokens + self._dropped(self.narrow(hidden))

    def _attended(self, tokens: Tensor) -> Tensor:
        """What each token reads from all tokens of its image: [M, T, D] to [M, T, D]."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (M, heads, T, D / heads)
            for part in self.query_key_value(tokens).chunk(3, -1)
        )
        return attention(query, key, value).transpose(1, 2).flatten(2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training)


def _check_sizes(dim: int, depth: int, heads: int, mlp_ratio: float, drop_rate: float) -> None:
    if not 1 <= dim <= 1024:
        raise ConfigError(f"vit.dim = {dim}: it may be 1 … 1024")
    if not 1 <= depth <= 24:
        raise ConfigError(f"vit.depth = {depth}: it may be 1 … 24")
    if heads < 1 or dim % heads:
        raise ConfigError(f"vit.heads = {heads}: it must divide vit.dim = {dim}")
    if not 0 < mlp_ratio <= 8 or mlp_ratio * dim < 1:
        raise ConfigError(f"vit.mlp_ratio = {mlp_ratio}: it must be in (0, 8], and leave at least one hidden unit")
    if not 0 <= drop_rate < 1:
        raise ConfigError(f"vit.drop_rate = {drop_rate}: it must be in [0, 1)")
