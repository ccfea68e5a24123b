"""Omniglot as it comes with autometa: it needs no files, and is the public one to the bit."""

from __future__ import annotations

import itertools
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autometa.data import cache, packed_omniglot, readers
from autometa.data.load import describe_datasets, load_dataset
from autometa.errors import DataError


@pytest.fixture(scope="module")
def packed_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which the drawings that come with autometa were decoded, where nothing else is on disk."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMETA_CACHE", str(folder))
        load_dataset("omniglot-unrotated", data_root=folder)
    return folder


def test_omniglot_needs_no_download_and_no_data_root(packed_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(packed_cache))
    dataset = load_dataset("omniglot-unrotated")
    assert {split: len(ids) for split, ids in dataset.splits.items()} == {"train": 1028, "val": 172, "test": 423}
    assert (dataset.class_counts == 20).all()
    assert (dataset.class_names[0], dataset.class_names[-1]) == (
        "background/Alphabet_of_the_Magi/01",
        "evaluation/ULOG/26",
    )
    assert not (packed_cache / "downloads").exists()


def test_the_list_says_that_it_comes_with_autometa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path))
    status = {found.name: found.on_disk for found in describe_datasets(tmp_path)}
    assert [status[name] for name in ("digits", "omniglot", "omniglot-unrotated")] == ["embedded"] * 3


def test_a_quarter_turn_is_a_class_of_its_own_in_the_split_of_its_character() -> None:
    decoded = readers.read_omniglot([], 7)
    assert decoded.count == 4 * 32_460
    assert [len(decoded.splits[split]) for split in ("train", "val", "test")] == [4112, 688, 1692]
    upright, *others = itertools.islice(decoded.images, 4)
    for turn, (image, label) in enumerate(others, 1):
        np.testing.assert_array_equal(image, np.rot90(upright[0], turn, axes=(1, 2)))
        assert decoded.class_names[label] == decoded.class_names[upright[1]].replace("@0", f"@{90 * turn}")


def test_the_packed_form_is_made_again_from_the_public_zips(shared_data: Path) -> None:
    zips = [shared_data / "omniglot" / f"images_{part}.zip" for part in ("background", "evaluation")]
    alphabets, bits = packed_omniglot.packed(*readers.zipped_omniglot(zips))
    assert alphabets == (packed_omniglot.FOLDER / "alphabets.txt").read_text(encoding="utf-8")
    assert bits == lzma.decompress((packed_omniglot.FOLDER / "drawings.xz").read_bytes())


def test_decoded_it_is_what_the_public_zips_decode_to(
    shared_data: Path, packed_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = set()
    monkeypatch.setattr(packed_omniglot, "read", lambda: pytest.fail("the zips were not read"))
    for folder in (packed_cache, tmp_path):
        monkeypatch.setenv("AUTOMETA_CACHE", str(folder))
        fingerprints.add(load_dataset("omniglot-unrotated", data_root=shared_data).fingerprint)
    assert len(fingerprints) == 1
    for file in ("images.npy", "labels.npy", "meta.json"):
        place = Path("datasets") / cache.entry("omniglot-unrotated-28").name / file
        assert (packed_cache / place).read_bytes() == (tmp_path / place).read_bytes(), file


def test_a_drawing_comes_back_as_it_was_packed() -> None:
    ink = np.random.default_rng(3).integers(0, 2, (20, 105, 105), dtype=np.uint8) * 255
    alphabets, strips = packed_omniglot.packed(["a/b/01"] * 20, map(Image.fromarray, ink))
    assert alphabets == "a/b 1\n"
    np.testing.assert_array_equal([np.asarray(drawing) for drawing in packed_omniglot.unpacked(strips)], ink)


@pytest.mark.parametrize("keep", [0.05, 0.0])
def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: float) -> None:
    folder = tmp_path / "embedded"
    shutil.copytree(str(packed_omniglot.FOLDER), folder)
    file = folder / "drawings.xz"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    monkeypatch.setattr(packed_omniglot, "FOLDER", folder)
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"drawings\.xz is damaged .*; install autometa again"):
        load_dataset("omniglot-unrotated", data_root=tmp_path)
    assert not list(cache.root().glob("datasets/*/meta.json"))
