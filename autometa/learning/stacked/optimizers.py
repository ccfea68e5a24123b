"""The outer loop's optimisers for G candidates at once, each with its own rate, decay and gradient length.

The arithmetic is torch's, operation by operation (Adam, AdamW, SGD with Nesterov momentum), on matrices
[G, P] in which a row holds all P learned weights of one candidate. State comes in and goes out as torch
keeps it, so a candidate can leave at any step and go on alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class StackedOptimizer(ABC):
    """One step of G candidates at a time.

    Args:
        optimizers: one a candidate, as `optimization.make_optimizer` made them, where they stand.
        parameters: what each of them moves, in the order of a row.

    Attributes:
        state: of all candidates, [G, P] by torch's name for it.
        decay: of each weight of each candidate, [G, P].
    """

    names: tuple[str, ...]  # of what torch keeps for a parameter and is a tensor of its shape

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], parameters: Sequence[Sequence[Tensor]]) -> None:
        each = list(zip(optimizers, parameters, strict=True))
        self._sizes = [p.numel() for p in parameters[0]]
        self.decay = torch.stack([_decays(optimizer, of_one) for optimizer, of_one in each])
        self.state = {name: torch.stack([_vector(o, ps, name) for o, ps in each]) for name in self.names}
        self._decays = bool(self.decay.any())
        self._idle: frozenset[int] = frozenset()

    @abstractmethod
    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor, count: int) -> None:
        """Move weights [G, P] in place, by rates [G]; this is step number `count`, from 1."""

    def spare(self, idle: frozenset[int]) -> None:
        """Leave these of the tensors in a row as they are: torch does nothing to what has no gradient."""
        if idle != self._idle:
            self._idle = idle
            parts = self.decay.split(self._sizes, dim=1)
            for place in idle:
                parts[place].zero_()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these candidates only."""
        self.decay = self.decay[list(rows)]
        self.state = {name: matrix[list(rows)] for name, matrix in self.state.items()}

    def write(self, row: int, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], count: int) -> None:
        """Bring a candidate's own optimiser to where its row stands after `count` steps."""
        parts = {name: matrix[row].split(self._sizes) for name, matrix in self.state.items()}
        for place, parameter in enumerate(parameters):
            if place in self._idle:
                continue
            found = {name: split[place].view_as(parameter).clone() for name, split in parts.items()}
            optimizer.state[parameter] = found | self._counted(count, parameter.device)

    def _counted(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {}

    def _with_penalty(self, gradient: Tensor, weights: Tensor) -> Tensor:
        return torch.addcmul(gradient, self.decay, weights) if self._decays else gradient


class StackedAdam(StackedOptimizer):
    """As `torch.optim.Adam` (Kingma & Ba 2015): decay is a penalty on the weights."""

    names = ("exp_avg", "exp_avg_sq")
    betas, epsilon = (0.9, 0.999), 1e-8

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor, count: int) -> None:
        self._move(weights, self._with_penalty(gradient, weights), rates, count)

    def _move(self, weights: Tensor, gradient: Tensor, rates: Tensor, count: int) -> None:
        mean, square = (self.state[name] for name in self.names)
        first, second = self.betas
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = square.sqrt().div_((1 - second**count) ** 0.5).add_(self.epsilon)
        weights.addcdiv_(mean * -(rates / (1 - first**count))[:, None], root)

    def _counted(self, count: int, device: torch.device) -> dict[str, Tensor]:
        return {"step": torch.tensor(float(count), device=device)}


class StackedAdamW(StackedAdam):
    """As `torch.optim.AdamW` (Loshchilov & Hutter 2019): weights shrink by themselves."""

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor, count: int) -> None:
        if self._decays:
            weights.mul_(1 - rates[:, None] * self.decay)
        self._move(weights, gradient, rates, count)


class StackedSgd(StackedOptimizer):
    """As `torch.optim.SGD` with Nesterov's momentum (Sutskever et al. 2013)."""

    names = ("momentum_buffer",)
    momentum = 0.9

    def step(self, weights: Tensor, gradient: Tensor, rates: Tensor, count: int) -> None:
        gradient = self._with_penalty(gradient, weights)
        buffer = self.state["momentum_buffer"].mul_(self.momentum).add_(gradient)
        weights.sub_(gradient.add(buffer, alpha=self.momentum).mul_(rates[:, None]))


OPTIMIZERS: dict[str, type[StackedOptimizer]] = {"adam": StackedAdam, "adamw": StackedAdamW, "sgd": StackedSgd}


def clip(gradient: Tensor, lengths: Tensor) -> Tensor:
    """Bound the length of each row of [G, P] in place, as `clip_grad_norm_`; returns what it was, [G]."""
    norms = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((lengths / (norms + 1e-6)).clamp(max=1.0)[:, None])
    return norms


def _decays(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Tensor:
    """Of each weight of one candidate, [P]."""
    by_parameter = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return torch.cat([torch.full_like(p, by_parameter[p]).flatten() for p in parameters])


def _vector(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], name: str) -> Tensor:
    """One candidate's state of that name, [P]; zeros before its first step."""
    found = (optimizer.state.get(p, {}).get(name) for p in parameters)
    parts = [torch.zeros_like(p) if s is None else s for s, p in zip(found, parameters, strict=True)]
    return torch.cat([part.detach().flatten() for part in parts])
