"""Episodes: what is drawn, that it is right, and that it is the same for the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler, draw_episodes, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.data.rotation import rotated
from autometa.errors import DataError
from autometa.records import EpisodeSpec


def table_of(pool: ImagePool) -> torch.Tensor:
    """Indices of the images of each class."""
    return pool.tables(torch.device("cpu"))[1]


def sampler(digits: FewShotDataset, spec: EpisodeSpec, batch: int = 3, seed: int = 1) -> EpisodeSampler:
    return EpisodeSampler(ImagePool(digits, "train"), spec, batch=batch, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(way=st.integers(2, 24), shot=st.integers(1, 6), query=st.integers(1, 9), seed=st.integers(0, 999))
def test_drawn_images_are_distinct_and_of_their_class(
    digits: FewShotDataset, way: int, shot: int, query: int, seed: int
) -> None:
    spec = EpisodeSpec(way=way, shot=shot, query=query)
    index = draw_episodes(ImagePool(digits, "train"), spec, 3, torch.Generator().manual_seed(seed))
    assert index.shape == (3, way, shot + query)
    for episode in index.numpy():
        labels = digits.labels[episode]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0])) == way
        assert set(labels[:, 0]) <= set(digits.splits["train"])
        assert len(set(episode.ravel())) == episode.size


def test_the_first_fixed_episodes_are_those_of_all(digits: FewShotDataset) -> None:
    pool, spec = ImagePool(digits, "val"), EpisodeSpec(way=3, shot=2, query=2)
    everything = list(fixed_episodes(pool, spec, count=9, seed=5, batch=4))
    some = list(fixed_episodes(pool, spec, count=9, seed=5, batch=4, first=6))
    assert [part.batch for part in some] == [4, 2]
    torch.testing.assert_close(some[1].query_x, everything[1].query_x[:2])


def test_a_batch_has_the_shapes_and_labels_it_promises(digits: FewShotDataset) -> None:
    batch = sampler(digits, EpisodeSpec(way=4, shot=2, query=3)).episodes()
    assert batch.support_x.shape == (3, 8, 1, 8, 8)
    assert batch.query_x.shape == (3, 12, 1, 8, 8)
    assert batch.support_y[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.query_y[2].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (batch.batch, batch.way, batch.shot, batch.query) == (3, 4, 2, 3)
    assert batch.episode(1).support_x.shape == (1, 8, 1, 8, 8)


def test_pixels_are_those_of_the_data_set_normalised_by_its_train_classes(digits: FewShotDataset) -> None:
    pool = ImagePool(digits, "val")
    index = torch.tensor([int(np.flatnonzero(digits.labels == digits.splits["val"][0])[4])])
    expected = (digits.images[index[0]].astype(np.float64) / 255 - digits.mean[0]) / digits.std[0]
    np.testing.assert_allclose(pool.gather(index)[0].numpy(), expected, atol=1e-5)
    train = np.isin(digits.labels, digits.splits["train"])
    assert digits.mean[0] == pytest.approx((digits.images[train] / 255).mean(), abs=1e-6)
    assert digits.std[0] == pytest.approx((digits.images[train] / 255).std(), abs=1e-6)


def test_fixed_episodes_are_the_same_for_every_batch_size_and_differ_by_seed(digits: FewShotDataset) -> None:
    pool, spec = ImagePool(digits, "test"), EpisodeSpec(way=5, shot=1, query=4)

    def all_queries(seed: int, batch: int) -> torch.Tensor:
        return torch.cat([b.query_x for b in fixed_episodes(pool, spec, count=11, seed=seed, batch=batch)])

    assert torch.equal(all_queries(3, 4), all_queries(3, 11))
    assert not torch.equal(all_queries(3, 4), all_queries(4, 4))


def test_the_same_seed_gives_the_same_stream(digits: FewShotDataset) -> None:
    spec = EpisodeSpec(way=3, shot=1, query=2)
    one, two = (sampler(digits, spec, seed=9) for _ in range(2))
    for _ in range(3):
        assert torch.equal(one.episodes().support_x, two.episodes().support_x)
    assert torch.equal(one.images(7)[0], two.images(7)[0])


def test_images_come_with_the_index_of_their_train_class(digits: FewShotDataset) -> None:
    source = sampler(digits, EpisodeSpec(way=3, shot=1, query=2))
    images, classes = source.images(2000)
    assert images.shape == (2000, 1, 8, 8)
    assert set(classes.tolist()) == set(range(24))
    pool = ImagePool(digits, "train")
    own = pool.gather(table_of(pool)[classes[0], : pool.counts[classes[0]]])
    assert (own == images[0]).all(dim=(1, 2, 3)).any()


def test_every_class_and_image_is_drawn_equally_often(digits: FewShotDataset) -> None:
    pool = ImagePool(digits, "val")
    index = draw_episodes(pool, EpisodeSpec(way=2, shot=1, query=1), 4000, torch.Generator().manual_seed(0))
    counts = np.bincount(digits.labels[index[:, :, 0].numpy().ravel()], minlength=40)[digits.splits["val"]]
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (EpisodeSpec(way=9, shot=1), "has 8 classes, but --way 9"),
        (EpisodeSpec(way=5, shot=180), r"has \d+ images, but --shot 180 \+ --query 15"),
    ],
)
def test_a_split_that_is_too_small_says_what_to_change(digits: FewShotDataset, spec: EpisodeSpec, says: str) -> None:
    with pytest.raises(DataError, match=says):
        next(fixed_episodes(ImagePool(digits, "val"), spec, count=2, seed=0, batch=2))


def rotating(digits: FewShotDataset, way: int, seed: int = 5) -> EpisodeSampler:
    spec = EpisodeSpec(way=way, shot=2, query=3)
    generator = torch.Generator().manual_seed(seed)
    return EpisodeSampler(ImagePool(digits, "train"), spec, batch=4, generator=generator, rotations=True)


def test_each_image_is_rotated_by_its_own_quarter_turns() -> None:
    images, turns = torch.randn(9, 2, 5, 5), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 5])
    expected = torch.stack([image.rot90(int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)])
    assert torch.equal(rotated(images, turns), expected)


def test_a_rotated_class_is_a_class_of_its_own_in_episodes(digits: FewShotDataset) -> None:
    # The digits' own classes are rotations of each other; noise is like itself alone.
    noise = np.random.default_rng(0).integers(0, 256, digits.images.shape, dtype=np.uint8)
    digits = dataclasses.replace(digits, images=noise)
    way, pool = 20, ImagePool(digits, "train")
    there = torch.arange(table_of(pool).shape[1]) < pool.counts[:, None]
    train, owners = pool.gather(table_of(pool)[there]), there.nonzero()[:, 0]
    batch = rotating(digits, way).episodes()
    shared = 0
    for support, query in zip(batch.support_x, batch.query_x, strict=True):
        images = torch.cat([support.unflatten(0, (way, 2)), query.unflatten(0, (way, 3))], 1)
        kinds = [_kind(members, train, owners) for members in images]
        assert all(len(common) == 1 for common in kinds)  # all five images: one class, turned alike
        kind = [next(iter(common)) for common in kinds]
        assert len(set(kind)) == way
        shared += way - len({owner for owner, _ in kind})
    assert shared > 0  # some class was in an episode in two positions


def _kind(members: torch.Tensor, train: torch.Tensor, owners: torch.Tensor) -> set[tuple[int, int]]:
    """Every (class, turn) of which all these images [n, C, H, W] are."""
    found = [
        {
            (int(owners[i]), turn)
            for turn in range(4)
            for i in (train == image.rot90(-turn, (1, 2))).all(dim=(1, 2, 3)).nonzero()
        }
        for image in members
    ]
    return set.intersection(*found)


def test_rotated_images_have_four_times_the_labels(digits: FewShotDataset) -> None:
    source, pool = rotating(digits, 3), ImagePool(digits, "train")
    assert source.classes == 4 * pool.classes == 96
    images, labels = source.images(3000)
    assert set(labels.tolist()) == set(range(96))
    for image, label in zip(images[:20], labels[:20].tolist(), strict=True):
        own = pool.gather(table_of(pool)[label // 4, : pool.counts[label // 4]])
        assert (own == image.rot90(-(label % 4), (1, 2))).all(dim=(1, 2, 3)).any()


def test_without_rotations_the_classes_are_those_of_the_split(digits: FewShotDataset) -> None:
    source = sampler(digits, EpisodeSpec(way=3, shot=1, query=2), seed=9)
    assert source.classes == 24
    # The stream as it was before rotations could be asked for.
    episodes, (images, labels) = source.episodes(), source.images(5)
    assert labels.tolist() == [10, 23, 8, 7, 15]
    assert float(episodes.support_x.double().sum()) == pytest.approx(33.50283, abs=1e-3)
    assert float(images.double().sum()) == pytest.approx(1.96988, abs=1e-3)


def test_images_that_are_not_square_cannot_be_rotated(digits: FewShotDataset) -> None:
    narrow = dataclasses.replace(digits, images=digits.images[..., :6])
    with pytest.raises(DataError, match="8 × 6"):
        rotating(narrow, 3)
