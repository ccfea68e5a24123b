"""A candidate's model where it was best: kept at its rungs, and taken back where training on has made it worse.

Training on may overfit to the train classes. The model at the end is given up only where an earlier one is ahead on
the same validation episodes by more than one standard error over classes and episodes (the one-standard-error rule,
Breiman et al. 1984): the best of several rungs looks better than it is. `docs/log.md` has what other rules gave.
"""

from __future__ import annotations

import copy
from pathlib import Path

from autometa.learning import checkpoint_files, checkpoints
from autometa.learning.checkpoint_facts import BEST, exists, read_facts
from autometa.learning.training import Training
from autometa.records import RungReport
from autometa.trial.job import Job
from autometa.trial.validation import Validation


def keep_best(training: Training, job: Job) -> None:
    """After a rung was written to the job's folder: keep a copy, if none was as good before."""
    best = best_report(job)
    if best is None or training.curve[-1].accuracy.sure >= best.accuracy.sure:
        checkpoint_files.copy(Path(job.folder), Path(job.folder) / BEST)


def take_best(training: Training, job: Job) -> None:
    """After the last rung was reported: go back to the best model, if it is clearly better; the report says so."""
    folder, last, best = Path(job.folder) / BEST, training.curve[-1], best_report(job)
    if best is None or best.accuracy.mean <= last.accuracy.mean:
        return
    assert isinstance(training.validate, Validation)
    learner = copy.deepcopy(training.learner)
    checkpoints.load_weights(folder, learner)
    accuracy, ahead, half_width = training.validate.compared(learner)
    if ahead <= half_width / 2:
        return
    state = training.state
    checkpoints.load(folder, training)
    training.state = state
    training.curve[-1] = last.model_copy(
        update={"accuracy": accuracy, "steps": best.steps, "best_rung": best.rung},
    )


def best_report(job: Job) -> RungReport | None:
    """What the best model so far has shown."""
    folder = Path(job.folder) / BEST
    return RungReport.model_validate(read_facts(folder)["curve"][-1]) if exists(folder) else None
