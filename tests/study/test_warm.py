"""Which archives a search learns from, and how it says so."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from autometa.errors import StudyError
from autometa.priors import archive
from autometa.records import Accuracy, Budget, EpisodeSpec, RungReport, StudyRecord, TrialConfig, TrialRecord
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.study import warm

SPACE = SearchSpace("s", (Choice("kind", ("a", "b")), Range("rate", 0.001, 1.0, log=True)))


def record(name: str) -> StudyRecord:
    return StudyRecord(
        name=name,
        dataset="digits",
        dataset_fingerprint="f",
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        space="s",
        space_version="0",
        budget=Budget(steps=10, rungs=1),
        seed=0,
        pruner="none",
    )


def trial(number: int) -> TrialRecord:
    kind, rate = "ab"[number % 2], 0.001 * 1.2**number
    accuracy = Accuracy(mean=0.5 + 0.2 * (kind == "a") + 0.005 * number, half_width=0.01, episodes=100, seed=0)
    report = RungReport(rung=1, accuracy=accuracy, steps=10, seconds=1.0)
    return TrialRecord(
        number=number, state="complete", config=TrialConfig(values={"kind": kind, "rate": rate}), curve=[report]
    )


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        archive.write(tmp_path / "studies", record(name), [trial(n) for n in range(30)])
    return tmp_path / "studies"


def ignore(reason: str) -> None:
    raise AssertionError(reason)


def test_a_study_does_not_learn_from_itself(archives: Path) -> None:
    assert [s.name for s in warm.comparable("one", archives, ignore)] == ["two"]
    assert [s.name for s in warm.comparable("new", archives / "one", ignore)] == ["one"]


def test_a_folder_without_archives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no archived study is there"):
        warm.comparable("new", tmp_path, ignore)


def test_a_broken_archive_is_left_out_with_its_reason(archives: Path) -> None:
    (archives / "two" / "trials.jsonl").write_text("{")
    reasons: list[str] = []
    assert [s.name for s in warm.comparable("new", archives, reasons.append)] == ["one"]
    assert "two" in reasons[0]
    with pytest.raises(Exception, match=r"trials\.jsonl"):
        warm.comparable("new", archives / "two", ignore)


def test_a_warm_start_begins_with_what_did_best_and_says_so(archives: Path) -> None:
    start = warm.start(record("new"), SPACE, warm.comparable("new", archives, ignore), trials=12, trials_so_far=0)
    values, why = start.portfolio[0]
    assert values["kind"] == "a"
    assert why.startswith("portfolio 1: from ")
    assert len(start.portfolio) == 4
    assert "2 past studies, 2 informative: " in start.line
    assert "portfolio of 4" in start.line


def test_without_past_studies_the_start_is_cold_and_says_nothing() -> None:
    start = warm.start(record("new"), SPACE, [], trials=12, trials_so_far=0)
    assert (start.portfolio, start.line) == ((), "")
    assert isinstance(start.sampler, optuna.samplers.TPESampler)


def test_archives_that_say_nothing_are_named_as_such(archives: Path) -> None:
    other = SearchSpace("other", (Choice("colour", ("red", "blue")),))
    start = warm.start(record("new"), other, warm.comparable("new", archives, ignore), trials=12, trials_so_far=0)
    assert start.line == "prior: none of 2 past studies tells good from bad in this space; cold start"
    assert start.portfolio == ()


def test_worth_counts_origins() -> None:
    study = optuna.create_study(direction="maximize")
    for origin, value in (
        ("portfolio 1: from x", 0.5),
        ("portfolio 2: from y", 0.7),
        ("prior: x 0.9", 0.6),
        (None, None),
    ):
        attributes = {"origin": origin} if origin else {}
        state = optuna.trial.TrialState.COMPLETE if value else optuna.trial.TrialState.PRUNED
        study.add_trial(optuna.create_trial(value=value, state=state, user_attrs=attributes))
    assert warm.worth(study) == {
        "portfolio": warm.Worth(2, 0.7),
        "prior": warm.Worth(1, 0.6),
        "cold": warm.Worth(1, None),
    }
