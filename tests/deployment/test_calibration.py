"""Temperatures, thresholds, and the validation episodes that they are found on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.deployment.calibration import (
    Calibration,
    TaskShape,
    calibrated,
    calibration_error,
    episodes_of,
    fitted,
    fitted_temperature,
    shape_like,
    softened,
)
from autometa.deployment.likeness import SCORES
from autometa.errors import DataError
from autometa.records import Accuracy
from autometa.trial.model import load_model


@pytest.fixture(scope="module")
def pool(photos: Path) -> ImagePool:
    return ImagePool(load_dataset(str(photos)), "val")


@pytest.mark.parametrize("true", [0.2, 3.0])
def test_the_temperature_is_that_which_the_answers_were_drawn_with(true: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 100, 7, generator=generator) * 4 * true
    right = torch.multinomial((logits / true).softmax(-1).flatten(0, 1), 1, generator=generator).view(40, 100)
    assert math.log(fitted_temperature(logits, right) / true) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("bias", [-0.8, 0.5])
def test_classes_with_few_images_get_back_what_the_answers_took_from_them(bias: float) -> None:
    generator = torch.Generator().manual_seed(3)
    order = torch.stack([torch.randperm(5, generator=generator) for _ in range(60)])
    shots = torch.tensor([1.0, 2, 5, 10, 20])[order][:, None]  # (E, 1, N)
    true = 3 * torch.randn(60, 100, 5, generator=generator)
    right = torch.multinomial(true.softmax(-1).flatten(0, 1), 1, generator=generator).view(60, 100)
    logits = 2 * true - bias * shots.log()
    temperature, found = fitted(logits, right, shots)
    assert (temperature, found) == (pytest.approx(2, rel=0.05), pytest.approx(bias, abs=0.1))
    both, one = softened(logits, shots, temperature, found), logits / fitted_temperature(logits, right)
    losses = [float(F.cross_entropy(of.flatten(0, 1), right.flatten())) for of in (both, one)]
    correct = [float((of.argmax(-1) == right).double().mean()) for of in (both, one)]
    assert losses[0] < losses[1] - 0.01
    assert correct[0] > correct[1]


def test_even_shots_have_no_bias_and_more_images_than_any_class_had_count_as_many_as_it_had() -> None:
    logits = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    right = logits.argmax(-1)
    assert fitted(logits, right, torch.full((4, 1, 3), 5.0)) == (fitted_temperature(logits, right), 0.0)
    shape = TaskShape(shots=[1, 4], query=2, episodes=6)
    accuracy = Accuracy(mean=0.5, half_width=0.1, episodes=6, seed=0)
    found = Calibration(shape=shape, temperature=2.0, shot_bias=0.5, error=0.0, accuracy=accuracy)
    said = found.softened(torch.zeros(1, 2), [1, 40])[0]
    assert said.tolist() == [0.0, pytest.approx(0.25 * math.log(4))]


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    right = np.array([0] * 7 + [1] * 3 + [1] * 6 + [0] * 4)
    assert calibration_error(probabilities, right) == pytest.approx(0.5 * (0.9 - 0.7))
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_episodes_are_like_the_task_as_far_as_there_are_validation_images(pool: ImagePool) -> None:
    assert (pool.classes, int(pool.counts.min())) == (4, 20)
    same = shape_like([4, 2, 9], pool, with_unknown=False)
    assert (same.shots, same.query, same.unknown) == ([2, 4, 9], 10, 0)
    wide = shape_like([1, *[50] * 30, 3], pool, with_unknown=False)
    assert wide.shots == [1, 10, 10, 10], "no more classes than there are, and images for the queries left"
    assert shape_like([5] * 4, pool, with_unknown=True).way == 3
    with pytest.raises(DataError, match="too few to calibrate on"):
        shape_like([5, 5], _Few(), with_unknown=True)  # type: ignore[arg-type]


class _Few:
    """The pool of a folder with two validation classes."""

    classes = 2

    class dataset:  # noqa: N801
        name = "few"


def test_each_episode_has_its_own_classes_and_shots(pool: ImagePool) -> None:
    shape = TaskShape(shots=[1, 5, 3], query=4, episodes=9, unknown=1)
    drawn = list(episodes_of(pool, shape, seed=2))
    assert len(drawn) == 9
    for episode in drawn:
        assert sorted(episode.shots or ()) == [1, 3, 5]
        assert torch.bincount(episode.support_y[0]).tolist() == list(episode.shots or ())
        assert (episode.query_y.shape[1], episode.query_x.shape[1]) == (12, 12 + 4)
    assert len({episode.shots for episode in drawn}) > 1
    even = next(episodes_of(pool, TaskShape(shots=[2, 2, 2], query=3, episodes=1), seed=2))
    assert (even.shots, even.shot, even.query_x.shape[1]) == (None, 2, 9)


def test_the_threshold_rejects_as_many_known_images_as_was_asked(photos: Path, model: Path, pool: ImagePool) -> None:
    learner = load_model(model, pool.dataset).eval()
    shape = TaskShape(shots=[2, 4, 3], query=8, episodes=20, unknown=1)
    found = calibrated(learner, pool, shape, seed=6, reject_rate=0.2)
    assert found.rejection is not None
    known, unknown = [], []
    for episode in episodes_of(pool, shape, seed=6):
        of_known = episode.query_y.shape[1]
        for images, kept in ((episode.query_x[:, :of_known], known), (episode.query_x[:, of_known:], unknown)):
            asked = replace(episode, query_x=images)
            with torch.no_grad():
                kept.append(SCORES[found.rejection.score](learner, asked, learner.query_logits(asked)).flatten())
    threshold = found.rejection.threshold
    assert float((torch.cat(known) < threshold).float().mean()) == pytest.approx(0.2, abs=0.01)
    part = found.rejection.recognised[found.rejection.score]
    assert float((torch.cat(unknown) < threshold).float().mean()) == pytest.approx(part, abs=1e-6)
    assert part > 0.2
    assert 0 < found.error < 0.3
    assert found.accuracy.over_classes is not None
