"""Episodes bring what a frozen network says of their images, and a learner takes that instead of running it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.lite import Lite
from autometa.learning.features import pool_for
from autometa.learning.learner import Setting, each_image_once
from autometa.learning.learners.frozen import Frozen
from autometa.learning.learners.tuned import Tuned
from autometa.records import EpisodeSpec
from tests.learning.test_lite import needs_weights

SPEC = EpisodeSpec(way=2, shot=1, query=2)
pytestmark = needs_weights


@pytest.fixture(scope="module")
def learner() -> Frozen:
    backbone = Lite((1, 8, 8), image_size=32)
    backbone.scale.weight.data.uniform_(0.5, 1.5)
    return Frozen(backbone, Setting(way=2, train_classes=3), centre="none").eval()


def test_scores_by_known_features_are_those_by_images(
    digits: FewShotDataset, learner: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner.backbone.normalised_by(digits.mean, digits.std)
    how = {"count": 3, "seed": 4, "batch": 3}
    (plain,) = fixed_episodes(ImagePool(digits, "val"), SPEC, **how)
    (known,) = fixed_episodes(pool_for(learner, digits, "val"), SPEC, **how)
    torch.testing.assert_close(known.query_x, plain.query_x)
    expected = learner.query_logits(plain)
    monkeypatch.setattr(Lite, "described", _not_to_be_run)
    torch.testing.assert_close(learner.query_logits(known), expected, atol=0.02, rtol=0)  # float16
    parts = torch.cat([learner.query_logits(part) for part in known.split(2)])
    torch.testing.assert_close(parts, learner.query_logits(known))
    with pytest.raises(AssertionError, match="the network ran"):  # of other images nothing is known
        learner.query_logits(replace(known, query_x=known.query_x.flip(-1)))


def test_layers_that_are_tuned_read_what_is_known_once_for_an_image(
    digits: FewShotDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = Tuned(Lite((1, 8, 8), image_size=32, tuned=True), Setting(way=2, train_classes=3)).eval()
    tuned.backbone.normalised_by(digits.mean, digits.std)
    pool = pool_for(tuned, digits, "val")
    batches = list(fixed_episodes(pool, SPEC, count=40, seed=4, batch=10))
    expected = [tuned.query_logits(replace(batch, known=None)).detach() for batch in batches]
    read: list[int] = []
    plain = Lite.chosen
    monkeypatch.setattr(Lite, "described", _not_to_be_run)
    monkeypatch.setattr(Lite, "chosen", lambda self, rows: read.append(len(rows)) or plain(self, rows))
    with torch.no_grad(), each_image_once(tuned):
        found = [tuned.query_logits(batch) for batch in batches]
    images = torch.cat([torch.cat([batch.support_x, batch.query_x], 1).flatten(0, 1) for batch in batches])
    assert sum(read) == len(images.flatten(1).unique(dim=0)) < len(images)
    for known, of_images in zip(found, expected, strict=True):
        torch.testing.assert_close(known, of_images, atol=0.02, rtol=0)  # float16


def test_another_candidate_finds_the_features_of_the_first(
    digits: FewShotDataset, learner: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"count": 2, "seed": 11, "batch": 2}
    list(fixed_episodes(pool_for(learner, digits, "test"), SPEC, **how))
    monkeypatch.setattr(Lite, "described", _not_to_be_run)
    other = Frozen(Lite((1, 8, 8), image_size=32, layer="blocks"), learner.setting, head="ridge", centre="none")
    pool = pool_for(other, digits, "test")
    (episodes,) = fixed_episodes(pool, SPEC, **how)
    assert other.query_logits(episodes).shape == (2, 4, 2)
    assert pool.feature_seconds == 0
    larger = pool_for(Frozen(Lite((1, 8, 8), image_size=48), learner.setting), digits, "test")
    with pytest.raises(AssertionError, match="the network ran"):  # at another resolution it has to
        list(fixed_episodes(larger, SPEC, **how))


def test_augmented_images_bring_no_features(digits: FewShotDataset, learner: Frozen) -> None:
    pool = pool_for(learner, digits, "train")
    for augment, is_known in ((None, True), (lambda images, generator: images.flip(-1), False)):
        sampler = EpisodeSampler(pool, SPEC, batch=1, generator=torch.Generator().manual_seed(1), augment=augment)
        assert isinstance(learner.backbone, Lite)
        assert (sampler.episodes().rows_of(learner.backbone.key) is not None) is is_known


def test_images_kept_back_have_their_rows_too(digits: FewShotDataset, learner: Frozen) -> None:
    learner.backbone.normalised_by(digits.mean, digits.std)
    spec = EpisodeSpec(way=2, shot=2, query=3)
    (known,) = fixed_episodes(pool_for(learner, digits.keeping_back(5), "train"), spec, count=2, seed=3, batch=2)
    assert isinstance(learner.backbone, Lite)
    assert known.rows_of(learner.backbone.key) is not None
    expected = learner.query_logits(replace(known, known=None))
    torch.testing.assert_close(learner.query_logits(known), expected, atol=0.02, rtol=0)


def test_some_of_the_images_keep_what_is_known_of_them(digits: FewShotDataset, learner: Frozen) -> None:
    learner.backbone.normalised_by(digits.mean, digits.std)
    spec = EpisodeSpec(way=2, shot=3, query=2)
    (whole,) = fixed_episodes(pool_for(learner, digits, "val"), spec, count=1, seed=3, batch=1)
    labels = torch.tensor([[0, 1, 1]])
    part = whole.of_images(torch.tensor([2, 3, 4]), torch.tensor([0, 3]), support_y=labels, shots=(1, 2))
    assert isinstance(learner.backbone, Lite)
    assert part.rows_of(learner.backbone.key) is not None
    expected = learner.query_logits(replace(part, known=None))
    torch.testing.assert_close(learner.query_logits(part), expected, atol=0.02, rtol=0)
    assert replace(part, query_x=part.query_x.clone()).rows_of(learner.backbone.key) is None


def _not_to_be_run(self: Lite, prepared: Tensor) -> Tensor:
    raise AssertionError("the network ran")
