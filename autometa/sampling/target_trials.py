"""Trials of the target study, the one being searched, as matrices. An ended trial is read once.

It knows Optuna's trials, not what is computed from them.

Symbols: n trials, P parameters, R rungs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.sampling import inferred
from autometa.sampling.encoding import Domain
from autometa.sampling.scores import Results


class TargetTrials:
    """The target study, as it grows."""

    def __init__(self) -> None:
        self._domain: Domain | None = None
        self._codes: dict[int, tuple[int, np.ndarray]] = {}  # number of parameters, and codes [P], by trial
        self._scale: tuple[list[int], float] | None = None
        self._curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # values and half-widths [R], by trial that is over

    def codes(self, trials: Sequence[FrozenTrial], domain: Domain) -> np.ndarray:
        """Codes [n, P]; a trial's are found again when it has more parameters."""
        if self._domain is not domain:
            self._domain, self._codes = domain, {}
        new = [trial for trial in trials if self._codes.get(trial.number, (0,))[0] != len(trial.params)]
        for trial, row in zip(new, domain.codes([inferred.plain(t.params) for t in new]), strict=True):
            self._codes[trial.number] = (len(trial.params), row)
        rows = [self._codes[trial.number][1] for trial in trials]
        return np.array(rows).reshape(len(trials), len(domain.names))

    def results(self, trials: Sequence[FrozenTrial], sign: float) -> Results:
        """Values by rung, greater is better; of failed trials as bad as the worst.

        A rung is the place of a step among those at which any trial reported.
        """
        steps = sorted({step for t in trials for step, v in t.intermediate_values.items() if math.isfinite(v)})
        if self._scale != (steps, sign):
            self._scale, self._curves = (steps, sign), {}
        rungs = {step: place for place, step in enumerate(steps)}
        curves = [self._curve(trial, rungs, sign) for trial in trials]
        shape = (len(trials), max(len(steps), 1))
        values = np.array([curve[0] for curve in curves]).reshape(shape)
        widths = np.array([curve[1] for curve in curves]).reshape(shape)
        failed = [row for row, trial in enumerate(trials) if trial.state == TrialState.FAIL]
        if failed and (~np.isnan(np.delete(values, failed, 0))).any():
            values[failed] = np.nan
            first = int(np.argmax((~np.isnan(values)).any(0)))
            values[failed, first] = np.nanmin(values[:, first])
        return Results(values, widths, _constraints(trials))

    def _curve(self, trial: FrozenTrial, rungs: Mapping[int, int], sign: float) -> tuple[np.ndarray, np.ndarray]:
        found = self._curves.get(trial.number)
        if found is None:
            found = _curve(trial, rungs, sign)
            if trial.state.is_finished():
                self._curves[trial.number] = found
        return found


def _constraints(trials: Sequence[FrozenTrial]) -> np.ndarray | None:
    """Values [n, K] of the constraints; None where none was violated.

    A trial that is over and says nothing of a constraint keeps it, as Optuna has it.
    """
    said = [trial.constraints for trial in trials]
    violated = sorted({name for one in said for name, value in one.items() if value > 0})
    if not violated:
        return None
    silent = [0.0 if trial.state.is_finished() else math.nan for trial in trials]
    return np.array([[one.get(name, at) for name in violated] for one, at in zip(said, silent, strict=True)])


def _curve(trial: FrozenTrial, rungs: Mapping[int, int], sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and their half-widths by rung, [R] each."""
    values, widths = np.full((2, max(len(rungs), 1)), np.nan)
    for step, value in trial.intermediate_values.items():
        if step in rungs:
            values[rungs[step]] = sign * value
    if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value):
        values[-1] = sign * trial.value
    for report in attributes.CURVE.of(trial, []):
        if report["rung"] in rungs:
            widths[rungs[report["rung"]]] = report["accuracy"]["half_width"]
    return values, widths
