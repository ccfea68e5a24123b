"""Learners against their defining equations, by an independent computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.anil import Anil
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes

SETTING = Setting(way=3, train_classes=6)
LEARNERS: list[tuple[type[Learner], dict[str, Any]]] = [
    (Prototypical, {}),
    (Prototypical, {"metric": "cosine"}),
    (Maml, {"inner_steps": 2}),
    (Maml, {"inner_steps": 1, "first_order": True, "learned_rates": True}),
    (Anil, {"inner_steps": 3}),
    (Pretrain, {"head": "cosine"}),
    (Pretrain, {"head": "finetune", "train_head": "cosine"}),
]


class Smooth(nn.Module):
    """A tiny backbone without kinks, so that finite differences are exact enough."""

    features = 5

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2 * 8 * 8, 6)
        self.second = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor, layout: Any = None) -> torch.Tensor:
        return self.second(self.first(images.flatten(1)).tanh())


class Identity(nn.Module):
    """Features are the pixels."""

    features = 2 * 8 * 8

    def forward(self, images: torch.Tensor, layout: Any = None) -> torch.Tensor:
        return images.flatten(1)


class Fixed:
    """A training source that always gives the same batch."""

    def __init__(self, episodes: EpisodeBatch) -> None:
        self._episodes = episodes

    def episodes(self) -> EpisodeBatch:
        return self._episodes

    def images(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self._episodes.support_x.flatten(0, 1)[:count]
        return x, torch.arange(len(x)) % SETTING.train_classes


def double(episodes: EpisodeBatch) -> EpisodeBatch:
    return episodes.to("cpu", torch.float64)


@pytest.mark.parametrize("norm", ["running", "support", "per_step", "group", "none"])
@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_inductive_learners_use_nothing_of_the_other_query_images(
    kind: type[Learner], options: dict[str, Any], norm: str
) -> None:
    torch.manual_seed(1)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm=norm), SETTING, **options).double()
    assert not learner.transductive
    episodes = double(make_episodes())
    learner.outer_step(Fixed(episodes))  # so that running statistics are not their initial ones
    learner.eval()
    before = learner.query_logits(episodes)
    queries = episodes.query_x.clone()
    queries[:, 1:] = torch.randn_like(queries[:, 1:]) * 5
    changed = EpisodeBatch(episodes.support_x, episodes.support_y, queries, episodes.query_y, episodes.way)
    torch.testing.assert_close(learner.query_logits(changed)[:, 0], before[:, 0], rtol=1e-10, atol=1e-10)


def test_a_learner_with_transductive_statistics_says_so() -> None:
    learner = Prototypical(Conv((2, 8, 8), depth=1, width=4, norm="transductive"), SETTING)
    assert learner.transductive


@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_a_few_outer_steps_lower_the_loss(kind: type[Learner], options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, **options)
    source = Fixed(make_episodes())
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(float(learner.outer_step(source)["loss"]))
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("norm", ["support", "transductive"])
@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_scores_do_not_depend_on_how_tasks_are_batched(kind: type[Learner], options: dict[str, Any], norm: str) -> None:
    torch.manual_seed(3)
    learner = kind(ResNet12((2, 8, 8), width=4, norm=norm), SETTING, **options).double().eval()
    episodes = double(make_episodes(batch=3))
    together = learner.query_logits(episodes)
    alone = torch.cat([learner.query_logits(episodes.episode(i)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)


def test_prototypes_classify_as_nearest_centroid_does() -> None:
    episodes = double(make_episodes(batch=1, shot=3, query=20))
    ours = Prototypical(Identity(), SETTING).query_logits(episodes).argmax(-1)[0]
    theirs = NearestCentroid().fit(episodes.support_x[0].flatten(1).numpy(), episodes.support_y[0].numpy())
    np.testing.assert_array_equal(ours, theirs.predict(episodes.query_x[0].flatten(1).numpy()))


def test_prototypical_scores_are_squared_distances_over_temperature() -> None:
    episodes = double(make_episodes(batch=1))
    logits = Prototypical(Identity(), SETTING, temperature=0.5).query_logits(episodes)[0]
    prototypes = episodes.support_x[0].flatten(1).reshape(3, 2, -1).mean(1)
    distances = torch.cdist(episodes.query_x[0].flatten(1), prototypes).square() / (0.5 * 128**0.5)
    torch.testing.assert_close(logits.log_softmax(-1), (-distances).log_softmax(-1))


@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_maml_gradients_agree_with_finite_differences(steps: int) -> None:
    torch.manual_seed(4)
    learner = Maml(Smooth(), SETTING, inner_rate=0.3, inner_steps=steps, learned_rates=True).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    for name, parameter in learner.named_parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-5 * direction
        above = float(learner.task_loss(task)[0].detach())
        with torch.no_grad():
            parameter -= 2e-5 * direction
        below = float(learner.task_loss(task)[0].detach())
        with torch.no_grad():
            parameter += 1e-5 * direction
        assert parameter.grad is not None
        expected, found = (above - below) / 2e-5, float((parameter.grad * direction).sum())
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_first_order_maml_takes_the_gradient_at_the_adapted_weights() -> None:
    torch.manual_seed(5)
    learner = Maml(Smooth(), SETTING, inner_rate=0.2, inner_steps=2, first_order=True).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    adapted = {k: w.detach().requires_grad_() for k, w in learner.adapt(task, create_graph=False).items()}
    loss = F.cross_entropy(learner._query_scores(adapted, task)[0], task.query_y[0])
    expected = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    torch.testing.assert_close(learner.backbone.first.weight.grad, expected["backbone.first.weight"])


def test_an_inner_step_of_maml_is_a_step_of_sgd() -> None:
    torch.manual_seed(6)
    learner = Maml(Smooth(), SETTING, inner_rate=0.25, inner_steps=2).double()
    task = double(make_episodes(batch=1))
    plain = nn.Sequential(Smooth(), nn.Linear(5, 3)).double()
    plain[0].load_state_dict(learner.backbone.state_dict())
    nn.init.zeros_(plain[1].weight)
    nn.init.zeros_(plain[1].bias)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.25)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(plain(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
    adapted = learner.adapt(task, create_graph=False)
    torch.testing.assert_close(adapted["backbone.first.weight"], plain[0].first.weight)
    torch.testing.assert_close(adapted["head.weight"], plain[1].weight)


def test_anil_equals_maml_with_a_frozen_backbone_in_the_inner_loop() -> None:
    torch.manual_seed(7)
    backbone = Smooth().double()
    anil = Anil(backbone, SETTING, inner_rate=0.75, inner_steps=3).double()
    task = double(make_episodes(batch=1))
    loss = anil.loss(task)[0]
    ours = torch.autograd.grad(loss, list(backbone.parameters()))

    support, query = backbone(task.support_x[0]), backbone(task.query_x[0])
    weight = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        inner = F.cross_entropy(F.linear(support, weight, bias), task.support_y[0])
        steps = torch.autograd.grad(inner, [weight, bias], create_graph=True)
        weight, bias = weight - 0.75 * steps[0], bias - 0.75 * steps[1]
    outer = F.cross_entropy(F.linear(query, weight, bias), task.query_y[0])
    theirs = torch.autograd.grad(outer, list(backbone.parameters()))
    torch.testing.assert_close(loss, outer)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_finetuned_head_is_a_logistic_regression() -> None:
    episodes = double(make_episodes(batch=1, shot=5, query=30))
    learner = Pretrain(Identity(), SETTING, head="finetune", finetune_steps=2000)
    ours = learner.query_logits(episodes)[0].softmax(-1)
    support, query = (F.normalize(x[0].flatten(1), dim=-1).numpy() for x in (episodes.support_x, episodes.query_x))
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(support, episodes.support_y[0].numpy())
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(query), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_backbones_take_any_image_size_and_say_how_many_features(shape: tuple[int, int, int]) -> None:
    for backbone in (Conv(shape, depth=4, width=8), ResNet12(shape, width=4, wide=True, drop_rate=0.2, drop_block=3)):
        assert backbone(torch.randn(3, *shape)).shape == (3, backbone.features)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prototypical(Identity(), SETTING, temperature=0),
        lambda: Prototypical(Identity(), SETTING, metric="manhattan"),
        lambda: Maml(Identity(), SETTING, inner_steps=0),
        lambda: Maml(Identity(), SETTING, inner_rate=-1.0),
        lambda: Anil(Identity(), SETTING, inner_steps=0),
        lambda: Pretrain(Identity(), SETTING, head="svm"),
        lambda: Pretrain(Identity(), SETTING, label_smoothing=1.0),
        lambda: Conv((1, 8, 8), depth=0),
        lambda: ResNet12((1, 8, 8), drop_rate=1.0),
    ],
)
def test_an_option_out_of_range_names_itself(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"\w+\.\w+ = "):
        make()


def test_with_one_inner_step_maml_is_anil() -> None:
    """From a zero head no gradient reaches the backbone, so only the head moves."""
    torch.manual_seed(8)
    backbone = Smooth().double()
    task = double(make_episodes(batch=1))
    maml = Maml(backbone, SETTING, inner_rate=0.5, inner_steps=1).double()
    anil = Anil(backbone, SETTING, inner_rate=0.5, inner_steps=1).double()
    ours, theirs = maml.task_loss(task)[0], anil.loss(task)[0]
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(loss, list(backbone.parameters())) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_the_order_of_class_labels_does_not_matter(kind: type[Learner], options: dict[str, Any]) -> None:
    torch.manual_seed(9)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, **options).double().eval()
    task = double(make_episodes(batch=1, shot=2))
    order = torch.tensor([2, 0, 1])  # class c of the other task is class order[c] of this one
    support = task.support_x.unflatten(1, (3, 2))[:, order].flatten(1, 2)
    other = EpisodeBatch(support, task.support_y, task.query_x, task.query_y, task.way)
    torch.testing.assert_close(learner.query_logits(other), learner.query_logits(task)[..., order])
