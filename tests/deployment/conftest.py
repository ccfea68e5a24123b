"""One folder of photographs and one model of it for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.photos import train_model, write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty classes of twenty images: twelve to train on, four to validate."""
    return write_photos(tmp_path_factory.mktemp("photos"), {f"kind{n:02d}": 20 for n in range(20)})


@pytest.fixture(scope="session")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prototypical network."""
    return train_model(photos, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes that no search saw, with different numbers of images."""
    return write_photos(tmp_path_factory.mktemp("support"), {"apple": 2, "brick": 7, "cloud": 4, "dune": 3}, seed=5)


@pytest.fixture(scope="session")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of these classes, in folders of their names."""
    root = tmp_path_factory.mktemp("inbox")
    return write_photos(root, dict.fromkeys(["apple", "brick", "cloud", "dune"], 12), seed=8)
