"""Features of a data set's images, each computed once and kept in the cache for every process that asks.

A table is one file of rows, mapped by all processes, and a byte for each row that says whether it is there. Rows are
written before their bytes, so a process that is killed leaves nothing wrong. Whoever computes rows holds the lock of
their part of the table: two workers never compute one row twice, and share the work on what both want. A row takes
space on the disk when it is written. The table does not know what the features mean.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import numpy as np

from autometa.data import cache
from autometa.errors import DataError, OutOfTimeError

FORMAT = 3  # to be raised when the same network would give the same image another row
# Parts of a table, each with a lock: every eighth row, so that a split's images are in all of them. More would let
# more workers help, with smaller batches.
_PARTS = 8
_BATCH = 8  # images; more do not stay in a core's cache (of 1, 2, 4, 8, 16 and 32 the quickest at 128 pixels)
_SECONDS_BETWEEN_LOOKS = 0.05

Compute = Callable[[np.ndarray], np.ndarray]


class FeatureTable:
    """Rows [images, width] in float16.

    Args:
        key: names the images and the network; the same key has the same rows for ever.
        images: uint8 [images, C, H, W]; row r is of image r.
        width: numbers of a row.
        compute: rows [M, width] of images [M, C, H, W].

    Attributes:
        width: as above.
        seconds: that this process has spent on rows which were not there.
        stop: asked after every few rows whether there is time for more.

    Raises:
        DataError: the cache cannot be written to, or the table in it is damaged.
        OutOfTimeError: `stop` said so; rows that were computed are kept.
    """

    def __init__(self, key: str, images: np.ndarray, width: int, compute: Compute) -> None:
        self.width, self.seconds = width, 0.0
        self.stop: Callable[[], bool] = lambda: False
        self._images, self._compute = images, compute
        self._key, self._count = key, len(images)
        self._folder = _ensure(key, self._count, width)
        try:
            self._rows = np.load(self._folder / "rows.npy", mmap_mode="r+", allow_pickle=False)
            self._is_there = np.load(self._folder / "is_there.npy", mmap_mode="r+", allow_pickle=False)
            is_whole = self._rows.shape == (self._count, width) and self._is_there.shape == (self._count,)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self._folder} is damaged ({error}); delete it, and it is made again") from None
        if not is_whole:
            raise DataError(f"{self._folder} is damaged (its shape is another one); delete it, and it is made again")

    def __getitem__(self, wanted: np.ndarray) -> np.ndarray:
        """The rows of these numbers [M], float16 [M, width]; those that are not there are computed."""
        missing = self._missing(np.unique(wanted))
        if len(missing):
            started = time.perf_counter()
            for _ in cache.shown(self._computed(missing), f"features {self._key}", -(-len(missing) // _BATCH)):
                pass
            self.seconds += time.perf_counter() - started
        return np.asarray(self._rows[wanted])

    @property
    def known(self) -> int:
        """How many rows are there."""
        return int(self._is_there.sum())

    def rows_missing(self, wanted: np.ndarray) -> int:
        """How many of these rows would have to be computed."""
        return len(self._missing(np.unique(wanted)))

    def _missing(self, wanted: np.ndarray) -> np.ndarray:
        return wanted[self._is_there[wanted] == 0]

    def _computed(self, missing: np.ndarray) -> Iterator[None]:
        """Compute rows, or wait until others have; yields after each batch."""
        while len(missing):
            before = len(missing)
            for part in np.unique(missing % _PARTS):
                lock = filelock.FileLock(self._folder / f"part-{part}.lock")
                try:
                    with lock.acquire(timeout=0):
                        yield from self._fill(missing[missing % _PARTS == part])
                except filelock.Timeout:  # another process is at it
                    continue
            missing = self._missing(missing)
            if len(missing) == before:
                self._check_time()
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _fill(self, wanted: np.ndarray) -> Iterator[None]:
        missing = self._missing(wanted)
        for start in range(0, len(missing), _BATCH):
            numbers = missing[start : start + _BATCH]
            found = self._compute(np.ascontiguousarray(self._images[numbers]))
            if not np.isfinite(found).all():
                raise DataError(f"features {self._key} are not finite; the weights may be damaged")
            limit = float(np.finfo(np.float16).max)
            self._claim(numbers)
            self._rows[numbers] = np.clip(found, -limit, limit)
            self._is_there[numbers] = 1
            self._check_time()
            yield

    def _claim(self, numbers: np.ndarray) -> None:
        """Have space on the disk for these rows: a map is written late, where a full disk is a signal and no error."""
        first, size = self._rows.offset, self._rows.strides[0]
        with cache.writing_to(self._folder), (self._folder / "rows.npy").open("r+b") as file:
            for number in numbers.tolist():
                os.posix_fallocate(file.fileno(), first + number * size, size)

    def _check_time(self) -> None:
        if self.stop():
            raise OutOfTimeError(f"features {self._key} were stopped, since the time is over")


def _ensure(key: str, count: int, width: int) -> Path:
    """The folder of a table, made with empty rows if it is not there."""
    folder = cache.root() / "features" / f"{key}-v{FORMAT}"
    if folder.is_dir():
        return folder
    with cache.writing_to(folder.parent), filelock.FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _make(folder, count, width)
    return folder


def _make(folder: Path, count: int, width: int) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, kind, shape in (("rows", np.float16, (count, width)), ("is_there", np.uint8, (count,))):
            path = draft / f"{name}.npy"
            np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape).flush()
        with (draft / "is_there.npy").open("r+b") as file:  # rows get their space when they are written
            os.posix_fallocate(file.fileno(), 0, (draft / "is_there.npy").stat().st_size)
        os.chmod(draft, 0o755)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
