"""Where a learning curve will end, in its own study's units: forecasts learned from past studies' curves.

A trial is described by how far it is behind its study's leader and how fast it rises, and all these are
differences of values; so is what it still gains. The factors between them have no unit and are what studies of
any scale share. This file does not know pruners, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autometa.past import PastStudy, PastTrial

Array = NDArray[np.floating[Any]]

# A past study also shows what it looked like when it was younger: the leader of few trials leads by less.
_AGES = (10, 25, 60, 150)
# Without a past, factors are 0 ± this times the share of the training that is left, and what a trial gains is
# this uncertain per unit of (lead, gap, rise). Wider than what LCBench shows at any rung.
_LOOSE_FACTOR, _LOOSE_NOISE = 1.0, 0.4
# The tail is Student's with these degrees of freedom until there are some hundred residuals to read it from.
_LOOSE_TAIL, _LOOSE_COUNT = 4, 50
# How many of the study's own complete trials the noise level of the past counts as.
_NOISE_COUNTS_AS = 10.0
# Residuals' standard deviation by their mean distance, for a normal distribution.
_PER_MEAN_DISTANCE = 1.25


@dataclass(frozen=True)
class Curves:
    """What the trials of a study have shown so far.

    Args:
        values: greater is better; NaN where a trial has not been.
    """

    values: Array  # (trial, rung)

    @property
    def rungs(self) -> int:
        """Of a full trial."""
        return self.values.shape[1]

    @property
    def unit(self) -> float:
        """The leader's distance to the median at the first rung where there is any value; 0 without one.

        All trials reach that rung. Later ones are reached by chosen trials only, so their spread tells of the pruner.
        """
        column = next((column[~np.isnan(column)] for column in self.values.T if not np.isnan(column).all()), None)
        return 0.0 if column is None else float(column.max() - np.median(column))

    @property
    def lead(self) -> Array:
        """The best value at each rung, (rung,); NaN where nobody was."""
        return np.where(np.isnan(self.values), -np.inf, self.values).max(0, initial=-np.inf)

    @property
    def complete(self) -> Array:
        """The curves that reached the last rung."""
        return self.values[~np.isnan(self.values[:, -1])]


@dataclass(frozen=True)
class Forecast:
    """Final values as far as they can be told: mean ± one standard deviation each."""

    mean: Array
    deviation: Array


def curves_of(study: PastStudy, rungs: int) -> Curves:
    """A past study's curves at `rungs` rungs, between its own ones by interpolation."""
    shown = [trial for trial in study.trials if trial.curve and trial.state != "fail"]
    values = [study.sign * _at_rungs(trial, study.rungs, rungs) for trial in shown]
    return Curves(np.array(values).reshape(len(values), rungs))


def _at_rungs(trial: PastTrial, own_rungs: int, rungs: int) -> Array:
    share = np.array([report.rung / own_rungs for report in trial.curve])
    value = np.array([report.value for report in trial.curve])
    return np.interp(np.arange(1, rungs + 1) / rungs, share, value, left=np.nan, right=np.nan)


class CurvePrior:
    """Forecasts from any rung to the last, by one hierarchical linear model a rung.

    Each study has factors of its own, drawn around those that studies have in common. For the study at hand they
    are what is common until its own complete trials say otherwise.

    Args:
        past: studies whose trials reported at several rungs; others say nothing here.
        rungs: of a full trial in the study at hand.
    """

    def __init__(self, past: Iterable[PastStudy], rungs: int) -> None:
        studies = [curves_of(study, rungs) for study in past if study.rungs > 1]
        studies = [study for study in studies if study.unit > 0]
        full = _filled(studies)
        self.rungs = rungs
        self.has_past = bool(studies)
        self.gains = [_learned(studies, full, rung, rungs - 1) for rung in range(rungs - 1)]

    def forecast(self, study: Curves, values: Array, rung: int) -> Forecast:
        """Where trials with these values, (trial, rung), will end that are at this rung (counted from 0).

        The study's unit must be positive.
        """
        if rung == self.rungs - 1:
            return Forecast(values[:, rung], np.zeros(len(values)))
        complete = study.complete
        seen, gains = _standing(study, complete, rung), (complete[:, -1] - complete[:, rung]) / study.unit
        whole = np.isfinite(seen).all(1)
        own = self.gains[rung].after(seen[whole], gains[whole])
        mean, deviation = own.predict(_standing(study, values, rung))
        return Forecast(values[:, rung] + study.unit * mean, study.unit * deviation)

    def chance_above(self, rung: int, distance: float) -> float:
        """That a trial at this rung ends so many standard deviations above its forecast."""
        tail = self.gains[rung].tail
        return float(len(tail) - np.searchsorted(tail, distance) + 0.5) / (len(tail) + 1)


