"""What learners share that adapt the weights themselves, task by task: MAML and its relatives.

Symbols: B tasks, an `EpisodeBatch`; N way, M images, D features. Weights of one task have the shapes they have in
the backbone. Of several that adapt together, those that a step has moved have an axis of tasks in front, [B, ...];
`torch.vmap` runs over the scores of one task, and plain autograd differentiates the sum over tasks outside it.

The head starts from zero, so the order of class labels does not matter and any way can be evaluated. (One
learned vector for all classes, as in Ye & Chao 2022, How to train your MAML to excel, is the same thing: a softmax
does not see what its scores have in common.) From a zero head no gradient reaches the backbone, so the first inner
step moves the head alone.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.device import is_out_of_memory
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner, Setting, TrainingSource, class_weights, query_loss
from autometa.learning.normalization import Layout, Norm
from autometa.learning.task_averages import averages_by_task, averages_of

T = TypeVar("T")
Weights = dict[str, Tensor]
HEAD = ("head.weight", "head.bias")
_log = logging.getLogger(__name__)


class TaskLearner(Learner):
    """A learner that changes its weights for each task.

    On a CPU one task follows the other, each with its own backward pass: memory is that of one task, and batching
    the adapted weights is slower (docs/log.md). Elsewhere they adapt together, as many as fit the memory, since
    a small network alone does not keep a GPU busy. Gradients, scores and running averages are the same.

    Attributes:
        adapts_together: whether `trajectory` takes several tasks.
        tasks_at_once: how many of them; None leaves it to the device.
    """

    adapts_together = False
    tasks_at_once: int | None = None

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__(backbone, setting)
        self._support_gives_statistics = any(isinstance(m, Norm) and m.mode == "support" for m in backbone.modules())
        self._fitting = Fitting()

    @abstractmethod
    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        """The weights after each inner step on the support set; `create_graph` keeps second derivatives."""

    def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean query loss of adapted tasks, with its graph back to what is meta-learned."""
        weights = self.adapt(tasks, create_graph=True)
        return query_loss(self.query_scores(weights, tasks), tasks, self.setting.label_smoothing)

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        episodes = source.episodes()

        def share(tasks: EpisodeBatch) -> dict[str, Tensor]:
            """Add these tasks' part of the gradient; returns their part of the metrics."""
            with averages_by_task(self.backbone, tasks.batch):
                loss, metrics = self.task_loss(tasks)
            part = tasks.batch / episodes.batch
            (loss * part).backward()
            return {name: value * part for name, value in ({"loss": loss.detach()} | metrics).items()}

        def of_parts(most: int) -> list[dict[str, Tensor]]:
            self._forget_gradient()
            return self._fitting.of_each_part(share, episodes, most=most, anew=self._forget_gradient)

        shares = self._as_suits(of_parts, episodes)
        return {name: torch.stack([share[name] for share in shares]).sum() for name in shares[0]}

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        def of_parts(most: int) -> Tensor:
            return torch.cat([self._adapted_scores(tasks) for tasks in episodes.split(most)])

        return self._as_suits(of_parts, episodes)

    def adapt(self, tasks: EpisodeBatch, *, create_graph: bool) -> Weights:
        """The weights after all inner steps."""
        *_, weights = self.trajectory(tasks, create_graph=create_graph)
        return weights

    def scores(self, weights: Weights, images: Tensor, layout: Layout) -> Tensor:
        """Class scores [M, N] of one task's images [M, C, H, W] under these weights."""
        of_backbone = {n.removeprefix("backbone."): w for n, w in weights.items() if n not in HEAD}
        features = functional_call(self.backbone, of_backbone, (images, layout))
        return F.linear(features, *(weights[name] for name in HEAD))

    def support_loss(self, weights: Weights, tasks: EpisodeBatch, step: int) -> Tensor:
        """Cross-entropy on the support set before inner step `step`, summed over tasks.

        No task depends on another's weights, so the sum's gradient in those of a task is that of its own loss.
        """
        layout = Layout(tasks=1, support=tasks.support_x.shape[1], step=step)
        scores = self._scores_of_tasks(weights, tasks.support_x, layout)
        loss = F.cross_entropy(scores.flatten(0, 1), tasks.support_y.flatten(), class_weights(tasks))
        return loss * tasks.batch

    def query_scores(self, weights: Weights, tasks: EpisodeBatch, step: int | None = None) -> Tensor:
        """[B, N·Q, N] after `step` inner steps; where the support gives the statistics it passes along once more."""
        images, queries = tasks.query_x, tasks.query_x.shape[1]
        step = self.steps if step is None else step
        if not self._support_gives_statistics:
            return self._scores_of_tasks(weights, images, Layout(tasks=1, support=queries, step=step))
        layout = Layout(tasks=1, support=tasks.support_x.shape[1], step=step)
        return self._scores_of_tasks(weights, torch.cat([tasks.support_x, images], 1), layout)[:, -queries:]

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many inner steps there are."""

    def initial_weights(self, way: int) -> Weights:
        """The backbone's weights and a head of zeros, the head last; the same for all tasks."""
        backbone = {f"backbone.{name}": weight for name, weight in self.backbone.named_parameters()}
        like = next(self.backbone.parameters())
        weight = like.new_zeros(way, self.backbone.features, requires_grad=True)
        return {**backbone, HEAD[0]: weight, HEAD[1]: like.new_zeros(way, requires_grad=True)}

    def renewed(self, weights: Weights, moved: Iterable[str], tasks: int) -> Weights:
        """The same weights as new tensors of the graph, to begin an inner step of so many tasks with.

        A gradient in them is then partial. The first step leaves the backbone's tensors as they are while the head
        becomes a function of them: a gradient in those would count what the head owes them a second time.
        Those to be `moved` get an axis of tasks where there are several: each task needs a gradient of its own.
        """
        found = {name: weight.view_as(weight) for name, weight in weights.items()}
        if tasks > 1:
            alone = self._dimensions()
            shared = [name for name in moved if weights[name].ndim == alone[name]]
            found |= {name: weights[name].expand(tasks, *weights[name].shape) for name in shared}
        return found

    def _scores_of_tasks(self, weights: Weights, images: Tensor, layout: Layout) -> Tensor:
        """Class scores [B, M, N] of images [B, M, C, H, W], those of a task under its weights."""
        tasks = len(images)
        if tasks == 1:
            return self.scores(weights, images[0], layout)[None]
        alone = self._dimensions()
        # Shared filters stay one convolution of all images; a batch norm is one operation if its vectors are stacked.
        vectors = [name for name, weight in weights.items() if weight.ndim == alone[name] == 1]
        weights = weights | {name: weights[name].expand(tasks, -1) for name in vectors}
        at = {name: 0 if weight.ndim > alone[name] else None for name, weight in weights.items()}
        averages = averages_of(self.backbone)

        def of_one(weights: Weights, averages: Weights, images: Tensor) -> Tensor:
            return self.scores(weights | averages, images, layout)

        found: Tensor = torch.vmap(of_one, in_dims=(at, 0, 0), randomness="different")(weights, averages, images)
        return found

    def _dimensions(self) -> dict[str, int]:
        """How many axes the weights of one task have."""
        backbone = {f"backbone.{name}": weight.ndim for name, weight in self.backbone.named_parameters()}
        return backbone | dict(zip(HEAD, (2, 1), strict=True))

    def _at_once(self, episodes: EpisodeBatch) -> int:
        """How many of the episodes to adapt to together: here, and nowhere else, is the strategy chosen."""
        if not self.adapts_together:
            return 1
        on_cpu = episodes.support_x.device.type == "cpu"
        return self.tasks_at_once or (1 if on_cpu else episodes.batch)

    def _as_suits(self, of_parts: Callable[[int], T], episodes: EpisodeBatch) -> T:
        """`of_parts` of as many episodes as are adapted to together; of one, for good, where that cannot be done."""
        at_once = self._at_once(episodes)
        try:
            return of_parts(at_once)
        except RuntimeError as error:
            if at_once == 1 or is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
        found = of_parts(1)  # raises where it was not for the batching
        _log.warning("%s is adapted to one task at a time: %s", type(self.backbone).__name__, said)
        self.tasks_at_once = 1
        return found

    def _forget_gradient(self) -> None:
        self.zero_grad(set_to_none=True)

    def _adapted_scores(self, tasks: EpisodeBatch) -> Tensor:
        with torch.enable_grad():
            weights = self.adapt(tasks, create_graph=False)
        return self.query_scores({name: weight.detach() for name, weight in weights.items()}, tasks)


def gradients(loss: Tensor, weights: Weights, names: list[str], *, create_graph: bool) -> Weights:
    """The gradient of `loss` in each of the named weights."""
    found = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=create_graph)
    return dict(zip(names, found, strict=True))
