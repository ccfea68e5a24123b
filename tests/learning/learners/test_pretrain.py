"""Supervised pre-training: its losses, its options, and fine-tuning at test time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from autometa.data.rotation import rotated
from autometa.errors import ConfigError
from autometa.learning.augment import color_jitter, crop_flip
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Setting
from autometa.learning.learners.pretrain import Pretrain, with_copies
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double


def images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = Fixed(make_episodes()).images(count)
    return x.double(), y


def test_the_finetuned_head_is_a_logistic_regression() -> None:
    episodes = double(make_episodes(batch=1, shot=5, query=30))
    learner = Pretrain(Identity(), SETTING, head="finetune", finetune_steps=2000)
    ours = learner.query_logits(episodes)[0].softmax(-1)
    support, query = (F.normalize(x[0].flatten(1), dim=-1).numpy() for x in (episodes.support_x, episodes.query_x))
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(support, episodes.support_y[0].numpy())
    np.testing.assert_allclose(ours.detach().numpy(), theirs.predict_proba(query), atol=1e-3)


@pytest.mark.parametrize("head", ["cosine", "cosine_classifier", "finetune", "ridge"])
def test_a_mirrored_support_is_a_support_of_twice_as_many(head: str) -> None:
    torch.manual_seed(0)
    backbone = Smooth()
    flipping = Pretrain(backbone, SETTING, head=head, flip_support=True).double()
    plain = Pretrain(backbone, SETTING, head=head).double()
    task = double(make_episodes(batch=1, shot=1))
    both = torch.stack([task.support_x, task.support_x.flip(-1)], 2).flatten(1, 2)  # class by class
    given = type(task)(both, task.support_y.repeat_interleave(2, 1), task.query_x, task.query_y, task.way)
    torch.testing.assert_close(flipping.query_logits(task), plain.query_logits(given))


def test_augmented_copies_are_what_the_head_is_fitted_to() -> None:
    """Tian et al. 2020: each support image five times, each time augmented anew, and scikit-learn's regression."""
    learner = Pretrain(Identity(), SETTING, head="finetune", finetune_steps=2000, support_copies=5).double()
    task = double(make_episodes(batch=1, shot=2))
    generator = torch.Generator()
    copies, labels = [], []
    for label in range(3):
        of_class = [image for image, y in zip(task.support_x[0], task.support_y[0], strict=True) if y == label]
        generator.manual_seed(0)
        copies += list(crop_flip_jitter(torch.stack(of_class * 5), generator))
        labels += [label] * 10
    images = F.normalize(torch.stack(copies).flatten(1), dim=-1).numpy()
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(images, np.array(labels))
    query = F.normalize(task.query_x[0].flatten(1), dim=-1).numpy()
    ours = learner.query_logits(task)[0].softmax(-1).detach().numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(query), atol=1e-3)


def crop_flip_jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return color_jitter(crop_flip(images, generator), generator)


def test_augmented_copies_differ_from_each_other_and_are_the_same_each_time() -> None:
    task = double(make_episodes(batch=2, shot=1))
    made = with_copies(task, 5, crop_flip_jitter)
    assert made.shot == 5
    assert made.support_y.tolist() == [[label for label in range(3) for _ in range(5)]] * 2
    assert len({tuple(image.flatten().tolist()) for image in made.support_x[0, :5]}) == 5
    torch.testing.assert_close(with_copies(task.episode(1), 5, crop_flip_jitter).support_x[0], made.support_x[1])
    assert made.query_x is task.query_x


def test_plain_pre_training_is_cross_entropy_with_label_smoothing() -> None:
    torch.manual_seed(1)
    learner = Pretrain(Smooth(), Setting(3, 6, label_smoothing=0.2)).double()
    x, y = images()
    expected = F.cross_entropy(learner.classifier(learner.backbone(x)), y, label_smoothing=0.2)
    torch.testing.assert_close(learner.loss(x, y)[0], expected)


def test_rotation_adds_the_loss_of_telling_the_turns() -> None:
    torch.manual_seed(2)
    learner = Pretrain(Smooth(), SETTING, rotation_weight=0.5).double()
    x, y = images()
    plain = F.cross_entropy(learner.classifier(learner.backbone(x)), y)
    torch.manual_seed(3)
    loss = learner.loss(x, y)[0]
    torch.manual_seed(3)
    turns = torch.randint(4, (6,))
    assert learner.turns is not None
    turned = F.cross_entropy(learner.turns(learner.backbone(rotated(x, turns))), turns)
    torch.testing.assert_close(loss, plain + 0.5 * turned)


