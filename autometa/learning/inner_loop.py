"""What learners share that adapt the weights themselves, task by task: MAML and its relatives.

Symbols: N way, M images, D features. A task is an `EpisodeBatch` with B = 1. The head starts from zero, so
the order of class labels does not matter and any way can be evaluated. (One learned vector for all classes,
as in Ye & Chao 2022, How to train your MAML to excel, is the same thing: a softmax does not see what its
scores have in common.) From a zero head no gradient reaches the backbone, so the first inner step moves the
head alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import Learner, Setting, TrainingSource, query_loss
from autometa.learning.normalization import Layout, Norm

Weights = dict[str, Tensor]
HEAD = ("head.weight", "head.bias")


class TaskLearner(Learner):
    """A learner that changes its weights for each task, one task after another.

    Each task has its own backward pass: memory is that of one task, and on a CPU this is also faster than
    batching the adapted weights.
    """

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__(backbone, setting)
        self._support_gives_statistics = any(isinstance(m, Norm) and m.mode == "support" for m in backbone.modules())

    @abstractmethod
    def trajectory(self, task: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        """The weights after each inner step on the support set; `create_graph` keeps second derivatives."""

    def task_loss(self, task: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The query loss of one adapted task, with its graph back to what is meta-learned."""
        weights = self.adapt(task, create_graph=True)
        return query_loss(self.query_scores(weights, task), task, self.setting.label_smoothing)

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        episodes = source.episodes()
        losses, accuracies = [], []
        for index in range(episodes.batch):
            loss, metrics = self.task_loss(episodes.episode(index))
            (loss / episodes.batch).backward()
            losses.append(loss.detach())
            accuracies.append(metrics["accuracy"])
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(accuracies).mean()}

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        tasks = [episodes.episode(index) for index in range(episodes.batch)]
        return torch.cat([self._adapted_scores(task) for task in tasks])

    def adapt(self, task: EpisodeBatch, *, create_graph: bool) -> Weights:
        """The weights after all inner steps."""
        *_, weights = self.trajectory(task, create_graph=create_graph)
        return weights

    def scores(self, weights: Weights, images: Tensor, layout: Layout) -> Tensor:
        """Class scores [M, N] of images [M, C, H, W] under these weights."""
        of_backbone = {n.removeprefix("backbone."): w for n, w in weights.items() if n not in HEAD}
        features = functional_call(self.backbone, of_backbone, (images, layout))
        return F.linear(features, *(weights[name] for name in HEAD))

    def support_loss(self, weights: Weights, task: EpisodeBatch, step: int) -> Tensor:
        """Cross-entropy on the support set before inner step `step`."""
        support = task.support_x[0]
        layout = Layout(tasks=1, support=len(support), step=step)
        return F.cross_entropy(self.scores(weights, support, layout), task.support_y[0])

    def query_scores(self, weights: Weights, task: EpisodeBatch, step: int | None = None) -> Tensor:
        """[1, N·Q, N] after `step` inner steps; where the support gives the statistics it passes along once more."""
        support, query = task.support_x[0], task.query_x[0]
        step = self.steps if step is None else step
        if not self._support_gives_statistics:
            return self.scores(weights, query, Layout(tasks=1, support=len(query), step=step))[None]
        layout = Layout(tasks=1, support=len(support), step=step)
        return self.scores(weights, torch.cat([support, query]), layout)[None, len(support) :]

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many inner steps there are."""

    def initial_weights(self, way: int) -> Weights:
        """The backbone's weights and a head of zeros, the head last."""
        backbone = {f"backbone.{name}": weight for name, weight in self.backbone.named_parameters()}
        like = next(self.backbone.parameters())
        weight = like.new_zeros(way, self.backbone.features, requires_grad=True)
        return {**backbone, HEAD[0]: weight, HEAD[1]: like.new_zeros(way, requires_grad=True)}

    def _adapted_scores(self, task: EpisodeBatch) -> Tensor:
        with torch.enable_grad():
            weights = self.adapt(task, create_graph=False)
        return self.query_scores({name: weight.detach() for name, weight in weights.items()}, task)


def renewed(weights: Weights) -> Weights:
    """The same weights as new tensors of the graph, to begin an inner step with.

    A gradient in them is then partial. The first step leaves the backbone's tensors as they are while the head
    becomes a function of them: a gradient in those would count what the head owes them a second time.
    """
    return {name: weight.view_as(weight) for name, weight in weights.items()}


def gradients(loss: Tensor, weights: Weights, names: list[str], *, create_graph: bool) -> Weights:
    """The gradient of `loss` in each of the named weights."""
    found = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=create_graph)
    return dict(zip(names, found, strict=True))
