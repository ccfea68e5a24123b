"""A search measures what it has to beat first, and never hands over anything worse."""

from __future__ import annotations

from pathlib import Path

import pytest

import autometa
from autometa.archives import archive
from autometa.events import BaselineMeasured, Event, RungReached
from autometa.learning.checkpoint_facts import exists, read_facts
from autometa.records import StudyRecord, parse_budget
from autometa.study.search import SearchResult
from autometa.trial.baselines import BASELINES
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.recipe import read_recipes

SPACE = """
name = "poor"
[parameters.learner]
choices = ["prototypical"]
[parameters.backbone]
choices = ["conv"]
[parameters."conv.width"]
choices = [2, 3, 4]
[parameters.outer_lr]
low = 1e-7
high = 1e-6
log = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poor.toml").write_text(SPACE)
    return tmp_path


def check_a_baseline_is_handed_over(result: SearchResult, folder: Path, events: list[Event]) -> None:
    assert [b.name for b in result.study.baselines] == list(BASELINES)
    assert [e.baseline for e in events if isinstance(e, BaselineMeasured)] == result.study.baselines
    best = max(result.study.baselines, key=lambda known: known.accuracy.mean)
    assert best.accuracy.mean > 0.6, "chance is 0.2"
    assert result.winner is not None
    assert (result.winner.baseline, result.winner.trial, result.winning_trial) == (best.name, None, None)
    assert result.winner.test is not None
    own = folder / "runs" / "t" / "baselines" / best.name
    assert result.model is not None
    assert read_facts(result.model)["sha256"] == read_facts(own)["sha256"]
    (recipe,) = read_recipes(result.model / "recipe.toml")
    assert (recipe.config, recipe.budget.steps) == (best.config.values, 0)
    assert recipe.provenance["baseline"] == best.name
    assert result.winner.selection is not None
    episodes = result.winner.selection.episodes + result.winner.validation.episodes
    again = evaluate_checkpoint(result.model, split="val", episodes=episodes, seed=1_000_000)
    both = (result.winner.selection.mean + result.winner.validation.mean) / 2
    assert again.mean == pytest.approx(both, abs=1e-9), "evaluate agrees"
    assert archive.read(folder / "runs" / "studies" / "t").study.baselines == result.study.baselines


def test_a_search_of_poor_trials_hands_over_the_best_baseline(folder: Path) -> None:
    events: list[Event] = []
    settings = {
        "dataset": "digits",
        "space": folder / "poor.toml",
        "study": "t",
        "trials": 2,
        "budget": parse_budget("9"),
        "cold": True,
    }
    settings |= {"validation_episodes": 20, "workers": 1}
    result = autometa.search(**settings, on_event=events.append)
    check_a_baseline_is_handed_over(result, folder, events)
    kinds = [type(event) for event in events]
    assert kinds.index(BaselineMeasured) < kinds.index(RungReached)
    assert {c.other for c in result.comparisons} == {f"trial {t.number}" for t in result.trials}
    assert all(exists(folder / "runs" / "t" / "baselines" / name) for name in BASELINES)

    told: list[Event] = []
    more = autometa.search(**(settings | {"trials": 3}), on_event=told.append)
    assert more.study.baselines == result.study.baselines
    assert not [event for event in told if isinstance(event, BaselineMeasured)], "they are measured once a study"


def test_a_search_in_a_given_time_measures_baselines_beside_its_candidates(folder: Path) -> None:
    events: list[Event] = []
    settings = {
        "dataset": "digits",
        "space": folder / "poor.toml",
        "study": "t",
        "cold": True,
        "validation_episodes": 20,
    }
    result = autometa.search(**settings, time_budget=60.0, on_event=events.append)
    assert result.trials, "candidates were trained as well"
    check_a_baseline_is_handed_over(result, folder, events)


def test_a_study_from_before_there_were_baselines_has_none() -> None:
    kept = archive.read(Path(autometa.__file__).parents[1] / "studies" / "digits-5w1s")
    assert kept.study.baselines == []
    known = kept.study.model_dump(exclude={"baselines"})
    assert StudyRecord.model_validate(known) == kept.study
