"""The shared kernel, and the one refitted to what a target differs by."""

from __future__ import annotations

import numpy as np
from scipy.optimize import approx_fprime

from autometa.sampling.kernel import Kernel, fit_kernel, fit_residual, negative_log_likelihood, residual_prior


def test_the_likelihoods_gradient_is_right() -> None:
    generator = np.random.default_rng(0)
    rows, scores = generator.random((12, 3)), generator.standard_normal((12, 2))
    own = generator.random(12)
    at = np.log([0.4, 0.8, 1.5, 0.05, 0.7])
    _, gradient = negative_log_likelihood(at, rows, scores, own)
    numeric = approx_fprime(at, lambda x: negative_log_likelihood(x, rows, scores, own)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)


def test_columns_count_by_their_squares() -> None:
    generator = np.random.default_rng(0)
    rows, scores = generator.random((12, 3)), generator.standard_normal((12, 1))
    at = np.log([0.4, 0.8, 1.5, 0.05, 0.7])
    once, slope = negative_log_likelihood(at, rows, scores)
    halves, same = negative_log_likelihood(at, rows, np.repeat(scores, 2, 1) * np.sqrt(0.5))
    np.testing.assert_allclose(once, halves)
    np.testing.assert_allclose(slope, same)


def test_lengths_tell_which_columns_matter() -> None:
    generator = np.random.default_rng(0)
    studies = [(rows, np.sin(6 * rows[:, 0])) for rows in generator.random((4, 60, 3))]
    lengths = fit_kernel(studies, generator).lengths
    assert lengths[0] < 0.3 * lengths[1:].min()


def test_a_residual_may_vary_where_the_past_did_not() -> None:
    generator = np.random.default_rng(0)
    past = Kernel(np.array([0.3, 3.0]))
    rows = generator.random((40, 2))
    errors = np.sin(6 * rows[:, 1])[:, None]
    found = fit_residual(past, rows, errors, np.ones(1), np.zeros(40))
    assert found.lengths[1] < 0.5 * past.lengths[1]
    assert found.lengths[0] > 2 * past.lengths[0]


def test_results_known_to_be_noise_leave_the_lengths_alone() -> None:
    generator = np.random.default_rng(0)
    past = Kernel(np.array([0.3, 3.0]))
    rows = generator.random((40, 2))
    errors = np.sin(6 * rows[:, 1])[:, None]
    found = fit_residual(past, rows, errors, np.ones(1), np.full(40, 1e4))
    np.testing.assert_allclose(found.lengths, past.lengths, rtol=0.01)


def test_noise_in_the_past_is_expected_of_the_target() -> None:
    generator = np.random.default_rng(0)
    rows = generator.random((40, 2))
    quiet, noisy = (Kernel(np.ones(2), noise=noise) for noise in (0.01, 0.5))
    errors = np.sin(6 * rows[:, :1]) + 0.3 * generator.standard_normal((40, 1))
    found = [fit_residual(past, rows, errors, np.ones(1), np.zeros(40)).noise for past in (quiet, noisy)]
    assert residual_prior(quiet).noise < residual_prior(noisy).noise
    assert found[0] < found[1]
    assert noisy.is_rough
    assert not quiet.is_rough
