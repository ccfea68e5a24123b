"""What the driver reads from memory is what the storage holds, whatever keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autometa.study.single_writer import SingleWriter, together
from autometa.study.storage import open_storage
from tests.study.postgresql import server


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(params=["sqlite:///{}/s.db", "journal:{}/s.log", "postgresql"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseStorage]:
    if request.param != "postgresql":
        yield open_storage(request.param.format(tmp_path))
        return
    storage = open_storage(request.getfixturevalue("postgresql"))
    yield storage
    for study in storage.get_all_studies():
        storage.delete_study(study._study_id)


def facts(trial: FrozenTrial) -> tuple[object, ...]:
    return (
        trial.number,
        trial.state,
        trial.values,
        # In order, since a database has none; a NaN equals itself as text.
        *(repr(sorted(entries.items())) for entries in (trial.params, trial.distributions, trial.intermediate_values)),
        *(repr(sorted(entries.items())) for entries in (trial.user_attrs, trial.system_attrs)),
    )


def seconds_between(a: datetime | None, b: datetime | None) -> float:
    return abs((a - b).total_seconds()) if a and b else 0.0 if a is b else float("inf")


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
            trial.set_user_attr("facts", {"steps": 3 * number, "note": '100 %s; it\'s \\ "ü"'})
            study.tell(trial, width * rate if state == TrialState.COMPLETE else None, state=state)


def test_memory_and_storage_hold_the_same(backend: BaseStorage) -> None:
    study = optuna.create_study(
        study_name="s",
        storage=SingleWriter(backend),
        sampler=optuna.samplers.TPESampler(seed=2, n_startup_trials=4),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )
    study.enqueue_trial({"width": 8}, user_attrs={"origin": "start"})
    search(study, 12)
    study.ask()
    kept = optuna.load_study(study_name="s", storage=backend)
    assert [facts(t) for t in kept.get_trials()] == [facts(t) for t in study.get_trials()]
    for mine, theirs in zip(study.trials, kept.trials, strict=True):
        assert seconds_between(mine.datetime_start, theirs.datetime_start) < 10  # each has its clock, of one time zone
        assert seconds_between(mine.datetime_complete, theirs.datetime_complete) < 10
    assert kept.trials[0].user_attrs["origin"] == "start"
    assert kept.best_trial.number == study.best_trial.number
    again = optuna.load_study(study_name="s", storage=SingleWriter(backend))
    assert [facts(t) for t in again.get_trials()] == [facts(t) for t in study.get_trials()]


def test_the_same_proposals_as_without_it(tmp_path: Path) -> None:
    found = []
    for storage in (
        open_storage(f"sqlite:///{tmp_path}/a.db"),
        SingleWriter(open_storage(f"sqlite:///{tmp_path}/b.db")),
    ):
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=5, n_startup_trials=3))
        search(study, 9)
        found.append([t.params for t in study.get_trials()])
    assert found[0] == found[1]


def test_a_step_is_written_at_its_end_and_others_at_once(backend: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=SingleWriter(backend))
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
    study = optuna.create_study(storage=SingleWriter(backend))
    trial = study.ask()
    before = study.get_trials(deepcopy=False)[0]
    trial.report(0.5, 1)
    trial.suggest_float("rate", 0.1, 0.9)
    assert before.intermediate_values == {}
    assert before.params == {}


def test_what_optuna_refuses_is_refused(backend: BaseStorage) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(storage=storage)
    trial = study.ask({"rate": FloatDistribution(0.1, 0.9)})
    with pytest.raises(ValueError, match="different distribution kind"):
        storage.set_trial_param(study.ask()._trial_id, "rate", 0, CategoricalDistribution(("a", "b")))
    study.tell(trial, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial._trial_id, "late", True)
    with pytest.raises(KeyError):
        storage.get_trial(10_000)


def test_a_database_that_fails_in_a_step_keeps_none_of_it(backend: BaseStorage) -> None:
    if not isinstance(backend, RDBStorage):
        pytest.skip("a journal has no transactions")
    study = optuna.create_study(study_name="s", storage=SingleWriter(backend))
    trial = study.ask()
    row = {"id": trial._trial_id}
    with backend.engine.begin() as connection:  # somebody else's, which the driver does not know of
        text = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:id, 'facts', '1')"
        connection.execute(sqlalchemy.text(text), row)

    def one_step() -> None:
        with together(study):
            trial.report(0.5, 1)
            trial.set_user_attr("facts", [1])
            study.tell(trial, 0.5)

    with pytest.raises(StorageInternalError) as caught:
        one_step()
    assert "trial_user_attributes" in str(caught.value.__cause__)
    kept = backend.get_trial(trial._trial_id)
    assert (kept.state, kept.values, kept.intermediate_values) == (TrialState.RUNNING, None, {})


def test_trials_that_others_put_in_the_queue_are_run(backend: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=SingleWriter(backend))
    study.ask()
    optuna.load_study(study_name="s", storage=backend).enqueue_trial({"rate": 0.125})
    assert study.ask().number == 2  # not seen yet, and not in the way
    queued = study.ask()
    assert (queued.number, queued.suggest_float("rate", 0, 1)) == (1, 0.125)
    assert [trial.number for trial in study.trials] == [0, 1, 2]


def test_numbers_are_given_once_though_others_add_trials_at_the_same_time(backend: BaseStorage) -> None:
    if not isinstance(backend, RDBStorage):
        pytest.skip("Optuna's own")
    study = optuna.create_study(study_name="s", storage=SingleWriter(backend))
    other = optuna.load_study(study_name="s", storage=open_storage(backend.url))
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(lambda: [other.enqueue_trial({}) for _ in range(40)])
        for _ in range(40):
            study.ask()
        adding.result()
    kept = optuna.load_study(study_name="s", storage=open_storage(backend.url)).get_trials()
    assert [trial.number for trial in kept] == list(range(len(kept)))
    assert {trial._trial_id: trial.number for trial in kept}.items() >= study._storage._numbers.items()


def test_only_reports_do_not_wait_for_the_disk_of_postgresql(postgresql: str) -> None:
    backend = open_storage(postgresql)
    assert isinstance(backend, RDBStorage)
    study = optuna.create_study(study_name="waits", storage=SingleWriter(backend))
    sent: list[str] = []

    @sqlalchemy.event.listens_for(backend.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    with together(study):
        trial = study.ask({"rate": FloatDistribution(0.1, 0.9)})
        trial.report(0.25, 1)  # as a trial that goes on has
    with together(study):
        trial.report(0.5, 2)
    with together(study):
        trial.report(0.75, 3)
        study.tell(trial, 0.75)
    waits = [not statement.startswith("SET LOCAL synchronous_commit TO off;") for statement in sent[-3:]]
    assert waits == [True, False, True]
    with backend.engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SHOW synchronous_commit")).scalar() == "on"
