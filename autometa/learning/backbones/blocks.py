"""`blocks`: a space of architectures, one to four stages of blocks, each stage with choices of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError, require_one_of
from autometa.learning.backbones.backbone import Backbone, Shape, pooled_sides
from autometa.learning.backbones.conv import POOLINGS, halved
from autometa.learning.normalization import Layout, Norm
from autometa.learning.ops.memory_format import channels_last

KERNELS = (3, 5)
_SQUEEZE, _FEWEST = 16, 4  # Hu et al. 2018 squeeze to a sixteenth; less than four channels carry too little
_EXPANSION = 4
_LAYER_SCALE = 0.1  # for up to 18 layers (Touvron et al. 2021, Going deeper with image transformers, section 2)


class Blocks(Backbone):
    """Stages of blocks; each stage ends by halving height and width while both are at least 2.

    Stage i has `depth`i blocks of kind `block`i with `width`i channels and `kernel`i × `kernel`i filters:

        plain       convolution, norm, ReLU: with depth 1, stage by stage, this is `conv`.
        residual    two convolutions and a shortcut (He et al. 2016).
        depthwise   a filter for each channel, then 1×1, norm and ReLU after both (MobileNet: Howard et al. 2017).
        convnext    a filter for each channel, norm, 1×1 to four times as many, GELU, 1×1, layer scale, shortcut
                    (Liu et al. 2022, A ConvNet for the 2020s; with this package's norms in place of layer norm).

    Where filters of single channels would see the bare image, a full convolution and a norm come before.
    With `attention`i each block weighs its channels by squeeze and excitation (Hu et al. 2018), in a residual
    block before the sum.

    Args:
        image_shape: (channels, height, width).
        stages: 1 to 4; what is said of later stages plays no part.
        width1, width2, width3, width4: channels of a stage, 1 to 1024.
        depth1, depth2, depth3, depth4: blocks of a stage, 1 to 8.
        kernel1, kernel2, kernel3, kernel4: side of the filters, 3 or 5.
        block1, block2, block3, block4: kind of the blocks.
        attention1, attention2, attention3, attention4: whether blocks weigh their channels.
        pooling: how a stage halves, by the "max" or "mean" of 2×2 pixels.
        norm: a mode of `normalization.Norm`.
        readout: features are the last map, "flatten", or its spatial "mean".
    """

    def __init__(
        self,
        image_shape: Shape,
        *,
        stages: int = 4,
        width1: int = 64,
        width2: int = 64,
        width3: int = 64,
        width4: int = 64,
        depth1: int = 1,
        depth2: int = 1,
        depth3: int = 1,
        depth4: int = 1,
        kernel1: int = 3,
        kernel2: int = 3,
        kernel3: int = 3,
        kernel4: int = 3,
        block1: str = "plain",
        block2: str = "plain",
        block3: str = "plain",
        block4: str = "plain",
        attention1: bool = False,
        attention2: bool = False,
        attention3: bool = False,
        attention4: bool = False,
        pooling: str = "max",
        norm: str = "running",
        readout: str = "flatten",
    ) -> None:
        if not 1 <= stages <= 4:
            raise ConfigError(f"blocks.stages = {stages}: it may be 1 … 4")
        require_one_of("blocks.pooling", pooling, POOLINGS)
        widths = (width1, width2, width3, width4)[:stages]
        depths = (depth1, depth2, depth3, depth4)[:stages]
        kernels = (kernel1, kernel2, kernel3, kernel4)[:stages]
        kinds = (block1, block2, block3, block4)[:stages]
        attentions = (attention1, attention2, attention3, attention4)[:stages]
        for number, choices in enumerate(zip(widths, depths, kernels, kinds, strict=True), 1):
            _check_stage(number, *choices)
        channels, height, side = image_shape
        super().__init__(image_shape, (widths[-1], *pooled_sides(height, side, stages)), readout)
        self.pooling = pooling
        self.stem = _Stem(channels, widths[0], kernels[0], norm) if kinds[0] in ("depthwise", "convnext") else None
        inputs = (channels if self.stem is None else widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                _KINDS[kinds[i]](inputs[i] if n == 0 else widths[i], widths[i], kernels[i], attentions[i], norm)
                for n in range(depths[i])
            )
            for i in range(stages)
        )

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = channels_last(images)
        x = x if self.stem is None else self.stem(x, layout)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, layout)
            x = halved(x, self.pooling)
        return x


class _Block(nn.Module, ABC):
    """Maps [M, `inputs`, H, W] to maps [M, `outputs`, H, W]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, attention: bool, norm: str) -> None:
        super().__init__()
        self.attention = _SqueezeExcite(outputs) if attention else nn.Identity()

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout | None) -> Tensor: ...


