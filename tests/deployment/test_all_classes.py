"""The task that is deployed: all classes at once, on images that nobody trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.deployment.all_classes import measure_all_classes
from autometa.errors import CheckpointError, DataError
from autometa.records import Budget
from autometa.trial.model_files import job_of
from autometa.trial.run import run
from tests.cli.test_cli import run as run_command
from tests.deployment.photos import train_model, write_photos


@pytest.fixture(scope="module")
def kept(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that images were kept back from, as a search makes it."""
    plain = train_model(photos, tmp_path_factory.mktemp("plain"), steps=1)
    folder = tmp_path_factory.mktemp("kept")
    job = job_of(plain)
    ref = job.dataset.model_copy(update={"keep_back": 8})
    record = run(job.model_copy(update={"dataset": ref, "folder": str(folder), "budget": Budget(steps=40, rungs=1)}))
    assert record.state == "complete"
    return folder


def data_with(counts: list[int]) -> FewShotDataset:
    labels = np.repeat(np.arange(len(counts)), counts)
    return FewShotDataset(
        name="some",
        images=np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(4, 2).repeat(4, 3),
        labels=labels,
        class_names=tuple("abc"),
        splits={"train": np.array([0, 2]), "val": np.array([1]), "test": np.array([], int)},
        mean=(0.0,),
        std=(1.0,),
        fingerprint="",
    )


def test_the_last_fifth_of_each_class_is_kept_back_and_no_class_is_left_with_too_few() -> None:
    kept = data_with([10, 200, 11]).keeping_back(10).kept_back
    assert kept is not None
    assert np.flatnonzero(kept[:10]).tolist() == []
    assert np.flatnonzero(kept[10:210]).tolist() == list(range(180, 200))
    assert np.flatnonzero(kept[210:]).tolist() == [10]


def test_no_image_that_is_kept_back_is_trained_on() -> None:
    data = data_with([10, 10, 10]).keeping_back(1)
    assert data.kept_back is not None
    train, val = ImagePool(data, "train"), ImagePool(data, "val")
    assert (train.counts.tolist(), val.counts.tolist()) == ([8, 8], [10])
    seen = train.gather(train.tables(torch.device("cpu"))[1].flatten().unique())[:, 0, 0, 0] * 255
    assert not set(seen.round().int().tolist()) & set(np.flatnonzero(data.kept_back).tolist())


def test_all_classes_are_told_apart_by_all_their_labelled_images(kept: Path) -> None:
    found = measure_all_classes(kept)
    assert (found.classes, found.fewest_shots, found.most_shots) == (20, 16, 16)
    assert found.of_all.images == 80
    assert found.of_trained
    assert found.of_new
    assert (found.of_trained.images, found.of_new.images) == (48, 32)
    assert found.of_all.low < found.of_all.mean < found.of_all.high
    assert found.of_all.mean > 0.3
    assert set(found.baselines) >= {"nearest-mean-pixels", "ridge-pixels"}
    few = measure_all_classes(kept, shots=1, with_baselines=False)
    assert (few.most_shots, few.baselines) == (1, {})
    assert few.of_all.mean < found.of_all.mean
    assert measure_all_classes(kept).of_all == found.of_all


def test_it_is_what_the_learner_says_of_the_images_kept_back(kept: Path, photos: Path) -> None:
    from autometa.trial.model import load_model

    data = load_dataset(str(photos)).keeping_back(8)
    learner = load_model(kept, data).eval()
    assert data.kept_back is not None
    pixels = torch.from_numpy(np.array(data.images)).float() / 255
    shape = (1, -1, 1, 1)
    images = (pixels - torch.tensor(data.mean).view(shape)) / torch.tensor(data.std).view(shape)
    with torch.no_grad():
        features = learner.backbone(images)
    free, asked = (torch.from_numpy(which) for which in (~data.kept_back, data.kept_back))
    labels = torch.from_numpy(np.array(data.labels))
    means = torch.stack([features[free & (labels == label)].mean(0) for label in range(20)])
    right = torch.cdist(features[asked], means).argmin(1) == labels[asked]
    assert measure_all_classes(kept, with_baselines=False).of_all.mean == pytest.approx(float(right.double().mean()))


def test_classes_that_were_trained_on_in_full_are_left_out(model: Path) -> None:
    found = measure_all_classes(model, with_baselines=False)
    assert (found.classes, found.of_trained) == (8, None)
    assert found.of_new == found.of_all


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        measure_all_classes(tmp_path)
    photos = write_photos(tmp_path / "few", {f"kind{n}": 8 for n in range(15)})
    trained = train_model(photos, tmp_path / "model", steps=1)
    job = job_of(trained)
    folder = tmp_path / "kept"
    ref = job.dataset.model_copy(update={"keep_back": 8})
    run(job.model_copy(update={"dataset": ref, "folder": str(folder)}))
    with pytest.raises(DataError, match="too few images in its classes to keep some back"):
        measure_all_classes(folder)


def test_evaluate_says_it_in_words_and_as_json(
    kept: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run_command(capsys, monkeypatch, "evaluate", str(kept), "--task", "all-classes")
    assert code == 0, err
    assert "your task: all 20 classes, 16 labelled images each: " in out
    assert "of classes trained on " in out
    assert "best baseline " in out
    code, out, err = run_command(capsys, monkeypatch, "evaluate", str(model), "--task", "all-classes", "--shot", "2")
    assert "only classes that it was not trained on" in out
    _, out, _ = run_command(capsys, monkeypatch, "evaluate", str(kept), "--task", "all-classes", "--json")
    facts = json.loads(out)
    assert (facts["task"], facts["classes"]) == ("all-classes", 20)
