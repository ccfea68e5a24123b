"""Meta-SGD against MAML, finite differences and its equation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.meta_sgd import MetaSgd
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


@pytest.mark.parametrize("first_order", [False, True])
def test_with_equal_rates_it_is_maml(first_order: bool) -> None:
    torch.manual_seed(4)
    ours = MetaSgd(Smooth(), SETTING, inner_lr=0.3, inner_steps=3, first_order=first_order).double()
    maml = Maml(Smooth(), SETTING, inner_lr=0.3, inner_steps=3, first_order=first_order).double()
    maml.backbone.load_state_dict(ours.backbone.state_dict())
    source = Fixed(double(make_episodes()))
    torch.testing.assert_close(ours.outer_step(source), maml.outer_step(source))
    for one, other in zip(ours.backbone.parameters(), maml.backbone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_gradients_in_rates_and_weights_agree_with_finite_differences() -> None:
    torch.manual_seed(5)
    learner = MetaSgd(Smooth(), SETTING, inner_lr=0.3, inner_steps=3).double()
    task = double(make_episodes(batch=1))
    with torch.no_grad():
        learner.rates += 0.2 * torch.randn_like(learner.rates)  # some become negative
    learner.outer_step(Fixed(task))
    for name, parameter in learner.named_parameters():
        direction = torch.randn_like(parameter)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                losses.append(_loss(learner, task))
                parameter -= sign * 1e-5 * direction
        assert parameter.grad is not None
        expected = (losses[0] - losses[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_each_weight_moves_by_its_own_rate_and_classes_share_those_of_the_head() -> None:
    torch.manual_seed(6)
    learner = MetaSgd(Smooth(), SETTING, inner_steps=2).double()
    task = double(make_episodes(batch=1))
    with torch.no_grad():
        learner.rates.copy_(torch.rand_like(learner.rates))
    rates = learner.rates_of_weights()
    assert rates["head.weight"].shape == (5,)
    assert rates["head.bias"].shape == (1,)
    assert sum(r.numel() for r in rates.values()) == learner.rates.numel()
    net = Smooth().double()
    net.load_state_dict(learner.backbone.state_dict())
    weight, bias = torch.zeros(3, 5).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
    for _ in range(2):
        loss = F.cross_entropy(net(task.support_x[0]) @ weight.T + bias, task.support_y[0])
        named = {**{f"backbone.{n}": p for n, p in net.named_parameters()}, "head.weight": weight, "head.bias": bias}
        gradients = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for (name, moved), gradient in zip(named.items(), gradients, strict=True):
                moved -= rates[name] * gradient
    adapted = learner.adapt(task, create_graph=False)
    for name, expected in named.items():
        torch.testing.assert_close(adapted[name], expected)


def test_any_way_can_be_evaluated() -> None:
    learner = MetaSgd(Smooth(), SETTING).eval()
    assert learner.query_logits(make_episodes(way=4)).shape == (2, 16, 4)


def _loss(learner: MetaSgd, task: EpisodeBatch) -> float:
    with torch.enable_grad():
        return float(learner.task_loss(task)[0].detach())
