"""Features of frozen networks: looked up where they were computed before, by whichever candidate or process.

A pool of images that has these tables gives its episodes the rows beside the images (`EpisodeBatch.rows_of`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.feature_table import FeatureTable
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.pretrained import Pretrained
from autometa.learning.learner import Learner

# Images in one pass, and pixels: more do not stay in a core's cache.
_AT_ONCE, _PIXELS_AT_ONCE = 8, 8 * 160**2


def pool_for(
    learner: Learner, dataset: FewShotDataset, split: str, device: torch.device | str = "cpu", *, most: int = 0
) -> ImagePool:
    """The images of a split, with the features of each frozen network in the learner; `most` as of `ImagePool`."""
    return ImagePool(dataset, split, device, tables=tables_for(learner, dataset, torch.device(device)), most=most)


def tables_for(learner: Learner, dataset: FewShotDataset, device: torch.device) -> Mapping[str, FeatureTable]:
    """A table for each frozen network in the learner, by its key; a row for each image of the data set."""
    return {key: _table(network, dataset, device) for key, network in _networks(learner).items()}


@torch.no_grad()
def rows_of_images(learner: Learner, images: Tensor) -> dict[str, Tensor]:
    """What each frozen network in the learner says of normalised images [M, C, H, W] without a table: [M, W] by key."""
    return {
        key: torch.cat([network.described(network.prepared(part)) for part in images.split(_at_once(network))])
        for key, network in _networks(learner).items()
    }


def rows_of_members(
    learner: Learner, dataset: FewShotDataset, index: np.ndarray, device: torch.device
) -> dict[str, Tensor]:
    """What each frozen network in the learner says of images of a data set: [M, W] by key.

    Args:
        index: of the images, [M].
    """
    tables = tables_for(learner, dataset, device)
    return {key: torch.from_numpy(table[index]).to(device).float() for key, table in tables.items()}


@torch.inference_mode()
def seconds_per_image(learner: Learner) -> dict[str, float]:
    """What an image that no table has takes one core here, of each frozen network in the learner by its key."""
    found = {}
    for key, network in _networks(learner).items():
        at_once, cores = _at_once(network), 1 if network.data_mean.is_cuda else torch.get_num_threads()
        images = network.data_mean.new_zeros(at_once, *network.image_shape)
        times = []
        for _ in range(2):  # the first pass allocates
            started = time.perf_counter()
            network.described(network.prepared(images)).cpu()
            times.append(time.perf_counter() - started)
        found[key] = round(cores * min(times) / at_once, 5)
    return found


def _networks(learner: Learner) -> dict[str, Pretrained]:
    return {m.key: m for m in learner.modules() if isinstance(m, Pretrained) and m.key and m.external}


def _table(network: Pretrained, dataset: FewShotDataset, device: torch.device) -> FeatureTable:
    return FeatureTable(
        f"{dataset.name}-{dataset.content or dataset.fingerprint}-{network.key}",
        dataset.images,
        network.width,
        functools.partial(_rows, network, device),
    )


@torch.inference_mode()
def _rows(network: Pretrained, device: torch.device, images: np.ndarray) -> np.ndarray:
    """What a network says of images, uint8 [M, C, H, W]: [M, width]."""
    pixels = torch.from_numpy(images).to(device).float() / 255
    parts = pixels.split(_at_once(network))
    return torch.cat([network.described(network.prepared_pixels(part)) for part in parts]).cpu().numpy()


def _at_once(network: Pretrained) -> int:
    """Images in one pass: a power of two."""
    return 2 ** int(math.log2(min(_AT_ONCE, max(1, _PIXELS_AT_ONCE // network.given.size**2))))
