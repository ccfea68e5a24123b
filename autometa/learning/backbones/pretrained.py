"""What backbones with weights from elsewhere share: their own input, and features that need computing only once.

Images come normalised as their data set is. That is undone here, since weights expect the mean, the spread and the
resolution that they were trained with.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autometa.errors import ConfigError, first_line
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout, Norm

COLOURS = 3
_SMALLEST, _LARGEST = 16, 1024


@dataclass(frozen=True)
class Input:
    """The images that weights expect: mean and spread of the three colours in [0, 1], pixels per side, and how images
    are resized to that: "bicubic" or "bilinear".
    """

    mean: Sequence[float]
    std: Sequence[float]
    size: int
    interpolation: str = "bicubic"


class Fixed:
    """A network that never changes, kept out of its owner's weights: all copies of a learner share it.

    Optimisers, averages and checkpoints do not see it.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: Any) -> Fixed:
        return self

    def on(self, device: torch.device) -> nn.Module:
        """The network, moved to where images are."""
        weights = chain(self._network.parameters(), self._network.buffers())
        if any(one.device != device for one in weights):
            self._network.to(device)
        return self._network


class Pretrained(Backbone):
    """A network with weights from elsewhere, and a learned scale and shift of each of its features.

    Scale and shift are all that is trained of a frozen network (Lian et al. 2022, Scaling & shifting your features).
    A network is always in evaluation mode, so images never influence each other. A checkpoint names frozen weights by
    their digest instead of holding them, and refuses others.

    Args:
        image_shape: (channels, height, width); one channel becomes three equal ones.
        map_shape: (channels, height, width) of the map that is read.
        network: without its classifier.
        given: what its weights expect.
        frozen: keep the weights as they come.
        source: where the weights are from, their data and licence, for people; empty for random weights.
        digest: of the weights.
        width: as below; by default the channels of the map.

    Attributes:
        key: the same for two backbones that describe every image alike; empty where the network may change.
        width: W, numbers of an image's description.
        reads_by_layers: whether layers that are trained follow the description, so that features of an image are dear.
    """

    stackable_with = None
    reads_by_layers = False

    def __init__(
        self,
        image_shape: Shape,
        map_shape: Shape,
        network: nn.Module | Fixed,
        given: Input,
        *,
        frozen: bool,
        source: str,
        digest: str,
        width: int | None = None,
    ) -> None:
        if image_shape[0] not in (1, COLOURS):
            raise ConfigError(f"pretrained weights take images of 1 or 3 channels, but these have {image_shape[0]}")
        super().__init__(image_shape, map_shape, "mean")
        self.given, self.frozen, self.source = given, frozen, source
        self.external = bool(source)
        self.key = f"{digest[:16]}-{given.size}" if frozen else ""
        self.width = width or map_shape[0]
        self.network = network
        self.scale = Norm(self.features, "none")
        self.register_buffer("data_mean", torch.zeros(image_shape[0], 1, 1))
        self.register_buffer("data_std", torch.ones(image_shape[0], 1, 1))
        self.data_mean: Tensor
        self.data_std: Tensor
        if isinstance(network, Fixed):
            self.register_buffer("weights_digest", _as_numbers(digest))
            self.register_load_state_dict_pre_hook(functools.partial(_refuse_others, _as_numbers(digest)))
        self.train()

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for buffer, values in ((self.data_mean, mean), (self.data_std, std)):
            buffer.copy_(torch.tensor(values).reshape(buffer.shape))

    def pixels(self, size: tuple[int, int]) -> int:
        return self.given.size**2

    def prepared(self, images: Tensor) -> Tensor:
        """Images [M, C, H, W], normalised as the data set is, as the weights expect them: [M, 3, size, size]."""
        return self.prepared_pixels(images * self.data_std + self.data_mean)

    def prepared_pixels(self, pixels: Tensor) -> Tensor:
        """The same of pixels [M, C, H, W] in [0, 1]."""
        size = self.given.size
        pixels = pixels.expand(-1, COLOURS, -1, -1)
        if pixels.shape[-2:] != (size, size):
            # With antialiasing this is Pillow's resampling, also of images that become larger.
            pixels = F.interpolate(pixels, (size, size), mode=self.given.interpolation, antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.given.mean, self.given.std))
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    def described(self, prepared: Tensor) -> Tensor:
        """All that a network tells of prepared images, [M, W]: who has it need not run a frozen network again."""
        if not isinstance(self.network, Fixed):
            return self.described_by(self.network, prepared)
        return self.described_by(self.network.on(prepared.device), prepared.float()).to(prepared)

    def read(self, described: Tensor, layout: Layout | None = None) -> Tensor:
        """Feature vectors [M, D] of descriptions [M, W]."""
        return self.scale(self.chosen(described)[:, :, None, None], layout).flatten(1)

    def chosen(self, described: Tensor) -> Tensor:
        """What features [M, D] are made of, of descriptions [M, W]: all by default, or what further layers make."""
        return described

    @abstractmethod
    def maps_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        """Maps [M, *map_shape] of prepared images."""

    def described_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        """Descriptions [M, W] of prepared images; by default the means of the maps."""
        return self.maps_by(network, prepared).mean((2, 3))

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        prepared, network = self.prepared(images), self.network
        if isinstance(network, Fixed):
            found = self.maps_by(network.on(images.device), prepared.float()).to(images)
        else:
            found = self.maps_by(network, prepared)
        return self.scale(found, layout)

    def forward(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        # On a CPU now and then a gradient of such a pass is not finite (torch 2.13; docs/log.md).
        if not (self.trains_in_bfloat16 and self.training and images.is_cuda):
            return self.read(self.described(self.prepared(images)), layout)
        with torch.autocast(images.device.type, torch.bfloat16):
            described = self.described(self.prepared(images))
        return self.read(described.to(images.dtype), layout)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the scale alone."""
        super().train(mode)
        if isinstance(self.network, nn.Module):
            self.network.eval()
        return self


def checked_size(option: str, size: int) -> int:
    """A resolution that an option asks for; raises `ConfigError` where it is out of range."""
    if not _SMALLEST <= size <= _LARGEST:
        raise ConfigError(f"{option} = {size}: it may be {_SMALLEST} … {_LARGEST}")
    return size


def extra(package: str) -> Any:
    """A package that is an optional extra, for the backbone of its name.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(package)
    except Exception as error:  # a torchvision of another build than torch fails with RuntimeError, for one
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            install = f"pip install 'autometa-search[{package}]'"
            raise ConfigError(f"backbone {package} needs the package {package}: {install}") from None
        raise ConfigError(f"{package} is installed but cannot be loaded: {first_line(error)}") from error


def differentiable_twice(is_needed: bool) -> contextlib.AbstractContextManager[object]:
    """Attention whose kernels have a second derivative, which MAML needs: torch's fused ones have none (2.13)."""
    return sdpa_kernel(SDPBackend.MATH) if is_needed else contextlib.nullcontext()


def is_sketch() -> bool:
    """Whether modules are made on torch's meta device, where weights need no content."""
    return torch.empty(0).device.type == "meta"


def without_parameters(network: nn.Module, *, but: Collection[nn.Parameter] = ()) -> nn.Module:
    """The same network with buffers for parameters: no optimiser or inner loop finds anything to change.

    Args:
        but: parameters that stay.
    """
    kept = set(map(id, but))
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(weight) not in kept:
                delattr(module, name)
                module.register_buffer(name, weight.detach())
    return network


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        if tensor.device.type != "meta":
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _as_numbers(digest: str) -> Tensor:
    """The 32 bytes of a SHA-256, as a tensor that a checkpoint can hold."""
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def _refuse_others(here: Tensor, _: nn.Module, state: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
    """Add to the errors of `load_state_dict` where a state was trained on other weights than `here`."""
    found = state.get(f"{prefix}weights_digest")
    if found is not None and here.device.type != "meta" and not torch.equal(found.cpu(), here.cpu()):
        rest[-1].append("its pretrained weights are not those that are installed here")
