"""Gradient checkpointing of inner steps (Chen et al. 2016, Training deep nets with sublinear memory cost).

Each step is recomputed in the backward pass: of T steps only the weights between them are kept, and memory is about
that of one. `torch.utils.checkpoint` is for passes without a gradient inside. Here a step has one, so its
vector-Jacobian product is written out: recompute the step with its graph, and differentiate it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autometa.learning.device import random_states, replayed
from autometa.learning.task_averages import averages_left_alone

Weights = dict[str, Tensor]
# (weights, rates, create_graph) to the weights that the step moves
Step = Callable[[Weights, Tensor, bool], Weights]


def checkpointed(step: Step, weights: Weights, rates: Tensor, backbone: nn.Module) -> Weights:
    """What `step(weights, rates, True)` gives, to be differentiated once.

    It may depend on nothing else that is learned. The recomputation draws the same random numbers, and leaves the
    backbone's running averages where they are.
    """
    call = _Call(step, list(weights), backbone)
    found = _Checkpointed.apply(call, rates, *weights.values())
    return dict(zip(call.moved, found, strict=True))


class _Call:
    """A step as a function of tensors; `moved` are the names of its results, known once it was made."""

    def __init__(self, step: Step, names: Sequence[str], backbone: nn.Module) -> None:
        self._step = step
        self._names = names
        self._backbone = backbone
        self._drawn = random_states(next(backbone.parameters()).device)
        self.moved: list[str] = []

    def made(self, rates: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        found = self._step(dict(zip(self._names, weights, strict=True)), rates, False)
        self.moved = list(found)
        return tuple(weight.detach() for weight in found.values())

    def recomputed(self, rates: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """With its graph."""
        with replayed(self._drawn), averages_left_alone(self._backbone):
            return tuple(self._step(dict(zip(self._names, weights, strict=True)), rates, True).values())


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*inputs)
        with torch.enable_grad():
            return call.made(*(tensor.detach().requires_grad_() for tensor in inputs))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            found = ctx.call.recomputed(*inputs)
        return None, *torch.autograd.grad(found, inputs, gradients, allow_unused=True)
