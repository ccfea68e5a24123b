"""MAML against finite differences and plain SGD."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autometa.learning.learners.maml import Maml
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


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
    loss = F.cross_entropy(learner.query_scores(adapted, task)[0], task.query_y[0])
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
