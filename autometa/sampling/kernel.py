"""One kernel for all studies of a domain: which parameters matter, and how fast, is what past studies share.

A Matérn-5/2 kernel with a length per column, fitted to several studies at once, and its Nyström features, in
which predicting hundreds of studies is one matrix product. It does not know what the columns mean.

Symbols: n rows, D columns, M inducing rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

_STUDIES, _ROWS = 8, 100  # what lengths are fitted to: enough for them, and a second of work
_INDUCING = 400
_JITTER = 1e-6
# The median distance between two configurations, in lengths, of a kernel that knows nothing yet: such kernels
# neither see every configuration as new nor all as the same, whatever the number of parameters.
_MEDIAN_DISTANCE = 1.5
_STEPS = 60
# Where a residual's variance, noise and lengths are looked for: the latter as parts of the past's. Some of what past
# studies left unexplained was not chance. And by how many factors e each may vary: lengths freely, since what is left
# when the past is taken away need not vary as the past did.
_RESIDUAL_VARIANCE, _RESIDUAL_NOISE = 0.5, 0.4
_FIRST_VARIANCE, _FIRST_STRETCH = 0.6, 1.5
_VARIANCE_SPREAD, _NOISE_SPREAD, _LENGTHS_SPREAD = 1.0, 2.0, 1.2
# Where past studies had more noise than this share of their variance, a small move changes less than can be seen.
_ROUGH = 0.15
_MOST_NOISE = 0.5

Cost = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Kernel:
    """k(a, b) of variance 1 on columns divided by `lengths` [D].

    Args:
        amplitude, noise: variances of a study's function and of its results, for standardised scores.
    """

    lengths: np.ndarray
    amplitude: float = 1.0
    noise: float = 0.1

    @property
    def is_rough(self) -> bool:
        """Whether results differ by chance so much that neighbours cannot be told apart."""
        return self.noise > _ROUGH * (self.noise + self.amplitude)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariances [n, m] of rows."""
        return self.between(self.scaled(a), self.scaled(b))

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, D] in lengths, for `between`."""
        found: np.ndarray = rows / self.lengths
        return found

    @staticmethod
    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Covariances [n, m] of scaled rows."""
        return _matern(_squared_distances(a, b))


@dataclass(frozen=True)
class Nystroem:
    """Features φ(x) [n, M] with φ(x)·φ(y) ≈ k(x, y), exact on the inducing rows (Williams and Seeger 2001)."""

    kernel: Kernel
    inducing: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, kernel: Kernel, rows: np.ndarray, generator: np.random.Generator) -> Nystroem:
        """With inducing rows drawn from these."""
        distinct = np.unique(rows, axis=0)
        chosen = generator.permutation(len(distinct))[:_INDUCING]
        inducing = distinct[np.sort(chosen)]
        gram = kernel(inducing, inducing) + _JITTER * np.eye(len(inducing))
        return cls(kernel, inducing, cholesky(gram, lower=True))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Features of rows [n, D]."""
        found: np.ndarray = solve_triangular(self.root, self.kernel(self.inducing, rows), lower=True).T
        return found


def default_kernel(rows: np.ndarray) -> Kernel:
    """A kernel for rows nothing is known of: one length for all columns, from the rows' own distances."""
    return Kernel(np.full(rows.shape[1], _typical_length(rows)))


def fit_kernel(studies: Sequence[tuple[np.ndarray, np.ndarray]], generator: np.random.Generator) -> Kernel:
    """The kernel of the greatest joint likelihood over studies: rows [n, D] and their scores [n].

    Lengths are drawn towards that of an unfitted kernel; columns that never vary keep it.
    """
    chosen = generator.permutation(len(studies))[:_STUDIES]
    data = [_subsample(studies[i][0], studies[i][1], generator) for i in chosen]
    start = math.log(_typical_length(np.concatenate([rows for rows, _ in data])))
    columns = data[0][0].shape[1]

    def cost(at: np.ndarray) -> tuple[float, np.ndarray]:
        away = at[:columns] - start
        total, gradient = 0.5 * float(away @ away), np.concatenate([away, [0.0, 0.0]])
        for rows, scores in data:
            value, slope = negative_log_likelihood(at, rows, scores[:, None])
            total, gradient = total + value, gradient + slope
        return total, gradient

    bounds = [(start - 3, start + 4)] * columns + [(math.log(1e-3), 0.0), (math.log(0.05), math.log(5.0))]
    first = np.array([start] * columns + [math.log(0.1), 0.0])
    at = _minimum(cost, first, bounds)
    return Kernel(np.exp(at[:columns]), float(np.exp(at[columns + 1])), float(np.exp(at[columns])))


def residual_prior(kernel: Kernel) -> Kernel:
    """The kernel of the residual, what a target differs by from past studies, while there is nothing to fit it to."""
    lengths, noise = _FIRST_STRETCH * kernel.lengths, _RESIDUAL_NOISE * kernel.noise
    return replace(kernel, lengths=lengths, amplitude=_FIRST_VARIANCE, noise=noise)


