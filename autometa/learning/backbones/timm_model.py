"""`timm`: a pretrained network of the `timm` package, an optional extra."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from autometa.errors import ConfigError, first_line
from autometa.learning.backbones.backbone import Shape
from autometa.learning.backbones.pretrained import (
    COLOURS,
    Input,
    Pretrained,
    differentiable_twice,
    digest_of,
    extra,
    is_sketch,
    without_parameters,
)

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TimmModel(Pretrained):
    """Unpooled features of a timm model (Wightman 2019, PyTorch image models), and their spatial mean.

    Batch norms keep the running statistics that came with the weights, also in training, so images never
    influence each other.

    Args:
        image_shape: (channels, height, width); one channel is repeated to three.
        model: a name of `timm.list_models()`; its other sources ("hf-hub:...") may hold pickles, and are refused.
        weights: "hub" (what timm has for it on the Hugging Face hub), "none" (random, for tests), or the path of
            a .safetensors file with that model's weights, or of the folder where timm saved them as
            model.safetensors. Pickled weights are never read.
        frozen: keep the weights as they come, in evaluation mode; they are then buffers, not parameters.
        image_size: pixels per side to which images are resized, as the weights expect it; 0 is the weights' own size.
    """

    own_weights_with = {"weights": "none"}

    def __init__(
        self,
        image_shape: Shape,
        *,
        model: str = "resnet18",
        weights: str = "hub",
        frozen: bool = True,
        image_size: int = 0,
    ) -> None:
        if image_shape[0] not in (1, COLOURS):
            raise ConfigError(f"timm: images must have 1 or 3 channels, but these have {image_shape[0]}")
        if ":" in model:
            raise ConfigError(f"timm.model = {model!r}: it must be a name of timm.list_models()")
        if not 0 <= image_size <= 1024:
            raise ConfigError(f"timm.image_size = {image_size}: it may be 0 (the weights' own) … 1024")
        network = _created(model, weights)
        given = _input(network, image_size)
        shape = _map_shape(network, model, [given.size] * 2)
        digest = digest_of(network.state_dict())
        source = "" if weights == "none" else f"{model} of timm, weights: {weights}"
        network = without_parameters(network) if frozen else network
        super().__init__(image_shape, shape, network, given, frozen=frozen, source=source, digest=digest)

    def maps_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        with differentiable_twice(not self.frozen):
            found = network(prepared)
        return _as_maps(network, found)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norms, and for nothing of a frozen model."""
        super().train(mode)
        assert isinstance(self.network, nn.Module)
        for module in self.network.modules():
            module.training = mode and not (self.frozen or isinstance(module, _BATCH_NORMS))
        return self


def _input(network: nn.Module, image_size: int) -> Input:
    """What timm says that the weights expect; where it says nothing, what its ImageNet models mostly do."""
    says = getattr(network, "pretrained_cfg", None) or {}
    kind = says.get("interpolation")
    return Input(
        mean=says.get("mean") or _IMAGENET_MEAN,
        std=says.get("std") or _IMAGENET_STD,
        size=image_size or int((says.get("input_size") or (COLOURS, 224, 224))[-1]),
        interpolation=kind if kind in ("bicubic", "bilinear") else "bicubic",
    )


def _created(model: str, weights: str) -> nn.Module:
    """The network without classifier and pooling, and with its weights unless memory is not to be used."""
    timm = extra("timm")
    options: dict[str, Any] = {"pretrained": weights != "none" and not is_sketch()}
    if weights not in ("hub", "none"):
        options["pretrained_cfg_overlay"] = {"file": _weights_file(weights)}
    elif weights == "hub":
        # This file of the hub and no other: where it is missing timm would load pickles.
        options["pretrained_cfg_overlay"] = {"url": "", "hf_hub_filename": "model.safetensors"}
    try:
        network: nn.Module = timm.create_model(model, num_classes=0, global_pool="", **options)
    except Exception as error:  # unknown names, missing weights and no network each fail in their own way
        raise ConfigError(f"timm.model = {model!r}, timm.weights = {weights!r}: {first_line(error)}") from error
    return network


def _weights_file(weights: str) -> str:
    file = Path(weights) / "model.safetensors" if Path(weights).is_dir() else Path(weights)
    if file.suffix != ".safetensors":
        kinds = "hub | none | a .safetensors file, or a folder with model.safetensors"
        raise ConfigError(f"timm.weights = {weights!r}: it may be {kinds}")
    if not file.is_file():
        raise ConfigError(f"timm.weights = {str(file)!r}: no such file")
    return str(file)


def _map_shape(network: nn.Module, model: str, sides: list[int]) -> Shape:
    """Found out with one empty image, since models say it in many ways."""
    network.eval()
    try:
        with torch.no_grad():
            _, *shape = _as_maps(network, network(torch.zeros(1, COLOURS, *sides))).shape
        channels, height, width = shape
    except Exception as error:  # whatever the model has against this size
        height, width = sides
        hint = "timm.image_size sets another size"
        raise ConfigError(f"timm.model = {model!r}, images {height} x {width}: {first_line(error)}; {hint}") from error
    return channels, height, width


def _as_maps(network: nn.Module, found: Tensor) -> Tensor:
    """Maps [M, C, h, w] of what a model gives: maps, maps with channels last, or tokens [M, T, C] of patches."""
    if found.ndim == 4:
        return found.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else found
    patches = found[:, int(getattr(network, "num_prefix_tokens", 0)) :].mT  # (M, C, patches)
    side = math.isqrt(patches.shape[2])
    return patches.unflatten(2, (side, -1) if side**2 == patches.shape[2] else (1, -1))
