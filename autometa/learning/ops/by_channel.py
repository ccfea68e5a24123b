"""Functions of feature maps that treat channels alike: for G stacked candidates one of G · C channels.

`torch.vmap` has rules of its own for them, but takes batch norm apart into some twenty operations, and copies
the maps before and after pooling. Under vmap over all arguments, and no other transform, these are one
operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.learning.ops.batch_norm import batch_normalised


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *averages: Tensor, training: bool, **how: float) -> Tensor:
    """`F.batch_norm` of maps [M, C, H, W]; running averages, mean and variance, are moved in place."""

    def normalised(x: Tensor, times: int, weight: Tensor, bias: Tensor, *averages: Tensor) -> Tensor:
        if training:
            return batch_normalised(x, weight, bias, averages, **how)
        mean, var = averages or (None, None)
        return F.batch_norm(x, mean, var, weight, bias, False, **how)

    return by_channel(normalised, x, weight, bias, *averages, moved=len(averages) if training else 0)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """`F.group_norm` of maps [M, C, H, W]."""

    def normalised(x: Tensor, times: int, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(x, times * groups, weight, bias, epsilon)

    return by_channel(normalised, x, weight, bias)


def pooled(x: Tensor, pooling: str) -> Tensor:
    """The "max" or "mean" of 2×2 pixels of maps [M, C, H, W]."""
    pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
    return by_channel(lambda x, times: pool(x, 2), x)


def are_stacked(*tensors: Tensor) -> bool:
    """Whether vmap, and no other transform, maps over every one of these tensors."""
    return all(torch._C._functorch.is_batchedtensor(t) for t in tensors)


def by_channel(function: Callable[..., Tensor], x: Tensor, *vectors: Tensor, moved: int = 0) -> Tensor:
    """function(x, times, *vectors) of maps [M, C, H, W] and vectors [C] or filters [C, ...].

    Where they are stacked by vmap it gets `times` as many channels. The last `moved` of the vectors are moved in place.
    """
    if not are_stacked(x, *vectors):
        return function(x, 1, *vectors)
    found: Tensor = _Stacked.apply(function, moved, x, *vectors)
    return found


class _Stacked(torch.autograd.Function):
    """Never differentiated itself: vmap runs the rule below, in which autograd sees the function that was given."""

    @staticmethod
    def forward(function: Callable[..., Tensor], moved: int, x: Tensor, *vectors: Tensor) -> Tensor:
        raise AssertionError("only under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: see above."""

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: Callable[..., Tensor],
        moved: int,
        x: Tensor,
        *vectors: Tensor,
    ) -> tuple[Tensor, int]:
        times = info.batch_size
        _, _, of_x, *of_vectors = (at or 0 for at in in_dims)
        folded = x.movedim(of_x, 1).flatten(1, 2)  # (M, G·C, H, W), no copy after a convolution
        rows = [v.movedim(at, 0) for v, at in zip(vectors, of_vectors, strict=True)]  # (G, C, ...) each
        flat = [row.flatten(0, 1) for row in rows]
        found = function(folded, times, *flat)
        for row, copied in zip(rows[len(rows) - moved :], flat[len(rows) - moved :], strict=True):
            if copied.data_ptr() != row.data_ptr():  # rows that do not lie one after the other had to be copied
                row.copy_(copied.view_as(row))
        return found.unflatten(1, (times, -1)), 1
