"""Functions fitted to past studies: what they predict, and which studies are left out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from scipy.stats import spearmanr

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.encoding import Domain
from autometa.sampling.surrogates import Surrogates, fit_surrogates, results_of
from tests.sampling.bowl_studies import Objective, bowl, bowl_study, draw

DOMAIN = Domain({"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)})


def fit(*past: PastStudy) -> Surrogates:
    found, dropped = fit_surrogates(DOMAIN, past)
    assert found is not None
    assert dropped == {}
    return found


def correlation(surrogates: Surrogates, study: int, function: Objective) -> float:
    """Rank correlation of one study's surrogate with a function, over new configurations."""
    generator = np.random.default_rng(99)
    values = [draw(generator) for _ in range(200)]
    predicted = surrogates.predict(DOMAIN.encode(DOMAIN.codes(values)))[:, study]
    return float(spearmanr(predicted, [function(v) for v in values]).statistic)


def test_each_study_has_its_own_function() -> None:
    left, right = bowl(0.2, -3), bowl(0.8, -1)
    found = fit(bowl_study("left", left), bowl_study("right", right, seed=1))
    assert found.names == ["left", "right"]
    assert correlation(found, 0, left) > 0.97
    assert correlation(found, 1, right) > 0.97
    assert correlation(found, 0, right) < 0.5


def test_a_small_study_borrows_from_the_others() -> None:
    function = bowl(0.3, -3)
    others = [bowl_study(f"other {seed}", function, seed=seed) for seed in (1, 2, 3)]
    small = bowl_study("small", function, trials=7, seed=7)
    assert correlation(fit(small, *others), 0, function) > 0.98
    assert correlation(fit(small), 0, function) < 0.9


def test_only_the_order_of_a_studys_values_matters() -> None:
    study = bowl_study("one", bowl(0.3, -3))
    curves = [(PastReport(1, 1e3 * math.exp(5 * trial.curve[0].value)),) for trial in study.trials]
    stretched = tuple(replace(trial, curve=curve) for trial, curve in zip(study.trials, curves, strict=True))
    rows = DOMAIN.encode(DOMAIN.sample(np.random.default_rng(1), 20))
    assert np.array_equal(fit(study).predict(rows), fit(replace(study, trials=stretched)).predict(rows))


def test_a_failed_trial_scores_as_the_worst() -> None:
    study = bowl_study("one", bowl(0.3, -3))
    failed = PastTrial({"x": 0.5, "y": 0.1}, (), "fail")
    scores = fit(replace(study, trials=(failed, *study.trials))).studies[0].scores
    assert len(scores) == 61
    assert scores[0] == scores[1:].min()


def test_what_says_nothing_is_left_out_with_the_reason() -> None:
    real = bowl_study("real", bowl(0.3, -3))
    chance = np.random.default_rng(5).permutation([trial.curve[0].value for trial in real.trials])
    noise = tuple(
        PastTrial(t.values, (PastReport(1, float(value)),)) for t, value in zip(real.trials, chance, strict=True)
    )
    unlike = tuple(PastTrial({"x": "large"}, trial.curve) for trial in real.trials)
    past = [
        real,
        PastStudy("other", (PastTrial({"z": 0.2}, (PastReport(1, 0.3),)),)),
        replace(real, name="two", trials=(*real.trials[:2], PastTrial({"x": 0.1}, (), "fail"))),
        PastStudy("unlike", unlike),
        PastStudy("noise", noise),
    ]
    found, dropped = fit_surrogates(DOMAIN, past)
    assert found is not None
    assert found.names == ["real"]
    assert dropped == {
        "other": "it has no parameter in common",
        "two": "fewer than 3 of its trials have a result",
        "unlike": "none of its values has a place in these ranges",
        "noise": "its results do not follow from its parameters",
    }
    assert fit_surrogates(DOMAIN, past[1:])[0] is None


def test_costs_follow_the_seconds_that_were_noted() -> None:
    study = bowl_study("one", bowl(0.3, -3))
    assert fit(study).cost is None
    timed = tuple(
        replace(trial, curve=(replace(trial.curve[0], seconds=math.exp(2 * trial.values["x"])),))
        for trial in study.trials
    )
    found = fit(replace(study, trials=timed))
    assert found.cost is not None
    rows = DOMAIN.encode(DOMAIN.codes([{"x": x, "y": 0.01} for x in (0.2, 0.5, 0.8)]))
    log_seconds = found.features(rows) @ found.cost
    assert np.diff(log_seconds) == pytest.approx([0.6, 0.6], abs=0.15)


def test_results_are_those_of_the_rungs_and_greater_is_better() -> None:
    trials = (
        PastTrial({}, (PastReport(1, 0.5, half_width=0.1), PastReport(3, 0.2))),
        PastTrial({}, (PastReport(2, 0.9),), "fail"),
    )
    found = results_of(PastStudy("losses", trials, direction="minimize"))
    assert np.array_equal(found.values, [[-0.5, np.nan, -0.2], [np.nan] * 3], equal_nan=True)
    assert np.array_equal(found.half_widths, [[0.1, np.nan, np.nan], [np.nan] * 3], equal_nan=True)
