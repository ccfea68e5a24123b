"""Meta-training of G candidates together, in step, each as `Training` would train it alone.

Each draws its own data with its own generator, has its own rate, decay, schedule and clipping, reports at
its own rungs and may leave at any of them. On a GPU the steps of a small network are bound by the launching
of kernels, of which G candidates need hardly more than one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autometa.errors import DivergedError, StackError
from autometa.learning.learner import Learner, LossLearner
from autometa.learning.stacked.model import Stack, learned
from autometa.learning.stacked.optimizers import OPTIMIZERS, clip
from autometa.learning.stacked.sources import StackedSource
from autometa.learning.training import Training, check_finite, must_check
from autometa.learning.training_state import TrainingState
from autometa.records import RungReport

Reached = RungReport | DivergedError


class StackedTraining:
    """Candidates being trained in step.

    Whenever `rungs` yields, the trainings handed in have the state of their candidates: learner, optimiser,
    generator, curve and steps, so each can be saved, or go on alone.

    Where a budget is in seconds, each candidate's clock runs with that of all.

    Args:
        trainings: of one architecture, budget and optimiser, at the same step, with no objective of their own.

    Raises:
        StackError: they cannot be trained together.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        _check(trainings)
        self._live = dict(enumerate(trainings))
        learners, optimizers = [t.learner for t in trainings], [t.optimizer for t in trainings]
        self._stack = Stack(learners)
        self._on_gpu = self._stack.weights.is_cuda
        kind = OPTIMIZERS[trainings[0].options.optimizer]
        self._optimizer = kind(optimizers, [learned(learner) for learner in learners])

    @property
    def running(self) -> list[int]:
        """Indices of the candidates that have not ended."""
        return list(self._live)

    def stop(self, index: int) -> None:
        """Let a candidate leave where it is; the others do not notice."""
        self._drop({index})

    def rungs(self, on_step: Callable[[int, float], None] | None = None) -> Iterator[Mapping[int, Reached]]:
        """Train to the end of the budget; yields what candidates have reached, by their index.

        That is a report for each that is at its next rung, or, where some diverged on the way there, their errors.

        Raises:
            StackError: at the first step, where their pass cannot be done for many at once. What they drew is lost.
        """
        while self._live:
            diverged = self._train_to_next_rung(on_step)
            if diverged:
                yield diverged
                continue
            self._write()
            yield {index: training.report() for index, training in self._live.items()}
            self._drop({index for index, training in self._live.items() if training.is_over})

    @property
    def _first(self) -> Training:
        return next(iter(self._live.values()))

    @property
    def _states(self) -> list[TrainingState]:
        return [training.state for training in self._live.values()]

    def _train_to_next_rung(self, on_step: Callable[[int, float], None] | None) -> Mapping[int, Reached]:
        """Returns early, with their errors, where candidates diverge."""
        first = self._first.state
        if first.steps == 0:
            last_step = self._first.end()  # they are alike, so one is counted for all
            for state in self._states:
                state.last_step = last_step
        started, before = time.perf_counter(), first.seconds
        diverged: Mapping[int, Reached] = {}
        while not first.is_at_rung:
            losses, norms, diverged = self._step()
            self._set_clocks(before + time.perf_counter() - started)
            if diverged:
                return diverged
            if on_step:
                on_step(first.steps, first.progress)
        if self._on_gpu:
            diverged = self._diverged(losses, norms)  # a rung is never reached with weights that are not finite
            self._drop(set(diverged))
            self._set_clocks(before + time.perf_counter() - started)
        return diverged

    def _step(self) -> tuple[Tensor, Tensor, Mapping[int, Reached]]:
        """One outer step of all; losses and lengths of gradients [G], and the errors of those that diverged."""
        progress = self._first.state.progress
        self._stack.tell(progress)
        rates = self._for_each([training.rate for training in self._live.values()])
        losses, gradient, _ = self._stack.losses(self._draw())
        self._optimizer.spare(self._stack.idle)
        norms = clip(gradient, self._for_each([training.options.clip_norm for training in self._live.values()]))
        for state in self._states:
            state.steps += 1
        step = self._first.steps
        diverged = self._diverged(losses, norms) if must_check(step, on_gpu=self._on_gpu) else {}
        if diverged:
            rows = self._drop(set(diverged))
            gradient, rates = gradient[rows], rates[rows]
        if self._live:
            self._optimizer.step(self._stack.weights, gradient, rates, step)
        return losses, norms, diverged

    def _draw(self) -> tuple[Any, ...]:
        learner = self._first.learner
        assert isinstance(learner, LossLearner)
        return learner.draw(StackedSource([training.source for training in self._live.values()]))

    def _diverged(self, losses: Tensor, norms: Tensor) -> Mapping[int, Reached]:
        if bool((losses.isfinite() & norms.isfinite()).all()):
            return {}
        found: dict[int, Reached] = {}
        for (index, training), loss, norm in zip(self._live.items(), losses, norms, strict=True):
            try:
                check_finite({"loss": loss, "gradient_norm": norm}, training.steps)
            except DivergedError as error:
                found[index] = error
        return found

    def _drop(self, gone: set[int]) -> list[int]:
        """Go on without these candidates; returns the rows that stay."""
        rows = [row for row, index in enumerate(self._live) if index not in gone]
        if gone:
            self._stack.keep(rows)
            self._optimizer.keep(rows)
            self._live = {index: training for index, training in self._live.items() if index not in gone}
        return rows

    def _set_clocks(self, seconds: float) -> None:
        for state in self._states:
            state.seconds = seconds

    def _write(self) -> None:
        """Bring every candidate's own learner and optimiser to where its row stands."""
        for row, training in enumerate(self._live.values()):
            self._stack.write(row, training.learner)
            self._optimizer.write(row, training.optimizer, learned(training.learner), training.steps)

    def _for_each(self, values: Sequence[float]) -> Tensor:
        """One number a candidate, where the weights are."""
        tensor = torch.tensor(values, dtype=self._stack.weights.dtype)
        # From pinned memory no copy waits for the steps that are still queued.
        return tensor.pin_memory().to(self._stack.weights.device, non_blocking=True) if self._on_gpu else tensor


def _check(trainings: Sequence[Training]) -> None:
    first = trainings[0]
    if any(training.objective is not None for training in trainings):
        raise StackError("an objective with additions to the loss is trained alone")
    if not all(training.learner.is_trained for training in trainings):
        raise StackError(f"{type(first.learner).__name__} is not trained")
    if any(type(training.learner).see is not Learner.see for training in trainings):
        raise StackError(f"{type(first.learner).__name__} looks at train classes before its first step")
    for what in ("budget", "steps", "last_step"):
        if any(getattr(training.state, what) != getattr(first.state, what) for training in trainings):
            raise StackError(f"the candidates are not in step: they differ in {what}")
    if any(training.options.optimizer != first.options.optimizer for training in trainings):
        raise StackError("the candidates differ in their optimiser")
