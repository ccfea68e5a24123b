"""Budgets and records: what a user may write, and what is refused."""

from __future__ import annotations

import pytest

from autometa.errors import ConfigError
from autometa.records import (
    Accuracy,
    Budget,
    Confirmation,
    EpisodeSpec,
    TrialConfig,
    checked,
    parse_budget,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [("400", 400, None), ("37steps", 37, None), ("90s", None, 90), ("2.5m", None, 150), ("1h", None, 3600)],
)
def test_a_budget_is_steps_or_time(text: str, steps: int | None, seconds: float | None) -> None:
    assert parse_budget(text) == Budget(steps=steps, seconds=seconds)


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "ten", "5 parsecs", "nan"])
def test_a_budget_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["400steps", "0s", "soon"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="time"):
        parse_seconds(text)


def test_a_budget_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="give steps or seconds"):
        checked(Budget, {"rungs": 3}, where="x")


def test_a_budget_of_no_steps_is_one_and_cannot_be_open() -> None:
    assert str(checked(Budget, {"steps": 0, "rungs": 1}, where="x")) == "0 steps"
    with pytest.raises(ConfigError, match="an open budget needs at least 1 step"):
        checked(Budget, {"steps": 0, "open": True}, where="x")


def test_a_confirmation_is_of_a_trial_a_baseline_or_an_ensemble() -> None:
    shown = {"validation": {"mean": 0.5, "half_width": 0.1, "episodes": 300, "seed": 1}}
    older = checked(Confirmation, {"trial": 3, **shown}, where="x")
    assert (older.source, older.model) == ("trial 3", 3)
    baseline = checked(Confirmation, {"baseline": "ridge-pixels", **shown}, where="x")
    assert (baseline.source, baseline.model) == ("baseline ridge-pixels", "ridge-pixels")
    together = checked(Confirmation, {"ensemble": [3, 5], **shown}, where="x")
    assert (together.source, together.model) == ("ensemble", "ensemble")
    for both in ({}, {"trial": 3, "baseline": "ridge-pixels"}, {"trial": 3, "ensemble": [3, 5]}):
        with pytest.raises(ConfigError, match="give a trial, a baseline or an ensemble"):
            checked(Confirmation, {**both, **shown}, where="x")


def test_options_of_one_choice() -> None:
    config = TrialConfig(values={"backbone": "conv", "conv.width": 48, "convex.width": 1})
    assert config.options("conv") == {"width": 48}


def test_a_record_that_is_wrong_names_place_field_and_value() -> None:
    with pytest.raises(ConfigError, match=r"here\.toml: way: .* \(got 1\)"):
        checked(EpisodeSpec, {"way": 1, "shot": 1}, where="here.toml")


def test_chance_and_interval_read_as_people_write_them() -> None:
    assert EpisodeSpec(way=4, shot=2).chance == 0.25
    assert str(Accuracy(mean=0.6321, half_width=0.0123, episodes=600, seed=1)) == "63.21 ± 1.23 % (600 episodes)"
