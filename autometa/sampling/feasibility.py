"""How likely a configuration keeps a study's constraints, by those that its trials kept or violated.

One Gaussian process per constraint, independent of each other, as in constrained expected improvement (Gardner et al.
2014). It knows nothing of objectives, and nothing of past studies, since their constraints were not these.

Symbols: n trials, C candidates, D columns of the encoding, K constraints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from autometa.sampling.kernel import default_kernel, fit_kernel

Feasibility = Callable[[np.ndarray], np.ndarray]

_LEAST_TO_FIT = 4
# A probability below the first makes an improvement worth next to nothing. With the best on a border, 53 of 90 trials
# were feasible by 0.7 and 48 by 0.6; 21 without, and 50 of TPE's.
_LEAST, _UNLIKELY = 0.7, 1e-12
_LATEST = 200  # trials: a few milliseconds, and enough to know a border by
_JITTER = 1e-6


def always(rows: np.ndarray) -> np.ndarray:
    """Probability 1 of all candidates [C]: where no constraint was violated yet."""
    return np.ones(len(rows))


def feasibility(rows: np.ndarray, constraints: np.ndarray | None) -> Feasibility:
    """A function from rows [C, D] to what an improvement there is worth [C], for the chance to keep all constraints.

    That is the probability itself, and next to nothing where it is small: near the best feasible trial little can be
    gained, and a great gain beyond the border would outweigh any small probability.

    Args:
        rows: of the trials, [n, D].
        constraints: their values [n, K], kept where at most 0; NaN where not (yet) known; None for none.
    """
    if constraints is None:
        return always
    parts = [_satisfied(rows, values) for values in constraints.T if (values > 0).any()]

    def together(candidates: np.ndarray) -> np.ndarray:
        found = np.ones(len(candidates))
        for part in parts:
            found = found * part(candidates)
        return np.where(found < _LEAST, _UNLIKELY * found, found)

    return together


def _satisfied(rows: np.ndarray, values: np.ndarray) -> Feasibility:
    """The same for one constraint, of values [n]."""
    known = np.flatnonzero(~np.isnan(values))[-_LATEST:]
    rows, margins = rows[known], _margins(values[known])
    enough = len(known) >= _LEAST_TO_FIT
    kernel = fit_kernel([(rows, margins)], np.random.default_rng(0)) if enough else default_kernel(rows)
    gram = kernel.amplitude * kernel(rows, rows) + (kernel.noise + _JITTER) * np.eye(len(rows))
    factor = cho_factor(gram, lower=True)
    solved = cho_solve(factor, margins)

    def probability(candidates: np.ndarray) -> np.ndarray:
        across = kernel.amplitude * kernel(candidates, rows)
        explained = (across * cho_solve(factor, across.T).T).sum(1)
        spread = np.sqrt(np.maximum(kernel.amplitude - explained, 0.0) + kernel.noise)
        found: np.ndarray = ndtr(-(across @ solved) / spread)
        return found

    return probability


def _margins(values: np.ndarray) -> np.ndarray:
    """Values [n] in -1 … 1, below 0 where the constraint is kept: half for that alone, half for by how much.

    Each side by its own usual size: many constraints say yes or no, and some a million for no.
    """
    found = np.empty(len(values))
    for side, sign in ((values > 0, 0.5), (values <= 0, -0.5)):
        sizes = np.abs(values[side])
        sizes = sizes - sizes.min(initial=np.inf)
        usual = np.median(sizes[sizes > 0]) if sizes.any() else 1.0
        found[side] = sign * (1 + np.minimum(sizes / (2 * usual), 1.0))
    return found
