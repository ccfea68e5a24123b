"""CNAPs: the task's point, what it does to the backbone, and the two heads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learner import embed
from autometa.learning.learners.cnaps import Cnaps, squared_mahalanobis
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.normalization import Layout, Norm
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, double


class Single(Backbone):
    """A convolution and one norm."""

    def __init__(self) -> None:
        super().__init__((2, 8, 8), (4, 8, 8), "flatten")
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = Norm(4, "group")

    def maps(self, images: torch.Tensor, layout: Layout | None = None) -> torch.Tensor:
        return self.norm(self.conv(images), layout)


def moved(learner: Cnaps) -> Cnaps:
    """The learner in float64 with adapters that are no longer zero."""
    for adapter in learner.adapters:
        assert isinstance(adapter, nn.Sequential)
        for parameter in adapter[-1].parameters():
            nn.init.normal_(parameter)
    return learner.double().eval()


@pytest.mark.parametrize("norm", ["running", "support", "group"])
def test_an_untrained_adapter_changes_nothing(norm: str) -> None:
    learner = Cnaps(ResNet12((2, 8, 8), width=4, norm=norm), SETTING).eval()
    episodes = make_episodes()
    film = learner.film(learner.task_point(episodes))
    assert len(film) == 16
    for adapted, plain in zip(
        embed(learner.backbone, episodes, film=film), embed(learner.backbone, episodes), strict=True
    ):
        assert torch.equal(adapted, plain)


def test_each_task_has_its_own_scale_and_shift_of_each_channel() -> None:
    torch.manual_seed(0)
    learner = moved(Cnaps(Single(), SETTING, task_features=6))
    assert isinstance(learner.backbone, Single)
    episodes = double(make_episodes(batch=3))
    film = learner.film(learner.task_point(episodes))
    scale, shift = film[learner.backbone.norm]
    assert scale.shape == shift.shape == (3, 4)
    assert (scale[0] - scale[1]).abs().min() > 1e-4
    _, query = embed(learner.backbone, episodes, film=film)
    for b in range(3):
        plain = learner.backbone.maps(episodes.query_x[b])
        by_hand = torch.stack([scale[b, c] * plain[:, c] + shift[b, c] for c in range(4)], dim=1)
        torch.testing.assert_close(query[b], by_hand.flatten(1))


def test_the_point_of_a_task_is_the_mean_of_its_support_images_and_of_nothing_else() -> None:
    learner = Cnaps(Conv((2, 8, 8), depth=1, width=8), SETTING, task_features=7).double()
    episodes = double(make_episodes())
    point = learner.task_point(episodes)
    assert point.shape == (2, 7)
    alone = torch.stack([learner.encoder(image[None])[0] for image in episodes.support_x[1]])
    torch.testing.assert_close(point[1], alone.mean(0))
    assert torch.equal(learner.task_point(dataclasses.replace(episodes, query_x=episodes.query_x * 9)), point)


@pytest.mark.parametrize("head", ["euclidean", "mahalanobis"])
def test_the_order_of_the_shots_does_not_matter(head: str) -> None:
    torch.manual_seed(1)
    learner = moved(Cnaps(Conv((2, 8, 8), depth=2, width=8), SETTING, head=head))
    episodes = double(make_episodes(shot=3))
    images = episodes.support_x.unflatten(1, (3, 3))[:, :, [2, 0, 1]].flatten(1, 2)
    shuffled = EpisodeBatch(images, episodes.support_y, episodes.query_x, episodes.query_y, episodes.way)
    torch.testing.assert_close(learner.query_logits(shuffled), learner.query_logits(episodes))


def test_without_adaptation_it_is_a_prototypical_network() -> None:
    torch.manual_seed(2)
    backbone, episodes = Conv((2, 8, 8), depth=2, width=8).eval(), make_episodes()
    ours = Cnaps(backbone, SETTING, temperature=0.3).eval().query_logits(episodes)
    assert torch.equal(ours, Prototypical(backbone, SETTING, temperature=0.3).query_logits(episodes))


@pytest.mark.parametrize(("way", "shot"), [(3, 4), (5, 1), (1, 1)])
def test_mahalanobis_distances_are_those_of_shrunk_class_covariances(way: int, shot: int) -> None:
    rng, width, queries = np.random.default_rng(3), 6, 7
    support, query = rng.normal(size=(way * shot, width)) * 2, rng.normal(size=(queries, width)) * 2
    expected = np.zeros((queries, way))
    of_task = np.cov(support.T) if way * shot > 1 else np.zeros((width, width))
    for k in range(way):
        own = support[k * shot : (k + 1) * shot]
        of_class = np.cov(own.T) if shot > 1 else np.zeros((width, width))
        share = shot / (shot + 1)
        precision = np.linalg.inv(share * of_class + (1 - share) * of_task + np.eye(width))
        offset = query - own.mean(0)
        expected[:, k] = np.einsum("qi,ij,qj->q", offset, precision, offset)
    ours = squared_mahalanobis(torch.tensor(support)[None].split(shot, 1), torch.tensor(query)[None])
    np.testing.assert_allclose(ours[0].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("factor", [1e25, float("inf"), float("nan")])
def test_features_that_are_too_large_end_in_a_loss_that_is_not_finite(factor: float) -> None:
    learner = Cnaps(Conv((2, 8, 8), depth=1, width=8), SETTING, head="mahalanobis")
    nn.init.constant_(learner.backbone.blocks[0].norm.weight, factor)  # type: ignore[union-attr, index]
    loss, _ = learner.loss(make_episodes())
    loss.backward()
    assert not loss.isfinite()


def test_a_covariance_without_a_root_gives_nan_to_its_class_alone() -> None:
    support, query = torch.randn(2, 6, 5), torch.randn(2, 4, 5)
    expected = squared_mahalanobis(support.split(2, 1), query)
    support[1] = 1e30  # its products are infinite
    found = squared_mahalanobis(support.split(2, 1), query)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1].isnan().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_reads_images_whatever_the_backbone_makes_of_them(channels: int) -> None:
    shape = (channels, 8, 8)
    learner = Cnaps(Mlp(shape, depth=1, width=12), SETTING)
    learner.outer_step(Fixed(make_episodes(shape=shape)))
    assert learner.task_point(make_episodes(shape=shape)).shape == (2, 32)
    assert all(p.grad is not None for p in learner.parameters())


def test_a_trained_adapter_places_different_tasks_apart() -> None:
    torch.manual_seed(4)
    learner, episodes = Cnaps(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING), make_episodes()
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        learner.loss(episodes)[0].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    (scale, _), *_ = learner.film(learner.task_point(episodes)).values()
    assert (scale[0] - scale[1]).abs().max() > 1e-4


def test_a_backbone_without_norms_cannot_be_adapted() -> None:
    with pytest.raises(ConfigError, match="identity has none"):
        Cnaps(Identity(), SETTING)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"task_features": 0}, {"head": "cosine"}])
def test_an_option_out_of_range_names_itself(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"cnaps\.{next(iter(options))} = "):
        Cnaps(Conv((2, 8, 8), depth=1, width=8), SETTING, **options)  # type: ignore[arg-type]
