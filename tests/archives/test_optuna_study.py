"""Studies of plain Optuna as past studies: every value at its rung, every state as it was."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa.archives.foreign import records_of
from autometa.archives.optuna_study import from_optuna
from autometa.errors import StudyError

RATE = FloatDistribution(0.5, 3.0)


def study_of(*trials: FrozenTrial, direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction, study_name="s")
    study.add_trials(trials)
    return study


def trial(state: TrialState, value: float | None = None, steps: dict[int, float] | None = None) -> FrozenTrial:
    return create_trial(
        state=state, value=value, params={"rate": 1.5}, distributions={"rate": RATE}, intermediate_values=steps
    )


def curves(study: optuna.Study) -> list[tuple[str, dict[int, float]]]:
    return [(t.state, {r.rung: r.value for r in t.curve}) for t in from_optuna(study).trials]


def test_without_reports_a_final_value_is_rung_1() -> None:
    study = study_of(trial(TrialState.COMPLETE, 4.5), trial(TrialState.FAIL), trial(TrialState.PRUNED))
    assert curves(study) == [("complete", {1: 4.5}), ("fail", {}), ("pruned", {})]


def test_steps_become_rungs_in_their_order_and_never_mix() -> None:
    study = study_of(
        trial(TrialState.PRUNED, steps={0: 9.0, 10: 8.0}),
        trial(TrialState.COMPLETE, 5.0, steps={0: 7.0, 10: 6.5, 30: 6.0}),
        trial(TrialState.COMPLETE, 4.0, steps={30: 6.0}),
        trial(TrialState.FAIL, steps={5: 1.0}),
    )
    assert curves(study) == [
        ("pruned", {1: 9.0, 2: 8.0}),
        ("complete", {1: 7.0, 2: 6.5, 3: 5.0}),  # the final value, not the report at 30
        ("complete", {3: 4.0}),
        ("fail", {}),
    ]


def test_a_complete_trial_that_reported_less_still_counts_at_the_last_rung() -> None:
    study = study_of(trial(TrialState.COMPLETE, 5.0, steps={1: 7.0}), trial(TrialState.PRUNED, steps={1: 9.0, 4: 8.0}))
    assert curves(study) == [("complete", {1: 7.0, 2: 5.0}), ("pruned", {1: 9.0, 2: 8.0})]


def test_what_is_no_number_is_no_value() -> None:
    study = study_of(
        trial(TrialState.PRUNED, steps={1: 2.0, 2: math.nan}),
        trial(TrialState.COMPLETE, math.inf, steps={1: 2.0}),
        trial(TrialState.COMPLETE, 3.0, steps={1: -math.inf, 3: 4.0}),
    )
    assert curves(study) == [("pruned", {1: 2.0}), ("fail", {}), ("complete", {2: 3.0})]


def test_a_study_in_which_all_were_pruned_so_far_has_the_rungs_it_reached() -> None:
    past = from_optuna(
        study_of(trial(TrialState.PRUNED, steps={2: 1.0}), trial(TrialState.RUNNING, steps={2: 1, 4: 2}))
    )
    assert past.rungs == 1
    assert [t.number for t in past.trials] == [0], "a running trial has not ended"


def test_conditional_and_odd_parameters_of_a_study_that_ran() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind: Any = trial.suggest_categorical("kind", [None, True, "sgd"])
        if kind == "sgd":
            trial.suggest_float("momentum", 0.25, 0.9)
        trial.suggest_int("width", 4, 8 + trial.number)
        if trial.number == 2:
            raise optuna.TrialPruned
        trial.set_constraint("size", 1.0)
        return float(trial.number)

    study = optuna.create_study(study_name="s", sampler=optuna.samplers.RandomSampler(seed=3))
    for kind in ("sgd", None, "sgd", True):
        study.enqueue_trial({"kind": kind})
    study.optimize(objective, n_trials=4)
    past = from_optuna(study)
    assert [t.values["kind"] for t in past.trials] == ["sgd", "None", "sgd", True]
    assert ["momentum" in t.values for t in past.trials] == [True, False, True, False]
    assert [t.state for t in past.trials] == ["complete", "complete", "pruned", "complete"]
    ranges = {name: json_to_distribution(text) for name, text in past.ranges.items()}
    assert ranges == {
        "kind": CategoricalDistribution(["None", True, "sgd"]),
        "momentum": FloatDistribution(0.25, 0.9),
        "width": IntDistribution(4, 11),
    }
    assert all(t.curve[0].seconds > 0 for t in past.trials if t.curve)
    records_of(past)  # all of it can be kept


def test_seconds_are_a_trials_own_and_unknown_where_it_was_added_by_hand() -> None:
    measured = trial(TrialState.COMPLETE, 2.0, steps={1: 3.0, 2: 2.5})
    measured.datetime_start = datetime(2026, 1, 2, 3)
    measured.datetime_complete = measured.datetime_start + timedelta(seconds=90)
    first, second = from_optuna(study_of(measured, trial(TrialState.COMPLETE, 1.0))).trials
    assert math.isnan(first.curve[0].seconds)
    assert first.curve[1].seconds == 90
    assert math.isnan(second.curve[0].seconds)


def test_direction_decides_what_is_best() -> None:
    trials = [trial(TrialState.COMPLETE, value) for value in (2.0, 1.0, 3.0)]
    for direction, best in (("minimize", 1), ("maximize", 2)):
        past = from_optuna(study_of(*trials, direction=direction))
        assert past.best() == past.trials[best]
        assert past.ranked()[0] == past.trials[best]


def test_several_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], study_name="pareto")
    with pytest.raises(StudyError, match="'pareto' has 2 objectives"):
        from_optuna(study)
