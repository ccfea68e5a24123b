"""The first block of a backbone: its maps are the largest, and of one or three channels cheaper to make than to fetch.

They are made again, a cache's worth of images at a time, each time they are needed, and never kept: a training step
takes less memory, and no more time. The same numbers as `convolved` and `normalised_relu`, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning import native
from autometa.learning.fused import (
    EPSILON,
    Convolution,
    ConvolutionGradient,
    Maps,
    NormalisedReluGradient,
    Statistics,
    can_fuse,
    convolution_gradients,
    empty_like,
    is_plain,
    rows_of,
)

_MOST_CHANNELS = 4
_LEAST_BYTES = 4 * 2**20  # of all maps: smaller ones stay in the cache anyway
_CHUNK_BYTES = 2 * 2**20  # of maps, for each thread: about what a core's own cache holds


def can_remake(images: Tensor, conv: nn.Conv2d, statistics: Statistics, pool: int) -> bool:
    """Whether `first_block` serves: few channels, many images, the same statistics for all, and a gradient to come."""
    bytes_of_maps = len(images) * conv.out_channels * images[0, 0].numel() * images.element_size()
    return (
        is_plain(conv)
        and conv.bias is None
        and conv.padding == tuple(side // 2 for side in conv.kernel_size)
        and conv.in_channels <= _MOST_CHANNELS
        and bytes_of_maps >= _LEAST_BYTES
        and (statistics.mean is not None or (statistics.tasks == 1 and statistics.support == len(images)))
        and can_fuse(images, pool)
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        # Whoever counts operations shall count the same on every machine.
        and torch._C._len_torch_dispatch_stack() == 0
    )


def first_block(
    images: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalised_relu` of `convolved` images, channels last [M, C, H, W]; returns what it returns."""
    assert isinstance(conv.padding, tuple)
    height, width = conv.padding
    call = _Call(statistics, pool, (height, width))
    return _FirstBlock.apply(images, conv.weight, weight, bias, call)


class _Call(NamedTuple):
    statistics: Statistics
    pool: int
    padding: tuple[int, int]


class _FirstBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, call: _Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _moments(images, filters, call)
        inverse = torch.rsqrt(var + EPSILON)
        shape = (len(images), *(side // call.pool for side in images.shape[2:]), len(filters))
        y, places = images.new_empty(shape), torch.empty(shape, dtype=torch.uint8)
        for here, maps, x in _chunks(images, filters, call):
            maps.forward(x, mean, var, weight, bias, y[here], places[here])
        ctx.call = call
        ctx.save_for_backward(images, filters, weight, mean, inverse, places)
        ctx.mark_non_differentiable(mean, var)
        return y.permute(0, 3, 1, 2), mean, var

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, filters, weight, mean, inverse, places = ctx.saved_tensors
        of_images = ctx.needs_input_grad[0]
        if torch.is_grad_enabled():  # to be differentiated again: with all maps, as without this file
            x = Convolution.apply(images, filters, ctx.call.padding)
            maps = Maps(x, ctx.call.statistics, ctx.call.pool)
            gx, gweight, gbias = NormalisedReluGradient.apply(gy, x, weight, mean, inverse, places, maps)
            found = ConvolutionGradient.apply(gx, images, filters, ctx.call.padding, of_images, True)
            return *found, gweight, gbias, None
        return *_gradients(ctx.call, gy, ctx.saved_tensors, of_images), None


def _gradients(call: _Call, gy: Tensor, saved: tuple[Tensor, ...], of_images: bool) -> tuple[Tensor | None, ...]:
    """In the images, the filters, and the norm's weight and bias."""
    images, filters, weight, mean, inverse, places = saved
    rows = rows_of(gy)
    sums = gy.new_zeros(2, 1, len(weight))
    for here, maps, x in _chunks(images, filters, call):
        sums += maps.sums(x, mean, inverse, rows[here], places[here])
    numbers = 1 if call.statistics.mean is not None else len(images) * images[0, 0].numel()
    gfilters, gimages = torch.zeros_like(filters), []
    for here, maps, x in _chunks(images, filters, call):
        gx = empty_like(x)
        known = (x, mean, inverse, weight, rows[here], places[here], sums[0], sums[1])
        native.run("backward", (*maps.sizes[:-1], numbers), *known, gx)
        part, of_filters = convolution_gradients(gx, images[here], filters, call.padding, of_images, True)
        assert of_filters is not None
        gfilters += of_filters
        gimages.append(part)
    return torch.cat(gimages) if of_images else None, gfilters, sums[1, 0], sums[0, 0]  # type: ignore[arg-type]


def _moments(images: Tensor, filters: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
    """Mean and variance [1, C] over all images, from those of chunks (Chan, Golub & LeVeque 1983)."""
    if call.statistics.mean is not None:
        assert call.statistics.var is not None
        return call.statistics.mean[None].to(filters), call.statistics.var[None].to(filters)
    parts = [(len(x), *maps.moments(x)[:2]) for _, maps, x in _chunks(images, filters, call)]
    shares = torch.tensor([count / len(images) for count, *_ in parts], dtype=torch.float64)[:, None]
    means = torch.cat([mean for _, mean, _ in parts]).double()
    variances = torch.cat([var for *_, var in parts]).double()
    mean = (shares * means).sum(0, keepdim=True)
    var = (shares * (variances + (means - mean).square())).sum(0, keepdim=True)
    return mean.to(filters), var.to(filters)


def _chunks(images: Tensor, filters: Tensor, call: _Call) -> Iterator[tuple[slice, Maps, Tensor]]:
    """A few images at a time: which they are, and their maps."""
    one = len(filters) * images[0, 0].numel() * images.element_size()
    size = max(1, torch.get_num_threads() * _CHUNK_BYTES // one)
    for first in range(0, len(images), size):
        here = slice(first, first + size)
        x = F.conv2d(images[here], filters, padding=call.padding)
        statistics = call.statistics._replace(tasks=1, support=len(x))
        yield here, Maps(x, statistics, call.pool), x
