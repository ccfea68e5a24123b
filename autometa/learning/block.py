"""A block of a backbone in one call: convolution, normalisation, ReLU and pooling, image by image, on a CPU.

The same numbers as `convolved` and `normalised_relu`, to rounding, and as often differentiable. What lies between them
stays in a core's own cache, and the maps of one or three channels, the largest, are made again instead of kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autometa.learning import native
from autometa.learning.fused import EPSILON, Maps, Statistics, can_fuse, channels_last, empty_like, is_plain, rows_of

_LANES = 16  # channels of a block: a multiple of what a vector of the widest registers holds
_MOST_REMADE = 4  # input channels of which maps are made again sooner than fetched
_GROUPS = 16  # of images, whose sums are added up: as in `block.c`


def is_block(images: Tensor, conv: nn.Conv2d, pool: int) -> bool:
    """Whether `block` serves these images and this convolution."""
    return (
        is_plain(conv)
        and conv.bias is None
        and conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.out_channels % _LANES == 0
        and (conv.in_channels % _LANES == 0 or not images.requires_grad)
        and conv.weight.dtype == images.dtype
        and can_fuse(images, pool)
        # Whoever counts operations shall count the same on every machine.
        and torch._C._len_torch_dispatch_stack() == 0
    )


def block(
    images: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`normalised_relu` of what filters [C, D, 3, 3] make of images [M, D, H, W]; returns what that returns."""
    x = channels_last(images)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, filters, weight, bias)):
        return _Block.apply(x, filters, weight, bias, statistics, pool)
    call = _Call.of(x, filters, statistics, pool)
    passed = _forward(x, _arranged(filters), weight, bias, call, None)
    return passed.y.permute(0, 3, 1, 2), passed.mean, passed.var


