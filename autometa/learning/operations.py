"""Floating-point operations, counted as they are dispatched: the same number on every device, so that budgets in
operations end at the same step.

Counted are products and sums of products: of matrices, convolutions, attention, recurrent layers, linear systems and
distances. What is done number by number is not, as in torch's own counter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from autometa.learning.ops.block import every_operation_visible
from autometa.learning.ops.torch_private import COUNTED

Shape = Sequence[int]


@dataclass(frozen=True)
class Phase:
    """A part of training whose outer steps do as many `operations`, from `start` in [0, 1) of it."""

    start: float
    operations: int


def operations_of(phases: Sequence[Phase], steps: int) -> int:
    """Operations of a training of so many outer steps; the first phase starts at zero."""
    begins = [*(math.ceil(phase.start * steps) for phase in phases), steps]
    lengths = (end - begin for begin, end in itertools.pairwise(begins))
    return sum(length * phase.operations for length, phase in zip(lengths, phases, strict=True))


def affordable_steps(phases: Sequence[Phase], operations: float) -> int:
    """The most outer steps that so many operations pay for."""
    ends = [*(phase.start for phase in phases[1:]), 1.0]
    on_average = sum((end - phase.start) * phase.operations for phase, end in zip(phases, ends, strict=True))
    # Phases begin at whole steps: by so much at most a training costs less than its steps on average.
    rounding = sum(abs(b.operations - a.operations) for a, b in itertools.pairwise(phases))
    steps = int((operations + rounding) / max(1.0, on_average))
    while steps > 0 and operations_of(phases, steps) > operations:
        steps -= 1
    return steps


@contextmanager
def operations_counter() -> Iterator[FlopCounterMode]:
    """Counts inside; `get_total_flops` says how many."""
    with every_operation_visible(), FlopCounterMode(display=False, custom_mapping=dict(_FORMULAS)) as counter:
        yield counter


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


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Of shapes [..., T, D]: scores of all pairs of tokens, and the sum of values that they weigh."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """As torch counts it for a GPU's kernels: the scores once more, and two products for each of the two before."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _recurrent(x: Shape, matrices: Sequence[Shape]) -> int:
    """Layers of inputs [T, B, D] or [B, T, D]: each matrix once for every input."""
    return 2 * x[0] * x[1] * sum(math.prod(matrix) for matrix in matrices)


def _recurrent_backward(x: Shape, matrices: Sequence[Shape], state: Shape) -> int:
    """Gradients in what each matrix was multiplied with and in the matrix, each as much as the layers.

    But for the states [..., B, H] before the first input, which are given: nobody asks for the gradient in them.
    """
    of_state = sum(math.prod(matrix) for matrix in matrices[1::2])  # (of inputs, of states) in each direction
    return 2 * _recurrent(x, matrices) - 2 * state[-2] * of_state


def _mkldnn_layer(x: Shape, of_input: Shape, of_state: Shape, *_: Any, **__: Any) -> int:
    return _recurrent(x, (of_input, of_state))


def _mkldnn_layer_backward(
    x: Shape, of_input: Shape, of_state: Shape, bias: Any, other_bias: Any, state: Shape, *_: Any, **__: Any
) -> int:
    return _recurrent_backward(x, (of_input, of_state), state)


def _cudnn_layers(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _recurrent(x, _matrices(weights))


def _cudnn_layers_backward(
    x: Shape, weights: Sequence[Shape], stride: int, buffer: Any, state: Shape, *_: Any, **__: Any
) -> int:
    return _recurrent_backward(x, _matrices(weights), state)


def _matrices(weights: Sequence[Shape]) -> list[Shape]:
    """Those that are not biases."""
    return [weight for weight in weights if len(weight) == 2]


def _distances(x: Shape, y: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """City-block distances of all pairs of [..., R, D] and [..., M, D]: difference, magnitude and sum."""
    return 3 * math.prod(out_shape) * x[-1]


def _distances_backward(gradient: Shape, x: Shape, *_: Any, **__: Any) -> int:
    """The gradient in one of the two sets: difference, sign times gradient, and sum."""
    return 3 * math.prod(gradient) * x[-1]


def _factorised(matrix: Shape, *_: Any, **__: Any) -> int:
    """Cholesky's factor of [..., N, N]: N³ / 3."""
    return math.prod(matrix) * matrix[-1] // 3


def _solved_factorised(right: Shape, factor: Shape, *_: Any, **__: Any) -> int:
    """Cholesky's factor and its transpose against right sides [..., N, K]: 2 N² K."""
    return 2 * factor[-1] * math.prod(right)


def _solved_triangle(triangle: Shape, right: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """One triangle [..., N, N] against right sides [..., N, K]: N² K."""
    return triangle[-1] * math.prod(out_shape)


_ATEN = torch.ops.aten
# What torch does not count, or counts wrongly. A recurrent layer and attention are one operation on some devices and
# several on others.
_FORMULAS: dict[Any, Callable[..., int]] = {
    _ATEN.convolution_backward: _convolution_backward,
    COUNTED["attention"]: _attention,
    COUNTED["attention_backward"]: _attention_backward,
    _ATEN.mkldnn_rnn_layer: _mkldnn_layer,
    _ATEN.mkldnn_rnn_layer_backward: _mkldnn_layer_backward,
    COUNTED["cudnn_layers"]: _cudnn_layers,
    COUNTED["cudnn_layers_backward"]: _cudnn_layers_backward,
    COUNTED["distances"]: _distances,
    COUNTED["distances_backward"]: _distances_backward,
    _ATEN.linalg_cholesky_ex: _factorised,
    _ATEN.cholesky_solve: _solved_factorised,
    _ATEN.linalg_solve_triangular: _solved_triangle,
}
