"""What is believed of the target study: past studies as hypotheses, weighed by how well they rank its results.

Each past study is a hypothesis: the target is that study's function and a Gaussian process of what differs. One
more hypothesis knows no past study; it gains weight where all others rank badly, so that a misleading archive
is left behind. It does not know trials or samplers.

Symbols: n target trials, S hypotheses of studies (and one cold), C candidates, D columns.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import log_ndtr, ndtr

from autometa.priors.kernel import Kernel
from autometa.priors.scores import Results, scored, standardised

# Spread of a score's error in units of scores, where two results are compared by a hypothesis.
_RANK_NOISE = 1.0
_PAIRS = 1500
_NEGLIGIBLE = 0.005
# Where the residual's variance, the stretch of its lengths and its noise are looked for.
_VARIANCES, _STRETCHES, _NOISES = (0.1, 0.3, 0.6, 1.0), (0.5, 1.0, 2.0), (0.003, 0.03, 0.3)
_FIRST = (0.6, 1.5, 0.01)
_LEAST_TO_FIT = 4
_MOST_RESULTS = 400


@dataclass(frozen=True)
class Observations:
    """The target's trials so far.

    Args:
        rows: [n, D], encoded.
        predicted: [n, S], by past studies.
        results: of all n; trials that showed nothing yet are pending.
    """

    rows: np.ndarray
    predicted: np.ndarray
    results: Results

    @property
    def shown(self) -> np.ndarray:
        """Which trials [n] have a result."""
        return self.results.last >= 0

    def latest_and_best(self) -> Observations:
        """At most 400 with results, the better half and the latest of the others, and all that are pending."""
        shown = np.flatnonzero(self.shown)
        if len(shown) <= _MOST_RESULTS:
            return self
        scores, _ = scored(self.results, standardised)
        best = shown[np.argsort(-scores[shown])][: _MOST_RESULTS // 2]
        latest = np.setdiff1d(shown, best)[-_MOST_RESULTS // 2 :]
        keep = np.sort(np.concatenate([best, latest, np.flatnonzero(~self.shown)]))
        results = Results(self.results.values[keep], self.results.half_widths[keep])
        return Observations(self.rows[keep], self.predicted[keep], results)


def weights(observations: Observations, start: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Probabilities [S + 1] of the hypotheses, the cold one last.

    Each pair of results is ranked by a hypothesis with a probability (Thurstone 1927), compared at the highest
    rung both reached; n results count as n facts, not as the n²/2 pairs they make.

    Args:
        start: log weights [S] before any result.
    """
    log_weights = np.append(start, 0.0)
    count = int(observations.shown.sum())
    first, second = _pairs(observations.results, generator)
    if len(first):
        ahead = observations.predicted[first] - observations.predicted[second]
        likelihood = log_ndtr(ahead / (_RANK_NOISE * np.sqrt(2))).mean(0)
        log_weights += (count - 1) * np.append(likelihood, log_ndtr(0.0))
    elif len(start):
        log_weights[-1] = -np.inf  # without results, a prior is all there is
    found: np.ndarray = np.exp(log_weights - log_weights.max())
    return found / found.sum()


