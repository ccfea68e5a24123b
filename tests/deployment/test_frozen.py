"""Models on frozen features name new images as others do, and look at each image once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import autometa
from autometa.deployment.all_classes import compute_features, measure_all_classes
from autometa.learning.backbones.lite import Lite
from autometa.learning.features import pool_for
from autometa.trial.model import fit_ensemble, said_in_views
from autometa.trial.model_files import job_of, members_of
from tests.deployment.photos import train_model
from tests.learning.test_lite import needs_weights

pytestmark = needs_weights
FROZEN = {"learner": "frozen", "backbone": "lite", "lite.image_size": 32, "lite.layer": "both"}


@pytest.fixture(scope="module")
def frozen(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(photos, tmp_path_factory.mktemp("frozen"), **FROZEN, **{"frozen.whiten": 0.25})


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through the network had."""
    counts: list[int] = []
    passed = Lite.described

    def counted(self: Lite, prepared: Tensor) -> Tensor:
        counts.append(len(prepared))
        return passed(self, prepared)

    monkeypatch.setattr(Lite, "described", counted)
    return counts


def test_new_classes_are_named_by_features_that_are_computed_once(
    frozen: Path, support: Path, inbox: Path, looked_at: list[int]
) -> None:
    predictor = autometa.Predictor(frozen, reject_rate=0.1).fit(support)
    assert predictor.calibration_ is not None
    looked_at.clear()
    files = sorted(inbox.rglob("*.png"))
    right = predictor.predict_proba(files).argmax(1) == np.repeat(np.arange(4), 12)
    assert right.mean() > 0.75
    assert sum(looked_at) == len(files)
    again = autometa.Predictor(frozen, reject_rate=0.2)
    looked_at.clear()
    again.fit(support)
    assert sum(looked_at) == 16 + 1, "validation images were looked at before"


@pytest.mark.parametrize("head", ["cosine", "ridge", "svm", "mahalanobis"])
def test_an_answer_is_that_of_a_pass_through_the_network(
    photos: Path, support: Path, inbox: Path, tmp_path: Path, head: str
) -> None:
    model = train_model(photos, tmp_path / "model", **FROZEN, **{"frozen.head": head, "frozen.centre": "support"})
    predictor = autometa.Predictor(model).fit(support)
    task = predictor.task_
    episode = task.episode(torch.full((2, 3, 12, 12), 90, dtype=torch.uint8))
    assert episode.known
    assert episode.shots == (2, 7, 4, 3)
    torch.testing.assert_close(task.logits(episode), task.logits(replace(episode, known=None)), atol=1e-3, rtol=1e-3)


def test_a_frozen_and_a_trained_model_answer_together(
    frozen: Path, model: Path, support: Path, inbox: Path, tmp_path: Path, looked_at: list[int]
) -> None:
    how = {"dataset": job_of(model).dataset, "episodes": 6, "seed": 0, "seconds": 100.0, "use_gpu": False}
    said = [said_in_views(member, **how) for member in (frozen, model)]
    assert set(said[0]) == {"plain", "targets"}, "features of mirrored images are in no table"
    assert "mirrored" in said[1]
    known = 5 * np.eye(3, dtype=np.float32)[said[0]["targets"]]  # (E, Q, N)
    halves = np.arange(len(known)) % 2 == 0
    # Each knows the episodes that the other does not.
    split = [{"plain": known * of[:, None, None], "targets": said[0]["targets"]} for of in (halves, ~halves)]
    views = fit_ensemble([frozen, model], split, tmp_path / "both")
    assert views.keys() == {0, 1}
    assert len(members_of(tmp_path / "both")) == 2
    predictor = autometa.Predictor(tmp_path / "both").fit(support)
    assert predictor.trained_.data is not None
    assert pool_for(predictor.trained_.learner, predictor.trained_.data, "val").features
    looked_at.clear()
    right = predictor.predict_proba(inbox).argmax(1) == np.repeat(np.arange(4), 12)
    assert right.mean() > 0.75
    assert sum(looked_at) == 48


def test_the_task_of_all_classes_reads_features_that_are_there(frozen: Path, looked_at: list[int]) -> None:
    found = measure_all_classes(frozen, with_baselines=False)
    assert (found.classes, found.of_all.mean > 0.6) == (8, True)
    images = sum(looked_at)
    assert images <= 8 * 60, "each once"
    looked_at.clear()
    compute_features(frozen, dataset=job_of(frozen).dataset, use_gpu=False)
    assert measure_all_classes(frozen, with_baselines=False).of_all == found.of_all
    assert not looked_at
