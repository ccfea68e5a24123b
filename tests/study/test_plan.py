"""What a study's settings get of its data set, and that an older study is continued."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from autometa.errors import StudyError
from autometa.priors.features import compute
from autometa.records import Budget
from autometa.space.files import load_space
from autometa.study import settings
from autometa.study.plan import Plan, existing_record, make_plan, study_record, with_features

BUDGET = Budget(steps=30)


def plan(folder: Path) -> Plan:
    return make_plan(
        "digits",
        space=load_space("few_shot"),
        is_shipped=True,
        study="t",
        episodes=(None, 2, None),
        trials=4,
        budget=BUDGET,
        deadline=None,
        storage=f"sqlite:///{folder}/t.db",
        pruner="none",
        gpus=None,
        seed=3,
        data_root=None,
        image_size=None,
        pretrain_dataset=None,
        transductive=False,
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