def _pairs(results: Results, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of trials of which the first did better than the second."""
    shown = np.flatnonzero(results.last >= 0)
    first, second = (shown[side] for side in np.triu_indices(len(shown), 1))
    if len(first) > _PAIRS:
        chosen = np.sort(generator.choice(len(first), _PAIRS, replace=False))
        first, second = first[chosen], second[chosen]
    both = ~np.isnan(results.values[first]) & ~np.isnan(results.values[second])  # (pairs, R)
    rung = both.shape[1] - 1 - both[:, ::-1].argmax(1)
    ahead = np.where(both.any(1), results.values[first, rung] - results.values[second, rung], 0.0)
    ahead = np.nan_to_num(ahead)
    swapped = ahead < 0
    keep = ahead != 0
    return np.where(swapped, second, first)[keep], np.where(swapped, first, second)[keep]


@dataclass(frozen=True)
class Residual:
    """What the target may differ by from a hypothesis: variance, stretch of the kernel's lengths, noise."""

    variance: float
    stretch: float
    noise: float


class Posterior:
    """Expected improvement over the target's best, under all hypotheses that still count.

    Pending trials count as if they had shown what is expected of them.
    """

    def __init__(
        self, kernel: Kernel, observations: Observations, probabilities: np.ndarray, residual: Residual | None = None
    ) -> None:
        self._kernel = kernel
        self._active = np.flatnonzero(probabilities > _NEGLIGIBLE)
        self._weights = probabilities[self._active] / probabilities[self._active].sum()
        shown = observations.shown
        scores, own_noise = scored(observations.results, standardised)
        self._rows = observations.rows
        self._shown = shown
        self._means = self._hypotheses(observations.predicted)[shown]
        self._scores, self._own_noise = _normal(scores[shown]), own_noise[shown]
        self.residual = residual or self._fit()
        self._solve(self._hypotheses(observations.predicted))

    def expected_improvement(self, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Of C candidates: rows [C, D], predicted by past studies [C, S]."""
        residual = self.residual
        across = residual.variance * self._kernel(rows, self._rows, residual.stretch)
        means = self._hypotheses(predicted) + across[:, self._shown] @ self._solved
        explained = solve_triangular(self._root_of_all, across.T, lower=True)
        spread = np.sqrt(np.maximum(residual.variance - (explained**2).sum(0), 1e-9))[:, None]
        ahead = (means - self._best) / spread
        density = np.exp(-0.5 * ahead**2) / np.sqrt(2 * np.pi)
        found: np.ndarray = (spread * (ahead * ndtr(ahead) + density)) @ self._weights
        return found

    def _hypotheses(self, predicted: np.ndarray) -> np.ndarray:
        """The functions of the hypotheses that count [n, active]; the cold one is zero."""
        return np.column_stack([predicted, np.zeros(len(predicted))])[:, self._active]

    def _on_scale(self, residual: Residual) -> np.ndarray:
        """The target's scores [n, active] on each hypothesis' scale.

        A study's best few are far above its mean, and the target has tried little else: its scores get the mean
        and spread that the hypothesis expects of just these trials.
        """
        spread = np.sqrt(self._means.var(0) + residual.variance + residual.noise)
        return self._means.mean(0) + self._scores[:, None] * spread

    def _fit(self) -> Residual:
        """The residual of the greatest likelihood, drawn towards where one starts."""
        if len(self._scores) < _LEAST_TO_FIT:
            return Residual(*_FIRST)
        rows = self._rows[self._shown]
        grams = {stretch: self._kernel(rows, rows, stretch) for stretch in _STRETCHES}
        best, found = -np.inf, Residual(*_FIRST)
        for choice in itertools.starmap(Residual, itertools.product(_VARIANCES, _STRETCHES, _NOISES)):
            root = self._root(grams[choice.stretch], choice)
            errors = self._on_scale(choice) - self._means
            white = solve_triangular(root, errors - errors.mean(0), lower=True)
            likelihood = -0.5 * (white**2).sum(0) @ self._weights - np.log(np.diag(root)).sum()
            likelihood -= 0.5 * (np.log(choice.stretch) ** 2 + np.log(choice.variance / 0.5) ** 2)
            if likelihood > best:
                best, found = likelihood, choice
        return found

    def _root(self, gram: np.ndarray, residual: Residual) -> np.ndarray:
        noise = residual.noise + self._own_noise + 1e-6
        found: np.ndarray = cholesky(residual.variance * gram + np.diag(noise), lower=True)
        return found

    def _solve(self, hypotheses: np.ndarray) -> None:
        residual, shown = self.residual, self._shown
        gram = self._kernel(self._rows, self._rows, residual.stretch)
        root = self._root(gram[np.ix_(shown, shown)], residual)
        self._solved = cho_solve((root, True), self._on_scale(residual) - self._means)
        # For the spread all trials count, pending ones too: their place is taken.
        noise = np.full(len(gram), residual.noise + 1e-6)
        noise[shown] += self._own_noise
        self._root_of_all = cholesky(residual.variance * gram + np.diag(noise), lower=True)
        self._best = (hypotheses + residual.variance * gram[:, shown] @ self._solved).max(0)


def _normal(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
