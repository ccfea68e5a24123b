"""A small data set of random images, and episodes of it, for checks that need no real data.

Its classes differ in their mean image, so that there is something to learn.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, EpisodeSampler, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.backbone import Shape
from autometa.learning.learner import TrainingSource
from autometa.records import EpisodeSpec

SPEC = EpisodeSpec(way=3, shot=2, query=3)
TRAIN_CLASSES = 6
_VAL_CLASSES = 4
_IMAGES_PER_CLASS = 8
_SPREAD = 40  # of class means and of images around them, in intensities of 0 … 255


@functools.cache
def example_dataset(image_shape: Shape) -> FewShotDataset:
    """Ten classes of eight images, six of them for training and four for validation."""
    classes = TRAIN_CLASSES + _VAL_CLASSES
    random = np.random.default_rng(0)
    means = random.normal(128, _SPREAD, (classes, 1, *image_shape))
    images = random.normal(means, _SPREAD, (classes, _IMAGES_PER_CLASS, *image_shape)).clip(0, 255)
    ids = np.arange(classes)
    channels = image_shape[0]
    return FewShotDataset(
        name="example",
        images=images.astype(np.uint8).reshape(-1, *image_shape),
        labels=ids.repeat(_IMAGES_PER_CLASS),
        class_names=tuple(f"class {i}" for i in ids),
        splits={"train": ids[:TRAIN_CLASSES], "val": ids[TRAIN_CLASSES:], "test": ids[:0]},
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        fingerprint=f"example {image_shape}",
    )


def training_source(image_shape: Shape, generator: torch.Generator) -> EpisodeSampler:
    """Two training episodes at a time, drawn with this generator."""
    pool = ImagePool(example_dataset(image_shape), "train")
    return EpisodeSampler(pool, SPEC, batch=2, generator=generator)


def validation_episodes(image_shape: Shape, count: int = 2) -> EpisodeBatch:
    """The same episodes of new classes at each call, in one batch."""
    pool = ImagePool(example_dataset(image_shape), "val")
    (episodes,) = fixed_episodes(pool, SPEC, count=count, seed=5, batch=count)
    return episodes


class InDouble:
    """A training source in float64."""

    def __init__(self, source: TrainingSource) -> None:
        self._source = source

    def episodes(self) -> EpisodeBatch:
        return self._source.episodes().to("cpu", torch.float64)

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        images, labels = self._source.images(count)
        return images.double(), labels


class Watched:
    """A training source that counts what is asked of it."""

    def __init__(self, source: TrainingSource) -> None:
        self._source = source
        self.batches = 0  # of episodes
        self.plain = 0  # batches of plain images

    def episodes(self) -> EpisodeBatch:
        self.batches += 1
        return self._source.episodes()

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        self.plain += 1
        return self._source.images(count)