def test_the_teacher_is_a_running_average_and_gets_no_gradient() -> None:
    torch.manual_seed(4)
    learner = Pretrain(Smooth(), SETTING, distillation_weight=0.5).double()
    assert learner.teacher is not None
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    expected = learner.backbone.first.weight.detach().clone()
    for step in range(3):
        share = 1 - step / (step + 10)
        expected = (1 - share) * expected + share * learner.backbone.first.weight.detach()
        optimizer.zero_grad()
        metrics = learner.outer_step(Fixed(double(make_episodes())))
        optimizer.step()
    torch.testing.assert_close(learner.teacher[0].first.weight, nn.Parameter(expected, requires_grad=False))
    assert float(metrics["distillation"]) > 0
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())


def test_distillation_from_equal_weights_is_zero() -> None:
    torch.manual_seed(5)
    learner = Pretrain(Smooth(), SETTING, distillation_weight=0.3).double()
    x, y = images()
    loss, metrics = learner.loss(x, y)
    assert float(metrics["distillation"]) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(loss, 0.7 * F.cross_entropy(learner.classifier(learner.backbone(x)), y))


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixing_learns_from_both_labels(mixing: str) -> None:
    torch.manual_seed(6)
    learner = Pretrain(Smooth(), SETTING, mixing=mixing).double()
    x, y = images()
    same = learner.loss(x, torch.zeros_like(y))[0]  # with one label mixing the labels changes nothing
    assert same.isfinite()
    torch.manual_seed(7)
    first = learner.loss(x, y)[0]
    torch.manual_seed(7)
    torch.testing.assert_close(learner.loss(x, y)[0], first)


def test_full_fine_tuning_is_sgd_on_a_copy() -> None:
    torch.manual_seed(8)
    options: dict[str, Any] = {"head": "finetune", "finetune_steps": 30}
    learner = Pretrain(Smooth(), SETTING, adapt="all", tune_steps=3, tune_lr=0.2, **options).double().eval()
    task = double(make_episodes(batch=1))
    before = learner.backbone.first.weight.detach().clone()
    ours = learner.query_logits(task)[0]

    copy = Smooth().double()
    copy.load_state_dict(learner.backbone.state_dict())
    head = nn.Linear(5, 3).double()
    unit = F.normalize(copy(task.support_x[0]), dim=-1).detach()
    weight, bias = torch.zeros(3, 5).double(), torch.zeros(3).double()
    target = F.one_hot(task.support_y[0]).double()
    for _ in range(30):  # the logistic head, penalty 1 for 6 images, rate 2 / (1 + 2 / 6)
        error = ((unit @ weight.T + bias).softmax(-1) - target) / 6
        weight, bias = weight - 1.5 * (error.T @ unit + weight / 6), bias - 1.5 * error.sum(0)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    optimizer = torch.optim.SGD([*copy.parameters(), *head.parameters()], lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(head(F.normalize(copy(task.support_x[0]), dim=-1)), task.support_y[0]).backward()
        optimizer.step()
    torch.testing.assert_close(ours, head(F.normalize(copy(task.query_x[0]), dim=-1)).detach())
    torch.testing.assert_close(learner.backbone.first.weight.detach(), before)


@pytest.mark.parametrize("norm", ["running", "support", "group"])
def test_full_fine_tuning_uses_nothing_of_the_other_query_images(norm: str) -> None:
    torch.manual_seed(9)
    backbone = Conv((2, 8, 8), depth=2, width=8, norm=norm)
    learner = Pretrain(backbone, SETTING, head="finetune", adapt="all", tune_steps=2).double().eval()
    task = double(make_episodes(batch=1))
    queries = task.query_x.clone()
    queries[:, 1:] += 5
    changed = type(task)(task.support_x, task.support_y, queries, task.query_y, task.way)
    torch.testing.assert_close(learner.query_logits(changed)[:, 0], learner.query_logits(task)[:, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"head": "svm"},
        {"train_head": "ridge"},
        {"batch_size": 1},
        {"mixing": "mixcut"},
        {"rotation_weight": -1.0},
        {"distillation_weight": 1.0},
        {"finetune_penalty": 0.0},
        {"adapt": "all", "head": "cosine"},
        {"transduction": "kmeans"},
    ],
)
def test_an_option_out_of_range_names_itself(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.\w+"):
        Pretrain(Identity(), SETTING, **options)
