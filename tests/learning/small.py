"""Small parts for tests of learners: backbones without surprises, a source that repeats itself."""

from __future__ import annotations

import torch
from torch import nn

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import Setting
from autometa.learning.normalization import Layout

SETTING = Setting(way=3, train_classes=6)


class Smooth(Backbone):
    """A tiny backbone without kinks, so that finite differences are exact enough."""

    def __init__(self) -> None:
        super().__init__((2, 8, 8), (5, 1, 1), "flatten")
        self.first = nn.Linear(2 * 8 * 8, 6)
        self.second = nn.Linear(6, 5)

    def maps(self, images: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
        return self.second(self.first(images.flatten(1)).tanh())[..., None, None]


class Identity(Backbone):
    """Features are the pixels."""

    def __init__(self) -> None:
        super().__init__((2, 8, 8), (2, 8, 8), "flatten")

    def maps(self, images: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
        return images


class Fixed:
    """A training source that always gives the same batch."""

    def __init__(self, episodes: EpisodeBatch) -> None:
        self._episodes = episodes

    def episodes(self) -> EpisodeBatch:
        return self._episodes

    def images(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._episodes.support_x.flatten(0, 1)[:count]
        return x, torch.arange(len(x)) % SETTING.train_classes


def double(episodes: EpisodeBatch) -> EpisodeBatch:
    """The same episodes in float64."""
    return episodes.to("cpu", torch.float64)
