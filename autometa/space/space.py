"""A search space: parameters in an order in which each comes after those it depends on.

It compiles to a define-by-run function (`suggest`) and to a fixed-length encoding (`encode`) for
surrogates. It does not know what the names mean; `trial/build.py` does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autometa import aliases
from autometa.errors import ConfigError, SpaceError, did_you_mean
from autometa.space.parameters import Parameter, Range, Scalar, same


@dataclass(frozen=True)
class SearchSpace:
    """What may vary, and the configurations to try first.

    Args:
        name: what studies and archives call it.
        parameters: any order; conditions are resolved here.
        start: known good configurations, complete and valid, tried before anything else.
        source: the file it came from, for messages.
        meant_for: of each start, from and below how many seconds of training on one core it is meant; all for any
            time where it is empty.

    Raises:
        SpaceError: a condition names an unknown parameter or value, or conditions form a circle.
    """

    name: str
    parameters: tuple[Parameter, ...]
    start: tuple[Mapping[str, Scalar], ...] = ()
    description: str = ""
    source: str = "space"
    meant_for: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(_ordered(self.parameters, self.source)))
        for number, values in enumerate(self.start, 1):
            self.check(values, where=f"{self.source}: start {number}", error=SpaceError)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    @cached_property
    def version(self) -> str:
        """Eight hex digits that change with any parameter, bound, choice or condition, not with `start`.

        A parameter that was renamed counts by its first name.
        """
        first = [parameter.renamed(aliases.FIRST) for parameter in self.parameters]
        facts = [(type(p).__name__, sorted(vars(p).items(), key=lambda kv: kv[0])) for p in first]
        text = json.dumps(facts, default=dict, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def renamed(self, names: Mapping[str, str]) -> SearchSpace:
        """The same space with other names of parameters.

        Raises:
            SpaceError: it has both names of one parameter.
        """
        try:
            aliases.renamed(dict.fromkeys(self._names()), names)
            start = tuple(aliases.renamed(values, names) for values in self.start)
            parameters = tuple(parameter.renamed(names) for parameter in self.parameters)
        except ValueError as error:
            raise SpaceError(f"{self.source}: {error}") from None
        return dataclasses.replace(self, parameters=parameters, start=start)

    def for_training(self, seconds: float) -> SearchSpace:
        """The same space with the starts alone that are meant for so many seconds of training on one core."""
        times = self.meant_for or [(0.0, math.inf)] * len(self.start)
        pairs = zip(self.start, times, strict=True)
        start = tuple(values for values, (least, end) in pairs if least <= seconds < end)
        return dataclasses.replace(self, start=start, meant_for=())

    def suggest(self, trial: Any) -> dict[str, Scalar]:
        """Ask an Optuna-like trial for every active parameter, define-by-run; inactive ones are absent."""
        values: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.is_active(values):
                values[parameter.name] = parameter.suggest(trial)
        return values

    def discrete(self, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Of a configuration, all but the values on continuous ranges: what makes its architecture and its recipe."""
        ranges = {p.name for p in self.parameters if isinstance(p, Range) and not p.integer}
        return {name: value for name, value in values.items() if name not in ranges}

    def active(self, values: Mapping[str, Scalar]) -> list[str]:
        """Names of the parameters that play a part in this configuration."""
        names: list[str] = []
        for parameter in self.parameters:
            if parameter.is_active({name: values[name] for name in names if name in values}):
                names.append(parameter.name)
        return names

    def check(self, values: Mapping[str, Scalar], *, where: str, error: type[ConfigError] = ConfigError) -> None:
        """Raise unless `values` gives each active parameter, and nothing else, a value it may take."""
        for name in values:
            if name not in {p.name for p in self.parameters}:
                raise error(f"{where}: {name!r} is not a parameter; {did_you_mean(name, self._names())}")
        active = self.active(values)
        for name in active:
            if name not in values:
                raise error(f"{where}: {name!r} is missing; it may be {self[name].allowed()}")
            if not self[name].contains(values[name]):
                raise error(f"{where}: {name} = {values[name]!r} is not allowed; it may be {self[name].allowed()}")
        for name in values:
            if name not in active:
                raise error(f"{where}: {name!r} plays no part here; it needs {_condition(self[name])}")

    def fitted(self, values: Mapping[str, Scalar]) -> dict[str, Scalar] | None:
        """Values of a related space made complete for this one, or None where one of them is not allowed here.

        What is new takes its first choice or lowest value; what plays no part is left out.
        """
        found: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.is_active(found):
                value = values.get(parameter.name, parameter.first)
                if not parameter.contains(value):
                    return None
                found[parameter.name] = value
        return found

    def encode(self, values: Mapping[str, Scalar]) -> list[float]:
        """A fixed-length vector for surrogates: each parameter's activity (0 or 1), then its numbers.

        The numbers of an inactive parameter are NaN: marked, not filled with a value it never had.
        """
        active = set(self.active(values))
        vector: list[float] = []
        for parameter in self.parameters:
            is_active = parameter.name in active
            vector.append(float(is_active))
            numbers = parameter.encode(values[parameter.name]) if is_active else [math.nan] * parameter.width
            vector.extend(numbers)
        return vector

    def key(self, values: Mapping[str, Scalar]) -> tuple[object, ...]:
        """Equal for equal configurations: numbers are compared to nine digits of their range, since what comes by way
        of a logarithm differs in the last ones.
        """
        by_name = {p.name: p for p in self.parameters}
        return tuple((name, _rounded(by_name.get(name), value)) for name, value in sorted(values.items()))

    def distance(self, one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> float:
        """The greatest difference of a number, in parts of its range on its scale; 1 where anything else differs."""
        found = 0.0
        for name in one.keys() | other.keys():
            if name not in one or name not in other:
                return 1.0
            parameter, values = self[name], (one[name], other[name])
            if isinstance(parameter, Range):
                a, b = (parameter.encode(value)[0] for value in values)
                found = max(found, abs(a - b))
            elif not same(*values):
                return 1.0
        return found

    def _names(self) -> list[str]:
        return [p.name for p in self.parameters]


def _rounded(parameter: Parameter | None, value: Scalar) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(parameter, Range) and is_number and (float(value) > 0 or not parameter.log):
        return round(parameter.encode(value)[0], 9)
    return type(value), value  # `true` is not 1


def _condition(parameter: Parameter) -> str:
    return " and ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in parameter.when.items())


def _ordered(parameters: tuple[Parameter, ...], source: str) -> Iterator[Parameter]:
    """Parents before children, otherwise in the order given."""
    by_name = {p.name: p for p in parameters}
    for parameter in parameters:
        _check_condition(parameter, by_name, source)
    done: set[str] = set()
    waiting = list(parameters)
    while waiting:
        ready = next((p for p in waiting if set(p.when) <= done), None)
        if ready is None:
            names = ", ".join(p.name for p in waiting)
            raise SpaceError(f"{source}: the `when` conditions of {names} form a circle")
        waiting.remove(ready)
        done.add(ready.name)
        yield ready


def _check_condition(parameter: Parameter, by_name: Mapping[str, Parameter], source: str) -> None:
    for parent, values in parameter.when.items():
        if parent not in by_name:
            hint = did_you_mean(parent, set(by_name) - {parameter.name})
            raise SpaceError(f"{source}: {parameter.name}: `when` names unknown parameter {parent!r}; {hint}")
        if isinstance(by_name[parent], Range):
            raise SpaceError(
                f"{source}: {parameter.name}: `when` needs a parameter with choices, {parent!r} is a range"
            )
        for value in values:
            if not by_name[parent].contains(value):
                allowed = by_name[parent].allowed()
                wanted = f"`when` wants {parent} = {value!r}"
                raise SpaceError(f"{source}: {parameter.name}: {wanted}, which it never is; it may be {allowed}")
