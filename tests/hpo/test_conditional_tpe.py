"""Each group of parameters is proposed as Optuna's own TPE proposes it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autometa.hpo.conditional_tpe import ConditionalTPE
from autometa.hpo.ledger import trials_of
from autometa.hpo.pruning import make_sampler


def optunas(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `group` is experimental
        return TPESampler(seed=seed, n_startup_trials=8, group=True, multivariate=True, constant_liar=True)


def suggest(trial: Trial) -> float:
    """Conditional, with a part that all trials have: numbers of every kind, and a parameter of one value."""
    value = trial.suggest_float("rate", 1e-4, 1.0, log=True) + trial.suggest_int("width", 8, 64, step=8) / 64
    trial.suggest_categorical("only", ("this",))
    if trial.suggest_categorical("learner", ("maml", "matching", "ridge")) == "maml":
        value += trial.suggest_float("maml.rate", 0.1, 0.9) * trial.suggest_int("maml.steps", 1, 5)
        if trial.suggest_categorical("maml.learned", (True, False)):
            value -= trial.suggest_float("maml.decay", 0.0, 1.0, step=0.25)
    return value


DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(8, 64, step=8),
    "learner": CategoricalDistribution(("maml", "matching", "ridge")),
    "maml.rate": FloatDistribution(0.1, 0.9),
    "maml.steps": IntDistribution(1, 5),
    "maml.learned": CategoricalDistribution((True, False)),
    "maml.decay": FloatDistribution(0.0, 1.0, step=0.25),
}


def searched(sampler: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    """Trials of all states, some of which still run."""
    random = np.random.default_rng(3)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(trials):
        trial = study.ask()
        value = suggest(trial) + random.normal(0, 0.1)
        trial.report(value / 2, int(random.integers(1, 9)))
        if number % 11 == 10:
            continue
        state = TrialState.PRUNED if random.random() < 0.5 else TrialState.COMPLETE
        study.tell(trial, None if state == TrialState.PRUNED else value, state=state)
    return study


@pytest.mark.parametrize("trials", [9, 120])
@pytest.mark.parametrize(
    "group", [("rate", "width", "learner"), ("maml.rate", "maml.steps", "maml.learned"), ("maml.decay",)]
)
def test_every_group_gets_the_values_that_optuna_proposes_for_it(trials: int, group: Sequence[str]) -> None:
    study = searched(optuna.samplers.RandomSampler(seed=5), trials)
    study.ask()
    new = study.trials[-1]
    space = {name: DISTRIBUTIONS[name] for name in sorted(group)}
    for seed in range(20):
        theirs = TPESampler(seed=seed, n_startup_trials=8, multivariate=True, constant_liar=True)
        mine = ConditionalTPE(seed=seed, startup=8)
        first, *others = group
        values = {name: mine.sample_independent(study, new, name, space[name]) for name in (first, *others)}
        assert values == theirs.sample_relative(study, new, space)


def test_without_branches_the_whole_search_is_optunas() -> None:
    def run(sampler: optuna.samplers.BaseSampler) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda t: t.suggest_float("x", -1, 2) ** 2 + t.suggest_int("n", 0, 9), n_trials=40)
        return [trial.params for trial in study.trials]

    # Random at first: there both draw parameter by parameter.
    assert run(ConditionalTPE(seed=4, startup=8)) == run(optunas(4))


def test_a_running_trial_is_no_observation_of_a_branch_it_did_not_enter() -> None:
    study = searched(make_sampler(2, 0), 60)
    running = [trial for trial in trials_of(study) if trial.state == TrialState.RUNNING]
    assert any("maml.rate" not in trial.params for trial in running)
    assert all(not trial.system_attrs for trial in running), "there Optuna notes proposals for branches not entered"


def test_what_a_trial_was_given_when_it_was_queued_is_kept() -> None:
    study = searched(make_sampler(2, 0), 30)
    study.enqueue_trial({"learner": "maml", "maml.steps": 4})
    trial = study.ask()
    suggest(trial)
    assert (trial.params["learner"], trial.params["maml.steps"]) == ("maml", 4)
    assert 0.1 <= trial.params["maml.rate"] <= 0.9


def test_a_range_that_became_another_is_proposed_within() -> None:
    study = searched(make_sampler(2, 0), 40)
    found = []
    for _ in range(20):
        trial = study.ask()
        found.append(trial.suggest_float("rate", 2.0, 3.0, log=True))
        study.tell(trial, 0.5)
    assert all(2.0 <= rate <= 3.0 for rate in found)


def test_proposals_are_random_until_enough_trials_are_over() -> None:
    def first_after(trials: int) -> FrozenTrial:
        study = searched(optuna.samplers.RandomSampler(seed=5), trials)
        study.sampler = ConditionalTPE(seed=6, startup=8)
        trial = study.ask()
        suggest(trial)
        return trials_of(study)[trial.number]

    assert first_after(3).params == first_after(7).params != first_after(8).params
