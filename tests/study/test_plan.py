"""What a study's settings get of its data set, and that an older study is continued."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from autometa import trial_attributes as attributes
from autometa.archives.folders import check_name
from autometa.errors import ConfigError, DataError, StudyError
from autometa.hpo import study_record
from autometa.records import Accuracy, Budget, RungReport
from autometa.space.files import load_space
from autometa.space.parameters import Choice
from autometa.space.space import SearchSpace
from autometa.study.export import best_recipes
from autometa.study.plan import Plan
from autometa.study.planning import make_plan
from autometa.study.records_of_plan import existing_record, new_record, with_features
from autometa.study.search_settings import SearchSettings
from autometa.study.space_checks import require_comparable
from autometa.tasks.features import compute
from tests.data.test_load import image_folder

BUDGET = Budget(steps=30)
TASK = {"way": 2, "shot": 1, "query": 3}


def plan(folder: Path, dataset: str = "digits", **changes: Any) -> Plan:
    how = {"study": "t", "way": None if dataset == "digits" else 2, "shot": 2, "trials": 4, "budget": BUDGET, "seed": 3}
    how |= {"storage": f"sqlite:///{folder}/t.db", "pruner": "none"}
    return make_plan(SearchSettings(dataset, **(how | changes)), runs=folder / "runs", validation_episodes=20)


def test_features_are_the_data_sets_and_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    record = with_features(made, new_record(made, BUDGET))
    assert record.features == compute(made.dataset)
    monkeypatch.setattr(
        "autometa.study.records_of_plan.features", lambda dataset: {"colour": 0.5, "pixel_5_shot": math.nan}
    )
    assert with_features(made, new_record(made, BUDGET)).features == {"colour": 0.5}
    assert with_features(made, record) == record, "those a study has, it keeps"


def test_a_study_without_features_is_continued_and_gets_them(tmp_path: Path) -> None:
    made = plan(tmp_path)
    study = optuna.create_study(study_name="t", storage=made.storage, direction="maximize")
    before = new_record(made, BUDGET)
    study_record.write(study, before)
    again = plan(tmp_path)
    existing = existing_record(again)
    assert existing == before
    study_record.write(study, with_features(again, existing))
    assert existing_record(plan(tmp_path)).features["log_classes"] == math.log(24)


def test_no_train_classes_are_no_features(tmp_path: Path) -> None:
    made = plan(tmp_path)
    bare = dataclasses.replace(
        made.dataset, splits={**made.dataset.splits, "train": np.array([], int)}, fingerprint="bare"
    )
    assert with_features(dataclasses.replace(made, dataset=bare), new_record(made, BUDGET)).features == {}


def test_what_a_full_disk_left_of_a_new_study_is_begun_again(tmp_path: Path) -> None:
    made = plan(tmp_path)
    optuna.create_study(study_name="t", storage=made.storage, direction="maximize")
    assert existing_record(made) is None


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path)
    optuna.create_study(study_name="t", storage=made.storage, direction="maximize").ask()
    with pytest.raises(StudyError, match="not made by autometa search"):
        existing_record(made)


TIMM = Choice("backbone", ("conv", "timm"))
WITH_TIMM = {"backbone": ("timm",)}


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        ((), True),
        ((Choice("timm.model", ("resnet18",), when=WITH_TIMM),), True),
        ((Choice("timm.weights", ("none", "hub"), when=WITH_TIMM),), True),
        ((Choice("timm.weights", ("mine.safetensors",), when=WITH_TIMM),), True),
        ((Choice("timm.weights", ("none",), when=WITH_TIMM),), False),
        (
            (
                Choice("learner", ("svm", "ridge")),
                Choice("timm.weights", ("none",), when={**WITH_TIMM, "learner": ("svm",)}),
            ),
            True,
        ),
    ],
)
def test_weights_from_elsewhere_are_refused_unless_asked_for(others: tuple[Choice, ...], refused: bool) -> None:
    space = SearchSpace("mine", (TIMM, *others), source="mine.toml")
    require_comparable(space, transductive=False, external=True)
    if refused:
        with pytest.raises(ConfigError, match=r"^mine.toml: backbone = 'timm' brings weights .*: add --external"):
            require_comparable(space, transductive=True, external=False)
    else:
        require_comparable(space, transductive=False, external=False)


def photographs(folder: Path) -> str:
    """Thirty classes of plain images."""
    for number in range(30):
        (folder / f"class {number}").mkdir(parents=True)
        for image in range(20):
            Image.new("RGB", (8, 8), (8 * number, 9 * image, 0)).save(folder / f"class {number}" / f"{image}.png")
    return str(folder)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../x", "/abs", "a/b", "a\\b", "-x", "nul\0", "line\nbreak", ".hidden", "x" * 101, "ä" * 51],
)
def test_a_name_that_is_no_folder_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--study"):
        plan(tmp_path, study=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("My photos (2)", "My-photos-2-2w2s-seed3"),
        (".thumbnails", "thumbnails-2w2s-seed3"),
        ("été: 2024", "été-2024-2w2s-seed3"),
        ("x" * 200, "x" * 49 + "-2w2s-seed3"),
    ],
)
def test_the_default_name_of_a_folder_is_a_name_of_a_study(tmp_path: Path, folder: str, name: str) -> None:
    made = plan(tmp_path, photographs(tmp_path / folder), study=None)
    assert made.name == name
    check_name(made.name, where="default")


@pytest.mark.parametrize("study", [None, "My photos (2)-2w2s-seed3"])
def test_a_study_from_before_names_were_checked_is_continued(tmp_path: Path, study: str | None) -> None:
    folder, old = photographs(tmp_path / "My photos (2)"), "My photos (2)-2w2s-seed3"
    made = plan(tmp_path, folder, study=None)
    record = new_record(made, BUDGET).model_copy(update={"name": old})
    study_record.write(optuna.create_study(study_name=old, storage=made.storage, direction="maximize"), record)
    again = plan(tmp_path, folder, study=study)
    assert again.name == old
    assert existing_record(again) == record


def test_a_space_with_rotations_is_refused_where_the_classes_are_rotations(tmp_path: Path) -> None:
    says = (
        r"regularized.*: rotations = true: the classes of digits are rotations already \(0@0, 0@90\), so that one class"
    )
    with pytest.raises(ConfigError, match=says):
        plan(tmp_path, space="regularized")
    photos = str(image_folder(tmp_path / "photos", classes=12))
    assert plan(tmp_path, photos, space="regularized", **TASK).space.name == "regularized"
    for number in range(0, 12, 2):
        (tmp_path / "photos" / f"class{number}").rename(tmp_path / "photos" / f"class{number + 1}@90")
        (tmp_path / "photos" / f"class{number + 1}").rename(tmp_path / "photos" / f"class{number + 1}@0")
    with pytest.raises(ConfigError, match="the classes of photos are rotations already"):
        plan(tmp_path, photos, space="regularized", **TASK)


def test_what_is_trained_on_counts_for_rotations(tmp_path: Path) -> None:
    upright = {f"{number}": f"new{number}" for number in range(6)}
    photos = image_folder(tmp_path / "photos", classes=6)
    rotated = image_folder(tmp_path / "rotated", classes=12, seed=1)
    for number in range(6):
        (rotated / f"class{number}").rename(rotated / f"{upright[str(number)]}@0")
        (rotated / f"class{number + 6}").rename(rotated / f"{upright[str(number)]}@180")
    with pytest.raises(ConfigError, match="the classes of rotated are rotations already"):
        plan(tmp_path, str(photos), space="regularized", **TASK, pretrain_dataset=str(rotated))


def test_a_study_remembers_how_many_files_were_left_out(tmp_path: Path) -> None:
    photos = image_folder(tmp_path / "photos", classes=12)
    others = image_folder(tmp_path / "others", classes=6, seed=1)
    for file in ("photos/class1/a.png", "photos/class7/b.jpg", "others/class3/c.gif"):
        (tmp_path / file).write_bytes(b"no image")
    for number in range(6):
        (others / f"class{number}").rename(others / f"other{number}")
    with pytest.raises(DataError, match="2 files cannot be read"):
        plan(tmp_path, str(photos), **TASK)
    made = plan(tmp_path, str(photos), **TASK, skip_unreadable=True, pretrain_dataset=str(others))
    assert made.ref.skip_unreadable
    assert made.pretrain is not None
    assert made.pretrain.skip_unreadable
    facts = new_record(made, BUDGET).dataset_facts
    assert (facts["images"], facts["unreadable"], facts["pretrain_unreadable"]) == (48, 2, 1)


@pytest.mark.parametrize("left_out", [0, 3])
def test_a_recipe_leaves_out_what_its_search_did(tmp_path: Path, left_out: int) -> None:
    made = plan(tmp_path)
    record = new_record(made, BUDGET)
    facts = record.dataset_facts | ({"unreadable": left_out} if left_out else {})
    study = optuna.create_study(study_name="t", storage=made.storage, direction="maximize")
    study_record.write(study, record.model_copy(update={"dataset_facts": facts}))
    trial = study.ask()
    report = RungReport(rung=1, accuracy=Accuracy(mean=0.5, half_width=0.1, episodes=9, seed=0), steps=4, seconds=1)
    attributes.SEED.write(trial, 3)
    attributes.CURVE.write(trial, [report.model_dump()])
    study.tell(trial, 0.5)
    (recipe,) = best_recipes(study, 1)
    job = recipe.job(tmp_path / "m")
    assert job.dataset.skip_unreadable is bool(left_out)


def test_it_tells_where_pretrained_weights_have_seen_classes_like_the_new_ones(tmp_path: Path) -> None:
    made = plan(tmp_path, space="pretrained", external=True)
    assert not made.notes
    cifar = dataclasses.replace(made, ref=made.ref.model_copy(update={"name": "cifar-fs"}))
    assert "weights of lite were trained on ImageNet, which has classes like its test classes" in cifar.notes[0]
    assert not dataclasses.replace(cifar, space=load_space("few_shot")).notes


def test_weights_from_elsewhere_take_part_by_default_in_the_search_of_a_folder_alone(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos")

    def space_and_name(dataset: str, **changes: Any) -> tuple[str, str]:
        made = plan(tmp_path, dataset, study=None, seed=0, **changes)
        assert isinstance(made.space, SearchSpace)
        return made.space.name, made.name

    assert space_and_name(folder) == ("pretrained", "photos-2w2s")
    assert space_and_name(folder, external=False) == ("few_shot", "photos-2w2s-few_shot")
    assert space_and_name(folder, space="few_shot") == ("few_shot", "photos-2w2s-few_shot")
    assert space_and_name("digits") == ("few_shot", "digits-5w2s")
    assert space_and_name("digits", external=True) == ("pretrained", "digits-5w2s-pretrained")
    with pytest.raises(ConfigError, match="add --external"):
        plan(tmp_path, space="pretrained")
