"""Accuracy and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.augment import crop, crop_flip, flip
from autometa.learning.backbones.conv import Conv
from autometa.learning.evaluation import evaluate, interval
from autometa.learning.learner import Setting
from autometa.learning.learners.prototypical import Prototypical
from autometa.records import EpisodeSpec


def test_the_interval_is_student_t_over_episodes() -> None:
    accuracy = interval([0.4, 0.6, 0.5, 0.9], seed=3)
    assert accuracy.mean == pytest.approx(0.6)
    # t(0.975, 3) = 3.18245, sample standard deviation 0.216025
    assert accuracy.half_width == pytest.approx(3.18245 * 0.216025 / 2, rel=1e-5)
    assert (accuracy.episodes, accuracy.seed) == (4, 3)


def test_one_episode_says_nothing_of_its_spread() -> None:
    assert interval([0.7], seed=0).half_width == 1.0


def test_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = [abs(a.mean - 0.7) <= a.half_width for a in (interval(rng.beta(7, 3, 30).tolist(), 0) for _ in range(1000))]
    assert 0.93 < np.mean(held) < 0.97


def test_accuracy_does_not_depend_on_the_batch_and_the_mode_is_restored(digits: FewShotDataset) -> None:
    torch.manual_seed(0)
    learner = Prototypical(Conv(digits.image_shape, depth=2, width=8), Setting(4, 24)).train()
    pool = ImagePool(digits, "val")
    spec = EpisodeSpec(way=4, shot=2, query=3)
    found = {evaluate(learner, fixed_episodes(pool, spec, count=20, seed=5, batch=b), seed=5).mean for b in (1, 7, 20)}
    assert len(found) == 1
    assert learner.training


def test_augmentation_moves_and_mirrors_each_image_by_its_own_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 2, 16, 16)
    mirrored = flip(images, generator)
    is_mirrored = [torch.equal(m, i.flip(-1)) and not torch.equal(m, i) for m, i in zip(mirrored, images, strict=True)]
    assert 10 < sum(is_mirrored) < 54
    moved = crop(images, generator)
    assert moved.shape == images.shape
    centre = [torch.equal(m, i) for m, i in zip(moved, images, strict=True)]
    assert sum(centre) < 20
    shifted = next(m for m, c in zip(moved, centre, strict=True) if not c)
    assert (shifted == 0).any() or shifted.isfinite().all()
    assert not torch.equal(crop_flip(images, generator), images)


def test_the_same_generator_gives_the_same_augmentation() -> None:
    images = torch.rand(8, 1, 8, 8)
    a, b = (crop_flip(images, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
