"""Omniglot as it comes with autometa: it needs no files, and is the public one to the bit."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autometa.data import cache, packed_omniglot, readers
from autometa.data.load import describe_datasets, load_dataset
from autometa.errors import DataError


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing is decoded yet."""
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_omniglot_needs_no_download_and_no_data_root(own_cache: Path) -> None:
    dataset = load_dataset("omniglot-unrotated", data_root=own_cache)
    assert {split: len(ids) for split, ids in dataset.splits.items()} == {"train": 1028, "val": 172, "test": 423}
    assert (dataset.class_counts == 20).all()
    assert (dataset.class_names[0], dataset.class_names[-1]) == (
        "background/Alphabet_of_the_Magi/01",
        "evaluation/ULOG/26",
    )
    assert not (own_cache / "cache" / "downloads").exists()
    status = {found.name: found.on_disk for found in describe_datasets(own_cache)}
    assert [status[name] for name in ("digits", "omniglot", "omniglot-unrotated")] == ["embedded"] * 3


def test_a_quarter_turn_is_a_class_of_its_own_in_the_split_of_its_character() -> None:
    decoded = readers.read_omniglot([], 7)
    assert decoded.count == 4 * 32_460
    assert [len(decoded.splits[split]) for split in ("train", "val", "test")] == [4112, 688, 1692]
    upright, quarter = next(decoded.images), next(decoded.images)
    np.testing.assert_array_equal(quarter[0][0], np.rot90(upright[0][0]))
    assert decoded.class_names[quarter[1]] == decoded.class_names[upright[1]].replace("@0", "@90")


def test_the_packed_form_is_made_again_from_the_public_zips(shared_data: Path) -> None:
    zips = [shared_data / "omniglot" / f"images_{part}.zip" for part in ("background", "evaluation")]
    alphabets, bits = packed_omniglot.packed(*readers.zipped_omniglot(zips))
    assert alphabets == (packed_omniglot.FOLDER / "alphabets.txt").read_text(encoding="utf-8")
    assert bits == lzma.decompress((packed_omniglot.FOLDER / "drawings.xz").read_bytes())


def test_decoded_it_is_what_the_public_zips_decode_to(
    shared_data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = load_dataset("omniglot-unrotated", data_root=own_cache)
    monkeypatch.setenv("AUTOMETA_CACHE", str(own_cache / "another"))
    monkeypatch.setattr(packed_omniglot, "read", lambda: pytest.fail("the zips were not read"))
    zipped = load_dataset("omniglot-unrotated", data_root=shared_data)
    assert packed.fingerprint == zipped.fingerprint
    folders = [
        own_cache / name / "datasets" / cache.entry("omniglot-unrotated-28").name for name in ("cache", "another")
    ]
    for file in ("images.npy", "labels.npy", "meta.json"):
        assert len({(folder / file).read_bytes() for folder in folders}) == 1, file


def test_a_drawing_comes_back_as_it_was_packed() -> None:
    ink = np.random.default_rng(3).integers(0, 2, (20, 105, 105), dtype=np.uint8) * 255
    alphabets, strips = packed_omniglot.packed(["a/b/01"] * 20, map(Image.fromarray, ink))
    assert alphabets == "a/b 1\n"
    size = len(strips) // 20
    for number, drawing in enumerate(ink):
        found = packed_omniglot.unpacked(strips[size * number : size * (number + 1)])
        np.testing.assert_array_equal(np.asarray(found), drawing)


@pytest.mark.parametrize("keep", [0.05, 0.0])
def test_a_damaged_file_is_named(own_cache: Path, monkeypatch: pytest.MonkeyPatch, keep: float) -> None:
    folder = own_cache / "embedded"
    shutil.copytree(str(packed_omniglot.FOLDER), folder)
    file = folder / "drawings.xz"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    monkeypatch.setattr(packed_omniglot, "FOLDER", folder)
    with pytest.raises(DataError, match=r"drawings\.xz is damaged .*; install autometa again"):
        load_dataset("omniglot-unrotated", data_root=own_cache)
    assert not list(cache.root().glob("datasets/*v*/meta.json"))
