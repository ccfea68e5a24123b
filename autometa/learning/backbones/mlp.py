"""`mlp`: fully connected layers on vectors, or on images with their pixels in a row."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout, Norm


class Mlp(Backbone):
    """`depth` layers of linear map, norm, ReLU and dropout, as the fully connected network of Finn et al. 2017.

    Its map is one pixel: [M, width, 1, 1].

    Args:
        image_shape: (channels, height, width); a vector of length n is (n, 1, 1).
        depth: layers, 1 to 16.
        width: units of every layer, 1 to 4096.
        drop_rate: dropout after each layer, in [0, 1).
        norm: a mode of `normalization.Norm`.
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        depth: int = 2,
        width: int = 256,
        drop_rate: float = 0.0,
        norm: str = "running",
    ) -> None:
        if not 1 <= depth <= 16:
            raise ConfigError(f"mlp.depth = {depth}: it may be 1 … 16")
        if not 1 <= width <= 4096:
            raise ConfigError(f"mlp.width = {width}: it may be 1 … 4096")
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"mlp.drop_rate = {drop_rate}: it must be in [0, 1)")
        super().__init__(image_shape, (width, 1, 1), "flatten")
        sizes = [math.prod(image_shape), *[width] * depth]
        # The norm shifts: a bias before it would do the same again, or nothing.
        self.linears = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(Norm(width, norm) for _ in range(depth))
        self.drop_rate = drop_rate
        for weight in self.linears.parameters():
            nn.init.kaiming_normal_(weight, nonlinearity="relu")  # He et al. 2015

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = images.flatten(1)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = F.relu(norm(linear(x)[..., None, None], layout)).flatten(1)
            x = F.dropout(x, self.drop_rate, self.training)
        return x[..., None, None]
