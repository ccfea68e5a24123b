"""`pixels`: an image is its own features. It has no weights, and serves what a search has to beat."""

from __future__ import annotations

from torch import Tensor

from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.normalization import Layout


class Pixels(Backbone):
    """Normalised pixels in a row, as a classifier of scikit-learn is given them.

    Args:
        image_shape: (channels, height, width).
    """

    def __init__(self, image_shape: Shape) -> None:
        super().__init__(image_shape, image_shape, "flatten")

    def maps(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        return images
