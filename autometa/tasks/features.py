"""What a data set is like, in numbers that are comparable between data sets: the coordinates of its task.

Computed from train classes only, in a second on a CPU, and kept by the data set's fingerprint. It does not
know which studies were made of it.

Symbols: M images, C H W of an image, N way, K shot, D features.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autometa.data import cache
from autometa.data.dataset import FewShotDataset

Features = Mapping[str, float]

_VERSION = 2
_IMAGES = 2000  # enough for shares of variance to be known to a percent
_LEAST_IMAGES_A_CLASS = 20
_PIXELS = 20_000_000  # for intensity and edges: 160 MB, where 2,000 images of 224 × 224 would be 2.4 GB
_SIDE = 16  # pixels a side for PCA and landmarkers, after averaging
_EPISODES = 200
_WAY, _QUERY = 5, 10
_FILTERS, _FILTER_SIDE = 32, 5


def features(dataset: FewShotDataset) -> dict[str, float]:
    """Statistics of a data set by name: size, intensity, edges, spectrum, separation, few-shot landmarkers.

    Kept in the cache folder, so the second call reads a file.
    """
    file = cache.root() / "features" / f"{dataset.fingerprint}-v{_VERSION}.json"
    kept = _read(file)
    if kept is not None:
        return kept
    found = compute(dataset)
    _write(file, found)
    return found


def compute(dataset: FewShotDataset, *, most_pixels: int = _PIXELS) -> dict[str, float]:
    """The same, without the cache.

    Args:
        most_pixels: of how many, counted in all channels, intensity and edges are computed.
    """
    generator = np.random.default_rng(0)
    images, labels = _sample(dataset, generator)  # uint8 (M, C, H, W), (M,)
    small = _shrunk(images)  # in [0, 1]
    pixels = small.reshape(len(small), -1)
    some = images[:: math.ceil(images.size / most_pixels)] / 255  # every n-th image in [0, 1]
    return {
        **_size(dataset),
        **_intensity(some, small),
        **_edges(some),
        **_spectrum(pixels, labels),
        **_landmarkers("pixel", pixels, labels, generator),
        **_landmarkers("random_conv", random_convolution(small, generator), labels, generator),
    }


def nearest_centroid_accuracy(x: np.ndarray, labels: np.ndarray, shot: int, generator: np.random.Generator) -> float:
    """Accuracy in [0, 1] of nearest class means on features [M, D], over drawn episodes of at most 5 ways."""
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    members = [m for m in members if len(m) > shot]
    way = min(_WAY, len(members))
    if way < 2:
        return math.nan
    scores = []
    for _ in range(_EPISODES):
        chosen = generator.choice(len(members), way, replace=False)
        drawn = [generator.permutation(members[c])[: shot + _QUERY] for c in chosen]
        means = np.stack([x[d[:shot]].mean(0) for d in drawn])  # (N, D)
        right = [(_nearest(x[d[shot:]], means) == place).mean() for place, d in enumerate(drawn)]
        scores.append(np.mean(right))
    return float(np.mean(scores))


def random_convolution(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Features [M, 4 · filters] of [M, C, H, W]: random filters, ReLU, means over the four quarters.

    A fixed random network: what a convolution sees before it has learned anything.
    """
    channels = images.shape[1]
    side = min(_FILTER_SIDE, *images.shape[2:])
    filters = generator.standard_normal((channels * side * side, _FILTERS)) / math.sqrt(channels * side * side)
    filters -= filters.mean(0)  # the same as taking each patch's mean from it, which costs three times as long
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(2, 3))  # (M, C, H', W', s, s)
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(*_outer(windows), -1)
    maps = np.maximum(patches @ filters, 0)  # (M, H', W', filters)
    rows = [half for part in np.array_split(maps, 2, axis=1) for half in np.array_split(part, 2, axis=2)]
    return np.concatenate([quarter.mean((1, 2)) for quarter in rows if quarter.size], axis=1)