def fit_residual(
    kernel: Kernel, rows: np.ndarray, errors: np.ndarray, weights: np.ndarray, own_noise: np.ndarray
) -> Kernel:
    """The kernel of the residual, fitted to the errors of hypotheses and drawn towards their `kernel`.

    Its lengths may become quite different, so that a target can depart from what does not hold for it.

    Args:
        rows: [n, D].
        errors: of each hypothesis, [n, H].
        weights: of the hypotheses, [H], summing to 1.
        own_noise: variance [n] known of each row beside what is found.
    """
    columns = rows.shape[1]
    middle = np.concatenate([np.log(kernel.lengths), np.log([_RESIDUAL_NOISE * kernel.noise, _RESIDUAL_VARIANCE])])
    spread = np.array([_LENGTHS_SPREAD] * columns + [_NOISE_SPREAD, _VARIANCE_SPREAD])
    targets = errors * np.sqrt(weights)

    def cost(at: np.ndarray) -> tuple[float, np.ndarray]:
        away = (at - middle) / spread
        value, slope = negative_log_likelihood(at, rows, targets, own_noise)
        return value + 0.5 * float(away @ away), slope + away / spread

    bounds = [(at - 3, at + 3) for at in middle[:columns]]
    bounds += [(math.log(1e-4), math.log(_MOST_NOISE)), (math.log(0.03), math.log(3.0))]
    at = _minimum(cost, middle, bounds)
    lengths, noise, variance = np.exp(at[:columns]), math.exp(at[columns]), math.exp(at[columns + 1])
    return replace(kernel, lengths=lengths, amplitude=variance, noise=noise)


def _minimum(cost: Cost, start: np.ndarray, bounds: list[tuple[float, float]]) -> np.ndarray:
    """Where a cost with a gradient is least, near `start`."""
    from scipy.optimize import minimize  # slow to import, and a fit that was kept needs none

    found: np.ndarray = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}).x
    return found


def negative_log_likelihood(
    at: np.ndarray, rows: np.ndarray, scores: np.ndarray, own_noise: np.ndarray | float = 0.0
) -> tuple[float, np.ndarray]:
    """Of scores [n, H] at rows [n, D], and its gradient; `at` holds the logarithms of lengths [D], noise and amplitude.

    The gradient is in these logarithms (Rasmussen and Williams 2006, 5.9).

    Columns of `scores` [n, H] are seen as parts of one: their squares add up, their determinant counts once.
    """
    columns = rows.shape[1]
    lengths, noise, amplitude = np.exp(at[:columns]), math.exp(at[columns]), math.exp(at[columns + 1])
    scaled = rows / lengths
    root5 = np.sqrt(5 * _squared_distances(scaled, scaled))
    gram = (1 + root5 + root5**2 / 3) * np.exp(-root5)
    nugget = np.eye(len(rows)) * (noise + own_noise + _JITTER)
    factor = cholesky(amplitude * gram + nugget, lower=True)
    solved = cho_solve((factor, True), scores)
    slope = 0.5 * (cho_solve((factor, True), np.eye(len(rows))) - solved @ solved.T)  # in the covariance
    # A length's derivative of k is 5/3 (1 + √5 r) exp(-√5 r) times the squared distance along its column.
    pull = slope * amplitude * (5 / 3) * (1 + root5) * np.exp(-root5)
    along = 2 * (pull.sum(1) @ scaled**2 - (scaled * (pull @ scaled)).sum(0))
    value = 0.5 * float((scores * solved).sum()) + np.log(np.diag(factor)).sum()
    return float(value), np.concatenate([along, [noise * np.trace(slope), amplitude * (slope * gram).sum()]])


def _subsample(rows: np.ndarray, scores: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chosen = generator.permutation(len(rows))[:_ROWS]
    return rows[chosen], scores[chosen]


def _typical_length(rows: np.ndarray) -> float:
    """Through a few hundred pairs in a fixed order."""
    pairs = np.random.default_rng(0).integers(0, len(rows), (2, 500))
    distances = np.sqrt(((rows[pairs[0]] - rows[pairs[1]]) ** 2).sum(1))
    distances = distances[distances > 0]
    return float(np.median(distances)) / _MEDIAN_DISTANCE if len(distances) else 1.0


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = (a**2).sum(1)[:, None] + (b**2).sum(1)
    found -= 2 * a @ b.T
    return np.maximum(found, 0.0, out=found)


def _matern(squared: np.ndarray) -> np.ndarray:
    """In few arrays: at a million pairs memory is most of the time."""
    root5 = np.sqrt(5 * squared)
    found: np.ndarray = 1 + root5
    found += root5**2 / 3
    found *= np.exp(np.negative(root5, out=root5), out=root5)
    return found
