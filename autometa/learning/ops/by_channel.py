"""Operations under `torch.vmap`: maps of G networks as one of G · C channels, where channels are treated alike.

`torch.vmap` has rules of its own for them, but takes batch norm apart into some twenty operations, and copies
the maps before and after pooling. Under vmap over all arguments, and no other transform, these are one
operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops import batch_norm, reference
from autometa.learning.ops.convolution import Convolution, as_autocast, with_bias
from autometa.learning.ops.statistics import EPSILON, Groups, Statistics
from autometa.learning.ops.torch_private import are_stacked


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What `conv` gives; its second derivatives take the time of first ones."""

    def grouped(x: Tensor, groups: int, weight: Tensor) -> Tensor:
        found: Tensor = Convolution.apply(x, weight, conv.padding, groups)
        return found

    return with_bias(_by_channel(grouped, *as_autocast(x, conv.weight)), conv)


def batch_normalised(x: Tensor, weight: Tensor, bias: Tensor, by: Statistics) -> Tensor:
    """Batch norm; running averages that are not stacked, as those of one network for many tasks, stay."""
    averages = by.averages if by.averages and are_stacked(*by.averages) else ()

    def normalised(x: Tensor, times: int, weight: Tensor, bias: Tensor, *own: Tensor) -> Tensor:
        given, averages = (own, None) if by.given else (None, own or None)
        return batch_norm.batch_normalised(x, weight, bias, Statistics(1, len(x), given, averages))

    return _by_channel(normalised, x, weight, bias, *(by.given or averages), moved=0 if by.given else len(averages))


def group_normalised(x: Tensor, weight: Tensor, bias: Tensor, by: Groups) -> Tensor:
    """Group norm of maps [M, C, H, W]."""

    def normalised(x: Tensor, times: int, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(x, times * by.groups, weight, bias, EPSILON)

    return _by_channel(normalised, x, weight, bias)


def pooled(x: Tensor, pooling: str) -> Tensor:
    """The "max" or "mean" of 2×2 pixels of maps [M, C, H, W]."""
    return _by_channel(lambda x, times: reference.pooled(x, pooling), x)


def _by_channel(function: Callable[..., Tensor], x: Tensor, *vectors: Tensor, moved: int = 0) -> Tensor:
    """function(x, times, *vectors) of maps [M, C, H, W] and vectors [C] or filters [C, ...], `times` as many channels.

    The last `moved` of the vectors are moved in place.
    """
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
        _, _, dim_x, *dims = (at or 0 for at in in_dims)
        folded = x.movedim(dim_x, 1).flatten(1, 2)  # (M, G·C, H, W), no copy after a convolution
        rows = [v.movedim(at, 0) for v, at in zip(vectors, dims, strict=True)]  # (G, C, ...) each
        flat = [row.flatten(0, 1) for row in rows]
        found = function(folded, times, *flat)
        for row, copied in zip(rows[len(rows) - moved :], flat[len(rows) - moved :], strict=True):
            if copied.data_ptr() != row.data_ptr():  # rows that do not lie one after the other had to be copied
                row.copy_(copied.view_as(row))
        return found.unflatten(1, (times, -1)), 1
