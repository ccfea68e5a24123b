"""The two kinds of parameter a space is made of: a choice among values, and a numeric range.

They know how to ask a trial for a value, whether a value is theirs, and how to write it as numbers; they
do not know Optuna (a trial is anything with its `suggest_*` methods) or the other parameters.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from autometa import aliases

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Parameter(ABC):
    """One thing that may vary. It is active when every parameter in `when` has one of the values given."""

    name: str
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict, kw_only=True)

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers needed to encode one value."""

    @property
    @abstractmethod
    def first(self) -> Scalar:
        """The first choice, or the lowest value."""

    @abstractmethod
    def suggest(self, trial: Any) -> Scalar:
        """Ask an Optuna-like trial for a value."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Whether `value` is one this parameter may take."""

    @abstractmethod
    def encode(self, value: Any) -> list[float]:
        """The value as `width` numbers in [0, 1]."""

    @abstractmethod
    def each(self) -> Iterable[Scalar] | None:
        """All its values in order; None where there is no end of them."""

    @abstractmethod
    def allowed(self) -> str:
        """What it may take, for people."""

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether this parameter plays a part, given the values of those it depends on."""
        return all(any(same(values.get(k), v) for v in allowed) for k, allowed in self.when.items())

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same with other names for it and for what it depends on."""
        return dataclasses.replace(self, name=names.get(self.name, self.name), when=aliases.renamed(self.when, names))


@dataclass(frozen=True)
class Choice(Parameter):
    """One of a few values without order; encoded one-hot."""

    choices: tuple[Scalar, ...]

    @property
    def width(self) -> int:
        return len(self.choices)

    @property
    def first(self) -> Scalar:
        return self.choices[0]

    def suggest(self, trial: Any) -> Scalar:
        value: Scalar = trial.suggest_categorical(self.name, list(self.choices))
        return value

    def contains(self, value: object) -> bool:
        return any(same(value, choice) for choice in self.choices)

    def encode(self, value: Any) -> list[float]:
        return [1.0 if same(value, choice) else 0.0 for choice in self.choices]

    def each(self) -> Iterable[Scalar]:
        return self.choices

    def allowed(self) -> str:
        return " | ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices)


@dataclass(frozen=True)
class Range(Parameter):
    """A number between `low` and `high`, both included; on a log scale where `log`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    @property
    def width(self) -> int:
        return 1

    @property
    def first(self) -> Scalar:
        return int(self.low) if self.integer else float(self.low)

    def suggest(self, trial: Any) -> Scalar:
        if self.integer:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return int(trial.suggest_int(self.name, low, high, step=step, log=self.log))
        return float(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))

    def contains(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = not self.integer or value == int(value)
        return whole and self.low <= value <= self.high and self._is_on_step(value)

    def encode(self, value: Any) -> list[float]:
        at = math.log if self.log else float
        span = at(self.high) - at(self.low)
        return [(at(value) - at(self.low)) / span if span else 0.0]

    def each(self) -> Iterable[Scalar] | None:
        if self.integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.low == self.high:
            return (self.low,)
        if self.step is None:
            return None
        steps = math.floor((self.high - self.low) / self.step + 1e-6)
        return (min(self.low + self.step * count, self.high) for count in range(steps + 1))

    def allowed(self) -> str:
        extra = " log" if self.log else f" step {self.step:g}" if self.step else ""
        return f"{self.low:g} … {self.high:g}{extra}"

    def _is_on_step(self, value: float) -> bool:
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-6)


def same(a: object, b: object) -> bool:
    """Equality in which `true` is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
