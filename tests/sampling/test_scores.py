"""Scores within a study: by rank or by size, never across rungs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from autometa.sampling.scores import Results, normal_scores, scored, standardised

NAN = np.nan


def results(values: list[list[float]], widths: float = NAN) -> Results:
    array = np.array(values)
    return Results(array, np.full_like(array, widths))


def test_ranks_ignore_the_scale() -> None:
    values = np.array([0.1, 5.0, 0.2, 0.3])
    assert normal_scores(values) == pytest.approx(normal_scores(np.exp(values)))
    assert normal_scores(values).argmax() == 1


def test_ties_share_the_mean_of_their_ranks() -> None:
    tied = normal_scores(np.array([0.3, 0.1, 0.3, 0.3, 0.9]))
    assert tied[0] == tied[2] == tied[3] == pytest.approx(ndtri((3 - 0.5) / 5))
    assert tied[1] == pytest.approx(ndtri(0.1))


def test_one_diverged_trial_does_not_hide_the_others() -> None:
    values = standardised(np.array([0.7, 0.71, 0.72, 0.73, -1e9]))
    assert values[3] - values[0] > 0.5


def test_values_of_different_rungs_are_not_compared() -> None:
    # The last rung's values are all lower than the first one's: a harder measure, not worse trials.
    study = results([[0.9, 0.2], [0.8, 0.1], [0.5, NAN], [0.4, NAN]])
    scores, _ = scored(study, normal_scores)
    assert list(np.argsort(-scores)) == [0, 1, 2, 3]


def test_whoever_went_on_starts_from_where_it_was() -> None:
    study = results([[0.9, 0.1], [0.8, 0.3], [0.5, NAN], [0.4, NAN]])
    scores, _ = scored(study, normal_scores)
    first, _ = scored(results([[0.9], [0.8], [0.5], [0.4]]), normal_scores)
    assert scores[:2].mean() == pytest.approx(first[:2].mean())
    assert scores[1] > scores[0] > scores[2]


def test_early_and_uncertain_results_are_noisier() -> None:
    _, early = scored(results([[0.9, NAN, NAN], [0.8, 0.8, 0.8], [0.5, 0.6, 0.7]]), normal_scores)
    assert early[0] > early[1] == 0
    _, wide = scored(results([[0.9], [0.5]], widths=0.1), normal_scores)
    _, narrow = scored(results([[0.9], [0.5]], widths=0.01), normal_scores)
    assert wide[0] > narrow[0] > 0


def test_a_trial_without_a_result_has_no_score() -> None:
    scores, _ = scored(results([[0.9], [NAN]]), normal_scores)
    assert np.isnan(scores[1])
