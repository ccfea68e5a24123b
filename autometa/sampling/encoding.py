"""The domain of a target study and its encoding: the coordinates in which all studies are compared.

A configuration is a row of codes, one per parameter: a number's place in its range (0 … 1 within, on the scale
of the range), or the index of a category. A code is NaN where the parameter is inactive or nobody noted it. This
file does not know which configurations are good.

Symbols: n configurations, P parameters, D columns of the encoding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autometa.records import Scalar
from autometa.space.parameters import Choice, Range, same
from autometa.space.space import SearchSpace

Values = Mapping[str, Scalar]

# Past values outside the target's range keep their distance to it, but not one that drowns all others.
_OUTSIDE = 0.5


@dataclass(frozen=True)
class Condition:
    """A parameter is active only where the code of its parent is one of these, or between low and high."""

    parent: str
    codes: frozenset[int] = frozenset()
    low: float = math.nan
    high: float = math.nan

    def holds(self, codes: np.ndarray) -> np.ndarray:
        """Whether it holds, for codes [n] of the parent."""
        if self.codes:
            found = np.zeros(len(codes), dtype=bool)
            for code in self.codes:  # a few; numpy.isin takes ten times as long
                found |= codes == code
            return found
        return (codes >= self.low - 1e-9) & (codes <= self.high + 1e-9)


@dataclass(frozen=True)
class Domain:
    """Parameters with their ranges and conditions, parents before children.

    Args:
        defaults: codes that a past configuration gets where it lacks a parameter; at random without.
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Mapping[str, Sequence[Condition]] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_space(cls, space: SearchSpace) -> Domain:
        """The domain of a search space."""
        distributions = {p.name: distribution_of(p) for p in space}
        conditions = {}
        for parameter in space:
            conditions[parameter.name] = [
                Condition(parent, frozenset(index_of(distributions[parent], v) for v in allowed))
                for parent, allowed in parameter.when.items()
            ]
        defaults = {p.name: code_of(distributions[p.name], p.first) for p in space}
        return cls(distributions, conditions, defaults)

    @cached_property
    def names(self) -> list[str]:
        """The parameters in order."""
        return list(self.distributions)

    @cached_property
    def is_category(self) -> np.ndarray:
        """Whether each parameter [P] has categories."""
        return np.array([isinstance(d, CategoricalDistribution) for d in self.distributions.values()], dtype=bool)

    @cached_property
    def _counts(self) -> np.ndarray:
        """Categories of each parameter [P]; 1 for numbers."""
        counts = [len(d.choices) if hasattr(d, "choices") else 1 for d in self.distributions.values()]
        return np.array(counts, dtype=int)

    def codes(self, configurations: Sequence[Values]) -> np.ndarray:
        """Codes [n, P] of configurations, which may lack parameters or have others."""
        found = np.full((len(configurations), len(self.names)), np.nan)
        for row, values in enumerate(configurations):
            for column, (name, distribution) in enumerate(self.distributions.items()):
                if name in values:
                    found[row, column] = code_of(distribution, values[name])
        return found

    def values(self, codes: np.ndarray) -> dict[str, Scalar]:
        """The configuration of one row of codes [P]: its active parameters only."""
        active = self.active(codes[None])[0]
        pairs = zip(self.distributions.items(), codes, active, strict=True)
        return {name: value_of(distribution, code) for (name, distribution), code, on in pairs if on}

    def active(self, codes: np.ndarray) -> np.ndarray:
        """Which parameters are active, bool [n, P]: known, and their conditions hold."""
        found = ~np.isnan(codes)
        for (parent, condition), children in self._children.items():
            found[:, children] &= (found[:, parent] & condition.holds(codes[:, parent]))[:, None]
        return found

    @cached_property
    def _children(self) -> dict[tuple[int, Condition], list[int]]:
        """Places of the parameters that have the same condition, by the parent's place and it."""
        places = {name: place for place, name in enumerate(self.names)}
        children: dict[tuple[int, Condition], list[int]] = {}
        for name in self.names:
            for condition in self.conditions.get(name, ()):
                children.setdefault((places[condition.parent], condition), []).append(places[name])
        return children

    def keys(self, codes: np.ndarray) -> list[bytes]:
        """One key per row [n]: equal where the active parameters have equal values."""
        return _keys(codes, self.active(codes))

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Columns [n, D] for kernels: two configurations that differ in one category, or wholly in one number,
        are 1 apart. A parameter that may be inactive has a column that says so, and is in the middle then.
        """
        return self._encoded(codes, self.active(codes))

    def encode_with_keys(self, codes: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
        """`encode` and `keys`, for less than both."""
        active = self.active(codes)
        return self._encoded(codes, active), _keys(codes, active)

    def _encoded(self, codes: np.ndarray, active: np.ndarray) -> np.ndarray:
        numbers, categories, flag_at, number_at, choice_at, choices = self._layout
        found = np.empty((len(codes), len(flag_at) + len(number_at) + len(choice_at)))
        found[:, flag_at] = active
        found[:, number_at] = np.where(active[:, numbers], codes[:, numbers], 0.5)
        found[:, choice_at] = (codes[:, categories] == choices) * active[:, categories] / math.sqrt(2)
        return found

    @cached_property
    def _layout(self) -> tuple[np.ndarray, ...]:
        """Which parameters are numbers, and the parameter of each category's column; the columns of the flags [P],
        the numbers and the categories; and of what category the latter are.

        A parameter's columns are its flag, and then its number or its categories.
        """
        starts = np.cumsum(1 + self._counts) - (1 + self._counts)
        numbers, categories = np.flatnonzero(~self.is_category), np.flatnonzero(self.is_category)
        of = np.repeat(categories, self._counts[categories])
        choices = np.concatenate([np.arange(count) for count in self._counts[categories]] or [np.zeros(0)])
        return numbers, of, starts, starts[numbers] + 1, starts[of] + 1 + choices.astype(int), choices

    @property
    def number_columns(self) -> np.ndarray:
        """Columns of the encoding that are codes of numbers, in the order of these parameters."""
        return self._layout[3]

    def sample(self, generator: np.random.Generator, n: int) -> np.ndarray:
        """Random codes [n, P] without gaps: what is inactive has a value too, for when it becomes active."""
        drawn = generator.random((n, len(self.names)))
        drawn[:, self.is_category] = np.floor(drawn * self._counts)[:, self.is_category]
        return self.on_grid(drawn)

    def imputed(self, codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The codes within the ranges, with missing values and unknown categories imputed."""
        bad = np.isnan(codes) | (self.is_category & (codes < 0))
        inside = np.where(self.is_category, codes, np.clip(codes, 0, 1))
        new = self.sample(generator, len(codes))
        for column, name in enumerate(self.names):
            new[:, column] = self.defaults.get(name, new[:, column])
        return self.on_grid(np.where(bad, new, inside))

    def neighbours(self, codes: np.ndarray, generator: np.random.Generator, each: int, scale: float) -> np.ndarray:
        """Neighbours [n · each, P]: one or a few parameters moved, numbers by about `scale` of their range."""
        rows = np.repeat(codes, each, axis=0)
        share = generator.choice([0.15, 0.3, 0.6], size=(len(rows), 1))
        chosen = generator.random(rows.shape) < share
        chosen[np.arange(len(rows)), generator.integers(0, rows.shape[1], len(rows))] = True
        width = scale * np.exp(0.7 * generator.standard_normal((len(rows), 1)))
        numbers = np.clip(rows + width * generator.standard_normal(rows.shape), 0, 1)
        categories = np.floor(generator.random(rows.shape) * self._counts)
        return self.on_grid(np.where(chosen, np.where(self.is_category, categories, numbers), rows))

    def on_grid(self, codes: np.ndarray) -> np.ndarray:
        """The codes rounded to the grid of parameters with steps."""
        found = codes.copy()
        for column, distribution in enumerate(self.distributions.values()):
            if not self.is_category[column] and getattr(distribution, "step", None):
                found[:, column] = _on_steps(distribution, found[:, column])
        return found


