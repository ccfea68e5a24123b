"""Inner steps recomputed in the backward pass give the gradients of those that are kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learners.maml import Maml
from autometa.learning.normalization import MODES
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, double

SHAPE = (2, 8, 8)


def found_by(learner: Maml, *, checkpoint: bool, at_once: int) -> dict[str, Tensor]:
    """Gradients, buffers and the next random number after two outer steps."""
    learner = copy.deepcopy(learner).double()
    learner.checkpoint_inner_steps = checkpoint
    learner.tasks_at_once = at_once
    torch.manual_seed(41)
    for _ in range(2):
        learner.zero_grad(set_to_none=True)
        metrics = learner.outer_step(Fixed(double(make_episodes(batch=3))))
    gradients = {f"of {name}": p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return gradients | dict(learner.named_buffers()) | metrics | {"next": torch.rand(1)}


def assert_alike(learner: Maml) -> None:
    for at_once in (1, 3):
        kept, made = (found_by(learner, checkpoint=c, at_once=at_once) for c in (False, True))
        assert kept.keys() == made.keys()
        for name, expected in kept.items():
            torch.testing.assert_close(made[name], expected, rtol=1e-9, atol=1e-9, msg=f"{name}, {at_once} at once")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inner_steps": 1},
        {"first_order": True},
        {"learned_rates": True},
        {"learned_rates": True, "rates_per_step": True, "multi_step_loss": 0.5},
        {"per_step_norm": True, "multi_step_loss": 0.5},
    ],
)
def test_options_of_maml_do_not_matter(options: dict[str, Any]) -> None:
    torch.manual_seed(42)
    backbone = Conv(SHAPE, depth=2, width=8, norm="support")
    assert_alike(Maml(backbone, SETTING, **({"inner_lr": 0.2, "inner_steps": 3} | options)))


@pytest.mark.parametrize("norm", MODES)
def test_running_averages_move_once(norm: str) -> None:
    torch.manual_seed(43)
    backbone = Conv(SHAPE, depth=2, width=8, norm=norm)
    assert_alike(Maml(backbone, SETTING, inner_lr=0.2, inner_steps=3, multi_step_loss=0.4))


@pytest.mark.parametrize(
    "backbone", [Mlp(SHAPE, width=16, drop_rate=0.3), ResNet12(SHAPE, width=4, drop_rate=0.3, drop_block=2)]
)
def test_random_numbers_are_drawn_again(backbone: Backbone) -> None:
    assert_alike(Maml(backbone, SETTING, inner_lr=0.1, inner_steps=3))


def test_of_many_steps_little_is_kept() -> None:
    def kept(steps: int, *, checkpoint: bool) -> int:
        """Numbers that autograd keeps for the backward pass of one task."""
        torch.manual_seed(44)
        backbone = Conv((2, 16, 16), depth=2, width=8, norm="support")
        learner = Maml(backbone, SETTING, inner_steps=steps, checkpoint_inner_steps=checkpoint)
        counted: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            counted[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        task = make_episodes(batch=1, shape=(2, 16, 16))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss, _ = learner.task_loss(task)
        alive = sum(counted.values())
        loss.backward()
        return alive

    plain = kept(8, checkpoint=False) - kept(2, checkpoint=False)
    checkpointed = kept(8, checkpoint=True) - kept(2, checkpoint=True)
    assert checkpointed < plain / 5
