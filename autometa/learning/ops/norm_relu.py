"""Normalisation, ReLU and pooling in one pass on a CPU, with first and second derivatives: the kernels of `fused.c`.

Symbols: M images of C channels; T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autometa.learning.ops import native
from autometa.learning.ops.memory_format import channels_last, empty_like, rows_of
from autometa.learning.ops.statistics import EPSILON, Groups, Normalisation, Statistics
from autometa.learning.ops.torch_private import is_transformed


def can_normalise_relu(x: Tensor, weight: Tensor, bias: Tensor, by: Normalisation, pool: int) -> bool:
    """Whether `normalised_relu` serves these maps: on a CPU, with kernels for it, and with a whole window."""
    return (
        not isinstance(by, Groups)
        and x.device.type == "cpu"
        and min(x.shape[-2:]) >= pool
        and not is_transformed(x)
        and not torch.is_autocast_enabled("cpu")
        and native.is_available(x.dtype)
    )


def normalised_relu(x: Tensor, weight: Tensor, bias: Tensor, by: Statistics | None, pool: int) -> Tensor:
    """ReLU of the normalised, scaled and shifted maps [M, C, H, W], and the maximum of `pool` × `pool` pixels, 1 or 2.

    Returns:
        The maps [M, C, H // pool, W // pool].
    """
    x = channels_last(x)
    by = known(by, weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        y, mean, var = _NormalisedRelu.apply(x, weight, bias, by, pool)
    else:
        maps = Maps(x.shape, by, pool)
        mean, var, _ = maps.moments(x)
        rows = x.new_empty(maps.pooled)
        maps.forward(x, mean, var, weight, bias, rows, None)
        y = rows.permute(0, 3, 1, 2)
    by.follow(mean, var, x.numel() // x.shape[1])
    return y


def known(by: Statistics | None, weight: Tensor) -> Statistics:
    """Statistics as kernels take them: maps that are only scaled and shifted are as if normalised already."""
    if by is not None:
        return by
    # The root of 1 - epsilon + epsilon divides.
    return Statistics(1, 0, (torch.zeros_like(weight), torch.full_like(weight, 1 - EPSILON)))


class Maps:
    """Sizes of maps [M, C, H, W], and the kernels called with them.

    Args:
        inputs: channels of the images that a convolution makes them of, where one does.
    """

    def __init__(self, shape: Sequence[int], statistics: Statistics, pool: int, inputs: int = 0) -> None:
        images, channels, height, width = shape
        self._statistics = statistics
        support = 0 if statistics.given else statistics.support
        numbers = max(1, support * height * width)
        self.sizes = (images, height, width, channels, statistics.tasks, support, pool, numbers, inputs)
        self.images, self.tasks, self.channels = images, statistics.tasks, channels
        self.full = (images, height, width, channels)
        self.pooled = (images, height // pool, width // pool, channels)

    def given(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and variance [T, C], where they are given."""
        if not self._statistics.given:
            return None
        mean, var = (s.to(like.dtype).expand(self.tasks, -1).contiguous() for s in self._statistics.given)
        return mean, var

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and 1 / sqrt(variance + epsilon), [T, C] each."""
        mean, var = self.given(x) or x.new_empty(2, self.tasks, self.channels)
        if self._statistics.given is None:
            native.run("moments", self.sizes, x, x.new_empty(2 * self.images * self.channels), mean, var)
        return mean, var, torch.rsqrt(var + EPSILON)

    def forward(
        self, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, y: Tensor, places: Tensor | None
    ) -> None:
        """Write the rows of y, of the shape `pooled`, and where in its window each came from."""
        scale = weight * torch.rsqrt(var + EPSILON)
        native.run("forward", self.sizes, x, mean, scale, bias.contiguous(), y, places)

    def sums(self, x: Tensor, mean: Tensor, inverse: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Sums over each task's gradient in what ReLU got, and over its product with the normalised maps: [2, T, C]."""
        found = x.new_empty(2, self.tasks, self.channels)
        partial = x.new_empty(2 * self.images * self.channels)
        native.run("sums", self.sizes, x, mean, inverse, rows, places, partial, found[0], found[1])
        return found


class _NormalisedRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.maps = Maps(x.shape, statistics, pool)
        mean, var, inverse = ctx.maps.moments(x)
        y, places = x.new_empty(ctx.maps.pooled), torch.empty(ctx.maps.pooled, dtype=torch.uint8)
        ctx.maps.forward(x, mean, var, weight, bias, y, places)
        ctx.save_for_backward(x, weight, mean, inverse, places)
        ctx.mark_non_differentiable(mean, var)
        return y.permute(0, 3, 1, 2), mean, var

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_NormalisedReluGradient.apply(gy, *ctx.saved_tensors, ctx.maps), None, None


class _NormalisedReluGradient(torch.autograd.Function):
    """The gradients of `normalised_relu` in its maps, weight and bias; can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any, gy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, places: Tensor, maps: Maps
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = rows_of(gy)
        gx = empty_like(x)
        sum_g, sum_gx = maps.sums(x, mean, inverse, rows, places)
        native.run("backward", maps.sizes, x, mean, inverse, weight, rows, places, sum_g, sum_gx, gx)
        ctx.maps = maps
        ctx.save_for_backward(gy, x, weight, mean, inverse, places, sum_g, sum_gx)
        return gx, sum_gx.sum(0), sum_g.sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, ggx: Tensor, ggweight: Tensor, ggbias: Tensor) -> tuple[Tensor | None, ...]:
        gy, x, weight, mean, inverse, places, sum_g, sum_gx = ctx.saved_tensors
        maps = ctx.maps
        dx, dgy, dweight = empty_like(x), x.new_empty(maps.pooled), x.new_empty(maps.channels)
        known = (x, mean, inverse, weight, rows_of(gy), places, sum_g, sum_gx)
        asked = (rows_of(ggx), ggweight.contiguous(), ggbias.contiguous())
        partial = x.new_empty(3 * maps.images * maps.channels)
        sums = x.new_empty(3 * maps.tasks * maps.channels)
        native.run("twice", maps.sizes, *known, *asked, partial, sums, dx, dgy, dweight)
        return dgy.permute(0, 3, 1, 2), dx, dweight, None, None, None, None
