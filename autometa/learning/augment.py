"""Augmentation of image batches on the device, all images at once, each with its own draw."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.errors import ConfigError, did_you_mean

Augment = Callable[[Tensor, torch.Generator], Tensor]

_PADDING = 8  # a crop moves an image by up to 1/8 of its side, 4 pixels of 32 as in the CIFAR recipes
_JITTER = 0.4
_BLACK = 2.0  # deviations from black to the mean: 0.5 / 0.27 in CIFAR-100, 0.47 / 0.28 in mini-ImageNet


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


def color_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation of each image times a factor in 1 ± 0.4, drawn for each of the three.

    As MetaOptNet and RFS (Lee et al. 2019; Tian et al. 2020), but on images that are normalised by the mean and
    deviation of the data set, which are not known here: black is taken to lie two deviations below the mean, as
    in natural images, grey is the mean of the channels, and nothing is cut off at black or white. An image of
    one channel has no saturation.
    """
    brightness, contrast, saturation = _factors(len(images), images, generator)
    images = (images + _BLACK) * brightness - _BLACK
    images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast)
    return images if images.shape[1] == 1 else torch.lerp(images.mean(1, keepdim=True), images, saturation)


def cutout(images: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side becomes the mean colour, its centre anywhere (DeVries & Taylor 2017)."""
    count, _, height, width = images.shape
    down = _draw(height, (count, 1), generator).to(images.device)
    right = _draw(width, (count, 1), generator).to(images.device)
    rows, columns = _within(down, height), _within(right, width)
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


# What a configuration may ask for, in the order in which it is done.
_BY_NAME: dict[str, tuple[Augment, ...]] = {
    "none": (),
    "crop": (crop,),
    "flip": (flip,),
    "crop_flip": (crop, flip),
    "crop_jitter": (crop, color_jitter),
    "crop_cutout": (crop, cutout),
    "crop_flip_jitter": (crop, flip, color_jitter),
    "crop_flip_cutout": (crop, flip, cutout),
    "crop_flip_jitter_cutout": (crop, flip, color_jitter, cutout),
}


def make_augment(name: str) -> Augment | None:
    """The augmentation of that name, None for "none"; raises `ConfigError` naming those there are."""
    if name not in _BY_NAME:
        raise ConfigError(f"augment = {name!r}: {did_you_mean(name, _BY_NAME)}")
    steps = _BY_NAME[name]
    return functools.partial(_in_turn, steps) if steps else None


def _in_turn(steps: tuple[Augment, ...], images: Tensor, generator: torch.Generator) -> Tensor:
    for step in steps:
        images = step(images, generator)
    return images


def _within(centre: Tensor, side: int) -> Tensor:
    """Which of `side` places lie in a window of half of them around each centre [M, 1]: [M, side]."""
    first = centre - side // 4
    places = torch.arange(side, device=centre.device)
    return (places >= first) & (places < first + max(1, side // 2))


def _factors(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Three factors for each image, [3, M, 1, 1, 1]."""
    drawn = torch.rand((3, count, 1, 1, 1), generator=generator, device=generator.device).to(images)
    return 1 + _JITTER * (2 * drawn - 1)


def _draw(below: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(below, shape, generator=generator, device=generator.device)
