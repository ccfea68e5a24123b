"""The formula that stands in for training: repeatable, within range, and told apart by configurations."""

from __future__ import annotations

import pytest

from autometa.records import Budget, EpisodeSpec, RungReport, TrialConfig
from autometa.testing import formula
from autometa.trial.job import DatasetRef, Job


def job(width: int, *, seed: int = 3) -> Job:
    return Job(
        config=TrialConfig(values={"backbone": "conv", "conv.width": width}),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        budget=Budget(steps=100, rungs=4),
        seed=seed,
        folder="unused",
    )


def test_a_record_is_that_of_a_complete_trial_and_the_same_each_time() -> None:
    told: list[RungReport] = []
    record = formula.run(job(32), on_rung=told.append, number=7)
    assert (record.number, record.state, record.curve) == (7, "complete", told)
    assert [(report.rung, report.steps) for report in told] == [(1, 25), (2, 50), (3, 75), (4, 100)]
    assert formula.run(job(32), number=7) == record
    assert formula.run(job(32, seed=4), number=7) != record


def test_accuracies_rise_to_an_end_that_depends_on_the_configuration() -> None:
    ends = [formula.accuracy_of(job(width).config) for width in range(8, 208)]
    assert len(set(ends)) == len(ends)
    assert 0.2 <= min(ends) < 0.25
    assert 0.85 < max(ends) <= 0.9
    best = max(range(8, 208), key=lambda width: formula.accuracy_of(job(width).config))
    curve = formula.run(job(best)).curve
    assert curve[-1].accuracy.mean == pytest.approx(formula.accuracy_of(job(best).config), abs=0.05)
    assert curve[0].accuracy.mean < curve[-1].accuracy.mean - 0.2
