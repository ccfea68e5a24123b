"""`resnet18`: the smallest of the original residual networks, in its form for small images and the usual one."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout, Norm
from autometa.learning.ops.memory_format import channels_last

_BLOCKS = 2  # of each of four stages: 2 · 2 · 4 convolutions, the stem and the head that is not here make 18
_FACTORS, _STRIDES = (1, 2, 4, 8), (1, 2, 2, 2)
_SMALL = 48  # a side up to which the stem keeps the size: He et al. do so for CIFAR's 32, and not for 224


class ResNet18(Backbone):
    """ResNet-18 (He et al. 2016, Deep residual learning for image recognition), stages 64-128-256-512.

    Images up to 48 × 48 enter by one 3×3 convolution and leave as maps of an eighth of their sides (rounded
    up); larger ones by a 7×7 convolution of stride two and max pooling, and leave as a thirty-second.

    Args:
        image_shape: (channels, height, width).
        width: channels of the first stage; 64 in the paper.
        drop_rate: dropout after each stage, in [0, 1); the paper has none.
        norm: a mode of `normalization.Norm`.
    """

    def __init__(self, image_shape: Shape, *, width: int = 64, drop_rate: float = 0.0, norm: str = "running") -> None:
        if not 1 <= width <= 512:
            raise ConfigError(f"resnet18.width = {width}: it may be 1 … 512")
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"resnet18.drop_rate = {drop_rate}: it must be in [0, 1)")
        channels, *sides = image_shape
        is_small = max(sides) <= _SMALL
        height, side = (-(-s // (8 if is_small else 32)) for s in sides)
        super().__init__(image_shape, (8 * width, height, side), "mean")
        kernel, stride = (3, 1) if is_small else (7, 2)
        self.stem = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.stem_norm = Norm(width, norm)
        self.pools_first, self.drop_rate = not is_small, drop_rate
        sizes = [width, *(width * factor for factor in _FACTORS)]
        self.stages = nn.ModuleList(_stage(sizes[i], sizes[i + 1], _STRIDES[i], norm) for i in range(len(_STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = self.stem_norm.then_relu(self.stem(channels_last(images)), layout)
        x = F.max_pool2d(x, 3, 2, 1) if self.pools_first else x
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, layout)
            x = F.dropout(x, self.drop_rate, self.training)
        return x


def _stage(inputs: int, outputs: int, stride: int, norm: str) -> nn.ModuleList:
    first = _Block(inputs, outputs, stride, norm)
    return nn.ModuleList([first, *(_Block(outputs, outputs, 1, norm) for _ in range(_BLOCKS - 1))])


class _Block(nn.Module):
    """Two 3×3 convolutions; the shortcut is a 1×1 convolution where shapes differ (option B of the paper)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = Norm(outputs, norm)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = Norm(outputs, norm)
        differs = stride > 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if differs else None
        self.shortcut_norm = Norm(outputs, norm) if differs else None

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        y = self.norm1.then_relu(self.conv1(x), layout)
        y = self.norm2(self.conv2(y), layout)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), layout)
        return F.relu(x + y)
