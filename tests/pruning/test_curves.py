"""Forecasts of learning curves: true often enough, in any unit, whoever pruned the past."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.pruning.curves import CurvePrior, Curves, curves_of
from tests.pruning.learning_curves import as_study, halved, past_studies, power_laws


def chances(prior: CurvePrior, rung: int, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """For new trials of a new study: the chance to end above the best of 30 old ones, and whether they did."""
    curves = scale * power_laws(230, prior.rungs, seed)
    old, new = curves[:30], curves[30:]
    best = old[:, -1].max()
    forecast = prior.forecast(Curves(old), new, rung)
    chance = [prior.chance_above(rung, d) for d in (best - forecast.mean) / forecast.deviation]
    return np.array(chance), new[:, -1] > best


def pooled(prior: CurvePrior, rung: int) -> tuple[np.ndarray, np.ndarray]:
    each = [chances(prior, rung, seed) for seed in range(12)]
    return np.concatenate([c for c, _ in each]), np.concatenate([won for _, won in each])


@pytest.mark.parametrize("rung", [0, 1, 4])
def test_a_chance_is_how_often_it_happens(rung: int) -> None:
    chance, won = pooled(CurvePrior(past_studies(), rungs=9), rung)
    assert chance.mean() == pytest.approx(won.mean(), abs=0.03)
    assert won[chance < 0.05].mean() < 0.05, "what a pruner stops"
    assert won[chance > 0.5].mean() > 0.5
    assert (chance < 0.05).mean() > 0.3, "and there is something to stop"


def test_later_rungs_tell_more() -> None:
    prior = CurvePrior(past_studies(), rungs=9)
    study = Curves(power_laws(40, 9, seed=7))
    spread = [prior.forecast(study, study.values, rung).deviation.mean() for rung in (0, 1, 4, 7, 8)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] == 0


def test_the_unit_of_the_study_does_not_matter() -> None:
    prior = CurvePrior(past_studies(), rungs=9)
    plain, _ = chances(prior, 2, seed=3)
    large, _ = chances(prior, 2, seed=3, scale=1e5)
    np.testing.assert_allclose(plain, large, atol=1e-3)


def test_a_past_that_halving_pruned_teaches_nearly_the_same() -> None:
    full, pruned = [], []
    for index in range(8):
        curves = power_laws(120, 9, 300 + index)
        full.append(as_study(curves, f"{index}"))
        pruned.append(as_study(curves, f"{index}", keep=halved(curves)))
    study = Curves(power_laws(40, 9, seed=5))
    ours, theirs = (CurvePrior(past, rungs=9).forecast(study, study.values, 1) for past in (pruned, full))
    spread = study.values[:, -1].std()
    assert np.abs(ours.mean - theirs.mean).mean() < 0.1 * spread
    assert abs((ours.mean - theirs.mean).mean()) < 0.05 * spread, "complete curves alone were chosen for rising"


def test_own_complete_trials_take_over() -> None:
    misleading = [as_study(np.tile(power_laws(60, 9, s)[:, -1:], 9), f"flat {s}") for s in range(6)]
    prior = CurvePrior(misleading, rungs=9)
    curves = power_laws(400, 9, seed=1)
    target = curves[300:, -1]

    def miss(own: int) -> float:
        known = curves[:300].copy()
        known[own:, -1] = np.nan
        return float(np.abs(prior.forecast(Curves(known), curves[300:], 3).mean - target).mean())

    assert miss(200) < 0.6 * miss(0)


def test_no_past_knows_little_and_says_so() -> None:
    prior = CurvePrior([], rungs=9)
    assert not prior.has_past
    chance, won = chances(prior, 0, seed=4)
    assert won[chance < 0.05].sum() <= 0.05 * (chance < 0.05).sum()
    assert np.median(chance) > 0.02


def test_a_past_of_other_rungs_is_read_by_the_share_of_the_training() -> None:
    trial = PastTrial({}, (PastReport(1, 1.0), PastReport(2, 2.0), PastReport(3, 4.0)))
    study = PastStudy("three", (trial, PastTrial({}, (PastReport(2, 5.0),), "pruned")), direction="minimize")
    np.testing.assert_allclose(curves_of(study, 6).values[0], [np.nan, -1, -1.5, -2, -3, -4])
    np.testing.assert_allclose(curves_of(study, 6).values[1], [np.nan, np.nan, np.nan, -5, np.nan, np.nan])

    coarse = CurvePrior(past_studies(rungs=4), rungs=9)
    chance, won = pooled(coarse, 4)
    assert won[chance < 0.05].mean() < 0.06


def test_pasts_that_say_nothing_are_none() -> None:
    one_rung = as_study(power_laws(9, 1, seed=1), "one rung")
    all_equal = as_study(np.full((6, 9), 0.2), "at chance level")
    failed = PastStudy("failed", (PastTrial({}, (), "fail"),))
    prior = CurvePrior([one_rung, all_equal, failed], rungs=9)
    assert not prior.has_past
