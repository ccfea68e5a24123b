"""Convolution, and normalisation with ReLU and pooling, with derivatives of their own: faster, and the same numbers.

Both can be differentiated twice, as second-order MAML needs. Symbols: M images of C channels; T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops import native
from autometa.learning.ops.by_channel import are_stacked, by_channel

EPSILON = 1e-5


def is_transformed(x: Tensor) -> bool:
    """Whether a `torch.func` transform (vmap, grad) is at work on this tensor."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What `conv` gives; its second derivatives take the time of first ones.

    torch finds the weight's part of the second derivative by a convolution with filters as large as the image.
    """
    if is_plain(conv) and not is_transformed(x):
        y: Tensor = Convolution.apply(*as_autocast(x, conv.weight), conv.padding)
    elif takes_every_pixel(conv) and are_stacked(x, conv.weight):

        def grouped(x: Tensor, groups: int, weight: Tensor) -> Tensor:
            found: Tensor = Convolution.apply(x, weight, conv.padding, groups)
            return found

        y = by_channel(grouped, *as_autocast(x, conv.weight))
    else:
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return y if conv.bias is None else y + conv.bias[:, None, None]


def as_autocast(*tensors: Tensor) -> Sequence[Tensor]:
    """The tensors in the type that autocast would give them, where it is on: it does not see into our own functions."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether it takes every pixel, and is no transform's."""
    return takes_every_pixel(conv) and not is_transformed(conv.weight)


def takes_every_pixel(conv: nn.Conv2d) -> bool:
    """Whether it takes every pixel, all channels together, with zeros around the image."""
    every = conv.groups == 1 and conv.stride == conv.dilation == (1, 1)
    return every and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


class Convolution(torch.autograd.Function):
    """Of x [M, C, H, W] with a weight, and zeros around the image: call `apply(x, weight, padding, groups)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, int], groups: int = 1) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv2d(x, weight, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, *_ = ctx.needs_input_grad
        return *ConvolutionGradient.apply(gy, x, weight, ctx.padding, of_x, of_weight, ctx.groups), None, None


class ConvolutionGradient(torch.autograd.Function):
    """Its gradients in x and in the weight, where asked for; can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        gy: Tensor,
        x: Tensor,
        weight: Tensor,
        padding: tuple[int, int],
        of_x: bool,
        of_weight: bool,
        groups: int = 1,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(gy, x, weight)
        ctx.padding, ctx.groups = padding, groups
        ctx.set_materialize_grads(False)
        return convolution_gradients(gy, x, weight, padding, of_x, of_weight, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, in_gx: Tensor | None, in_gweight: Tensor | None) -> tuple[Any, ...]:
        gy, x, weight = ctx.saved_tensors
        of_gy, of_x, of_weight, *_ = ctx.needs_input_grad
        padding, groups = ctx.padding, ctx.groups
        dgy = dx = dweight = None
        if in_gweight is not None:
            dgy = F.conv2d(x, in_gweight, padding=padding, groups=groups) if of_gy else None
            dx, _ = convolution_gradients(gy, x, in_gweight, padding, of_x, False, groups)
        if in_gx is not None:
            more = F.conv2d(in_gx, weight, padding=padding, groups=groups) if of_gy else None
            dgy = more if dgy is None or more is None else dgy.add_(more)
            _, dweight = convolution_gradients(gy, in_gx, weight, padding, False, of_weight, groups)
        return dgy, dx, dweight, None, None, None, None


