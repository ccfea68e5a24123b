"""From a name to a data set: the catalog says what it is, the archive is found or fetched, the cache decodes it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autometa.data import cache, catalog, class_splits, download, folder_images, image_folder
from autometa.data.dataset import SPLITS, FewShotDataset
from autometa.errors import DataError

_NOT_THERE = "no"


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
    skip_unreadable: bool = False,
) -> FewShotDataset:
    """Load a data set by its name in the catalog, or a folder of images (one folder a class).

    Args:
        data_root: where archives lie; else `AUTOMETA_DATA`, else they are downloaded. Digits and Omniglot need none.
        image_size: pixels a side; only Omniglot and image folders can be had in another than their own. A folder's
            own is that of its median image (`folder_images.look`).
        seed: splits the classes of a folder that has no train/val/test folders (`class_splits`).
        skip_unreadable: leave out files of a folder that cannot be read, and count them, in place of an error.

    Raises:
        DataError: unknown name, damaged or missing files, too few classes, an image in two splits of a folder.
    """
    if catalog.is_folder(name):
        return _load_folder(Path(name), image_size, seed, skip_unreadable)
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


def is_at_hand(name: str, data_root: str | Path | None = None) -> bool:
    """Whether a data set can be loaded without a download."""
    if catalog.is_folder(name):
        return Path(name).is_dir()
    return not _on_disk(name, catalog.source(name), data_root).startswith(_NOT_THERE)


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


def _load_folder(root: Path, image_size: int | None, seed: int, skip_unreadable: bool) -> FewShotDataset:
    found = image_folder.find(root)
    root, state = found.root, found.state()
    look = cache.remembered(f"{root.name}-{state}", lambda: _look(found), folder_images.Look)
    size = image_size or look.side
    split_of = {} if found.given else class_splits.assigned(root, list(found.classes), seed)
    splits = found.given or {split: [name for name in found.classes if split_of[name] == split] for split in SPLITS}
    chosen = hashlib.sha256(json.dumps([state, splits], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache.ensure(
        f"{root.name}-{size}-{chosen}",
        lambda: folder_images.read(found, splits, size=size, grey=look.grey, skip_unreadable=skip_unreadable),
        title=str(root),
        expected=cache.Expected(),
    )
    data = _open(folder, root.name, str(root), "yours", "")
    if not skip_unreadable:  # what is in the cache may have been read with files left out
        folder_images.refuse_unreadable(root, data.unreadable, cache.read(folder)[2]["unreadable"]["first"])
    if split_of:
        class_splits.keep(root, seed, split_of)
    return data


def _look(found: image_folder.ImageFolder) -> folder_images.Look:
    files = [file for _, file in found.files]
    return folder_images.look(cache.shown(files, f"looking at {found.root}", len(files)))


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
        content=facts["content"][:16],
        title=title,
        licence=licence,
        citation=citation,
        unreadable=facts.get("unreadable", {}).get("count", 0),
        notes=tuple(f"{title}: {note}" for note in facts.get("notes", ())),
    )


def _roots(data_root: str | Path | None) -> list[Path]:
    given = [data_root, os.environ.get("AUTOMETA_DATA"), cache.root() / "downloads"]
    return [Path(root) for root in given if root]


def _archives(name: str, source: catalog.Source, data_root: str | Path | None) -> list[Path]:
    paths = [download.find(archive, _roots(data_root), name) for archive in source.archives]
    if source.is_embedded and None in paths:
        return []
    folder = cache.root() / "downloads" / name
    return [path or download.fetch(archive, folder) for archive, path in zip(source.archives, paths, strict=True)]


def _on_disk(name: str, source: catalog.Source, data_root: str | Path | None) -> str:
    if source.is_embedded:
        return "embedded"
    decoded = cache.entry(f"{name}-{source.image_size}")
    if decoded.is_dir():
        return f"decoded, {_megabytes([decoded / 'images.npy'])}"
    paths = [download.find(archive, _roots(data_root), name) for archive in source.archives]
    found = [path for path in paths if path]
    if len(found) < len(paths):
        return f"{_NOT_THERE}, fetched on first use"
    return f"archive, {_megabytes(found)}"


def _megabytes(files: list[Path]) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"
