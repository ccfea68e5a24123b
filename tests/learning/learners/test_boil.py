"""BOIL against plain SGD with a frozen head, and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.learners.boil import Boil
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


@pytest.mark.parametrize("steps", [1, 3])
def test_the_body_takes_steps_of_sgd_and_the_head_none(steps: int) -> None:
    torch.manual_seed(4)
    learner = Boil(Smooth(), SETTING, inner_lr=0.25, inner_steps=steps).double()
    task = double(make_episodes(batch=1))
    plain = nn.Sequential(Smooth(), nn.Linear(5, 3)).double()
    plain[0].load_state_dict(learner.backbone.state_dict())
    plain[1].load_state_dict(learner.head.state_dict())
    optimizer = torch.optim.SGD(plain[0].parameters(), lr=0.25)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(plain(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
    for weights in learner.trajectory(task, create_graph=False):
        assert weights["head.weight"] is learner.head.weight
        assert weights["head.bias"] is learner.head.bias
    for name, expected in plain[0].named_parameters():
        assert not torch.equal(expected, learner.backbone.get_parameter(name))
        torch.testing.assert_close(weights[f"backbone.{name}"], expected)
    torch.testing.assert_close(learner.query_logits(task)[0], plain(task.query_x[0]))


def test_second_order_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(5)
    learner = Boil(Smooth(), SETTING, inner_lr=0.3, inner_steps=2).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    assert {name for name, _ in learner.named_parameters()} >= {"head.weight", "head.bias"}
    for name, parameter in learner.named_parameters():
        direction = torch.randn_like(parameter)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
            losses.append(float(learner.task_loss(task)[0].detach()))
            with torch.no_grad():
                parameter -= sign * 1e-5 * direction
        assert parameter.grad is not None
        expected = (losses[0] - losses[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_in_first_order_the_gradient_is_that_at_the_adapted_weights() -> None:
    torch.manual_seed(6)
    learner = Boil(Smooth(), SETTING, inner_steps=2, first_order=True).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    adapted = {k: w.detach().requires_grad_() for k, w in learner.adapt(task, create_graph=False).items()}
    loss = F.cross_entropy(learner.query_scores(adapted, task)[0], task.query_y[0])
    expected = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    torch.testing.assert_close(learner.backbone.first.weight.grad, expected["backbone.first.weight"])
    torch.testing.assert_close(learner.head.weight.grad, expected["head.weight"])


def test_another_way_than_that_of_the_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"episode of 4 classes.*has 3"):
        Boil(Smooth(), SETTING).query_logits(make_episodes(way=4))
