"""What does not fit the memory is not proposed again and again."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autometa import trial_attributes as attributes
from autometa.hpo.ledger import MEMORY, Ledger
from autometa.hpo.pruning import make_sampler
from autometa.hpo.single_writer import SingleWriter
from autometa.records import TrialConfig, TrialRecord
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace

SPACE = SearchSpace("s", (Range("width", 8, 512), Choice("depth", (2, 3)), Range("rate", 0.1, 1.0)))
FITS = 200


def searched(sampler: BaseSampler, folder: Path, trials: int) -> optuna.Study:
    """A search in which wider is better, and what is wider than `FITS` fails."""
    storage = SingleWriter(InMemoryStorage())
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
    ledger = Ledger(study, SPACE, storage=storage, rungs=3, seed=1, folder=folder)
    for _ in range(trials):
        asked = ledger.ask()
        width = float(asked.values["width"])
        if width > FITS:
            ledger.end(asked.number, record=too_large(asked.number))
        else:
            study.tell(asked.number, width / FITS)
    return study


def too_large(number: int) -> TrialRecord:
    config = TrialConfig(values={})
    facts = {"out_of_memory": True}
    return TrialRecord(number=number, state="fail", config=config, reason="out of GPU memory: CUDA", facts=facts)


def failures(study: optuna.Study, since: int) -> int:
    return sum(t.state == TrialState.FAIL for t in study.trials[since:])


def test_the_cold_sampler_avoids_what_does_not_fit_and_optunas_own_does_not(tmp_path: Path) -> None:
    ours = [failures(searched(make_sampler(seed, 0), tmp_path, 50), since=15) for seed in (3, 4, 5)]
    plain = TPESampler(seed=3, n_startup_trials=8, group=True, multivariate=True, constant_liar=True)
    theirs = failures(searched(plain, tmp_path, 50), since=15)
    assert max(ours) < 0.6 * theirs


def test_the_study_says_that_a_trial_was_infeasible_and_why(tmp_path: Path) -> None:
    study = searched(make_sampler(3, 0), tmp_path, 20)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert failed
    assert all(t.constraints == {MEMORY: 1.0} for t in failed)
    assert {attributes.FAIL_REASON.of(t) for t in failed} == {"out of GPU memory: CUDA"}
    assert not study.get_trials(states=[TrialState.WAITING, TrialState.RUNNING]), "none is tried again"


def test_an_interrupted_trial_is_no_failure_to_the_sampler(tmp_path: Path) -> None:
    """TPE starts to model after eight trials: interrupted ones do not count."""

    def next_values(trials: int, *, interrupted: bool) -> dict[str, object]:
        storage = SingleWriter(InMemoryStorage())
        study = optuna.create_study(storage=storage, direction="maximize", sampler=make_sampler(9, 0))
        ledger = Ledger(study, SPACE, storage=storage, rungs=3, seed=1, folder=tmp_path)
        for _ in range(trials):
            study.enqueue_trial({"width": 300, "depth": 2, "rate": 0.5})
            asked = ledger.ask()
            if not interrupted:
                ledger.end(asked.number, record=too_large(asked.number))
        ledger.recover(died=False)
        while study.get_trials(states=[TrialState.WAITING]):
            ledger.ask()
        return dict(ledger.ask().values)

    assert next_values(10, interrupted=True) == next_values(0, interrupted=True)
    assert next_values(10, interrupted=False) != next_values(0, interrupted=True)
