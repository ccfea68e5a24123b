"""Decode the images of a folder data set: what size and colour they get, which are unreadable, which are twice there.

It does not know how splits are decided, nor about caches.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autometa.data import picture
from autometa.data.dataset import SPLITS
from autometa.data.image_folder import ImageFolder
from autometa.data.readers import Decoded
from autometa.errors import DataError
from autometa.records import Record

# Sides that halve a few times, and those that papers use (28 Omniglot, 84 mini-ImageNet, 224 ImageNet).
_SIDES = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 84, 96, 112, 128, 160, 192, 224)
_SHOWN = 5
_Place = tuple[int, str]  # class id, path inside the folder


class Look(Record):
    """What all headers say together: `side` is how many pixels when nobody says, `grey` that no image has colour."""

    side: int
    grey: bool


def look(files: Iterable[Path]) -> Look:
    """Read every header. The side is the median image's shorter one, rounded down: 224 at most, never enlarged.

    One colour image among grey ones makes the data set one of colour.
    """
    sides, is_grey = [], True
    for file in files:
        try:
            header = picture.header(file)
        except picture.UnreadableError:  # named when all have been decoded
            continue
        sides.append(header.side)
        is_grey = is_grey and header.is_grey
    median = int(statistics.median_low(sides)) if sides else _SIDES[0]
    return Look(side=max((side for side in _SIDES if side <= median), default=median), grey=is_grey)


def read(
    folder: ImageFolder, splits: Mapping[str, Sequence[str]], *, size: int, grey: bool, skip_unreadable: bool
) -> Decoded:
    """The images of a folder, square, `size` pixels a side.

    Images are the same when their decoded pixels are, as they would be learned from. An image in two splits is
    refused; one in two classes of a split, or twice in a class, is noted.

    Raises:
        DataError: when the images are exhausted: files are unreadable, all of them counted and the first five
            named (with `skip_unreadable`: a class has no image left), or an image is in two splits.
    """
    names = tuple(folder.classes)
    ids = {split: [names.index(name) for name in sorted(splits[split])] for split in SPLITS}
    reading = _Reading(folder, ids, size, grey, skip_unreadable)
    shape = (1 if grey else 3, size, size)
    return Decoded(len(folder.files), shape, names, ids, reading.images(), reading.findings)


def refuse_unreadable(root: Path, count: int, first: Sequence[str]) -> None:
    """Raise `DataError` if files are unreadable: how many, and the first of them with reasons."""
    if count:
        raise DataError(
            f"{root}: {count:,} {'file' if count == 1 else 'files'} cannot be read: {_some(first, count)}; "
            "mend or remove them, or leave them out with --skip-unreadable"
        )


class _Reading:
    """One pass over the files, with what it found on the way."""

    def __init__(
        self, folder: ImageFolder, splits: Mapping[str, Sequence[int]], size: int, grey: bool, skip_unreadable: bool
    ) -> None:
        self._folder = folder
        self._split_of = {label: split for split, labels in splits.items() for label in labels}
        self._size, self._grey = size, grey
        self._skip_unreadable = skip_unreadable
        self._unreadable: list[str] = []
        self._places: dict[bytes, list[_Place]] = {}

    def images(self) -> Iterator[tuple[np.ndarray, int]]:
        """(pixels, class id) of each file that can be read."""
        for label, file in self._folder.files:
            inside = self._folder.inside(file)
            try:
                pixels = picture.square(file, self._size, grey=self._grey)
            except picture.UnreadableError as error:
                self._unreadable.append(f"{inside} ({error})")
                continue
            digest = hashlib.blake2b(np.ascontiguousarray(pixels).data.cast("B"), digest_size=16).digest()
            self._places.setdefault(digest, []).append((label, inside))
            yield pixels, label

    def findings(self) -> dict[str, Any]:
        """Facts to be kept with the images; raises `DataError` as `read` says."""
        root = self._folder.root
        if not self._skip_unreadable:
            refuse_unreadable(root, len(self._unreadable), self._unreadable)
        self._check_classes(root)
        repeated = [places for places in self._places.values() if len(places) > 1]
        leaks = [places for places in repeated if len({self._split_of[label] for label, _ in places}) > 1]
        if leaks:
            raise DataError(
                f"{root}: {_images_are(leaks)} in two splits, so that classes which count as new have been seen: "
                f"{self._pairs(leaks)}; keep one of each"
            )
        return {
            "unreadable": {"count": len(self._unreadable), "first": self._unreadable[:_SHOWN]},
            "notes": list(self._notes(repeated)),
        }

    def _check_classes(self, root: Path) -> None:
        have = {label for places in self._places.values() for label, _ in places}
        for label, name in enumerate(self._folder.classes):
            if label not in have:
                raise DataError(f"{root}: class {name!r} has no image that can be read; take its folder out")

    def _notes(self, repeated: list[list[_Place]]) -> Iterator[str]:
        across = [places for places in repeated if len({label for label, _ in places}) > 1]
        if across:
            yield f"{_images_are(across)} in two classes: {self._pairs(across)}; one label of each must be wrong"
        within = [places for places in repeated if places not in across]
        if within:
            yield f"{_images_are(within)} twice in a class, where one may be support and query: {self._pairs(within)}"

    def _pairs(self, repeated: list[list[_Place]]) -> str:
        return _some([self._pair(places) for places in repeated[:_SHOWN]], len(repeated))

    def _pair(self, places: list[_Place]) -> str:
        """`cat/1.png = dog/7.png`, of different splits or classes where there are some; the split where they differ."""
        first = places[0]
        other = max(places[1:], key=lambda p: (self._split_of[p[0]] != self._split_of[first[0]], p[0] != first[0]))
        ends = [(self._split_of[label], inside) for label, inside in (first, other)]
        if ends[0][0] == ends[1][0]:
            return f"{first[1]} = {other[1]}"
        return " = ".join(f"{inside} ({split})" for split, inside in ends)


def _images_are(repeated: Sequence[list[_Place]]) -> str:
    return "1 image is" if len(repeated) == 1 else f"{len(repeated):,} images are"


def _some(items: Sequence[str], count: int) -> str:
    """The first items, and how many more there are."""
    more = f" and {count - _SHOWN:,} more" if count > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
