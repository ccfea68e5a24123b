"""Augmentation of image batches on the device, all images at once, each with its own draw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.errors import ConfigError, did_you_mean

Augment = Callable[[Tensor, torch.Generator], Tensor]

_PADDING = 8  # a crop moves an image by up to 1/8 of its side, 4 pixels of 32 as in the CIFAR recipes


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each of [M, C, H, W] by its own draw; what comes in is the mean colour, zero after normalisation."""
    count, _, height, width = images.shape
    pad = max(1, height // _PADDING)
    windows = F.pad(images, [pad] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (M, C, 2p+1, 2p+1, H, W), a view
    down, right = _draw(2 * pad + 1, (2, count), generator).to(images.device)
    return windows[torch.arange(count, device=images.device), :, down, right]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = _draw(2, (len(images), 1, 1, 1), generator).bool().to(images.device)
    return torch.where(mirrored, images.flip(-1), images)


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Both."""
    return flip(crop(images, generator), generator)


_BY_NAME: dict[str, Augment | None] = {"none": None, "crop": crop, "flip": flip, "crop_flip": crop_flip}


def make_augment(name: str) -> Augment | None:
    """The augmentation of that name, None for "none"; raises `ConfigError` naming those there are."""
    if name not in _BY_NAME:
        raise ConfigError(f"augment = {name!r}: {did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def _draw(below: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(below, shape, generator=generator, device=generator.device)