def infer_domain(distributions: Mapping[str, BaseDistribution], examples: Sequence[Values]) -> Domain:
    """A domain whose conditions are read off which parameters appeared together.

    A parameter that is often absent gets conditions on parents (categories or numbers that were there whenever
    it was): greedily, the parent that explains most absences first, until none is left to explain.
    """
    present = {name: np.array([name in values for values in examples], dtype=bool) for name in distributions}
    order = sorted(distributions, key=lambda name: -int(present[name].sum()))
    domain = Domain({name: distributions[name] for name in order})
    codes = domain.codes(examples)
    conditions = {}
    for place, name in enumerate(order):
        absent = ~present[name]
        if present[name].any() and absent.any():
            conditions[name] = list(_conditions(domain, codes, present, name, order[:place]))
    return Domain(domain.distributions, conditions)


def _conditions(
    domain: Domain, codes: np.ndarray, present: Mapping[str, np.ndarray], name: str, parents: Sequence[str]
) -> list[Condition]:
    there, left = present[name], ~present[name]
    found: list[Condition] = []
    possible = [p for p in parents if present[p][there].all()]
    options = [_seen_with(domain, codes, p, there) for p in possible]
    while left.any() and options:
        explained = [_explains(domain, codes, present, c) & left for c in options]
        best = max(range(len(options)), key=lambda i: int(explained[i].sum()))
        if not explained[best].any():
            break
        found.append(options.pop(best))
        left = left & ~explained[best]
    return found


