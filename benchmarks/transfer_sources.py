"""What may be done to past studies before a method sees them: nothing, or what makes them mislead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from optuna.distributions import (
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from transfer_tasks import Cube, Distributions

from autometa.past import PastReport, PastStudy

Transform = Callable[[Sequence[PastStudy], int], list[PastStudy]]


def real(past: Sequence[PastStudy], seed: int) -> list[PastStudy]:
    return list(past)


def shuffled(past: Sequence[PastStudy], seed: int) -> list[PastStudy]:
    """Each trial with the curve of another trial of its study."""
    generator = np.random.default_rng(seed)
    return [_relabelled(study, generator.permutation(len(study.trials))) for study in past]


def unrelated(past: Sequence[PastStudy], seed: int) -> list[PastStudy]:
    """Each study as if of another space, its trials drawn there: half of the parameters have other names.

    The other half keep theirs but range from the middle of what they did to as far beyond its end, so that
    their values look like the task's own and mean nothing.
    """
    generator = np.random.default_rng(seed)
    return [_moved(study, generator) for study in past]


def upside_down(past: Sequence[PastStudy], seed: int) -> list[PastStudy]:
    """Each trial with its values negated: what was best is worst, as predictably as before."""
    return [
        replace(study, trials=tuple(replace(trial, curve=_negated(trial.curve)) for trial in study.trials))
        for study in past
    ]


TRANSFORMS: dict[str, Transform] = {
    "real": real,
    "shuffled": shuffled,
    "unrelated": unrelated,
    "upside-down": upside_down,
}


def _negated(curve: Sequence[PastReport]) -> tuple[PastReport, ...]:
    return tuple(replace(report, value=-report.value) for report in curve)


def _relabelled(study: PastStudy, order: Sequence[int]) -> PastStudy:
    trials = [replace(trial, curve=study.trials[other].curve) for trial, other in zip(study.trials, order, strict=True)]
    return replace(study, trials=tuple(trials))


def _moved(study: PastStudy, generator: np.random.Generator) -> PastStudy:
    space: Distributions = {}
    for index, (name, text) in enumerate(study.ranges.items()):
        distribution = json_to_distribution(text)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        space[f"other_{name}" if index % 2 else name] = _beyond(distribution)
    cube = Cube(space)
    drawn = cube.draw(len(study.trials), generator)
    trials = [replace(trial, values=cube.values(point)) for trial, point in zip(study.trials, drawn, strict=True)]
    ranges = {name: distribution_to_json(distribution) for name, distribution in space.items()}
    return replace(study, trials=tuple(trials), ranges=ranges)


def _beyond(distribution: FloatDistribution | IntDistribution) -> FloatDistribution | IntDistribution:
    half = (distribution.high - distribution.low) / 2
    if isinstance(distribution, IntDistribution):
        return IntDistribution(int(distribution.low + half), int(distribution.high + half), log=distribution.log)
    return FloatDistribution(distribution.low + half, distribution.high + half, log=distribution.log)
