"""The interface every learner implements. A learner does not know that it is being searched.

Symbols: B episodes in a batch, N way, K shot, Q query images a class; C, H, W of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch


class TrainingSource(Protocol):
    """Where a learner gets its training data: drawn from the train classes, augmented, on the device."""

    def episodes(self) -> EpisodeBatch:
        """The next batch of B training episodes."""
        ...

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` images [count, C, H, W] of any train classes, and their class indices [count]."""
        ...


@dataclass(frozen=True)
class Setting:
    """What a learner must know of its task before it sees an image."""

    way: int  # classes in an evaluation episode
    train_classes: int  # classes of the train split


class Learner(nn.Module, ABC):
    """A few-shot learner: a backbone and a way to adapt it to a task.

    A subclass takes `(backbone, setting, *, options...)`; its keyword-only arguments are the options a
    search may set. In inductive mode nothing of the query set influences the prediction for another
    query image.
    """

    transductive: bool = False

    @abstractmethod
    def loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The meta-training loss, a scalar averaged over B, and detached scalars worth watching."""

    @abstractmethod
    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        """Adapt to each support set and score its query images: [B, N·Q, N], without gradient."""

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        """Leave the gradient of one outer step in every parameter's `.grad`; returns detached metrics.

        The training loop zeroes gradients before, and clips and applies them after. What does not fit
        `loss` of one batch of episodes (batches of images, Reptile, a loop that saves memory) overrides
        this one method.
        """
        loss, metrics = self.loss(source.episodes())
        loss.backward()
        return {"loss": loss.detach(), **metrics}

    def describe(self) -> dict[str, Any]:
        """Facts for a report; a learner may add its own."""
        return {"parameters": sum(p.numel() for p in self.parameters())}
