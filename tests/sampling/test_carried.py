"""A fit of past studies is carried over to other ranges: the same function, in other coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling import surrogate_cache
from autometa.sampling.carried import carrier
from autometa.sampling.encoding import Condition, Domain
from autometa.sampling.sampler import PriorSampler
from autometa.sampling.surrogates import fit_surrogates
from tests.sampling.bowl_studies import bowl, bowl_study

OLD: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(("a", "b")),
    "x": FloatDistribution(0.1, 0.9),
    "depth": IntDistribution(1, 4),
    "rate": FloatDistribution(1e-3, 1e-1, log=True),
}
NEW = {
    "rate": FloatDistribution(1e-5, 1.0, log=True),
    "depth": IntDistribution(1, 6),
    "x": FloatDistribution(-1, 0.8),
    "kind": CategoricalDistribution(("a", "b")),
}


def drawn(generator: np.random.Generator) -> dict[str, Any]:
    rate, depth = float(10 ** generator.uniform(-3, -1)), int(generator.integers(1, 5))
    return {"kind": "ab"[generator.integers(2)], "x": float(generator.uniform(0.1, 0.9)), "depth": depth, "rate": rate}


def value(of: dict[str, Any]) -> float:
    return -((of["x"] - 0.5) ** 2) - (np.log10(of["rate"]) + 2) ** 2 + 0.1 * of["depth"] + 0.3 * (of["kind"] == "a")


def test_what_is_carried_over_is_the_same_function() -> None:
    generator = np.random.default_rng(5)
    trials = [drawn(generator) for _ in range(60)]
    past = PastStudy("past", tuple(PastTrial(v, (PastReport(1, value(v), 1 + v["depth"]),)) for v in trials))
    before, now = Domain(OLD), Domain(NEW)
    fit, _ = fit_surrogates(before, [past])
    way = carrier(before, now)
    assert fit is not None
    assert way is not None
    carried, asked = way(fit), [drawn(generator) for _ in range(20)]
    here, there = (one.encode(one.codes(asked)) for one in (before, carried.domain))
    np.testing.assert_allclose(carried.predict(there), fit.predict(here), atol=1e-9)
    assert dict(carried.domain.distributions) == NEW
    np.testing.assert_allclose(carried.studies[0].codes, carried.domain.codes(trials), atol=1e-12)
    assert fit.cost is not None
    np.testing.assert_allclose(carried.features(there) @ fit.cost, fit.features(here) @ fit.cost, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": CategoricalDistribution(("a", "b", "c"))},
        {"rate": FloatDistribution(1e-3, 1e-1)},
        {"x": FloatDistribution(0.5, 0.5)},
        {"more": FloatDistribution(0, 1)},
        {"depth": IntDistribution(1, 6)},  # not always there
    ],
)
def test_other_parameters_kinds_and_conditions_are_fitted_anew(changed: dict[str, BaseDistribution]) -> None:
    conditions = {"depth": [Condition("kind", frozenset({0}))]}
    assert carrier(Domain(OLD, conditions), Domain(OLD, conditions)) is not None
    assert carrier(Domain(OLD, conditions), Domain({**OLD, **changed}, conditions)) is None
    assert carrier(Domain(OLD, conditions), Domain(OLD)) is None


def asked(sampler: PriorSampler, study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    study.sampler, target = sampler, bowl(0.6, -2)
    for _ in range(trials):
        trial = study.ask()
        trial.suggest_float("x", -1, 2)
        trial.suggest_float("y", 1e-6, 10, log=True)
        study.tell(trial, target(trial.params))
    return [trial.params for trial in study.trials]


def test_past_studies_are_fitted_once_though_the_first_trial_knows_no_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path))
    fits: list[Domain] = []

    def counted(domain: Domain, *others: Any) -> Any:
        fits.append(domain)
        return fit_surrogates(domain, *others)

    monkeypatch.setattr(surrogate_cache, "fit_surrogates", counted)
    past = [bowl_study("near", bowl(0.5, -2)), bowl_study("far", bowl(0.1, -4), seed=1)]
    whole = asked(PriorSampler(past, seed=0), optuna.create_study(direction="maximize"), 8)
    assert len(fits) == 1
    # A search that goes on in another process has the same proposals.
    interrupted = optuna.create_study(direction="maximize")
    asked(PriorSampler(past, seed=0), interrupted, 3)
    assert asked(PriorSampler(past, seed=0), interrupted, 5) == whole
