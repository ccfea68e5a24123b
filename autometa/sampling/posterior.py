"""The posterior of the target study: past studies as hypotheses, weighted by how well they rank its results.

Under each hypothesis the target is one past study's function plus a Gaussian process, the residual. One more
hypothesis uses no past study. It gains weight where all others rank badly, so a misleading archive is ignored.
This file does not know trials or samplers.

Symbols: n target trials, S hypotheses of studies (and one cold), C candidates, D columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import log_ndtr, ndtr

from autometa.sampling.kernel import Kernel, fit_residual, residual_prior
from autometa.sampling.scores import Results, scored, standardised, worst_moved_up

# Standard deviation of a score's error where a hypothesis ranks two results.
_RANK_NOISE = 1.0
_PAIRS = 1500
_NEGLIGIBLE = 0.005
_ANY_IS_BETTER = 3.0  # standard deviations below the worst
_LEAST_TO_FIT = 4
_MOST_RESULTS, _MOST_TO_FIT = 400, 100
_AT_ONCE = 48  # candidates whose posterior std is computed together


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
        chosen = shown[_best_and_latest(scores[shown], _MOST_RESULTS)]
        keep = np.sort(np.concatenate([chosen, np.flatnonzero(~self.shown)]))
        return Observations(self.rows[keep], self.predicted[keep], self.results.of(keep))


def hypothesis_weights(observations: Observations, start: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Probabilities [S + 1] of the hypotheses, the cold one last.

    Each hypothesis gives a pair of results, compared at the highest rung both reached, a probability of their order
    (Thurstone 1927). n results count as n observations, not as the n²/2 pairs they make.

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


class Posterior:
    """Posterior mean, std and expected improvement under all hypotheses of notable weight.

    Pending trials are taken to show their posterior mean.

    Args:
        kernel: of past studies; the prior of the residual's kernel.
        probabilities: of the hypotheses [S + 1].
        residual: the residual's kernel, if fitted before; by default it is fitted here.
        gram: computes k(rows, rows) [n, n] of a kernel, such as a cache.

    `rows` [n, D] are those of the target's trials, `residual` is the kernel of the residual.
    """

    def __init__(
        self,
        kernel: Kernel,
        observations: Observations,
        probabilities: np.ndarray,
        residual: Kernel | None = None,
        *,
        gram: Callable[[Kernel, np.ndarray], np.ndarray] = lambda kernel, rows: kernel(rows, rows),
    ) -> None:
        self._active = np.flatnonzero(probabilities > _NEGLIGIBLE)
        self._weights = probabilities[self._active] / probabilities[self._active].sum()
        shown = observations.shown
        scores, own_noise = scored(observations.results, standardised)
        self.rows = observations.rows
        self._shown, self._feasible = shown, observations.results.feasible
        # As the scores are: else one poor trial would stretch a hypothesis' scale, and not that of the scores.
        self._means = worst_moved_up(self._prior_means(observations.predicted)[shown])
        self._scores, self._own_noise = _unit_variance(scores[shown]), own_noise[shown]
        self.residual = residual or self._fit(kernel)
        self._solve(self._prior_means(observations.predicted), gram(self.residual, self.rows))

    def expected_improvement(self, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Of C candidates: rows [C, D], predicted by past studies [C, S]."""
        across = self.residual(self.rows, rows)
        return self._expected_improvement(self._mean(across, predicted), self._std(across))

    def best_candidates(
        self, count: int, predicted: np.ndarray, correlations: np.ndarray, worth: np.ndarray, *, above: float = -np.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices [count] of the candidates of greatest expected improvement times `worth`, and those products.

        The posterior std is most of the work. It is computed only for candidates that may be among the best by an
        upper bound on it.

        Args:
            predicted: by past studies, [C, S].
            correlations: by `residual` with the target's trials, [n, C].
            worth: [C]; a negative one is the candidate's product, and ranks behind all others.
            above: products up to this need not be computed, and may be -inf.
        """
        means = self._mean(correlations, predicted)
        at_most = np.where(worth < 0, worth, worth * self._expected_improvement(means, self._std_bound(correlations)))
        order = np.argsort(-at_most)
        found = np.where(worth < 0, worth, -np.inf)
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            if max(above, np.sort(found)[-count:][0]) >= at_most[some[0]]:
                break
            some = some[worth[some] >= 0]
            found[some] = worth[some] * self._expected_improvement(means[some], self._std(correlations[:, some]))
        chosen = np.argsort(-found)[:count]
        return chosen, found[chosen]

    def _mean(self, correlations: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Posterior means [C, active] of candidates under each hypothesis."""
        return self._prior_means(predicted) + self.residual.amplitude * (correlations.T @ self._solved)

    def _std(self, correlations: np.ndarray) -> np.ndarray:
        """Posterior std [C, 1] of candidates."""
        explained = solve_triangular(self._root_of_all, correlations, lower=True)
        amplitude = self.residual.amplitude
        return np.sqrt(np.maximum(amplitude - amplitude**2 * (explained**2).sum(0), 1e-9))[:, None]

    def _std_bound(self, correlations: np.ndarray) -> np.ndarray:
        """Upper bound on the posterior std [C, 1]: it conditions on the most informative trial alone."""
        amplitude = self.residual.amplitude
        explained = (correlations * (amplitude / np.sqrt(amplitude + self._noise))[:, None]).max(0)  # none is negative
        return np.sqrt(np.maximum(amplitude - explained**2, 1e-9))[:, None]

    def _expected_improvement(self, means: np.ndarray, std: np.ndarray) -> np.ndarray:
        """[C], averaged over the hypotheses by weight."""
        ahead = (means - self._best) / std
        density = np.exp(-0.5 * ahead**2) / np.sqrt(2 * np.pi)
        found: np.ndarray = (std * (ahead * ndtr(ahead) + density)) @ self._weights
        return found

    def _prior_means(self, predicted: np.ndarray) -> np.ndarray:
        """Prior means [n, active] under the hypotheses of notable weight; zero under the cold one."""
        return np.column_stack([predicted, np.zeros(len(predicted))])[:, self._active]

    def _rescaled(self, residual: Kernel) -> np.ndarray:
        """The target's scores [n, active] on each hypothesis' scale.

        A study's best few are far above its mean, and the target has tried little else: its scores get the mean
        and spread that the hypothesis expects of just these trials.
        """
        std = np.sqrt(self._means.var(0) + residual.amplitude + residual.noise)
        return self._means.mean(0) + self._scores[:, None] * std

    def _fit(self, kernel: Kernel) -> Kernel:
        """The residual's kernel: one for all hypotheses, fitted to their errors by weight."""
        first = residual_prior(kernel)
        if len(self._scores) < _LEAST_TO_FIT:
            return first
        chosen = _best_and_latest(self._scores, _MOST_TO_FIT)
        errors = self._rescaled(first) - self._means
        errors -= errors.mean(0)
        return fit_residual(
            kernel, self.rows[self._shown][chosen], errors[chosen], self._weights, self._own_noise[chosen]
        )

    def _solve(self, hypotheses: np.ndarray, correlations: np.ndarray) -> None:
        residual, shown = self.residual, self._shown
        gram = residual.amplitude * correlations
        # The std conditions on pending trials too: their place is taken.
        self._noise = np.full(len(gram), residual.noise + 1e-6)
        self._noise[shown] += self._own_noise
        self._root_of_all = cholesky(gram + np.diag(self._noise), lower=True)
        root = cholesky(gram[np.ix_(shown, shown)] + np.diag(self._noise[shown]), lower=True)
        self._solved = np.zeros_like(hypotheses)  # zero where nothing was shown
        self._solved[shown] = cho_solve((root, True), self._rescaled(residual) - self._means)
        expected = hypotheses + gram @ self._solved
        # As long as no trial is feasible, any feasible one would be an improvement, and the larger the likelier it is.
        best = expected[self._feasible] if self._feasible.any() else expected.min(0, keepdims=True) - _ANY_IS_BETTER
        self._best = best.max(0)


def _best_and_latest(scores: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most so many: half of them the best, half the latest of the others."""
    if len(scores) <= most:
        return np.arange(len(scores))
    best = np.argsort(-scores)[: most // 2]
    latest = np.setdiff1d(np.arange(len(scores)), best)[-(most // 2) :]
    return np.sort(np.concatenate([best, latest]))


def _unit_variance(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
