"""What is remembered from proposal to proposal is what would be found anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.encoding import Domain
from autometa.sampling.kernel import Kernel
from autometa.sampling.kernel_cache import Correlations, Encoded, Gram
from autometa.sampling.posterior import Observations, Posterior
from autometa.sampling.scores import Results
from autometa.sampling.surrogates import Surrogates, learn
from autometa.space.files import load_space

DOMAIN = Domain.of_space(load_space("few_shot"))


@pytest.fixture(scope="module")
def surrogates() -> Surrogates:
    codes = DOMAIN.sample(np.random.default_rng(1), 120)
    values = DOMAIN.encode(codes) @ np.random.default_rng(2).standard_normal(DOMAIN.encode(codes[:1]).shape[1])
    trials = [PastTrial(DOMAIN.values(c), (PastReport(1, float(v)),)) for c, v in zip(codes, values, strict=True)]
    found, _ = learn(DOMAIN, [PastStudy("one", tuple(trials)), PastStudy("two", tuple(trials[:90]))])
    assert found is not None
    return found


def windows(rows: np.ndarray) -> list[np.ndarray]:
    """As a long study shows them: some more, some fewer, one twice, in another order, and none."""
    return [rows[:0], rows[:1], rows[:9], np.concatenate([rows[2:12], rows[3:4]]), rows[11:4:-1], rows[:0], rows[5:20]]


def test_trials_are_encoded_and_predicted_as_ever(surrogates: Surrogates) -> None:
    encoded = Encoded(surrogates)
    for codes in windows(DOMAIN.sample(np.random.default_rng(3), 20)):
        rows, predicted = encoded(codes)
        assert np.array_equal(rows, DOMAIN.encode(codes))
        assert predicted == pytest.approx(surrogates.features(rows) @ surrogates.weights, abs=1e-8)


@pytest.mark.parametrize("kind", ["with rows that stay", "with each other"])
def test_correlations_are_the_kernels(kind: str) -> None:
    random = np.random.default_rng(4)
    pool, trials = random.random((30, 5)), random.random((20, 5))
    first, second = Kernel(np.full(5, 0.7)), Kernel(np.linspace(0.3, 2, 5))
    remembered: Callable[[Kernel, np.ndarray], np.ndarray] = Gram() if kind == "with each other" else Correlations(pool)
    for kernel in (first, first, second, first):
        for rows in windows(trials):
            others = rows if kind == "with each other" else pool
            assert remembered(kernel, rows) == pytest.approx(kernel(rows, others), abs=1e-12)


def truth(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([np.sin(4 * rows).sum(1), np.cos(3 * rows).sum(1)])


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_greatest_improvements_are_found_without_finding_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    rows, candidates = random.random((40, 6)), random.random((2000, 6))
    values = truth(rows)[:, :1] + random.normal(0, 0.3, (40, 1))
    values[-5:] = np.nan  # pending
    seen = Observations(rows, truth(rows), Results(values, np.full_like(values, np.nan)))
    posterior = Posterior(Kernel(np.full(6, 0.5)), seen, np.array([0.6, 0.3, 0.1]))
    worth = np.where(random.random(2000) < 0.3, -1.0, random.uniform(0.5, 2.0, 2000))
    improvement = posterior.expected_improvement(candidates, truth(candidates))
    everything = np.where(worth < 0, worth, worth * improvement)

    looked_at = []
    spread = posterior._spread

    def counted(some: np.ndarray) -> np.ndarray:
        looked_at.append(some.shape[1])
        return spread(some)

    monkeypatch.setattr(posterior, "_spread", counted)
    correlations = posterior.residual(rows, candidates)
    chosen, found = posterior.greatest(6, truth(candidates), correlations, worth)
    assert list(chosen) == list(np.argsort(-everything)[:6])
    assert found == pytest.approx(everything[chosen])
    assert sum(looked_at) < 1000


def test_candidates_that_were_all_tried_are_told_apart_from_none() -> None:
    rows = np.random.default_rng(5).random((8, 3))
    values = rows.sum(1, keepdims=True)
    posterior = Posterior(
        Kernel(np.ones(3)),
        Observations(rows, rows[:, :1], Results(values, np.full_like(values, np.nan))),
        np.ones(2) / 2,
    )
    _, found = posterior.greatest(6, rows[:, :1], posterior.residual(rows, rows), np.full(8, -1.0))
    assert list(found) == [-1.0] * 6
