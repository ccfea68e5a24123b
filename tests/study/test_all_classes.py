"""A search for the model that tells all classes of a folder apart, measured on images that it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autometa
from autometa.errors import ConfigError
from autometa.hpo import study_record
from autometa.hpo.storage import load_study, open_storage
from autometa.records import EpisodeSpec, parse_budget
from autometa.study import planning
from autometa.study.plan import Plan
from autometa.study.planning import make_plan
from autometa.study.search_settings import SearchSettings
from autometa.trial.model_files import job_of
from autometa.trial.recipe import read_recipes
from tests.cli.test_cli import run as run_command
from tests.deployment.photos import write_photos


@pytest.fixture(autouse=True)
def photos(folder: Path) -> Path:
    return write_photos(folder / "photos", {f"class{n}": 10 + 10 * (n % 2) for n in range(7)})


def planned(**settings: object) -> Plan:
    asked = SearchSettings("photos", **{"space": "tiny.toml", "task": "all-classes", **settings})  # type: ignore[arg-type]
    return make_plan(asked, runs=Path("runs"), validation_episodes=10)


def test_the_task_has_all_classes_and_the_labelled_images_that_half_of_them_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = planned()
    assert plan.episodes == EpisodeSpec(way=7, shot=6, query=2)
    assert plan.name == "photos-all-classes-tiny"
    assert plan.task == "all 7 classes, 6 shots"
    assert planned(shot=3).name == "photos-all-classes-3s-tiny"
    assert planned(shot=3).episodes.shot == 3
    # An episode of large images must fit the memory.
    monkeypatch.setattr(planning, "_NUMBERS_OF_AN_EPISODE", 7 * 3 * 12 * 12 * 6)
    assert planned().episodes.shot == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shot": 21}, "--shot 21: --task all-classes takes 20 per class at most"),
        ({"way": 5}, "--way 5: --task all-classes has as many ways as the data has classes"),
        ({"pretrain_dataset": "digits"}, "--pretrain-dataset: --task all-classes trains on images of the classes"),
        ({"task": "some"}, "--task some: it may be episodes or all-classes"),
    ],
)
def test_what_does_not_fit_is_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(**settings)


def test_a_search_hands_over_what_tells_all_classes_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        code, out, err = run_command(capsys, monkeypatch, *arguments)
        assert code == 0, err
        return out

    result = autometa.search(
        "photos", task="all-classes", space="tiny.toml", trials=2, budget=parse_budget("30"), workers=1, cold=True
    )
    won, deployed = result.winner, result.study.deployed
    assert won is not None
    assert won.test is not None
    assert deployed is not None
    assert won.test.mean > 2 / 7  # colours tell them apart
    assert deployed.classes == 7
    assert (deployed.fewest_shots, deployed.most_shots) == (8, 16)
    assert deployed.of_all.images == 4 * 2 + 3 * 4
    assert deployed.of_all.low <= won.test.mean <= deployed.of_all.high
    assert deployed.of_new is None
    assert deployed.of_trained == deployed.of_all
    assert result.model is not None
    assert job_of(result.model).dataset.all_classes
    record = study_record.read(load_study("photos-all-classes-tiny", open_storage(result.storage, create=False)))
    assert record.all_classes
    assert json.loads(run("evaluate", str(result.model), "--episodes", "20", "--json"))["way"] == 7
    run("export", "photos-all-classes-tiny", "-o", "best.toml")
    (recipe,) = read_recipes(Path("best.toml"))
    assert recipe.all_classes
    run("train", "best.toml", "-o", "again")
    named = run("predict", str(result.model), "--support", "photos", "--query", "photos/class3", "--json")
    assert named.count('"next_best"') == 20
