"""Relation networks against the same layers on maps that are really put side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.learner import Setting
from autometa.learning.learners.relation import Relation, RelationModule
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double


def relation_of(learner: Relation, width: int) -> nn.Sequential:
    """The paper's relation module, of torch's own layers, with the learner's weights, on maps averaged to 5 × 5."""
    module = learner.relation
    of_class_and_query = nn.Sequential(
        nn.AdaptiveAvgPool2d(5),
        nn.Conv2d(4, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width, module.hidden.out_features),
        nn.ReLU(),
        nn.Linear(module.hidden.out_features, 1),
    ).double()
    with torch.no_grad():
        for theirs, ours in zip(of_class_and_query.parameters(), module.parameters(), strict=True):
            theirs.copy_(ours)
    return of_class_and_query


def test_scores_are_the_relation_of_a_class_and_a_query_side_by_side() -> None:
    torch.manual_seed(17)
    learner = Relation(Identity(), SETTING, width=6, hidden=5).double()
    for norm in (learner.relation.first_norm, learner.relation.second_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    relation = relation_of(learner, 6)
    episodes = double(make_episodes(shot=3, query=2))
    pairs = torch.stack(
        [
            torch.cat([episodes.support_x[task][episodes.support_y[task] == c].mean(0), query])
            for task in range(2)
            for query in episodes.query_x[task]
            for c in range(3)
        ]
    )
    torch.testing.assert_close(learner.scores(episodes), relation(pairs).view(2, 6, 3))
    learner.eval()
    relation.eval()  # with the averages that the pass before left
    torch.testing.assert_close(learner.scores(episodes), relation(pairs).view(2, 6, 3))


@pytest.mark.parametrize(("shape", "met"), [((2, 8, 8), (5, 5)), ((2, 3, 7), (3, 5)), ((2, 4, 5), (4, 5))])
def test_large_maps_meet_at_five_by_five(shape: Shape, met: tuple[int, int]) -> None:
    module = RelationModule(shape, hidden=4, width=6)
    seen = []
    module.first_norm.register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0].shape))
    assert module(torch.randn(1, 3, *shape), torch.randn(1, 5, *shape)).shape == (1, 5, 3)
    assert seen == [(15, 6, *met)]


@pytest.mark.parametrize(("side", "met"), [(1, 1), (4, 4), (8, 8), (19, 8)])
def test_the_size_at_which_maps_meet_is_an_option(side: int, met: int) -> None:
    learner = Relation(Identity(), SETTING, width=6, side=side)
    seen = []
    learner.relation.first_norm.register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0].shape))
    learner.scores(make_episodes())
    assert seen[0][-2:] == (met, met)


def test_maps_that_are_not_averaged_are_those_of_the_backbone() -> None:
    learner = Relation(Identity(), SETTING, width=6, side=8).double()
    episodes = double(make_episodes(batch=1, shot=1, query=1))
    first = learner.relation.first
    expected = [
        F.conv2d(torch.cat([support, query])[None], first.weight, padding=1)
        for query in episodes.query_x[0]
        for support in episodes.support_x[0]
    ]
    seen = []
    learner.relation.first_norm.register_forward_hook(lambda _m, inputs, _y: seen.append(inputs[0]))
    learner.scores(episodes)
    torch.testing.assert_close(seen[0], torch.cat(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_mean_squared_error_of_relation_scores(smoothing: float) -> None:
    learner = Relation(Identity(), Setting(way=3, train_classes=6, label_smoothing=smoothing), width=8).double()
    episodes = double(make_episodes())
    loss, metrics = learner.loss(episodes)
    r = 1 / (1 + np.exp(-learner.scores(episodes).detach().numpy()))
    target = np.eye(3)[episodes.query_y.numpy()] * (1 - smoothing) + smoothing / 3
    assert float(loss.detach()) == pytest.approx(((r - target) ** 2).mean(), rel=1e-9)
    assert float(metrics["accuracy"]) == pytest.approx((r.argmax(-1) == episodes.query_y.numpy()).mean())


def test_the_other_loss_is_cross_entropy() -> None:
    learner = Relation(Identity(), SETTING, width=8, loss_kind="cross_entropy").double()
    episodes = double(make_episodes())
    expected = F.cross_entropy(learner.scores(episodes).flatten(0, 1), episodes.query_y.flatten())
    torch.testing.assert_close(learner.loss(episodes)[0], expected)


class Odd(Identity):
    """Maps of 2 × 3 × 7, whose sides cannot be halved without rest."""

    def __init__(self) -> None:
        Backbone.__init__(self, (2, 3, 7), (2, 3, 7), "flatten")


@pytest.mark.parametrize(("backbone", "shape"), [(Smooth, (2, 8, 8)), (Odd, (2, 3, 7))])
def test_maps_of_any_size_are_scored(backbone: Any, shape: tuple[int, ...]) -> None:
    learner = Relation(backbone(), SETTING, width=8)
    learner.outer_step(Fixed(make_episodes(shape=shape)))
    assert all(p.grad is not None for p in learner.parameters())
    assert learner.query_logits(make_episodes(way=4, shot=1, query=2, shape=shape)).shape == (2, 8, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, r"relation\.hidden = 0"),
        ({"width": 2000}, r"relation\.width = 2000"),
        ({"loss_kind": "hinge"}, r"relation\.loss_kind = 'hinge'"),
    ],
)
def test_options_of_relation_name_themselves(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Relation(Identity(), SETTING, **options)
