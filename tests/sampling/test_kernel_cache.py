"""What the caches return is what would be computed anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.encoding import Domain
from autometa.sampling.kernel import Kernel
from autometa.sampling.kernel_cache import CrossKernelCache, KernelCache, PredictionCache
from autometa.sampling.surrogates import Surrogates, fit_surrogates
from autometa.space.files import load_space

DOMAIN = Domain.of_space(load_space("few_shot"))


@pytest.fixture(scope="module")
def surrogates() -> Surrogates:
    codes = DOMAIN.sample(np.random.default_rng(1), 120)
    values = DOMAIN.encode(codes) @ np.random.default_rng(2).standard_normal(DOMAIN.encode(codes[:1]).shape[1])
    trials = [PastTrial(DOMAIN.values(c), (PastReport(1, float(v)),)) for c, v in zip(codes, values, strict=True)]
    found, _ = fit_surrogates(DOMAIN, [PastStudy("one", tuple(trials)), PastStudy("two", tuple(trials[:90]))])
    assert found is not None
    return found


def windows(rows: np.ndarray) -> list[np.ndarray]:
    """As a long study shows them: some more, some fewer, one twice, in another order, and none."""
    return [rows[:0], rows[:1], rows[:9], np.concatenate([rows[2:12], rows[3:4]]), rows[11:4:-1], rows[:0], rows[5:20]]


def test_trials_are_encoded_and_predicted_as_ever(surrogates: Surrogates) -> None:
    encoded = PredictionCache(surrogates)
    for codes in windows(DOMAIN.sample(np.random.default_rng(3), 20)):
        rows, predicted = encoded(codes)
        assert np.array_equal(rows, DOMAIN.encode(codes))
        assert predicted == pytest.approx(surrogates.features(rows) @ surrogates.weights, abs=1e-8)


@pytest.mark.parametrize("kind", ["with rows that stay", "with each other"])
def test_correlations_are_the_kernels(kind: str) -> None:
    random = np.random.default_rng(4)
    pool, trials = random.random((30, 5)), random.random((20, 5))
    first, second = Kernel(np.full(5, 0.7)), Kernel(np.linspace(0.3, 2, 5))
    cache: Callable[[Kernel, np.ndarray], np.ndarray] = (
        KernelCache() if kind == "with each other" else CrossKernelCache(pool)
    )
    for kernel in (first, first, second, first):
        for rows in windows(trials):
            others = rows if kind == "with each other" else pool
            assert cache(kernel, rows) == pytest.approx(kernel(rows, others), abs=1e-12)
