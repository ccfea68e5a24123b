"""Folders as they really are: links, names in other encodings, broken files, the same image twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autometa.data import image_folder as image_folder_module
from autometa.data.dataset import SPLITS
from autometa.data.folder_images import look
from autometa.data.load import load_dataset
from autometa.errors import DataError
from tests.data.test_load import image_folder, png


def names_in(root: Path, split: str) -> list[str]:
    data = load_dataset(str(root), image_size=8)
    return [data.class_names[c] for c in data.splits[split]]


def test_one_colour_image_after_many_grey_ones_makes_colour(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6, images=0)
    for number in range(72):
        file = tmp_path / "f" / f"class{number // 12}" / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number, mode="L"))
    assert load_dataset(str(root)).image_shape[0] == 1
    file.write_bytes(png(71))
    data = load_dataset(str(root))
    assert data.image_shape[0] == 3
    assert (data.images[71, 0] != data.images[71, 1]).any()
    assert (data.images[70, 0] == data.images[70, 1]).all()


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        ([(48, 60), (70, 48), (48, 48)], 48),
        ([(50, 90), (90, 53), (2000, 3000)], 48),
        ([(47, 100)] * 3, 40),
        ([(4000, 3000)] * 3, 224),
        ([(105, 105), (28, 28), (30, 29)], 28),
        ([(5, 6)], 5),
    ],
)
def test_the_size_is_what_the_images_have_and_enlarges_none_of_the_usual_ones(
    tmp_path: Path, sides: list[tuple[int, int]], size: int
) -> None:
    for number, side in enumerate(sides):
        Image.new("L", side).save(tmp_path / f"{number}.png")
    assert look(sorted(tmp_path.iterdir())).side == size


def test_a_folder_is_decoded_at_its_own_size_once_and_at_another_when_asked(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)  # 20 × 14
    own = load_dataset(str(root))
    assert own.image_shape == (3, 12, 12)
    assert load_dataset(str(root), image_size=12).images.filename == own.images.filename  # type: ignore[attr-defined]
    assert load_dataset(str(root), image_size=32).image_shape == (3, 32, 32)


def broken(root: Path) -> Path:
    """Six classes of four images, and seven files that are none: by their first bytes, or only when decoded."""
    image_folder(root, classes=6)
    for number in range(5):
        (root / f"class{number}" / "note.jpg").write_text("not an image")
    (root / "class5" / "cut.png").write_bytes(png(7)[:-300])
    (root / "class5" / "gone.png").symlink_to(root / "nowhere.png")
    return root


def test_all_unreadable_files_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_dataset(str(broken(tmp_path / "f")))
    said = str(error.value)
    assert "7 files cannot be read: class0/note.jpg (not an image), class1/note.jpg" in said
    assert "class4/note.jpg (not an image) and 2 more; " in said
    assert "--skip-unreadable" in said
    assert "\n" not in said


def test_unreadable_files_are_left_out_and_counted_when_asked(tmp_path: Path) -> None:
    root = broken(tmp_path / "f")
    data = load_dataset(str(root), skip_unreadable=True)
    assert (data.class_counts == 4).all()
    assert data.facts()["unreadable"] == 7
    assert (len(data.images), len(data.labels)) == (24, 24)
    whole = load_dataset(str(image_folder(tmp_path / "g", classes=6)))
    assert whole.fingerprint == data.fingerprint, "what is left is the same data"
    assert "unreadable" not in whole.facts()
    with pytest.raises(DataError, match="7 files cannot be read"):
        load_dataset(str(root))  # though the cache has what is left


def test_a_class_without_a_readable_image_is_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    for file in (root / "class3").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="class 'class3' has no image that can be read"):
        load_dataset(str(root), skip_unreadable=True)


def test_the_same_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=10, images=12)
    train, test = names_in(root, "train")[0], names_in(root, "test")[0]
    for number in range(7):
        with Image.open(root / train / f"{number}.png") as image:
            image.save(root / test / f"copy{number}.bmp")  # by content: another file, the same picture
    with pytest.raises(DataError) as error:
        load_dataset(str(root), image_size=8)
    said = str(error.value)
    assert "7 images are in two splits" in said
    assert {f"{train}/0.png (train)", f"{test}/copy0.bmp (test)"} <= set(
        said.replace(", ", " = ").split(": ")[2].split(" = ")
    )
    assert " and 2 more; " in said
    assert "\n" not in said


def test_the_same_image_in_two_classes_of_a_split_or_twice_in_one_is_said(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=10)
    assert load_dataset(str(root), image_size=8).notes == ()
    one, other = names_in(root, "train")[:2]
    shutil.copy(root / one / "2.png", root / other / "x.png")
    shutil.copy(root / one / "3.png", root / one / "y.png")
    data = load_dataset(str(root), image_size=8)
    across, within = data.notes
    assert across.startswith(f"{root}: 1 image is in two classes: ")
    assert f"{one}/2.png = {other}/x.png" in across
    assert within.startswith(f"{root}: 1 image is twice in a class")
    assert f"{one}/3.png = {one}/y.png" in within
    assert load_dataset(str(root), image_size=8).notes == data.notes, "said again when it comes from the cache"


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    image_folder(tmp_path / "real", classes=8)
    (tmp_path / "f").mkdir()
    for number in range(8):
        (tmp_path / "f" / f"class{number}").symlink_to(tmp_path / "real" / f"class{number}")
    linked = load_dataset(str(tmp_path / "f"))
    assert linked.fingerprint == load_dataset(str(tmp_path / "real")).fingerprint
    assert linked.class_counts.tolist() == [4] * 8


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    (root / "class0" / "more").mkdir()
    (root / "class0" / "more" / "own.png").write_bytes(png(5000))
    (root / "class0" / "more" / "up").symlink_to(root / "class0")
    (root / "class1" / "everything").symlink_to(root)
    (root / "class2" / "itself.png").symlink_to(root / "class2" / "itself.png")
    (root / "all").symlink_to(root)
    data = load_dataset(str(root), skip_unreadable=True)
    assert "all" not in data.class_names
    assert data.class_counts.tolist() == [5, 4, 4, 4, 4, 4]
    assert data.unreadable == 1


def test_two_links_to_one_folder_are_found_by_what_is_in_it(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    for name in ("again", "more", "other", "third"):
        (root / name).symlink_to(root / "class0")
    with pytest.raises(DataError, match="4 images are in two splits"):
        load_dataset(str(root))


def test_a_class_that_links_to_nothing_is_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    (root / "lost").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DataError, match="lost is a link to nothing"):
        load_dataset(str(root))


def test_a_class_that_goes_while_the_folder_is_read_is_a_class_less_and_no_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    listed = image_folder_module._entries

    def listed_and_gone(folder: Path) -> list[os.DirEntry[str]]:
        entries = listed(folder)
        if folder == root:
            (root / "class3").rename(tmp_path / "class3")
        return entries

    monkeypatch.setattr(image_folder_module, "_entries", listed_and_gone)
    assert "class3" not in image_folder_module.find(root).classes


def test_names_in_another_encoding_are_shown_escaped(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    latin = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(latin)
    for number in range(4):
        with open(latin + b"/na\xefve\n%d.png" % number, "wb") as file:
            file.write(png(900 + number))
    data = load_dataset(str(root))
    assert "caf\\xe9" in data.class_names
    assert data.class_counts.tolist() == [4] * 7
    with open(latin + b"/\xff\n.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"1 file cannot be read: caf\\xe9/\\xff\\x0a\.png \(not an image\)"):
        load_dataset(str(root))


def test_a_data_set_whose_own_path_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    shutil.copytree(image_folder(tmp_path / "f", classes=6), os.fsdecode(root))
    with pytest.raises(DataError, match=r"caf\\xe9: this path is not UTF-8 text"):
        load_dataset(os.fsdecode(root))


def test_16_bit_images_of_a_folder_keep_their_greys(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for number in range(12):
        file = tmp_path / "f" / f"class{number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 65_536, (16, 16), dtype=np.uint16)).save(file)
    data = load_dataset(str(tmp_path / "f"))
    assert data.image_shape == (1, 16, 16)
    assert (data.images == 255).mean() < 0.01
    assert data.images.mean() == pytest.approx(127.5, abs=8)
    assert all(len(data.splits[split]) >= 2 for split in SPLITS)
