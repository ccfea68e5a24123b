"""ANIL against MAML and against back-propagation through its inner loop."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from autometa.learning.learners.anil import Anil
from autometa.learning.learners.maml import Maml
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Smooth, double


def test_anil_equals_maml_with_a_frozen_backbone_in_the_inner_loop() -> None:
    torch.manual_seed(7)
    backbone = Smooth().double()
    anil = Anil(backbone, SETTING, inner_lr=0.75, inner_steps=3).double()
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


def test_with_one_inner_step_maml_is_anil() -> None:
    """From a zero head no gradient reaches the backbone, so only the head moves."""
    torch.manual_seed(8)
    backbone = Smooth().double()
    task = double(make_episodes(batch=1))
    maml = Maml(backbone, SETTING, inner_lr=0.5, inner_steps=1).double()
    anil = Anil(backbone, SETTING, inner_lr=0.5, inner_steps=1).double()
    ours, theirs = maml.task_loss(task)[0], anil.loss(task)[0]
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(loss, list(backbone.parameters())) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected)
