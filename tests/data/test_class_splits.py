"""Splits of an image folder: a class added, removed or moved with its folder moves no other class."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from autometa.data import class_splits
from autometa.data.dataset import SPLITS
from autometa.data.load import load_dataset
from autometa.errors import DataError
from tests.data.test_load import image_folder, png

NAMES = [f"class{number}" for number in range(20)]


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOMETA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "splits"


def split_of(root: Path) -> dict[str, str]:
    data = load_dataset(str(root), image_size=8)
    return {data.class_names[c]: split for split in SPLITS for c in data.splits[split]}


def add(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir()
        (root / name / "1.png").write_bytes(png(zlib.crc32(name.encode())))


def test_a_class_added_later_moves_no_other_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=20, images=1)
    before = split_of(root)
    add(root, "aardvark", "class05", "zebra")
    after = split_of(root)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"aardvark", "class05", "zebra"}


def test_where_an_added_class_goes_depends_on_its_name_alone(tmp_path: Path) -> None:
    one, other = (image_folder(tmp_path / name, classes=n, images=1) for name, n in (("one", 20), ("other", 12)))
    split_of(one), split_of(other)
    new = [f"new{number}" for number in range(6)]
    add(one, *new)
    for name in reversed(new):
        add(other, name)
        split_of(other)
    here, there = split_of(one), split_of(other)
    assert {name: here[name] for name in new} == {name: there[name] for name in new}
    assert len({here[name] for name in new}) > 1


def test_a_class_removed_moves_no_other_and_comes_back_to_its_split(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=20, images=1)
    before = split_of(root)
    shutil.move(root / "class0", tmp_path / "aside")
    shutil.rmtree(root / "class7")
    rest = {name: split for name, split in before.items() if name not in ("class0", "class7")}
    assert split_of(root) == rest
    shutil.move(tmp_path / "aside", root / "class0")
    assert split_of(root) == rest | {"class0": before["class0"]}


def test_the_split_survives_a_deleted_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "photos", classes=12, images=1)
    before = split_of(root)
    add(root, "aardvark")
    extended = split_of(root)
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "new"))
    assert split_of(root) == extended
    assert before.items() <= extended.items()


@pytest.mark.parametrize("how", ["renamed", "copied"])
def test_a_folder_that_was_moved_keeps_its_split(tmp_path: Path, how: str) -> None:
    root = image_folder(tmp_path / "photos", classes=12, images=1)
    split_of(root)
    add(root, *(f"new{number}" for number in range(8)))
    before = split_of(root)
    assert before != class_splits.assigned(Path("/nowhere"), sorted(before)[:-1], 0), "a new folder ranks all of them"
    there = tmp_path / "elsewhere"
    _ = shutil.move(root, there) if how == "renamed" else shutil.copytree(root, there)
    assert split_of(there) == before
    if how == "renamed":
        add(there, "one more")
        assert before.items() <= split_of(there).items()


@pytest.mark.parametrize("is_gone", [False, True])
def test_another_folder_of_some_same_names_gets_a_split_of_its_own_size(tmp_path: Path, is_gone: bool) -> None:
    more = image_folder(tmp_path / "photos", classes=21, images=1)
    split_of(more)
    if is_gone:
        shutil.rmtree(more)
    sizes = list(split_of(image_folder(tmp_path / "fewer", classes=10, images=1)).values())
    assert {split: sizes.count(split) for split in SPLITS} == {"train": 6, "val": 2, "test": 2}


def test_the_split_of_new_folders_is_the_same_on_every_machine() -> None:
    one, other = (class_splits.assigned(Path(where), NAMES, 3) for where in ("/here", "/there/too"))
    assert one == other
    assert class_splits.assigned(Path("/here"), NAMES, 4) != one
    held_out = sorted(name for name, split in one.items() if split != "train")
    assert held_out == ["class1", "class11", "class14", "class15", "class5", "class6", "class7", "class9"]


@pytest.mark.parametrize("known", [0, 1, 3])
def test_a_place_that_held_other_images_before_gets_enough_of_each_split(tmp_path: Path, known: int) -> None:
    folder = tmp_path / "photos"
    class_splits.keep(folder, 0, {f"old{number}": "test" for number in range(8)})
    names = [f"new{number}" for number in range(8 - known)] + [f"old{number}" for number in range(known)]
    splits = list(class_splits.assigned(folder, names, 0).values())
    assert splits.count("val") == 2
    assert splits.count("test") == max(2, known)


def test_the_photos_folder_is_not_written_to(tmp_path: Path, records: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=6, images=1)
    before = sorted(root.rglob("*"))
    root.chmod(0o555)
    split_of(root)
    root.chmod(0o755)
    assert sorted(root.rglob("*")) == before
    written = json.loads(next(records.glob("photos-*.json")).read_text())
    assert written["folder"] == str(root)
    assert sorted(written["classes"]) == [f"class{number}" for number in range(6)]


def test_a_damaged_record_is_named_and_nothing_is_split_anew(tmp_path: Path, records: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=6, images=1)
    split_of(root)
    file = next(records.glob("*.json"))
    file.write_text(file.read_text().replace('"train"', '"trian"'))
    with pytest.raises(DataError, match=rf"{file.name}: this record of a folder's splits is damaged"):
        split_of(root)
    split_of(image_folder(tmp_path / "another", classes=6, images=1))


def test_a_split_that_cannot_be_written_down_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOMETA_HOME", str(tmp_path / "file" / "home"))
    root = image_folder(tmp_path / "photos", classes=6, images=1)
    with pytest.raises(DataError, match=r"cannot be written down: .*; set AUTOMETA_HOME"):
        split_of(root)


def test_nothing_is_written_down_for_a_folder_that_cannot_be_used(tmp_path: Path, records: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=6, images=1)
    (root / "class1" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError):
        split_of(root)
    assert not list(records.glob("*.json"))
    assert os.listdir(tmp_path) == ["photos"]
