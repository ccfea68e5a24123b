"""Who is confirmed, who won, and by how much: chosen on one half of the episodes, reported on the other."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.learning import intervals
from autometa.learning.scores import Scores
from autometa.records import Confirmation, Retrained
from autometa.study import confirm


def answers(first: float, second: float, episodes: int = 40, seed: int = 3) -> Scores:
    """Two of six classes an episode; accuracy `first` in one half of the episodes and `second` in the other."""
    classes = np.random.default_rng(seed).random((episodes, 6)).argsort(1)[:, :2]
    right = np.repeat([first, second], episodes // 2)[:, None, None]
    counts = (np.eye(2) * right + (1 - np.eye(2)) * (1 - right)) * 100
    return Scores(classes, counts.round().astype(int), np.arange(6))


def confirmed(trial: int, scores: Scores) -> Confirmation:
    selection, validation = (intervals.accuracy(half, 0) for half in confirm.halves(scores))
    return Confirmation(trial=trial, selection=selection, validation=validation)


def test_what_chooses_the_winner_is_not_what_is_reported_of_it() -> None:
    lucky, steady = confirmed(4, answers(0.9, 0.6)), confirmed(7, answers(0.8, 0.8))
    won = confirm.winner([steady, lucky])
    assert won is not None
    assert won.trial == 4
    assert won.validation.mean == pytest.approx(0.6), "its luck stays in the half that chose it"


def test_other_seeds_choose_where_there_are_any() -> None:
    lucky, steady = confirmed(4, answers(0.9, 0.9)), confirmed(7, answers(0.8, 0.8))
    half = intervals.accuracy(answers(0.7, 0.7), 0)
    again = lucky.model_copy(update={"retrained": Retrained(seeds=[1, 2], selection=half, validation=half)})
    steady_again = Retrained(seeds=[1, 2], selection=steady.validation, validation=half)
    won = confirm.winner([again, steady.model_copy(update={"retrained": steady_again})])
    assert won is not None
    assert won.trial == 7
    seeds = [seed for trial_seed in range(50) for seed in confirm.other_seeds(trial_seed, 3)]
    assert len(set(seeds)) == 150
    assert min(seeds) > 50, "apart from the seeds of all trials"


def test_an_old_study_was_chosen_by_what_it_reports() -> None:
    old = Confirmation(trial=4, validation=intervals.accuracy(answers(0.8, 0.8), 0))
    assert old.chosen_by == old.validation


def test_finalists_are_compared_on_the_reported_half_of_common_episodes() -> None:
    kept = {4: answers(0.9, 0.75), 7: answers(0.2, 0.7), 9: answers(0.9, 0.9, seed=8)}
    (found,) = confirm.compared(4, kept)
    assert (found.trial, found.other) == (4, 7), "trial 9 was measured on other episodes"
    assert found.ahead == pytest.approx(0.05)
    assert found.is_distinguishable
    assert confirm.compared(5, kept) == [], "the winner of an older search kept no answers"
