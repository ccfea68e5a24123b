"""MAML against finite differences and plain SGD."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.meta_sgd import MetaSgd
from autometa.learning.normalization import Layout
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_maml_gradients_agree_with_finite_differences(steps: int) -> None:
    torch.manual_seed(4)
    learner = Maml(Smooth(), SETTING, inner_lr=0.3, inner_steps=steps, learned_rates=True).double()
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
    learner = Maml(Smooth(), SETTING, inner_lr=0.2, inner_steps=2, first_order=True).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    adapted = {k: w.detach().requires_grad_() for k, w in learner.adapt(task, create_graph=False).items()}
    loss = F.cross_entropy(learner.query_scores(adapted, task)[0], task.query_y[0])
    expected = dict(zip(adapted, torch.autograd.grad(loss, list(adapted.values())), strict=True))
    torch.testing.assert_close(learner.backbone.first.weight.grad, expected["backbone.first.weight"])


def test_an_inner_step_of_maml_is_a_step_of_sgd() -> None:
    torch.manual_seed(6)
    learner = Maml(Smooth(), SETTING, inner_lr=0.25, inner_steps=2).double()
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


@pytest.mark.parametrize("kind", [Maml, MetaSgd, Boil])
def test_tasks_are_adapted_to_in_training_as_in_evaluation(kind: type[Maml | MetaSgd | Boil]) -> None:
    torch.manual_seed(10)
    learner = kind(Smooth(), SETTING, inner_lr=0.3, inner_steps=4).double()
    task = double(make_episodes(batch=1))
    with_graph, without = (list(learner.trajectory(task, create_graph=c)) for c in (True, False))
    torch.testing.assert_close(with_graph, without)


def test_shares_of_the_loss_sum_to_one_and_move_to_the_last_step() -> None:
    learner = Maml(Smooth(), SETTING, inner_steps=4, multi_step_loss=0.5)
    assert learner.loss_shares() == pytest.approx([0.25] * 4)
    last = []
    for step in range(13):
        learner.progress = step / 20
        shares = learner.loss_shares()
        assert sum(shares) == pytest.approx(1)
        assert shares[0] == shares[1] == shares[2]
        last.append(shares[3])
    assert last == sorted(last)
    assert last[5] == pytest.approx(0.625)
    assert last[10:] == [1.0, 1.0, 1.0]
    assert Maml(Smooth(), SETTING, inner_steps=3).loss_shares() == [0, 0, 1]


def test_multi_step_loss_starts_as_the_mean_of_the_query_losses_after_each_step() -> None:
    torch.manual_seed(7)
    learner = Maml(Smooth(), SETTING, inner_lr=0.25, inner_steps=3, multi_step_loss=0.5).double()
    task = double(make_episodes(batch=1))
    plain = nn.Sequential(Smooth(), nn.Linear(5, 3)).double()
    plain[0].load_state_dict(learner.backbone.state_dict())
    nn.init.zeros_(plain[1].weight)
    nn.init.zeros_(plain[1].bias)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.25)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
        losses.append(float(F.cross_entropy(plain(task.query_x[0]), task.query_y[0]).detach()))
    reported = []
    for progress in (0.0, 0.25, 0.5, 0.75):  # no optimiser: weights stay
        learner.progress = progress
        reported.append(float(learner.outer_step(Fixed(task))["loss"]))
    assert reported[0] == pytest.approx(sum(losses) / 3)
    assert reported[1] == pytest.approx((losses[0] + losses[1]) / 6 + losses[2] * 4 / 6)
    assert reported[2:] == pytest.approx([losses[2]] * 2)


def test_gradients_in_rates_per_step_agree_with_finite_differences() -> None:
    torch.manual_seed(8)
    learner = Maml(
        Smooth(), SETTING, inner_lr=0.3, inner_steps=3, learned_rates=True, rates_per_step=True, multi_step_loss=0.9
    ).double()
    task = double(make_episodes(batch=1))
    learner.progress = 0.2
    learner.outer_step(Fixed(task))
    gradient = learner.rates.grad
    assert gradient is not None
    for index in range(len(learner.rates)):
        losses = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                learner.rates[index] += change
            losses.append(float(learner.task_loss(task)[0].detach()))
            with torch.no_grad():
                learner.rates[index] -= change
        assert float(gradient[index]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_each_step_has_its_own_rates_and_none_of_them_decays() -> None:
    learner = Maml(Smooth(), SETTING, inner_steps=3, learned_rates=True, rates_per_step=True)
    assert learner.rates.ndim == 1  # `make_optimizer` decays what has more
    with torch.no_grad():
        learner.rates.copy_(torch.arange(18.0))
    assert [learner.rates_of_step(learner.rates, step).tolist() for step in (0, 2)] == [[*range(6)], [*range(12, 18)]]


def per_step(norm: str = "support", **options: Any) -> Maml:
    """With scales and shifts that differ from step to step."""
    torch.manual_seed(18)
    backbone = Conv((2, 8, 8), depth=2, width=8, norm=norm)
    options = {"inner_lr": 0.3, "inner_steps": 2, "per_step_norm": True} | options
    learner = Maml(backbone, SETTING, **options).double()
    assert learner.norms is not None
    with torch.no_grad():
        learner.norms.values += 0.3 * torch.randn_like(learner.norms.values)
    return learner


def test_each_inner_step_has_its_own_scale_and_shift() -> None:
    """Antoniou et al. 2019, BNWB, by a network that is a step of SGD further and given the step's own norms by hand."""
    learner = per_step(inner_lr=0.25, learned_rates=True)
    assert learner.norms is not None
    task = double(make_episodes(batch=1))
    plain = copy.deepcopy(learner.backbone).requires_grad_(True)
    head = nn.Linear(plain.features, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    kept = {name.removeprefix("backbone.") for name in learner.norms.shapes}
    # Two blocks' scales and shifts of eight channels, for each number of steps taken.
    rows = learner.norms.values.detach().view(3, 4, 8)
    for step in range(2):
        give(plain, rows[step])
        plain.zero_grad()
        head.zero_grad()
        F.cross_entropy(head(plain(task.support_x[0])), task.support_y[0]).backward()
        with torch.no_grad():
            for name, weight in (*plain.named_parameters(), *head.named_parameters()):
                if name not in kept and not (step == 0 and name in dict(plain.named_parameters())):
                    weight -= 0.25 * weight.grad
    give(plain, rows[2])
    both = torch.cat([task.support_x[0], task.query_x[0]])
    expected = head(plain(both, Layout(tasks=1, support=len(task.support_x[0]))))[len(task.support_x[0]) :]
    torch.testing.assert_close(learner.query_logits(task)[0], expected.detach())


def give(backbone: Conv, parts: torch.Tensor) -> None:
    for block, scale, shift in zip(backbone.blocks, parts[::2], parts[1::2], strict=True):
        block.norm.weight.data, block.norm.bias.data = scale.clone(), shift.clone()


@pytest.mark.parametrize("norm", ["support", "group", "none"])
@pytest.mark.parametrize("more", [{}, {"multi_step_loss": 0.9}, {"learned_rates": True, "rates_per_step": True}])
def test_gradients_in_norms_of_steps_agree_with_finite_differences(norm: str, more: dict[str, Any]) -> None:
    learner, task = per_step(norm, **more), double(make_episodes(batch=1))
    assert learner.norms is not None
    learner.outer_step(Fixed(task))
    values = learner.norms.values
    direction = torch.randn_like(values)
    losses = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            values += shift * direction
            losses.append(loss_of(learner, task))
            values -= shift * direction
    assert values.grad is not None
    expected = (losses[0] - losses[1]) / 2e-6
    assert float((values.grad * direction).sum()) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def loss_of(learner: Maml, task: EpisodeBatch) -> float:
    with torch.enable_grad():
        return float(learner.task_loss(task)[0].detach())


def test_norms_of_steps_take_the_place_of_the_backbones_own() -> None:
    learner, task = per_step(), double(make_episodes())
    own = {name: p.detach().clone() for name, p in learner.named_parameters() if ".norm." in name}
    learned = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.05, weight_decay=0.1)
    assert learner.norms is not None
    before = learner.norms.values.detach().clone()
    learner.outer_step(Fixed(task))
    assert all(p.grad is not None for p in learned)
    optimizer.step()
    after = dict(learner.named_parameters())
    assert own
    assert all(torch.equal(after[name], p) for name, p in own.items())
    assert (learner.norms.values - before).abs().min() > 0  # the norms of each step
    with pytest.raises(ConfigError, match=r"maml\.per_step_norm = true: only with a backbone that has norms"):
        Maml(Smooth(), SETTING, per_step_norm=True)


