"""What is read of shipped archives: where candidates would have ended, and what works where."""

from __future__ import annotations

import math

import pytest
from archived import at_the_end
from what_works import Found, effects, mean_of

from autometa.records import Accuracy, RungReport, TrialConfig, TrialRecord


def trial(number: int, *accuracies: float) -> TrialRecord:
    curve = [
        RungReport(
            rung=rung, accuracy=Accuracy(mean=mean, half_width=0.01, episodes=10, seed=0), steps=rung, seconds=rung
        )
        for rung, mean in enumerate(accuracies, 1)
    ]
    return TrialRecord(number=number, state="complete", config=TrialConfig(values={"learner": "a"}), curve=curve)


def test_a_candidate_that_stopped_gains_what_others_gained_from_there() -> None:
    trials = [trial(0, 0.2, 0.3, 0.5), trial(1, 0.3, 0.5, 0.6), trial(2, 0.4), trial(3, 0.1, 0.2)]
    assert at_the_end(trials) == pytest.approx([50.0, 60.0, 40.0 + 10.0 + 15.0, 20.0 + 15.0])


def study(name: str, source: str, **levels: float) -> Found:
    values = [{"learner": "a", "norm": level[:-1]} for level in levels]
    return Found(name, source, False, values, list(levels.values()))


def test_a_choice_is_compared_within_its_family_and_study() -> None:
    studies = [study(str(n), "s" if n else "t", x1=50 + n, x2=52 + n, y1=40, y2=42) for n in range(3)]
    found = effects(studies, "norm")
    assert (found["x"].studies, found["x"].sources) == (3, 2)
    assert found["x"].mean == pytest.approx(-found["y"].mean) == pytest.approx(5.5)
    differences = [5.0, 5.5, 6.0]
    assert found["x"] == mean_of([("s", one) for one in differences])._replace(sources=2)
    assert found["x"].half_width == pytest.approx(4.303 * 0.5 / math.sqrt(3), rel=1e-3)
    assert effects(studies[:2], "norm") == {}
