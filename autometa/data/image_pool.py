"""The images of a split on the device, ready to be gathered by index, with what frozen networks say of them.

Symbols: M images, C H W of an image, W numbers of what a network says of one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.feature_table import FeatureTable


class Normaliser:
    """Images of bytes to floats with mean 0 and spread 1 in each channel.

    Args:
        mean, std: of each channel, in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        shape = (1, -1, 1, 1)
        self._scale = (1 / (255 * torch.tensor(std))).reshape(shape).to(device)
        self._shift = (torch.tensor(mean) / torch.tensor(std)).reshape(shape).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Of uint8 [M, C, H, W], floats."""
        return images.float().mul_(self._scale).sub_(self._shift)


class ImagePool:
    """The images of one split, on the device: mapped from disk on a CPU, uploaded once to a GPU.

    Of train classes without those that are kept back.

    Args:
        tables: what frozen networks say of all images of the data set, by a network's key.
        most: images of each class at most, spread evenly over those there are; 0 for all.
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        split: str,
        device: torch.device | str = "cpu",
        *,
        tables: Mapping[str, FeatureTable] | None = None,
        most: int = 0,
    ) -> None:
        self.dataset = dataset
        self.split = split
        self.device = torch.device(device)
        self.features = dict(tables or {})
        members = dataset.members(split)
        if split == "train" and dataset.kept_back is not None:
            members = [of_class[~dataset.kept_back[of_class]] for of_class in members]
        if most:
            members = [_spread(of_class, most) for of_class in members]
        labelled = dataset.labelled_members(split)
        self._order = np.unique(np.concatenate([*members, *(labelled or ())]))
        self.images = self._images(dataset)  # uint8 (M, C, H, W)
        self.counts = torch.tensor([len(m) for m in members])  # (classes,)
        self._tables = self._tables_of(members)
        self._labelled = self._tables_of(labelled) if labelled else None
        self._normalise = Normaliser(dataset.mean, dataset.std, self.device)

    @property
    def classes(self) -> int:
        """How many classes the split has."""
        return len(self.counts)

    @property
    def families(self) -> np.ndarray:
        """[classes], alike for quarter turns of one class, which share its images."""
        names = [self.dataset.class_names[c].split("@")[0] for c in self.dataset.splits[self.split]]
        return np.unique(names, return_inverse=True)[1]

    @property
    def images_of_task(self) -> np.ndarray | None:
        """How many images each class has to name [classes], where all classes are told apart; None elsewhere."""
        return self.counts.numpy() if self._labelled else None

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """How many images each class has [classes], and their indices [classes, most images].

        They are where indices are drawn, so that nothing there waits for the other side.
        """
        return self._tables[device.type]

    def tables_of_labelled(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The same of the images that may be labelled, where these are others."""
        return self._labelled[device.type] if self._labelled else None

    def most_shots(self, query: int) -> int:
        """Labelled images of each class beside so many to name. Where they may recur, half of the classes have them."""
        labelled = self.tables_of_labelled(torch.device("cpu"))
        return int(labelled[0].median()) if labelled else int(self.counts.min()) - query

    def gather(self, index: Tensor) -> Tensor:
        """Normalised float images [M, C, H, W] by their index [M]."""
        return self._normalise(self.images.index_select(0, index.to(self.device)))

    @property
    def feature_seconds(self) -> float:
        """Seconds that this process has waited for features which were not there."""
        return sum(table.seconds for table in self.features.values())

    def stop_features(self, stop: Callable[[], bool]) -> None:
        """Let rows be computed until `stop`, asked after every few, says so; `OutOfTimeError` is raised then."""
        for table in self.features.values():
            table.stop = stop

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """What each frozen network says of images [M], by their index: [M, W] by its key."""
        if not self.features:
            return {}
        numbers = self._numbers(index)
        return {key: torch.from_numpy(table[numbers]).to(self.device).float() for key, table in self.features.items()}

    def rows_missing(self, index: Tensor) -> dict[str, int]:
        """Of how many of these images [M], by their index, a frozen network has said nothing yet, by its key."""
        return {key: table.rows_missing(self._numbers(index)) for key, table in self.features.items()}

    def _numbers(self, index: Tensor) -> np.ndarray:
        """In the data set: on a CPU images are where that has them, on a GPU those of the pool alone."""
        return index.numpy() if self.device.type == "cpu" else self._order[index.cpu().numpy()]

    def _images(self, dataset: FewShotDataset) -> Tensor:
        if self.device.type == "cpu":
            return _mapped(dataset.images)
        return torch.from_numpy(np.ascontiguousarray(dataset.images[self._order])).to(self.device)

    def _tables_of(self, members: list[np.ndarray]) -> dict[str, tuple[Tensor, Tensor]]:
        """Counts and indices into `images`, by where they are."""
        if self.device.type != "cpu":
            members = [np.searchsorted(self._order, of_class) for of_class in members]
        counts, table = torch.tensor([len(m) for m in members]), torch.from_numpy(_padded(members))
        places = (torch.device("cpu"), self.device)
        return {place.type: (counts.to(place), table.to(place)) for place in places}


def _spread(of_class: np.ndarray, most: int) -> np.ndarray:
    """So many of a class's images at most, evenly over their order."""
    if len(of_class) <= most:
        return of_class
    return of_class[np.arange(most) * len(of_class) // most]


def _mapped(images: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # The map is read-only and torch cannot say so; nothing here writes to it.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(images)


def _padded(members: list[np.ndarray]) -> np.ndarray:
    table = np.zeros((len(members), max(len(m) for m in members)), np.int64)
    for row, indices in zip(table, members, strict=True):
        row[: len(indices)] = indices
    return table
