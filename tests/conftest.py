"""What all tests share: a cache of their own, the embedded data set, and the real ones where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode into a folder of this session, never into the user's cache, and write splits down in another."""
    before = {name: os.environ.pop(name, None) for name in ("AUTOMETA_CACHE", "AUTOMETA_DATA", "AUTOMETA_SPLITS")}
    os.environ["AUTOMETA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["AUTOMETA_SPLITS"] = str(tmp_path_factory.mktemp("splits"))
    torch.set_num_threads(1)
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real CIFAR-FS and Omniglot archives."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not (folder / "cifar-fs" / "cifar100.zip").is_file():
        pytest.skip("the real CIFAR-FS and Omniglot archives are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def digits() -> FewShotDataset:
    """The embedded data set."""
    from autometa.data.load import load_dataset

    return load_dataset("digits")


def make_episodes(
    batch: int = 2, way: int = 3, shot: int = 2, query: int = 4, shape: tuple[int, ...] = (2, 8, 8), seed: int = 7
) -> EpisodeBatch:
    """Random episodes whose classes differ in their mean, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, way, 1, *shape, generator=generator)
    images = centres + torch.randn(batch, way, shot + query, *shape, generator=generator)
    labels = torch.arange(way)
    return EpisodeBatch(
        support_x=images[:, :, :shot].flatten(1, 2),
        support_y=labels.repeat_interleave(shot).expand(batch, -1),
        query_x=images[:, :, shot:].flatten(1, 2),
        query_y=labels.repeat_interleave(query).expand(batch, -1),
        way=way,
    )