def test_second_derivatives_come_after_the_first_order_share() -> None:
    torch.manual_seed(9)
    warm = Maml(Smooth(), SETTING, inner_lr=0.3, inner_steps=3, first_order_share=0.5).double()
    source = Fixed(double(make_episodes()))
    expected = {}
    for first_order in (True, False):
        plain = Maml(Smooth(), SETTING, inner_lr=0.3, inner_steps=3, first_order=first_order).double()
        plain.backbone.load_state_dict(warm.backbone.state_dict())
        plain.outer_step(source)
        expected[first_order] = plain.backbone.first.weight.grad
    assert not torch.allclose(expected[True], expected[False])
    for progress in (0.0, 0.4999, 0.5, 1.0):
        warm.zero_grad()
        warm.progress = progress
        warm.outer_step(source)
        torch.testing.assert_close(warm.backbone.first.weight.grad, expected[progress < 0.5])


def test_a_state_with_a_count_of_outer_steps_is_read() -> None:
    learner, other = (Maml(Smooth(), SETTING, inner_steps=2, multi_step_loss=0.4) for _ in range(2))
    other.load_state_dict({**learner.state_dict(), "outer_steps": torch.tensor(7)})
    torch.testing.assert_close(other.state_dict(), learner.state_dict())


@pytest.mark.parametrize("option", ["multi_step_loss", "first_order_share"])
@pytest.mark.parametrize("value", [-0.1, 1.5, 300])
def test_annealing_is_a_part_of_training(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"maml.{option} = {value}: it is a part of training, in \[0, 1\]"):
        Maml(Smooth(), SETTING, **{option: value})  # type: ignore[arg-type]
