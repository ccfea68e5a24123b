"""Which past studies count: those of noise as often as they may, real ones nearly always."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.encoding import Domain
from autometa.sampling.informative import Rated, uninformative
from autometa.sampling.scores import normal_scores
from autometa.sampling.surrogates import fit_surrogates

COLUMNS = 10
DOMAIN = Domain({f"p{column}": FloatDistribution(0, 1) for column in range(COLUMNS)})


def noise(trials: int, *seed: int) -> Rated:
    generator = np.random.default_rng(seed)
    codes = generator.random((trials, COLUMNS))
    return DOMAIN.encode(codes), normal_scores(generator.standard_normal(trials))


def smooth(trials: int, *seed: int, spread: float = 0.3) -> Rated:
    """Two parameters of ten matter, the same in all studies; a little of it is chance."""
    rows, chance = noise(trials, *seed)
    first, second = rows[:, 1], rows[:, 3]
    return rows, normal_scores(-((first - 0.3) ** 2) * 4 - second + spread * chance)


def passes(studies: list[Rated]) -> bool:
    return len(uninformative(studies)) < len(studies)


def passed(studies: int, trials: int, cases: int) -> int:
    return sum(passes([noise(trials, case, study, trials) for study in range(studies)]) for case in range(cases))


@pytest.mark.parametrize(("studies", "trials"), [(1, 16), (2, 10), (3, 16), (4, 16)])
def test_small_studies_of_noise_pass_in_five_of_a_hundred_cases(studies: int, trials: int) -> None:
    assert 1 <= passed(studies, trials, cases=100) <= 11  # 5 expected; less or more happens in 1 of 100


@pytest.mark.parametrize(("studies", "trials", "cases"), [(1, 60, 160), (3, 60, 60), (4, 50, 60), (1, 200, 40)])
def test_large_studies_of_noise_pass_in_one_of_two_hundred_cases(studies: int, trials: int, cases: int) -> None:
    assert passed(studies, trials, cases) <= 3  # 1 expected at most


def test_a_fit_leaves_out_the_noise_that_its_own_kernel_would_explain() -> None:
    """Sixty trials of ten parameters: fitted lengths find structure in two of three such studies."""
    kept = 0
    for case in range(30):
        generator = np.random.default_rng([case, 7])
        values = [{name: float(generator.random()) for name in DOMAIN.names} for _ in range(60)]
        curves = [(PastReport(1, float(generator.standard_normal())),) for _ in values]
        study = PastStudy("noise", tuple(PastTrial(v, c) for v, c in zip(values, curves, strict=True)))
        kept += fit_surrogates(DOMAIN, [study])[0] is not None
    assert kept <= 1


@pytest.mark.parametrize(("studies", "trials"), [(1, 30), (4, 16), (1, 60), (5, 60), (2, 200)])
def test_studies_of_a_function_are_kept(studies: int, trials: int) -> None:
    kept = [studies - len(uninformative([smooth(trials, case, n) for n in range(studies)])) for case in range(8)]
    assert sum(kept) >= 0.8 * 8 * studies


def test_noise_beside_real_studies_is_left_out_alone() -> None:
    studies = [smooth(60, 0, 0), noise(60, 0, 1), smooth(60, 0, 2), noise(90, 0, 3)]
    assert uninformative(studies) == {1, 3}


def test_categories_that_differ_are_seen() -> None:
    domain = Domain({"kind": CategoricalDistribution(("a", "b", "c")), "rate": FloatDistribution(1e-4, 1, log=True)})
    codes = domain.sample(np.random.default_rng(3), 24)
    scores = normal_scores((codes[:, 0] == 2) + 0.2 * np.random.default_rng(4).standard_normal(24))
    assert uninformative([(domain.encode(codes), scores)]) == set()


def test_studies_that_show_no_difference_say_nothing() -> None:
    rows, _ = noise(60, 1)
    same = np.repeat(rows[:1], 60, axis=0)
    _, scores = noise(60, 2)
    assert uninformative([(rows, np.zeros(60)), (same, scores), (rows[:5], np.zeros(5))]) == {0, 1, 2}


def test_hundreds_of_small_studies_are_tested_on_some_of_their_trials() -> None:
    assert uninformative([smooth(16, n) for n in range(100)]) == set()
    assert len(uninformative([noise(16, n, 5) for n in range(100)])) == 100
