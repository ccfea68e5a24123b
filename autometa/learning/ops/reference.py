"""The operations in plain torch: what every faster form is measured by. They run on any device and under `torch.func`.

Symbols: M images, C channels; T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops.statistics import EPSILON, Groups, Normalisation, Statistics
from autometa.learning.ops.torch_private import is_transformed


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What `conv` gives, maps [M, C, H, W]."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def normalised(x: Tensor, weight: Tensor, bias: Tensor, by: Normalisation) -> Tensor:
    """Maps [M, C, H, W] normalised by mean and variance, then scaled and shifted by weight and bias [C].

    Mean and variance are written out: `torch.vmap` over `F.batch_norm` gives silently wrong second derivatives
    (torch 2.13). Under a transform running averages stay: none of its tensors is one task's.
    """
    if by is None:
        return x * weight[:, None, None] + bias[:, None, None]
    if isinstance(by, Groups):
        return F.group_norm(x, by.groups, weight, bias, EPSILON)
    if by.given:
        mean, var = (given[:, None, None].to(x.dtype) for given in by.given)
        return _scaled(x, mean, var, weight, bias)
    return _by_task(x, weight, bias, by)


def _by_task(x: Tensor, weight: Tensor, bias: Tensor, by: Statistics) -> Tensor:
    x = x.float() if x.dtype == torch.bfloat16 else x  # whose seven bits are too few for a mean
    blocks = x.unflatten(0, (by.tasks, -1))  # (T, images, C, H, W)
    chosen = blocks[:, : by.support]
    # Two plain means: `torch.var_mean` over these axes takes two to four times as long on a CPU.
    mean = chosen.mean((1, 3, 4), keepdim=True)
    var = (chosen - mean).square().mean((1, 3, 4), keepdim=True)
    if not is_transformed(x):
        by.follow(mean.flatten(1), var.flatten(1), chosen.numel() // chosen.shape[2])
    return _scaled(blocks, mean, var, weight, bias).flatten(0, 1)


def _scaled(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    scale = weight[:, None, None] * torch.rsqrt(var + EPSILON)
    return torch.addcmul(bias[:, None, None] - mean * scale, x, scale)


def pooled(x: Tensor, pooling: str) -> Tensor:
    """The "max" or "mean" of 2×2 pixels of maps [M, C, H, W]."""
    return (F.max_pool2d if pooling == "max" else F.avg_pool2d)(x, 2)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention` of [M, heads, tokens, D / heads], differentiable any number of times."""
    weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)  # (M, heads, tokens, tokens)
    return weights @ value
