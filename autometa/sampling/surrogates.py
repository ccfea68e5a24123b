"""Surrogates of past studies: one function per study, fitted once, predicted together.

Each is a ridge regression of rank scores on shared features: a function that all studies have in common, plus the
study's own. A study whose results may be chance is left out (`informative.py`). This file does not know the target.

Symbols: n trials, S studies, D columns of the encoding, M features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from autometa.past import PastStudy
from autometa.sampling.encoding import Domain
from autometa.sampling.informative import uninformative
from autometa.sampling.kernel import Kernel, Nystroem, fit_kernel
from autometa.sampling.scores import Results, normal_scores, scored

# Share of a study's function that all studies have, before any is seen.
_SHARED = 0.5
_LEAST_TRIALS = 3
NOTHING_IN_COMMON = "it has no parameter in common"


@dataclass(frozen=True)
class TrainingSet:
    """A past study's trials with results: codes [n, P], scores [n], their noise [n] and log seconds [n]."""

    name: str
    codes: np.ndarray
    scores: np.ndarray
    noise: np.ndarray
    log_seconds: np.ndarray


@dataclass(frozen=True)
class Surrogates:
    """Functions of S studies over a domain.

    Args:
        weights: [M, S].
        cost: [M], of the logarithm of a trial's seconds against its study's mean; None where nobody noted any.
    """

    domain: Domain
    features: Nystroem
    studies: tuple[TrainingSet, ...]
    weights: np.ndarray
    cost: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """Of the studies."""
        return [study.name for study in self.studies]

    @property
    def kernel(self) -> Kernel:
        """Shared by all of them."""
        return self.features.kernel

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Scores [n, S] of encoded rows [n, D]."""
        return self.kernel(rows, self.features.inducing) @ self._inducing_weights

    @cached_property
    def _inducing_weights(self) -> np.ndarray:
        """Weights [M, S] of the inducing rows themselves: a prediction needs no features, half of its work."""
        found: np.ndarray = solve_triangular(self.features.root, self.weights, lower=True, trans="T")
        return found


def fit_surrogates(
    domain: Domain, past: Sequence[PastStudy], seed: int = 0
) -> tuple[Surrogates | None, dict[str, str]]:
    """Fit the studies that share parameters with this domain; also returns those left out, and why."""
    dropped: dict[str, str] = {}
    usable = []
    for study in past:
        data = _training_set(domain, study)
        if isinstance(data, str):
            dropped[study.name] = data
        else:
            usable.append(data)
    # Before the fit: they must not shape the kernel and the common part either.
    silent = uninformative([(domain.encode(study.codes), study.scores) for study in usable], seed)
    dropped |= {usable[i].name: "its results do not follow from its parameters" for i in silent}
    usable = [study for i, study in enumerate(usable) if i not in silent]
    return (_fit(domain, usable, seed) if usable else None), dropped


def _training_set(domain: Domain, study: PastStudy) -> TrainingSet | str:
    """The study in the domain's coordinates, or why it cannot be."""
    if not set(study.parameters) & set(domain.names):
        return NOTHING_IN_COMMON
    results = results_of(study)
    scores, noise = scored(results, normal_scores)
    failed = np.array([trial.state == "fail" for trial in study.trials], dtype=bool)
    if (~np.isnan(scores) & ~failed).sum() < _LEAST_TRIALS:
        return f"fewer than {_LEAST_TRIALS} of its trials have a result"
    scores = np.where(failed, np.nanmin(scores[~failed]), scores)
    keep = ~np.isnan(scores)
    codes = domain.codes([trial.values for trial in study.trials])[keep]
    if not (np.nanmax(codes, 0, initial=-1, where=~np.isnan(codes)) > -1).any():
        return "none of its values has a place in these ranges"
    seconds = np.array([trial.curve[-1].seconds if trial.curve else math.nan for trial in study.trials])[keep]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_seconds = np.log(seconds)
    return TrainingSet(
        study.name, codes, scores[keep], noise[keep], np.where(np.isfinite(log_seconds), log_seconds, np.nan)
    )


