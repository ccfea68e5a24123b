"""MAML: an initialisation from which a few gradient steps on the support set solve a task."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.checkpointing import checkpointed
from autometa.learning.inner_loop import HEAD, TaskLearner, Weights, gradients
from autometa.learning.learner import Setting, query_loss
from autometa.learning.normalization import Norm


class Maml(TaskLearner):
    """Finn, Abbeel & Levine 2017, Model-agnostic meta-learning; options of MAML++ (Antoniou et al. 2019).

    With one inner step this is ANIL, since the first step moves the head alone (see `inner_loop`).

    Args:
        inner_lr: step size of the inner loop.
        inner_steps: inner gradient steps, in training and in evaluation, 1 to 64.
        first_order: leave out second derivatives (FOMAML).
        learned_rates: learn one inner rate for each weight tensor, starting from `inner_lr`.
        rates_per_step: learn them for each inner step as well; only with `learned_rates`.
        multi_step_loss: in this first part of training, in [0, 1], the query loss counts after every inner step,
            equally at first, at its end only after the last. MAML++ takes 0.15, 15 of 100 epochs.
        first_order_share: the first part of training, in [0, 1], that does without second derivatives. MAML++ takes
            0.5.
        per_step_norm: give each inner step, and the weights after the last, a scale and shift of its own in every
            norm; they are learned, but not adapted to a task. With norm = "per_step" that is the batch norm of MAML++.
        checkpoint_inner_steps: recompute each inner step in the backward pass instead of keeping it: memory is about
            that of one step, and a training step takes longer.
    """

    adapts_together = True

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        learned_rates: bool = False,
        rates_per_step: bool = False,
        multi_step_loss: float = 0.0,
        first_order_share: float = 0.0,
        per_step_norm: bool = False,
        checkpoint_inner_steps: bool = False,
    ) -> None:
        super().__init__(backbone, setting)
        if inner_lr <= 0:
            raise ConfigError(f"maml.inner_lr = {inner_lr}: it must be positive")
        if not 1 <= inner_steps <= 64:
            raise ConfigError(f"maml.inner_steps = {inner_steps}: it may be 1 … 64")
        if rates_per_step and not learned_rates:
            raise ConfigError("maml.rates_per_step = true: only with maml.learned_rates = true")
        for option, share in (("multi_step_loss", multi_step_loss), ("first_order_share", first_order_share)):
            if not 0 <= share <= 1:
                raise ConfigError(f"maml.{option} = {share}: it is a part of training, in [0, 1]")
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.multi_step_loss = multi_step_loss
        self.first_order_share = first_order_share
        self.checkpoint_inner_steps = checkpoint_inner_steps
        self.norms = NormsOfSteps(backbone, inner_steps) if per_step_norm else None
        kept = len(self.norms.shapes) if self.norms else 0
        tensors = len(list(backbone.parameters())) - kept + len(HEAD)
        # One vector, since the outer optimiser's weight decay spares vectors only: (steps or 1) · tensors, head last.
        count = tensors * (inner_steps if rates_per_step else 1)
        self.rates = nn.Parameter(torch.full((count,), float(inner_lr)), requires_grad=learned_rates)
        self.rates_per_step = rates_per_step
        self.register_load_state_dict_pre_hook(_without_count)

    @property
    def steps(self) -> int:
        return self.inner_steps

    @property
    def phases(self) -> Sequence[float]:
        ends = {self.multi_step_loss, 0.0 if self.first_order else self.first_order_share}
        return sorted(end for end in ends if 0 < end < 1)

    def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        create_graph = not (self.first_order or self.warms_up())
        shares = self.loss_shares()
        total = tasks.query_x.new_zeros(())
        for step, weights in enumerate(self.trajectory(tasks, create_graph=create_graph)):
            if shares[step]:
                scores = self.query_scores(weights, tasks, step + 1)
                loss, metrics = query_loss(scores, tasks, self.setting.label_smoothing)
                total = total + shares[step] * loss
        return total, metrics

    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        weights = self.initial_weights(tasks.way)
        for step in range(self.inner_steps):
            weights = weights | self.norm_of_step(step)
            make = functools.partial(self.inner_step, tasks, step)
            if create_graph and self.checkpoint_inner_steps:
                weights = weights | checkpointed(make, weights, self.rates, self.backbone)
            else:
                weights = weights | make(weights, self.rates, create_graph)
            yield weights | self.norm_of_step(step + 1)

    def norm_of_step(self, step: int) -> Weights:
        """Scale and shift of every norm for weights that have taken `step` inner steps; none where they are adapted."""
        return self.norms.of_step(step) if self.norms else {}

    def inner_step(
        self, tasks: EpisodeBatch, step: int, weights: Weights, rates: Tensor, create_graph: bool
    ) -> Weights:
        """The weights that inner step `step` moves, after it."""
        kept = self.norms.shapes if self.norms else {}
        names = list(HEAD) if step == 0 else [name for name in weights if name not in kept]
        weights = self.renewed(weights, names, tasks.batch)
        loss = self.support_loss(weights, tasks, step)
        found = gradients(loss, weights, names, create_graph=create_graph)
        of_step = self.rates_of_step(rates, step)[-len(names) :]
        return {name: weights[name] - rate * found[name] for name, rate in zip(names, of_step, strict=True)}

    def rates_of_step(self, rates: Tensor, step: int) -> Tensor:
        """The inner rates [weight tensors] of this inner step, of all there are, the head's last."""
        return rates.unflatten(0, (self.inner_steps, -1))[step] if self.rates_per_step else rates

    def warms_up(self) -> bool:
        """Whether this outer step is one of the first, without second derivatives."""
        return self.progress < self.first_order_share

    def loss_shares(self) -> list[float]:
        """What the query loss after each inner step counts for in this outer step; they sum to one."""
        done = min(1.0, self.progress / self.multi_step_loss) if self.multi_step_loss else 1.0
        early = (1 - done) / self.inner_steps
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]


def _without_count(learner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Earlier checkpoints hold a count of outer steps, by which training knew how far it was."""
    state.pop(f"{prefix}outer_steps", None)


class NormsOfSteps(nn.Module):
    """Scale and shift of a backbone's norms for each number of inner steps taken (Antoniou et al. 2019, BNWB).

    They take the place of the backbone's own, which are no longer learned.

    Attributes:
        shapes: of each scale and shift, by the name that it has among the weights of a task.

    Raises:
        ConfigError: the backbone has no norm.
    """

    def __init__(self, backbone: Backbone, steps: int) -> None:
        super().__init__()
        norms = {name: module for name, module in backbone.named_modules() if isinstance(module, Norm)}
        if not norms:
            raise ConfigError("maml.per_step_norm = true: only with a backbone that has norms")
        own = {f"backbone.{name}.{part}": p for name, norm in norms.items() for part, p in norm.named_parameters()}
        self.shapes = {name: parameter.shape for name, parameter in own.items()}
        # One vector, since the outer optimiser's weight decay spares vectors only: (steps + 1) · scales and shifts.
        of_one_step = torch.cat([parameter.detach().flatten() for parameter in own.values()])
        self.values = nn.Parameter(of_one_step.repeat(steps + 1))
        self.steps = steps
        for parameter in own.values():
            parameter.requires_grad_(False)

    def of_step(self, step: int) -> Weights:
        """Those for weights that have taken `step` inner steps, by name."""
        row = self.values.unflatten(0, (self.steps + 1, -1))[step]
        parts = row.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
