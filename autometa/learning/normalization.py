"""Normalisation with its statistics made explicit: whose images may influence whose is a matter of a mode.

A batch is described by a `Layout` handed down as an argument, so no state hangs on modules between
passes. Statistics are written out as mean and variance wherever `torch.func` may look: `torch.func.vmap`
over `F.batch_norm` gives silently wrong second-order gradients (torch 2.13).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError

MODES = ("running", "support", "per_step", "group", "none", "transductive")
_EPSILON = 1e-5
_MOMENTUM = 0.1
_MOST_STEPS = 16
_GROUP_CHANNELS = 8


@dataclass(frozen=True)
class Layout:
    """What M images are: `tasks` blocks of M / tasks, the first `support` of each its support set.

    `step` is the inner step the weights have taken, for statistics kept per step.
    """

    tasks: int
    support: int
    step: int = 0


class Norm(nn.Module):
    """Normalises feature maps [M, C, H, W], then scales and shifts each channel.

    Modes:
        running: batch statistics in training, their running averages in evaluation (Ioffe & Szegedy 2015).
        support: each task's support images give the statistics of its support and query alike.
        per_step: as running, with averages for each inner step (Antoniou et al. 2019).
        group: group norm (Wu & He 2018), each image by itself.
        none: scale and shift only.
        transductive: batch statistics also in evaluation, query set included, as MAML's reference code.
    """

    def __init__(self, channels: int, mode: str = "running") -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"norm = {mode!r}: it may be {' | '.join(MODES)}")
        self.mode = mode
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = max(1, channels // _GROUP_CHANNELS) if channels % _GROUP_CHANNELS == 0 else 1
        rows = {"running": 1, "per_step": _MOST_STEPS}.get(mode, 0)
        self.register_buffer("running_mean", torch.zeros(rows, channels))
        self.register_buffer("running_var", torch.ones(rows, channels))
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Normalise [M, C, H, W]; without a layout the images are one block that is all support."""
        if self.mode == "none":
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        if self.mode == "group":
            return F.group_norm(x, self.groups, self.weight, self.bias, _EPSILON)
        if self.mode == "support" and layout is not None:
            return self._by_support(x, layout)
        if self.mode in ("running", "per_step"):
            return self._with_averages(x, layout.step if layout else 0)
        return self._by_batch(x)

    def _with_averages(self, x: Tensor, step: int) -> Tensor:
        row = min(step, len(self.running_mean) - 1)
        if not self.training:
            mean, var = self.running_mean[row].to(x.dtype), self.running_var[row].to(x.dtype)
            scale = self.weight * torch.rsqrt(var + _EPSILON)
            return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        if not _is_transformed(x):
            # Fused, and exact outside torch.func: it updates the averages in place.
            return F.batch_norm(
                x, self.running_mean[row], self.running_var[row], self.weight, self.bias, True, _MOMENTUM, _EPSILON
            )
        return self._by_batch(x)

    def _by_batch(self, x: Tensor) -> Tensor:
        if not _is_transformed(x):
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, _EPSILON)
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        return self._normalised(x, mean[:, None, None], var[:, None, None])

    def _by_support(self, x: Tensor, layout: Layout) -> Tensor:
        blocks = x.unflatten(0, (layout.tasks, -1))  # (tasks, images, C, H, W)
        var, mean = torch.var_mean(blocks[:, : layout.support], dim=(1, 3, 4), keepdim=True, correction=0)
        return self._normalised(blocks, mean, var).flatten(0, 1)

    def _normalised(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        scale = self.weight[:, None, None] * torch.rsqrt(var + _EPSILON)
        return x * scale + (self.bias[:, None, None] - mean * scale)


def _is_transformed(x: Tensor) -> bool:
    """Whether a `torch.func` transform (vmap, grad) is at work on this tensor."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))
