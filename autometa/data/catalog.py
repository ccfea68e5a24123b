"""The data sets autometa knows: source, official splits, checksum, licence and citation, in one table.

It does not read or fetch them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autometa.data import readers
from autometa.data.readers import Decoded
from autometa.errors import DataError, did_you_mean
from autometa.records import Budget

_BUDGET = Budget(steps=2000, teraflops=60.0)
_SEARCH_SECONDS = 900.0


@dataclass(frozen=True)
class Archive:
    """One public file. `md5` is of the file as its publisher serves it, where that is known."""

    file: str
    url: str
    md5: str | None = None


@dataclass(frozen=True)
class Source:
    """One data set. `content` is the SHA-256 of its decoded images and labels, which survives re-packing.

    It is given where decoding is exact; resizing differs between versions of Pillow in the last bit.
    The reader of one that `is_inverted` makes dark ink on white paper bright on black.
    Of one that is `like_imagenet` many classes, test classes too, are among ImageNet's by these or other names.
    One that `is_embedded` comes with autometa: its reader needs no archives, and takes those that are on disk.
    """

    title: str
    licence: str
    citation: str
    read: Callable[[Sequence[Path], int], Decoded]
    classes: Mapping[str, int]
    images: int
    channels: int
    image_size: int
    archives: tuple[Archive, ...] = ()
    is_embedded: bool = False
    is_inverted: bool = False
    like_imagenet: bool = False
    content: str | None = None
    episodes: tuple[int, int, int] = (5, 1, 15)
    budget: Budget = _BUDGET
    search_seconds: float = _SEARCH_SECONDS


def _classes(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


_CIFAR = Archive("cifar100.zip", "https://zenodo.org/records/7978538/files/cifar100.zip")
_CIFAR_CONTENT = "c4a2a5ff562ef8a58557429a62b70039804d53c41bf40bcfb5e6829b52849295"
_CIFAR10 = Archive(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)
_OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_OMNIGLOT = (
    Archive("images_background.zip", f"{_OMNIGLOT_URL}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
    Archive("images_evaluation.zip", f"{_OMNIGLOT_URL}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
)
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_MNIST = tuple(
    Archive(f"{name}.gz", f"{_MNIST_URL}/{name}.gz", md5)
    for name, md5 in (
        ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
    )
)

SOURCES: dict[str, Source] = {
    "digits": Source(
        title="handwritten digits under four rotations (embedded)",
        licence="CC BY 4.0",
        citation="Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits",
        read=readers.read_digits,
        classes=_classes(24, 8, 8),
        images=7188,
        channels=1,
        image_size=8,
        is_embedded=True,
        budget=Budget(steps=300, teraflops=0.5),
        search_seconds=60.0,
    ),
    "cifar-fs": Source(
        title="CIFAR-FS",
        licence="MIT (split); CIFAR-100 by its authors' terms",
        citation="Bertinetto et al. 2019, Meta-learning with differentiable closed-form solvers",
        read=readers.read_cifar_fs,
        classes=_classes(64, 16, 20),
        images=60_000,
        channels=3,
        image_size=32,
        like_imagenet=True,
        archives=(_CIFAR,),
        content=_CIFAR_CONTENT,
    ),
    "cifar-10": Source(
        title="CIFAR-10, all ten classes for --pretrain-dataset",
        licence="CIFAR-10 by its authors' terms",
        citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
        read=readers.read_cifar10,
        classes=_classes(10, 0, 0),
        images=60_000,
        channels=3,
        image_size=32,
        like_imagenet=True,
        archives=(_CIFAR10,),
    ),
    "fc100": Source(
        title="FC100, CIFAR-100 split by superclass",
        licence="CIFAR-100 by its authors' terms",
        citation="Oreshkin et al. 2018, TADAM: Task dependent adaptive metric",
        read=readers.read_fc100,
        classes=_classes(60, 20, 20),
        images=60_000,
        channels=3,
        image_size=32,
        like_imagenet=True,
        archives=(_CIFAR,),
        content=_CIFAR_CONTENT,
    ),
    "omniglot": Source(
        title="Omniglot, split by Vinyals et al., four rotations as classes",
        licence="MIT",
        citation="Lake et al. 2015, Human-level concept learning; split: Vinyals et al. 2016",
        read=readers.read_omniglot,
        classes=_classes(4112, 688, 1692),
        images=129_840,
        channels=1,
        image_size=28,
        archives=_OMNIGLOT,
        is_embedded=True,
        is_inverted=True,
        episodes=(5, 1, 5),
        search_seconds=120.0,
    ),
    "omniglot-unrotated": Source(
        title="Omniglot, split by Vinyals et al.",
        licence="MIT",
        citation="Lake et al. 2015, Human-level concept learning; split: Vinyals et al. 2016",
        read=partial(readers.read_omniglot, turns=1),
        classes=_classes(1028, 172, 423),
        images=32_460,
        channels=1,
        image_size=28,
        archives=_OMNIGLOT,
        is_embedded=True,
        is_inverted=True,
        episodes=(5, 1, 5),
        search_seconds=120.0,
    ),
    "mnist": Source(
        title="MNIST under four rotations",
        licence="CC BY-SA 3.0",
        citation="LeCun et al. 1998, Gradient-based learning applied to document recognition",
        read=readers.read_mnist,
        classes=_classes(24, 8, 8),
        images=280_000,
        channels=1,
        image_size=28,
        archives=_MNIST,
    ),
}


def is_folder(name: str) -> bool:
    """Whether a name means an image folder rather than an entry of the catalog."""
    return name not in SOURCES and ("/" in name or Path(name).is_dir())


def portable(name: str) -> str:
    """The name by which the data set is found from any working folder: a folder's whole path."""
    return str(Path(name).resolve()) if is_folder(name) else name


def source(name: str) -> Source:
    """The entry of that name; raises `DataError` naming the nearest one there is."""
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}; {did_you_mean(name, SOURCES)}; or give a folder of images")
    return SOURCES[name]


def is_like_imagenet(name: str) -> bool:
    """Whether weights that were trained on ImageNet have seen classes like those of a data set; of folders unknown."""
    return not is_folder(name) and source(name).like_imagenet


def share_images(one: str, other: str) -> bool:
    """Whether two data sets of the catalog are made of the same files, however they are split."""
    pair = [SOURCES[name] for name in (one, other) if name in SOURCES]
    return len(pair) == 2 and (one == other or not set(pair[0].archives).isdisjoint(pair[1].archives))


def default_episodes(name: str) -> tuple[int, int, int]:
    """The usual way, shot and query of a data set."""
    return (5, 1, 15) if is_folder(name) else source(name).episodes


def default_search_seconds(name: str) -> float:
    """How long a search takes when nobody says."""
    return _SEARCH_SECONDS if is_folder(name) else source(name).search_seconds


def default_budget(name: str) -> Budget:
    """What a trial gets when nobody says."""
    return _BUDGET if is_folder(name) else source(name).budget
