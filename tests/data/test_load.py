"""From a name to a data set: official splits, image folders, damaged files, and a cache that two may use."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autometa.data import cache, catalog
from autometa.data.dataset import SPLITS, FewShotDataset
from autometa.data.load import describe_datasets, load_dataset
from autometa.errors import DataError


def png(seed: int, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(out, "PNG")
    return out.getvalue()


def image_folder(root: Path, classes: int, images: int = 4, seed: int = 0) -> Path:
    for c, i in itertools.product(range(classes), range(images)):
        file = root / f"class{c}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(10_000 * seed + 100 * c + i))
    return root


def disjoint(dataset: FewShotDataset) -> bool:
    return all(not set(dataset.splits[a]) & set(dataset.splits[b]) for a, b in itertools.combinations(SPLITS, 2))


def test_no_digit_is_in_two_splits_and_look_alikes_are_in_train(digits: FewShotDataset) -> None:
    of_split = {s: {digits.class_names[c].split("@")[0] for c in digits.splits[s]} for s in SPLITS}
    assert of_split == {"train": set("012689"), "val": set("35"), "test": set("47")}
    assert len(digits.labels) == 4 * 1797
    assert catalog.source("digits").images == len(digits.labels)


def test_a_turned_digit_is_the_digit_turned(digits: FewShotDataset) -> None:
    upright, quarter = digits.images[0], digits.images[1]
    assert digits.class_names[digits.labels[1]].endswith("@90")
    np.testing.assert_array_equal(quarter, np.rot90(upright, 1, axes=(1, 2)))


def test_loading_from_the_cache_maps_the_same_file(digits: FewShotDataset) -> None:
    again = load_dataset("digits")
    assert isinstance(again.images, np.memmap)
    assert again.fingerprint == digits.fingerprint


def test_real_cifar_fs_has_the_official_split(shared_data: Path) -> None:
    dataset = load_dataset("cifar-fs", data_root=shared_data)
    assert {s: len(dataset.splits[s]) for s in SPLITS} == {"train": 64, "val": 16, "test": 20}
    assert dataset.images.shape == (60_000, 3, 32, 32)
    assert (dataset.class_counts == 600).all()
    assert disjoint(dataset)
    with zipfile.ZipFile(shared_data / "cifar-fs" / "cifar100.zip") as archive:
        published = archive.read("cifar100/splits/bertinetto/val.txt").decode().split()
        member = sorted(m for m in archive.namelist() if "/data/otter/" in m)[3]
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(member))))
    assert {dataset.class_names[c] for c in dataset.splits["val"]} == set(published)
    fourth = np.flatnonzero(dataset.labels == dataset.class_names.index("otter"))[3]
    np.testing.assert_array_equal(dataset.images[fourth].transpose(1, 2, 0), pixels)


def test_real_omniglot_is_split_by_character(shared_data: Path) -> None:
    dataset = load_dataset("omniglot-unrotated", data_root=shared_data)
    assert {s: len(dataset.splits[s]) for s in SPLITS} == {"train": 1028, "val": 172, "test": 423}
    assert (dataset.class_counts == 20).all()
    assert disjoint(dataset)
    assert dataset.images.mean() < 40, "ink is bright on a dark ground"


def test_fc100_may_not_teach_what_cifar_fs_tests(shared_data: Path) -> None:
    root = shared_data / "cifar-fs"
    with pytest.raises(DataError, match=r"fc100 trains on 2[0-9] classes by which cifar-fs is validated or tested"):
        load_dataset("cifar-fs", data_root=root).require_new_to(load_dataset("fc100", data_root=root))


def test_fc100_keeps_superclasses_apart() -> None:
    from autometa.data.readers import _split_list

    lists = _split_list("fc100.json")
    assert {s: len(lists[s]) for s in SPLITS} == {"train": 60, "val": 20, "test": 20}
    assert len({name for s in SPLITS for name in lists[s]}) == 100
    assert {"beaver", "dolphin", "otter", "seal", "whale"} <= set(lists["test"])


def test_mnist_is_read_from_idx(tmp_path: Path) -> None:
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    from autometa.data.readers import read_mnist

    decoded = read_mnist([tmp_path / a.file for a in catalog.source("mnist").archives], 28)
    assert decoded.count == 200
    assert next(decoded.images)[0].shape == (1, 28, 28)
    with pytest.raises(DataError, match="the published one has 280,000"):
        load_dataset("mnist", data_root=tmp_path)
    broken = tmp_path / "train-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match="not a complete IDX file"):
        load_dataset("mnist", data_root=tmp_path)


def test_cifar_10_is_read_from_its_binary_form(tmp_path: Path) -> None:
    from autometa.data.readers import read_cifar10

    generator = np.random.default_rng(8)
    batches = [generator.integers(0, 256, (5, 3073), dtype=np.uint8) for _ in range(2)]
    for records in batches:
        records[:, 0] %= 10
    file = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, data in (
            ("data_batch_2.bin", batches[1].tobytes()),
            ("data_batch_1.bin", batches[0].tobytes()),
            ("batches.meta.txt", b"airplane"),
        ):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    decoded = read_cifar10([file], 32)
    assert decoded.count == 10
    assert len(decoded.splits["train"]) == 10
    image, label = next(decoded.images)
    assert label == int(batches[0][0, 0])
    assert image[2, 31, 31] == batches[0][0, -1], "planes of red, green, blue, row by row"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="not a complete archive"):
        read_cifar10([file], 32)


def test_an_image_folder_is_split_by_class_with_a_seed(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=10)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes(b"not an image")
    dataset = load_dataset(str(root), image_size=16)
    assert dataset.images.shape == (40, 3, 16, 16)
    assert {s: len(dataset.splits[s]) for s in SPLITS} == {"train": 6, "val": 2, "test": 2}
    assert disjoint(dataset)
    other = load_dataset(str(root), image_size=16, seed=1)
    assert [*other.splits["train"]] != [*dataset.splits["train"]]


def test_given_split_folders_are_kept(tmp_path: Path) -> None:
    for seed, split in enumerate(SPLITS):
        image_folder(tmp_path / "p" / split, classes=3, seed=seed)
        for folder in (tmp_path / "p" / split).iterdir():
            folder.rename(folder.with_name(f"{split}-{folder.name}"))
    dataset = load_dataset(str(tmp_path / "p"), image_size=8)
    names = {s: {dataset.class_names[c] for c in dataset.splits[s]} for s in SPLITS}
    assert names["val"] == {"val-class0", "val-class1", "val-class2"}


def test_an_edited_folder_is_decoded_again(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos", classes=6)
    before = load_dataset(str(root), image_size=8)
    (root / "class0" / "0.png").write_bytes(png(12345))
    assert load_dataset(str(root), image_size=8).fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar_fs", "unknown data set 'cifar_fs'; did you mean 'cifar-fs'"),
        ("no/such/folder", "no such folder"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_dataset(name)


@pytest.mark.parametrize(
    ("classes", "says"), [(1, "one class only"), (4, "4 classes; at least 6 are needed"), (0, "no images")]
)
def test_a_folder_with_too_few_classes_says_so(tmp_path: Path, classes: int, says: str) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match=says):
        load_dataset(str(image_folder(tmp_path / "f", classes=classes)))


def test_a_class_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    for split in SPLITS:
        image_folder(tmp_path / split, classes=2)
    with pytest.raises(DataError, match="is in train and in val"):
        load_dataset(str(tmp_path))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=6)
    (root / "class3" / "bad.png").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"1 file cannot be read: class3/bad\.png \(not an image\)"):
        load_dataset(str(root))
    assert not list(cache.root().glob("datasets/.*")), "a failed decoding leaves nothing behind"


@pytest.mark.parametrize("kind", ["truncated", "foreign"])
def test_a_broken_archive_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "cifar100.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cifar100/data/apple/1.png", png(1))
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(
        DataError, match="not a complete zip" if kind == "truncated" else "not the CIFAR-FS archive"
    ) as e:
        load_dataset("cifar-fs", data_root=tmp_path, image_size=None) if not _decoded("cifar-fs-32") else _read(file)
    assert str(file) in str(e.value)


def _decoded(key: str) -> bool:
    return cache.entry(key).is_dir()


def _read(file: Path) -> None:
    catalog.source("cifar-fs").read([file], 32)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_folder(tmp_path / "f", classes=6)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left on device"):
        load_dataset(str(root), image_size=12)
    assert not list(cache.root().glob("datasets/.*"))


def test_two_processes_at_once_decode_once(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", classes=8, images=30)
    code = f"from autometa.data.load import load_dataset; print(load_dataset({str(root)!r}, image_size=48).fingerprint)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    prints = {process.communicate(timeout=60)[0] for process in both}
    assert all(process.returncode == 0 for process in both)
    assert prints == {load_dataset(str(root), image_size=48).fingerprint + "\n"}


def test_the_list_says_what_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))  # other tests decode FC100 into the common one
    (tmp_path / "fc100").mkdir()
    for archive in catalog.source("fc100").archives:
        (tmp_path / "fc100" / archive.file).write_bytes(b"x" * 4_000_000)
    status = {s.name: s.on_disk for s in describe_datasets(tmp_path)}
    assert status["digits"] == status["omniglot"] == "embedded"
    assert status["fc100"] == "archive, 4 MB"
    assert status["mnist"].startswith("no")
