"""`wrn`: wide residual networks, WRN-28-10 unless told otherwise."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout, Norm
from autometa.learning.ops.memory_format import channels_last

_STEM = 16
_WIDTHS, _STRIDES = (16, 32, 64), (1, 2, 2)


class WideResNet(Backbone):
    """WRN-`depth`-`factor` (Zagoruyko & Komodakis 2016, Wide residual networks), for images of about 32 × 32.

    Blocks are pre-activated (He et al. 2016b): norm and ReLU come before each convolution. Maps have a
    quarter of the image's sides, rounded up. As a few-shot backbone: Rusu et al. 2019; Mangla et al. 2020.

    Args:
        image_shape: (channels, height, width).
        depth: 6n + 4, for n blocks in each of three stages.
        factor: how many times wider than 16-32-64 the stages are.
        drop_rate: dropout between the two convolutions of a block, in [0, 1); 0.3 in the paper, where used.
        norm: a mode of `normalization.Norm`.
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        depth: int = 28,
        factor: int = 10,
        drop_rate: float = 0.0,
        norm: str = "running",
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ConfigError(f"wrn.depth = {depth}: it must be 6n + 4")
        if not 1 <= factor <= 16:
            raise ConfigError(f"wrn.factor = {factor}: it may be 1 … 16")
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"wrn.drop_rate = {drop_rate}: it must be in [0, 1)")
        channels, height, side = image_shape
        sizes = [_STEM, *(width * factor for width in _WIDTHS)]
        super().__init__(image_shape, (sizes[-1], -(-height // 4), -(-side // 4)), "mean")
        self.stem = nn.Conv2d(channels, _STEM, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            _Block(inputs if n == 0 else outputs, outputs, stride if n == 0 else 1, drop_rate, norm)
            for (inputs, outputs), stride in zip(itertools.pairwise(sizes), _STRIDES, strict=True)
            for n in range((depth - 4) // 6)
        )
        self.norm = Norm(sizes[-1], norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = self.stem(channels_last(images))
        for block in self.blocks:
            x = block(x, layout)
        return self.norm.then_relu(x, layout)


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice; where shapes differ, the shortcut is a 1×1 convolution after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float, norm: str) -> None:
        super().__init__()
        self.norm1 = Norm(inputs, norm)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = Norm(outputs, norm)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        differs = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if differs else None
        self.drop_rate = drop_rate

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        active = self.norm1.then_relu(x, layout)
        y = self.norm2.then_relu(self.conv1(active), layout)
        y = self.conv2(F.dropout(y, self.drop_rate, self.training))
        return y + (x if self.shortcut is None else self.shortcut(active))
