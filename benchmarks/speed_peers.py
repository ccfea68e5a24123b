"""What the speed benchmark compares with: the plain per-task loop, `higher` and easyfsl, as their users write them.

All share one network, the four blocks of convolution, batch norm, ReLU and pooling of the papers, and work on the
same episodes. It does not know how anything is timed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch

Step = Callable[[EpisodeBatch], Any]
INNER_LR = 0.01
# The same few episodes come again and again: learned by heart, their gradients would be too small to be timed fairly.
OUTER_LR = 1e-8


class Conv4(nn.Module):
    """As in the papers; a head of zeros for MAML, none for metric learners (way 0)."""

    def __init__(self, channels: int, side: int, width: int, way: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs in (channels, width, width, width):
            norm = nn.BatchNorm2d(width, track_running_stats=not way)
            blocks += [nn.Conv2d(inputs, width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
        self.backbone = nn.Sequential(*blocks, nn.Flatten())
        features = width * (side // 16) ** 2
        self.head = nn.Linear(features, way) if way else nn.Identity()
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.backbone(images))
        return found


def plain_maml(net: Conv4, steps: int) -> Step:
    """learn2learn's algorithm: each task adapts a differentiable copy, then has its own backward pass."""

    def step(episodes: EpisodeBatch) -> None:
        net.zero_grad(set_to_none=True)
        for index in range(episodes.batch):
            task = episodes.episode(index)
            weights = dict(net.named_parameters())
            for _ in range(steps):
                loss = F.cross_entropy(functional_call(net, weights, (task.support_x[0],)), task.support_y[0])
                found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
                weights = {name: w - INNER_LR * g for (name, w), g in zip(weights.items(), found, strict=True)}
            loss = F.cross_entropy(functional_call(net, weights, (task.query_x[0],)), task.query_y[0])
            (loss / episodes.batch).backward()

    return step


def higher_maml(net: Conv4, steps: int) -> Step:
    """`higher` 0.2.1 (Grefenstette et al. 2019), as in its MAML example."""
    import higher

    inner = torch.optim.SGD(net.parameters(), lr=INNER_LR)

    def step(episodes: EpisodeBatch) -> None:
        net.zero_grad(set_to_none=True)
        for index in range(episodes.batch):
            task = episodes.episode(index)
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (copy, optimizer):
                for _ in range(steps):
                    optimizer.step(F.cross_entropy(copy(task.support_x[0]), task.support_y[0]))
                (F.cross_entropy(copy(task.query_x[0]), task.query_y[0]) / episodes.batch).backward()

    return step


def easyfsl_training(net: Conv4) -> Step:
    """easyfsl's episodic training: one episode, one step of the optimiser."""
    method = _easyfsl(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=OUTER_LR)

    def step(episodes: EpisodeBatch) -> None:
        for index in range(episodes.batch):
            task = episodes.episode(index)
            optimizer.zero_grad()
            method.process_support_set(task.support_x[0], task.support_y[0])
            F.cross_entropy(method(task.query_x[0]), task.query_y[0]).backward()
            optimizer.step()

    return step


def easyfsl_evaluation(net: Conv4) -> Step:
    """easyfsl's `evaluate`: episode by episode without gradients."""
    method = _easyfsl(net).eval()

    @torch.no_grad()
    def step(episodes: EpisodeBatch) -> None:
        for index in range(episodes.batch):
            task = episodes.episode(index)
            method.process_support_set(task.support_x[0], task.support_y[0])
            right = (method(task.query_x[0]).argmax(1) == task.query_y[0]).sum().item()
            assert right >= 0

    return step


def _easyfsl(net: Conv4) -> nn.Module:
    """Its methods come in one package with a ResNet that needs torchvision; nothing here uses that."""
    stand_ins = {n: _Anything(n) for n in ("torchvision", "torchvision.models", "torchvision.models.resnet")}
    sys.modules.update(stand_ins)
    from easyfsl.methods import PrototypicalNetworks

    for name in stand_ins:
        del sys.modules[name]
    method: nn.Module = PrototypicalNetworks(net)
    return method


class _Anything(types.ModuleType):
    """A module of which every name can be imported, and nothing used."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return object
