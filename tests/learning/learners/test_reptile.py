"""Reptile against torch's optimisers on a plain copy, and Adam written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.reptile import Reptile, mini_batches
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


def _plain(learner: Reptile) -> nn.Sequential:
    plain = nn.Sequential(Smooth(), nn.Linear(5, 3)).double()
    plain[0].load_state_dict(learner.backbone.state_dict())
    nn.init.zeros_(plain[1].weight)
    nn.init.zeros_(plain[1].bias)
    return plain


def _all_images(task: EpisodeBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([task.support_x[0], task.query_x[0]]), torch.cat([task.support_y[0], task.query_y[0]])


@pytest.mark.parametrize("inner_batch", [7, 1000])
def test_the_gradient_is_how_far_plain_sgd_goes_on_average(inner_batch: int) -> None:
    torch.manual_seed(4)
    learner = Reptile(Smooth(), SETTING, inner_lr=0.3, inner_steps=3, inner_batch=inner_batch).double()
    episodes = double(make_episodes(batch=2))
    torch.manual_seed(11)
    learner.outer_step(Fixed(episodes))
    torch.manual_seed(11)
    # Of 18 images there are two batches of seven, then the next shuffle.
    drawn = [list(torch.cat([torch.randperm(18)[:14], torch.randperm(18)]).split(7))[:3] for _ in range(2)]
    moved = {name: torch.zeros_like(p) for name, p in learner.backbone.named_parameters()}
    for index in range(2):
        images, labels = _all_images(episodes.episode(index))
        plain = _plain(learner)
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
        for chosen in drawn[index] if inner_batch == 7 else [torch.arange(18)] * 3:
            optimizer.zero_grad()
            F.cross_entropy(plain(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        for name, p in plain[0].named_parameters():
            moved[name] += (learner.backbone.get_parameter(name) - p.detach()) / 2
    for name, p in learner.backbone.named_parameters():
        assert moved[name].abs().max() > 1e-6
        torch.testing.assert_close(p.grad, moved[name].detach())


def test_a_step_of_sgd_with_rate_one_puts_the_adapted_weights_in_place() -> None:
    torch.manual_seed(5)
    learner = Reptile(Smooth(), SETTING, inner_steps=2, inner_batch=18).double()
    task = double(make_episodes(batch=1))
    images, labels = _all_images(task)
    both = EpisodeBatch(images[None], labels[None], task.query_x, task.query_y, 3)
    steps = list(learner.trajectory(both, create_graph=False))
    for name, p in learner.backbone.named_parameters():
        torch.testing.assert_close(steps[0][f"backbone.{name}"], p.detach(), rtol=0, atol=0)  # the head moves first
    learner.outer_step(Fixed(task))
    torch.optim.SGD(learner.parameters(), lr=1.0).step()
    for name, p in learner.backbone.named_parameters():
        torch.testing.assert_close(p.detach(), steps[1][f"backbone.{name}"])


def test_adam_without_momentum_divides_by_the_root_mean_square_gradient() -> None:
    torch.manual_seed(6)
    learner = Reptile(Smooth(), SETTING, inner_lr=1e-3, inner_optimizer="adam", evaluation_steps=3).double()
    task = double(make_episodes(batch=1))
    plain = _plain(learner)
    squares = [torch.zeros_like(p) for p in plain.parameters()]
    for step in range(1, 4):
        loss = F.cross_entropy(plain(task.support_x[0]), task.support_y[0])
        gradients = torch.autograd.grad(loss, list(plain.parameters()))
        for p, gradient, square in zip(plain.parameters(), gradients, squares, strict=True):
            square.mul_(0.999).add_(0.001 * gradient**2)
            p.data -= 1e-3 * gradient / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    adapted = learner.adapt(task, create_graph=False)
    torch.testing.assert_close(adapted["backbone.first.weight"], plain[0].first.weight.detach())
    torch.testing.assert_close(adapted["head.weight"], plain[1].weight.detach())


def test_evaluation_takes_steps_on_the_support_set_and_leaves_the_learner_as_it_was() -> None:
    torch.manual_seed(7)
    learner = Reptile(Conv((2, 8, 8), depth=1, width=4), SETTING, evaluation_steps=4).double()
    task = double(make_episodes(batch=1))
    learner.outer_step(Fixed(task))
    learner.eval()
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    random = torch.get_rng_state()
    first = learner.query_logits(task)
    torch.testing.assert_close(learner.query_logits(task), first, rtol=0, atol=0)
    torch.testing.assert_close(dict(learner.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert learner.query_logits(double(make_episodes(batch=1, way=4))).shape == (1, 16, 4)


def test_statistics_per_step_are_those_that_training_has_seen() -> None:
    torch.manual_seed(8)
    learner = Reptile(Conv((2, 8, 8), depth=1, width=4, norm="per_step"), SETTING, inner_steps=2, evaluation_steps=5)
    learner.double().outer_step(Fixed(double(make_episodes())))
    learner.eval()
    norm = learner.backbone.blocks[0].norm
    before = learner.query_logits(double(make_episodes(seed=8)))
    norm.running_mean[2:] = torch.nan  # never trained
    torch.testing.assert_close(learner.query_logits(double(make_episodes(seed=8))), before)


def test_mini_batches_show_every_image_once_before_they_repeat() -> None:
    torch.manual_seed(9)
    images, labels = torch.arange(12.0)[:, None, None, None], torch.arange(12)
    batches = list(mini_batches(images, labels, size=4, count=6))
    for half in (batches[:3], batches[3:]):
        assert sorted(torch.cat([y for _, y in half]).tolist()) == list(range(12))
    for x, y in batches:
        assert x.flatten().tolist() == y.tolist()
