"""Read public layouts: class folders in a zip, Omniglot's zips, IDX files, scikit-learn's digits.

A reader yields decoded images one by one and says which class is in which split. Zip members are read in
memory and never written by their own path. It does not know about caches or downloads.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from autometa.data import packed_omniglot
from autometa.data.dataset import SPLITS
from autometa.data.image_folder import IMAGE_ENDINGS
from autometa.errors import DataError

_FOUR_TURNS = 4
_CIFAR10_BYTES = 1 + 3 * 32 * 32  # label, then red, green and blue planes
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Decoded:
    """A data set being read. `images` yields (uint8 [C, H, W], class id), at most `count` of them, once.

    `findings` says what was found meanwhile, as JSON-ready facts to be kept; it may raise `DataError`.
    """

    count: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    splits: dict[str, list[int]]
    images: Iterator[tuple[np.ndarray, int]]
    findings: Callable[[], Mapping[str, Any]] = dict


def read_digits(_files: Sequence[Path], _size: int) -> Decoded:
    """scikit-learn's 1,797 real digits, 8 × 8, values 0 … 16; a class is a digit under one of four turns.

    Digits that look like themselves or each other when turned (0, 1, 2, 6, 8, 9) are all in train, so the
    classes of val (3, 5) and test (4, 7) differ in more than their label.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return _turned_digits(pixels, bunch.target)


def read_mnist(files: Sequence[Path], _size: int) -> Decoded:
    """MNIST's IDX files, 28 × 28; classes and splits as in `read_digits`."""
    pixels = np.concatenate([_idx(file) for file in files if "images" in file.name])[:, None]
    labels = np.concatenate([_idx(file) for file in files if "labels" in file.name])
    return _turned_digits(pixels, labels)


def read_cifar10(files: Sequence[Path], _size: int) -> Decoded:
    """CIFAR-10 in its binary form, all 60,000 images; its ten classes are for pre-training, so all are train.

    None of them is a class of CIFAR-100 (Krizhevsky 2009 chose them apart).
    """
    records = np.concatenate([part.reshape(-1, _CIFAR10_BYTES) for part in _tar_members(files[0], ".bin")])
    images = zip(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(int).tolist(), strict=True)
    splits = {"train": list(range(len(_CIFAR10_CLASSES))), "val": [], "test": []}
    return Decoded(len(records), (3, 32, 32), _CIFAR10_CLASSES, splits, images)


def read_cifar_fs(files: Sequence[Path], _size: int) -> Decoded:
    """CIFAR-FS: 64/16/20 classes of CIFAR-100 by the split files that travel in the archive."""
    names = _cifar_split_files(files[0])
    return _class_zip(files[0], names)


def read_fc100(files: Sequence[Path], _size: int) -> Decoded:
    """FC100: the images of CIFAR-100 split by superclass, 60/20/20 classes (Oreshkin et al. 2018)."""
    return _class_zip(files[0], _split_list("fc100.json"))


def read_omniglot(files: Sequence[Path], size: int, *, turns: int = _FOUR_TURNS) -> Decoded:
    """Omniglot by the characters of Vinyals et al. (2016); ink is bright, 105 × 105 resized to `size`.

    With four `turns` each character under each quarter turn is a class of its own, in the same split. Without
    `files` the drawings are those that come with autometa, which are the same.
    """
    labels, drawings = zipped_omniglot(files) if files else packed_omniglot.read()
    characters = sorted(set(labels))
    split_of = _vinyals(characters)
    ids = {name: number for number, name in enumerate(characters)}
    names = tuple(f"{c}@{90 * turn}" if turns > 1 else c for turn in range(turns) for c in characters)
    splits = {
        split: [ids[c] + turn * len(ids) for turn in range(turns) for c in characters if split_of[c] == split]
        for split in SPLITS
    }

    def images() -> Iterator[tuple[np.ndarray, int]]:
        for character, drawing in zip(labels, drawings, strict=True):
            small = np.asarray(drawing.resize((size, size), Image.Resampling.LANCZOS))[None]
            # As `np.rot90` has them, which takes longer than a drawing is read in.
            across = small.swapaxes(1, 2)
            turned = (small, across[:, ::-1], small[:, ::-1, ::-1], across[:, :, ::-1])
            for turn, image in enumerate(turned[:turns]):
                yield image, ids[character] + turn * len(ids)

    return Decoded(len(labels) * turns, (1, size, size), names, splits, images())


def zipped_omniglot(files: Sequence[Path]) -> tuple[list[str], Iterator[Image.Image]]:
    """Omniglot's zips in the form of `packed_omniglot.read`."""
    found = sorted(itertools.chain.from_iterable(_omniglot_members(file) for file in files))
    paper = (_open(_member(archive, member), member) for _, archive, member in found)
    return [character for character, _, _ in found], (ImageChops.invert(image.convert("L")) for image in paper)


