"""The cache: a data set decoded once, then memory-mapped by every process that uses it.

An entry is built in a folder of its own and renamed when it is whole, under a lock: two processes at once
are safe, and a killed build leaves nothing that is used. It does not know where images come from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import platformdirs
from rich.console import Console
from rich.progress import track

from autometa.data.dataset import SPLITS
from autometa.data.readers import Decoded
from autometa.errors import DataError
from autometa.records import R

T = TypeVar("T")

FORMAT = 2  # to be raised when the same files would be decoded to other images or facts


def root() -> Path:
    """Where decoded data sets and downloads are kept: `AUTOMETA_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("AUTOMETA_CACHE") or platformdirs.user_cache_dir("autometa"))


def entry(key: str) -> Path:
    """The folder of one decoded data set; it exists once it is whole."""
    return root() / "datasets" / f"{key}-v{FORMAT}"


@dataclass(frozen=True)
class Expected:
    """What the decoded images must be, as far as it is known: how many, and their SHA-256."""

    images: int | None = None
    content: str | None = None


def ensure(key: str, decode: Callable[[], Decoded], *, title: str, expected: Expected) -> Path:
    """The folder of a decoded data set, decoding it if it is not there.

    Raises:
        DataError: the source is damaged, its content is not what it should be, or the disk is full.
    """
    folder = entry(key)
    if folder.is_dir():
        return folder
    with writing_to(folder.parent), filelock.FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _build(folder, decode(), title, expected)
    return folder


def remembered(key: str, compute: Callable[[], R], kind: type[R]) -> R:
    """A small record computed once; one on disk that is damaged is computed again."""
    file = root() / "facts" / f"{key}-v{FORMAT}.json"
    with suppress(OSError, ValueError):
        return kind.model_validate_json(file.read_text())
    found = compute()
    with writing_to(file.parent):
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(found.model_dump_json())
        os.replace(draft, file)
    return found


def shown(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """The items, with a bar on a terminal."""
    console = Console(stderr=True)
    hidden = not sys.stderr.isatty()
    return track(items, description=description, total=total, console=console, transient=True, disable=hidden)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Make the folder; a disk that is full or may not be written to is one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise DataError(f"cannot write to the cache {folder}: {error.strerror}; set AUTOMETA_CACHE") from None


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Images (mapped read-only), labels and facts of an entry; raises `DataError` when it is damaged."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        facts: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged ({error}); delete it, and it is made again") from None
    return images, labels, facts


def _build(folder: Path, decoded: Decoded, title: str, expected: Expected) -> None:
    if expected.images not in (None, decoded.count):
        raise DataError(f"{title}: the archive has {decoded.count:,} images, the published one has {expected.images:,}")
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        images, labels = _decode(draft, decoded, title)
        findings = decoded.findings()
        if len(labels) < decoded.count:
            images = _shortened(draft, images[: len(labels)])
        digest = _digest(images, labels)
        if expected.content not in (None, digest):
            raise DataError(f"{title}: the decoded images are not the published ones (SHA-256 {digest[:16]}…)")
        facts = _facts(images, labels, decoded) | {**findings, "content": digest}
        (draft / "meta.json").write_text(json.dumps(facts))
        os.chmod(draft, 0o755)
        os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _decode(draft: Path, decoded: Decoded, title: str) -> tuple[np.ndarray, np.ndarray]:
    shape = (decoded.count, *decoded.shape)
    images = np.lib.format.open_memmap(draft / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    # A map is written to disk late, where a full disk is a signal and not an error: claim the space now.
    with (draft / "images.npy").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, (draft / "images.npy").stat().st_size)
    labels = np.empty(decoded.count, np.int64)
    position = 0
    for image, label in shown(decoded.images, f"decoding {title}", decoded.count):
        if image.shape != decoded.shape:
            raise DataError(f"{title}: image {position} is {image.shape}, the others are {decoded.shape}")
        images[position], labels[position] = image, label
        position += 1
    labels = labels[:position].copy()
    np.save(draft / "labels.npy", labels)
    images.flush()
    return images, labels


def _shortened(draft: Path, images: np.ndarray) -> np.ndarray:
    """The images that were read in a file of their own length, since fewer were read than there are files."""
    short = np.lib.format.open_memmap(draft / "short.npy", mode="w+", dtype=np.uint8, shape=images.shape)
    for start in range(0, len(images), 4096):
        short[start : start + 4096] = images[start : start + 4096]
    short.flush()
    os.replace(draft / "short.npy", draft / "images.npy")
    return short


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data.cast("B"))
    digest.update(labels.data.cast("B"))
    return digest.hexdigest()


def _facts(images: np.ndarray, labels: np.ndarray, decoded: Decoded) -> dict[str, Any]:
    mean, std = _statistics(images, np.isin(labels, decoded.splits["train"]))
    return {
        "class_names": list(decoded.class_names),
        "splits": {split: decoded.splits[split] for split in SPLITS},
        "mean": mean,
        "std": std,
    }


def _statistics(images: np.ndarray, chosen: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel in [0, 1], of the chosen images only."""
    total = np.zeros(images.shape[1])
    squares = np.zeros(images.shape[1])
    positions = np.flatnonzero(chosen)
    for part in np.array_split(positions, max(1, len(positions) // 4096)):
        scaled = images[part].astype(np.float32) / 255
        total += scaled.sum(axis=(0, 2, 3), dtype=np.float64)
        squares += np.square(scaled).sum(axis=(0, 2, 3), dtype=np.float64)
    count = len(positions) * images.shape[2] * images.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return mean.tolist(), np.maximum(std, 1e-3).tolist()
