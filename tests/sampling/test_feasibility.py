"""The chance to keep constraints, from trials that kept or violated them."""

from __future__ import annotations

import numpy as np

from autometa.sampling.feasibility import always, feasibility

ROWS = np.linspace(0, 1, 21)[:, None]
BORDER = 0.5  # kept below it


def by(values: np.ndarray) -> np.ndarray:
    return feasibility(ROWS, values)(ROWS)


def test_nothing_was_violated() -> None:
    assert feasibility(ROWS, None) is always
    assert by(np.hstack([-ROWS, -1 - 5 * ROWS])).tolist() == [1.0] * 21


def test_a_border_is_learned_and_what_lies_beyond_it_is_worth_next_to_nothing() -> None:
    found = by(ROWS - BORDER)
    assert (found[ROWS[:, 0] <= 0.3] > 0.9).all()
    assert (found[ROWS[:, 0] >= 0.6] < 1e-11).all()
    assert ((found >= 0.7) | (found < 1e-11)).all(), "a small chance is no chance"


def test_yes_or_no_and_a_million_for_no_are_learned_alike() -> None:
    violated = ROWS > BORDER
    assert np.allclose(by(np.where(violated, 1.0, 0.0)), by(np.where(violated, 1e6, 0.0)))


def test_the_unit_of_a_constraint_does_not_matter() -> None:
    assert np.allclose(by(ROWS - BORDER), by(1000 * (ROWS - BORDER)))


def test_all_constraints_have_to_be_kept() -> None:
    below, above = ROWS - 0.7, 0.3 - ROWS
    both = by(np.hstack([below, above]))
    assert np.allclose(both[10], by(below)[10] * by(above)[10])
    assert both[10] > 0.8
    assert max(both[0], both[-1]) < 1e-11


def test_trials_of_which_nothing_is_known_yet_say_nothing() -> None:
    running = np.full((3, 1), np.nan)
    rows = np.vstack([ROWS, [[0.9]] * 3])
    found = feasibility(rows, np.vstack([ROWS - BORDER, running]))(ROWS)
    assert np.array_equal(found, by(ROWS - BORDER))


def test_one_violation_is_enough_to_stay_away_from() -> None:
    found = feasibility(ROWS[:2], np.array([[-1.0], [1.0]]))(ROWS[:2])
    assert found[1] < found[0]