@dataclass(frozen=True)
class _Gain:
    """What a trial gains between two rungs, in the study's unit: rows @ factors, ± noise that grows with the rows.

    Args:
        tail: residuals of past studies, each as forecast from the others, in standard deviations; sorted.
    """

    factors: Array  # (feature,)
    covariance: Array  # (feature, feature): between studies
    noise: Array  # (size,): standard deviation per unit of `_sizes`
    tail: Array

    def predict(self, rows: Array) -> tuple[Array, Array]:
        spread = np.einsum("ij,jk,ik->i", rows, self.covariance, rows)
        return rows @ self.factors, np.sqrt((_sizes(rows) @ self.noise) ** 2 + spread)

    def after(self, rows: Array, gains: Array) -> _Gain:
        """The same for a study that has shown these gains."""
        if not len(rows):
            return self
        deviation = _sizes(rows) @ self.noise
        factors, covariance = _posterior(self.factors, self.covariance, rows, gains, deviation)
        misses = np.sum(np.minimum(((gains - rows @ factors) / deviation) ** 2, 25))
        level = np.sqrt((_NOISE_COUNTS_AS + misses) / (_NOISE_COUNTS_AS + len(rows)))
        return _Gain(factors, covariance, self.noise * level, self.tail)


def _standing(study: Curves, values: Array, rung: int) -> Array:
    """How trials stand at a rung, (trial, feature), in the study's unit.

    The gap to the leader, the unit itself, and from the second rung the last rise, the leader's and the one before.
    """
    lead = study.lead
    features = [lead[rung] - values[:, rung], np.full(len(values), study.unit)]
    if rung >= 1:
        features += [values[:, rung] - values[:, rung - 1], np.full(len(values), lead[rung] - lead[rung - 1])]
    if rung >= 2:
        features += [values[:, rung - 1] - values[:, rung - 2]]
    return np.stack(features, 1) / study.unit


def _sizes(rows: Array) -> Array:
    """What noise grows with: the gap, the unit and the last rise."""
    return np.abs(rows[:, :3])


def _loose(rung: int, last: int) -> _Gain:
    from scipy.special import stdtrit

    features, left = min(2 + 2 * rung, 5), 1 - (rung + 1) / (last + 1)
    tail = stdtrit(_LOOSE_TAIL, (np.arange(_LOOSE_COUNT) + 0.5) / _LOOSE_COUNT)
    noise = np.full(min(features, 3), _LOOSE_NOISE * left)
    return _Gain(np.zeros(features), np.eye(features) * (_LOOSE_FACTOR * left) ** 2, noise, tail)


def _learned(studies: Sequence[Curves], full: Sequence[Array], rung: int, target: int) -> _Gain:
    """Gains from a rung to a later one, from studies whose curves are full there.

    Empirical Bayes: factors of each study given those in common, the common ones given each study's (EM), with
    noise reweighted. A study of loose factors counts as one more.
    """
    loose = _loose(rung, target)
    rows, gains, repeats = [], [], []
    for study, values in zip(studies, full, strict=True):
        parts = list(_situations(study, values, rung, target))
        if parts:
            rows.append(np.concatenate([part[0] for part in parts]))
            gains.append(np.concatenate([part[1] for part in parts]))
            repeats.append(len(rows[-1]) / max(len(part[0]) for part in parts))
    if not rows:
        return loose
    common, noise = _common(np.concatenate(rows), np.concatenate(gains))
    covariance = loose.covariance
    for _ in range(30):
        each = [
            _posterior(common, covariance, x, y, _sizes(x) @ noise * np.sqrt(repeat))
            for x, y, repeat in zip(rows, gains, repeats, strict=True)
        ]
        own = np.array([mean for mean, _ in each])
        common = own.mean(0)
        scatter = (own - common).T @ (own - common) + sum(spread for _, spread in each)
        covariance = (scatter + loose.covariance) / (len(each) + 1)
    gain = _Gain(common, covariance, noise, loose.tail)
    misses = [_left_out(gain, own, index, x, y) for index, (x, y) in enumerate(zip(rows, gains, strict=True))]
    return _Gain(common, covariance, noise, np.sort(np.concatenate([*misses, loose.tail])))


