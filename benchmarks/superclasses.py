"""Folders of images as users have them: classes of CIFAR-100 by kind, from the images of CIFAR-FS.

Kinds are unions of CIFAR-100's superclasses (Krizhevsky 2009). Each class has `IMAGES` images, its first.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from autometa.data.load import load_dataset

IMAGES = 100
KINDS: dict[str, str] = {
    "animals": "beaver dolphin otter seal whale aquarium_fish flatfish ray shark trout bee beetle butterfly "
    "caterpillar cockroach bear leopard lion tiger wolf camel cattle chimpanzee elephant kangaroo fox "
    "porcupine possum raccoon skunk crab lobster snail spider worm crocodile dinosaur lizard snake turtle "
    "hamster mouse rabbit shrew squirrel",
    "things": "bottle bowl can cup plate clock keyboard lamp telephone television bed chair couch table wardrobe "
    "bridge castle house road skyscraper bicycle bus motorcycle pickup_truck train lawn_mower rocket "
    "streetcar tank tractor",
    "nature": "orchid poppy rose sunflower tulip apple mushroom orange pear sweet_pepper maple_tree oak_tree "
    "palm_tree pine_tree willow_tree cloud forest mountain plain sea bee beetle butterfly caterpillar cockroach crab "
    "lobster snail spider worm",
    "outdoors": "bridge castle house road skyscraper bicycle bus motorcycle pickup_truck train lawn_mower rocket "
    "streetcar tank tractor cloud forest mountain plain sea maple_tree oak_tree palm_tree pine_tree "
    "willow_tree",
}


def as_on_a_new_machine(folder: Path) -> None:
    """Keep splits and looks of this process and its children in `folder`: what ran before must not decide a split."""
    os.environ["AUTOMETA_HOME"] = str(folder / "home")


def name_or_folder(dataset: str, to: Path, *, data_root: str | None) -> str:
    """A data set's name; of "folder KIND" the path `to`, where it is made at first use; "folder grey" has all, grey."""
    if not dataset.startswith("folder "):
        return dataset
    kind = dataset.removeprefix("folder ")
    if not to.exists():
        write_folder("all" if kind == "grey" else kind, to, data_root=data_root, grey=kind == "grey")
    return str(to)


def write_folder(kind: str, to: Path, *, data_root: str | None, grey: bool = False) -> Path:
    """A folder of PNG files, one folder per class; of all classes where the kind is "all". Returns it."""
    data = load_dataset("cifar-fs", data_root=data_root)
    names = list(data.class_names)
    for name in names if kind == "all" else KINDS[kind].split():
        place = to / name
        place.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(data.labels == names.index(name))[:IMAGES]):
            image = Image.fromarray(data.images[index].transpose(1, 2, 0))
            (image.convert("L") if grey else image).save(place / f"{number:03d}.png")
    return to