def _turned_digits(pixels: np.ndarray, digits: np.ndarray) -> Decoded:
    """[N, 1, H, W] and the digit of each; class id = 4 · digit + turns."""
    split_digits = {"train": (0, 1, 2, 6, 8, 9), "val": (3, 5), "test": (4, 7)}
    splits = {s: [4 * d + turn for d in ds for turn in range(_FOUR_TURNS)] for s, ds in split_digits.items()}
    names = tuple(f"{digit}@{90 * turn}" for digit in range(10) for turn in range(_FOUR_TURNS))

    def images() -> Iterator[tuple[np.ndarray, int]]:
        for image, digit in zip(pixels, digits, strict=True):
            for turn in range(_FOUR_TURNS):
                yield np.rot90(image, turn, axes=(1, 2)), 4 * int(digit) + turn

    shape = (1, *pixels.shape[2:])
    return Decoded(len(pixels) * _FOUR_TURNS, shape, names, splits, images())


def _idx(file: Path) -> np.ndarray:
    """One IDX file (LeCun et al. 1998): magic with the number of axes, sizes, then bytes."""
    try:
        with gzip.open(file) as stream:
            data = stream.read()
        axes = data[3]
        sizes = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError, struct.error) as error:
        raise DataError(f"{file}: not a complete IDX file: {error}") from None


def _tar_members(file: Path, ending: str) -> list[np.ndarray]:
    """Bytes of the files of that ending in a gzipped tar, by name; read in memory, nothing is extracted."""
    try:
        with tarfile.open(file, "r:gz") as archive:
            members = sorted((m for m in archive if m.isfile() and m.name.endswith(ending)), key=lambda m: m.name)
            parts = [archive.extractfile(member) for member in members]
            data = [np.frombuffer(part.read(), np.uint8) for part in parts if part]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{file}: not a complete archive: {error}") from None
    if not data or any(len(part) % _CIFAR10_BYTES for part in data):
        raise DataError(f"{file}: not CIFAR-10 in its binary form: {ending} files of whole records are expected")
    return data


def _class_zip(file: Path, split_names: dict[str, list[str]]) -> Decoded:
    """A zip of `…/data/<class>/<image>`."""
    archive = _zip(file)
    members: dict[str, list[str]] = {}
    for member in archive.namelist():
        parts = member.split("/")
        if len(parts) >= 3 and parts[-3] == "data" and Path(member).suffix.lower() in IMAGE_ENDINGS:
            members.setdefault(parts[-2], []).append(member)
    names = sorted(name for split in SPLITS for name in split_names[split])
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(f"{file}: has no images of class {missing[0]!r} ({len(missing)} classes missing)")
    splits = {split: sorted(names.index(name) for name in split_names[split]) for split in SPLITS}
    first = _pixels(archive, members[names[0]][0])

    def images() -> Iterator[tuple[np.ndarray, int]]:
        for label, name in enumerate(names):
            for member in sorted(members[name]):
                yield _pixels(archive, member), label

    count = sum(len(members[name]) for name in names)
    return Decoded(count, first.shape, tuple(names), splits, images())


def _cifar_split_files(file: Path) -> dict[str, list[str]]:
    archive = _zip(file)
    splits = {}
    for split in SPLITS:
        ending = f"splits/bertinetto/{split}.txt"
        member = next((m for m in archive.namelist() if m.endswith(ending)), None)
        if member is None:
            raise DataError(f"{file}: not the CIFAR-FS archive: it has no {ending}")
        splits[split] = _member(archive, member).decode().split()
    return splits


def _omniglot_members(file: Path) -> Iterator[tuple[str, zipfile.ZipFile, str]]:
    """(set/alphabet/nn, archive, member) of every drawing; the set is `background` or `evaluation`."""
    archive = _zip(file)
    for member in archive.namelist():
        parts = member.split("/")
        if len(parts) == 4 and member.endswith(".png"):
            part = parts[0].removeprefix("images_")
            yield f"{part}/{parts[1]}/{parts[2][-2:]}", archive, member


def _vinyals(characters: Iterable[str]) -> dict[str, str]:
    lists: dict[str, Any] = _split_list("omniglot_vinyals.json")
    listed = {
        f"{alphabet}/{number:02d}": split
        for split in ("val", "test")
        for alphabet, numbers in lists[split].items()
        for number in numbers
    }
    return {character: listed.get(character, "train") for character in characters}


def _split_list(name: str) -> dict[str, Any]:
    lists: dict[str, Any] = json.loads((resources.files("autometa.data") / "splits" / name).read_text())
    return lists


def _zip(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file}: not a complete zip file ({error}); delete it to fetch it again") from None


def _member(archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise DataError(f"{archive.filename}: {member} is damaged: {error}") from None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not an image that can be read: {error}") from None
    return image


def _pixels(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    image = _open(_member(archive, member), f"{archive.filename}: {member}").convert("RGB")
    return np.asarray(image).transpose(2, 0, 1)
