"""A block of a backbone in one call: convolution, normalisation, ReLU and pooling, image by image, on a CPU.

The same numbers as `convolved` and `normalised_relu`, to rounding, and as often differentiable. What lies between them
stays in a core's own cache. Maps of up to four input channels, the largest, are recomputed instead of kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autometa.learning.ops import native
from autometa.learning.ops.convolution import can_convolve
from autometa.learning.ops.memory_format import channels_last, empty_like, rows_of
from autometa.learning.ops.norm_relu import Maps, can_normalise_relu, known
from autometa.learning.ops.statistics import Normalisation, Statistics

_LANES = 16  # channels of a block: a multiple of what a vector of the widest registers holds
_MOST_FILTERS = 160 * 160  # what a core's own cache holds; they pass by once for each row of each image
_MOST_RECOMPUTED = 4  # input channels of which maps are recomputed sooner than fetched


_operations_are_hidden = ContextVar("operations_are_hidden", default=True)


@contextlib.contextmanager
def every_operation_visible() -> Iterator[None]:
    """Take no block in one call inside: whoever counts operations shall count the same on every machine."""
    token = _operations_are_hidden.set(False)
    try:
        yield
    finally:
        _operations_are_hidden.reset(token)


def can_run_block(images: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor, by: Normalisation, pool: int) -> bool:
    """Whether `convolved_relu` serves these images and this convolution."""
    return (
        _operations_are_hidden.get()
        and can_convolve(images, conv)
        and conv.bias is None
        and conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.out_channels % _LANES == 0
        and conv.in_channels * conv.out_channels <= _MOST_FILTERS
        and (conv.in_channels % _LANES == 0 or not images.requires_grad)
        and conv.weight.dtype == images.dtype
        and can_normalise_relu(images, weight, bias, by, pool)
    )


def convolved_relu(
    images: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor, by: Statistics | None, pool: int
) -> Tensor:
    """`normalised_relu` of what `conv` makes of images [M, D, H, W]: [M, C, H // pool, W // pool]."""
    by = known(by, weight)
    y, mean, var = block(images, conv.weight, weight, bias, by, pool)
    by.follow(mean, var, len(images) * images[0, 0].numel())
    return y


def block(
    images: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, by: Statistics, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with filters [C, D, 3, 3], and the mean and biased variance [T, C] that normalised."""
    x = channels_last(images)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, filters, weight, bias)):
        return _Block.apply(x, filters, weight, bias, by, pool)
    passed = _forward(x, filters, weight, bias, _Call.of(x, filters, by, pool), None)
    return passed.y.permute(0, 3, 1, 2), passed.mean, passed.var


class _Call(NamedTuple):
    """What the kernels are told of sizes."""

    maps: Maps
    recomputes: bool

    @classmethod
    def of(cls, x: Tensor, filters: Tensor, statistics: Statistics, pool: int) -> _Call:
        images, inputs, height, width = x.shape
        maps = Maps((images, len(filters), height, width), statistics, pool, inputs)
        return cls(maps, inputs <= _MOST_RECOMPUTED or statistics.given is not None)

    def run(self, name: str, x: Tensor, *others: Tensor | None) -> None:
        native.run_with_workspace(name, self.maps.sizes, x, *others)


class _Passed(NamedTuple):
    """What a forward pass makes: pooled maps [M, H, W, C], and what derivatives need, as in `block.c`."""

    y: Tensor
    taps: Tensor
    z: Tensor | None
    mean: Tensor
    var: Tensor
    inverse: Tensor
    scale: Tensor


def _forward(x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, call: _Call, places: Tensor | None) -> _Passed:
    maps = call.maps
    z = None if call.recomputes else x.new_empty(maps.full)
    mean, var, inverse, scale = x.new_empty(4, maps.tasks, maps.channels).unbind()
    mean, var = maps.given(x) or (mean, var)
    passed = _Passed(x.new_empty(maps.pooled), x.new_empty(filters.numel()), z, mean, var, inverse, scale)
    norm = (weight.contiguous(), bias.contiguous())
    call.run("block_forward", x, filters.contiguous(), *norm, *passed[1:], passed.y, places)
    return passed


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.call = _Call.of(x, filters, statistics, pool)
        places = torch.empty(ctx.call.maps.pooled, dtype=torch.uint8)
        passed = _forward(x, filters, weight, bias, ctx.call, places)
        y = passed.y.permute(0, 3, 1, 2)
        ctx.save_for_backward(x, filters, weight, bias, *passed[1:], places, y)
        ctx.mark_non_differentiable(passed.mean, passed.var)
        return y, passed.mean, passed.var

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, taps, z, mean, var, inverse, scale, places, y = ctx.saved_tensors
        # The output is looked at as numbers: its own derivatives are accounted for in those of the gradient.
        passed = _Passed(rows_of(y.detach()), taps, z, mean, var, inverse, scale)
        return *_BlockGradient.apply(gy, *inputs, passed, places, ctx.call, ctx.needs_input_grad[0]), None, None


class _BlockGradient(torch.autograd.Function):
    """The gradients of `block` in images, filters, weight and bias; can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        gy: Tensor,
        x: Tensor,
        filters: Tensor,
        weight: Tensor,
        bias: Tensor,
        passed: _Passed,
        places: Tensor,
        call: _Call,
        needs_grad_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        y, taps, z, mean, _, inverse, scale = passed
        gx = empty_like(x) if needs_grad_x else None
        gfilters = torch.empty_like(filters, memory_format=torch.contiguous_format)
        sums, gnorm = x.new_empty(2, *mean.shape), x.new_empty(2, call.maps.channels)
        inputs = (x, filters.contiguous(), taps, z, mean, inverse)
        norm = (scale, weight.contiguous(), bias.contiguous())
        call.run("block_backward", *inputs, *norm, rows_of(gy), places, y, *sums, gx, gfilters, *gnorm)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gy, x, filters, weight, taps, z, mean, inverse, places, sums)
        return gx, gfilters, gnorm[0], gnorm[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, ggx: Tensor | None, *ggs: Tensor | None) -> tuple[Tensor | None, ...]:
        gy, x, filters, weight, taps, z, mean, inverse, places, sums = ctx.saved_tensors
        call, maps = ctx.call, ctx.call.maps
        inputs = (x, filters.contiguous(), taps, z, mean, inverse, weight.contiguous())
        along = [
            torch.zeros_like(of) if v is None else v.contiguous()
            for v, of in zip(ggs, (filters, weight, weight), strict=True)
        ]
        wz = None if call.recomputes else x.new_empty(maps.full)
        dx = empty_like(x) if ctx.needs_input_grad[1] else None
        dfilters = torch.empty_like(filters, memory_format=torch.contiguous_format)
        dgy, dweight = x.new_empty(maps.pooled), torch.empty_like(weight)
        of_y = (rows_of(gy), places, *sums, None if ggx is None else rows_of(ggx))
        call.run("block_twice", *inputs, *of_y, *along, wz, dx, dfilters, dgy, dweight)
        return dgy.permute(0, 3, 1, 2), dx, dfilters, dweight, *[None] * 5
