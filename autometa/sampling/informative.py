"""Which past studies tell good configurations from bad ones, and which might as well be noise.

Each study is predicted from its other trials, and its results are permuted to see how well noise would be. The kernel
is fixed before: one fitted to the results would find some structure in any noise. It does not know what is made of
the studies that pass.

Symbols: n trials of one study or of several together, D columns of the encoding, B permutations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import solve
from scipy.special import ndtri

from autometa.sampling.kernel import default_kernel

# The chance that studies of noise alone pass for informative, all of them together. A search is led astray by large
# ones; small ones weigh little, and a first search has no others.
FALSE_ALARM, FALSE_ALARM_OF_SMALL = 0.005, 0.05
# A study of fewer trials is too small to show skill of its own, and stands or falls with the others like it.
SMALL = 50
_ROUNDING = 1e-9
# Trials that are looked at: enough for a power near 1, and milliseconds a study.
_MOST_ALONE, _MOST_TOGETHER = 200, 400
# Of a large study these give the mean and spread of chance, whose tail is thinner than a normal one: at 50 trials .005
# by it is .002 by 40,000 permutations. Small studies are compared with each permutation instead.
_PERMUTATIONS, _PERMUTATIONS_OF_SMALL = 200, 999

Rated = tuple[np.ndarray, np.ndarray]  # encoded rows [n, D] and scores [n] of one study


def uninformative(studies: Sequence[Rated], seed: int = 0) -> set[int]:
    """Indices of the studies whose results could be chance; small ones pass or fail together."""
    generator = np.random.default_rng(seed)
    large = [index for index, (_, scores) in enumerate(studies) if len(scores) >= SMALL]
    small = [index for index, (_, scores) in enumerate(studies) if len(scores) < SMALL]
    found = _doubtful({index: _deviations(studies[index], generator) for index in large})
    if small and _chance([studies[i] for i in small], generator) > FALSE_ALARM_OF_SMALL:
        found |= set(small)
    return found


def _doubtful(deviations: Mapping[int, float]) -> set[int]:
    """Studies that do not stand out, all tests together at the level of one (Holm 1979)."""
    order = sorted(deviations, key=lambda index: -deviations[index])
    for place, index in enumerate(order):
        if deviations[index] < -ndtri(FALSE_ALARM / (len(order) - place)):
            return set(order[place:])
    return set()


def _deviations(study: Rated, generator: np.random.Generator) -> float:
    """By how many standard deviations a study's trials predict each other better than permuted ones do."""
    skill = _skill([_some(study, _MOST_ALONE, generator)], _PERMUTATIONS, generator)
    spread = skill[1:].std()
    return float((skill[0] - skill[1:].mean()) / spread) if spread > 0 else 0.0


def _chance(studies: Sequence[Rated], generator: np.random.Generator) -> float:
    """The chance that trials with permuted results predict each other as well, in studies taken together."""
    chosen: list[Rated] = []
    for index in generator.permutation(len(studies)):
        if sum(len(scores) for _, scores in chosen) + len(studies[index][1]) <= _MOST_TOGETHER:
            chosen.append(studies[index])
    skill = _skill(chosen, _PERMUTATIONS_OF_SMALL, generator)
    return float((skill >= skill[0] - 1e-9).mean())


def _skill(studies: Sequence[Rated], permutations: int, generator: np.random.Generator) -> np.ndarray:
    """How well trials are predicted from all others: first with their own results, then permuted, [1 + B].

    Predictions times scores over the length of the predictions, within each study centred.
    """
    scores = np.concatenate([_permuted(s - s.mean(), permutations, generator) for _, s in studies])  # (n, 1 + B)
    predicted = _left_out(_covariance(studies)) @ scores
    lengths = np.sqrt((predicted**2).sum(0))
    found: np.ndarray = (predicted * scores).sum(0) / np.maximum(lengths, 1e-12)
    return found


def _covariance(studies: Sequence[Rated]) -> np.ndarray:
    """k(rows, rows) [n, n], centred within each study, of mean variance 1.

    Half is a smooth function of all columns together, half a sum of parabolas, one a column: few trials show what one
    parameter does, and more what several do together.
    """
    rows = np.concatenate([rows for rows, _ in studies])
    columns = np.column_stack([rows, 2 * (rows - 0.5) ** 2])
    own = np.repeat(np.arange(len(studies)), [len(scores) for _, scores in studies])
    same = own[:, None] == own
    centring = np.eye(len(rows)) - same / same.sum(1)
    kernel = default_kernel(rows)
    found = np.zeros_like(same, dtype=float)
    for part in (kernel(rows, rows), columns @ columns.T):
        centred = centring @ part @ centring
        if np.trace(centred) > _ROUNDING * np.trace(part):  # else all rows of each study are alike
            found += centred * len(rows) / 2 / np.trace(centred)
    return found


def _left_out(covariance: np.ndarray) -> np.ndarray:
    """What makes of scores [n] the predictions [n] of each from all others, at a noise of 1 (Allen 1974's PRESS)."""
    smoother = solve(covariance + np.eye(len(covariance)), covariance, assume_a="pos").T
    leverage = np.diag(smoother)
    found: np.ndarray = (smoother - np.diag(leverage)) / (1 - leverage)[:, None]
    return found


def _permuted(scores: np.ndarray, permutations: int, generator: np.random.Generator) -> np.ndarray:
    """The scores, and so many permutations of them, [n, 1 + B]."""
    repeated = np.repeat(scores[:, None], permutations, axis=1)
    return np.column_stack([scores, generator.permuted(repeated, axis=0)])


def _some(study: Rated, most: int, generator: np.random.Generator) -> Rated:
    """The study with at most so many of its trials."""
    rows, scores = study
    if len(scores) <= most:
        return study
    chosen = np.sort(generator.permutation(len(scores))[:most])
    return rows[chosen], scores[chosen]
