"""Ridge regression against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.linear_model
import torch
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.heads import ridge
from autometa.learning.learners.ridge import Ridge
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double

FEW_AND_MANY_SHOTS = [2, 60]  # of 3 classes, on 128 features and one: fewer images than features, and more


def with_ones(images: torch.Tensor, normalize: bool) -> np.ndarray:
    x = images.flatten(1).numpy()
    if normalize:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shot", FEW_AND_MANY_SHOTS)
def test_scores_are_a_scaled_ridge_regression_on_one_hot_labels(shot: int, normalize: bool) -> None:
    options: dict[str, Any] = {"regularization": 0.7, "scale": 4.0, "normalize": normalize}
    learner = Ridge(Identity(), SETTING, **options).double()
    episodes = double(make_episodes(shot=shot))
    penalty, scale = float(learner.log_regularization.detach().exp()), float(learner.log_scale.detach().exp())
    assert (penalty, scale) == pytest.approx((0.7, 4.0))
    scores = learner.scores(episodes).detach()
    for task in range(2):
        theirs = sklearn.linear_model.Ridge(alpha=penalty, fit_intercept=False, solver="svd")
        theirs.fit(with_ones(episodes.support_x[task], normalize), np.eye(3)[episodes.support_y[task]])
        expected = scale * theirs.predict(with_ones(episodes.query_x[task], normalize))
        np.testing.assert_allclose(scores[task], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("images", [3, 6, 7, 12])
def test_both_forms_are_the_same_regression(images: int) -> None:
    torch.manual_seed(18)
    x, y = torch.randn(2, images, 6).double(), torch.randn(2, images, 3).double()
    penalty = torch.tensor(0.4, dtype=torch.float64)
    weight = ridge(x, y, penalty=penalty)(torch.eye(6).double().expand(2, 6, 6))
    gradient = x.mT @ (x @ weight - y) + penalty * weight  # of half the objective, which is convex
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("images", [3, 8])
def test_gradients_through_the_solution_agree_with_finite_differences(images: int) -> None:
    torch.manual_seed(19)
    x, y = torch.randn(2, images, 5).double().requires_grad_(), torch.randn(2, images, 2).double()
    penalty = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    query = torch.randn(2, 3, 5).double()
    assert torch.autograd.gradcheck(lambda x, p: ridge(x, y, penalty=p)(query), (x, penalty))


@pytest.mark.parametrize("learned", [True, False])
def test_penalty_and_scale_are_learned_if_so_asked(learned: bool) -> None:
    learner = Ridge(Smooth(), SETTING, learned=learned)
    learner.outer_step(Fixed(make_episodes()))
    for parameter in (learner.log_regularization, learner.log_scale):
        assert (parameter.grad is not None) == learned


def test_a_bias_common_to_all_classes_would_not_be_learned() -> None:
    """Why the paper's β is not among the parameters."""
    task = double(make_episodes(batch=1))
    scores = Ridge(Identity(), SETTING).double().scores(task)[0].detach()
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    F.cross_entropy(scores + bias, task.query_y[0]).backward()
    assert float(bias.grad) == pytest.approx(0, abs=1e-12)


def test_a_single_shot_in_float32_is_solved() -> None:
    task = make_episodes(shot=1)
    large = EpisodeBatch(task.support_x * 30, task.support_y, task.query_x * 30, task.query_y, task.way)
    learner = Ridge(Identity(), SETTING, regularization=1e-3)
    expected = learner.double().scores(double(large))
    torch.testing.assert_close(learner.float().scores(large).double(), expected, rtol=1e-2, atol=1e-3)


def test_a_diverged_backbone_gives_scores_that_are_not_numbers() -> None:
    episodes = make_episodes()
    episodes.support_x[0, 0] = torch.nan
    scores = Ridge(Identity(), SETTING).scores(episodes)
    assert scores[0].isnan().all()
    assert scores[1].isfinite().all()


def test_what_is_singular_in_float32_is_no_exception() -> None:
    episodes = make_episodes()
    episodes.support_x[:] = 1e4
    assert Ridge(Identity(), SETTING, regularization=1e-3).scores(episodes).shape == (2, 12, 3)


@pytest.mark.parametrize("option", ["regularization", "scale"])
def test_options_of_ridge_name_themselves(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"ridge\.{option} = 0: it must be positive"):
        Ridge(Identity(), SETTING, **{option: 0})
