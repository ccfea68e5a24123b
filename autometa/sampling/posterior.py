"""What is believed of the target study: past studies as hypotheses, weighed by how well they rank its results.

Each past study is a hypothesis: the target is that study's function and a Gaussian process of what differs. One
more hypothesis knows no past study; it gains weight where all others rank badly, so that a misleading archive
is left behind. It does not know trials or samplers.

Symbols: n target trials, S hypotheses of studies (and one cold), C candidates, D columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import log_ndtr, ndtr

from autometa.sampling.kernel import Kernel, expected, refitted
from autometa.sampling.scores import Results, scored, standardised

# Spread of a score's error in units of scores, where two results are compared by a hypothesis.
_RANK_NOISE = 1.0
_PAIRS = 1500
_NEGLIGIBLE = 0.005
_ANY_IS_BETTER = 3.0  # standard deviations below the worst
_LEAST_TO_FIT = 4
_MOST_RESULTS, _MOST_TO_FIT = 400, 100
_AT_ONCE = 48  # candidates whose spreads are found together


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


class Posterior:
    """Expected improvement over the target's best, under all hypotheses that still count.

    Pending trials count as if they had shown what is expected of them.

    Args:
        kernel: of past studies; what the target differs by is fitted from there.
        probabilities: of the hypotheses [S + 1].
        residual: fitted before; otherwise it is fitted now.
        gram: k(rows, rows) [n, n] of a kernel, for whoever remembers parts of it.

    `rows` [n, D] are those of the target's trials, `residual` is the kernel of what it differs by.
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
        self._means = self._hypotheses(observations.predicted)[shown]
        self._scores, self._own_noise = _normal(scores[shown]), own_noise[shown]
        self.residual = residual or self._fit(kernel)
        self._solve(self._hypotheses(observations.predicted), gram(self.residual, self.rows))

    def expected_improvement(self, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Of C candidates: rows [C, D], predicted by past studies [C, S]."""
        across = self.residual(self.rows, rows)
        return self._improvement(self._expected(across, predicted), self._spread(across))

    def greatest(
        self, count: int, predicted: np.ndarray, correlations: np.ndarray, worth: np.ndarray, *, above: float = -np.inf
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices [count] of the candidates of the greatest expected improvement times `worth`, and that.

        Spreads are most of the work. A candidate's is found only where it may be among the greatest if no trial but the
        nearest said anything of it.

        Args:
            predicted: by past studies, [C, S].
            correlations: by `residual` with the target's trials, [n, C].
            worth: [C]; candidates of a negative one are worth that, and behind all others.
            above: those that are no greater need not be found, and may be -inf.
        """
        means = self._expected(correlations, predicted)
        at_most = np.where(worth < 0, worth, worth * self._improvement(means, self._widest(correlations)))
        order = np.argsort(-at_most)
        found = np.where(worth < 0, worth, -np.inf)
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            if max(above, np.sort(found)[-count:][0]) >= at_most[some[0]]:
                break
            some = some[worth[some] >= 0]
            found[some] = worth[some] * self._improvement(means[some], self._spread(correlations[:, some]))
        chosen = np.argsort(-found)[:count]
        return chosen, found[chosen]

    def _expected(self, correlations: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Means [C, active] of candidates under each hypothesis."""
        return self._hypotheses(predicted) + self.residual.amplitude * (correlations.T @ self._solved)

    def _spread(self, correlations: np.ndarray) -> np.ndarray:
        """Standard deviations [C, 1] of candidates."""
        explained = solve_triangular(self._root_of_all, correlations, lower=True)
        amplitude = self.residual.amplitude
        return np.sqrt(np.maximum(amplitude - amplitude**2 * (explained**2).sum(0), 1e-9))[:, None]

    def _widest(self, correlations: np.ndarray) -> np.ndarray:
        """What spreads [C, 1] are at most: those that the one trial leaves which says most."""
        amplitude = self.residual.amplitude
        said = (correlations * (amplitude / np.sqrt(amplitude + self._noise))[:, None]).max(0)  # none is negative
        return np.sqrt(np.maximum(amplitude - said**2, 1e-9))[:, None]

    def _improvement(self, means: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Expected, over all hypotheses, [C]."""
        ahead = (means - self._best) / spread
        density = np.exp(-0.5 * ahead**2) / np.sqrt(2 * np.pi)
        found: np.ndarray = (spread * (ahead * ndtr(ahead) + density)) @ self._weights
        return found

    def _hypotheses(self, predicted: np.ndarray) -> np.ndarray:
        """The functions of the hypotheses that count [n, active]; the cold one is zero."""
        return np.column_stack([predicted, np.zeros(len(predicted))])[:, self._active]

    def _on_scale(self, residual: Kernel) -> np.ndarray:
        """The target's scores [n, active] on each hypothesis' scale.

        A study's best few are far above its mean, and the target has tried little else: its scores get the mean
        and spread that the hypothesis expects of just these trials.
        """
        spread = np.sqrt(self._means.var(0) + residual.amplitude + residual.noise)
        return self._means.mean(0) + self._scores[:, None] * spread

    def _fit(self, kernel: Kernel) -> Kernel:
        """What all hypotheses leave, by their weight, as one more Gaussian process."""
        first = expected(kernel)
        if len(self._scores) < _LEAST_TO_FIT:
            return first
        chosen = _best_and_latest(self._scores, _MOST_TO_FIT)
        errors = self._on_scale(first) - self._means
        errors -= errors.mean(0)
        return refitted(kernel, self.rows[self._shown][chosen], errors[chosen], self._weights, self._own_noise[chosen])

    def _solve(self, hypotheses: np.ndarray, correlations: np.ndarray) -> None:
        residual, shown = self.residual, self._shown
        gram = residual.amplitude * correlations
        # For the spread all trials count, pending ones too: their place is taken.
        self._noise = np.full(len(gram), residual.noise + 1e-6)
        self._noise[shown] += self._own_noise
        self._root_of_all = cholesky(gram + np.diag(self._noise), lower=True)
        root = cholesky(gram[np.ix_(shown, shown)] + np.diag(self._noise[shown]), lower=True)
        self._solved = np.zeros_like(hypotheses)  # zero where nothing was shown
        self._solved[shown] = cho_solve((root, True), self._on_scale(residual) - self._means)
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


def _normal(scores: np.ndarray) -> np.ndarray:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))
