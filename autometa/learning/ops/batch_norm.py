"""Batch norm whose second derivative is written out: eleven operations on maps where torch has some thirty-five.

Second-order MAML differentiates every norm twice, and on a GPU such operations take longer than its convolutions.

Symbols: for each channel of maps x [M, C, H, W], n numbers with mean μ and s = 1 / sqrt(variance + ε); x̂ = (x - μ) s;
w the weight, b the bias, y = w x̂ + b; g the gradient in y. A bar is a mean over the n numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.learning.ops.statistics import EPSILON, MOMENTUM, Statistics

_OVER = (0, 2, 3)


def batch_normalised(x: Tensor, weight: Tensor, bias: Tensor, by: Statistics) -> Tensor:
    """`F.batch_norm` of maps [M, C, H, W]: by given statistics, or by their own, which averages follow in place."""
    if by.given:
        mean, var = by.given
        return F.batch_norm(x, mean, var, weight, bias, eps=EPSILON)
    y: Tensor = _BatchNorm.apply(x, weight, bias, by.averages or (None, None))
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, averages: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, *averages, True, MOMENTUM, EPSILON)
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return *_Gradient.apply(g, *ctx.saved_tensors), None


class _Gradient(torch.autograd.Function):
    """gx = w s (g - ḡ - x̂ m) with m the mean of g x̂, the weight's gradient n m, and the bias's n ḡ."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gx, gweight, gbias = torch.ops.aten.native_batch_norm_backward(
            g, x, weight, None, None, mean, inverse, True, EPSILON, [True, True, True]
        )
        ctx.save_for_backward(g, x, weight, mean, inverse, gweight, gbias)
        return gx, gweight, gbias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor, v_weight: Tensor, v_bias: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives of L = n (w s (p - v̄ ḡ - m q) + v_w m + v_b ḡ), with p the mean of v g and q that of v x̂."""
        g, x, w, mean, s, gweight, gbias = ctx.saved_tensors
        n = x.numel() // x.shape[1]
        m, g_mean = gweight / n, gbias / n
        centred = x - _spread(mean)
        v_mean, p, q = v.mean(_OVER), (v * g).mean(_OVER), (v * centred).mean(_OVER) * s
        k = p - v_mean * g_mean - m * q
        ws = w * s
        of_normalised = v_weight - ws * q
        dg = _affine(v_bias - ws * v_mean, (ws, v), (of_normalised * s, centred))
        # dm/dx = s (g - ḡ - x̂ m) / n, dq/dx = s (v - v̄ - x̂ q) / n, ds/dx = -s² x̂ / n
        by_g, by_v = of_normalised * s, -ws * s * m
        by_normalised = -ws * s * k - by_g * m - by_v * q
        dx = _affine(-by_g * g_mean - by_v * v_mean, (by_g, g), (by_v, v), (by_normalised * s, centred))
        return dg, dx, n * s * k, None, None


def _affine(constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """A constant [C] and, for each term, a factor [C] times maps."""
    found = _spread(constant)
    for factor, maps in terms:
        found = torch.addcmul(found, maps, _spread(factor))
    return found


def _spread(of_channels: Tensor) -> Tensor:
    return of_channels[:, None, None]
