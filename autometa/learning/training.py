"""Meta-training of one candidate, rung by rung, resumable between steps.

It reads flat, in the order in which a step happens. It does not know which learner it trains, where
episodes come from, or who asked for it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
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
    outer_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 10.0
    bfloat16: bool = False


def optimizer_for(options: TrainingOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser these options describe; raises `ConfigError` where one of them is not possible."""
    if options.schedule not in SCHEDULES:
        raise ConfigError(f"schedule = {options.schedule!r}: {did_you_mean(options.schedule, SCHEDULES)}")
    if not options.clip_norm > 0:
        raise ConfigError(f"clip_norm = {options.clip_norm}: it must be positive")
    return make_optimizer(
        parameters,
        optimizer=options.optimizer,
        outer_rate=options.outer_rate,
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
        curve: a report for each rung so far.
        steps, seconds: outer steps taken, and time spent in them, over all resumes.
        last_step: the step at which the budget's steps and teraflops end, None where only seconds do. What teraflops
            pay for is counted before the first step.
        on_gpu: where the learner is.
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
        self.budget = budget
        self.validate = validate
        self.generator = generator
        self.objective = objective
        self.optimizer = optimizer_for(options, learner.parameters())
        self.curve: list[RungReport] = []
        self.steps = 0
        self.seconds = 0.0
        self.last_step = budget.steps
        self._fitting = Fitting()
        self.on_gpu = next(learner.parameters()).is_cuda

    @property
    def progress(self) -> float:
        """The part of the budget that is spent, in [0, 1]."""
        by_steps = self.steps / self.last_step if self.last_step else 0.0
        by_seconds = self.seconds / self.budget.seconds if self.budget.seconds else 0.0
        return min(1.0, max(by_steps, by_seconds))

    def rungs(self, on_step: OnStep | None = None) -> Iterator[RungReport]:
        """Train to the end of the budget; yields each rung's report when it is reached.

        Rungs are equally spaced in the budget. Where one step crosses several, the highest is reported.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        while not self.is_over:
            self._train_until(self.next_rung, on_step)
            yield self.report()

    @property
    def is_over(self) -> bool:
        """Whether the last rung is reported."""
        return bool(self.curve) and self.curve[-1].rung >= self.budget.rungs

    @property
    def next_rung(self) -> float:
        """The progress at which the next rung is."""
        return ((self.curve[-1].rung if self.curve else 0) + 1) / self.budget.rungs

    def report(self) -> RungReport:
        """Validate where training stands, and add it to the curve."""
        rungs = self.budget.rungs
        rung = min(rungs, math.floor(self.progress * rungs + 1e-9))
        report = RungReport(
            rung=rung,
            accuracy=self.validate(self, rung),
            steps=self.steps,
            seconds=round(self.seconds, 3),
        )
        self.curve.append(report)
        return report

    @property
    def rate(self) -> float:
        """The outer rate of the next step."""
        return self.options.outer_rate * rate_factor(self.options.schedule, self.progress)

    def _train_until(self, progress: float, on_step: OnStep | None) -> None:
        self.learner.train()
        if self.steps == 0:
            self.last_step = self.end()
        started, before = time.perf_counter(), self.seconds
        while self.progress < progress - 1e-9:
            metrics = self._step()
            self.seconds = before + time.perf_counter() - started
            if on_step:
                on_step(self.steps, self.progress, metrics)
        if self.on_gpu:
            self.check_finite(metrics)  # a rung is never reached with weights that are not finite
            self.seconds = before + time.perf_counter() - started

    def _step(self) -> dict[str, Tensor]:
        set_rate(self.optimizer, self.rate)
        self.learner.progress = self.progress
        metrics = self._gradient()
        self.steps += 1
        if self.must_check:
            self.check_finite(metrics)
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
        if self.budget.teraflops is None:
            return self.budget.steps
        steps = max(self.budget.rungs, affordable_steps(self.phases(), self.budget.teraflops * 1e12))
        return min(steps, self.budget.steps or steps)

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

    @property
    def must_check(self) -> bool:
        """Whether the step just taken is one after which to look whether it was finite."""
        return not self.on_gpu or self.steps % _STEPS_BETWEEN_CHECKS_ON_GPU == 0

    def check_finite(self, metrics: dict[str, Tensor]) -> None:
        """Raise `DivergedError` where the loss or the length of its gradient is not finite."""
        loss, norm = float(metrics["loss"]), float(metrics["gradient_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(f"loss is {loss:g} and its gradient's norm {norm:g} at step {self.steps}")
