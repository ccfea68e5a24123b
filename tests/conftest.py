"""What all tests share: a cache of their own, the embedded data set, and the real ones where they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode into a folder of this session, and keep splits and test looks in another, never in the user's."""
    before = {name: os.environ.pop(name, None) for name in ("AUTOMETA_CACHE", "AUTOMETA_DATA", "AUTOMETA_HOME")}
    os.environ["AUTOMETA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["AUTOMETA_HOME"] = str(tmp_path_factory.mktemp("home"))
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


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mount a real file system of a few kilobytes over a folder, or change the size of one that is there."""
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        again = "remount," if folder in mounted else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        if not again:
            mounted.append(folder)

    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
