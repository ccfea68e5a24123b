"""Meta-training of one candidate, rung by rung, resumable between steps.

It reads flat, in the order in which a step happens. It does not know which learner it trains, where
episodes come from, or who asked for it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autometa.errors import ConfigError, DivergedError, did_you_mean
from autometa.learning.device import random_states, replayed
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner, TrainingSource
from autometa.learning.objective import Objective
from autometa.learning.operations import Phase, affordable_steps, operations_counter
from autometa.learning.optimization import SCHEDULES, make_optimizer, rate_factor, set_rate, take_step
from autometa.learning.training_state import TrainingState
from autometa.records import Accuracy, Budget, RungReport

Validate = Callable[["Training", int], Accuracy]
OnStep = Callable[[int, float, dict[str, Tensor]], None]

# On a GPU each check waits for all work queued so far; a divergence found 20 steps late costs nothing.
_STEPS_BETWEEN_CHECKS_ON_GPU = 20


@dataclass(frozen=True)
class TrainingOptions:
    """The outer loop's optimiser and schedule.

    `clip_norm` bounds the gradient's length. With `bfloat16` the backbone's passes in training have that precision, on
    a GPU instead of TF32: gradients of ResNet-12 turn by some 17 degrees.
    """

    optimizer: str = "adam"
    outer_lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 10.0
    bfloat16: bool = False

    def rate(self, progress: float) -> float:
        """The outer rate where `progress` in [0, 1] of the budget is spent."""
        return self.outer_lr * rate_factor(self.schedule, progress)


def optimizer_for(options: TrainingOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser these options describe; raises `ConfigError` where one of them is not possible."""
    if options.schedule not in SCHEDULES:
        raise ConfigError(f"schedule = {options.schedule!r}: {did_you_mean(options.schedule, SCHEDULES)}")
    if not options.clip_norm > 0:
        raise ConfigError(f"clip_norm = {options.clip_norm}: it must be positive")
    return make_optimizer(
        parameters,
        optimizer=options.optimizer,
        outer_lr=options.outer_lr,
        weight_decay=options.weight_decay,
    )


class Training:
    """One candidate being meta-trained.

    Args:
        learner: on its device.
        source: draws training data with `generator`, whose state is part of a checkpoint.
        budget: how long, and at how many rungs to validate.
        validate: scores the learner at a rung, 1 … rungs.
        objective: takes the learner's outer steps in its place, with something added.

    Attributes:
        state: where it stands; whoever takes outer steps in its place keeps it up to date.
        optimizer: of the learner's parameters.
    """

    def __init__(
        self,
        learner: Learner,
        source: TrainingSource,
        *,
        options: TrainingOptions,
        budget: Budget,
        validate: Validate,
        generator: torch.Generator,
        objective: Objective | None = None,
    ) -> None:
        self.learner = learner
        learner.backbone.trains_in_bfloat16 = options.bfloat16
        self.source = source
        self.options = options
        self.validate = validate
        self.generator = generator
        self.objective = objective
        self.optimizer = optimizer_for(options, learner.parameters())
        self.state = TrainingState(budget, last_step=budget.steps)
        self._fitting = Fitting()
        self._on_gpu = next(learner.parameters()).is_cuda

    def rungs(self, on_step: OnStep | None = None) -> Iterator[RungReport]:
        """Train to the end of the budget; yields each rung's report when it is reached.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        while not self.is_over:
            self._train_to_next_rung(on_step)
            yield self.report()

    @property
    def curve(self) -> list[RungReport]:
        """A report for each rung so far."""
        return self.state.curve

    @property
    def steps(self) -> int:
        """Outer steps taken, over all resumes."""
        return self.state.steps

    @property
    def is_over(self) -> bool:
        """Whether the last rung is reported."""
        return self.state.is_over

    def report(self) -> RungReport:
        """Validate where training stands, and add it to the curve."""
        state = self.state
        rung = state.rung
        accuracy = self.validate(self, rung)
        report = RungReport(rung=rung, accuracy=accuracy, steps=state.steps, seconds=round(state.seconds, 3))
        state.curve.append(report)
        return report

    def _train_to_next_rung(self, on_step: OnStep | None) -> None:
        self.learner.train()
        state = self.state
        if state.steps == 0:
            state.last_step = self.end()
        started, before = time.perf_counter(), state.seconds
        while not state.is_at_rung:
            metrics = self._step()
            state.seconds = before + time.perf_counter() - started
            if on_step:
                on_step(state.steps, state.progress, metrics)
        if self._on_gpu:
            check_finite(metrics, state.steps)  # a rung is never reached with weights that are not finite
            state.seconds = before + time.perf_counter() - started

    def _step(self) -> dict[str, Tensor]:
        progress = self.state.progress
        set_rate(self.optimizer, self.options.rate(progress))
        self.learner.progress = progress
        metrics = self._gradient()
        self.state.steps += 1
        if must_check(self.state.steps, on_gpu=self._on_gpu):
            check_finite(metrics, self.state.steps)
        take_step(self.optimizer)
        return metrics

    def _gradient(self) -> dict[str, Tensor]:
        """Leave the clipped gradient of an outer step in the parameters; returns its metrics."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics = self._outer_step(self.learner)
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.options.clip_norm)
        return metrics | {"gradient_norm": norm.detach()}

    def _outer_step(self, learner: Learner) -> dict[str, Tensor]:
        def whole(source: TrainingSource) -> dict[str, Tensor]:
            return self.objective.outer_step(learner, source) if self.objective else learner.outer_step(source)

        return self._fitting.outer_step(whole, learner, self.source)

    def end(self) -> int | None:
        """The outer step at which the budget's steps and teraflops end: the same one on every machine.

        At least as many as there are rungs, whatever they cost.
        """
        budget = self.state.budget
        if budget.teraflops is None:
            return budget.steps
        steps = max(budget.rungs, affordable_steps(self.phases(), budget.teraflops * 1e12))
        return min(steps, budget.steps or steps)

    def phases(self) -> list[Phase]:
        """The operations of an outer step in each phase of the learner's training.

        They are those of steps of a copy, from data that is drawn again afterwards: nothing that training depends on
        is changed.
        """
        learner = copy.deepcopy(self.learner)
        drawn = [*random_states(next(learner.parameters()).device), (self.generator, self.generator.get_state())]
        found = []
        for start in (0.0, *learner.phases):
            learner.progress = start
            learner.zero_grad(set_to_none=True)
            with replayed(drawn), operations_counter() as counter:
                self._outer_step(learner)
            found.append(Phase(start, counter.get_total_flops()))
        return found


def must_check(step: int, *, on_gpu: bool) -> bool:
    """Whether to look after this step whether it was finite."""
    return not on_gpu or step % _STEPS_BETWEEN_CHECKS_ON_GPU == 0


def check_finite(metrics: Mapping[str, Tensor], step: int) -> None:
    """Raise `DivergedError` where the loss of a step or the length of its gradient is not finite."""
    loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(f"loss is {loss:g} and its gradient's norm {norm:g} at step {step}")
