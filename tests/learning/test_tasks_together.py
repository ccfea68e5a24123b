"""Tasks that adapt together give what one task after the other gives: gradients, scores and running averages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.blocks import Blocks
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.resnet18 import ResNet18
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.meta_sgd import MetaSgd
from autometa.learning.normalization import MODES, Layout
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, double

SHAPE = (2, 8, 8)
EPISODES = double(make_episodes(batch=5))


def conv(norm: str = "support", pooling: str = "max") -> Conv:
    torch.manual_seed(31)
    return Conv(SHAPE, depth=2, width=8, norm=norm, pooling=pooling)


def after_two_steps(learner: TaskLearner, at_once: int) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients, buffers and metrics after two outer steps without an optimiser, then scores in evaluation."""
    learner = copy.deepcopy(learner).double()
    learner.tasks_at_once = at_once
    found = {}
    for step in range(2):
        learner.progress = step / 10
        learner.zero_grad(set_to_none=True)
        metrics = learner.outer_step(Fixed(EPISODES))
        found |= {f"{name} {step}": value for name, value in metrics.items()}
    found |= {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    found |= dict(learner.named_buffers())
    with torch.no_grad():
        return found, learner.eval().query_logits(EPISODES)


def assert_alike(learner: TaskLearner) -> None:
    """The loop, parts of two (and one of one), and all at once agree."""
    loop, scores = after_two_steps(learner, 1)
    assert max(float(g.abs().max()) for n, g in loop.items() if n.startswith("backbone.") and g.numel()) > 1e-3
    for at_once in (2, 5):
        together, scores_together = after_two_steps(learner, at_once)
        assert together.keys() == loop.keys()
        for name, expected in loop.items():
            near = 1e-6 if name.startswith("accuracy") else 1e-9  # a share of right answers is in float32
            torch.testing.assert_close(together[name], expected, rtol=near, atol=near, msg=f"{name}, {at_once} at once")
        torch.testing.assert_close(scores_together, scores, rtol=1e-9, atol=1e-9)


MAML: dict[str, dict[str, Any]] = {
    "one step": {"inner_steps": 1},
    "three steps": {"inner_steps": 3},
    "first order": {"inner_steps": 3, "first_order": True},
    "learned rates": {"inner_steps": 3, "learned_rates": True},
    "rates per step": {"inner_steps": 3, "learned_rates": True, "rates_per_step": True},
    "multi-step loss": {"inner_steps": 3, "multi_step_loss": 0.3},
    "first-order steps": {"inner_steps": 2, "first_order_share": 0.1},
}


@pytest.mark.parametrize("options", MAML.values(), ids=MAML.keys())
def test_maml_adapts_to_tasks_together_as_to_one_after_the_other(options: dict[str, Any]) -> None:
    assert_alike(Maml(conv(), SETTING, inner_lr=0.2, **options))


@pytest.mark.parametrize("norm", MODES)
@pytest.mark.parametrize("multi_step_loss", [0.0, 0.3])
def test_every_mode_of_normalisation_is_the_same_its_averages_included(norm: str, multi_step_loss: float) -> None:
    learner = Maml(conv(norm), SETTING, inner_lr=0.2, inner_steps=3, multi_step_loss=multi_step_loss)
    before = {name: value.clone() for name, value in learner.named_buffers()}
    assert_alike(learner)
    found, _ = after_two_steps(learner, 5)
    moved = {name.rsplit(".")[-1] for name in before if not torch.equal(found[name], before[name].double())}
    averages = {"running_mean", "running_var"} if norm in ("running", "per_step") else set()
    assert moved == averages


@pytest.mark.parametrize("norm", ["running", "support", "group"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("kind", [Boil, MetaSgd])
def test_boil_and_meta_sgd_adapt_together_too(kind: type[Boil | MetaSgd], first_order: bool, norm: str) -> None:
    assert_alike(kind(conv(norm), SETTING, inner_lr=0.1, inner_steps=3, first_order=first_order))


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mean pooling": lambda: conv("per_step", "mean"),
    "resnet12": lambda: ResNet12(SHAPE, width=4, norm="per_step"),
    "resnet18": lambda: ResNet18(SHAPE, width=4, norm="support"),
    "wrn": lambda: WideResNet(SHAPE, depth=10, factor=1, norm="transductive"),
    "vit": lambda: ViT(SHAPE, patch=4, dim=8, depth=1, heads=2),
    "mlp": lambda: Mlp(SHAPE, width=8, norm="per_step"),
    "blocks": lambda: Blocks(
        SHAPE, stages=3, width1=8, width2=8, width3=8, block1="depthwise", block2="convnext", block3="residual",
        attention2=True, norm="support",
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES.keys())
def test_every_backbone_serves_tasks_together(make: Callable[[], Backbone]) -> None:
    torch.manual_seed(32)
    assert_alike(Maml(make(), SETTING, inner_lr=0.1, inner_steps=2))


def test_each_task_drops_units_of_its_own() -> None:
    torch.manual_seed(33)
    learner = Maml(Mlp(SHAPE, width=64, drop_rate=0.5, norm="none"), SETTING, inner_steps=1)
    same = make_episodes(batch=1)
    twice = EpisodeBatch(*(torch.cat([x, x]) for x in (same.support_x, same.support_y, same.query_x, same.query_y)), 3)
    first, second = learner.query_scores(learner.adapt(twice, create_graph=False), twice)
    assert not torch.allclose(first, second)
    learner.eval()
    first, second = learner.query_scores(learner.adapt(twice, create_graph=False), twice)
    torch.testing.assert_close(first, second)


def test_a_cpu_takes_one_task_after_the_other_and_other_devices_all_at_once() -> None:
    tried: list[int] = []

    class Watched(Maml):
        def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
            tried.append(tasks.batch)
            return super().task_loss(tasks)

    Watched(conv(), SETTING).outer_step(Fixed(make_episodes(batch=3)))
    assert tried == [1, 1, 1]
    tried.clear()
    with torch.device("meta"):
        learner = Watched(Conv(SHAPE, depth=2, width=8, norm="support"), SETTING)
    learner.outer_step(Fixed(make_episodes(batch=3).to("meta")))
    assert tried == [3]


def test_tasks_are_halved_until_they_fit_and_the_gradient_stays() -> None:
    class Limited(Maml):
        tried: list[int] = []

        def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
            self.tried.append(tasks.batch)
            found = super().task_loss(tasks)
            if tasks.batch > 2:
                found[0].backward(retain_graph=True)  # memory may run out with a part of the gradient in place
                raise torch.OutOfMemoryError("CUDA out of memory")
            return found

    options: dict[str, Any] = {"inner_lr": 0.2, "inner_steps": 2}
    limited, roomy = Limited(conv(), SETTING, **options).double(), Maml(conv(), SETTING, **options).double()
    limited.tasks_at_once = 5
    for learner in (limited, roomy):
        learner.outer_step(Fixed(EPISODES))
    assert limited.tried == [5, 3, 2, 2, 1]
    for ours, theirs in zip(limited.backbone.parameters(), roomy.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_another_way_than_its_head_is_still_refused_by_boil() -> None:
    learner = Boil(conv(), SETTING)
    learner.tasks_at_once = 2
    with pytest.raises(ConfigError, match="5 classes"):
        learner.query_logits(make_episodes(batch=2, way=5))


def test_a_backbone_that_cannot_be_batched_is_used_for_one_task_after_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Peeking(Conv):
        """Looks at a number of its maps, which `torch.vmap` does not allow."""

        def maps_to_read(self, images: Tensor, layout: Layout | None = None) -> list[Tensor]:
            found = super().maps_to_read(images, layout)
            return found if float(found[0].detach().sum()) < float("inf") else []

    torch.manual_seed(34)
    backbone = Peeking(SHAPE, depth=2, width=8, norm="per_step")
    learner = Maml(backbone, SETTING, inner_lr=0.2, inner_steps=2).double()
    plain = copy.deepcopy(learner)
    learner.tasks_at_once = 5
    for one in (learner, plain):
        one.outer_step(Fixed(EPISODES))
    assert learner.tasks_at_once == 1
    assert "Peeking" in caplog.text
    for name, ours in learner.named_parameters():
        theirs = plain.get_parameter(name).grad
        assert (ours.grad is None) == (theirs is None)
        assert theirs is None or torch.equal(ours.grad, theirs)
    for name, average in learner.named_buffers():
        torch.testing.assert_close(average, plain.get_buffer(name), msg=name)

    learner.tasks_at_once = 5
    torch.testing.assert_close(learner.eval().query_logits(EPISODES), plain.eval().query_logits(EPISODES))
