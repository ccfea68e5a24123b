"""Optimisers and learning-rate schedules of the outer loop, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from autometa.errors import ConfigError, did_you_mean
from autometa.learning.open_ended import COOL_DOWN

_MOMENTUM = 0.9
_FLOOR = 0.01  # a cosine ends at 1 % of the rate, about MAML++'s 1e-3 to 1e-5

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * progress)) / 2,
    # Tian et al. 2020 divide by ten at 60 % and 80 % of the epochs.
    "step": lambda progress: 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01,
    # Constant, then a cool-down over the last fifth (Hägele et al. 2024): that of training whose end was left open.
    "cool_down": lambda progress: max(_FLOOR, 1 - progress),
    "trapezoid": lambda progress: min(1.0, max(_FLOOR, (1 - progress) / COOL_DOWN)),
}


def rate_factor(schedule: str, progress: float) -> float:
    """What the outer rate is multiplied by when `progress` in [0, 1] of the budget is spent."""
    return SCHEDULES[schedule](progress)


def make_optimizer(
    parameters: Iterable[nn.Parameter], *, optimizer: str, outer_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser of that name. Weights decay; biases, scales and learned rates do not.

    It is one operation for all parameters. On a GPU its rate and step count are there, so that no step waits for them.

    Raises:
        ConfigError: an unknown name, a rate or decay out of range, or no parameter that is learned.
    """
    if outer_lr <= 0 or weight_decay < 0:
        raise ConfigError(f"outer_lr = {outer_lr}, weight_decay = {weight_decay}: the first must be > 0, both >= 0")
    learned = [p for p in parameters if p.requires_grad]
    if not learned:
        raise ConfigError("nothing to train: neither learner nor backbone has weights that are learned")
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    on_gpu = any(p.is_cuda for p in learned)
    rate: Any = torch.tensor(outer_lr, device=learned[0].device) if on_gpu else outer_lr
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=rate, fused=True, capturable=on_gpu),
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, fused=True, capturable=on_gpu),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=_MOMENTUM, nesterov=True, fused=True),
    }
    if optimizer not in makers:
        raise ConfigError(f"optimizer = {optimizer!r}: {did_you_mean(optimizer, makers)}")
    return makers[optimizer]()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take the next steps at this rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Move the parameters by their gradients, however these lie in memory.

    Fused optimisers go through memory from one end to the other: on a CPU a gradient that does not lie as its parameter
    does would be taken for another (torch 2.13).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
    optimizer.step()
