"""Ranges read off values, and values fitted to ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from autometa.past import PastStudy, PastTrial
from autometa.records import Scalar
from autometa.sampling import inferred


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([3, 1, 2], IntDistribution(1, 3)),
        ([1, 50], IntDistribution(1, 50)),
        ([1, 51], IntDistribution(1, 51, log=True)),
        ([0, 1000], IntDistribution(0, 1000)),
        ([1, 2.5], FloatDistribution(1.0, 2.5)),
        ([1e-4, 1e-1], FloatDistribution(1e-4, 1e-1, log=True)),
        ([-1.0, 100.0], FloatDistribution(-1.0, 100.0)),
        (["b", "a", "b"], CategoricalDistribution(["b", "a"])),
        ([True, 1, True], CategoricalDistribution([True, 1])),
    ],
)
def test_the_narrowest_distribution_of_values(values: list[Scalar], found: BaseDistribution) -> None:
    got = inferred.of_values(values)
    assert got == found
    if isinstance(got, CategoricalDistribution):  # 1 == True
        assert list(map(type, got.choices)) == list(map(type, found.choices))  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(20))
def test_how_many_values_lie_tells_their_scale(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for found, is_log in ((generator.uniform(0, 1, 100), False), (10 ** generator.uniform(-4, 0, 100), True)):
        distribution = inferred.of_values(found.tolist())
        assert isinstance(distribution, FloatDistribution)
        assert distribution.log is is_log


def test_a_noted_range_counts_and_others_lie_as_the_values_of_all_studies() -> None:
    noted = FloatDistribution(0.0, 1.0)
    ranges = {name: distribution_to_json(noted) for name in ("lr", "of no trial")}
    one = PastStudy("one", (PastTrial({"lr": 0.5, "width": 8}),), ranges=ranges)
    two = PastStudy("two", (PastTrial({"lr": 9.0, "width": 64}),))
    assert inferred.distributions([one, two]) == {"lr": noted, "width": IntDistribution(8, 64)}


@pytest.mark.parametrize(
    ("distribution", "value", "found"),
    [
        (CategoricalDistribution(["a", "b"]), "b", "b"),
        (CategoricalDistribution(["a", "b"]), "c", None),
        (CategoricalDistribution([0, 1]), True, None),
        (IntDistribution(8, 64, step=8), 30, 32),
        (IntDistribution(8, 64), 65, None),
        (FloatDistribution(0.0, 1.0), 1, 1.0),
        (FloatDistribution(0.0, 1.0), 1.5, None),
        (FloatDistribution(0.0, 1.0), True, None),
        (FloatDistribution(0.0, 1.0), "a", None),
    ],
)
def test_a_value_is_fitted_to_a_distribution_or_to_none(distribution: BaseDistribution, value: Any, found: Any) -> None:
    got = inferred.within(distribution, value)
    assert got == found
    assert type(got) is type(found)


def test_what_archives_cannot_hold_becomes_text() -> None:
    assert inferred.plain({"a": None, "b": 1.5, "c": (1, 2)}) == {"a": "None", "b": 1.5, "c": "(1, 2)"}