def results_of(study: PastStudy) -> Results:
    """A past study's curves as matrices, greater is better."""
    values = np.full((len(study.trials), max(study.rungs, 1)), np.nan)
    widths = np.full_like(values, np.nan)
    for row, trial in enumerate(study.trials):
        if trial.state != "fail":
            for report in trial.curve:
                values[row, report.rung - 1] = study.sign * report.value
                widths[row, report.rung - 1] = report.half_width
    return Results(values, widths)


def _fit(domain: Domain, studies: Sequence[TrainingSet], seed: int) -> Surrogates:
    generator = np.random.default_rng(seed)
    rows = [domain.encode(study.codes) for study in studies]
    kernel = fit_kernel([(r, s.scores) for r, s in zip(rows, studies, strict=True)], generator)
    features = Nystroem.of(kernel, np.concatenate(rows), generator)

    def parts() -> Iterator[_NormalEquations]:  # twice made rather than kept: hundreds of studies are a gigabyte
        return (_NormalEquations(features(r), s, kernel) for r, s in zip(rows, studies, strict=True))

    common = _Common.of(parts(), kernel)
    weights = []
    for part in parts():
        shared = common.without(part)
        weights.append(shared + part.ridge(part.scores - part.features @ shared))
    return Surrogates(domain, features, tuple(studies), np.array(weights).T, _cost(parts(), kernel))


class _NormalEquations:
    """One study's normal equations."""

    def __init__(self, features: np.ndarray, study: TrainingSet, kernel: Kernel) -> None:
        self.features, self.scores, self.log_seconds = features, study.scores, study.log_seconds
        self.precision = 1 / (kernel.noise + study.noise)
        self.variance = kernel.amplitude * (1 - _SHARED)  # of the study's own function
        self.gram = features.T @ (features * self.precision[:, None])
        self.moment = features.T @ (self.scores * self.precision)

    @property
    def independence(self) -> float:
        """To the common function, a study's own is noise that all its trials share: they count as a few."""
        return float(1 / (1 + self.variance * self.precision.mean()))

    def ridge(self, targets: np.ndarray) -> np.ndarray:
        """Weights [M] of the study's own function."""
        factor = cho_factor(self.gram + np.eye(len(self.gram)) / self.variance, lower=True)
        return cho_solve(factor, self.features.T @ (targets * self.precision))


@dataclass(frozen=True)
class _Common:
    """What studies have in common, as all of them but one show it."""

    gram: np.ndarray
    moment: np.ndarray
    precision: float

    @classmethod
    def of(cls, parts: Iterable[_NormalEquations], kernel: Kernel) -> _Common:
        gram: Any = 0.0
        moment: Any = 0.0
        for part in parts:
            gram = gram + part.independence * part.gram
            moment = moment + part.independence * part.moment
        return cls(gram, moment, 1 / (kernel.amplitude * _SHARED))

    def without(self, part: _NormalEquations) -> np.ndarray:
        """Weights [M] of the common function."""
        gram = self.gram - part.independence * part.gram + self.precision * np.eye(len(self.gram))
        return cho_solve(cho_factor(gram, lower=True), self.moment - part.independence * part.moment)


def _cost(parts: Iterable[_NormalEquations], kernel: Kernel) -> np.ndarray | None:
    gram: Any = 0.0
    moment: Any = 0.0
    for part in parts:
        known = ~np.isnan(part.log_seconds)
        if known.sum() >= _LEAST_TRIALS:
            phi, seconds = part.features[known], part.log_seconds[known]
            gram = gram + phi.T @ phi / kernel.noise
            moment = moment + phi.T @ (seconds - seconds.mean()) / kernel.noise
    if not np.any(moment):
        return None
    return cho_solve(cho_factor(gram + np.eye(len(gram)), lower=True), moment)