def _situations(study: Curves, full: Array, rung: int, target: int) -> Iterator[tuple[Array, Array]]:
    """Standing and gain of the trials that a study had when it was so old."""
    for age in [age for age in _AGES if age < len(full)] + [len(full)]:
        young = Curves(study.values[:age])
        needed = [*range(max(0, rung - 2), rung + 1), target]
        known = full[:age][~np.isnan(full[:age, needed]).any(1)]
        if young.unit > 0 and len(known) and np.isfinite(young.lead[needed[:-1]]).all():
            yield _standing(young, known, rung), (known[:, target] - known[:, rung]) / young.unit


def _common(rows: Array, gains: Array) -> tuple[Array, Array]:
    """Factors over all studies and noise, by turns: least squares, each weighted by the other."""
    from scipy.optimize import nnls

    deviation = np.ones(len(rows))
    for _ in range(5):
        factors = np.linalg.lstsq(rows / deviation[:, None], gains / deviation, rcond=None)[0]
        sizes, miss = _sizes(rows), np.abs(gains - rows @ factors)
        noise = _PER_MEAN_DISTANCE * np.maximum(nnls(sizes / deviation[:, None], miss / deviation)[0], 1e-3)
        deviation = sizes @ noise
    return factors, noise


def _posterior(mean: Array, covariance: Array, rows: Array, gains: Array, deviation: Array) -> tuple[Array, Array]:
    """Bayesian linear regression."""
    weighted = rows / deviation[:, None]
    precision = np.linalg.inv(covariance)
    updated = np.linalg.inv(precision + weighted.T @ weighted)
    return updated @ (precision @ mean + weighted.T @ (gains / deviation)), updated


def _left_out(gain: _Gain, own: Array, index: int, rows: Array, gains: Array) -> Array:
    """A study's residuals as forecast from the others, in standard deviations."""
    others = np.delete(own, index, axis=0).mean(0) if len(own) > 1 else np.zeros_like(gain.factors)
    mean, deviation = _Gain(others, gain.covariance, gain.noise, gain.tail).predict(rows)
    return (gains - mean) / deviation


def _filled(studies: Sequence[Curves]) -> list[Array]:
    """Curves with a plausible end for those that were stopped, drawn rung by rung from those that went on.

    Complete curves alone would not do: a pruner chose them for rising. Whether a trial goes on depends on what it
    has shown, so given that, the next rung of those that do speaks for those that do not (monotone missing data,
    Little and Rubin 2019).
    """
    full = [study.values.copy() for study in studies]
    generator = np.random.default_rng(0)
    rungs = full[0].shape[1] if full else 0
    for rung in range(rungs - 1):
        stopped = [~np.isnan(values[:, rung]) & np.isnan(values[:, rung + 1]) for values in full]
        if not any(mask.any() for mask in stopped):
            continue
        gain = _learned(studies, full, rung, rung + 1)
        for study, values, mask in zip(studies, full, stopped, strict=True):
            if mask.any() and np.isfinite(study.lead[max(0, rung - 2) : rung + 1]).all():
                rows = _standing(study, values[mask], rung)
                luck = generator.choice(gain.tail, mask.sum())
                values[mask, rung + 1] = values[mask, rung] + study.unit * (
                    rows @ gain.factors + luck * (_sizes(rows) @ gain.noise)
                )
    return full
