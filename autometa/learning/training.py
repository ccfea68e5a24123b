"""Meta-training of one candidate, rung by rung, resumable between steps.

It reads flat, in the order in which a step happens. It does not know which learner it trains, where
episodes come from, or who asked for it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autometa.errors import ConfigError, DivergedError, did_you_mean
from autometa.learning.averaging import AveragedWeights
from autometa.learning.device import random_states, replayed
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner, TrainingSource, each_image_once
from autometa.learning.objective import Objective
from autometa.learning.open_ended import COOL_DOWN, WARMUP, WINDOW
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
    a GPU instead of TF32: gradients of ResNet-12 turn by some 17 degrees. The rate rises linearly over the
    first `warmup` outer steps. With `averaging` (a window, see `AveragedWeights`) the model that is measured and kept
    has averaged weights; with 0 it has the latest.
    """

    optimizer: str = "adam"
    outer_lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    clip_norm: float = 10.0
    bfloat16: bool = False
    warmup: int = 0
    averaging: float = 0.0

    def rate(self, annealed: float, steps: int) -> float:
        """The outer rate where `annealed` in [0, 1] of the schedule is behind it, so many steps after it began."""
        warm = min(1.0, (steps + 1) / (self.warmup + 1))
        return self.outer_lr * warm * rate_factor(self.schedule, annealed)

    @property
    def open_ended(self) -> TrainingOptions:
        """The same for training without an end: a constant rate, averaged weights, and a cool-down if one is asked."""
        return replace(self, schedule="cool_down", warmup=self.warmup or WARMUP, averaging=self.averaging or WINDOW)


def optimizer_for(options: TrainingOptions, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser these options describe; raises `ConfigError` where one of them is not possible."""
    if options.schedule not in SCHEDULES:
        raise ConfigError(f"schedule = {options.schedule!r}: {did_you_mean(options.schedule, SCHEDULES)}")
    if not options.clip_norm > 0:
        raise ConfigError(f"clip_norm = {options.clip_norm}: it must be positive")
    if options.warmup < 0 or options.averaging < 0:
        raise ConfigError(f"warmup = {options.warmup}, averaging = {options.averaging}: both must be at least 0")
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
        first_sight: where a learner takes from what it does not train; `source` by default.
        objective: takes the learner's outer steps in its place, with something added.
        uncounted: seconds so far of what neither training nor validation costs.

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
        first_sight: TrainingSource | None = None,
        objective: Objective | None = None,
        uncounted: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.learner = learner
        self._uncounted = uncounted
        learner.backbone.trains_in_bfloat16 = options.bfloat16
        self.source = source
        self.first_sight = first_sight or source
        self.options = options.open_ended if budget.open else options
        self.validate = validate
        self.generator = generator
        self.objective = objective
        self.optimizer = optimizer_for(self.options, learner.parameters())
        self.state = TrainingState(budget, last_step=budget.steps if learner.is_trained else 0)
        self.average = AveragedWeights(learner, self.options.averaging) if self.options.averaging else None
        self._fitting = Fitting()
        self._on_gpu = next(learner.parameters()).is_cuda

    def rungs(self, on_step: OnStep | None = None, *, until: int | None = None) -> Iterator[RungReport]:
        """Train to the end of the budget, or to the rung `until`; yields each rung's report when it is reached.

        An open budget has no end before a cool-down: whoever iterates stops, or gives `until`.

        Raises:
            DivergedError: the loss or its gradient is not finite.
        """
        while not self.is_over and (until is None or self.rung < until):
            self.train(on_step)
            yield self.report()

    def train(self, on_step: OnStep | None = None, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the next rung; returns whether it is reached, or `stop` said to stop before."""
        self._train_to_next_rung(on_step, stop)
        return self.state.is_at_rung

    def cool_down(self, part: float = COOL_DOWN / (1 - COOL_DOWN)) -> None:
        """Let the rate fall to zero from here, over this part of what an open budget has spent so far.

        The next rung is the end of it. By default it is the last fifth of training.
        """
        spent = self.state.spent
        self.state.cooling = (spent, spent * (1 + part))

    def end_cool_down(self) -> None:
        """Call the cool-down over where training stands, since its time is."""
        if self.state.cooling:
            start, end = self.state.cooling
            self.state.cooling = (start, min(end, self.state.spent))

    @property
    def model(self) -> Learner:
        """What is measured and kept: the learner with averaged weights where they are averaged."""
        return self.average.learner if self.average and self.average.steps else self.learner

    @property
    def rate(self) -> float:
        """The outer rate of the next step."""
        return self.options.rate(self.state.annealed, self.state.steps - self.state.warms_from)

    @property
    def rung(self) -> int:
        """The last one that was reported; 0 for none."""
        return self.curve[-1].rung if self.curve else 0

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
        started = self._clock()
        with each_image_once(self.model) as memories:
            accuracy = self.validate(self, rung)
        report = RungReport(
            rung=rung,
            accuracy=accuracy,
            steps=state.steps,
            seconds=round(state.seconds, 3),
            validation_seconds=round(max(0.0, self._clock() - started), 3),
            pass_seconds=round(sum(memory.seconds for memory in memories), 3),
            cooled=state.is_cooled,
        )
        state.curve.append(report)
        return report

    def _train_to_next_rung(self, on_step: OnStep | None, stop: Callable[[], bool]) -> None:
        self.learner.train()
        state = self.state
        if state.steps == 0:
            if not state.curve:
                self.learner.see(self.first_sight)
            state.last_step = self.end()
        started, before = self._clock(), state.seconds
        metrics: dict[str, Tensor] = {}
        while not state.is_at_rung and not stop():
            metrics = self._step()
            state.seconds = before + self._clock() - started
            if on_step:
                on_step(state.steps, state.progress, metrics)
        if self._on_gpu and metrics:
            check_finite(metrics, state.steps)  # a rung is never reached with weights that are not finite
            state.seconds = before + self._clock() - started

    def _clock(self) -> float:
        return time.perf_counter() - self._uncounted()

    def _step(self) -> dict[str, Tensor]:
        set_rate(self.optimizer, self.rate)
        self.learner.progress = self.state.progress
        metrics = self._gradient()
        self.state.steps += 1
        if must_check(self.state.steps, on_gpu=self._on_gpu):
            check_finite(metrics, self.state.steps)
        take_step(self.optimizer)
        if self.average:
            self.average.update(self.learner)
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
        if not self.learner.is_trained:
            return 0
        if budget.teraflops is None:
            return budget.steps
        least = 1 if budget.open else budget.rungs
        steps = max(least, affordable_steps(self.phases(), budget.teraflops * 1e12))
        return steps if budget.steps is None else min(steps, budget.steps)

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
