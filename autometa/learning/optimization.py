"""Optimisers and learning-rate schedules of the outer loop, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from autometa.errors import ConfigError, did_you_mean

_MOMENTUM = 0.9
_FLOOR = 0.01  # a cosine ends at 1 % of the rate, about MAML++'s 1e-3 to 1e-5

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * progress)) / 2,
    # Tian et al. 2020 divide by ten at 60 % and 80 % of the epochs.
    "step": lambda progress: 1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01,
}


def rate_factor(schedule: str, progress: float) -> float:
    """What the outer rate is multiplied by when `progress` in [0, 1] of the budget is spent."""
    return SCHEDULES[schedule](progress)


def make_optimizer(
    parameters: Iterable[nn.Parameter], *, optimizer: str, outer_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser of that name. Weights decay; biases, scales and learned rates do not.

    Raises:
        ConfigError: an unknown name, or a rate or decay out of range.
    """
    if outer_rate <= 0 or weight_decay < 0:
        raise ConfigError(f"outer_rate = {outer_rate}, weight_decay = {weight_decay}: the first must be > 0, both >= 0")
    learned = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(groups, lr=outer_rate),
        "adamw": lambda: torch.optim.AdamW(groups, lr=outer_rate),
        "sgd": lambda: torch.optim.SGD(groups, lr=outer_rate, momentum=_MOMENTUM, nesterov=True),
    }
    if optimizer not in makers:
        raise ConfigError(f"optimizer = {optimizer!r}: {did_you_mean(optimizer, makers)}")
    return makers[optimizer]()
