"""The books of an open search: who waits is seen to wait, nothing is lost by a crash, and time may be added."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autometa import trial_attributes as attributes
from autometa.events import Event, TrialPaused, TrialStarted
from autometa.hpo.ledger import MAX_ATTEMPTS, ended, record_of
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.single_writer import SingleWriter
from autometa.learning.checkpoint_facts import FINAL
from autometa.records import FIRST_SECONDS, RungReport, Scalar, TrialConfig, TrialRecord
from tests.hpo.test_ledger import SPACE, checkpoint, report


@pytest.fixture
def storage() -> SingleWriter:
    return SingleWriter(InMemoryStorage())


@pytest.fixture
def study(storage: SingleWriter) -> optuna.Study:
    return optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))


def ledger_of(
    study: optuna.Study, storage: SingleWriter, folder: Path, events: list[Event] | None = None
) -> OpenLedger:
    on_event = (events if events is not None else []).append
    return OpenLedger(study, SPACE, storage=storage, rungs=None, seed=100, folder=folder, on_event=on_event)


def cooled(rung: int, mean: float) -> RungReport:
    return report(rung, mean).model_copy(update={"cooled": True})


def done(number: int) -> TrialRecord:
    return TrialRecord(number=number, state="complete", config=TrialConfig(values={}), facts={"parameters": 12})


def test_a_candidate_that_waits_is_marked_until_it_goes_on(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    events: list[Event] = []
    ledger = ledger_of(study, storage, tmp_path, events)
    number = ledger.ask().number
    ledger.report(number, report(1, 0.4))
    assert [s.is_busy for s in ledger.standings()] == [True]
    ledger.pause(number)
    assert study.trials[0].state == TrialState.RUNNING
    assert attributes.IS_WAITING.of(study.trials[0]) is True
    assert [(s.is_busy, s.family) for s in ledger.standings()] == [(False, study.trials[0].params["learner"])]
    asked = ledger.go_on(number)
    assert (asked.number, asked.seed, asked.rung) == (0, 100, 1)
    assert attributes.IS_WAITING.of(study.trials[0]) is False
    assert [type(event) for event in events if isinstance(event, TrialPaused | TrialStarted)] == [
        TrialStarted,
        TrialPaused,
        TrialStarted,
    ]


def test_at_the_end_the_trained_are_complete_and_the_others_pruned_with_their_curves(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    for mean in (0.4, 0.6):
        number = ledger.ask().number
        ledger.report(number, report(1, mean))
        ledger.pause(number)
    ledger.ask()  # never reported
    ledger.go_on(1)
    ledger.report(1, cooled(2, 0.7))
    ledger.finish(1, done(1))
    assert ledger.standings()[1].is_busy  # it can go on no further
    ledger.close()
    assert [t.state for t in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL]
    assert study.trials[1].value == 0.7
    assert [r.accuracy.mean for r in record_of(study.trials[0]).curve] == [0.4]
    assert [t.number for t in ended(study)] == [0, 1]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({FIRST_SECONDS: 35.2}, "features and a first step would have taken 35 s"),
        ({}, "the time was over before its first measurement"),
    ],
)
def test_what_was_not_begun_is_no_failure_and_says_why(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path, facts: dict[str, Scalar], why: str
) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    number = ledger.ask().number
    ledger.describe(number, facts)
    ledger.pause(number)
    ledger.close()
    assert study.trials[0].state == TrialState.FAIL
    assert attributes.FAIL_REASON.of(study.trials[0]) == why
    assert ended(study) == []  # it counts for nothing


def test_what_a_dead_search_left_is_taken_over_as_it_was(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    for _ in range(2):
        ledger.ask()
    ledger.report(0, report(1, 0.4))
    ledger.pause(0)
    checkpoint(tmp_path / "00000", [report(1, 0.4)])
    checkpoint(tmp_path / "00001", [report(1, 0.5), report(2, 0.6)])  # of which the driver heard nothing
    again = ledger_of(study, storage, tmp_path)
    again.adopt()
    assert [(s.number, s.rung, s.is_busy) for s in again.standings()] == [(0, 1, False), (1, 2, False)]
    assert study.trials[1].intermediate_values == {1: 0.5, 2: 0.6}
    assert attributes.ATTEMPTS.of(study.trials[0]) is None
    assert attributes.ATTEMPTS.of(study.trials[1]) == 1
    assert len(study.trials) == 2  # nothing is a trial twice


def test_a_candidate_that_is_on_a_worker_whenever_a_search_dies_is_given_up(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger_of(study, storage, tmp_path).ask()
    for _ in range(MAX_ATTEMPTS):
        ledger = ledger_of(study, storage, tmp_path)
        ledger.adopt()
        if ledger.running:
            ledger.go_on(0)
    assert study.trials[0].state == TrialState.FAIL
    assert f"{MAX_ATTEMPTS} times" in attributes.FAIL_REASON.required_of(study.trials[0])


def test_with_more_time_a_candidate_that_ended_goes_on_from_its_checkpoint(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    values = ledger.ask().values
    ledger.report(0, report(1, 0.4))
    ledger.report(0, cooled(2, 0.7))
    ledger.finish(0, done(0))
    ledger.close()
    checkpoint(tmp_path / "00000", [report(1, 0.4)])
    checkpoint(tmp_path / "00000" / FINAL, [report(1, 0.4), cooled(2, 0.7)])
    later = ledger_of(study, storage, tmp_path)
    later.adopt()
    assert [(s.number, s.rung, s.is_busy) for s in later.standings()] == [(0, 1, False)]
    asked = later.go_on(0)
    assert (asked.number, asked.values, asked.seed, asked.folder, asked.rung) == (1, values, 100, "00000", 1)
    assert [s.number for s in later.standings()] == [1]
    later.report(1, report(2, 0.5))
    later.pause(1)
    later.close()
    assert [(t.number, t.state) for t in ended(study)] == [(1, TrialState.PRUNED)]
    assert study.trials[1].intermediate_values == {1: 0.4, 2: 0.5}


def test_a_configuration_is_trained_again_with_another_seed(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    first = ledger.ask()
    ledger.report(0, report(1, 0.4))
    again = ledger.try_again(0)
    assert (again.number, again.values) == (1, first.values)
    assert (again.seed, again.folder) == (101, "00001")
    assert study.trials[1].params == study.trials[0].params
    assert [s.number for s in ledger.standings()] == [0, 1]


def test_a_failed_segment_ends_its_candidate(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    ledger = ledger_of(study, storage, tmp_path)
    ledger.ask()
    ledger.finish(0, done(0).model_copy(update={"state": "fail", "reason": "diverged: loss is nan"}))
    ledger.pause(0)  # the segment's end is told after its record
    assert study.trials[0].state == TrialState.FAIL
    assert ledger.standings() == []
