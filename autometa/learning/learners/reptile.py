"""Reptile: move the initialisation towards where plain training on a task ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.inner_loop import TaskLearner, Weights, gradients
from autometa.learning.learner import Setting, TrainingSource, class_weights
from autometa.learning.normalization import Layout

_ADAM = (0.0, 0.999)  # Nichol et al. 2018, appendix: no momentum in the inner loop
Images = tuple[Tensor, Tensor]  # (M, C, H, W) and their labels (M)


class Reptile(TaskLearner):
    """Nichol, Achiam & Schulman 2018, On first-order meta-learning algorithms.

    The outer gradient is θ - θ', averaged over tasks, where θ' is what `inner_steps` on mini-batches of all of a
    training episode's images make of θ: with plain SGD of rate ε the outer step is the paper's θ + ε (θ' - θ).
    The head starts from zero in every task and is not learned, so any way can be evaluated and the first inner
    step leaves the backbone where it is (see `inner_loop`). Adam's averages start anew in every task. In
    evaluation every step takes the whole support set, so that scores are not random.

    Args:
        inner_lr: step size of the inner loop.
        inner_steps: inner steps in training, 2 to 64.
        inner_batch: images of an inner step in training, at least 2.
        inner_optimizer: "sgd", or "adam" without momentum, as in the paper, at a rate of about 1e-3. From a zero
            head and over few outer steps "adam" made features worse (digits, 3-way 5-shot, 150 steps, one
            seed: 85 % of 100 episodes' queries right before, 65 % after).
        evaluation_steps: inner steps in evaluation, 1 to 256. The paper takes 50; 10 is for small budgets.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        inner_batch: int = 10,
        inner_optimizer: str = "sgd",
        evaluation_steps: int = 10,
    ) -> None:
        super().__init__(backbone, setting)
        if inner_lr <= 0:
            raise ConfigError(f"reptile.inner_lr = {inner_lr}: it must be positive")
        if not 2 <= inner_steps <= 64:
            raise ConfigError(f"reptile.inner_steps = {inner_steps}: it may be 2 … 64; the first moves the head alone")
        if inner_batch < 2:
            raise ConfigError(f"reptile.inner_batch = {inner_batch}: it must be at least 2")
        if inner_optimizer not in ("sgd", "adam"):
            raise ConfigError(f"reptile.inner_optimizer = {inner_optimizer!r}: it may be sgd | adam")
        if not 1 <= evaluation_steps <= 256:
            raise ConfigError(f"reptile.evaluation_steps = {evaluation_steps}: it may be 1 … 256")
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.inner_batch = inner_batch
        self.inner_optimizer = inner_optimizer
        self.evaluation_steps = evaluation_steps

    @property
    def steps(self) -> int:
        return self.evaluation_steps

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        """As in every learner; loss and accuracy are those of each task's last mini-batch, before its step."""
        episodes = source.episodes()
        losses, accuracies = [], []
        for index in range(episodes.batch):
            task = episodes.episode(index)
            images, labels = (torch.cat([s[0], q[0]]) for s, q in _both_sets(task))
            batches = mini_batches(images, labels, size=self.inner_batch, count=self.inner_steps)
            *_, (adapted, loss, accuracy) = self._descent(task.way, batches, self.setting.label_smoothing)
            self._add_gradient(adapted, share=1 / episodes.batch)
            losses.append(loss)
            accuracies.append(accuracy)
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(accuracies).mean()}

    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        """As in every task learner; there are no second derivatives to keep."""
        support = (tasks.support_x[0], tasks.support_y[0])
        counts = class_weights(tasks)
        for weights, _, _ in self._descent(tasks.way, [support] * self.evaluation_steps, 0.0, counts):
            yield {name: weight.detach().clone() for name, weight in weights.items()}

    def query_scores(self, weights: Weights, tasks: EpisodeBatch, step: int | None = None) -> Tensor:
        return super().query_scores(weights, tasks, self._statistics_of(self.steps if step is None else step))

    def _descent(
        self, way: int, batches: Iterable[Images], label_smoothing: float, counts: Tensor | None = None
    ) -> Iterator[tuple[Weights, Tensor, Tensor]]:
        """The weights after each step, changed in place, with the loss and accuracy before it.

        `counts` is what an image of each class counts for, [N].
        """
        weights = {name: w.detach().clone().requires_grad_() for name, w in self.initial_weights(way).items()}
        optimizer = self._optimizer(weights)
        for step, (images, labels) in enumerate(batches):
            layout = Layout(tasks=1, support=len(images), step=self._statistics_of(step))
            scores = self.scores(weights, images, layout)
            loss = F.cross_entropy(scores, labels, counts, label_smoothing=label_smoothing)
            for name, gradient in gradients(loss, weights, list(weights), create_graph=False).items():
                weights[name].grad = gradient
            optimizer.step()
            yield weights, loss.detach(), (scores.detach().argmax(-1) == labels).float().mean()

    def _optimizer(self, weights: Weights) -> torch.optim.Optimizer:
        if self.inner_optimizer == "adam":
            return torch.optim.Adam(weights.values(), lr=self.inner_lr, betas=_ADAM)
        return torch.optim.SGD(weights.values(), lr=self.inner_lr)

    def _statistics_of(self, step: int) -> int:
        """Whose statistics an inner step uses: training has kept none of the steps after its own."""
        return min(step, self.inner_steps - 1)

    def _add_gradient(self, adapted: Weights, *, share: float) -> None:
        for name, parameter in self.backbone.named_parameters():
            way_back = share * (parameter.detach() - adapted[f"backbone.{name}"].detach())
            parameter.grad = way_back if parameter.grad is None else parameter.grad + way_back


def mini_batches(images: Tensor, labels: Tensor, *, size: int, count: int) -> Iterator[Images]:
    """`count` batches of `size` or of all images, shuffled anew when too few are left, by the global generator."""
    size = min(size, len(images))
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        if len(order) < size:
            order = torch.randperm(len(images))
        chosen, order = order[:size].to(images.device), order[size:]
        yield images[chosen], labels[chosen]


def _both_sets(task: EpisodeBatch) -> tuple[Images, Images]:
    return (task.support_x, task.query_x), (task.support_y, task.query_y)
