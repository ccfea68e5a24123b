"""Meta-SGD: MAML that also learns the step of every single weight, its direction included."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.inner_loop import HEAD, TaskLearner, Weights, gradients
from autometa.learning.learner import Setting, query_loss


class MetaSgd(TaskLearner):
    """Li et al. 2017, Meta-SGD: learning to learn quickly for few-shot learning: θ' = θ - α ∘ ∇L(θ), α learned.

    A rate may become negative. The classes share the head's rates, one for each feature and one for the biases,
    so that label order does not matter and any way can be evaluated. The paper takes one step; here the default
    is two, since from a zero head the first moves the head alone (see `inner_loop`).

    Args:
        inner_lr: what all rates start from.
        inner_steps: inner gradient steps, in training and in evaluation, 1 to 64.
        first_order: leave out second derivatives.
    """

    adapts_together = True

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 2,
        first_order: bool = False,
    ) -> None:
        super().__init__(backbone, setting)
        if inner_lr <= 0:
            raise ConfigError(f"meta_sgd.inner_lr = {inner_lr}: it must be positive")
        if not 1 <= inner_steps <= 64:
            raise ConfigError(f"meta_sgd.inner_steps = {inner_steps}: it may be 1 … 64")
        self.inner_steps = inner_steps
        self.first_order = first_order
        weights = sum(weight.numel() for weight in backbone.parameters())
        # One vector (weights + D + 1), since the outer optimiser's weight decay spares vectors only.
        self.rates = nn.Parameter(torch.full((weights + backbone.features + 1,), float(inner_lr)))

    @property
    def steps(self) -> int:
        return self.inner_steps

    def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.adapt(tasks, create_graph=not self.first_order)
        return query_loss(self.query_scores(weights, tasks), tasks, self.setting.label_smoothing)

    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        weights, rates = self.initial_weights(tasks.way), self.rates_of_weights()
        for step in range(self.inner_steps):
            names = list(HEAD) if step == 0 else list(weights)
            weights = self.renewed(weights, names, tasks.batch)
            loss = self.support_loss(weights, tasks, step)
            found = gradients(loss, weights, names, create_graph=create_graph)
            weights = weights | {name: weights[name] - rates[name] * found[name] for name in names}
            yield weights

    def rates_of_weights(self) -> Weights:
        """Rates in the shape of each of the backbone's weights; [D] for the head's rows, [1] for its biases."""
        shapes = {f"backbone.{name}": weight.shape for name, weight in self.backbone.named_parameters()}
        shapes |= {HEAD[0]: torch.Size([self.backbone.features]), HEAD[1]: torch.Size([1])}
        parts = self.rates.split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
