"""Normalisation with its statistics made explicit: whose images may influence whose is a matter of a mode.

A batch is described by a `Layout` handed down as an argument, so no state hangs on modules between passes. A `Norm`
says which statistics its mode takes; `ops` normalises by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autometa.errors import require_one_of
from autometa.learning.ops import table as ops
from autometa.learning.ops.statistics import Groups, Normalisation, Statistics

MODES = ("running", "support", "per_step", "group", "layer", "none", "transductive")
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
        require_one_of("norm", mode, MODES)
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
        y = ops.normalised(x, self.weight, self.bias, self._statistics(x.shape[0], layout))
        if layout is None or layout.film is None:
            return y
        scale, shift = (part[:, None, :, None, None] for part in layout.film[self])
        return torch.addcmul(shift, y.unflatten(0, (layout.tasks, -1)), scale).flatten(0, 1)

    def then_relu(self, x: Tensor, layout: Layout | None, *, pool: int = 1) -> Tensor:
        """ReLU of normalised maps and the maximum of `pool` × `pool` pixels, 1 or 2: [M, C, H // pool, W // pool]."""
        if layout and layout.film is not None:
            return ops.rectified(self(x, layout), pool)
        return ops.normalised_relu(x, self.weight, self.bias, self._statistics(x.shape[0], layout), pool)

    def relu_of(self, conv: nn.Conv2d, images: Tensor, layout: Layout | None, *, pool: int = 1) -> Tensor:
        """`then_relu` of what a convolution makes of images [M, C, H, W]."""
        if layout and layout.film is not None:
            return self.then_relu(ops.convolved(images, conv), layout, pool=pool)
        by = self._statistics(images.shape[0], layout)
        return ops.convolved_relu(images, conv, self.weight, self.bias, by, pool)

    def _statistics(self, images: int, layout: Layout | None) -> Normalisation:
        """Whose statistics this mode takes for so many images."""
        if self.mode == "none":
            return None
        if self.mode in ("group", "layer"):
            return Groups(self.groups)
        if self.mode in ("running", "per_step"):
            row = self.row_of(layout.step if layout else 0)
            averages = self.running_mean[row], self.running_var[row]
            return Statistics(1, images, averages=averages) if self.training else Statistics(1, images, given=averages)
        tasks = layout.tasks if layout else 1
        support = layout.support if layout and self.mode == "support" else images // tasks
        return Statistics(tasks, support)

    def row_of(self, step: int) -> int:
        """Which row of the averages belongs to an inner step."""
        return min(step, len(self.running_mean) - 1)
