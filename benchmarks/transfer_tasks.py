"""What the tasks of a transfer benchmark share: their form, the unit cube of their parameters, and regret.

It does not know where tasks come from; `transfer_lcbench.py` and `transfer_deepar.py` do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution, distribution_to_json

from autometa.past import Direction, PastReport, PastStudy, PastTrial

Values = dict[str, Any]
Distributions = dict[str, BaseDistribution]
Array = np.ndarray[Any, np.dtype[np.float64]]


class Report(NamedTuple):
    """What a trial shows at a rung, and the seconds of training until then."""

    rung: int
    value: float
    seconds: float


class Task(Protocol):
    """One search to do. Made anew for each run, for a table remembers which rows it has given."""

    name: str
    direction: Direction
    distributions: Distributions

    def curve(self, values: Values) -> list[Report]:
        """Train this configuration in full; the last report is its result."""

    def evaluate(self, values: Values) -> float:
        """The result alone."""


class Suite(Protocol):
    """Tasks of one space, each with the past studies of all others."""

    label: str
    names: tuple[str, ...]
    rivals: tuple[str, ...]  # cold methods; the best of them per task sets the regret to reach

    def task(self, name: str) -> Task:
        """That task, with nothing evaluated yet."""

    def sources(self, name: str) -> list[PastStudy]:
        """What is known when that task is searched: all others."""

    def scale(self, name: str) -> Scale:
        """Where that task's regret is 0 and 1."""


@dataclass(frozen=True)
class Scale:
    """Regret on one task: 1 = a median random configuration, 0 = best; what beats the best known is 0, too."""

    best: float
    median: float

    def regret(self, value: float) -> float:
        return max((value - self.best) / (self.median - self.best), 0.0)

    def incumbents(self, values: Sequence[float]) -> list[float]:
        """The regret of the best so far, after each trial."""
        return list(itertools.accumulate(map(self.regret, values), min))


@dataclass(frozen=True)
class Cube:
    """A space of numbers as the unit cube, logarithmic where its distributions are."""

    distributions: Distributions

    def to_unit(self, points: Array) -> Array:
        """Points in (n, parameter), in the space's own units, as points in [0, 1]."""
        columns = zip(points.T, self._numbers(), strict=True)
        return np.stack([(_scaled(d, x) - low) / (high - low) for x, (d, low, high) in columns], axis=1)

    def from_unit(self, unit: Array) -> Array:
        """The reverse; integers are rounded."""
        columns = zip(unit.T, self._numbers(), strict=True)
        return np.stack([_unscaled(d, low + u * (high - low)) for u, (d, low, high) in columns], axis=1)

    def draw(self, count: int, generator: np.random.Generator) -> Array:
        """Random points in (count, parameter), in the space's own units."""
        return self.from_unit(generator.random((count, len(self.distributions))))

    def points(self, values: Sequence[Mapping[str, Any]]) -> Array:
        return np.array([[float(v[name]) for name in self.distributions] for v in values])

    def values(self, point: Array) -> Values:
        """One point as parameters by their names."""
        pairs = zip(self.distributions.items(), point, strict=True)
        return {name: int(x) if isinstance(d, IntDistribution) else float(x) for (name, d), x in pairs}

    def _numbers(self) -> list[tuple[FloatDistribution | IntDistribution, float, float]]:
        found = []
        for d in self.distributions.values():
            assert isinstance(d, FloatDistribution | IntDistribution)
            half = 0.5 if isinstance(d, IntDistribution) else 0.0  # each integer has an equal part of its side
            low, high = float(d.low - half), float(d.high + half)
            found.append((d, math.log(low), math.log(high)) if d.log else (d, low, high))
        return found


def _scaled(distribution: FloatDistribution | IntDistribution, x: Array) -> Array:
    return np.log(x) if distribution.log else x


def _unscaled(distribution: FloatDistribution | IntDistribution, x: Array) -> Array:
    x = np.exp(x) if distribution.log else x
    x = np.round(x) if isinstance(distribution, IntDistribution) else x
    return np.clip(x, distribution.low, distribution.high)


def past_study(task: Task, trials: Sequence[tuple[Values, Sequence[Report]]]) -> PastStudy:
    """A study of that task that ran these trials in full."""
    return PastStudy(
        name=task.name,
        trials=tuple(PastTrial(values, tuple(PastReport(*report) for report in curve)) for values, curve in trials),
        direction=task.direction,
        ranges={name: distribution_to_json(d) for name, d in task.distributions.items()},
        dataset=task.name,
    )
