"""`timm`: a pretrained network of the `timm` package, an optional extra.

Images come normalised by the mean and deviation of their own data set; that is kept, and the mean and
deviation with which the weights were trained are not applied on top.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout, Norm

_INSTALL = "pip install 'autometa-search[timm]'"
_COLOURS = 3
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TimmModel(Backbone):
    """Unpooled features of a timm model (Wightman 2019, PyTorch image models), and their spatial mean.

    Batch norms keep the running statistics that came with the weights, also in training, so images never
    influence each other. A scale and a shift of each channel at the end are always learned, so a frozen
    model can still be trained a little (as Lian et al. 2022, Scaling & shifting your features).

    Args:
        image_shape: (channels, height, width); one channel is repeated to three.
        model: a name of `timm.list_models()`; its other sources ("hf-hub:...") may hold pickles, and are refused.
        weights: "hub" (what timm has for it on the Hugging Face hub), "none" (random, for tests), or the path of
            a .safetensors file with that model's weights. Pickled weights are never read.
        frozen: keep the weights as they come, in evaluation mode; they are then buffers, not parameters.
        image_size: side to which images are resized, bilinearly; 0 leaves them as they are.
    """

    own_weights_with = {"weights": "none"}
    stackable_with = None

    def __init__(
        self,
        image_shape: Shape,
        *,
        model: str = "resnet18",
        weights: str = "hub",
        frozen: bool = True,
        image_size: int = 0,
    ) -> None:
        channels, *sides = image_shape
        if channels not in (1, _COLOURS):
            raise ConfigError(f"timm: images must have 1 or 3 channels, but these have {channels}")
        if ":" in model:
            raise ConfigError(f"timm.model = {model!r}: it must be a name of timm.list_models()")
        if not 0 <= image_size <= 1024:
            raise ConfigError(f"timm.image_size = {image_size}: it may be 0 (as is) … 1024")
        network = _created(model, weights)
        sides = [image_size] * 2 if image_size else sides
        super().__init__(image_shape, _map_shape(network, model, sides), "mean")
        self.network = _without_parameters(network) if frozen else network
        self.scale = Norm(self.map_shape[0], "none")
        self.frozen, self.image_size = frozen, image_size
        self.external = weights != "none"
        self.train()

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        x = images.expand(-1, _COLOURS, -1, -1).contiguous(memory_format=torch.channels_last)
        if self.image_size:
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear")
        # The fused kernels of attention have no second derivative (torch 2.13), which MAML needs in the weights.
        with contextlib.nullcontext() if self.frozen else sdpa_kernel(SDPBackend.MATH):
            found = self.network(x)
        return self.scale(_as_maps(self.network, found), layout)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norms, and for nothing of a frozen model."""
        super().train(mode)
        for module in self.network.modules():
            if self.frozen or isinstance(module, _BATCH_NORMS):
                module.training = False
        return self


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise ConfigError(f"backbone timm needs the package timm: {_INSTALL}") from None
        raise ConfigError(f"timm is installed but cannot be loaded: {_first_line(error)}") from error
    except Exception as error:  # torchvision of another build than torch fails with RuntimeError, for one
        raise ConfigError(f"timm is installed but cannot be loaded: {_first_line(error)}") from error


def _created(model: str, weights: str) -> nn.Module:
    """The network without classifier and pooling, and with its weights unless memory is not to be used."""
    timm = _timm()
    is_sketch = torch.empty(0).device.type == "meta"
    options: dict[str, Any] = {"pretrained": weights != "none" and not is_sketch}
    if weights not in ("hub", "none"):
        options["pretrained_cfg_overlay"] = {"file": _weights_file(weights)}
    elif weights == "hub":
        # This file of the hub and no other: where it is missing timm would load pickles.
        options["pretrained_cfg_overlay"] = {"url": "", "hf_hub_filename": "model.safetensors"}
    try:
        network: nn.Module = timm.create_model(model, num_classes=0, global_pool="", **options)
    except Exception as error:  # unknown names, missing weights and no network each fail in their own way
        raise ConfigError(f"timm.model = {model!r}, timm.weights = {weights!r}: {_first_line(error)}") from error
    return network


def _weights_file(weights: str) -> str:
    if not weights.endswith(".safetensors"):
        raise ConfigError(f"timm.weights = {weights!r}: it may be hub | none | a .safetensors file")
    if not Path(weights).is_file():
        raise ConfigError(f"timm.weights = {weights!r}: no such file")
    return weights


def _map_shape(network: nn.Module, model: str, sides: list[int]) -> Shape:
    """Found out with one empty image, since models say it in many ways."""
    network.eval()
    try:
        with torch.no_grad():
            _, *shape = _as_maps(network, network(torch.zeros(1, _COLOURS, *sides))).shape
        channels, height, width = shape
    except Exception as error:  # whatever the model has against this size
        height, width = sides
        hint = "timm.image_size sets another size"
        raise ConfigError(f"timm.model = {model!r}, images {height} x {width}: {_first_line(error)}; {hint}") from error
    return channels, height, width


def _as_maps(network: nn.Module, found: Tensor) -> Tensor:
    """Maps [M, C, h, w] of what a model gives: maps, maps with channels last, or tokens [M, T, C] of patches."""
    if found.ndim == 4:
        return found.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else found
    patches = found[:, int(getattr(network, "num_prefix_tokens", 0)) :].mT  # (M, C, patches)
    side = math.isqrt(patches.shape[2])
    return patches.unflatten(2, (side, -1) if side**2 == patches.shape[2] else (1, -1))


def _without_parameters(network: nn.Module) -> nn.Module:
    """The same network with buffers for parameters: no optimiser or inner loop finds anything to change."""
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
