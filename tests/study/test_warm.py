"""Which archives a search learns from, and how it says so."""

from __future__ import annotations

import shutil
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


def record(name: str, fingerprint: str = "f") -> StudyRecord:
    return StudyRecord(
        name=name,
        dataset="digits",
        dataset_fingerprint=fingerprint,
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


def names(past: warm.Past) -> list[str]:
    return [study.name for study in past.studies]


def test_a_study_does_not_learn_from_itself(archives: Path) -> None:
    assert names(warm.comparable("one", "f", archives, ignore)) == ["two"]
    assert names(warm.comparable("new", "f", archives / "one", ignore)) == ["one"]


def test_a_second_search_of_the_same_data_does_not_learn_from_the_first(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write(archives, record("elsewhere", "g"), [trial(n) for n in range(30)])
    monkeypatch.chdir(archives.parent)
    past = warm.comparable("again-seed1", "f", None, ignore)
    assert {"one", "two"} == set(past.same_data)
    assert "elsewhere" in names(past)
    assert not {"one", "two"} & set(names(past))
    line = warm.start(record("again-seed1"), SPACE, past, trials=12, trials_so_far=0).line
    assert line.endswith("; 2 of the same data are left out (one, two): --prior PATH learns from them")


def test_a_past_that_is_named_counts_whatever_its_data(archives: Path) -> None:
    past = warm.comparable("again-seed1", "f", archives, ignore)
    assert (names(past), past.same_data) == (["one", "two"], ())


def test_that_all_the_past_was_left_out_is_said(archives: Path) -> None:
    start = warm.start(record("new"), SPACE, warm.Past((), ("one",)), trials=12, trials_so_far=0)
    assert start.line == "prior: 1 of the same data is left out (one): --prior PATH learns from it"
    assert start.portfolio == ()


def test_the_record_notes_by_content_what_was_learned_from(archives: Path) -> None:
    past = warm.comparable("new", "f", archives, ignore)
    first = warm.noted(record("new"), past, is_new=True, warn=ignore)
    assert first.past == {study.name: study.digest for study in past.studies}
    assert len(set(first.past.values())) == 1  # the same trials under two names
    assert warm.noted(first, past, is_new=False, warn=ignore) == first
    assert warm.noted(record("new"), warm.Past(), is_new=True, warn=ignore).past == {}


def test_a_continued_study_says_that_its_past_has_changed(archives: Path) -> None:
    first = warm.noted(record("new"), warm.comparable("new", "f", archives, ignore), is_new=True, warn=ignore)
    archive.write(archives, record("one"), [trial(n) for n in range(29)])
    archive.write(archives, record("three"), [trial(n) for n in range(20)])
    shutil.rmtree(archives / "two")
    said: list[str] = []
    now = warm.comparable("new", "f", archives, ignore)
    second = warm.noted(first, now, is_new=False, warn=said.append)
    assert len(said) == 1
    assert "(new: three; changed: one; gone: two)" in said[0]
    assert first.past is not None
    digests = {study.name: study.digest for study in now.studies}
    assert second.past == {
        "one": f"{first.past['one']} then {digests['one']}",
        "two": first.past["two"],
        "three": digests["three"],
    }


def test_a_study_from_before_pasts_were_noted_is_continued_without_a_word(archives: Path) -> None:
    old = record("new")
    assert old.past is None
    assert warm.noted(old, warm.comparable("new", "f", archives, ignore), is_new=False, warn=ignore) == old


def test_a_folder_without_archives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no archived study is there"):
        warm.comparable("new", "f", tmp_path, ignore)


def test_a_broken_archive_is_left_out_with_its_reason(archives: Path) -> None:
    (archives / "two" / "trials.jsonl").write_text("{")
    reasons: list[str] = []
    assert names(warm.comparable("new", "f", archives, reasons.append)) == ["one"]
    assert "two" in reasons[0]
    with pytest.raises(Exception, match=r"trials\.jsonl"):
        warm.comparable("new", "f", archives / "two", ignore)


def test_a_warm_start_begins_with_what_did_best_and_says_so(archives: Path) -> None:
    start = warm.start(record("new"), SPACE, warm.comparable("new", "f", archives, ignore), trials=12, trials_so_far=0)
    values, why = start.portfolio[0]
    assert values["kind"] == "a"
    assert why.startswith("portfolio 1: from ")
    assert len(start.portfolio) == 4
    assert "2 past studies, 2 informative: " in start.line
    assert "portfolio of 4" in start.line


def test_without_past_studies_the_start_is_cold_and_says_nothing() -> None:
    start = warm.start(record("new"), SPACE, warm.Past(), trials=12, trials_so_far=0)
    assert (start.portfolio, start.line) == ((), "")
    assert isinstance(start.sampler, optuna.samplers.TPESampler)


def test_archives_that_say_nothing_are_named_as_such(archives: Path) -> None:
    other = SearchSpace("other", (Choice("colour", ("red", "blue")),))
    start = warm.start(record("new"), other, warm.comparable("new", "f", archives, ignore), trials=12, trials_so_far=0)
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
