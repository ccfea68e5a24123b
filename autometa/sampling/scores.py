"""Results of one study as scores that compare between studies, rung by rung.

A score is in standard deviations of the study's own results, greater is better. Values of different rungs are
never compared: trials are scored among those that reached the same rung, and whoever went on starts from the
mean and spread that the same trials had one rung before.

Symbols: n trials, R rungs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

Scale = Callable[[np.ndarray], np.ndarray]

_Z95 = 1.96
# Variance of what a trial would still have changed, had it gone from its first rung to its last; rank
# correlations of 0.8 to 0.9 between a third of a curve and its end are common.
_CUT_SHORT = 0.3


@dataclass(frozen=True)
class Results:
    """What the trials of a study showed.

    Args:
        values: [n, R], greater is better, NaN where a trial was not (yet).
        half_widths: [n, R] of the values' 95 % intervals, NaN or 0 where unknown.
        constraints: [n, K], kept where at most 0, NaN where not (yet) known; None where none was violated.
    """

    values: np.ndarray
    half_widths: np.ndarray
    constraints: np.ndarray | None = None

    @property
    def feasible(self) -> np.ndarray:
        """Which trials [n] are not known to violate a constraint."""
        if self.constraints is None:
            return np.ones(len(self.values), dtype=bool)
        return np.logical_not((self.constraints > 0).any(axis=1))

    def of(self, trials: np.ndarray) -> Results:
        """Of some trials alone, by index."""
        constraints = None if self.constraints is None else self.constraints[trials]
        return Results(self.values[trials], self.half_widths[trials], constraints)

    @property
    def last(self) -> np.ndarray:
        """Index [n] of the last rung each trial showed, -1 for none."""
        shown = ~np.isnan(self.values)
        return np.where(shown.any(1), shown.shape[1] - 1 - shown[:, ::-1].argmax(1), -1)


def scored(results: Results, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] and their own variance [n]; NaN for trials that showed nothing."""
    last, rungs = results.last, results.values.shape[1]
    scores = np.full(len(last), np.nan)
    noise = np.zeros(len(last))
    for rung in range(rungs):
        here = ~np.isnan(results.values[:, rung])
        if not here.any():
            continue
        fresh = scale(results.values[here, rung])
        before = scores[here]
        known = ~np.isnan(before)
        centre, spread = (before[known].mean(), before[known].std()) if known.any() else (0.0, 1.0)
        first = not known.any() or here.sum() == (last >= 0).sum()
        scores[here] = fresh if first else centre + max(spread, 0.1) * (fresh - fresh.mean())
        noise[here] = _CUT_SHORT * (1 - (rung + 1) / rungs) ** 2 + _drawing(results, rung, here)
    return scores, noise


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Normal scores of the values' ranks [n]: robust, for studies that are over."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # of each value, from 1; ties share the mean of theirs
    return ndtri((rank[place] - 0.5) / len(values))


def standardised(values: np.ndarray) -> np.ndarray:
    """Values [n] to mean 0 and spread 1, the worst moved up first: a diverged trial shall not hide the others.

    Unlike ranks they show how much better the best is, which is what the end of a search is about.
    """
    kept = worst_moved_up(values)
    spread = kept.std()
    return (kept - kept.mean()) / spread if spread > 0 else np.zeros(len(values))


def worst_moved_up(values: np.ndarray) -> np.ndarray:
    """Values [n, ...], each at most twice as far below the median of its column as the best is above it."""
    middle = np.median(values, axis=0)
    found: np.ndarray = np.maximum(values, middle - 2 * (values.max(axis=0) - middle))
    return found


def _drawing(results: Results, rung: int, here: np.ndarray) -> np.ndarray:
    """Variance of the values' own intervals in units of the spread of values at this rung."""
    widths = np.nan_to_num(results.half_widths[here, rung]) / _Z95
    variance = results.values[here, rung].var()
    return np.minimum(widths**2 / variance, 1.0) if variance > 0 else np.zeros(int(here.sum()))
