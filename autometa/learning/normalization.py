"""Normalisation with its statistics made explicit: whose images may influence whose is a matter of a mode.

A batch is described by a `Layout` handed down as an argument, so no state hangs on modules between
passes. Statistics are written out as mean and variance wherever `torch.func` may look: `torch.func.vmap`
over `F.batch_norm` gives silently wrong second-order gradients (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.ops.block import block, is_block
from autometa.learning.ops.by_channel import are_stacked, batch_norm, group_norm, pooled
from autometa.learning.ops.norm_relu import EPSILON, Statistics, can_fuse, convolved, is_transformed, normalised_relu

MODES = ("running", "support", "per_step", "group", "layer", "none", "transductive")
MOMENTUM = 0.1
_MOST_STEPS = 16
_GROUP_CHANNELS = 8


Film = Mapping[nn.Module, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Layout:
    """What M images are: `tasks` blocks of M / tasks, the first `support` of each its support set.

    `step` is the inner step the weights have taken, for statistics kept per step. `film` scales and
    shifts what a `Norm` gives, differently for each task: (scale, shift), each [tasks, channels] (Perez et
    al. 2018).
    """

    tasks: int
    support: int
    step: int = 0
    film: Film | None = None


class Norm(nn.Module):
    """Normalises feature maps [M, C, H, W], then scales and shifts each channel.

    Modes:
        running: batch statistics in training, their running averages in evaluation (Ioffe & Szegedy 2015).
        support: each task's support images give the statistics of its support and query alike.
        per_step: as running, with averages for each inner step (Antoniou et al. 2019).
        group: group norm (Wu & He 2018), each image by itself.
        layer: all channels of an image are one group (Ba et al. 2016).
        none: scale and shift only.
        transductive: statistics of all of a task's images, query set included, in training and evaluation, as
            MAML's reference code. Tasks never share them, or a score would depend on how tasks are batched.
    """

    def __init__(self, channels: int, mode: str = "running") -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"norm = {mode!r}: it may be {' | '.join(MODES)}")
        self.mode = mode
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.channels = channels
        self.groups = channels // _GROUP_CHANNELS if mode == "group" and channels % _GROUP_CHANNELS == 0 else 1
        rows = {"running": 1, "per_step": _MOST_STEPS}.get(mode, 0)
        self.register_buffer("running_mean", torch.zeros(rows, channels))
        self.register_buffer("running_var", torch.ones(rows, channels))
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Normalise [M, C, H, W]; without a layout the images are one block that is all support."""
        y = self._by_mode(x, layout)
        if layout is None or layout.film is None:
            return y
        scale, shift = (part[:, None, :, None, None] for part in layout.film[self])
        return torch.addcmul(shift, y.unflatten(0, (layout.tasks, -1)), scale).flatten(0, 1)

    def relu_of(self, conv: nn.Conv2d, images: Tensor, layout: Layout | None, *, pool: int = 1) -> Tensor:
        """`then_relu` of what a convolution makes of images [M, C, H, W], in one pass where it can be."""
        statistics = self._statistics(images, layout)
        if statistics is None or not is_block(images, conv, pool):
            return self._rectified(convolved(images, conv), statistics, layout, pool)
        y, mean, var = block(images, conv.weight, self.weight, self.bias, statistics, pool)
        self._follow(mean, var, len(images) * images[0, 0].numel(), layout)
        return y

    def then_relu(self, x: Tensor, layout: Layout | None, *, pool: int = 1) -> Tensor:
        """ReLU of the normalised maps and the maximum of `pool` × `pool` pixels, 1 or 2: [M, C, H // pool, W // pool].

        On a CPU all in one pass where it can be; else ReLU after pooling, the same on a quarter of the numbers.
        """
        return self._rectified(x, self._statistics(x, layout), layout, pool)

    def _rectified(self, x: Tensor, statistics: Statistics | None, layout: Layout | None, pool: int) -> Tensor:
        if statistics is None or not can_fuse(x, pool):
            y = self(x, layout)
            return F.relu(pooled(y, "max") if pool > 1 else y)
        y, mean, var = normalised_relu(x, self.weight, self.bias, statistics, pool)
        self._follow(mean, var, x.numel() // self.channels, layout)
        return y

    def _statistics(self, x: Tensor, layout: Layout | None) -> Statistics | None:
        """Whose statistics this mode takes; None where it is by groups, or each task has a scale and shift."""
        if self.mode in ("group", "layer") or (layout and layout.film is not None):
            return None
        if self.mode == "none":
            # As if normalised already: the root of 1 - epsilon + epsilon divides.
            return Statistics(1, 0, x.new_zeros(self.channels), x.new_full((self.channels,), 1 - EPSILON))
        if self.mode in ("running", "per_step"):
            row = self.row_of(layout.step if layout else 0)
            given = () if self.training else (self.running_mean[row], self.running_var[row])
            return Statistics(1, len(x), *given)
        tasks = layout.tasks if layout else 1
        images = len(x) // tasks
        return Statistics(tasks, layout.support if layout and self.mode == "support" else images)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, count: int, layout: Layout | None) -> None:
        """Move the running averages towards statistics [1, C] of `count` numbers, where there are any."""
        if not self.training or self.mode not in ("running", "per_step"):
            return
        averages = self.running_mean, self.running_var
        if self.mode == "per_step":
            row = self.row_of(layout.step if layout else 0)
            averages = averages[0][row : row + 1], averages[1][row : row + 1]
        averages[0].lerp_(mean.to(averages[0]), MOMENTUM)
        averages[1].lerp_(var.to(averages[1]) * (count / max(1, count - 1)), MOMENTUM)

    def row_of(self, step: int) -> int:
        """Which row of the averages belongs to an inner step."""
        return min(step, len(self.running_mean) - 1)

    def _by_mode(self, x: Tensor, layout: Layout | None) -> Tensor:
        if self.mode == "none":
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        if self.mode in ("group", "layer"):
            return group_norm(x, self.groups, self.weight, self.bias, EPSILON)
        if self.mode in ("running", "per_step"):
            return self._with_averages(x, layout.step if layout else 0)
        tasks = layout.tasks if layout else 1
        images = len(x) // tasks
        return self._by_task(x, tasks, layout.support if layout and self.mode == "support" else images)

    def _with_averages(self, x: Tensor, step: int) -> Tensor:
        row = self.row_of(step)
        mean, var = self.running_mean[row], self.running_var[row]
        if not is_transformed(x) or are_stacked(x, self.weight, self.bias, mean, var):
            # Fused, and exact outside torch.func: in training it updates the averages in place.
            how = {"momentum": MOMENTUM, "eps": EPSILON}
            return batch_norm(x, self.weight, self.bias, mean, var, training=self.training, **how)
        if self.training:
            return self._by_task(x, 1, len(x))
        return self._normalised(x, mean[:, None, None].to(x.dtype), var[:, None, None].to(x.dtype))

    def _by_task(self, x: Tensor, tasks: int, support: int) -> Tensor:
        """By the statistics of the first `support` images of each of `tasks` blocks."""
        if tasks == 1 and support == len(x) and (not is_transformed(x) or are_stacked(x, self.weight, self.bias)):
            return batch_norm(x, self.weight, self.bias, training=True, eps=EPSILON)
        x = x.float() if x.dtype == torch.bfloat16 else x  # whose seven bits are too few for a mean
        blocks = x.unflatten(0, (tasks, -1))  # (tasks, images, C, H, W)
        chosen = blocks[:, :support]
        # Two plain means: `torch.var_mean` over these axes takes two to four times as long on a CPU.
        mean = chosen.mean((1, 3, 4), keepdim=True)
        var = (chosen - mean).square().mean((1, 3, 4), keepdim=True)
        return self._normalised(blocks, mean, var).flatten(0, 1)

    def _normalised(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        scale = self.weight[:, None, None] * torch.rsqrt(var + EPSILON)
        return torch.addcmul(self.bias[:, None, None] - mean * scale, x, scale)
