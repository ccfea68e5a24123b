"""Operations are counted by what is done, not by how it is put together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autometa.learning.backbones.conv import Conv
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.maml import Maml
from autometa.learning.operations import operations_counter
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed


def of_a_step(learner: TaskLearner, at_once: int) -> int:
    learner.tasks_at_once = at_once
    with operations_counter() as counter:
        learner.outer_step(Fixed(make_episodes(batch=4)))
    return counter.get_total_flops()


@pytest.mark.parametrize("norm", ["per_step", "support"])
@pytest.mark.parametrize("kind", [Maml, Boil])
def test_tasks_together_do_as_many_as_one_after_the_other(kind: type[Maml | Boil], norm: str) -> None:
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm=norm), SETTING, inner_steps=3)
    alone = of_a_step(learner, 1)
    assert [of_a_step(learner, 2), of_a_step(learner, 4)] == [alone, alone]


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (6, 1), (3, 2)])
def test_a_convolutions_gradients_cost_as_much_as_itself_each(groups: int, stride: int) -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1, stride=stride, groups=groups, bias=False)
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    with operations_counter() as forward:
        y = conv(x)
    assert forward.get_total_flops() == 2 * y.numel() * 9 * 6 // groups
    with operations_counter() as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


def test_a_transposed_convolution_is_counted_too() -> None:
    conv, x = nn.ConvTranspose2d(3, 4, 3, bias=False), torch.randn(2, 3, 5, 5)
    with operations_counter() as counter:
        conv(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 2 * 5 * 5 * 3 * 4 * 9)
