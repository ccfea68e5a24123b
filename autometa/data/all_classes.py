"""A data set for telling all of its classes apart: split by images, not by classes.

A search for new classes keeps classes apart. Whoever has forty classes, and wants photographs named by these, has no
other classes to try it on: other images of the same classes say how good a model is. Each class is then a train, a
validation and a test class, of different images. Episodes of the latter two take their labelled images from the former.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from autometa.data.dataset import FewShotDataset, last_of_a_class
from autometa.errors import DataError

# Labelled images of a class at most, by which images are named: as many as the task has when it is deployed.
MOST_LABELLED = 20
# A class needs two images to train on, one to validate and one to test.
_LEAST = 4


def split_by_images(data: FewShotDataset) -> FewShotDataset:
    """The same images, with 3N classes for N: of each class the images to train on, to validate and to test.

    The last fifth by file name is for testing, at most 20 images, and as many before it are for validation: photographs
    of one series have neighbouring names. Class n is trained on as n, validated as N + n and tested as 2N + n. Labelled
    images of N + n are the first of n, and labelled images of 2N + n the first of n and N + n: at most 20, always the
    same, so that a frozen network looks at few images.

    Raises:
        DataError: a class has fewer than 4 images.
    """
    classes = np.sort(np.concatenate([data.splits[split] for split in data.splits]))
    count = len(classes)
    smallest = classes[np.argmin(data.class_counts[classes])]
    if data.class_counts[smallest] < _LEAST:
        raise DataError(
            f"class {data.class_names[smallest]!r} of {data.name} has {data.class_counts[smallest]} images: to tell "
            f"all classes apart takes {_LEAST} of each, to train, validate and test on"
        )
    labels, labelled = np.empty_like(data.labels), {}
    for number, label in enumerate(classes):
        members = np.flatnonzero(data.labels == label)
        kept = max(1, last_of_a_class(len(members)))
        ends = [len(members) - 2 * kept, len(members) - kept]
        for part, images in enumerate(np.split(members, ends)):
            labels[images] = part * count + number
        for part, end in enumerate(ends, 1):
            labelled[part * count + number] = members[: min(end, MOST_LABELLED)]
    names = [data.class_names[label] for label in classes]
    ids = np.arange(count)
    return replace(
        data,
        labels=labels,
        class_names=tuple(names * 3),
        splits={"train": ids, "val": ids + count, "test": ids + 2 * count},
        labelled=labelled,
        fingerprint=hashlib.sha256(f"{data.fingerprint} by images".encode()).hexdigest()[:16],
        kept_back=None,
        by_classes=data,
    )


def labelled_alone(data: FewShotDataset) -> FewShotDataset:
    """Such data whose images to train on are those alone that may be labelled in validation.

    A network that is not trained needs no others, and looks at them anyway.
    """
    assert data.labelled is not None
    labels = data.labels.copy()
    is_labelled = np.isin(np.arange(len(labels)), np.concatenate([data.labelled[int(n)] for n in data.splits["val"]]))
    labels[np.isin(labels, data.splits["train"]) & ~is_labelled] = len(data.class_names)
    return replace(data, labels=labels, class_names=(*data.class_names, "neither labelled nor trained on"))
