"""A study of Optuna that is being searched, as curves: what each of its trials has shown by now.

It does not forecast, and stops nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.pruning.curves import Array, Curves

# A trial that reports more often is looked at in so many of its reports at most, equally spaced.
MOST_RUNGS = 16
_STATES = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
# Standard errors in the half-width of a 95 % interval.
_HALF_WIDTH = 1.96


@dataclass(frozen=True)
class Running:
    """The trials that did not fail, by the rungs at which they are looked at.

    Args:
        curves: greater is better. The last rung is a full trial's, if `is_length_known`.
        rungs: index of the rung by step, for the steps that any trial has reported so far.
        is_length_known: whether it is known how many rungs a full trial has.
        index: of the trial in question.
        last: index of each trial's last rung, -1 before the first.
        errors: standard error of each trial's last value; 0 where nobody noted it.
    """

    curves: Curves
    rungs: dict[int, int]
    is_length_known: bool
    index: int
    is_complete: NDArray[np.bool_]  # (trial,)
    is_running: NDArray[np.bool_]  # (trial,)
    last: NDArray[np.int_]  # (trial,)
    errors: Array  # (trial,)


def running(study: Study, trial: FrozenTrial, length: Callable[[Sequence[FrozenTrial]], int]) -> Running:
    """The study as the trial sees it.

    Args:
        length: rungs of a full trial, told from the study's trials; 0 where that is not known.
    """
    trials = study.get_trials(deepcopy=False, states=_STATES)
    trials = [trial if other.number == trial.number else other for other in trials]
    sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
    steps = sorted(set().union(*(other.intermediate_values for other in trials)))
    known = length(trials)
    is_known = known >= len(steps)
    rungs = _looked_at(steps, known if is_known else len(steps))
    columns = _columns(known if is_known else len(steps))
    values = np.full((len(trials), columns), np.nan)
    for row, other in enumerate(trials):
        for step, value in other.intermediate_values.items():
            if step in rungs and math.isfinite(value):
                values[row, rungs[step]] = sign * value
        if is_known and other.state == TrialState.COMPLETE and other.value is not None and math.isfinite(other.value):
            values[row, -1] = sign * other.value
    shown = ~np.isnan(values)
    return Running(
        curves=Curves(values),
        rungs=rungs,
        is_length_known=is_known,
        index=next(row for row, other in enumerate(trials) if other.number == trial.number),
        is_complete=np.array([t.state == TrialState.COMPLETE for t in trials]) & shown[:, -1],
        is_running=np.array([t.state == TrialState.RUNNING for t in trials]),
        last=np.where(shown.any(1), columns - 1 - shown[:, ::-1].argmax(1), -1),
        errors=np.array([_standard_error(other) for other in trials]),
    )


def _columns(length: int) -> int:
    return math.ceil(length / _stride(length)) if length else 0


def _stride(length: int) -> int:
    return math.ceil(length / MOST_RUNGS) or 1


def _looked_at(steps: Sequence[int], length: int) -> dict[int, int]:
    """The last step of a full trial and, counted back from it, every so many."""
    stride = _stride(length)
    offset = (length - 1) % stride
    return {step: place // stride for place, step in enumerate(steps) if place % stride == offset}


def _standard_error(trial: FrozenTrial) -> float:
    """Of the last value, where autometa's ledger noted its interval."""
    try:
        return float(attributes.CURVE.required_of(trial)[-1]["accuracy"]["half_width"]) / _HALF_WIDTH
    except (KeyError, IndexError, TypeError, ValueError):
        return 0.0
