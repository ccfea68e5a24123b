"""Find the image files of a folder data set: one folder a class, links followed, names in any encoding.

`train/val/test` folders above the classes are kept as the splits. It does not open an image.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autometa.data.dataset import SPLITS
from autometa.errors import DataError

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_Folder = tuple[int, int]  # device and inode: the same folder under every name


@dataclass(frozen=True)
class ImageFolder:
    """Image files by class, both in a fixed order. `given` are the classes by split where folders say so."""

    root: Path
    classes: Mapping[str, tuple[Path, ...]]
    given: Mapping[str, Sequence[str]] | None

    @property
    def files(self) -> list[tuple[int, Path]]:
        """(class id, file), class by class; ids count the classes in the order of their names."""
        return [(label, file) for label, files in enumerate(self.classes.values()) for file in files]

    def inside(self, file: Path) -> str:
        """A file's path below the root, as it may be shown."""
        return shown(os.path.relpath(file, self.root))

    def state(self) -> str:
        """A hash that changes when a file is added, removed, renamed, edited, or made readable."""
        state = hashlib.sha256()
        for _, file in self.files:
            try:
                facts = os.stat(file)
                known = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_mode}"
            except OSError as error:  # a link to nothing
                known = str(error.strerror)
            state.update(os.fsencode(os.path.relpath(file, self.root)) + f" {known}\n".encode())
        return state.hexdigest()[:16]


def shown(name: str) -> str:
    r"""A file name for people and for JSON: bytes that are not UTF-8, and control characters, as `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").translate(_CONTROL)


def find(root: Path) -> ImageFolder:
    """The classes and files below a folder.

    Links are followed, and no folder is entered twice within one class, so that circles end. Two links to one
    folder are two classes here; that they hold the same images is found when those are decoded.

    Raises:
        DataError: no such folder, no images, one class only, a class in two given splits, a folder that cannot be
            read, a class that links to nothing, or a path of `root` that no study could write down.
    """
    if not root.is_dir():
        raise DataError(f"{shown(str(root))}: no such folder")
    root = root.resolve()
    if shown(str(root)) != str(root):
        raise DataError(f"{shown(str(root))}: this path is not UTF-8 text in one line; rename the folder")
    try:
        return _found(root)
    except OSError as error:
        raise DataError(f"{shown(str(error.filename))}: cannot be read: {error.strerror}") from None


def images_in(folder: Path) -> tuple[Path, ...]:
    """Image files in a folder and those below it, in the order of their names; links are followed.

    Raises:
        DataError: no such folder, or one that cannot be read.
    """
    try:
        return tuple(_images(folder, set()))
    except OSError as error:
        raise DataError(f"{shown(str(error.filename or folder))}: cannot be read: {error.strerror}") from None


def _found(root: Path) -> ImageFolder:
    has_splits = all((root / split).is_dir() for split in SPLITS)
    parts = {split: _classes(root / split) for split in SPLITS} if has_splits else {"": _classes(root)}
    names = sorted({name for classes in parts.values() for name in classes})
    if len(names) == 1:
        raise DataError(f"{root}: one class only ({names[0]!r}); few-shot learning needs one folder for each class")
    for one, other in itertools.combinations(parts, 2):
        both = sorted(parts[one].keys() & parts[other].keys())
        if both:
            raise DataError(f"{root}: class {both[0]!r} is in {one} and in {other}; a class may be in one split only")
    everything = {name: files for classes in parts.values() for name, files in classes.items()}
    given = {split: tuple(classes) for split, classes in parts.items()} if has_splits else None
    return ImageFolder(root, {name: everything[name] for name in names}, given)


def _classes(root: Path) -> dict[str, tuple[Path, ...]]:
    classes: dict[str, tuple[Path, ...]] = {}
    for entry in _entries(root):
        path, name = Path(entry.path), shown(entry.name)
        if entry.is_symlink() and not path.exists():
            raise DataError(f"{root}: {name} is a link to nothing; mend or remove it")
        files = tuple(_images(path, {_identity(root)})) if path.is_dir() else ()
        if files and name in classes:
            raise DataError(f"{root}: two class folders are both shown as {name!r}; rename one")
        if files:
            classes[name] = files
    if not classes:
        raise DataError(f"{root}: no images in class folders; expected {root}/<class>/<image>")
    return classes


def _images(folder: Path, entered: set[_Folder]) -> Iterator[Path]:
    """Image files in a folder and those below it; adds to the folders that were entered."""
    identity = _identity(folder)
    if identity in entered:
        return
    entered.add(identity)
    for entry in _entries(folder):
        path = Path(entry.path)
        if path.is_dir() if entry.is_symlink() else entry.is_dir():  # a look at the disk for links alone
            yield from _images(path, entered)
        elif path.suffix.lower() in IMAGE_ENDINGS and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
            yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name, without what is hidden."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _identity(folder: Path) -> _Folder:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino
