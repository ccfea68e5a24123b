"""Parameters of studies that nobody described: ranges read off values, and values fitted to ranges."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from autometa.past import PastStudy
from autometa.records import Scalar
from autometa.space.parameters import same

# Positive values over more than this may have been drawn on a log scale. How they lie decides, of so many or more.
_LOG_SPAN, _FEW = 50.0, 8


def distributions(past: Sequence[PastStudy]) -> dict[str, BaseDistribution]:
    """A distribution for every parameter of any past study: as it was noted, or else as its values lie."""
    noted: dict[str, BaseDistribution] = {}
    seen: dict[str, list[Scalar]] = {}
    for study in past:
        for name, text in study.ranges.items():
            noted.setdefault(name, json_to_distribution(text))
        for trial in study.trials:
            for name, value in trial.values.items():
                seen.setdefault(name, []).append(value)
    return {name: noted[name] if name in noted else of_values(values) for name, values in seen.items()}


def of_values(values: Sequence[Scalar]) -> BaseDistribution:
    """The narrowest distribution these values could have come from."""
    if any(isinstance(value, bool | str) for value in values):
        distinct: list[Any] = []
        for value in values:
            if not any(same(value, other) for other in distinct):
                distinct.append(value)
        return CategoricalDistribution(distinct)
    numbers = [float(value) for value in values]
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low > _LOG_SPAN and (len(numbers) < _FEW or _is_even_in_logarithms(numbers))
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _is_even_in_logarithms(numbers: Sequence[float]) -> bool:
    """Whether the median is nearer to the middle of the logarithms: even values from 0 on span a lot as well."""
    low, middle, high = min(numbers), statistics.median(numbers), max(numbers)
    place = (middle - low) / (high - low)
    place_of_logarithm = math.log(middle / low) / math.log(high / low)
    return abs(place_of_logarithm - 0.5) < abs(place - 0.5)


def within(distribution: BaseDistribution, value: Any) -> Any:
    """The value this distribution has for a proposed one; None where it has none."""
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if same(choice, value)), None)
    if isinstance(value, bool | str) or not isinstance(distribution, FloatDistribution | IntDistribution):
        return None
    if not distribution.low <= value <= distribution.high:
        return None
    if isinstance(distribution, IntDistribution):
        return int(round((value - distribution.low) / distribution.step) * distribution.step + distribution.low)
    return float(value)


def plain(params: Mapping[str, Any]) -> dict[str, Scalar]:
    """A running trial's parameters as archives have them."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in params.items()
    }
