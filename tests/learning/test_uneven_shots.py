"""Classes with different numbers of support images count alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as RidgeRegression
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning import learner
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.ridge import Ridge
from autometa.learning.learners.svm import Svm
from autometa.trial import build
from tests.conftest import make_episodes
from tests.learning.small import Identity

SHOTS = (1, 4, 2)


def uneven(shots: tuple[int, ...] = SHOTS) -> EpisodeBatch:
    """Episodes whose class n has the first `shots[n]` of four support images."""
    whole = make_episodes(way=len(shots), shot=max(shots), seed=11).to("cpu", torch.float64)
    parts = [part[:, :shot] for part, shot in zip(whole.support_x.split(max(shots), 1), shots, strict=True)]
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return replace(whole, support_x=torch.cat(parts, 1), support_y=labels.expand(whole.batch, -1), shots=shots)


def with_repeated(episodes: EpisodeBatch) -> EpisodeBatch:
    """The same with the images of each class repeated, so that all have as many."""
    assert episodes.shots
    parts = episodes.support_x.split(list(episodes.shots), 1)
    times = [max(episodes.shots) // shot for shot in episodes.shots]
    images = torch.cat([part.repeat(1, n, 1, 1, 1) for part, n in zip(parts, times, strict=True)], 1)
    labels = torch.arange(episodes.way).repeat_interleave(max(episodes.shots)).expand(episodes.batch, -1)
    return replace(episodes, support_x=images, support_y=labels, shots=None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prototypical", {}),
        ("matching", {}),
        ("relation", {}),
        ("siamese", {"match": "mean"}),
        ("cnaps", {}),
        ("anil", {"inner_steps": 7}),
        ("maml", {"inner_steps": 2}),
        ("meta_sgd", {}),
        ("boil", {}),
        ("reptile", {"evaluation_steps": 3}),
        ("pretrain", {"head": "cosine", "flip_support": True}),
    ],
)
def test_a_class_with_more_images_weighs_no_more_than_one_with_few(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    kind = build.LEARNERS[name]
    made: Learner = kind(Conv((2, 8, 8), depth=1, width=8, norm="group"), Setting(way=3, train_classes=6), **options)
    made = made.double().eval()
    found, expected = made.query_logits(uneven()), made.query_logits(with_repeated(uneven()))
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1))
    assert (found.softmax(-1) - 1 / 3).abs().max() > 1e-3, "nothing was learned from the support set"


def features(images: Tensor) -> np.ndarray:
    return F.normalize(images[0].flatten(1), dim=-1).numpy()


def test_logistic_regression_is_that_of_balanced_classes() -> None:
    task = uneven((1, 30, 6))
    theirs = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-10)
    expected = theirs.fit(features(task.support_x), task.support_y[0]).predict_proba(features(task.query_x))
    ours = Pretrain(Identity(), Setting(way=3, train_classes=6), head="finetune", finetune_steps=5000).double()
    found = ours.query_logits(task)[0].softmax(-1)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["ridge", "pretrain"])
def test_ridge_regression_is_that_of_balanced_classes(name: str) -> None:
    task = uneven()
    setting = Setting(way=3, train_classes=6)
    ours: Learner = (
        Ridge(Identity(), setting, normalize=True, scale=1.0)
        if name == "ridge"
        else Pretrain(Identity(), setting, head="ridge")
    )
    ours, counts = ours.double(), np.mean(SHOTS) / np.repeat(SHOTS, SHOTS)
    ones = {"ridge": 1.0, "pretrain": 0.0}[name]  # the one has a bias, which its penalty counts as well
    x, q = (np.pad(features(part), ((0, 0), (0, 1)), constant_values=ones) for part in (task.support_x, task.query_x))
    theirs = RidgeRegression(alpha=1.0, fit_intercept=False)
    theirs.fit(x, F.one_hot(task.support_y[0]).numpy(), sample_weight=counts)
    scale = 1.0 if name == "ridge" else 10.0
    np.testing.assert_allclose(ours.query_logits(task)[0].detach().numpy(), scale * theirs.predict(q), atol=1e-6)


def test_a_support_vector_machine_is_that_of_balanced_classes() -> None:
    task = uneven()
    theirs = LinearSVC(
        multi_class="crammer_singer", fit_intercept=False, C=0.3, class_weight="balanced", tol=1e-8, max_iter=100_000
    )
    x, q = task.support_x[0].flatten(1).numpy() / 10, task.query_x[0].flatten(1).numpy() / 10
    expected = theirs.fit(x, task.support_y[0]).decision_function(q)
    task = replace(task, support_x=task.support_x / 10, query_x=task.query_x / 10)
    ours = Svm(Identity(), Setting(way=3, train_classes=6), penalty=0.3, solver_steps=1000, scale=1.0).double()
    np.testing.assert_allclose(ours.query_logits(task)[0].detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["running", "group", "support"])
def test_images_that_are_too_many_for_one_pass_have_the_same_scores(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    made = Pretrain(Conv((2, 8, 8), depth=2, width=8, norm=norm), Setting(way=3, train_classes=6)).double().eval()
    passed: list[int] = []
    made.backbone.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))
    task = uneven()
    with torch.no_grad():
        expected = made.query_logits(task)
        monkeypatch.setattr(learner, "_PIXELS_AT_ONCE", 5 * 64)
        found = made.query_logits(task)
    torch.testing.assert_close(found, expected)
    images = task.batch * (task.support_x.shape[1] + task.query_x.shape[1])
    assert passed[1:] == ([images] if norm == "support" else [5] * (images // 5) + [images % 5] * (images % 5 > 0))
