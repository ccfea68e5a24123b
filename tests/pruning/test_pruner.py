"""The prior pruner in plain Optuna studies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autometa.pruning.pruner import PriorPruner
from autometa.trial_attributes import CURVE
from tests.pruning.learning_curves import Array, past_studies, power_laws

PAST = past_studies()
HALVING_TAKES = 4.1  # of 9 rungs, when it halves at 2, 4 and 8


def searched(
    curves: Array,
    pruner: optuna.pruners.BasePruner,
    *,
    direction: str = "maximize",
    step: Callable[[int], int] = lambda rung: rung,
    attributes: Callable[[float], dict] | None = None,
) -> optuna.Study:
    """One trial after another, each with the next curve."""
    study = optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=1))
    for curve in curves:
        trial = study.ask()
        stopped = False
        for rung, value in enumerate(curve, 1):
            trial.report(float(value), step(rung))
            if attributes:
                CURVE.write(trial, [attributes(value)])
            stopped = trial.should_prune()
            if stopped:
                break
        study.tell(trial, None if stopped else float(curve[-1]), state=TrialState.PRUNED if stopped else None)
    return study


def halving() -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)


def rungs_taken(study: optuna.Study) -> list[int]:
    return [len(trial.intermediate_values) for trial in study.trials]


def test_a_small_chance_keeps_the_best_for_a_fraction_of_the_rungs() -> None:
    kept, taken = [], []
    for seed in range(12):
        curves = power_laws(60, 9, seed)
        study = searched(curves, PriorPruner(PAST, chance=0.01))
        kept.append(study.best_value == curves[:, -1].max())
        taken.append(np.mean(rungs_taken(study)))
    assert np.mean(kept) >= 0.9
    assert np.mean(taken) < 0.66 * HALVING_TAKES


def test_for_the_price_of_halving_it_finds_better() -> None:
    gains = []
    for seed in range(12):
        curves = power_laws(150, 9, seed)
        cheap, halved = searched(curves, PriorPruner(PAST)), searched(curves[:60], halving())
        affordable = int((np.cumsum(rungs_taken(cheap)) <= sum(rungs_taken(halved))).sum())
        found = [t.value for t in cheap.trials[:affordable] if t.value is not None]
        gains.append((max(found) - halved.best_value) / curves[:, -1].std())
    assert np.mean(gains) > 0


def test_minimising_mirrors_maximising() -> None:
    curves = power_laws(40, 9, seed=2)
    up = searched(curves, PriorPruner(PAST))
    down = searched(-curves, PriorPruner(PAST), direction="minimize")
    assert rungs_taken(up) == rungs_taken(down)


@pytest.mark.parametrize("rungs", [9, None])
def test_steps_may_be_any_that_rise(rungs: int | None) -> None:
    curves = power_laws(40, 9, seed=3)
    plain = searched(curves, PriorPruner(PAST, rungs=9))
    spaced = searched(curves, PriorPruner(PAST, rungs=rungs), step=lambda rung: 7 + 10 * rung * rung)
    assert rungs_taken(plain) == rungs_taken(spaced)


def test_trials_of_many_steps_are_judged_at_some_of_them() -> None:
    curves = power_laws(30, 100, seed=4)
    study = searched(curves, PriorPruner(PAST))
    taken = rungs_taken(study)
    assert np.mean(taken) < 70
    assert study.best_value > np.quantile(curves[:, -1], 0.85)


@pytest.mark.parametrize(("direction", "value"), [("maximize", np.nan), ("maximize", -np.inf), ("minimize", np.inf)])
def test_a_trial_that_diverges_is_stopped_and_disturbs_no_other(direction: str, value: float) -> None:
    curves = power_laws(30, 9, seed=5) * (1 if direction == "maximize" else -1)
    curves[10, 3:] = value
    study = searched(curves, PriorPruner(PAST), direction=direction)
    assert study.trials[10].state == TrialState.PRUNED
    assert len(study.trials[10].intermediate_values) <= 4
    assert {trial.state for trial in study.trials[11:]} == {TrialState.PRUNED, TrialState.COMPLETE}


def test_without_a_past_it_is_no_dearer_than_halving() -> None:
    for pasts in ([], past_studies(studies=1, trials=4)):
        curves = power_laws(60, 9, seed=6)
        ours, theirs = (rungs_taken(searched(curves, pruner)) for pruner in (PriorPruner(pasts, rungs=9), halving()))
        assert sum(ours[4:]) <= 1.1 * sum(theirs[4:]), "the first four are compared with nobody"


def test_the_first_trials_have_nobody_to_be_compared_with() -> None:
    study = searched(power_laws(3, 9, seed=7), PriorPruner([], rungs=9))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3


def test_a_first_batch_is_compared_with_itself() -> None:
    curves = power_laws(16, 9, seed=8)
    study = optuna.create_study(direction="maximize", pruner=PriorPruner(PAST, rungs=9, chance=0.1))
    trials = [study.ask() for _ in curves]
    stopped = []
    for number in np.argsort(-curves[:, 0]):
        trials[number].report(float(curves[number, 0]), 1)
        if trials[number].should_prune():
            stopped.append(number)
    assert stopped
    assert curves[:, -1].argmax() not in stopped


def test_a_wide_interval_lets_a_trial_go_on() -> None:
    curves = power_laws(60, 9, seed=9)

    def noisy(value: float) -> dict:
        return {"rung": 1, "accuracy": {"mean": value, "half_width": 0.3}}

    plain, wide = searched(curves, PriorPruner(PAST)), searched(curves, PriorPruner(PAST), attributes=noisy)
    assert sum(rungs_taken(wide)) > sum(rungs_taken(plain))


def test_user_attributes_of_others_are_no_curves() -> None:
    curves = power_laws(20, 9, seed=9)
    plain, odd = (
        searched(curves, PriorPruner(PAST), attributes=one) for one in (None, lambda value: {"accuracy": "high"})
    )
    assert rungs_taken(plain) == rungs_taken(odd)


def test_it_works_inside_optimize() -> None:
    curves = power_laws(40, 9, seed=10)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        for epoch, value in enumerate(curves[trial.number]):
            trial.report(float(value), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(curves[trial.number, -1])

    study = optuna.create_study(direction="maximize", pruner=PriorPruner(PAST))
    study.optimize(objective, n_trials=len(curves))
    assert study.best_value >= np.quantile(curves[:, -1], 0.95)
    assert any(trial.state == TrialState.PRUNED for trial in study.trials)


def test_a_decision_takes_milliseconds_with_500_trials() -> None:
    pruner = PriorPruner(PAST, rungs=9)
    study = searched(power_laws(20, 9, seed=11), pruner)
    study.add_trials(_complete(power_laws(100, 9, seed=12)) + _complete(power_laws(400, 9, seed=13)[:, :2]))
    trial = study.ask()
    seconds = []
    for rung in range(1, 6):
        trial.report(0.9, rung)
        frozen = study.trials[-1]
        began = time.perf_counter()
        pruner.prune(study, frozen)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.02, "about 2 ms on a machine that is free"


def _complete(curves: Array) -> Sequence[optuna.trial.FrozenTrial]:
    is_full = curves.shape[1] == 9
    return [
        optuna.create_trial(
            state=TrialState.COMPLETE if is_full else TrialState.PRUNED,
            value=float(curve[-1]) if is_full else None,
            intermediate_values={rung: float(value) for rung, value in enumerate(curve, 1)},
        )
        for curve in curves
    ]


@pytest.mark.parametrize("wrong", [{"chance": 1.0}, {"chance": -0.1}, {"rungs": 0}])
def test_what_cannot_be_is_said(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        PriorPruner(**wrong)
