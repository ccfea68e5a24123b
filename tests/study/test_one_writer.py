"""What the driver reads from memory is what the storage holds, whatever keeps it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autometa.study.one_writer import OneWriter, together
from autometa.study.storage import open_storage


@pytest.fixture(params=["sqlite:///{}/s.db", "journal:{}/s.log"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    return open_storage(request.param.format(tmp_path))


def facts(trial: FrozenTrial) -> tuple[object, ...]:
    return (
        trial.number,
        trial.state,
        trial.values,
        # In order, since a database has none; a NaN equals itself as text.
        *(repr(sorted(entries.items())) for entries in (trial.params, trial.distributions, trial.intermediate_values)),
        *(repr(sorted(entries.items())) for entries in (trial.user_attrs, trial.system_attrs)),
    )


def search(study: optuna.Study, trials: int) -> None:
    for number in range(trials):
        with together(study):
            trial = study.ask()
            width = trial.suggest_categorical("width", (4, 8, 16))
            rate = trial.suggest_float("rate", 1e-3, 0.3, log=True)
            trial.set_user_attr("folder", f"{number:05d}")
        for step in (1, 2, 3):
            with together(study):
                trial.report(float("nan") if number == 3 else width * rate / step, step)
                trial.set_user_attr("curve", list(range(step)))
                study._storage.set_trial_system_attr(trial._trial_id, "last", step)
                trial.should_prune()
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 3]
        with together(study):
            trial.set_user_attr("facts", {"steps": 3 * number})
            study.tell(trial, width * rate if state == TrialState.COMPLETE else None, state=state)


def test_memory_and_storage_hold_the_same(backend: BaseStorage) -> None:
    study = optuna.create_study(
        study_name="s",
        storage=OneWriter(backend),
        sampler=optuna.samplers.TPESampler(seed=2, n_startup_trials=4),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )
    study.enqueue_trial({"width": 8}, user_attrs={"origin": "start"})
    search(study, 12)
    study.ask()
    kept = optuna.load_study(study_name="s", storage=backend)
    assert [facts(t) for t in kept.get_trials()] == [facts(t) for t in study.get_trials()]
    assert kept.trials[0].user_attrs["origin"] == "start"
    assert kept.best_trial.number == study.best_trial.number
    again = optuna.load_study(study_name="s", storage=OneWriter(backend))
    assert [facts(t) for t in again.get_trials()] == [facts(t) for t in study.get_trials()]


def test_the_same_proposals_as_without_it(tmp_path: Path) -> None:
    found = []
    for storage in (open_storage(f"sqlite:///{tmp_path}/a.db"), OneWriter(open_storage(f"sqlite:///{tmp_path}/b.db"))):
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=5, n_startup_trials=3))
        search(study, 9)
        found.append([t.params for t in study.get_trials()])
    assert found[0] == found[1]


def test_a_step_is_written_at_its_end_and_others_at_once(backend: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=OneWriter(backend))
    kept = optuna.load_study(study_name="s", storage=backend)
    trial = study.ask()
    trial.report(0.5, 1)
    assert kept.get_trials()[0].intermediate_values == {1: 0.5}
    with together(study):
        trial.report(0.7, 2)
        assert study.get_trials()[0].intermediate_values == {1: 0.5, 2: 0.7}
        assert kept.get_trials()[0].intermediate_values == {1: 0.5}
    assert kept.get_trials()[0].intermediate_values == {1: 0.5, 2: 0.7}


def test_what_was_handed_out_does_not_change(backend: BaseStorage) -> None:
    study = optuna.create_study(storage=OneWriter(backend))
    trial = study.ask()
    before = study.get_trials(deepcopy=False)[0]
    trial.report(0.5, 1)
    trial.suggest_float("rate", 0.1, 0.9)
    assert before.intermediate_values == {}
    assert before.params == {}


def test_what_optuna_refuses_is_refused(backend: BaseStorage) -> None:
    storage = OneWriter(backend)
    study = optuna.create_study(storage=storage)
    trial = study.ask({"rate": FloatDistribution(0.1, 0.9)})
    with pytest.raises(ValueError, match="different distribution kind"):
        storage.set_trial_param(study.ask()._trial_id, "rate", 0, CategoricalDistribution(("a", "b")))
    study.tell(trial, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial._trial_id, "late", True)
    with pytest.raises(KeyError):
        storage.get_trial(10_000)


def test_a_database_that_fails_in_a_step_keeps_none_of_it(tmp_path: Path) -> None:
    backend = open_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(study_name="s", storage=OneWriter(backend))
    trial = study.ask()
    with sqlalchemy.create_engine(f"sqlite:///{tmp_path}/s.db").begin() as connection:
        connection.execute(sqlalchemy.text("DROP TABLE trial_user_attributes"))

    def one_step() -> None:
        with together(study):
            trial.report(0.5, 1)
            trial.set_user_attr("curve", [1])

    with pytest.raises(StorageInternalError):
        one_step()
    with sqlalchemy.create_engine(f"sqlite:///{tmp_path}/s.db").connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT * FROM trial_intermediate_values")).all() == []


def test_trials_that_others_put_in_the_queue_are_run(backend: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=OneWriter(backend))
    study.ask()
    optuna.load_study(study_name="s", storage=backend).enqueue_trial({"rate": 0.125})
    assert study.ask().number == 2  # not seen yet, and not in the way
    queued = study.ask()
    assert (queued.number, queued.suggest_float("rate", 0, 1)) == (1, 0.125)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
