"""A data set split by images: all of its classes are trained on, and no image of a test is among the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.data.all_classes import labelled_alone, split_by_images
from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler, fixed_episodes
from autometa.data.identity import identity_of
from autometa.data.image_pool import ImagePool
from autometa.errors import DataError
from autometa.records import EpisodeSpec
from autometa.trial.job import DatasetRef
from autometa.trial.opened import change_between, open_dataset
from tests.deployment.photos import write_photos

COUNTS = (4, 10, 30, 150)
SPEC = EpisodeSpec(way=4, shot=6, query=1)


@pytest.fixture
def numbered() -> FewShotDataset:
    """Each image is its number, and classes are of different sizes, one of them in another split."""
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    numbers = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return FewShotDataset(
        name="some",
        images=numbers,
        labels=labels,
        class_names=tuple("abcd"),
        splits={"train": np.array([0, 2]), "val": np.array([1]), "test": np.array([3])},
        mean=(0.0,),
        std=(1 / 255,),
        fingerprint="f",
    )


def test_each_class_has_images_of_its_own_for_training_validation_and_test(numbered: FewShotDataset) -> None:
    data = split_by_images(numbered)
    parts = {split: data.members(split) for split in ("train", "val", "test")}
    assert {split: [len(images) for images in of] for split, of in parts.items()} == {
        "train": [2, 6, 18, 110],
        "val": [1, 2, 6, 20],
        "test": [1, 2, 6, 20],
    }
    whole = np.concatenate([images for of in parts.values() for images in of])
    assert sorted(whole.tolist()) == list(range(sum(COUNTS)))
    for of in parts.values():
        assert [numbered.labels[images].tolist() for images in of] == [[n] * len(i) for n, i in enumerate(of)]
    assert all(train.max() < val.min() < test.min() for train, val, test in zip(*parts.values(), strict=True))


@pytest.mark.parametrize("split", ["val", "test"])
def test_episodes_name_images_of_the_split_by_images_of_the_others(numbered: FewShotDataset, split: str) -> None:
    data = split_by_images(numbered)
    pool = ImagePool(data, split)
    (episodes,) = fixed_episodes(pool, SPEC, count=50, seed=3, batch=50)
    support, query = (x.flatten(1).round().long().numpy() for x in (episodes.support_x, episodes.query_x))
    assert set(query.ravel()) <= set(np.concatenate(data.members(split)))
    counts = (2, 6, 18, 20) if split == "val" else (3, 8, 20, 20)
    first = [np.flatnonzero(numbered.labels == n)[:count] for n, count in enumerate(counts)]
    assert set(support.ravel()) == set(np.concatenate(first))
    assert episodes.classes is not None
    assert set(map(tuple, np.sort(episodes.classes.numpy(), 1))) == {(0, 1, 2, 3)}
    for x, y in ((support, episodes.support_y), (query, episodes.query_y)):
        own = np.take_along_axis(episodes.classes.numpy(), y.numpy(), 1)
        np.testing.assert_array_equal(numbered.labels[x], own)


def test_labelled_images_recur_only_where_a_class_has_fewer(numbered: FewShotDataset) -> None:
    pool = ImagePool(split_by_images(numbered), "val")
    (episodes,) = fixed_episodes(pool, SPEC, count=40, seed=5, batch=40)
    support = episodes.support_x.flatten(1).round().long().reshape(40, 4, 6)
    owner = torch.from_numpy(numbered.labels)[support[..., 0]]
    distinct = torch.tensor([[len(row.unique()) for row in episode] for episode in support])
    assert set(distinct[owner == 0].tolist()) == {2}  # two images, three times each
    assert set(distinct[owner > 0].tolist()) == {6}


def test_training_draws_images_to_train_on_alone(numbered: FewShotDataset) -> None:
    data = split_by_images(numbered)
    generator = torch.Generator().manual_seed(0)
    spec = EpisodeSpec(way=4, shot=1, query=1)
    sampler = EpisodeSampler(ImagePool(data, "train"), spec, batch=60, generator=generator)
    seen = torch.cat([sampler.episodes().support_x.flatten(), sampler.images(200)[0].flatten()])
    assert set(seen.round().long().tolist()) <= set(np.concatenate(data.members("train")))


def test_what_is_not_trained_looks_at_labelled_images_alone(numbered: FewShotDataset) -> None:
    data = split_by_images(numbered)
    train = ImagePool(labelled_alone(data), "train")
    assert train.counts.tolist() == [2, 6, 18, 20]
    assert [len(images) for images in labelled_alone(data).members("val")] == [1, 2, 6, 20]


def test_it_is_the_same_data_split_in_another_way(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", dict.fromkeys("abcdefgh", 8))
    plain = DatasetRef(name=str(photos))
    ref = plain.model_copy(update={"all_classes": True})
    data, as_it_lies = open_dataset(ref), open_dataset(plain)
    assert identity_of(data) == identity_of(as_it_lies)
    assert data.fingerprint != as_it_lies.fingerprint
    assert open_dataset(ref.model_copy(update={"identity": identity_of(data)})).fingerprint == data.fingerprint
    assert change_between(plain, ref) == "one is split by images, to tell all classes apart, and one by classes"


def test_what_is_too_small_is_told(numbered: FewShotDataset) -> None:
    labels = numbered.labels.copy()
    labels[0] = 1
    with pytest.raises(DataError, match=r"class 'a' of some has 3 images: to tell all classes apart takes 4 of each"):
        split_by_images(replace(numbered, labels=labels))
    with pytest.raises(DataError, match=r"class 'a' of some has 1 images to name: lower --query to that"):
        split_by_images(numbered).require("test", SPEC.model_copy(update={"query": 2}))
