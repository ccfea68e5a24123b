"""The LSTM meta-learner against gradient descent, its equations written out, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.learners.lstm import Gates, LstmMetaLearner, preprocessed
from autometa.learning.learners.maml import Maml
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


@pytest.mark.parametrize("x", [3.0, -0.2, math.exp(-9.9), -math.exp(-10.1), 1e-9, 0.0])
def test_preprocessing_is_that_of_andrychowicz(x: float) -> None:
    large = abs(x) >= math.exp(-10)
    expected = [math.log(abs(x)) / 10, math.copysign(1, x)] if large else [-1.0, math.exp(10) * x]
    assert preprocessed(torch.tensor(x, dtype=torch.float64)).tolist() == pytest.approx(expected, abs=1e-12)


def test_with_fixed_gates_it_is_first_order_maml() -> None:
    torch.manual_seed(4)
    ours = LstmMetaLearner(Smooth(), SETTING, inner_steps=3, inner_lr=0.25).double()
    fix_gates(ours.gates)
    maml = Maml(Smooth(), SETTING, inner_steps=3, inner_lr=0.25, first_order=True).double()
    maml.backbone.load_state_dict(ours.backbone.state_dict())
    episodes = double(make_episodes())
    task = episodes.episode(0)
    pairs = zip(ours.trajectory(task, create_graph=True), maml.trajectory(task, create_graph=False), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.outer_step(Fixed(episodes)), maml.outer_step(Fixed(episodes)))
    for one, other in zip(ours.backbone.parameters(), maml.backbone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.eval().query_logits(episodes), maml.eval().query_logits(episodes))


def test_at_the_start_it_is_close_to_gradient_descent_with_the_inner_lr() -> None:
    torch.manual_seed(5)
    gates = Gates(hidden=20, inner_lr=0.03)
    state = gates(torch.randn(50), torch.tensor(1.1), torch.randn(50), None)
    torch.testing.assert_close(state.input, torch.full((50,), 0.03), rtol=0.1, atol=0)
    torch.testing.assert_close(state.forget, torch.full((50,), 0.9933), rtol=1e-3, atol=0)


def test_gradients_are_those_of_the_equations_with_losses_and_their_gradients_held_constant() -> None:
    torch.manual_seed(6)
    learner = LstmMetaLearner(Smooth(), SETTING, inner_steps=3, hidden=4, inner_lr=0.2).double()
    with torch.no_grad():
        for parameter in learner.gates.parameters():  # so that everything matters
            parameter += 0.3 * torch.randn_like(parameter)
    task = double(make_episodes(batch=1))
    seen = what_the_gates_see(learner, task)
    torch.testing.assert_close(
        float(loss_by_equations(learner, task, seen).detach()), float(learner.task_loss(task)[0].detach())
    )
    learner.outer_step(Fixed(task))
    for name, parameter in learner.named_parameters():
        direction = torch.randn_like(parameter)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
                losses.append(float(loss_by_equations(learner, task, seen)))
                parameter -= sign * 1e-5 * direction
        assert parameter.grad is not None
        expected = (losses[0] - losses[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_any_way_can_be_evaluated() -> None:
    learner = LstmMetaLearner(Smooth(), SETTING).eval()
    assert learner.query_logits(make_episodes(way=4)).shape == (2, 16, 4)


def fix_gates(gates: Gates) -> None:
    """f = 1 whatever is seen, and i what its bias says."""
    with torch.no_grad():
        gates.forget.weight.zero_()
        gates.input.weight.zero_()
        gates.forget.bias.fill_(1e3)


def what_the_gates_see(learner: LstmMetaLearner, task: EpisodeBatch) -> list[tuple[Tensor, Tensor]]:
    """The gradient [P] and the loss before each step, by the learner's own trajectory on a plain network."""
    found = []
    *before, _ = [learner.initial_weights(task.way), *learner.trajectory(task, create_graph=False)]
    for weights in before:
        leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
        loss = F.cross_entropy(scores(leaves, task.support_x[0]), task.support_y[0])
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        found.append((torch.cat([g.flatten() for g in gradients]), loss.detach()))
    return found


def scores(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """What `Smooth` and the head give."""
    hidden = (images.flatten(1) @ weights["backbone.first.weight"].T + weights["backbone.first.bias"]).tanh()
    features = hidden @ weights["backbone.second.weight"].T + weights["backbone.second.bias"]
    return features @ weights["head.weight"].T + weights["head.bias"]


def loss_by_equations(learner: LstmMetaLearner, task: EpisodeBatch, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The query loss after inner steps with these gradients and losses, from the parameters alone."""
    start = learner.initial_weights(task.way)
    c = torch.cat([w.flatten() for w in start.values()])
    g = dict(learner.gates.named_parameters())
    h, s, f, i = (
        torch.zeros(len(c), 4).double(),
        torch.zeros(len(c), 4).double(),
        torch.zeros_like(c),
        torch.zeros_like(c),
    )
    for gradient, loss in seen:
        x = torch.cat([preprocessed(gradient), preprocessed(loss.expand(len(c)))], 1)
        a = x @ g["lstm.weight_ih"].T + g["lstm.bias_ih"] + h @ g["lstm.weight_hh"].T + g["lstm.bias_hh"]
        admit, keep, new, out = a.chunk(4, 1)  # torch's order of gates
        s = keep.sigmoid() * s + admit.sigmoid() * new.tanh()
        h = out.sigmoid() * s.tanh()
        wf, wi = g["forget.weight"][0], g["input.weight"][0]
        f, i = (
            (h @ wf[:4] + wf[4] * c + wf[5] * f + g["forget.bias"]).sigmoid(),
            (h @ wi[:4] + wi[4] * c + wi[5] * i + g["input.bias"]).sigmoid(),
        )
        c = f * c - i * gradient
    parts = c.split([w.numel() for w in start.values()])
    adapted = {name: part.view_as(w) for (name, w), part in zip(start.items(), parts, strict=True)}
    return F.cross_entropy(scores(adapted, task.query_x[0]), task.query_y[0])
