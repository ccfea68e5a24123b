"""The data of a job: opened where it lies now, and checked to be what the job says it is.

A class that was trained on must never be measured as a new one, so whatever is trained, continued or evaluated
opens its data here. It does not know how data is read.
"""

from __future__ import annotations

from pathlib import Path

from autometa.data import catalog
from autometa.data.all_classes import split_by_images
from autometa.data.dataset import FewShotDataset
from autometa.data.identity import identity_of
from autometa.data.load import load_dataset
from autometa.errors import ConfigError, DataChangedError, DataError
from autometa.trial.job import DatasetRef, Job


def open_dataset(ref: DatasetRef, *, option: str = "--dataset") -> FewShotDataset:
    """The data set a job names, from the cache where it is there. `option` is how a user says where it is.

    Raises:
        DataChangedError: what lies there is not the data that the reference is of, or cannot be read any more.
        DataError: it cannot be read.
    """
    size = ref.image_size or (ref.identity.image_size if ref.identity else None)
    try:
        data = load_dataset(
            ref.name, data_root=ref.root, image_size=size, seed=ref.seed, skip_unreadable=ref.skip_unreadable
        )
    except DataError as error:
        if ref.identity is None:
            raise
        raise DataChangedError(f"{error}{_hint(ref.name, option)}") from None
    change = ref.identity.change_to(identity_of(data)) if ref.identity else None
    if change:
        raise DataChangedError(f"{ref.name}: not the data that this began with: {change}")
    if ref.all_classes:
        return split_by_images(data)
    return data if ref.keep_back is None else data.keeping_back(ref.keep_back)


def open_both(job: Job) -> tuple[FewShotDataset, FewShotDataset]:
    """The data to measure on, and that to train on: the same, or the job's `pretrain`, with images of one size.

    Raises:
        DataError: as `open_dataset`; or one trains on classes by which the other is measured, or their images differ.
    """
    data = open_dataset(job.dataset)
    if job.pretrain is None:
        return data, data
    size = job.pretrain.image_size or data.image_shape[1]
    train_on = open_dataset(job.pretrain.model_copy(update={"image_size": size}), option="--pretrain-dataset")
    if train_on.image_shape != data.image_shape:
        have, need = ("×".join(map(str, one.image_shape)) for one in (train_on, data))
        raise DataError(f"{train_on.name}: its images are {have}, those of {data.name} {need}")
    data.require_new_to(train_on)
    return data, train_on


def noted(job: Job, data: FewShotDataset, train_on: FewShotDataset) -> Job:
    """The job with the identity of the data it was given, to be kept with what it trained."""
    pretrain = job.pretrain and job.pretrain.model_copy(update={"identity": identity_of(train_on)})
    dataset = job.dataset.model_copy(update={"identity": identity_of(data)})
    return job.model_copy(update={"dataset": dataset, "pretrain": pretrain})


def at(place: DatasetRef | str | Path | None, known: DatasetRef) -> DatasetRef:
    """Where to find data that is known: at another place, if one is given, but the same data."""
    if place is None:
        return known
    if not isinstance(place, DatasetRef):
        place = known.model_copy(update={"name": catalog.portable(str(place))})
    return place.model_copy(update={"identity": known.identity or place.identity})


def placed(
    job: Job,
    *,
    data_root: str | Path | None = None,
    dataset: str | Path | None = None,
    pretrain_dataset: str | Path | None = None,
) -> Job:
    """The job with its data where it lies now, if that is somewhere else; raises `ConfigError` for data it has not."""
    if pretrain_dataset and not job.pretrain:
        raise ConfigError(f"--pretrain-dataset {pretrain_dataset}: it is trained on classes of its data set")
    refs = {"dataset": at(dataset, job.dataset), "pretrain": job.pretrain and at(pretrain_dataset, job.pretrain)}
    if data_root:
        refs = {name: ref and ref.model_copy(update={"root": str(data_root)}) for name, ref in refs.items()}
    return job.model_copy(update=refs)


def change_between(before: DatasetRef | None, now: DatasetRef | None) -> str | None:
    """What is different in the data, in a few words; None where it is the same, or where nobody noted what it was."""
    if before is None or now is None:
        return None if before is now else "its training classes come from another data set"
    if before.all_classes != now.all_classes:
        return "one is split by images, to tell all classes apart, and one by classes"
    if before.keep_back != now.keep_back:
        return "other images of it are kept back from training"
    if before.identity and now.identity:
        return before.identity.change_to(now.identity)
    is_moved_at_most = catalog.is_folder(before.name) and catalog.is_folder(now.name)
    return None if is_moved_at_most or before.name == now.name else f"it was {before.name}"


def _hint(name: str, option: str) -> str:
    is_missing = catalog.is_folder(name) and not Path(name).is_dir()
    return f"; if it was moved, say where it is: {option} DIR" if is_missing else ""
