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

from autometa.errors import ConfigError, StudyError
from autometa.priors.features import compute
from autometa.priors.folders import check_name
from autometa.records import Budget
from autometa.space.files import load_space
from autometa.space.parameters import Choice
from autometa.space.space import SearchSpace
from autometa.study import settings
from autometa.study.plan import Plan, existing_record, make_plan, study_record, with_features

BUDGET = Budget(steps=30)


def plan(folder: Path, dataset: str = "digits", *, study: str | None = "t", seed: int = 3, **changes: Any) -> Plan:
    return make_plan(
        dataset,
        space=changes.get("space") or load_space("few_shot"),
        is_shipped=True,
        study=study,
        episodes=(None if dataset == "digits" else 2, 2, None),
        trials=4,
        budget=BUDGET,
        deadline=None,
        storage=f"sqlite:///{folder}/t.db",
        pruner="none",
        gpus=None,
        seed=seed,
        data_root=None,
        image_size=None,
        pretrain_dataset=None,
        transductive=False,
        external=changes.get("external", False),
        runs=folder / "runs",
        validation_episodes=20,
    )


def test_features_are_the_data_sets_and_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    record = with_features(made, study_record(made, BUDGET))
    assert record.features == compute(made.dataset)
    monkeypatch.setattr("autometa.study.plan.features", lambda dataset: {"colour": 0.5, "pixel_5_shot": math.nan})
    assert with_features(made, study_record(made, BUDGET)).features == {"colour": 0.5}
    assert with_features(made, record) == record, "those a study has, it keeps"


def test_a_study_without_features_is_continued_and_gets_them(tmp_path: Path) -> None:
    made = plan(tmp_path)
    study = optuna.create_study(study_name="t", storage=made.storage, direction="maximize")
    before = study_record(made, BUDGET)
    settings.write(study, before)
    again = plan(tmp_path)
    existing = existing_record(again)
    assert existing == before
    settings.write(study, with_features(again, existing))
    assert existing_record(plan(tmp_path)).features["log_classes"] == math.log(24)


def test_no_train_classes_are_no_features(tmp_path: Path) -> None:
    made = plan(tmp_path)
    bare = dataclasses.replace(
        made.dataset, splits={**made.dataset.splits, "train": np.array([], int)}, fingerprint="bare"
    )
    assert with_features(dataclasses.replace(made, dataset=bare), study_record(made, BUDGET)).features == {}


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
def test_weights_from_elsewhere_are_refused_unless_asked_for(
    tmp_path: Path, others: tuple[Choice, ...], refused: bool
) -> None:
    space = SearchSpace("mine", (TIMM, *others), source="mine.toml")
    assert plan(tmp_path, space=space, external=True).space is space
    if refused:
        with pytest.raises(ConfigError, match=r"^mine.toml: backbone = 'timm' brings weights .*: add --external"):
            plan(tmp_path, space=space)
    else:
        assert plan(tmp_path, space=space).space is space


def photographs(folder: Path) -> str:
    """Thirty classes of plain images."""
    for number in range(30):
        (folder / f"class {number}").mkdir(parents=True)
        for image in range(20):
            Image.new("L", (8, 8), 5 * number + image).save(folder / f"class {number}" / f"{image}.png")
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
        ("été\n2024", "été-2024-2w2s-seed3"),
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
    record = study_record(made, BUDGET).model_copy(update={"name": old})
    settings.write(optuna.create_study(study_name=old, storage=made.storage, direction="maximize"), record)
    again = plan(tmp_path, folder, study=study)
    assert again.name == old
    assert existing_record(again) == record