def _seen_with(domain: Domain, codes: np.ndarray, parent: str, there: np.ndarray) -> Condition:
    column = domain.names.index(parent)
    seen = codes[there, column]
    if domain.is_category[column]:
        return Condition(parent, frozenset(int(c) for c in seen))
    return Condition(parent, low=float(seen.min()), high=float(seen.max()))


def _explains(domain: Domain, codes: np.ndarray, present: Mapping[str, np.ndarray], condition: Condition) -> np.ndarray:
    """Configurations [n] that have the parent, with a value under which the child never appeared."""
    return present[condition.parent] & ~condition.holds(codes[:, domain.names.index(condition.parent)])


def distribution_of(parameter: Any) -> BaseDistribution:
    """Optuna's distribution of a parameter of a search space."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, Range) and parameter.integer:
        return IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
        )
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def index_of(distribution: Any, value: object) -> int:
    """Place of a category, or -1; `None` is archived as a word."""
    for place, choice in enumerate(distribution.choices):
        if same(choice, value) or (choice is None and value == "None"):
            return place
    return -1


def code_of(distribution: Any, value: Any) -> float:
    """The code of one value; NaN for what is no number where a number belongs."""
    if isinstance(distribution, CategoricalDistribution):
        return float(index_of(distribution, value))
    if isinstance(value, str) or (distribution.log and value <= 0):
        return math.nan
    at = math.log if distribution.log else float
    low, high = at(distribution.low), at(distribution.high)
    code = (at(value) - low) / (high - low) if high > low else 0.0
    return min(max(code, -_OUTSIDE), 1 + _OUTSIDE)


def value_of(distribution: Any, code: float) -> Any:
    """The value of one code."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(code)]
    low, high = distribution.low, distribution.high
    value = math.exp(math.log(low) + code * math.log(high / low)) if distribution.log else low + code * (high - low)
    if distribution.step:
        value = low + round((value - low) / distribution.step) * distribution.step
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _keys(codes: np.ndarray, active: np.ndarray) -> list[bytes]:
    canonical = np.where(active, np.round(codes, 9), -9.0) + 0.0  # no negative zeros
    return [row.tobytes() for row in canonical]


def _on_steps(distribution: Any, codes: np.ndarray) -> np.ndarray:
    low, high, log = distribution.low, distribution.high, distribution.log
    if high <= low:
        return np.zeros_like(codes)
    start, end = (math.log(low), math.log(high)) if log else (low, high)
    values = start + codes * (end - start)
    values = np.exp(values) if log else values
    steps = np.clip(np.round((values - low) / distribution.step), 0, round((high - low) / distribution.step))
    values = low + steps * distribution.step
    return ((np.log(values) if log else values) - start) / (end - start)
