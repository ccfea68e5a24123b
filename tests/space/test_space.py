"""A search space as a define-by-run function and as an encoding."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autometa.errors import ConfigError
from autometa.space.files import load_space
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace

SPACE = SearchSpace(
    "small",
    (
        Range("rate", 0.01, 1.0, log=True, when={"learner": ("maml", "anil")}),
        Range("steps", 1, 5, integer=True, when={"learner": ("maml",), "deep": (True,)}),
        Choice("learner", ("proto", "maml", "anil")),
        Choice("deep", (True, False)),
    ),
)


def test_children_come_after_their_parents_whatever_the_order_in_the_file() -> None:
    assert [p.name for p in SPACE] == ["learner", "rate", "deep", "steps"]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_suggestion_is_always_valid_and_never_has_an_inactive_parameter(seed: int) -> None:
    space = load_space("few_shot")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = space.suggest(study.ask())
    space.check(values, where="suggestion")
    assert list(values) == space.active(values)


def test_the_encoding_marks_an_inactive_parameter_and_fills_nothing_in() -> None:
    vector = SPACE.encode({"learner": "maml", "rate": 0.1, "deep": False})
    activity = dict(
        zip(["learner", "rate", "deep", "steps"], [vector[0], vector[4], vector[6], vector[9]], strict=True)
    )
    assert activity == {"learner": 1.0, "rate": 1.0, "deep": 1.0, "steps": 0.0}
    assert vector[1:4] == [0.0, 1.0, 0.0]
    assert vector[5] == pytest.approx(0.5)
    assert math.isnan(vector[10])
    assert len(vector) == len(SPACE.encode({"learner": "proto", "deep": True}))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learner": "proto", "deep": True, "rate": 0.1}, "'rate' plays no part here"),
        ({"learner": "maml", "deep": False}, "'rate' is missing"),
        ({"learner": "maml", "deep": False, "rate": 3.0}, "rate = 3.0 is not allowed; it may be 0.01 … 1 log"),
        ({"learner": "maml", "deep": 1, "rate": 0.1}, "deep = 1 is not allowed"),
        ({"learner": "proto", "deep": True, "depth": 1}, "'depth' is not a parameter"),
    ],
)
def test_a_configuration_that_does_not_fit_says_why(values: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SPACE.check(values, where="config")
    assert says in str(caught.value)


def test_the_version_changes_with_a_bound_and_not_with_the_starts() -> None:
    wider = SearchSpace("small", (Range("rate", 0.01, 2.0, log=True),))
    same = SearchSpace("small", (Range("rate", 0.01, 1.0, log=True),), start=({"rate": 0.5},))
    narrow = SearchSpace("small", (Range("rate", 0.01, 1.0, log=True),))
    assert narrow.version == same.version != wider.version
