"""Floating-point operations, counted as they are dispatched: the same number on every device, so that budgets in
operations end at the same step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operations_counter() -> FlopCounterMode:
    """A context that counts; `get_total_flops` says how many."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    gradient: list[int],
    x: list[int],
    weight: list[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    mask: list[bool],
    **_: Any,
) -> int:
    """Of shapes: each gradient as much as the convolution, in x and in the weight as the mask says.

    torch leaves out that channels of one group do not meet those of another: a group for each task, or for each
    channel, would count many times (torch 2.13).
    """
    count, _channels, *places = x if transposed else gradient
    return 2 * count * math.prod(places) * math.prod(weight) * sum(mask[:2])
