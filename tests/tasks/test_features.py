"""Data-set features against what is known of made data, and their cache."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from autometa.data import cache
from autometa.data.dataset import FewShotDataset
from autometa.tasks.features import compute, features, nearest_centroid_accuracy, random_convolution


def dataset_of(images: np.ndarray, classes: int, fingerprint: str = "made") -> FewShotDataset:
    """All classes are train classes, images [M, C, H, W] in their order."""
    labels = np.arange(len(images)) % classes
    return FewShotDataset(
        name="made",
        images=images.astype(np.uint8),
        labels=labels,
        class_names=tuple(map(str, range(classes))),
        splits={"train": np.arange(classes), "val": np.array([], int), "test": np.array([], int)},
        mean=(0.5,),
        std=(0.5,),
        fingerprint=fingerprint,
    )


def noise(count: int, channels: int = 1, side: int = 12, seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side))


def test_size_and_intensity_are_what_they_say() -> None:
    found = compute(dataset_of(noise(300, channels=3), classes=6))
    assert found["log_images"] == pytest.approx(math.log(300))
    assert found["log_images_per_class"] == pytest.approx(math.log(50))
    assert found["log_resolution"] == pytest.approx(math.log(12))
    assert found["intensity_mean"] == pytest.approx(0.5, abs=0.02)
    assert found["intensity_kurtosis"] == pytest.approx(1.8, abs=0.05), "of a uniform distribution"


def test_large_images_are_thinned_and_say_the_same() -> None:
    whole = compute(dataset_of(noise(400, channels=3), classes=8))
    thinned = compute(dataset_of(noise(400, channels=3), classes=8), most_pixels=400 * 3 * 12 * 12 // 7)
    assert thinned == pytest.approx(whole, rel=0.05, abs=0.02)
    assert thinned != whole


def test_moments_are_those_of_the_pixels() -> None:
    bright = np.random.default_rng(2).choice([0, 51, 255], (200, 1, 4, 4), p=[0.7, 0.2, 0.1])
    found = compute(dataset_of(bright, classes=4))
    values = np.sort(bright.ravel()) / 255
    z = (values - values.mean()) / values.std()
    assert found["intensity_skew"] == pytest.approx((z**3).mean())
    assert found["intensity_kurtosis"] == pytest.approx((z**4).mean())


def test_noise_has_no_classes_and_stripes_are_all_class() -> None:
    at_random = compute(dataset_of(noise(400), classes=8))
    assert at_random["between_classes"] < 0.1
    assert at_random["pixel_5_shot"] == pytest.approx(0.2, abs=0.03), "chance in five ways"
    columns = np.arange(400) % 8
    stripes = noise(400) // 8
    stripes[np.arange(400), 0, :, columns] = 255
    told_apart = compute(dataset_of(stripes, classes=8))
    assert told_apart["between_classes"] > 0.8
    assert told_apart["pixel_1_shot"] > 0.98
    assert told_apart["edge_direction"] < 0.3, "steep from left to right only"


def test_one_direction_of_variance_is_one_dimension() -> None:
    brightness = np.random.default_rng(1).integers(0, 256, (200, 1, 1, 1))
    found = compute(dataset_of(np.broadcast_to(brightness, (200, 1, 9, 9)), classes=4))
    assert found["pca_first"] == pytest.approx(1)
    assert found["log_dimension"] == pytest.approx(0, abs=1e-6)


def test_test_classes_play_no_part(digits: FewShotDataset) -> None:
    before = compute(digits)
    images = digits.images.copy()
    unseen = np.isin(digits.labels, np.concatenate([digits.splits["val"], digits.splits["test"]]))
    images[unseen] = 0
    changed = FewShotDataset(**{**_parts(digits), "images": images})
    assert compute(changed) == before


def _parts(dataset: FewShotDataset) -> dict[str, object]:
    names = ("name", "images", "labels", "class_names", "splits", "mean", "std", "fingerprint")
    return {name: getattr(dataset, name) for name in names}


def test_random_convolutions_have_four_quarters_of_each_filter() -> None:
    found = random_convolution(noise(7, channels=2) / 255, np.random.default_rng(0))
    assert found.shape == (7, 4 * 32)
    assert (found >= 0).all()


def test_random_convolutions_do_not_see_brightness() -> None:
    images = noise(7, channels=2) / 500
    dark, bright = (random_convolution(images + by, np.random.default_rng(0)) for by in (0, 0.4))
    assert dark == pytest.approx(bright)
    assert dark.std() > 0.01


def test_too_few_images_for_a_shot_is_no_number() -> None:
    labels = np.array([0, 0, 1, 1])
    assert math.isnan(nearest_centroid_accuracy(np.eye(4), labels, 5, np.random.default_rng(0)))


def test_features_are_kept_by_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path))
    first = features(dataset_of(noise(100), classes=5))
    file = next((cache.root() / "features").iterdir())
    assert features(dataset_of(noise(100, seed=9), classes=5)) == first, "read, not computed"
    assert features(dataset_of(noise(100, seed=9), classes=5, fingerprint="other")) != first
    file.write_text("damaged")
    assert features(dataset_of(noise(100), classes=5)) == first
