"""A few-shot data set in memory-mapped form: images, labels, and classes split into train, val and test.

It is plain NumPy; it does not know where it came from or that torch exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from autometa.errors import DataError
from autometa.records import EpisodeSpec, Scalar

SPLITS = ("train", "val", "test")
_PART_KEPT_BACK, _MOST_KEPT_BACK = 0.2, 20
_ROTATED = re.compile(r"(.+)@(?:0|90|180|270)")  # a class under a quarter turn, as the readers name it


@dataclass(frozen=True)
class FewShotDataset:
    """Images of all splits; a class belongs to exactly one of them.

    Attributes:
        images: uint8 [N, C, H, W], mapped read-only from the cache.
        labels: int64 [N], index into `class_names`.
        splits: class ids, int64, by split; they never overlap.
        mean, std: per channel in [0, 1], of the train classes only.
        fingerprint: changes with any image, label or split.
        unreadable: how many files of a folder were left out.
        notes: what a user should know about the images, each in a line.
        kept_back: bool [N], images that are not trained on, of every class; None where none are.
        content: changes with any image, but not with the splits; empty where nobody noted it.
        labelled: indices of the images that may be labelled in an episode, by the class of its other images; None
            where they are of the same class, as is usual.
        by_classes: the same images as they lie, where these splits were made from them.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: Mapping[str, np.ndarray]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    title: str = ""
    licence: str = ""
    citation: str = ""
    unreadable: int = 0
    notes: tuple[str, ...] = ()
    kept_back: np.ndarray | None = field(default=None, repr=False)
    content: str = ""
    labelled: Mapping[int, np.ndarray] | None = field(default=None, repr=False)
    by_classes: FewShotDataset | None = field(default=None, repr=False)
    class_counts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        object.__setattr__(self, "class_counts", counts)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def keeping_back(self, least: int) -> FewShotDataset:
        """The same data with a fifth of each class, at most 20 images, kept back from training.

        They are the last of the class by file name: photographs of one series have neighbouring names.

        Args:
            least: images that a class is left with at least.
        """
        kept = np.zeros(len(self.labels), bool)
        for members in (np.flatnonzero(self.labels == label) for label in range(len(self.class_names))):
            count = min(last_of_a_class(len(members)), len(members) - least)
            kept[members[len(members) - max(0, count) :]] = True
        return replace(self, kept_back=kept)

    def members(self, split: str) -> list[np.ndarray]:
        """Indices of the images of each class of a split."""
        return [np.flatnonzero(self.labels == label) for label in self.splits[split]]

    def labelled_members(self, split: str) -> list[np.ndarray] | None:
        """Indices of the images that may be labelled in an episode, of each class; None where all of it may be."""
        if self.labelled is None or int(self.splits[split][0]) not in self.labelled:
            return None
        return [self.labelled[int(label)] for label in self.splits[split]]

    def facts(self) -> dict[str, Scalar]:
        """Size and splits in plain words, for a study's record."""
        channels, height, _ = self.image_shape
        classes = {f"{split}_classes": len(self.splits[split]) for split in SPLITS}
        left_out = {"unreadable": self.unreadable} if self.unreadable else {}
        return {"images": len(self.labels), "channels": channels, "image_size": height, **classes, **left_out}

    def require_new_to(self, other: FewShotDataset) -> None:
        """Raise `DataError` where validation or meta-test classes here, by name, are train classes of the other.

        Quarter turns of one class (`a@90`) count as that class.
        """
        seen = {other.class_names[c].split("@")[0] for c in other.splits["train"]}
        here = [self.class_names[c].split("@")[0] for split in ("val", "test") for c in self.splits[split]]
        known = sorted(seen & set(here))
        if known:
            some = ", ".join(known[:3])
            raise DataError(
                f"{other.name} trains on {len(known)} classes by which {self.name} is validated or tested ({some} …): "
                "its accuracy would mean nothing"
            )

    def require_unrotated(self) -> None:
        """Raise `DataError` where train classes are quarter turns of each other (`a@0`, `a@90`).

        A class that is made by turning another one would have the images of a third, under another label.
        """
        known: dict[str, str] = {}
        for name in (self.class_names[c] for c in self.splits["train"]):
            match = _ROTATED.fullmatch(name)
            other = known.setdefault(match[1], name) if match else name
            if other != name:
                raise DataError(
                    f"rotations = true: the classes of {self.name} are rotations already ({other}, {name}), so that "
                    "one class would stand under two labels; take it out"
                )

    def require_train_shot(self, shot: int, query: int) -> None:
        """Raise `DataError` where a train class has too few images for episodes of this shot."""
        have = int(self.class_counts[self.splits["train"]].min())
        if have < shot + query:
            raise DataError(
                f"train_shot = {shot}: with {query} query images it takes {shot + query} images of each train class, "
                f"but one of {self.name} has {have}: use at most {max(0, have - query)}"
            )

    def require(self, split: str, spec: EpisodeSpec) -> None:
        """Raise `DataError` unless episodes of this kind can be drawn from the split."""
        ids = self.splits[split]
        if len(ids) < spec.way:
            raise DataError(
                f"split {split!r} of {self.name} has {len(ids)} classes, but --way {spec.way} needs {spec.way}: "
                f"lower --way to at most {len(ids)}"
            )
        smallest = int(ids[np.argmin(self.class_counts[ids])])
        have, need = int(self.class_counts[smallest]), spec.shot + spec.query
        if self.labelled and smallest in self.labelled:
            if have < spec.query:
                name = self.class_names[smallest]
                raise DataError(f"class {name!r} of {self.name} has {have} images to name: lower --query to that")
        elif have < need:
            raise DataError(
                f"class {self.class_names[smallest]!r} of {self.name} ({split}) has {have} images, but "
                f"--shot {spec.shot} + --query {spec.query} needs {need}: lower one of them"
            )


def last_of_a_class(images: int) -> int:
    """How many of a class's images are kept for testing: a fifth, 20 at most."""
    return min(_MOST_KEPT_BACK, round(_PART_KEPT_BACK * images))
