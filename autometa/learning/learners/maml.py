"""MAML: an initialisation from which a few gradient steps on the support set solve a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.learner import Learner, Setting, TrainingSource, query_loss
from autometa.learning.normalization import Layout, Norm

Weights = dict[str, Tensor]


class Maml(Learner):
    """Finn, Abbeel & Levine 2017, Model-agnostic meta-learning.

    The head starts from zero, so the order of class labels does not matter and any way can be evaluated.
    (One learned vector for all classes, as in Ye & Chao 2022, How to train your MAML to excel, is the same
    thing: a softmax does not see what its scores have in common.) From a zero head no gradient reaches the
    backbone, so the first inner step moves the head alone, and with one step this is ANIL. Tasks are taken
    one by one, each with its own backward pass: memory is that of one task, and on a CPU this is also
    faster than batching the adapted weights.

    Args:
        inner_rate: step size of the inner loop.
        inner_steps: inner gradient steps, in training and in evaluation, 1 to 64.
        first_order: leave out second derivatives (FOMAML).
        learned_rates: learn one inner rate for each weight tensor, starting from `inner_rate`
            (Antoniou et al. 2019).
    """

    def __init__(
        self,
        backbone: nn.Module,
        setting: Setting,
        *,
        inner_rate: float = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        learned_rates: bool = False,
    ) -> None:
        super().__init__()
        if inner_rate <= 0:
            raise ConfigError(f"maml.inner_rate = {inner_rate}: it must be positive")
        if not 1 <= inner_steps <= 64:
            raise ConfigError(f"maml.inner_steps = {inner_steps}: it may be 1 … 64")
        self.backbone = backbone
        self.inner_steps = inner_steps
        self.first_order = first_order
        rates = torch.full((len(list(backbone.parameters())) + 2,), float(inner_rate))
        self.rates = nn.Parameter(rates, requires_grad=learned_rates)  # one a weight tensor, head last
        self._support_in_query_pass = any(isinstance(m, Norm) and m.mode == "support" for m in backbone.modules())

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        episodes = source.episodes()
        losses, accuracies = [], []
        for index in range(episodes.batch):
            task = episodes.episode(index)
            loss, metrics = self.task_loss(task)
            (loss / episodes.batch).backward()
            losses.append(loss.detach())
            accuracies.append(metrics["accuracy"])
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(accuracies).mean()}

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        tasks = [episodes.episode(index) for index in range(episodes.batch)]
        return torch.cat([self._logits_without_graph(task) for task in tasks])

    def task_loss(self, task: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The query loss of one adapted task, with its graph back to the initialisation."""
        weights = self.adapt(task, create_graph=not self.first_order)
        return query_loss(self._query_scores(weights, task), task)

    def adapt(self, task: EpisodeBatch, *, create_graph: bool) -> Weights:
        """Weights after the inner steps on the support set (B = 1)."""
        weights = self._initial(task.way)
        support = task.support_x[0]
        for step in range(self.inner_steps):
            layout = Layout(tasks=1, support=len(support), step=step)
            loss = F.cross_entropy(self._scores(weights, support, layout), task.support_y[0])
            weights = weights | self._stepped(weights, loss, create_graph=create_graph, head_only=step == 0)
        return weights

    def _stepped(self, weights: Weights, loss: Tensor, *, create_graph: bool, head_only: bool) -> Weights:
        """What one gradient step on `loss` makes of all weights, or of the head's."""
        names = list(weights)[-2:] if head_only else list(weights)
        gradients = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=create_graph)
        steps = zip(names, self.rates[-len(names) :], gradients, strict=True)
        return {name: weights[name] - rate * gradient for name, rate, gradient in steps}

    def _logits_without_graph(self, task: EpisodeBatch) -> Tensor:
        with torch.enable_grad():
            weights = self.adapt(task, create_graph=False)
        with torch.no_grad():
            return self._query_scores(weights, task)

    def _initial(self, way: int) -> Weights:
        backbone = {f"backbone.{name}": weight for name, weight in self.backbone.named_parameters()}
        features: int = self.backbone.features  # type: ignore[assignment]
        weight = self.rates.new_zeros(way, features, requires_grad=True)
        return {**backbone, "head.weight": weight, "head.bias": self.rates.new_zeros(way, requires_grad=True)}

    def _query_scores(self, weights: Weights, task: EpisodeBatch) -> Tensor:
        """[1, N·Q, N]; where the support set gives the statistics it passes through once more."""
        support, query = task.support_x[0], task.query_x[0]
        if not self._support_in_query_pass:
            layout = Layout(tasks=1, support=len(query), step=self.inner_steps)
            return self._scores(weights, query, layout)[None]
        layout = Layout(tasks=1, support=len(support), step=self.inner_steps)
        return self._scores(weights, torch.cat([support, query]), layout)[None, len(support) :]

    def _scores(self, weights: Weights, images: Tensor, layout: Layout) -> Tensor:
        """Class scores [M, N] of images [M, C, H, W] under adapted weights."""
        of_backbone = {n.removeprefix("backbone."): w for n, w in weights.items() if n.startswith("backbone.")}
        features = functional_call(self.backbone, of_backbone, (images, layout))
        return F.linear(features, weights["head.weight"], weights["head.bias"])
