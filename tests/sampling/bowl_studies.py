"""Past studies of bowls: functions of two parameters whose best configuration is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autometa.past import PastReport, PastStudy, PastTrial

Objective = Callable[[Mapping[str, Any]], float]


def bowl(x: float, y: float, sign: float = 1.0) -> Objective:
    """Best at (x, y), the second on a log scale from 1e-4 to 1."""
    return lambda v: sign * -((v["x"] - x) ** 2 + ((math.log10(v["y"]) - y) / 4) ** 2)


def draw(generator: np.random.Generator) -> dict[str, Any]:
    return {"x": float(generator.random()), "y": float(10 ** (-4 * generator.random()))}


def bowl_study(name: str, function: Objective, trials: int = 60, seed: int = 0, **options: Any) -> PastStudy:
    """Random configurations and their values; `options` are of the study."""
    generator = np.random.default_rng(seed)
    values = [draw(generator) for _ in range(trials)]
    return PastStudy(name, tuple(PastTrial(v, (PastReport(1, function(v)),)) for v in values), **options)
