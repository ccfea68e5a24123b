"""A trained model as it is used: its learner, the images it takes, its validation classes where they are at hand.

What was found out about it on validation episodes is kept beside it in `calibrations.json`, so that the same kind of
task is measured once, and a model that was moved away from its data keeps what is known.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from autometa.data.dataset import FewShotDataset
from autometa.data.image_pool import ImagePool
from autometa.data.load import is_at_hand
from autometa.deployment.calibration import Calibration, TaskShape, calibrated, shape_like
from autometa.errors import CheckpointError, ConfigError, DataError
from autometa.learning import checkpoint_files
from autometa.learning.device import pick_device
from autometa.learning.features import pool_for
from autometa.learning.learner import Learner, each_image_once
from autometa.records import Record
from autometa.trial.job import DatasetRef, Job
from autometa.trial.measured import models_in
from autometa.trial.model import load_learner
from autometa.trial.model_files import ModelInput, content_of, input_of, job_of
from autometa.trial.opened import at, open_dataset

CALIBRATIONS = "calibrations.json"
_MOST_KEPT = 50
_SEED = 3_000_000  # of episodes apart from those that a search chose by


class _Kept(Record):
    """Calibrations of one model on one data set; `rate` is that of rejection, and None without."""

    model: str
    fingerprint: str
    found: list[Calibration]


@dataclass(frozen=True)
class TrainedModel:
    """A model from its folder. `data` is what it was validated on; without it `missing` says why."""

    folder: Path
    learner: Learner
    job: Job
    taken: ModelInput
    device: torch.device
    data: FewShotDataset | None
    missing: str

    @functools.cached_property
    def _pool(self) -> ImagePool:
        assert self.data is not None
        return pool_for(self.learner, self.data, "val", self.device)

    def calibration(self, shots: Sequence[int], *, reject_rate: float | None = None) -> Calibration | None:
        """What it is worth on tasks with so many labelled images of each class; None where nobody can know.

        Without its data it is that of the most similar task that was measured before.

        Raises:
            DataError: there are too few validation classes.
        """
        if self.data is None:
            return _nearest(self._kept(), shots, reject_rate)
        shape = shape_like(shots, self._pool, with_unknown=reject_rate is not None)
        kept = self._kept()
        for known in kept:
            if known.shape == shape and _rate(known) == reject_rate:
                return known
        with each_image_once(self.learner):
            found = calibrated(self.learner, self._pool, shape, seed=_SEED, reject_rate=reject_rate)
        self._keep([*kept, found][-_MOST_KEPT:])
        return found

    def _kept(self) -> list[Calibration]:
        """What was found out about this very model; nothing of one that was in the folder before, or is damaged."""
        with contextlib.suppress(OSError, ValueError, ValidationError):
            kept = _Kept.model_validate_json((self.folder / CALIBRATIONS).read_bytes())
            if kept.model == content_of(self.folder) and kept.fingerprint == self._fingerprint:
                return kept.found
        return []

    def _keep(self, found: list[Calibration]) -> None:
        kept = _Kept(model=content_of(self.folder), fingerprint=self._fingerprint, found=found)
        with contextlib.suppress(OSError):  # a model may be read-only: it is measured again next time
            checkpoint_files.write(self.folder / CALIBRATIONS, kept.model_dump_json(indent=1).encode())

    @property
    def _fingerprint(self) -> str:
        identity = self.job.dataset.identity
        return identity.fingerprint if identity else ""


def open_model(
    folder: Path,
    *,
    dataset: str | Path | None = None,
    data_root: str | Path | None = None,
    use_gpu: bool | None = None,
) -> TrainedModel:
    """Open a model, single or an ensemble, for use.

    Args:
        dataset: where the image folder is now that it was validated on; an error if it is not there.
        data_root: where archives lie.

    Raises:
        CheckpointError: there is no model, or it is damaged.
        ConfigError: the folder is of several models.
        DataChangedError: the data there is other data.
    """
    folder = _only_model(folder)
    job = job_of(folder)
    ref = at(dataset, job.dataset)
    ref = ref.model_copy(update={"root": str(data_root)}) if data_root else ref
    data, missing = _data(ref, is_wanted=dataset is not None)
    taken = input_of(folder) or (ModelInput.of(data) if data else None)
    if taken is None:
        raise CheckpointError(
            f"{folder}: does not say which images it takes, and its data is not here ({missing}): "
            "say where it is with --dataset DIR or --data-root DIR"
        )
    device = pick_device(use_gpu)
    train_classes = len(data.splits["train"]) if data else 1
    learner = load_learner(folder, (taken.channels, taken.size, taken.size), train_classes)
    return TrainedModel(folder, learner.to(device).eval(), job, taken, device, data, missing)


def _only_model(folder: Path) -> Path:
    models = models_in(folder)
    if len(models) > 1:
        raise ConfigError(f"{folder}: {len(models)} models of different seeds; choose one, such as {models[0]}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; a search leaves its model in runs/STUDY/model")
    if (folder / "model").is_dir() and models[0] == folder and not any(folder.glob("*.json")):
        raise CheckpointError(f"{folder}: not a model, but a study; its model is {folder / 'model'}")
    return models[0]


def _data(ref: DatasetRef, *, is_wanted: bool) -> tuple[FewShotDataset | None, str]:
    """The data set, or why it is not there. Nothing is downloaded for a few validation images."""
    try:
        if not is_wanted and not is_at_hand(ref.name, ref.root):
            return None, f"{ref.name} is not on this machine"
        return open_dataset(ref), ""
    except DataError as error:
        if is_wanted:
            raise
        return None, str(error)


def _rate(calibration: Calibration) -> float | None:
    return calibration.rejection.rate if calibration.rejection else None


def _nearest(kept: Sequence[Calibration], shots: Sequence[int], reject_rate: float | None) -> Calibration | None:
    """That of the most similar number of classes and labelled images, by their logarithms."""
    fitting = [one for one in kept if _rate(one) == reject_rate]

    def distance(shape: TaskShape) -> float:
        way = math.log(shape.way / len(shots))
        shot = math.log(sum(shape.shots) / shape.way / (sum(shots) / len(shots)))
        return math.hypot(way, shot)

    return min(fitting, key=lambda one: distance(one.shape), default=None)
