"""The interface of every backbone: images in, feature maps and feature vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from autometa.errors import require_one_of
from autometa.learning.normalization import Layout
from autometa.learning.seen_images import SeenImages
from autometa.records import Scalar

Shape = tuple[int, int, int]
READOUTS = ("flatten", "mean")


class Backbone(nn.Module, ABC):
    """Features of images. A subclass takes `(image_shape, *, options...)` and knows nothing of tasks.

    Whatever mixes images (batch statistics) does so through a `Norm`, told by the `Layout` which images
    may influence which.

    Args:
        image_shape: (channels, height, width) of the images it takes.
        map_shape: (channels, height, width) of the last feature map.
        readout: "flatten" the map to a vector, or take its spatial "mean".

    Attributes:
        features: length D of a feature vector.
        trains_in_bfloat16: whether convolutions and matrix products of passes in training have its seven bits of
            mantissa, which a GPU does faster. Statistics, features, weights and evaluation stay as they are.
        external: whether its weights were trained elsewhere, perhaps on the test classes.
        source: where such weights are from, their data and licence, for people.
        own_weights_with: own options, each with the one value that leaves it without such weights.
        stackable_with: as of `Learner`.
        seen: what is known of images while it is evaluated, where somebody keeps that.
    """

    trains_in_bfloat16 = False
    external = False
    seen: SeenImages | None = None
    source = ""
    own_weights_with: ClassVar[Mapping[str, Scalar]] = {}
    stackable_with: ClassVar[Mapping[str, Scalar] | None] = {"drop_rate": 0.0}

    def __init__(self, image_shape: Shape, map_shape: Shape, readout: str) -> None:
        super().__init__()
        require_one_of("readout", readout, READOUTS)
        self.image_shape = image_shape
        self.map_shape = map_shape
        self.readout = readout
        channels, height, width = map_shape
        self.features = channels if readout == "mean" else channels * height * width

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Hear by which mean and spread of each channel its images were normalised; most backbones do not care."""

    def pixels(self, size: tuple[int, int]) -> int:
        """Of one channel of an image of this height and width, where it enters the network."""
        return size[0] * size[1]

    @abstractmethod
    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        """Feature maps [M, *map_shape] of images [M, C, H, W]."""

    def maps_to_read(self, images: Tensor, layout: Layout | None = None) -> list[Tensor]:
        """The maps that features are made of: by default the last one alone."""
        return [self.maps(images, layout)]

    def forward(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        """Feature vectors [M, D] of images [M, C, H, W]."""
        if self.trains_in_bfloat16 and self.training:
            with torch.autocast(images.device.type, torch.bfloat16):
                read = [maps.to(images.dtype) for maps in self.maps_to_read(images, layout)]
        else:
            read = self.maps_to_read(images, layout)
        vectors = [maps.mean((2, 3)) if self.readout == "mean" else maps.flatten(1) for maps in read]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1)


def pooled_sides(height: int, width: int, times: int) -> tuple[int, int]:
    """Sides of a map after `times` poolings by two, which stop when a side is one."""
    for _ in range(times):
        if min(height, width) >= 2:
            height, width = height // 2, width // 2
    return height, width
