"""Models of an end by the clock are compared on the episodes that all of them have."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.learning.scores import Scores
from autometa.study.measuring import _on_common_episodes, in_parts
from autometa.trial.measured import Measured


def answered(episodes: int) -> Measured:
    """By a model that came so far in one list of episodes."""
    classes = np.random.default_rng(0).integers(0, 9, (100, 2))[:episodes]
    return Measured(Scores(classes, np.ones((episodes, 2, 2)), np.arange(9)), 0, None)


def test_only_the_first_episodes_that_all_have_count() -> None:
    found = _on_common_episodes([(2, answered(30)), (0, answered(50)), (1, answered(70))])
    assert [(place, len(one.scores)) for place, one in found] == [(0, 30), (1, 30), (2, 30)]
    assert all(one.scores.has_same_episodes(found[0][1].scores) for _, one in found)
    assert _on_common_episodes([]) == []


@pytest.mark.parametrize(
    ("costs", "workers", "parts"),
    [
        ([1.0], 2, [1.0]),
        ([1.0, 1.0], 2, [1.0, 1.0]),
        ([1.0, 1.0, 1.0, 1.0], 2, [0.5] * 4),
        ([1.0, 10.0, 1.0, 1.0], 2, [1 / 3, 1.0, 1 / 3, 1 / 3]),
        ([3.0, 2.0, 1.0], 1, [1 / 2, 1 / 3, 1 / 6]),
        ([], 2, []),
    ],
)
def test_what_is_dearer_gets_more_of_the_time_and_no_more_than_all(
    costs: list[float], workers: int, parts: list[float]
) -> None:
    assert in_parts(costs, workers) == pytest.approx(parts)
