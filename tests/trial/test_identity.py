"""A model is trained on and measured with the data it began with, wherever that lies, or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autometa.errors import CheckpointError, ConfigError, DataChangedError, DataError
from autometa.records import Budget, EpisodeSpec, RungReport, TrialConfig, TrialRecord
from autometa.trial import evaluate
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.group import run_group
from autometa.trial.job import DatasetRef, Job
from autometa.trial.model_files import job_of
from autometa.trial.opened import open_dataset
from autometa.trial.recipe import Recipe, read_recipes, write_recipes
from autometa.trial.run import run
from autometa.trial.train import train

SPLITS = {"train": ("ant", "bee", "cat"), "val": ("dog", "eel"), "test": ("fox", "gnu")}


def made_class(folder: Path, seed: int, size: int = 8) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for image in range(4):
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{image}.png")


def photographs(root: Path, seed: int = 1, splits: dict[str, tuple[str, ...]] = SPLITS, size: int = 8) -> Path:
    names = [(split, name) for split, names in splits.items() for name in names]
    for number, (split, name) in enumerate(names):
        made_class(root / split / name, 100 * seed + number, size)
    return root


def job(folder: Path, data: Path, *, pretrain: Path | None = None, steps: int = 2, seed: int = 3) -> Job:
    return Job(
        config=TrialConfig(values={"conv.width": 4, "conv.depth": 1}),
        dataset=DatasetRef(name=str(data), image_size=8),
        pretrain=DatasetRef(name=str(pretrain)) if pretrain else None,
        episodes=EpisodeSpec(way=2, shot=1, query=2),
        budget=Budget(steps=steps, rungs=2),
        seed=seed,
        folder=str(folder),
        validation_episodes=10,
    )


class StoppedError(Exception):
    pass


def half_trained(asked: Job) -> None:
    def interrupt(report: RungReport) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        run(asked, on_rung=interrupt)


def test_a_checkpoint_keeps_which_data_it_was_trained_on(tmp_path: Path) -> None:
    data, other = photographs(tmp_path / "a"), photographs(tmp_path / "b", 2, {**SPLITS, "train": ("owl", "pug")})
    run(job(tmp_path / "m", data, pretrain=other))
    kept = job_of(tmp_path / "m")
    assert kept.dataset.identity is not None
    assert kept.dataset.identity.fingerprint == open_dataset(job(tmp_path / "m", data).dataset).fingerprint
    assert kept.dataset.identity.classes == {split: list(names) for split, names in SPLITS.items()}
    assert (kept.dataset.identity.image_size, kept.dataset.identity.channels) == (8, 3)
    assert kept.pretrain is not None
    assert kept.pretrain.identity is not None
    assert kept.pretrain.identity.classes["train"] == ["owl", "pug"]


def test_a_checkpoint_half_trained_on_one_folder_is_not_finished_on_another(tmp_path: Path) -> None:
    half_trained(job(tmp_path / "m", photographs(tmp_path / "a")))
    with pytest.raises(CheckpointError, match=r"m: holds a model of other data than .*b: it has other images"):
        run(job(tmp_path / "m", photographs(tmp_path / "b", seed=2)))
    assert run(job(tmp_path / "m", tmp_path / "a")).state == "complete"


def test_nor_with_other_classes_to_train_on(tmp_path: Path) -> None:
    data = photographs(tmp_path / "a")
    one = photographs(tmp_path / "one", 2, {**SPLITS, "train": ("owl", "pug")})
    two = photographs(tmp_path / "two", 2, {**SPLITS, "train": ("owl", "pig")})
    half_trained(job(tmp_path / "m", data, pretrain=one))
    (two / "train" / "pig" / "0.png").unlink()  # else it would be the same images under another name
    with pytest.raises(CheckpointError, match=r"than .*two: class 'pig' is new, class 'pug' is gone"):
        run(job(tmp_path / "m", data, pretrain=two))
    with pytest.raises(CheckpointError, match="its training classes come from another data set"):
        run(job(tmp_path / "m", data))


def test_where_the_data_lies_may_differ(tmp_path: Path) -> None:
    straight = run(job(tmp_path / "straight", photographs(tmp_path / "a")))
    half_trained(job(tmp_path / "m", tmp_path / "a"))
    (tmp_path / "else").mkdir()
    (tmp_path / "a").rename(tmp_path / "else" / "b")
    record = run(job(tmp_path / "m", tmp_path / "else" / "b"))
    assert [report.accuracy for report in record.curve] == [report.accuracy for report in straight.curve]
    with pytest.raises(DataChangedError, match=r"straight|no such folder; if it was moved, .* --dataset DIR"):
        evaluate_checkpoint(tmp_path / "straight", episodes=10)
    moved = evaluate_checkpoint(tmp_path / "straight", episodes=10, dataset=tmp_path / "else" / "b")
    assert moved == evaluate_checkpoint(tmp_path / "m", episodes=10)


def changed(root: Path, how: str) -> None:
    match how:
        case "new":
            made_class(root / "test" / "hen", 9)
        case "gone":
            shutil.rmtree(root / "val" / "dog")
        case "moved":
            (root / "train" / "bee").rename(root / "test" / "bee")
        case "image":
            made_class(root / "extra", 7)
            (root / "extra" / "0.png").rename(root / "train" / "ant" / "0.png")
            shutil.rmtree(root / "extra")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("new", "class 'hen' is new"),
        ("gone", "class 'dog' is gone"),
        ("moved", "class 'bee' moved from train to test"),
        ("image", "it has other images"),
    ],
)
def test_a_model_is_not_measured_on_data_that_has_changed(tmp_path: Path, how: str, says: str) -> None:
    run(job(tmp_path / "m", photographs(tmp_path / "a")))
    before = evaluate_checkpoint(tmp_path / "m", episodes=10)
    shutil.copytree(tmp_path / "a", tmp_path / "kept")
    changed(tmp_path / "a", how)
    with pytest.raises(DataChangedError, match=f"not the data that this began with: {says}$"):
        evaluate_checkpoint(tmp_path / "m", episodes=10)
    assert evaluate_checkpoint(tmp_path / "m", episodes=10, dataset=tmp_path / "kept") == before


def test_a_class_that_was_added_is_refused_where_it_would_make_new_classes_of_trained_ones(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for number, letter in enumerate("bcdefghijklm"):
        made_class(flat / letter, number)
    asked = job(tmp_path / "m", flat)
    run(asked)
    made_class(flat / "a", 77)
    with pytest.raises(DataChangedError, match="class 'a' is new"):
        evaluate_checkpoint(tmp_path / "m", episodes=10)


def test_images_of_another_size_are_told_as_that(tmp_path: Path) -> None:
    run(job(tmp_path / "m", photographs(tmp_path / "a", size=16)))
    larger = DatasetRef(name=str(tmp_path / "a"), image_size=16)
    with pytest.raises(DataChangedError, match="its images are 3 × 16 × 16, not 3 × 8 × 8"):
        evaluate_checkpoint(tmp_path / "m", episodes=10, dataset=larger)


def test_training_goes_on_with_what_it_began_with_when_the_folder_changes_under_it(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a")
    straight = run(job(tmp_path / "straight", root))
    asked = job(tmp_path / "m", root)

    def change(report: RungReport) -> None:
        if report.rung == 1:
            changed(root, "moved")

    record = run(asked, on_rung=change)
    assert record.state == "complete"
    assert record.facts == straight.facts
    assert job_of(tmp_path / "m").dataset.identity == job_of(tmp_path / "straight").dataset.identity


def test_a_recipe_carries_its_data_from_machine_to_machine_and_accepts_no_other(tmp_path: Path) -> None:
    known = run_and_known(tmp_path)
    recipe = Recipe(
        dataset="/home/somebody/photos",
        image_size=8,
        dataset_identity=known,
        episodes=EpisodeSpec(way=2, shot=1, query=2),
        budget=Budget(steps=2, rungs=1),
        config={"conv.width": 4, "conv.depth": 1},
    )
    write_recipes(tmp_path / "r.toml", [recipe], "toml")
    (recipe,) = read_recipes(tmp_path / "r.toml")
    assert recipe.dataset_identity == known
    with pytest.raises(DataChangedError, match=r"photos: no such folder; if it was moved.*--dataset DIR"):
        train(recipe, tmp_path / "model")
    with pytest.raises(DataChangedError, match="class 'hen' is new"):
        train(recipe, tmp_path / "model", dataset=tmp_path / "changed")
    with pytest.raises(ConfigError, match="--pretrain-dataset"):
        train(recipe, tmp_path / "model", pretrain_dataset=tmp_path / "changed")
    assert not (tmp_path / "model").exists()
    assert train(recipe, tmp_path / "model", dataset=tmp_path / "a").state == "complete"
    assert job_of(tmp_path / "model").dataset.name == str(tmp_path / "a")
    assert evaluate_checkpoint(tmp_path / "model", episodes=10).episodes == 10


def run_and_known(tmp_path: Path) -> Any:
    run(job(tmp_path / "first", photographs(tmp_path / "a")))
    shutil.copytree(tmp_path / "a", tmp_path / "changed")
    changed(tmp_path / "changed", "new")
    return job_of(tmp_path / "first").dataset.identity


def test_the_folder_to_pretrain_on_has_images_of_the_size_of_the_others(tmp_path: Path) -> None:
    other = photographs(tmp_path / "b", 2, {**SPLITS, "train": ("owl", "pug")}, size=32)
    recipe = Recipe(
        dataset=str(photographs(tmp_path / "a", size=32)),
        image_size=8,
        pretrain_dataset=str(other),
        episodes=EpisodeSpec(way=2, shot=1, query=2),
        budget=Budget(steps=2, rungs=1),
        config={"conv.width": 4, "conv.depth": 1},
    )
    assert train(recipe, tmp_path / "m").state == "complete"
    pretrain = job_of(tmp_path / "m").pretrain
    assert pretrain is not None
    assert pretrain.identity is not None
    assert pretrain.identity.image_size == 8
    (tmp_path / "b").rename(tmp_path / "c")
    with pytest.raises(DataError, match="--pretrain-dataset DIR"):
        train(recipe.model_copy(update={"pretrain_identity": pretrain.identity}), tmp_path / "again")
    moved = train(
        recipe.model_copy(update={"pretrain_identity": pretrain.identity}),
        tmp_path / "again",
        pretrain_dataset=tmp_path / "c",
    )
    assert moved.state == "complete"


def forget_identity(folder: Path) -> None:
    """Make of a checkpoint one from before there were identities."""
    file = folder / "checkpoint.json"
    facts = json.loads(file.read_text())
    for ref in ("dataset", "pretrain"):
        if facts["extra"]["job"][ref]:
            del facts["extra"]["job"][ref]["identity"]
    file.write_text(json.dumps(facts))


def test_an_older_checkpoint_is_read_and_said_to_be_unverified_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = photographs(tmp_path / "a")
    half_trained(job(tmp_path / "m", data))
    forget_identity(tmp_path / "m")
    assert run(job(tmp_path / "m", data)).state == "complete"
    forget_identity(tmp_path / "m")
    evaluate._warn_not_verified.cache_clear()
    with caplog.at_level(logging.WARNING):
        first = evaluate_checkpoint(tmp_path / "m", episodes=10)
        assert evaluate_checkpoint(tmp_path / "m", episodes=10) == first
    assert [r.getMessage() for r in caplog.records if "data not verified" in r.getMessage()] == [
        f"warning: {tmp_path / 'm'}: data not verified: the checkpoint does not say what it was trained on"
    ]


def test_an_older_checkpoint_of_a_known_data_set_is_not_finished_on_another(tmp_path: Path) -> None:
    digits = job(tmp_path / "m", Path("digits")).model_copy(update={"dataset": DatasetRef(name="digits")})
    half_trained(digits)
    forget_identity(tmp_path / "m")
    with pytest.raises(CheckpointError, match="it was digits"):
        run(job(tmp_path / "m", photographs(tmp_path / "a")))


def test_a_group_whose_data_changed_has_no_failed_member(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a")
    run(job(tmp_path / "first", root))
    ref = job_of(tmp_path / "first").dataset
    changed(root, "gone")
    jobs = {
        number: job(tmp_path / str(number), root, seed=number).model_copy(update={"dataset": ref}) for number in (1, 2)
    }
    records: list[TrialRecord] = []
    for of in (jobs, {1: jobs[1]}):
        with pytest.raises(DataChangedError, match="class 'dog' is gone"):
            run_group(of, on_start=lambda number: None, on_rung=lambda number, report: False, on_end=records.append)
    assert records == []