def convolution_gradients(
    gy: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], of_x: bool, of_weight: bool, groups: int = 1
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and in the weight, where asked for."""
    if not (of_x or of_weight):
        return None, None
    mask = [of_x, of_weight, False]
    gx, gweight, _ = torch.ops.aten.convolution_backward(
        gy, x, weight, None, [1, 1], list(padding), [1, 1], False, [0, 0], groups, mask
    )
    return gx, gweight


class Statistics(NamedTuple):
    """Whose mean and variance normalise: of the first `support` images of each of `tasks`; or given ones, [C] each."""

    tasks: int
    support: int
    mean: Tensor | None = None
    var: Tensor | None = None


def can_fuse(x: Tensor, pool: int) -> bool:
    """Whether `normalised_relu` serves these maps: on a CPU, with kernels for it, and with a whole window."""
    return (
        x.device.type == "cpu"
        and min(x.shape[-2:]) >= pool
        and not is_transformed(x)
        and not torch.is_autocast_enabled("cpu")
        and native.is_available(x.dtype)
    )


def normalised_relu(
    x: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU of the normalised, scaled and shifted maps [M, C, H, W], and the maximum of `pool` × `pool` pixels, 1 or 2.

    Returns:
        The maps [M, C, H // pool, W // pool], and the mean and biased variance that normalised, [T, C].
    """
    x = channels_last(x)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        return _NormalisedRelu.apply(x, weight, bias, statistics, pool)
    maps = Maps(x.shape, statistics, pool)
    mean, var, _ = maps.moments(x)
    y = x.new_empty(maps.pooled)
    maps.forward(x, mean, var, weight, bias, y, None)
    return y.permute(0, 3, 1, 2), mean, var


def channels_last(images: Tensor) -> Tensor:
    """The same images [M, C, H, W] with channels innermost, and strides that say so where there is one channel.

    As they are under `torch.func`, which cannot ask for it.
    """
    if is_transformed(images):
        return images
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    count, _, height, width = images.shape
    return images.reshape(count, height, width, 1).contiguous().permute(0, 3, 1, 2)  # they may be turned


class Maps:
    """Sizes of maps [M, C, H, W], and the kernels called with them.

    Args:
        inputs: channels of the images that a convolution makes them of, where one does.
    """

    def __init__(self, shape: Sequence[int], statistics: Statistics, pool: int, inputs: int = 0) -> None:
        images, channels, height, width = shape
        self._statistics = statistics
        support = 0 if statistics.mean is not None else statistics.support
        numbers = max(1, support * height * width)
        self.sizes = (images, height, width, channels, statistics.tasks, support, pool, numbers, inputs)
        self.images, self.tasks, self.channels = images, statistics.tasks, channels
        self.full = (images, height, width, channels)
        self.pooled = (images, height // pool, width // pool, channels)

    def given(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and variance [T, C], where they are given."""
        mean, var = self._statistics.mean, self._statistics.var
        if mean is None or var is None:
            return None
        wanted = (s.to(like.dtype).expand(self.tasks, -1).contiguous() for s in (mean, var))
        return next(wanted), next(wanted)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and 1 / sqrt(variance + epsilon), [T, C] each."""
        given = self.given(x)
        if given is None:
            mean, var = x.new_empty(2, self.tasks, self.channels)
            native.run("moments", self.sizes, x, x.new_empty(2 * self.images * self.channels), mean, var)
        else:
            mean, var = given
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
        return *NormalisedReluGradient.apply(gy, *ctx.saved_tensors, ctx.maps), None, None


class NormalisedReluGradient(torch.autograd.Function):
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
    def backward(ctx: Any, in_gx: Tensor, in_gweight: Tensor, in_gbias: Tensor) -> tuple[Tensor | None, ...]:
        gy, x, weight, mean, inverse, places, sum_g, sum_gx = ctx.saved_tensors
        maps = ctx.maps
        dx, dgy, dweight = empty_like(x), x.new_empty(maps.pooled), x.new_empty(maps.channels)
        known = (x, mean, inverse, weight, rows_of(gy), places, sum_g, sum_gx)
        asked = (rows_of(in_gx), in_gweight.contiguous(), in_gbias.contiguous())
        partial = x.new_empty(3 * maps.images * maps.channels)
        sums = x.new_empty(3 * maps.tasks * maps.channels)
        native.run("twice", maps.sizes, *known, *asked, partial, sums, dx, dgy, dweight)
        return dgy.permute(0, 3, 1, 2), dx, dweight, None, None, None, None


def rows_of(maps: Tensor) -> Tensor:
    """Maps [M, C, H, W] as [M, H, W, C], contiguous."""
    return maps.permute(0, 2, 3, 1).contiguous()


def empty_like(maps: Tensor) -> Tensor:
    """Uninitialised maps of this shape, channels last."""
    count, channels, height, width = maps.shape
    return maps.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
