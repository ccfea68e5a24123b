"""The SVM against liblinear's, and its gradients against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.learners.svm import Svm, dual_solution, on_simplex
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double


@pytest.mark.parametrize(("penalty", "scale"), [(0.001, 2.5), (0.1, 1.0), (3.0, 7.0)])
@pytest.mark.parametrize("shot", [1, 6])
def test_scores_are_scaled_decision_values_of_a_crammer_singer_svm(shot: int, penalty: float, scale: float) -> None:
    learner = Svm(Identity(), SETTING, penalty=penalty, scale=scale, solver_steps=500).double()
    episodes = double(make_episodes(shot=shot, query=5))
    scores = learner.scores(episodes).detach()
    for task in range(2):
        support, query = (x[task].flatten(1).numpy() for x in (episodes.support_x, episodes.query_x))
        theirs = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=penalty, tol=1e-9, max_iter=100_000)
        theirs.fit(support, episodes.support_y[task].numpy())
        expected = scale * theirs.decision_function(query)
        np.testing.assert_allclose(scores[task], expected, rtol=1e-5, atol=1e-6 * scale)
        np.testing.assert_array_equal(scores[task].argmax(-1), theirs.predict(query))


def test_the_default_steps_are_enough_for_five_way_five_shot() -> None:
    task = double(make_episodes(batch=1, way=5, shot=5, query=15))
    # As after a ReLU: what all images have in common makes the kernel ill-conditioned.
    task = EpisodeBatch(task.support_x.relu(), task.support_y, task.query_x.relu(), task.query_y, task.way)
    ours, exact = (Svm(Identity(), SETTING, **n).double().scores(task).detach() for n in ({}, {"solver_steps": 1000}))
    assert float((ours - exact).norm() / exact.norm()) < 0.005
    assert torch.equal(ours.argmax(-1), exact.argmax(-1))


def test_every_step_satisfies_the_constraints() -> None:
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(20)).double()
    target = F.one_hot(torch.arange(3).repeat_interleave(2), 3).double().expand(2, -1, -1)
    for steps in (1, 2, 30):
        dual = dual_solution(x @ x.mT, target, penalty=0.6, steps=steps)
        assert (dual <= 0.6 * target + 1e-12).all()
        torch.testing.assert_close(dual.sum(-1), torch.zeros(2, 6, dtype=torch.float64))


def test_gradients_through_the_solver_agree_with_finite_differences() -> None:
    torch.manual_seed(21)
    support = torch.randn(2, 6, 4).double().requires_grad_()
    target = F.one_hot(torch.arange(3).repeat_interleave(2), 3).double().expand(2, -1, -1)

    def solved(x: torch.Tensor) -> torch.Tensor:
        return dual_solution(x @ x.mT, target, penalty=0.4, steps=25)

    dual = solved(support.detach())
    assert ((dual > -0.4 + 1e-9) & (dual < -1e-9)).any()  # not all at a bound, where gradients would be zero
    assert torch.autograd.gradcheck(solved, (support,))


def test_the_unrolled_gradient_is_that_of_the_exact_solution() -> None:
    """Of a loss of liblinear's decision values, by differences of refitted machines."""
    episodes = double(make_episodes(batch=1, shot=2))
    support, query = (x[0].flatten(1)[:, :5] for x in (episodes.support_x, episodes.query_x))
    target = F.one_hot(episodes.support_y, 3).double()
    x = support.clone().requires_grad_()
    dual = dual_solution((x @ x.mT)[None], target, penalty=0.3, steps=1000)[0]
    F.cross_entropy(query @ x.mT @ dual, episodes.query_y[0]).backward()
    direction = torch.randn(support.shape, generator=torch.Generator().manual_seed(22)).double()

    def loss(step: float) -> float:
        svm = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=0.3, tol=1e-12, max_iter=10**6)
        svm.fit((support + step * direction).numpy(), episodes.support_y[0].numpy())
        return float(F.cross_entropy(query @ torch.from_numpy(svm.coef_).mT, episodes.query_y[0]))

    assert x.grad is not None
    expected = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert float((x.grad * direction).sum()) == pytest.approx(expected, rel=1e-3)


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    rows = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(23)).double()
    for row, found in zip(rows.numpy(), on_simplex(rows).numpy(), strict=True):
        nearest = minimize(
            lambda s, row=row: ((s - row) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
            tol=1e-12,
        )
        np.testing.assert_allclose(found, nearest.x, atol=1e-6)
        assert found.sum() == pytest.approx(1)


def test_a_diverged_backbone_gives_scores_that_are_not_numbers() -> None:
    episodes = make_episodes()
    episodes.support_x[0, 0] = torch.nan
    scores = Svm(Identity(), SETTING).scores(episodes)
    assert scores[0].isnan().all()
    assert scores[1].isfinite().all()


def test_scale_and_backbone_learn() -> None:
    torch.manual_seed(24)
    learner = Svm(Smooth(), SETTING)
    learner.outer_step(Fixed(make_episodes()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0}, r"svm\.penalty = 0: it must be positive"),
        ({"scale": -1.0}, r"svm\.scale = -1\.0"),
        ({"solver_steps": 0}, r"svm\.solver_steps = 0"),
    ],
)
def test_options_of_svm_name_themselves(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Svm(Identity(), SETTING, **options)
