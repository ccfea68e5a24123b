"""Whose mean and variance normalise feature maps, as a `Norm` tells it to the operations.

Symbols: M images, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5
MOMENTUM = 0.1


class Statistics(NamedTuple):
    """Mean and variance of each channel.

    Attributes:
        tasks: blocks of M / tasks images, each with statistics of its own.
        support: the first images of each block give its statistics.
        given: mean and variance [C] in their place.
        averages: running mean and variance, [C] each, which a pass moves towards the statistics of its one block.
    """

    tasks: int
    support: int
    given: tuple[Tensor, ...] | None = None
    averages: tuple[Tensor, ...] | None = None

    def serve_all(self, images: int) -> bool:
        """Whether one mean and variance, given or of them all, normalise so many images."""
        return self.given is not None or (self.tasks == 1 and self.support == images)

    @torch.no_grad()
    def follow(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the averages towards a mean and biased variance [1, C] of `count` numbers, where there are any."""
        if self.averages is not None:
            self.averages[0].lerp_(mean[0].to(self.averages[0]), MOMENTUM)
            self.averages[1].lerp_(var[0].to(self.averages[1]) * (count / max(1, count - 1)), MOMENTUM)


class Groups(NamedTuple):
    """Each image by itself, in so many groups of its channels (Wu & He 2018)."""

    groups: int


# None scales and shifts alone.
Normalisation = Statistics | Groups | None
