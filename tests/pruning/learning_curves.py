"""Learning curves to test with: power laws that cross, in studies of many scales."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autometa.past import PastReport, PastStudy, PastTrial

Array = NDArray[np.float64]


def power_laws(trials: int, rungs: int, seed: int, noise: float = 0.002) -> Array:
    """(trial, rung): a - b * t ** -c with all three random, so slow starters overtake."""
    generator = np.random.default_rng(seed)
    end, drop, rate = (
        generator.beta(5, 3, trials),
        generator.uniform(0.1, 0.6, trials),
        generator.uniform(0.3, 2, trials),
    )
    share = np.arange(1, rungs + 1) / rungs
    curves = end[:, None] - drop[:, None] * ((share[None] * 10) ** -rate[:, None])
    return curves + noise * generator.standard_normal(curves.shape)


def as_study(curves: Array, name: str, *, direction: str = "maximize", keep: Array | None = None) -> PastStudy:
    """`keep` says how many rungs each trial was allowed."""
    rungs = curves.shape[1]
    kept = np.full(len(curves), rungs) if keep is None else keep
    trials = tuple(
        PastTrial(
            {},
            tuple(PastReport(rung + 1, float(row[rung])) for rung in range(last)),
            "complete" if last == rungs else "pruned",
            number,
        )
        for number, (row, last) in enumerate(zip(curves, kept, strict=True))
    )
    return PastStudy(name, trials, direction=direction)  # type: ignore[arg-type]


def past_studies(studies: int = 8, *, trials: int = 60, rungs: int = 9, seed: int = 100) -> list[PastStudy]:
    """Past studies, each in a unit and from a zero of its own."""
    return [
        as_study(10.0 ** (index % 5 - 2) * (power_laws(trials, rungs, seed + index) + 3 * index), f"past {index}")
        for index in range(studies)
    ]


def halved(curves: Array) -> Array:
    """How many rungs successive halving allows each trial, when all start together."""
    kept = np.full(len(curves), 2)
    for rung, then in ((2, 4), (4, 8), (8, curves.shape[1])):
        there = np.flatnonzero(kept == rung)
        best = there[np.argsort(-curves[there, rung - 1])][: max(1, len(there) // 2)]
        kept[best] = then
    return kept
