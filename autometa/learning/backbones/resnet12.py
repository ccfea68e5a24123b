"""`resnet12`: the residual backbone of few-shot learning, four stages of three convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape, pooled_sides
from autometa.learning.normalization import Layout, Norm
from autometa.learning.ops.memory_format import channels_last

_STAGES = 4
_PLAIN, _WIDE = (1.0, 2.0, 4.0, 8.0), (1.0, 2.5, 5.0, 10.0)


class ResNet12(Backbone):
    """ResNet-12 as in TADAM and MetaOptNet (Oreshkin et al. 2018; Lee et al. 2019).

    Args:
        image_shape: (channels, height, width).
        width: channels of the first stage; 64 in the papers.
        wide: stages 64-160-320-640 for width 64 (MetaOptNet), else 64-128-256-512.
        drop_rate: dropout after each stage, in [0, 1); in DropBlock form where `drop_block` > 1.
        drop_block: side of the squares that DropBlock drops in the last two stages (Ghiasi et al. 2018).
        norm: a mode of `normalization.Norm`.
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        width: int = 64,
        wide: bool = False,
        drop_rate: float = 0.0,
        drop_block: int = 1,
        norm: str = "running",
    ) -> None:
        if not 1 <= width <= 512:
            raise ConfigError(f"resnet12.width = {width}: it may be 1 … 512")
        if not 0 <= drop_rate < 1:
            raise ConfigError(f"resnet12.drop_rate = {drop_rate}: it must be in [0, 1)")
        if drop_block < 1:
            raise ConfigError(f"resnet12.drop_block = {drop_block}: it must be at least 1")
        sizes = [image_shape[0], *(int(width * factor) for factor in (_WIDE if wide else _PLAIN))]
        super().__init__(image_shape, (sizes[-1], *pooled_sides(*image_shape[1:], _STAGES)), "mean")
        self.stages = nn.ModuleList(
            _Stage(sizes[i], sizes[i + 1], norm, drop_rate, drop_block if i >= 2 else 1) for i in range(_STAGES)
        )

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = channels_last(images)
        for stage in self.stages:
            x = stage(x, layout)
        return x


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: str, drop_rate: float, drop_block: int) -> None:
        super().__init__()
        sizes = [inputs, outputs, outputs, outputs]
        self.convs = nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=False) for i in range(3))
        self.norms = nn.ModuleList(Norm(outputs, norm) for _ in range(3))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = Norm(outputs, norm)
        self.drop_rate, self.drop_block = drop_rate, drop_block
        for conv in [*self.convs, self.shortcut]:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        residual = self.shortcut_norm(self.shortcut(x), layout)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x), layout)
            x = F.leaky_relu(x, 0.1) if index < 2 else x
        x = F.leaky_relu(x + residual, 0.1)
        x = F.max_pool2d(x, 2) if min(x.shape[-2:]) >= 2 else x
        return drop_blocks(x, self.drop_rate, self.drop_block) if self.training and self.drop_rate else x


def drop_blocks(x: Tensor, rate: float, size: int) -> Tensor:
    """DropBlock (Ghiasi et al. 2018, algorithm 1) on [M, C, H, W]; with `size` 1 it is plain dropout.

    Squares of `size` pixels are set to zero so that about `rate` of each map is dropped; what stays is
    scaled up to keep the sum.
    """
    height, width = x.shape[-2:]
    size = min(size, height, width)
    if size == 1:
        return F.dropout(x, rate)
    seeds = rate * height * width / (size**2 * (height - size + 1) * (width - size + 1))
    centres = (torch.rand(*x.shape[:2], height - size + 1, width - size + 1, device=x.device) < seeds).to(x.dtype)
    dropped = F.max_pool2d(F.pad(centres, [size - 1] * 4), size, stride=1)
    kept = 1 - dropped
    return x * kept * (kept.numel() / kept.sum().clamp(min=1))