def _outer(windows: np.ndarray) -> tuple[int, int, int]:
    return windows.shape[0], windows.shape[2], windows.shape[3]


def _sample(dataset: FewShotDataset, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About 2,000 train images, at least 20 a class where there are so many, and their labels."""
    classes = dataset.splits["train"]
    each = max(_LEAST_IMAGES_A_CLASS, _IMAGES // len(classes))
    chosen = generator.permutation(classes)[: max(2, _IMAGES // each)]
    members = [generator.permutation(np.flatnonzero(dataset.labels == c))[:each] for c in chosen]
    index = np.sort(np.concatenate(members))
    return dataset.images[index], dataset.labels[index]


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Means over blocks, to about 16 pixels on the shorter side, scaled to [0, 1]."""
    step = max(1, math.ceil(min(images.shape[2:]) / _SIDE))
    height, width = (side // step * step for side in images.shape[2:])
    cut = images[:, :, :height, :width]
    return cut.reshape(*cut.shape[:2], height // step, step, width // step, step).mean((3, 5)) / 255


def _size(dataset: FewShotDataset) -> dict[str, float]:
    channels, height, width = dataset.image_shape
    counts = dataset.class_counts[dataset.splits["train"]]
    return {
        "log_images": math.log(counts.sum()),
        "channels": float(channels),
        "log_resolution": math.log(math.sqrt(height * width)),
        "log_classes": math.log(len(counts)),
        "log_images_per_class": math.log(counts.mean()),
    }


def _intensity(images: np.ndarray, small: np.ndarray) -> dict[str, float]:
    centred = images - images.mean()
    squares = centred * centred  # centred**3 takes thirty times as long
    deviation = math.sqrt(squares.mean()) or 1.0
    return {
        "intensity_mean": float(images.mean()),
        "intensity_deviation": math.sqrt(squares.mean()),
        "intensity_skew": float((squares * centred).mean()) / deviation**3,
        "intensity_kurtosis": float((squares * squares).mean()) / deviation**4,
        "intensity_between_images": float(small.mean((1, 2, 3)).std()) / deviation,
        "colour": float(images.std(1).mean()) / deviation,
    }


def _edges(images: np.ndarray) -> dict[str, float]:
    grey = images.mean(1)
    down, right = np.diff(grey, axis=1), np.diff(grey, axis=2)
    steepness = np.concatenate([np.abs(down).ravel(), np.abs(right).ravel()])
    deviation = float(grey.std()) or 1.0
    return {
        "edge_mean": float(steepness.mean()) / deviation,
        "edge_deviation": float(steepness.std()) / deviation,
        "edge_direction": float(np.abs(down).mean()) / (float(np.abs(down).mean() + np.abs(right).mean()) or 1.0),
    }


def _spectrum(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How few directions hold the variance, and how much of it lies between classes."""
    centred = x - x.mean(0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = variances / (variances.sum() or 1.0)
    within = np.concatenate([x[labels == c] - x[labels == c].mean(0) for c in np.unique(labels)])
    total = float((centred**2).sum()) or 1.0
    return {
        "pca_first": float(shares[0]),
        "pca_ten": float(shares[:10].sum()),
        "log_dimension": math.log(1 / float((shares**2).sum())),
        "between_classes": 1 - float((within**2).sum()) / total,
    }


def _landmarkers(name: str, x: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> dict[str, float]:
    return {f"{name}_{k}_shot": nearest_centroid_accuracy(x, labels, k, generator) for k in (1, 5)}


def _nearest(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    return ((means**2).sum(1) - 2 * x @ means.T).argmin(1)


def _read(file: Path) -> dict[str, float] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: float(value) for name, value in kept.items()} if isinstance(kept, dict) else None


def _write(file: Path, found: Features) -> None:
    """Whole or not at all; a full disk costs the cache, not the answer."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(dict(found)), encoding="utf-8")
        os.replace(draft, file)
    except OSError:
        draft.unlink(missing_ok=True)
