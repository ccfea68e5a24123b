"""What the driver reads from memory is what the storage holds, whatever keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from tests.hpo.postgresql import server


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
        optuna.delete_study(study_name=study.study_name, storage=storage)


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
        trial = study.ask()
        width = trial.suggest_categorical("width", (4, 8, 16))
        rate = trial.suggest_float("rate", 1e-3, 0.3, log=True)
        attributes.FOLDER.write(trial, f"{number:05d}")
        for step in (1, 2, 3):
            trial.report(float("nan") if number == 3 else width * rate / step, step)
            trial.set_user_attr("curve", list(range(step)))
            trial.set_constraint(f"at {step}", -1.0)
            trial.should_prune()
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 3]
        trial.set_user_attr("facts", {"steps": 3 * number, "note": '100 %s; it\'s \\ "ü"'})
        study.tell(trial, width * rate if state == TrialState.COMPLETE else None, state=state)


def test_memory_and_storage_hold_the_same(backend: BaseStorage) -> None:
    study = optuna.create_study(
        study_name="s",
        storage=SingleWriter(backend),
        sampler=optuna.samplers.TPESampler(seed=2, n_startup_trials=4),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    )
    study.enqueue_trial({"width": 8}, user_attrs=attributes.ORIGIN.entry("start"))
    search(study, 12)
    study.ask()
    kept = optuna.load_study(study_name="s", storage=backend)
    assert [facts(t) for t in kept.get_trials()] == [facts(t) for t in study.get_trials()]
    for mine, theirs in zip(study.trials, kept.trials, strict=True):
        assert seconds_between(mine.datetime_start, theirs.datetime_start) < 10  # each has its clock, of one time zone
        assert seconds_between(mine.datetime_complete, theirs.datetime_complete) < 10
    assert attributes.ORIGIN.of(kept.trials[0]) == "start"
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


def test_what_is_set_is_in_the_storage_at_once_and_what_is_deferred_when_the_trial_ends(backend: BaseStorage) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(study_name="s", storage=storage)
    kept = optuna.load_study(study_name="s", storage=backend)
    trial = study.ask()
    trial.suggest_float("rate", 0.1, 0.9)
    trial.set_user_attr("seed", 4)
    for step in (1, 2):
        trial.report(0.5, step)
        with storage.deferred():
            trial.set_user_attr("curve", list(range(step)))
    assert study.trials[0].user_attrs == {"seed": 4, "curve": [0, 1]}
    (running,) = kept.get_trials()
    assert (running.params, running.intermediate_values) == (study.trials[0].params, {1: 0.5, 2: 0.5})
    assert running.user_attrs == {"seed": 4}
    study.tell(trial, state=TrialState.PRUNED)
    assert kept.get_trials()[0].user_attrs == {"seed": 4, "curve": [0, 1]}


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
        storage.set_trial_param(study.ask().number, "rate", 0, CategoricalDistribution(("a", "b")))
    study.tell(trial, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial.number, "late", True)
    with pytest.raises(KeyError):
        storage.get_trial(10_000)


def test_what_the_storage_refuses_is_not_in_memory(backend: BaseStorage) -> None:
    study = optuna.create_study(study_name="s", storage=SingleWriter(backend))
    trial = study.ask()
    optuna.load_study(study_name="s", storage=backend).tell(trial.number, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):  # the driver does not know that somebody else ended it
        trial.report(0.5, 1)
    assert study.trials[0].intermediate_values == {}


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
            trial = study.ask()
            trial.set_user_attr("mine", trial.number)
        adding.result()
    kept = optuna.load_study(study_name="s", storage=open_storage(backend.url)).get_trials()
    assert [trial.number for trial in kept] == list(range(len(kept)))
    assert [t.number for t in kept if "mine" in t.user_attrs] == [t.user_attrs["mine"] for t in kept if t.user_attrs]
    assert [facts(t) for t in study.trials] == [facts(t) for t in kept[: len(study.trials)]]


def test_a_trial_created_in_one_write_is_in_the_storage_when_the_block_ends_and_not_before(
    backend: BaseStorage,
) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(study_name="s", storage=storage)
    kept = optuna.load_study(study_name="s", storage=backend)
    study.ask()
    with storage.one_write() as created:
        trial = study.ask()
        width = trial.suggest_categorical("width", (4, 8, 16))
        rate = trial.suggest_float("rate", 1e-3, 0.3, log=True)
        trial.set_user_attr("seed", 4)
        trial.set_constraint("memory", -1.0)
        trial.report(0.25, 1)
        assert facts(study.trials[1])[0] == trial.number == 1
        assert len(kept.get_trials()) == 1
    assert created.number == 1
    written = kept.get_trials()[1]
    assert (written.state, written.params) == (TrialState.RUNNING, {"width": width, "rate": rate})
    assert (written.user_attrs, written.intermediate_values) == ({"seed": 4}, {1: 0.25})
    trial.report(0.5, 2)
    study.tell(trial, 0.5)
    assert [facts(t) for t in kept.get_trials()] == [facts(t) for t in study.trials]


def test_a_trial_in_one_write_gets_a_later_number_where_others_put_trials_in_the_queue_meanwhile(
    backend: BaseStorage,
) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(study_name="s", storage=storage)
    kept = optuna.load_study(study_name="s", storage=backend)
    with storage.one_write() as created:
        trial = study.ask()
        trial.suggest_float("rate", 0.5, 0.9)
        kept.enqueue_trial({"rate": 0.125})
        kept.enqueue_trial({"rate": 0.25})
        assert trial.number == 0
    assert created.number == 2
    storage.set_trial_user_attr(2, "mine", True)
    assert [facts(t) for t in study.trials] == [facts(t) for t in kept.get_trials()]
    assert [t.state.name for t in study.trials] == ["WAITING", "WAITING", "RUNNING"]
    with storage.one_write() as created:
        queued = study.ask()
        assert queued.suggest_float("rate", 0, 1) == 0.125
        assert kept.get_trials()[0].params == {"rate": 0.125}, "it is there already, so it is written at once"
    assert (created.number, queued.number) == (None, 0)


def test_a_block_that_fails_leaves_no_trial(backend: BaseStorage) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(study_name="s", storage=storage)

    def fail() -> None:
        with storage.one_write():
            study.ask().suggest_float("rate", 0.1, 0.9)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert study.trials == optuna.load_study(study_name="s", storage=backend).trials == []
    trial = study.ask()
    assert trial.number == 0
    trial.suggest_categorical("rate", ("low", "high"))  # no other kind was written
    assert [facts(t) for t in optuna.load_study(study_name="s", storage=backend).trials] == [
        facts(t) for t in study.trials
    ]


def test_a_trial_that_the_storage_refuses_is_not_in_memory(backend: BaseStorage) -> None:
    storage = SingleWriter(backend)
    study = optuna.create_study(study_name="s", storage=storage)
    study.ask()

    def write_nonsense() -> None:
        with storage.one_write():
            study.ask().set_user_attr("no JSON", object())

    with pytest.raises(TypeError):
        write_nonsense()
    assert len(study.trials) == len(optuna.load_study(study_name="s", storage=backend).trials) == 1
    assert study.ask().number == 1
