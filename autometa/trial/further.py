"""One training that goes on: from a model's state before its cool-down, at a constant rate, and cooled down at the end.

A model of a fixed budget has no such state. It goes on from its own weights: the learning rate rises again and stays
constant, and weights are averaged from there. Its training counts as that of a search's finalist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autometa.errors import ConfigError, DivergedError
from autometa.learning import checkpoint_files, checkpoints
from autometa.learning.checkpoint_facts import FINAL, exists, read_facts
from autometa.learning.open_ended import COOL_DOWN
from autometa.learning.training import Training
from autometa.learning.training_state import TrainingState
from autometa.records import Budget, TrialRecord
from autometa.trial.job import Further, Job
from autometa.trial.model_files import goes_on_from, job_of
from autometa.trial.run import OnRung, OnStep, begin, diverged, ended, keep, prepare, within_memory

# In the training's folder: where it stands in its cool-down. The model is in `FINAL`.
_COOLING = "cooling"
# What the training of a fixed budget counts as, in first rungs: about as many as a search's last trainings have.
_RUNGS_OF_A_WHOLE = 64
# A training is kept on disk at its rungs, and so many times beside.
_TIMES_KEPT = 10
_LEAST_SECONDS = 0.1


def further_job(model: Path, folder: Path, budget: Budget) -> Job:
    """The job of training a single model further in a folder, with an open budget in the unit of the one that it gets.

    Args:
        budget: steps or seconds, beside those that the model had.

    Raises:
        CheckpointError: there is no model. ConfigError: it is one that is not trained.
    """
    state = goes_on_from(model)
    facts, before = read_facts(state), job_of(state)
    if before.budget.steps == 0:
        what = "a baseline, which is not trained; train a candidate's recipe: autometa export STUDY --top 2"
        raise ConfigError(f"{model}: {what}")
    steps, seconds, rungs = int(facts["steps"]), float(facts["seconds"]), float(_RUNGS_OF_A_WHOLE)
    if before.budget.open:
        rungs = TrainingState(before.budget, steps, seconds, facts["last_step"]).spent
    if budget.seconds:
        first = Budget(seconds=max(seconds, _LEAST_SECONDS) / rungs, open=True)
    else:
        first = Budget(steps=max(1, round(steps / rungs)), open=True)
    further = Further(state=facts["sha256"], steps=steps, seconds=seconds, budget=budget)
    return before.model_copy(update={"folder": str(folder), "budget": first, "further": further})


def run_further(model: Path, job: Job, *, on_rung: OnRung | None = None, on_step: OnStep | None = None) -> TrialRecord:
    """Train a model further, from the checkpoint in `job.folder` where there is one; what comes of it is in `FINAL`.

    Args:
        model: of which `further_job` made the job.
        on_step: gets the part of the new budget that is spent.

    Raises as `trial.run.run` does.
    """
    return within_memory(job, 0, lambda: _run(model, job, on_rung or (lambda _: None), on_step))


def _run(model: Path, job: Job, on_rung: OnRung, on_step: OnStep | None) -> TrialRecord:
    cooling, final = _in(job, _COOLING), _in(job, FINAL)
    if _has_begun(final):
        return ended(begin(final), final, number=0, reason=None)
    if not _has_begun(job):
        _start(goes_on_from(model), job)
    training = begin(cooling if _has_begun(cooling) else job)
    if training.curve:
        on_rung(training.curve[-1])
    clock = _Clock(training, job)
    step = clock.watched(on_step)
    try:
        while training.state.cooling is None and clock.spent < 1 - COOL_DOWN:
            report = training.report() if training.train(step, stop=clock.stop_at(1 - COOL_DOWN)) else None
            keep(training, job)
            if report:
                on_rung(report)
        if training.state.cooling is None:
            training.cool_down(clock.left / clock.ever_spent)
        while not training.train(step, stop=clock.stop_at(1.0)) and clock.left > 0:
            keep(training, cooling)
    except DivergedError as error:
        return ended(training, job, number=0, reason=diverged(error))
    training.end_cool_down()
    report = training.report()
    keep(training, final)
    on_rung(report)
    checkpoint_files.remove(Path(cooling.folder))
    return ended(training, final, number=0, reason=None)


def _start(state: Path, job: Job) -> None:
    """Write the first checkpoint of a training that goes on from this state."""
    training = prepare(job)
    checkpoints.load(state, training)
    found = training.state
    training.state = replace(found, last_step=job.budget.steps, cooling=None)
    if (
        not job_of(state).budget.open or found.cooling is not None
    ):  # its learning rate has fallen, its rungs were others
        training.state = replace(training.state, curve=[], warms_from=found.steps)
    keep(training, job)


class _Clock:
    """How much of its new budget a training has spent, in that budget's own unit."""

    def __init__(self, training: Training, job: Job) -> None:
        assert job.further
        self._training = training
        self._further = job.further

    @property
    def ever_spent(self) -> float:
        """Steps or seconds, with those before."""
        state = self._training.state
        return max(state.seconds, _LEAST_SECONDS) if self._further.budget.seconds else max(state.steps, 1)

    @property
    def left(self) -> float:
        """Steps or seconds; 0 at least."""
        further = self._further
        before = further.seconds if further.budget.seconds else further.steps
        return max(0.0, before + self._all - self.ever_spent)

    @property
    def spent(self) -> float:
        """The part of the new budget, in [0, 1]."""
        return min(1.0, 1 - self.left / self._all)

    def stop_at(self, part: float) -> Callable[[], bool]:
        """Says whether that part is spent, or it is time to keep the training on disk."""
        until = min(part, self.spent + 1 / _TIMES_KEPT)
        return lambda: self.spent >= until

    def watched(self, on_step: OnStep | None) -> OnStep | None:
        """The same callback, told the part of the new budget that is spent."""
        return on_step and (lambda step, _, metrics: on_step(step, self.spent, metrics))

    @property
    def _all(self) -> float:
        budget = self._further.budget
        return budget.seconds or budget.steps or 1


def _has_begun(job: Job) -> bool:
    return exists(Path(job.folder))


def _in(job: Job, place: str) -> Job:
    """The job with its checkpoint in a folder inside its own."""
    return job.model_copy(update={"folder": str(Path(job.folder) / place)})
