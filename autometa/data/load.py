"""From a name to a data set: the catalog says what it is, the archive is found or fetched, the cache decodes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autometa.data import cache, catalog, download, readers
from autometa.data.dataset import SPLITS, FewShotDataset
from autometa.errors import DataError


@dataclass(frozen=True)
class DatasetStatus:
    """What there is of one data set. `image` is such as `3×32×32`."""

    name: str
    title: str
    classes: Mapping[str, int]
    images: int
    image: str
    on_disk: str
    licence: str


def load_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> FewShotDataset:
    """Load a data set by its name in the catalog, or a folder of images (one folder a class).

    Args:
        data_root: where archives lie; else `AUTOMETA_DATA`, else they are downloaded.
        image_size: pixels a side; only Omniglot and image folders can be had in another than their own.
        seed: splits the classes of a folder that has no train/val/test folders.

    Raises:
        DataError: unknown name, damaged or missing files, too few classes.
    """
    if catalog.is_folder(name):
        return _load_folder(Path(name), image_size or catalog.default_image_size(name), seed)
    source = catalog.source(name)
    size = image_size or source.image_size
    if size != source.image_size and not name.startswith("omniglot"):
        raise DataError(f"--image-size {size}: {name} has images of {source.image_size} × {source.image_size}")
    content = source.content if size == source.image_size else None
    folder = cache.ensure(
        f"{name}-{size}",
        lambda: source.read(_archives(name, source, data_root), size),
        title=name,
        expected=cache.Expected(source.images, content),
    )
    return _open(folder, name, source.title, source.licence, source.citation)


def describe_datasets(data_root: str | Path | None = None) -> list[DatasetStatus]:
    """Every data set of the catalog and what is on disk of it; decodes nothing."""
    return [
        DatasetStatus(
            name=name,
            title=source.title,
            classes=source.classes,
            images=source.images,
            image=f"{source.channels}×{source.image_size}×{source.image_size}",
            on_disk=_on_disk(name, source, data_root),
            licence=source.licence,
        )
        for name, source in catalog.SOURCES.items()
    ]


def _load_folder(root: Path, size: int, seed: int) -> FewShotDataset:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    root = root.resolve()
    state = hashlib.sha256(f"{size} {seed}".encode())
    for file in readers.folder_files(root):
        facts = file.stat()
        state.update(f"{file.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    key = f"{root.name}-{size}-{state.hexdigest()[:16]}"
    folder = cache.ensure(
        key, lambda: readers.read_folder(root, size, seed), title=str(root), expected=cache.Expected()
    )
    return _open(folder, root.name, str(root), "yours", "")


def _open(folder: Path, name: str, title: str, licence: str, citation: str) -> FewShotDataset:
    images, labels, facts = cache.read(folder)
    splits = {split: np.asarray(facts["splits"][split], np.int64) for split in SPLITS}
    state = hashlib.sha256(f"{facts['content']} {facts['splits']}".encode())
    return FewShotDataset(
        name=name,
        images=images,
        labels=labels,
        class_names=tuple(facts["class_names"]),
        splits=splits,
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        fingerprint=state.hexdigest()[:16],
        title=title,
        licence=licence,
        citation=citation,
    )


def _roots(data_root: str | Path | None) -> list[Path]:
    given = [data_root, os.environ.get("AUTOMETA_DATA"), cache.root() / "downloads"]
    return [Path(root) for root in given if root]


def _archives(name: str, source: catalog.Source, data_root: str | Path | None) -> list[Path]:
    found = []
    for archive in source.archives:
        path = download.find(archive, _roots(data_root), name)
        found.append(path or download.fetch(archive, cache.root() / "downloads" / name))
    return found


def _on_disk(name: str, source: catalog.Source, data_root: str | Path | None) -> str:
    if not source.archives:
        return "embedded"
    decoded = cache.entry(f"{name}-{source.image_size}")
    if decoded.is_dir():
        return f"decoded, {_megabytes([decoded / 'images.npy'])}"
    paths = [download.find(archive, _roots(data_root), name) for archive in source.archives]
    found = [path for path in paths if path]
    if len(found) < len(paths):
        return "no, fetched on first use"
    return f"archive, {_megabytes(found)}"


def _megabytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"