class _Call(NamedTuple):
    """What the kernels are told of sizes."""

    maps: Maps
    scratch: int  # numbers of all threads together
    filters: int  # numbers of them
    remakes: bool

    @classmethod
    def of(cls, x: Tensor, filters: Tensor, statistics: Statistics, pool: int) -> _Call:
        images, inputs, height, width = x.shape
        outputs = len(filters)
        maps = Maps((images, outputs, height, width), statistics, pool, inputs)
        padded = -(-(height + 2) * (width + 2) // 64) * 64  # whole vectors, as in `block.c`
        room = 2 * padded * (outputs + inputs) + 2 * height * width * outputs
        remakes = inputs <= _MOST_REMADE or statistics.mean is not None
        return cls(maps, torch.get_num_threads() * room, filters.numel(), remakes)

    def run(self, name: str, x: Tensor, *tensors: Tensor | None) -> None:
        native.run(name, self.maps.sizes, x, *tensors)


class _Passed(NamedTuple):
    """What a forward pass makes: pooled maps [M, H, W, C], statistics [T, C], and the maps in full where kept."""

    y: Tensor
    mean: Tensor
    var: Tensor
    inverse: Tensor
    scale: Tensor
    z: Tensor | None


def _forward(x: Tensor, arranged: Tensor, weight: Tensor, bias: Tensor, call: _Call, places: Tensor | None) -> _Passed:
    maps, scratch = call.maps, x.new_empty(call.scratch)
    z = None if call.remakes else x.new_empty(maps.full)
    given = maps.given(x)
    if given is None:
        mean, var = x.new_empty(2, maps.tasks, maps.channels)
        partial = x.new_empty(2 * maps.images * maps.channels)
        call.run("block_moments", x, arranged, z, scratch, partial, mean, var)
    else:
        mean, var = given
    inverse = torch.rsqrt(var + EPSILON)
    scale, y = weight * inverse, x.new_empty(maps.pooled)
    call.run("block_forward", x, arranged, z, scratch, mean, scale, bias.contiguous(), y, places)
    return _Passed(y, mean, var, inverse, scale, z)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.call = _Call.of(x, filters, statistics, pool)
        places, arranged = torch.empty(ctx.call.maps.pooled, dtype=torch.uint8), _arranged(filters)
        passed = _forward(x, arranged, weight, bias, ctx.call, places)
        y = passed.y.permute(0, 3, 1, 2)
        ctx.save_for_backward(
            x, filters, weight, bias, arranged, passed.z, passed.mean, passed.inverse, passed.scale, places, y
        )
        ctx.mark_non_differentiable(passed.mean, passed.var)
        return y, passed.mean, passed.var

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *saved, y = ctx.saved_tensors
        # The output is looked at as numbers: its own derivatives are accounted for in those of the gradient.
        return *_BlockGradient.apply(gy, *saved, y.detach(), ctx.call, ctx.needs_input_grad[0]), None, None


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
        arranged: Tensor,
        z: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        scale: Tensor,
        places: Tensor,
        y: Tensor,
        call: _Call,
        of_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        numbers = 2 * call.maps.images * call.maps.channels
        scratch, partial, parts = _room(x, call.scratch, numbers, _GROUPS * call.filters)
        sums, gx = x.new_empty(2, *mean.shape), empty_like(x) if of_x else None
        gfilters, turned = torch.empty_like(arranged), _turned(filters) if of_x else None
        known = (x, arranged, turned, z, scratch, mean, inverse, weight.contiguous(), rows_of(gy), places)
        of_output = (rows_of(y), scale, bias.contiguous())
        call.run("block_backward", *known, *of_output, partial, parts, sums[0], sums[1], gx, gfilters)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gy, x, filters, weight, arranged, z, mean, inverse, places, sums)
        return gx, _as_filters(gfilters), sums[1].sum(0), sums[0].sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *asked: Tensor | None) -> tuple[Tensor | None, ...]:
        gy, x, filters, weight, arranged, z, mean, inverse, places, sums = ctx.saved_tensors
        call, maps, of_x = ctx.call, ctx.call.maps, ctx.needs_input_grad[1]
        vx, vfilters, *of_norm = asked
        vfilters = torch.zeros_like(filters) if vfilters is None else vfilters
        turned = (_turned(filters), _turned(vfilters)) if of_x else (None, None)
        sizes = (3 * maps.images * maps.channels, 3 * mean.numel(), _GROUPS * call.filters)
        scratch, *room = _room(x, call.scratch, *sizes)
        known = (x, arranged, turned[0], z, scratch, mean, inverse, weight.contiguous(), rows_of(gy), places, *sums)
        directions = [None if vx is None else rows_of(vx), _arranged(vfilters), turned[1]]
        directions += [torch.zeros_like(weight) if v is None else v.contiguous() for v in of_norm]
        wz = None if call.remakes else x.new_empty(maps.full)
        dx, dfilters = empty_like(x) if of_x else None, torch.empty_like(arranged)
        dgy, dweight = x.new_empty(maps.pooled), torch.empty_like(weight)
        call.run("block_twice", *known, *directions, *room, wz, dx, dfilters, dgy, dweight)
        return dgy.permute(0, 3, 1, 2), dx, _as_filters(dfilters), dweight, *[None] * 10


def _room(like: Tensor, *numbers: int) -> tuple[Tensor, ...]:
    """Uninitialised room for so many numbers each, the first where a vector may begin."""
    return like.new_empty(sum(numbers)).split(numbers)


def _arranged(filters: Tensor) -> Tensor:
    """Filters [C, D, 3, 3] as [3, 3, D, C], contiguous."""
    return filters.permute(2, 3, 1, 0).contiguous()


def _turned(filters: Tensor) -> Tensor:
    """Filters [C, D, 3, 3] turned by half, as [3, 3, C, D]: they lead from a gradient in maps to one in images."""
    return filters.flip(2, 3).permute(2, 3, 0, 1).contiguous()


def _as_filters(arranged: Tensor) -> Tensor:
    """[3, 3, D, C] as [C, D, 3, 3], contiguous."""
    return arranged.permute(3, 2, 0, 1).contiguous()
