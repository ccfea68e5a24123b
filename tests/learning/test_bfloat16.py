"""Training in bfloat16: nearly the same gradient, the same evaluation, and nothing of it where it is not asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.vit import ViT
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.learners.ridge import Ridge
from autometa.learning.normalization import MODES
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed

SHAPE = (2, 16, 16)
EPISODES = make_episodes(batch=4, shape=SHAPE)
SEEN = Accuracy(mean=0.5, half_width=0.1, episodes=3, seed=0)


def gradient(learner: Learner, *, bfloat16: bool) -> Tensor:
    learner = copy.deepcopy(learner)
    learner.backbone.trains_in_bfloat16 = bfloat16
    metrics = learner.outer_step(Fixed(EPISODES))
    assert metrics["loss"].dtype == torch.float32
    parts = [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
    assert all(part.dtype == torch.float32 for part in parts)
    return torch.cat(parts)


def assert_near(learner: Learner, cosine: float = 0.98) -> None:
    exact, rough = (gradient(learner, bfloat16=b) for b in (False, True))
    assert not torch.equal(exact, rough)
    assert float(torch.cosine_similarity(exact, rough, dim=0)) > cosine
    assert float(rough.norm() / exact.norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("norm", MODES)
@pytest.mark.parametrize("at_once", [1, 4])
def test_second_order_gradients_of_maml_stay_near(norm: str, at_once: int) -> None:
    torch.manual_seed(71)
    learner = Maml(Conv(SHAPE, depth=3, width=16, norm=norm), SETTING, inner_lr=0.05, inner_steps=3)
    learner.tasks_at_once = at_once
    assert_near(learner)


@pytest.mark.parametrize("kind", [Prototypical, Ridge])
@pytest.mark.parametrize(
    ("make", "cosine"),
    [
        (lambda: Conv(SHAPE, depth=3, width=16), 0.98),
        (lambda: ResNet12(SHAPE, width=8), 0.94),  # four times as deep
        (lambda: ViT(SHAPE, patch=4, dim=16, depth=2, heads=2), 0.98),
    ],
)
def test_gradients_of_metric_learners_stay_near(
    make: Callable[[], Backbone], cosine: float, kind: type[Prototypical | Ridge]
) -> None:
    torch.manual_seed(72)
    assert_near(kind(make(), SETTING), cosine)


def test_evaluation_is_what_it_is_without() -> None:
    torch.manual_seed(73)
    learner = Maml(Conv(SHAPE, depth=3, width=16, norm="per_step"), SETTING).eval()
    scores = learner.query_logits(EPISODES)
    learner.backbone.trains_in_bfloat16 = True
    assert torch.equal(learner.query_logits(EPISODES), scores)


def test_a_training_learns_as_well(digits: FewShotDataset) -> None:
    def last_losses(bfloat16: bool) -> float:
        torch.manual_seed(74)
        generator = torch.Generator().manual_seed(75)
        losses: list[float] = []
        training = Training(
            Prototypical(Conv(digits.image_shape, depth=2, width=16), Setting(way=3, train_classes=24)),
            EpisodeSampler(
                ImagePool(digits, "train"), EpisodeSpec(way=3, shot=1, query=5), batch=4, generator=generator
            ),
            options=TrainingOptions(bfloat16=bfloat16, outer_lr=3e-3),
            budget=Budget(steps=60, rungs=1),
            validate=lambda *_: SEEN,
            generator=generator,
        )
        list(training.rungs(lambda *step: losses.append(float(step[2]["loss"]))))
        assert losses[0] > 1.5 * losses[-1]
        return sum(losses[-20:]) / 20

    assert last_losses(True) == pytest.approx(last_losses(False), rel=0.1)
