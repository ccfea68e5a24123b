"""A long study looks short to its sampler: the best, the latest, and what runs."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.pruning import PRUNERS, make_pruner
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.sampler import PriorSampler


class Looking(RandomSampler):
    """Notes what it is shown."""

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict:
        self.shown = [t.number for t in study.get_trials(deepcopy=False)]
        self.running = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        return {}


def add(study: optuna.Study, rate: float, state: TrialState = TrialState.COMPLETE, steps: int = 9) -> None:
    value = None if state == TrialState.FAIL else rate
    values = dict.fromkeys(range(1, steps + 1), rate)
    distributions = {"rate": FloatDistribution(0.0, 1.0)}
    study.add_trial(
        create_trial(
            params={"rate": rate}, distributions=distributions, value=value, state=state, intermediate_values=values
        )
    )


def capped(
    sampler: BaseSampler, most: int, *, direction: str = "maximize", pruner: BasePruner | None = None
) -> optuna.Study:
    storage = InMemoryStorage()
    shown = CappedHistory(sampler, storage, most=most)
    return optuna.create_study(storage=storage, direction=direction, sampler=shown, pruner=pruner)


def test_it_shows_the_best_the_latest_and_what_runs() -> None:
    sampler = Looking()
    study = capped(sampler, most=6)
    for number, rate in enumerate((0.1, 0.95, 0.2, 0.9, 0.3, 0.4, 0.99, 0.5, 0.6, 0.45)):
        state = {2: TrialState.FAIL, 6: TrialState.PRUNED}.get(number, TrialState.COMPLETE)
        add(study, rate, state, steps=2 if state == TrialState.PRUNED else 9)
    first, second = study.ask(), study.ask()
    second.suggest_float("rate", 0.0, 1.0)
    assert sampler.shown == [1, 3, 6, 7, 8, 9, first.number, second.number]
    assert sampler.running == [first.number, second.number]


def test_pruned_early_is_not_among_the_best_whatever_its_value() -> None:
    sampler = Looking()
    study = capped(sampler, most=2)
    add(study, 0.7)
    add(study, 0.99, TrialState.PRUNED, steps=2)
    add(study, 0.2)
    study.ask().suggest_float("rate", 0.0, 1.0)
    assert sampler.shown == [0, 2, 3]


def test_smaller_is_better_where_the_study_says_so() -> None:
    sampler = Looking()
    study = capped(sampler, most=2, direction="minimize")
    for rate in (0.8, 0.1, 0.9, 0.7):
        add(study, rate)
    study.ask().suggest_float("rate", 0.0, 1.0)
    assert sampler.shown == [1, 3, 4]


def test_what_it_remembers_of_a_growing_study_is_what_there_is() -> None:
    """Whatever ends when: trials that run long, wait, fail, or end equal."""
    most = 8
    random = np.random.default_rng(11)
    kept = Looking()
    storage = InMemoryStorage()
    remembering = CappedHistory(kept, storage, most=most)
    study = optuna.create_study(storage=storage, direction="maximize", sampler=remembering)
    for number in range(150):
        if random.random() < 0.1:
            study.enqueue_trial({})
        trial = study.ask()
        fresh = Looking()
        for sampler in (remembering, CappedHistory(fresh, storage, most=most)):
            sampler.infer_relative_search_space(study, study.trials[trial.number])
        assert kept.shown == fresh.shown
        trial.report(round(float(random.random()), 1), int(random.integers(1, 4)))
        for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[int(random.integers(3))]
            if random.random() < (0.3 if number > 40 else 0.05):
                value = round(float(random.random()), 1) if state == TrialState.COMPLETE else None
                study.tell(running.number, value, state=state)
    assert len(study.trials) > 3 * most


@pytest.mark.parametrize("name", PRUNERS)
def test_it_goes_with_every_pruner(name: str) -> None:
    sampler = Looking()
    study = capped(sampler, most=4, pruner=make_pruner(name, rungs=9))
    for number in range(12):
        trial = study.ask()
        trial.report(trial.suggest_float("rate", 0.0, 1.0), 9)
        trial.should_prune()
        study.tell(trial, number)
    assert sampler.shown == [7, 8, 9, 10, 11]


def test_a_short_study_is_proposed_to_as_ever() -> None:
    found = []
    for bound in (False, True):
        tpe = TPESampler(seed=4, n_startup_trials=3)
        study = capped(tpe, 40, direction="minimize") if bound else optuna.create_study(sampler=tpe)
        study.optimize(lambda trial: (trial.suggest_float("rate", 0.0, 1.0) - 0.3) ** 2, n_trials=12)
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]


def test_what_a_sampler_notes_on_a_trial_is_in_the_study() -> None:
    past = PastStudy("p", tuple(PastTrial({"rate": n / 9}, (PastReport(1, n / 9),)) for n in range(10)))
    study = capped(PriorSampler([past], seed=0), most=4)
    trial = study.ask()
    trial.suggest_float("rate", 0.0, 1.0)
    assert study.trials[0].user_attrs["origin"] == "portfolio 1: from p"
