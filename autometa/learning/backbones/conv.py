"""`conv`: the plain convolutional backbone of few-shot learning, blocks of convolution, norm, ReLU and pooling."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from autometa.errors import ConfigError, require_one_of
from autometa.learning.backbones.backbone import Backbone, Shape, pooled_sides
from autometa.learning.normalization import Layout, Norm
from autometa.learning.ops.memory_format import channels_last
from autometa.learning.ops.table import pooled

POOLINGS = ("max", "mean")
_MOST_CHANNELS = 2**13


class Conv(Backbone):
    """Conv-`depth` with `width` channels (Vinyals et al. 2016; Conv4-64 of Snell et al. 2017).

    Each block halves height and width while both are at least 2.

    Args:
        image_shape: (channels, height, width).
        depth: blocks, 1 to 8.
        width: channels of the first block, 1 to 1024.
        growth: how many times the channels of a block the next one has, 1 to 4; 1 in the papers. A network with 2 does
            most of its work on small maps, and learns more in the same time (`docs/log.md`).
        widths: channels of each block in the place of `depth`, `width` and `growth`, for example "96-192-384-512"
            (R2-D2, Bertinetto et al. 2019).
        pooled_blocks: how many blocks halve, the first ones; 0 is all. Relation networks have 2 (Sung et al. 2018).
        joined_blocks: of how many blocks, the last ones, features are put together; R2-D2 has 2. Maps are those of
            the last.
        pooling: how a block halves, "max" (as in the papers) or "mean" of 2×2 pixels.
        norm: a mode of `normalization.Norm`.
        readout: features are maps, "flatten" (as in the papers), or their spatial "mean".
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        depth: int = 4,
        width: int = 64,
        growth: float = 1.0,
        widths: str = "",
        pooled_blocks: int = 0,
        joined_blocks: int = 1,
        pooling: str = "max",
        norm: str = "running",
        readout: str = "flatten",
    ) -> None:
        channels = _channels(depth, width, growth, widths)
        if not 0 <= pooled_blocks <= len(channels):
            raise ConfigError(
                f"conv.pooled_blocks = {pooled_blocks}: it may be 0 … {len(channels)}, the blocks there are"
            )
        if not 1 <= joined_blocks <= len(channels):
            raise ConfigError(
                f"conv.joined_blocks = {joined_blocks}: it may be 1 … {len(channels)}, the blocks there are"
            )
        require_one_of("conv.pooling", pooling, POOLINGS)
        halving = pooled_blocks or len(channels)
        shapes = _map_shapes(image_shape, channels, halving)
        super().__init__(image_shape, shapes[-1], readout)
        self.joined_blocks = joined_blocks
        self.features = sum(c if readout == "mean" else c * h * w for c, h, w in shapes[-joined_blocks:])
        sizes = itertools.pairwise([image_shape[0], *channels])
        self.blocks = nn.ModuleList(
            _Block(i, o, pooling if number < halving else "none", norm) for number, (i, o) in enumerate(sizes)
        )

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        return self._of_blocks(images, layout)[-1]

    def maps_to_read(self, images: Tensor, layout: Layout | None = None) -> list[Tensor]:
        return self._of_blocks(images, layout)[-self.joined_blocks :]

    def _of_blocks(self, images: Tensor, layout: Layout | None) -> list[Tensor]:
        """The maps of the blocks whose maps are read."""
        # channels-last is 1.4 times as fast for 3 × 32 × 32 on a CPU, and what tensor cores want on a GPU.
        x = channels_last(images)
        read: list[Tensor] = []
        for block in self.blocks:
            x = block(x, layout)
            read = [*read, x][-self.joined_blocks :]
        return read


def _channels(depth: int, width: int, growth: float, widths: str) -> list[int]:
    """Channels of each block.

    Raises:
        ConfigError: too many or too few blocks or channels, or `widths` is not whole numbers between hyphens.
    """
    if not 1 <= depth <= 8:
        raise ConfigError(f"conv.depth = {depth}: it may be 1 … 8")
    if not 1 <= width <= 1024:
        raise ConfigError(f"conv.width = {width}: it may be 1 … 1024")
    if not 1 <= growth <= 4:
        raise ConfigError(f"conv.growth = {growth}: it may be 1 … 4")
    if not widths:
        channels = [round(width * growth**number) for number in range(depth)]
        if channels[-1] > _MOST_CHANNELS:
            raise ConfigError(f"conv.growth = {growth}: the last of {depth} blocks would have {channels[-1]} channels")
        return channels
    parts = widths.split("-") if isinstance(widths, str) else []
    if not 1 <= len(parts) <= 8 or not all(p.isascii() and p.isdigit() and 1 <= int(p) <= 1024 for p in parts):
        raise ConfigError(f'conv.widths = {widths!r}: 1 … 8 numbers of 1 … 1024 are needed, as in "96-192-384-512"')
    return [int(part) for part in parts]


def _map_shapes(image_shape: Shape, channels: list[int], halving: int) -> list[Shape]:
    """The shape of each block's maps, of which the first `halving` are halved."""
    _, height, side = image_shape
    return [(c, *pooled_sides(height, side, min(number, halving))) for number, c in enumerate(channels, 1)]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, pooling: str, norm: str) -> None:
        super().__init__()
        # A bias before a normalisation by batch or group statistics has no effect.
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm == "none")
        self.norm = Norm(outputs, norm)
        self.pooling = pooling

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        if self.pooling == "max":
            return self.norm.relu_of(self.conv, x, layout, pool=2 if min(x.shape[-2:]) >= 2 else 1)
        x = self.norm.relu_of(self.conv, x, layout)
        return x if self.pooling == "none" else halved(x, self.pooling)


def halved(x: Tensor, pooling: str) -> Tensor:
    """Maps [M, C, H, W] with half their sides, by the max or mean of 2×2 pixels, or as they are where a side is 1."""
    if min(x.shape[-2:]) < 2:
        return x
    return pooled(x, pooling)
