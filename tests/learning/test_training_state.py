"""How far a training is, by what it has spent."""

from __future__ import annotations

import pytest

from autometa.learning.training_state import TrainingState
from autometa.records import Accuracy, Budget, RungReport


def report(rung: int, *, cooled: bool = False) -> RungReport:
    accuracy = Accuracy(mean=0.5, half_width=0.1, episodes=10, seed=0)
    return RungReport(rung=rung, accuracy=accuracy, steps=1, seconds=1.0, cooled=cooled)


@pytest.mark.parametrize(("reported", "cooled_at"), [(6, 7), (7, 8)])
def test_the_end_of_a_cool_down_is_a_rung_of_its_own(reported: int, cooled_at: int) -> None:
    """Also where rungs before were counted in another unit, and the last of them is ahead of what is spent."""
    state = TrainingState(Budget(steps=10, open=True), 500, 1.0, 10)
    state.curve = [report(reported)]
    state.cooling = (40.0, 50.0)  # of first rungs: the sixth is at 32
    assert state.rung == cooled_at
    assert not state.is_over
    state.curve.append(report(cooled_at, cooled=True))
    assert state.rung == cooled_at
    assert state.is_over
