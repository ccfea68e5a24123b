"""Running averages of tasks that adapt together: what they would be if one task had come after the other.

Symbols: B tasks, R rows of averages (one for each inner step, or one), C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autometa.learning.normalization import Norm
from autometa.learning.ops.statistics import MOMENTUM

_NAMES = ("running_mean", "running_var")


@contextmanager
def averages_by_task(backbone: nn.Module, tasks: int) -> Iterator[None]:
    """Have each of several tasks that pass through a backbone in training move averages [B, R, C] of its own.

    A pass moves an average a to (1 - m) a + m s. Whatever a task's passes do in turn, k of them make of it
    (1 - m)^k a + c, and c is what they make of zero: so each begins with zero, and in the end the tasks are put one
    after the other.
    """
    norms = _with_averages(backbone) if backbone.training and tasks > 1 else []
    if not norms:
        yield
        return
    passes: Counter[int] = Counter()  # by the inner step they belong to
    handle = backbone.register_forward_pre_hook(lambda _, arguments: _count(passes, arguments))
    before = [[getattr(norm, name) for name in _NAMES] for norm in norms]
    for norm, averages in zip(norms, before, strict=True):
        _set(norm, [average.new_zeros(tasks, *average.shape) for average in averages])
    try:
        yield
    finally:
        handle.remove()
        made = [[getattr(norm, name) for name in _NAMES] for norm in norms]
        for norm, averages in zip(norms, before, strict=True):
            _set(norm, averages)
    for norm, averages, of_tasks in zip(norms, before, made, strict=True):
        for average, of_each in zip(averages, of_tasks, strict=True):
            _follow(average, of_each, _by_row(norm, passes))


@contextmanager
def averages_left_alone(backbone: nn.Module) -> Iterator[None]:
    """Passes through a backbone inside move its running averages no more than if they had not been."""
    before = [(norm, [getattr(norm, name) for name in _NAMES]) for norm in _with_averages(backbone)]
    for norm, averages in before:  # copies, since what is written back would have changed for autograd
        _set(norm, [average.clone() for average in averages])
    try:
        yield
    finally:
        for norm, averages in before:
            _set(norm, averages)


def averages_of(backbone: nn.Module) -> dict[str, Tensor]:
    """The averages [B, R, C] that tasks have of their own inside `averages_by_task`, by name; else none."""
    found: dict[str, Tensor] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, Norm) and module.running_mean.ndim == 3:
            found |= {f"{name}.{average}": getattr(module, average) for average in _NAMES}
    return found


@torch.no_grad()
def _follow(average: Tensor, of_tasks: Tensor, passes: Counter[int]) -> None:
    """Move averages [R, C] by what each task made of zero, [B, R, C], in so many passes by row."""
    count = len(of_tasks)
    later = torch.arange(count - 1, -1, -1, dtype=average.dtype, device=average.device)  # tasks that follow a task
    for row, times in passes.items():
        stays = (1 - MOMENTUM) ** times
        average[row].mul_(stays**count).add_(((stays**later)[:, None] * of_tasks[:, row]).sum(0))


def _by_row(norm: Norm, passes: Counter[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for step, times in passes.items():
        found[norm.row_of(step)] += times
    return found


def _set(norm: Norm, averages: Sequence[Tensor]) -> None:
    for name, average in zip(_NAMES, averages, strict=True):
        setattr(norm, name, average)


def _count(passes: Counter[int], arguments: tuple[Any, ...]) -> None:
    _, layout = arguments
    passes[layout.step] += 1


def _with_averages(backbone: nn.Module) -> list[Norm]:
    return [m for m in backbone.modules() if isinstance(m, Norm) and len(m.running_mean)]
