"""The identity of a data set, by which it is known again wherever it lies."""

from __future__ import annotations

from autometa.data.dataset import SPLITS, FewShotDataset
from autometa.records import DataIdentity


def identity_of(dataset: FewShotDataset, *, with_names: bool = True) -> DataIdentity:
    """What must be the same for numbers of two runs to be of the same classes and images, as they lie."""
    dataset = dataset.by_classes or dataset
    channels, size, _ = dataset.image_shape
    return DataIdentity(
        fingerprint=dataset.fingerprint,
        image_size=size,
        channels=channels,
        classes={s: [dataset.class_names[c] for c in dataset.splits[s]] for s in SPLITS} if with_names else {},
    )
