"""A convolution whose second derivative takes the time of a first one.

torch finds the weight's part of the second derivative by a convolution with filters as large as the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops.torch_private import is_transformed


def can_convolve(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `convolved` serves these maps."""
    return is_dense(conv) and not is_transformed(x) and not is_transformed(conv.weight)


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What `conv` gives."""
    y: Tensor = Convolution.apply(*as_autocast(x, conv.weight), conv.padding)
    return with_bias(y, conv)


def is_dense(conv: nn.Conv2d) -> bool:
    """Whether it takes every pixel, all channels together, with zeros around the image."""
    every = conv.groups == 1 and conv.stride == conv.dilation == (1, 1)
    return every and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def with_bias(y: Tensor, conv: nn.Conv2d) -> Tensor:
    """Maps [M, C, H, W] with the convolution's bias, where it has one."""
    return y if conv.bias is None else y + conv.bias[:, None, None]


def as_autocast(*tensors: Tensor) -> Sequence[Tensor]:
    """The tensors in the type that autocast would give them, where it is on: it does not see into our own functions."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


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
        needs = ctx.needs_input_grad[:2]
        return *_ConvolutionGradient.apply(gy, x, weight, ctx.padding, *needs, ctx.groups), None, None


class _ConvolutionGradient(torch.autograd.Function):
    """Its gradients in x and in the weight, where asked for; can be differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        gy: Tensor,
        x: Tensor,
        weight: Tensor,
        padding: tuple[int, int],
        needs_grad_x: bool,
        needs_grad_weight: bool,
        groups: int = 1,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(gy, x, weight)
        ctx.padding, ctx.groups = padding, groups
        ctx.set_materialize_grads(False)
        return _gradients(gy, x, weight, padding, (needs_grad_x, needs_grad_weight), groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, ggx: Tensor | None, ggweight: Tensor | None) -> tuple[Any, ...]:
        gy, x, weight = ctx.saved_tensors
        needs_grad_gy, needs_grad_x, needs_grad_weight, *_ = ctx.needs_input_grad
        padding, groups = ctx.padding, ctx.groups
        dgy = dx = dweight = None
        if ggweight is not None:
            dgy = F.conv2d(x, ggweight, padding=padding, groups=groups) if needs_grad_gy else None
            dx, _ = _gradients(gy, x, ggweight, padding, (needs_grad_x, False), groups)
        if ggx is not None:
            more = F.conv2d(ggx, weight, padding=padding, groups=groups) if needs_grad_gy else None
            dgy = more if dgy is None or more is None else dgy.add_(more)
            _, dweight = _gradients(gy, ggx, weight, padding, (False, needs_grad_weight), groups)
        return dgy, dx, dweight, None, None, None, None


def _gradients(
    gy: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int], needs: tuple[bool, bool], groups: int
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and in the weight, where each is needed."""
    if not any(needs):
        return None, None
    gx, gweight, _ = torch.ops.aten.convolution_backward(
        gy, x, weight, None, [1, 1], list(padding), [1, 1], False, [0, 0], groups, [*needs, False]
    )
    return gx, gweight
