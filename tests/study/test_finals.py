"""Which finalists are still to be measured, when a search that had ended goes on with more time."""

from __future__ import annotations

import dataclasses
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from autometa import trial_attributes as attributes
from autometa.events import ignore
from autometa.hpo import study_record
from autometa.orchestrator.cluster import Share
from autometa.records import ENSEMBLE, Accuracy, Budget, Confirmation, EpisodeSpec, StudyRecord
from autometa.study.finals import Together, _Finals


def finals_of(*confirmed: dict[str, Any], continued: int | None = None) -> _Finals:
    """Of a study with three complete trials, and perhaps a fourth that continues one of them."""
    accuracy = Accuracy(mean=0.5, half_width=0.1, episodes=50, seed=0)
    study = optuna.create_study(direction="maximize")
    for number in (None, None, None, *([continued] if continued is not None else [])):
        again = attributes.CONTINUES.entry(number) if number is not None else {}
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=again))
    record = StudyRecord(
        name="t",
        dataset="digits",
        dataset_fingerprint="f",
        episodes=EpisodeSpec(),
        space="s",
        space_version="v",
        budget=Budget(seconds=1, open=True),
        seed=0,
        pruner="halving",
        confirmed=[Confirmation(**who, validation=accuracy) for who in confirmed],
    )
    study_record.write(study, record)
    return _Finals(None, study, Share(workers=1, gpus=0.0), ignore)  # type: ignore[arg-type]


def test_what_is_known_is_not_measured_again() -> None:
    finals = finals_of({"trial": 0}, {"baseline": "ridge-pixels"}, {"ensemble": [0, 1]})
    assert finals.unmeasured([0, 1, "ridge-pixels", ENSEMBLE]) == [1]


def test_models_of_trials_that_went_on_are_measured_again() -> None:
    finals = finals_of({"trial": 0}, {"trial": 1}, {"ensemble": [0, 1]}, continued=0)
    assert finals.unmeasured([1, 3, ENSEMBLE]) == [3, ENSEMBLE]


def test_an_ensemble_of_other_members_is_measured_again() -> None:
    finals = finals_of({"ensemble": [0, 1]})
    finals = dataclasses.replace(finals, together=Together({1: "plain", 2: "mirrored"}, is_new=True))
    assert finals.unmeasured([ENSEMBLE]) == [ENSEMBLE]