class _Plain(_Block):
    def __init__(self, inputs: int, outputs: int, kernel: int, attention: bool, norm: str) -> None:
        super().__init__(inputs, outputs, kernel, attention, norm)
        self.conv = _conv(inputs, outputs, kernel)
        self.norm = Norm(outputs, norm)

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        return self.attention(self.norm.relu_of(self.conv, x, layout))


class _Residual(_Block):
    def __init__(self, inputs: int, outputs: int, kernel: int, attention: bool, norm: str) -> None:
        super().__init__(inputs, outputs, kernel, attention, norm)
        self.conv1, self.conv2 = _conv(inputs, outputs, kernel), _conv(outputs, outputs, kernel)
        self.norm1, self.norm2 = Norm(outputs, norm), Norm(outputs, norm)
        self.shortcut = _Stem(inputs, outputs, 1, norm) if inputs != outputs else None

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        y = self.norm1.relu_of(self.conv1, x, layout)
        y = self.attention(self.norm2(self.conv2(y), layout))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x, layout)))


class _Depthwise(_Block):
    def __init__(self, inputs: int, outputs: int, kernel: int, attention: bool, norm: str) -> None:
        super().__init__(inputs, outputs, kernel, attention, norm)
        self.filter, self.mix = _conv(inputs, inputs, kernel, groups=inputs), _conv(inputs, outputs, 1)
        self.norm1, self.norm2 = Norm(inputs, norm), Norm(outputs, norm)

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        x = self.norm1.then_relu(self.filter(x), layout)
        return self.attention(self.norm2.then_relu(self.mix(x), layout))


class _ConvNext(_Block):
    def __init__(self, inputs: int, outputs: int, kernel: int, attention: bool, norm: str) -> None:
        super().__init__(inputs, outputs, kernel, attention, norm)
        self.change = _Stem(inputs, outputs, 1, norm) if inputs != outputs else None
        self.filter, self.norm = _conv(outputs, outputs, kernel, groups=outputs), Norm(outputs, norm)
        self.widen, self.narrow = _conv(outputs, _EXPANSION * outputs, 1), _conv(_EXPANSION * outputs, outputs, 1)
        self.scale = nn.Parameter(torch.full((outputs,), _LAYER_SCALE))

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        x = x if self.change is None else self.change(x, layout)
        y = self.narrow(F.gelu(self.widen(self.norm(self.filter(x), layout))))
        return x + self.scale[:, None, None] * self.attention(y)


_KINDS: dict[str, type[_Block]] = {
    "plain": _Plain,
    "residual": _Residual,
    "depthwise": _Depthwise,
    "convnext": _ConvNext,
}


class _Stem(nn.Module):
    """A convolution and a norm: where an image enters, or where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: str) -> None:
        super().__init__()
        self.conv, self.norm = _conv(inputs, outputs, kernel), Norm(outputs, norm)

    def forward(self, x: Tensor, layout: Layout | None) -> Tensor:
        return self.norm(self.conv(x), layout)


class _SqueezeExcite(nn.Module):
    """Weighs each channel of an image by a small network that sees all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(_FEWEST, channels // _SQUEEZE)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()  # (M, C)
        return x * weights[..., None, None]


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    # By fan-in (He et al. 2015): fan-out would count a filter of one channel as if it fed all of them.
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def _check_stage(number: int, width: int, depth: int, kernel: int, kind: str) -> None:
    if not 1 <= width <= 1024:
        raise ConfigError(f"blocks.width{number} = {width}: it may be 1 … 1024")
    if not 1 <= depth <= 8:
        raise ConfigError(f"blocks.depth{number} = {depth}: it may be 1 … 8")
    require_one_of(f"blocks.kernel{number}", kernel, KERNELS)
    require_one_of(f"blocks.block{number}", kind, _KINDS)
