"""What is said of an accuracy: for new classes, over episodes alone, and how two compare; in 80 columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from autometa.cli.search import _print_result
from autometa.cli.words import caution, certain, comparison, for_new_classes
from autometa.records import (
    Accuracy,
    Baseline,
    Budget,
    ClassInterval,
    Comparison,
    Confirmation,
    EpisodeSpec,
    Retrained,
    StudyRecord,
    TrialConfig,
    TrialRecord,
)
from autometa.study.search import SearchResult


def accuracy(mean: float, classes: int = 20, families: int = 20, seeds: int = 1, look: int | None = None) -> Accuracy:
    interval = ClassInterval(low=mean - 0.031, high=mean + 0.03, classes=classes, families=families, seeds=seeds)
    return Accuracy(mean=mean, half_width=0.0071, episodes=600, seed=0, over_classes=interval, look=look)


def test_plus_minus_is_for_new_classes_and_the_other_has_its_name() -> None:
    shown = certain(accuracy(0.717), "test")
    assert shown == "71.7 ± 3.1 % (20 test classes; ± 0.7 over episodes alone)"
    assert "(20 classes, 3 seeds; ± 0.7" in certain(accuracy(0.717, seeds=3), "test")
    old = Accuracy(mean=0.717, half_width=0.007, episodes=600, seed=0)
    assert certain(old, "test") == "71.7 % (classes not known; ± 0.7 over episodes alone)"
    assert for_new_classes(old) == "71.7 %", "no ± that means something else than it did"


def test_classes_that_are_turns_of_a_few_are_said_to_be() -> None:
    few = caution(accuracy(0.7, classes=8, families=2), 5, "test")
    assert few == "these 8 test classes are turns of only 2: take ± for too small"
    assert caution(accuracy(0.7, classes=1692, families=423), 5, "test") is None


def test_two_trials_are_told_apart_or_not() -> None:
    ahead = Comparison(source="trial 9", other="trial 13", ahead=0.018, half_width=0.011)
    assert comparison(ahead) == "trial 9 is ahead of trial 13 by 1.8 ± 1.1"
    behind = Comparison(source="trial 9", other="trial 13", ahead=-0.018, half_width=0.011)
    assert comparison(behind) == "trial 13 is ahead of trial 9 by 1.8 ± 1.1"
    alike = Comparison(source="trial 9", other="trial 13", ahead=0.004, half_width=0.011)
    assert comparison(alike) == "trial 9 and trial 13 are not distinguishable (0.4 ± 1.1)"


RIDGE = TrialConfig(values={"learner": "ridge", "backbone": "pixels"})


def test_the_end_of_a_search_says_what_was_measured_and_each_look(capsys: pytest.CaptureFixture[str]) -> None:
    again = Retrained(seeds=[7, 8], selection=accuracy(0.7), validation=accuracy(0.71, seeds=2))
    shown = {"validation": accuracy(0.72), "test": accuracy(0.717, 8, 2, look=5), "selection": accuracy(0.73)}
    won = Confirmation(trial=9, retrained=again, **shown)
    before = Confirmation(trial=3, validation=accuracy(0.7), test=accuracy(0.701, look=4), selection=accuracy(0.7))
    study = StudyRecord(
        name="digits-5w1s",
        dataset="digits",
        dataset_fingerprint="f",
        episodes=EpisodeSpec(),
        space="few_shot",
        space_version="1",
        budget=Budget(steps=3),
        seed=0,
        pruner="halving",
        confirmed=[before, won],
    )
    study = study.model_copy(
        update={"baselines": [Baseline(name="ridge-pixels", config=RIDGE, accuracy=accuracy(0.7), seconds=0.3)]}
    )
    maml = TrialConfig(values={"learner": "maml"})
    trials = tuple(TrialRecord(number=n, state="complete", config=maml) for n in (3, 9))
    compared = (
        Comparison(source="trial 9", other="trial 3", ahead=0.018, half_width=0.011),
        Comparison(source="trial 9", other="baseline ridge-pixels", ahead=0.004, half_width=0.011),
    )
    result = SearchResult(study, trials, won, False, 0, Path("studies/digits-5w1s"), "sqlite:///x", {}, compared)
    _print_result(result, False, None)
    out = capsys.readouterr().out
    for words in (
        "meta-test   71.7 ± 3.1 % (8 test classes; ± 0.7 over episodes alone)",
        "other seeds 71.0 ± 3.1 % (20 classes, 2 seeds; ± 0.7 over episodes alone)",
        "turns of only 2",
        "look 5 at these test classes",
        "trial 9 is ahead of trial 3 by 1.8 ± 1.1",
        "2 winners of this study were measured on the same test episodes:\n    trial 3  70.1 ± 3.1 %\n    trial 9",
        "baseline ridge-pixels",
        "the winner does not beat baseline ridge-pixels (+0.4 ± 1.1)",
    ):
        assert words in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_baseline_that_no_trial_beats_is_named_as_winner(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"validation": accuracy(0.72), "test": accuracy(0.717, look=1), "selection": accuracy(0.73)}
    won = Confirmation(baseline="ridge-pixels", **shown)
    known = Baseline(name="ridge-pixels", config=RIDGE, accuracy=accuracy(0.7), seconds=0.3)
    about = {"name": "s", "dataset": "digits", "dataset_fingerprint": "f", "episodes": EpisodeSpec()}
    about |= {"space": "few_shot", "space_version": "1", "budget": Budget(steps=3), "seed": 0, "pruner": "halving"}
    study = StudyRecord(**about, baselines=[known], confirmed=[won])
    result = SearchResult(study, (), won, False, 0, Path("studies/s"), "sqlite:///x", {})
    _print_result(result, False, None)
    out = capsys.readouterr().out
    assert "winner: baseline ridge-pixels: ridge · pixels" in out
    assert "no trial of this search beats baseline ridge-pixels" in out
    assert "70.00 ± 0.71 %  72.0 ± 3.1 %" in out, "what it showed at the start, and on fresh episodes"
