"""`transformers`: a pretrained vision model of that package, an optional extra: DINOv2, DINOv3, SigLIP, CLIP, ViT …"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autometa.errors import ConfigError, first_line, require_one_of
from autometa.learning.backbones.backbone import Shape
from autometa.learning.backbones.pretrained import (
    COLOURS,
    Input,
    Pretrained,
    checked_size,
    differentiable_twice,
    digest_of,
    extra,
    is_sketch,
    without_parameters,
)

_HALF = (0.5, 0.5, 0.5)
_USUAL_SIZE = 224
LAYERS = ("pooled", "mean", "both")
_BILINEAR = 2  # as Pillow numbers ways to resize


class TransformersModel(Pretrained):
    """What a vision model of the package transformers says of an image (Wolf et al. 2020).

    Of a model of images and texts, such as SigLIP, only the part for images is used.

    Args:
        image_shape: (channels, height, width); one channel is repeated to three.
        model: a name on the Hugging Face hub, or a local folder that `save_pretrained` wrote.
        weights: "hub" (those of the model: safetensors alone, no code of the model is run), or "none" (random, for
            tests).
        layer: "pooled" is the model's own description of an image, such as the class token of DINOv2; "mean" is the
            mean over patches; or "both".
        frozen: keep the weights as they come.
        image_size: pixels per side to which images are resized; 0 is the weights' own size.

    Raises:
        ConfigError: transformers is not installed, or has no such model with all its weights.
    """

    own_weights_with = {"weights": "none"}

    def __init__(
        self,
        image_shape: Shape,
        *,
        model: str = "facebook/dinov2-small",
        weights: str = "hub",
        layer: str = "pooled",
        frozen: bool = True,
        image_size: int = 0,
    ) -> None:
        require_one_of("transformers.weights", weights, ("hub", "none"))
        require_one_of("transformers.layer", layer, LAYERS)
        if image_size:
            checked_size("transformers.image_size", image_size)
        package = extra("transformers")
        with _one_line(model), _quiet():
            network, has_pooler = _created(package, model, is_random=weights == "none" or is_sketch())
            given = _input(package, model, network, image_size)
            self.options = _options(network, has_pooler)
            digest = digest_of(network.state_dict())
            width, used = _tried(network, given.size, self.options, layer)
        self.layer = layer
        super().__init__(
            image_shape,
            (2 * width if layer == "both" else width, 1, 1),
            without_parameters(network, but=() if frozen else used),
            given,
            frozen=frozen,
            source="" if weights == "none" else f"{model} of transformers",
            digest=digest,
            width=2 * width,
        )

    def maps_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        return self.chosen(self.described_by(network, prepared))[:, :, None, None]

    def described_by(self, network: nn.Module, prepared: Tensor) -> Tensor:
        with differentiable_twice(not self.frozen):
            return _described(network, prepared, self.options)

    def chosen(self, described: Tensor) -> Tensor:
        return _part(described, self.layer)


def _created(package: Any, model: str, *, is_random: bool) -> tuple[nn.Module, bool]:
    """The network for images, and whether its pooler, if it has one, has weights."""
    missing: set[str] = set()
    if is_random:
        whole = package.AutoModel.from_config(package.AutoConfig.from_pretrained(model))
    else:
        whole, report = package.AutoModel.from_pretrained(model, use_safetensors=True, output_loading_info=True)
        missing = set(report["missing_keys"])
    poolers = {name for name in missing if "pooler." in name}
    if missing - poolers:
        raise ValueError(f"its file lacks weights: {', '.join(sorted(missing - poolers)[:3])}")
    network: nn.Module = getattr(whole, "vision_model", whole)
    return network.eval(), not poolers


def _input(package: Any, model: str, network: Any, image_size: int) -> Input:
    """What the model's own preprocessing says that weights expect; where it says nothing, what most models do."""
    try:
        says, _ = package.ImageProcessingMixin.get_image_processor_dict(model)
    except OSError:
        says = {}
    own = _side(says) or getattr(network.config, "image_size", None) or _USUAL_SIZE
    return Input(
        mean=says.get("image_mean") or _HALF,
        std=says.get("image_std") or _HALF,
        size=image_size or int(own if isinstance(own, int) else own[-1]),
        interpolation="bilinear" if says.get("resample") == _BILINEAR else "bicubic",
    )


def _side(says: Mapping[str, Any]) -> int | None:
    """Pixels per side that a preprocessing crops or resizes to."""
    for size in (says.get("crop_size"), says.get("size")):
        if isinstance(size, int):
            return size
        if isinstance(size, Mapping) and size:
            return int(next(iter(size.values())))
    return None


def _options(network: nn.Module, has_pooler: bool) -> dict[str, bool]:
    takes_any_size = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
    return {"interpolates": takes_any_size, "has_pooler": has_pooler}


def _tried(network: nn.Module, size: int, options: Mapping[str, bool], layer: str) -> tuple[int, list[nn.Parameter]]:
    """The width of one of the two parts of a description, and the weights that features depend on, by one image."""
    weights = list(network.parameters())
    with torch.enable_grad():
        found = _described(network, weights[0].new_zeros(1, COLOURS, size, size), options)
        gradients = torch.autograd.grad(_part(found, layer).sum(), weights, allow_unused=True)
    used = [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    return found.shape[1] // 2, used


def _part(described: Tensor, layer: str) -> Tensor:
    pooled, mean = described.chunk(2, -1)
    return {"pooled": pooled, "mean": mean, "both": described}[layer]


def _described(network: Any, prepared: Tensor, options: Mapping[str, bool]) -> Tensor:
    """What the model says of images [M, 3, size, size] as a whole, and the mean over their patches: [M, 2 D]."""
    how = {"interpolate_pos_encoding": True} if options["interpolates"] else {}
    said = network(pixel_values=prepared, **how)
    last, pooled = said.last_hidden_state, said.get("pooler_output")
    if last.ndim == 4:  # maps of a convolutional network
        mean = last.mean((2, 3))
        return torch.cat([mean if pooled is None else pooled.flatten(1), mean], 1)
    mean = last[:, -_patches(network, prepared) :].mean(1)  # class and register tokens come before
    if pooled is None or not options["has_pooler"]:
        pooled = last[:, 0] if last.shape[1] > _patches(network, prepared) else mean
    return torch.cat([pooled, mean], 1)


def _patches(network: Any, prepared: Tensor) -> int:
    side = network.config.patch_size
    down, right = (side, side) if isinstance(side, int) else side
    return int((prepared.shape[-2] // down) * (prepared.shape[-1] // right))


@contextlib.contextmanager
def _one_line(model: str) -> Iterator[None]:
    """Tell in one line what transformers has against a model; it fails in many ways."""
    try:
        yield
    except Exception as error:
        raise ConfigError(f"transformers.model = {model!r}: {first_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and the notes of transformers and its hub, which are for other uses of them."""
    from huggingface_hub.utils import logging as notes_of_hub
    from transformers.utils import logging as notes

    had_bar, levels = notes.is_progress_bar_enabled(), (notes.get_verbosity(), notes_of_hub.get_verbosity())
    notes.disable_progress_bar()
    notes.set_verbosity(logging.ERROR)
    notes_of_hub.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        notes.set_verbosity(levels[0])
        notes_of_hub.set_verbosity(levels[1])
        if had_bar:
            notes.enable_progress_bar()
