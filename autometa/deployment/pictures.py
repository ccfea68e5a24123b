"""Images as they come, files or arrays, as a model takes them: square, of its size and channels, in bytes.

Files are decoded as those of an image folder are (`data/picture.py`). It does not know what is learned from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autometa.data import image_folder, picture
from autometa.errors import DataError
from autometa.trial.model_files import ModelInput

_SHOWN = 5
_CHANNELS = (1, 3, 4)


class Reader:
    """Reads images for one model, and remembers which files could not be read.

    Args:
        skip_unreadable: leave such files out, in place of an error.
    """

    def __init__(self, taken: ModelInput, *, skip_unreadable: bool = False) -> None:
        self._taken = taken
        self._skip_unreadable = skip_unreadable
        self.unreadable: list[str] = []

    def files(self, files: Sequence[Path]) -> tuple[np.ndarray, list[int]]:
        """uint8 [M, C, H, W] of those that can be read, and their places in the list.

        Raises:
            DataError: files cannot be read: how many, and the first five with reasons.
        """
        images, places, reasons = [], [], []
        for place, file in enumerate(files):
            try:
                images.append(self._bright(picture.square(file, self._taken.size, grey=self._taken.channels == 1)))
                places.append(place)
            except picture.UnreadableError as error:
                reasons.append(f"{image_folder.shown(str(file))} ({error})")
        if reasons and not self._skip_unreadable:
            raise DataError(f"{_count(len(reasons))} cannot be read: {_some(reasons)}; mend them or --skip-unreadable")
        self.unreadable += reasons
        return self._stacked(images), places

    def arrays(self, images: Any) -> np.ndarray:
        """uint8 [M, C, H, W] of arrays [height, width] or [height, width, channels], whatever their sizes.

        Raises:
            ValueError: they are no images: of another shape, or floats that are not in [0, 1].
        """
        made = [picture.square_of(_pixels(image), self._taken.size, grey=self._taken.channels == 1) for image in images]
        return self._stacked([self._bright(image) for image in made])

    def _bright(self, image: np.ndarray) -> np.ndarray:
        return 255 - image if self._taken.is_inverted else image

    def _stacked(self, images: Sequence[np.ndarray]) -> np.ndarray:
        taken = self._taken
        return np.stack(images) if images else np.empty((0, taken.channels, taken.size, taken.size), np.uint8)


def support_in(folder: Path) -> image_folder.ImageFolder:
    """The classes of a support folder and their files, one folder per class; raises `DataError` as `find` does."""
    return image_folder.find(folder)


def queries_in(places: Iterable[Path]) -> list[Path]:
    """The image files among these and in these folders, in their order.

    Raises:
        DataError: there is none; or a place is not there.
    """
    places = list(places)
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += image_folder.images_in(place)
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"{image_folder.shown(str(place))}: no such file or folder")
    if not found:
        where = image_folder.shown(", ".join(map(str, places)))
        endings = ", ".join(sorted(image_folder.IMAGE_ENDINGS))
        raise DataError(f"{where}: no images to name there; expected files ending in {endings}")
    return found


def _pixels(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS) or 0 in pixels.shape:
        raise ValueError(
            f"an image is an array of [height, width] or [height, width, channels] with {_CHANNELS} channels, "
            f"but got {list(pixels.shape)}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating) or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"pixels are bytes (uint8), or floats in [0, 1], but got {pixels.dtype} beyond that")
    return pixels


def _count(files: int) -> str:
    return "1 image" if files == 1 else f"{files:,} images"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN:,} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
