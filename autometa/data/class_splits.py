"""Which split each class of an image folder is in: decided by a hash of its name, and written down at first use.

A class's place is the SHA-256 of seed and name, read as a number in [0, 1). At first use the classes are ranked by it.
The first are train, the next val, the last test, each with its quota, so that small folders can be split at all.
That is written down. A class that is added later goes where its own place says (train below .6, val below .8). A
class that is removed keeps its entry. So neither moves another class.

Where: one JSON file per folder and seed, in `splits` of `AUTOMETA_HOME` or of the user's data folder. The folder
of images may be read-only and is not littered; the cache may be deleted. For several machines, `AUTOMETA_HOME`
can be a folder that they share.

A folder is found again by its path. One that was moved or renamed takes over the record whose folder is gone and that
knows at least half of its classes and no more than as many others. A folder of fewer classes is another one, which
needs enough of each split itself. An untouched copy takes over the record of the original. Names decide, not contents,
since images are added and mended while a class stays what it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from autometa.data.dataset import SPLITS
from autometa.errors import DataError
from autometa.home import home

_FORMAT = "autometa-split/1"
_ENDS = {"train": 0.6, "val": 0.8, "test": 1.0}
_LEAST_CLASSES = 6


@dataclass(frozen=True)
class _Record:
    """What was decided for one folder: the split of each class it ever had."""

    folder: str
    seed: int
    classes: Mapping[str, str]


def root() -> Path:
    """Where splits are written down."""
    return home() / "splits"


def assigned(folder: Path, names: Sequence[str], seed: int) -> dict[str, str]:
    """The split of each class by its name, as written down, or as it would be; writes nothing.

    Raises:
        DataError: fewer than six classes, or a record that is damaged.
    """
    if len(names) < _LEAST_CLASSES:
        raise DataError(
            f"{folder}: {len(names)} classes; at least {_LEAST_CLASSES} are needed to split them into "
            "train, val and test"
        )
    known = _known(folder, names, seed)
    new = sorted((name for name in names if name not in known), key=lambda name: _place(name, seed))
    found = {name: known[name] for name in names if name in known}
    if 2 * len(new) <= len(names):
        return found | {name: _by_place(_place(name, seed)) for name in new}
    return found | _by_rank(new, found, len(names))


def keep(folder: Path, seed: int, classes: Mapping[str, str]) -> None:
    """Write the splits of these classes down, beside what is known of others.

    Raises:
        DataError: the place cannot be written to, or another process has just decided otherwise.
    """
    file = _file(folder, seed)
    before = _read(file)
    if before and all(before.classes.get(name) == split for name, split in classes.items()):
        return
    try:
        root().mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root() / ".lock"):
            before = _read(file)
            together = {**classes, **(before.classes if before else _inherited(folder, list(classes), seed))}
            if any(together[name] != split for name, split in classes.items()):
                raise DataError(f"{folder}: its classes were split by another process meanwhile; try again")
            _write(file, _Record(str(folder), seed, together))
    except OSError as error:
        raise DataError(
            f"{root()}: the split of {folder} cannot be written down: {error.strerror}; set AUTOMETA_HOME"
        ) from None


def _place(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _by_place(place: float) -> str:
    return next(split for split, end in _ENDS.items() if place < end)


def _by_rank(ranked: Sequence[str], found: Mapping[str, str], classes: int) -> dict[str, str]:
    """The first classes by rank are train, the last fill up what val and test have to a fifth each, two at least."""
    held_out = max(2, round(classes * 0.2))
    missing = {split: max(0, held_out - list(found.values()).count(split)) for split in ("val", "test")}
    train = len(ranked) - sum(missing.values())
    return dict(zip(ranked, ["train"] * train + ["val"] * missing["val"] + ["test"] * missing["test"], strict=True))


def _known(folder: Path, names: Sequence[str], seed: int) -> Mapping[str, str]:
    record = _read(_file(folder, seed))
    return record.classes if record else _inherited(folder, names, seed)


def _inherited(folder: Path, names: Sequence[str], seed: int) -> Mapping[str, str]:
    """The classes of the record that this folder had under another path, if it had one."""
    wanted = set(names)
    best: Mapping[str, str] = {}
    for record in _records(seed):
        is_of_this = record.classes.keys() == wanted or not Path(record.folder).is_dir()
        shared = len(wanted & record.classes.keys())
        is_alike = 2 * shared >= max(len(wanted), len(record.classes))
        if is_of_this and is_alike and shared > len(wanted & best.keys()):
            best = record.classes
    return best


def _records(seed: int) -> Iterator[_Record]:
    for file in sorted(root().glob("*.json")):
        with suppress(DataError):  # a damaged record of another folder is none of this one's business
            record = _read(file)
            if record and record.seed == seed:
                yield record


def _file(folder: Path, seed: int) -> Path:
    digest = hashlib.sha256(f"{seed}\n{folder}".encode()).hexdigest()[:16]
    return root() / f"{folder.name[:40]}-{digest}.json"


def _read(file: Path) -> _Record | None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r}, not {_FORMAT!r}")
        classes = {str(name): SPLITS[SPLITS.index(split)] for name, split in data["classes"].items()}
        record = _Record(str(data["folder"]), int(data["seed"]), classes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: this record of a folder's splits is damaged ({error}); mend or remove it") from None
    return record


def _write(file: Path, record: _Record) -> None:
    """In one step, and on the disk before it counts."""
    data = {"format": _FORMAT, **vars(record), "classes": dict(sorted(record.classes.items()))}
    handle, draft = tempfile.mkstemp(prefix=".", suffix=".draft", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(data, stream, indent=1, ensure_ascii=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
