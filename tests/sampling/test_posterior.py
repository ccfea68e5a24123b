"""Weights of the hypotheses, and expected improvement against a Gaussian process of another library."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from autometa.sampling import posterior as module
from autometa.sampling.kernel import Kernel
from autometa.sampling.posterior import Observations, Posterior, hypothesis_weights
from autometa.sampling.scores import Results

NAN = np.nan


def results(values: object, constraints: np.ndarray | None = None) -> Results:
    array = np.array(values, dtype=float).reshape(len(values), -1)  # type: ignore[arg-type]
    return Results(array, np.full_like(array, NAN), constraints)


def weights(predicted: object, values: object, start: object) -> np.ndarray:
    """Of hypotheses that predict so much for trials of these values, rung by rung."""
    columns = np.array(predicted, dtype=float)
    observed = Observations(np.zeros((len(columns), 1)), columns, results(values))
    return hypothesis_weights(observed, np.array(start, dtype=float), np.random.default_rng(0))


def test_two_results_weigh_a_hypothesis_by_the_probability_of_their_order() -> None:
    found = weights([[0.7, -0.2], [0.1, 0.3]], [0.4, 0.9], start=[0.5, -0.1])
    expected = np.array([np.exp(0.5) * norm.cdf(-0.6 / 2**0.5), np.exp(-0.1) * norm.cdf(0.5 / 2**0.5), 0.5])
    assert found == pytest.approx(expected / expected.sum())


def test_without_results_weights_are_the_prior_ones() -> None:
    assert weights([[0.7, -0.2]], [NAN], start=[0.5, -0.1]) == pytest.approx([0.6457, 0.3543, 0], abs=1e-4)
    assert list(weights(np.zeros((1, 0)), [NAN], start=[])) == [1.0]


@pytest.mark.parametrize("count", [8, 90])
def test_the_hypothesis_that_ranks_right_wins_however_many_pairs_there_are(count: int) -> None:
    truth = np.random.default_rng(1).standard_normal(count)
    right, reversed_, cold = weights(np.column_stack([truth, -truth]), truth, start=[-2, 0])
    assert right > 0.5
    assert reversed_ < cold < right


def test_a_misleading_past_loses_to_the_cold_hypothesis() -> None:
    truth = np.random.default_rng(2).standard_normal(12)
    assert weights(-truth[:, None], truth, start=[0])[1] > 0.99


def test_two_trials_are_compared_at_the_highest_rung_both_reached() -> None:
    # The second is better at the first rung, and worse at the only other one that the first has shown as well.
    early, late = weights([[1, -1], [-1, 1]], [[0.3, 0.8, NAN], [0.6, 0.5, 0.1]], start=[0, 0])[:2]
    assert early > 5 * late
    # A trial that ends earlier counts by what it showed, however low the other's later values.
    early, late = weights([[1, -1], [-1, 1]], [[0.3, NAN, NAN], [0.6, 0.2, 0.1]], start=[0, 0])[:2]
    assert late > 5 * early


def truth(rows: np.ndarray) -> np.ndarray:
    """Two functions of rows [n, D], [n, 2]."""
    return np.column_stack([np.sin(4 * rows).sum(1), np.cos(3 * rows).sum(1)])


def cold(rows: np.ndarray, values: object, constraints: np.ndarray | None = None) -> Posterior:
    """Without past studies, for a kernel that is given."""
    kernel = Kernel(np.array([0.3, 0.8]), amplitude=1.7, noise=0.05)
    observed = Observations(rows, np.zeros((len(rows), 0)), results(values, constraints))
    return Posterior(kernel, observed, np.ones(1), residual=kernel)


def test_expected_improvement_is_that_of_a_gaussian_process() -> None:
    random = np.random.default_rng(3)
    rows, candidates = random.random((15, 2)), random.random((30, 2))
    values = np.sin(5 * rows[:, 0]) - rows[:, 1]
    scores = (values - values.mean()) / values.std() * np.sqrt(1.7 + 0.05)
    kernel = ConstantKernel(1.7, "fixed") * Matern([0.3, 0.8], "fixed", nu=2.5)
    process = GaussianProcessRegressor(kernel, alpha=0.05 + 1e-6).fit(rows, scores)
    mean, std = process.predict(candidates, return_std=True)
    ahead = mean - process.predict(rows).max()
    expected = ahead * norm.cdf(ahead / std) + std * norm.pdf(ahead / std)
    assert cold(rows, values).expected_improvement(candidates, np.zeros((30, 0))) == pytest.approx(expected, abs=1e-6)


def test_a_pending_trial_takes_its_place_and_no_other() -> None:
    rows = np.array([[0.1, 0.2], [0.4, 0.9], [0.7, 0.3]])
    candidates = np.array([[0.9, 0.95], [0.2, 0.5]])
    before = cold(rows, [0.3, 0.5, 0.4]).expected_improvement(candidates, np.zeros((2, 0)))
    taken = cold(np.vstack([rows, candidates[:1]]), [0.3, 0.5, 0.4, NAN])
    after = taken.expected_improvement(candidates, np.zeros((2, 0)))
    assert after[0] < 0.3 * before[0]
    assert after[1] == pytest.approx(before[1], rel=0.1)


def test_only_feasible_trials_are_to_be_improved_on() -> None:
    rows = np.array([[0.1, 0.2], [0.4, 0.9], [0.7, 0.3]])
    values, candidates = [0.3, 0.9, 0.4], np.array([[0.95, 0.6]])
    improvement = [
        cold(rows, values, constraints).expected_improvement(candidates, np.zeros((1, 0)))[0]
        for constraints in (None, np.array([[-1.0], [2.0], [0.0]]), np.array([[1.0], [2.0], [0.1]]))
    ]
    on_any, on_feasible, on_nothing = improvement
    assert on_feasible > 1.2 * on_any
    assert on_nothing > on_feasible + 1


def test_the_residual_is_fitted_and_a_past_that_holds_leaves_little_of_it() -> None:
    rows = np.random.default_rng(4).random((30, 2))
    values = truth(rows)[:, 0]
    observed = Observations(rows, np.column_stack([values, truth(rows[:, ::-1])[:, 1]]), results(values))
    holds, misleads = (Posterior(Kernel(np.full(2, 0.5)), observed, np.array(p)) for p in ([1, 0, 0], [0, 1, 0]))
    assert holds.residual.amplitude < 0.5 * misleads.residual.amplitude


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_best_candidates_are_found_without_the_std_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    rows, candidates = random.random((40, 6)), random.random((2000, 6))
    values = truth(rows)[:, :1] + random.normal(0, 0.3, (40, 1))
    values[-5:] = np.nan  # pending
    posterior = Posterior(
        Kernel(np.full(6, 0.5)), Observations(rows, truth(rows), results(values)), np.array([0.6, 0.3, 0.1])
    )
    worth = np.where(random.random(2000) < 0.3, -1.0, random.uniform(0.5, 2.0, 2000))
    improvement = posterior.expected_improvement(candidates, truth(candidates))
    everything = np.where(worth < 0, worth, worth * improvement)

    solved_for = []
    solve = module.solve_triangular

    def counted(root: np.ndarray, columns: np.ndarray, **options: bool) -> np.ndarray:
        solved_for.append(columns.shape[1])
        return solve(root, columns, **options)

    monkeypatch.setattr(module, "solve_triangular", counted)
    chosen, found = posterior.best_candidates(6, truth(candidates), posterior.residual(rows, candidates), worth)
    assert list(chosen) == list(np.argsort(-everything)[:6])
    assert found == pytest.approx(everything[chosen])
    assert 6 <= sum(solved_for) < 1000


def test_candidates_that_were_all_tried_are_told_apart_from_none() -> None:
    rows = np.random.default_rng(5).random((8, 3))
    observed = Observations(rows, rows[:, :1], results(rows.sum(1)))
    posterior = Posterior(Kernel(np.ones(3)), observed, np.ones(2) / 2)
    _, found = posterior.best_candidates(6, rows[:, :1], posterior.residual(rows, rows), np.full(8, -1.0))
    assert list(found) == [-1.0] * 6


def test_of_many_trials_the_best_the_latest_and_the_pending_stay() -> None:
    values = np.random.default_rng(6).permutation(900).astype(float)
    values[:3] = NAN
    rows = np.arange(900.0)[:, None]
    kept = Observations(rows, rows, results(values)).latest_and_best()
    assert int(kept.shown.sum()) == 400
    numbers = set(kept.rows[:, 0].astype(int))
    assert set(np.argsort(-np.nan_to_num(values, nan=-1))[:200]) | set(range(3)) | set(range(880, 900)) <= numbers
    assert kept.predicted[:, 0] == pytest.approx(kept.rows[:, 0])
