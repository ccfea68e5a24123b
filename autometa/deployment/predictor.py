"""`Predictor`: a trained model in scikit-learn's style. New classes need a few labelled images, and no training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from autometa.data.image_pool import Normaliser
from autometa.deployment.calibration import Calibration
from autometa.deployment.likeness import SCORES
from autometa.deployment.pictures import Reader, queries_in, support_in
from autometa.deployment.task import Task
from autometa.deployment.trained import open_model
from autometa.errors import ConfigError, DataError

NONE_OF_THESE = "none of these"


@dataclass(frozen=True)
class Answers:
    """What a model says of some images, in their order.

    Attributes:
        probabilities: [M, N], of each class.
        rejected: [M], whether an image is of none of the classes; all false where that was not asked.
        places: [M], which of the images that were given these are; others could not be read.
        unreadable: files that could not be read, with reasons.
    """

    probabilities: np.ndarray
    rejected: np.ndarray
    places: list[int]
    unreadable: list[str]


class Predictor(ClassifierMixin, BaseEstimator):
    """Names images by a few labelled ones per class.

    `fit` takes a folder with one folder per class, or images and their labels; `predict` and `predict_proba` take a
    folder, files, or images. Images are paths, or arrays [height, width] or [height, width, channels] of bytes or of
    floats in [0, 1]. The number of classes, and of labelled images of each, may differ from training and between
    classes, which count alike.

    Args:
        model: folder of a trained model, such as `runs/STUDY/model`.
        reject_rate: take images for none of the classes, by a threshold under which this part of the images of known
            classes fell in validation; None names every image.
        none_label: what `predict` calls such images.
        dataset: where the image folder is now that the model was validated on, if it was moved.
        data_root: where archives of known data sets lie.
        skip_unreadable: leave out files that cannot be read, in place of an error.
        use_gpu: a GPU must be used, or must not; None takes one where there is one.

    Attributes:
        classes_: [N], labels in their order.
        shots_: [N], labelled images of each class.
        calibration_: what was found out on validation episodes like this task; None where that cannot be known, and
            probabilities are the model's own.
        unreadable_: files of the support that were left out, with reasons.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        reject_rate: float | None = None,
        none_label: Any = NONE_OF_THESE,
        dataset: str | Path | None = None,
        data_root: str | Path | None = None,
        skip_unreadable: bool = False,
        use_gpu: bool | None = None,
    ) -> None:
        self.model = model
        self.reject_rate = reject_rate
        self.none_label = none_label
        self.dataset = dataset
        self.data_root = data_root
        self.skip_unreadable = skip_unreadable
        self.use_gpu = use_gpu

    def fit(self, X: Any, y: Any = None) -> Predictor:  # noqa: N803 - scikit-learn's name
        """Learn the classes from labelled images: a folder with one folder per class, or images with labels `y`.

        Raises:
            AutometaError: the model, the images or their number are not such that they can be used; one line.
            ValueError: arrays are no images, or there are not as many labels.
        """
        if self.reject_rate is not None and not 0 < self.reject_rate < 1:
            raise ConfigError(f"reject_rate = {self.reject_rate}: it must be in (0, 1)")
        opened = open_model(Path(self.model), dataset=self.dataset, data_root=self.data_root, use_gpu=self.use_gpu)
        reader = Reader(opened.taken, skip_unreadable=self.skip_unreadable)
        images, labels = _labelled(X, y, reader)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("one class only: there is nothing to tell apart; give labelled images of at least two")
        order = np.argsort(indices, kind="stable")
        self.shots_ = np.bincount(indices)
        self.trained_ = opened
        normalise = Normaliser(opened.taken.mean, opened.taken.std, opened.device)
        support = torch.from_numpy(images[order])
        self.task_ = Task(opened.learner, support, self.shots_.tolist(), normalise, opened.device)
        self.unreadable_ = list(reader.unreadable)
        self.calibration_: Calibration | None = None
        self._answered(images[:1])  # what the model cannot do, it says now
        self.calibration_ = opened.calibration(self.shots_.tolist(), reject_rate=self.reject_rate)
        if self.reject_rate is not None and self.calibration_ is None:
            raise ConfigError(
                f"reject_rate = {self.reject_rate}: the threshold is found on validation images, and {opened.missing}"
            )
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The label of each image, [M]; `none_label` for those of none of the classes, if that was asked."""
        answers = self._all(X)
        named = self.classes_[answers.probabilities.argmax(1)]
        if self.reject_rate is None:
            return named
        named = named.astype(object)
        named[answers.rejected] = self.none_label
        return named

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probability of each class for each image, [M, N], calibrated on validation episodes."""
        return self._all(X).probabilities

    def answers(self, images: Any) -> Iterator[Answers]:
        """What the model says of the images, some at a time; each is read when its turn comes."""
        check_is_fitted(self)
        for chunk, first in _chunks(images, self.task_.at_once):
            reader = Reader(self.trained_.taken, skip_unreadable=self.skip_unreadable)
            if _are_files(chunk):
                pixels, places = reader.files([Path(file) for file in chunk])
            else:
                pixels, places = reader.arrays(chunk), list(range(len(chunk)))
            probabilities, rejected = np.empty((0, len(self.classes_))), np.empty(0, bool)
            if places:
                probabilities, rejected = self._answered(pixels)
            yield Answers(probabilities, rejected, [first + place for place in places], reader.unreadable)

    def _all(self, images: Any) -> Answers:
        check_is_fitted(self)
        parts = list(self.answers(images))
        if not any(part.places for part in parts):
            raise DataError("no images to name, or none of them can be read")
        return Answers(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.rejected for part in parts]),
            [place for part in parts for place in part.places],
            [reason for part in parts for reason in part.unreadable],
        )

    def _answered(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities [M, N] of uint8 images [M, C, H, W], and whether each is rejected [M]."""
        found = self.calibration_
        episode = self.task_.episode(torch.from_numpy(pixels))
        logits = self.task_.logits(episode)
        softened = found.softened(logits, self.shots_.tolist()) if found else logits
        probabilities = softened.softmax(-1).double().cpu().numpy()
        probabilities /= probabilities.sum(1, keepdims=True)
        if found is None or found.rejection is None:
            return probabilities, np.zeros(len(pixels), bool)
        with torch.no_grad():
            score = SCORES[found.rejection.score](self.task_.learner, episode, logits[None])[0]
        return probabilities, (score < found.rejection.threshold).cpu().numpy()


def _labelled(X: Any, y: Any, reader: Reader) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
    """uint8 images [M, C, H, W] and their labels [M]."""
    if isinstance(X, str | Path):
        if y is not None:
            raise ValueError("a support folder has its labels in the names of its folders: give no y with it")
        folder = support_in(Path(X))
        files = folder.files
        images, places = reader.files([file for _, file in files])
        names = list(folder.classes)
        labels = np.array([names[files[place][0]] for place in places])
        empty = sorted(set(names) - set(labels.tolist()))
        if empty:
            raise DataError(f"{folder.root}: class {empty[0]!r} has no image that can be read; take its folder out")
        return images, labels
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    given, labels = list(X), np.asarray(y)
    if labels.ndim != 1 or len(given) != len(labels) or not given:
        raise ValueError(f"give one label per image, but got {len(given)} images and labels of shape {labels.shape}")
    check_classification_targets(labels)
    if not _are_files(given):
        return reader.arrays(given), labels
    images, places = reader.files([Path(file) for file in given])
    return images, labels[places]


def _are_files(images: Sequence[Any]) -> bool:
    return len(images) > 0 and isinstance(images[0], str | Path)


def _chunks(images: Any, count: int) -> Iterator[tuple[Sequence[Any], int]]:
    """`count` images at a time, with the place of the first."""
    every: Iterable[Any] = queries_in([Path(images)]) if isinstance(images, str | Path) else images
    chunk: list[Any] = []
    first = 0
    for image in every:
        chunk.append(image)
        if len(chunk) == count:
            yield chunk, first
            first, chunk = first + len(chunk), []
    if chunk:
        yield chunk, first
