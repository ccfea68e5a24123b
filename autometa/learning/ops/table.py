"""Which form of an operation is taken: one table, from plain torch to the fastest.

All forms of an operation give the same numbers to rounding, and are as often differentiable. Backbones and `Norm` call
the functions at the end, and know none of the forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops import batch_norm, block, by_channel, convolution, norm_relu, reference
from autometa.learning.ops.convolution import is_dense
from autometa.learning.ops.statistics import Groups, Normalisation, Statistics
from autometa.learning.ops.torch_private import are_stacked, is_transformed


class Form(NamedTuple):
    """One way to do an operation; both functions take the operation's arguments."""

    name: str
    can_run: Callable[..., bool]
    run: Callable[..., Tensor]


def _always(*_: Any) -> bool:
    return True


def _normalised_relu_in_parts(x: Tensor, weight: Tensor, bias: Tensor, by: Normalisation, pool: int) -> Tensor:
    return rectified(normalised(x, weight, bias, by), pool)


def _convolved_relu_in_parts(
    images: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor, by: Normalisation, pool: int
) -> Tensor:
    return normalised_relu(convolved(images, conv), weight, bias, by, pool)


def _are_one(x: Tensor, by: Normalisation) -> bool:
    return isinstance(by, Statistics) and by.serve_all(len(x))


# Of each operation the last form that can run is taken. "stacked" is for many networks at once, under `torch.vmap`.
TABLE: Mapping[str, Sequence[Form]] = {
    "convolution": (
        Form("torch", _always, reference.convolved),
        Form("stacked", lambda x, conv: is_dense(conv) and are_stacked(x, conv.weight), by_channel.convolved),
        Form("second derivative", convolution.can_convolve, convolution.convolved),
    ),
    "normalisation": (
        Form("torch", _always, reference.normalised),
        Form(
            "stacked group norm",
            lambda x, weight, bias, by: isinstance(by, Groups) and are_stacked(x, weight, bias),
            by_channel.group_normalised,
        ),
        Form(
            "stacked batch norm",
            lambda x, weight, bias, by: _are_one(x, by) and are_stacked(x, weight, bias, *(by.given or ())),
            by_channel.batch_normalised,
        ),
        Form(
            "batch norm",
            lambda x, weight, bias, by: _are_one(x, by) and not is_transformed(x),
            batch_norm.batch_normalised,
        ),
    ),
    "normalisation, ReLU, pooling": (
        Form("in parts", _always, _normalised_relu_in_parts),
        Form("compiled", norm_relu.can_normalise_relu, norm_relu.normalised_relu),
    ),
    "convolution, normalisation, ReLU, pooling": (
        Form("in parts", _always, _convolved_relu_in_parts),
        Form("compiled", block.can_run_block, block.convolved_relu),
    ),
    "pooling": (
        Form("torch", _always, reference.pooled),
        Form("stacked", lambda x, pooling: are_stacked(x), by_channel.pooled),
    ),
    "attention": (
        Form("torch", _always, reference.attention),
        # Fused kernels have no second derivative (torch 2.13), and vmap has none of them.
        Form(
            "fused",
            lambda query, key, value: not (torch.is_grad_enabled() or is_transformed(query)),
            F.scaled_dot_product_attention,
        ),
    ),
}


def chosen(operation: str, *arguments: Any) -> Form:
    """The form of an operation in the table that is taken for these arguments.

    A graph that `torch.export` writes is plain torch, since what runs it knows no operations of ours.
    """
    if torch.compiler.is_compiling():
        return TABLE[operation][0]
    return next(form for form in reversed(TABLE[operation]) if form.can_run(*arguments))


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution makes of maps [M, D, H, W]."""
    return chosen("convolution", x, conv).run(x, conv)


def normalised(x: Tensor, weight: Tensor, bias: Tensor, by: Normalisation) -> Tensor:
    """Maps [M, C, H, W] normalised, then scaled and shifted by weight and bias [C]."""
    return chosen("normalisation", x, weight, bias, by).run(x, weight, bias, by)


def normalised_relu(x: Tensor, weight: Tensor, bias: Tensor, by: Normalisation, pool: int) -> Tensor:
    """ReLU of `normalised` maps and the maximum of `pool` × `pool` pixels, 1 or 2: [M, C, H // pool, W // pool]."""
    arguments = x, weight, bias, by, pool
    return chosen("normalisation, ReLU, pooling", *arguments).run(*arguments)


def convolved_relu(
    images: Tensor, conv: nn.Conv2d, weight: Tensor, bias: Tensor, by: Normalisation, pool: int
) -> Tensor:
    """`normalised_relu` of what a convolution makes of images [M, D, H, W]."""
    arguments = images, conv, weight, bias, by, pool
    return chosen("convolution, normalisation, ReLU, pooling", *arguments).run(*arguments)


def rectified(x: Tensor, pool: int) -> Tensor:
    """ReLU of the maximum of `pool` × `pool` pixels: as the maximum of ReLU, on a quarter of the numbers."""
    return F.relu(pooled(x, "max") if pool > 1 else x)


def pooled(x: Tensor, pooling: str) -> Tensor:
    """The "max" or "mean" of 2×2 pixels of maps [M, C, H, W]."""
    return chosen("pooling", x, pooling).run(x, pooling)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What tokens read from all of theirs, weighed by scaled dot products: [M, heads, tokens, D / heads]."""
    return chosen("attention", query, key, value).run(query, key, value)
