"""The task that is deployed: all classes of a data set at once, by their labelled images, on images kept back.

A search measures small tasks of new classes. Whoever has forty classes wants to know how often a photograph gets the
right one of forty. Images that were trained on say nothing of that: each class has some that were kept back. Of a model
that was trained without keeping any back, only classes that it never trained on are measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autometa.data.all_classes import MOST_LABELLED
from autometa.data.dataset import FewShotDataset
from autometa.data.image_pool import Normaliser
from autometa.deployment.task import Task
from autometa.errors import ConfigError, DataError
from autometa.learning.device import pick_device
from autometa.learning.features import rows_of_members
from autometa.learning.learner import Learner
from autometa.records import DeployedTask, Right, TrialConfig
from autometa.trial import baselines, build
from autometa.trial.job import DatasetRef, Job
from autometa.trial.measured import models_in
from autometa.trial.model import load_model
from autometa.trial.model_files import content_of, job_of
from autometa.trial.opened import at, open_dataset

_NORMAL = 1.959964  # the 97.5 % quantile


@dataclass(frozen=True)
class _Images:
    """Which images are labelled and which are to be named, by index, class by class."""

    classes: list[int]
    labelled: list[np.ndarray]
    asked: list[np.ndarray]

    @property
    def all(self) -> np.ndarray:
        """First those that are labelled."""
        return np.concatenate([*self.labelled, *self.asked])


def measure_all_classes(
    folder: str | Path,
    *,
    dataset: DatasetRef | str | Path | None = None,
    shots: int = MOST_LABELLED,
    use_gpu: bool | None = None,
    with_baselines: bool = True,
) -> DeployedTask:
    """How often a model names the right class of all classes, and how often the baselines of a search do.

    Args:
        dataset: where the data is now, as of `evaluate_checkpoint`.
        shots: labelled images of a class at most.

    Raises:
        CheckpointError, DataError: there is no model, or its data is not there, or is too small.
        ConfigError: its learner cannot tell so many classes apart.
    """
    folder = models_in(Path(folder))[0]
    job = job_of(folder)
    data = open_dataset(at(dataset, job.dataset))
    device = pick_device(use_gpu)
    chosen = _chosen(data, job, shots)
    trained = _trained_on(data, job)
    learner = load_model(folder, data).to(device).eval()
    started = time.perf_counter()
    right = _right(learner, data, chosen, device)
    seconds = time.perf_counter() - started
    seen = [n for n, label in enumerate(chosen.classes) if label in trained]
    new = [n for n, label in enumerate(chosen.classes) if label not in trained]
    labelled = [len(images) for images in chosen.labelled]
    return DeployedTask(
        model=content_of(folder),
        classes=len(chosen.classes),
        fewest_shots=min(labelled),
        most_shots=max(labelled),
        of_all=_accuracy(right),
        of_trained=_accuracy([right[n] for n in seen]) if seen else None,
        of_new=_accuracy([right[n] for n in new]) if new else None,
        baselines=_baselines(data, chosen, device) if with_baselines else {},
        seconds=round(seconds, 3),
    )


def compute_features(folder: Path, *, dataset: DatasetRef, use_gpu: bool | None) -> None:
    """Have those features in the cache that `measure_all_classes` needs; several processes share the work."""
    job, device = job_of(folder), pick_device(use_gpu)
    data = open_dataset(at(dataset, job.dataset))
    learner = load_model(folder, data).to(device).eval()
    rows_of_members(learner, data, _chosen(data, job, MOST_LABELLED).all, device)


def _trained_on(data: FewShotDataset, job: Job) -> set[int]:
    """The classes, as `_chosen` has them, of which the model was trained on some images."""
    if job.pretrain is not None:
        return set()
    return {int(label) for label in data.splits["test" if data.labelled else "train"]}


def _chosen(data: FewShotDataset, job: Job, shots: int) -> _Images:
    """Images of all classes, or of those that were not trained on where all images of the others were."""
    if data.labelled:
        labelled = data.labelled_members("test")
        assert labelled is not None
        ids = [int(label) for label in data.splits["test"]]
        return _Images(ids, [images[:shots] for images in labelled], data.members("test"))
    splits: Sequence[str] = ("train", "val", "test")
    if data.kept_back is None:
        data = data.keeping_back(1)
        splits = splits if job.pretrain else ("val", "test")
    kept = data.kept_back
    assert kept is not None
    labels = sorted(int(label) for split in splits for label in data.splits[split])
    members = {label: np.flatnonzero(data.labels == label) for label in labels}
    # A class with so few images that none is kept back still stands in the way of the others.
    found = _Images(
        labels,
        [images[~kept[images]][:shots] for images in members.values()],
        [images[kept[images]] for images in members.values()],
    )
    if len(labels) < 2 or not sum(map(len, found.asked)):
        raise DataError(
            f"{data.name}: too few images in its classes to keep some back: the task of all classes cannot be measured"
        )
    return found


def _right(learner: Learner, data: FewShotDataset, chosen: _Images, device: torch.device) -> list[np.ndarray]:
    """Of each class, whether each image to be named gets it."""
    labelled, asked = np.concatenate(chosen.labelled), np.concatenate(chosen.asked)
    rows = rows_of_members(learner, data, chosen.all, device)
    of_labelled = {key: of[: len(labelled)] for key, of in rows.items()}
    normalise, shots = Normaliser(data.mean, data.std, device), [len(images) for images in chosen.labelled]
    task = Task(learner, torch.from_numpy(data.images[labelled]), shots, normalise, device, of_labelled)
    said = []
    for first in range(0, len(asked), task.at_once):
        here = slice(first, first + task.at_once)
        of_asked = {key: of[len(labelled) :][here] for key, of in rows.items()}
        episode = task.episode(torch.from_numpy(data.images[asked[here]]), of_asked)
        said.append(task.logits(episode).argmax(-1).cpu())
    counts = [len(images) for images in chosen.asked]
    is_right = torch.cat(said).numpy() == np.repeat(np.arange(len(counts)), counts)
    return np.split(is_right, np.cumsum(counts)[:-1])


def _baselines(data: FewShotDataset, chosen: _Images, device: torch.device) -> dict[str, Right]:
    """What the classifiers on untrained features name rightly; without those that do not take these images."""
    found = {}
    for name, values in baselines.BASELINES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            candidate = build.candidate(TrialConfig(values=dict(values)))
            learner = candidate.build(image_shape=data.image_shape, way=len(chosen.classes), train_classes=1)
        try:
            found[name] = _accuracy(_right(learner.to(device).eval(), data, chosen, device))
        except ConfigError:
            continue
    return found


def _accuracy(right: Sequence[np.ndarray]) -> Right:
    """Part that is right with its 95 % interval over images (Wilson 1927)."""
    every = np.concatenate([np.zeros(0, bool), *right])
    count = len(every)
    if not count:
        return Right(mean=0.0, low=0.0, high=1.0, images=0)
    mean, spread = float(every.mean()), _NORMAL**2 / count
    middle = (mean + spread / 2) / (1 + spread)
    half = (_NORMAL / (1 + spread)) * (mean * (1 - mean) / count + spread / (4 * count)) ** 0.5
    return Right(mean=mean, low=max(0.0, middle - half), high=min(1.0, middle + half), images=count)
