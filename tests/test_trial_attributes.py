"""Attributes of trials: typed in the code, and under the keys that storages of earlier versions have."""

from __future__ import annotations

import optuna
import pytest

from autometa import trial_attributes as attributes
from autometa.trial_attributes import TrialAttribute


def test_the_keys_are_those_of_storages_that_there_are() -> None:
    named = {name.lower(): one.key for name, one in vars(attributes).items() if isinstance(one, TrialAttribute)}
    assert named == {key: key for key in named}
    assert sorted(named) == [
        "attempts",
        "continues",
        "curve",
        "facts",
        "fail_reason",
        "folder",
        "interrupted",
        "is_waiting",
        "origin",
        "seed",
        "together_with",
    ]


def test_an_attribute_is_written_read_and_missed() -> None:
    study = optuna.create_study()
    trial = study.ask()
    attributes.SEED.write(trial, 0)
    study.tell(trial, 0.5)
    study.enqueue_trial({}, user_attrs=attributes.ORIGIN.entry("start") | attributes.ATTEMPTS.entry(2))
    ended, waiting = study.trials
    assert attributes.SEED.of(ended, 7) == attributes.SEED.required_of(ended) == 0
    assert (attributes.SEED.of(waiting, 7), attributes.SEED.of(waiting)) == (7, None)
    assert (attributes.ORIGIN.of(waiting), attributes.ATTEMPTS.of(waiting)) == ("start", 2)
    with pytest.raises(KeyError, match="folder"):
        attributes.FOLDER.required_of(ended)
