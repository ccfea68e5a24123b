"""Validation: more episodes from rung to rung, the first of one list, within a tenth of training, and resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autometa.data.episodes import ImagePool, fixed_episodes
from autometa.learning.checkpoint_facts import FACTS
from autometa.learning.evaluation import interval, score
from autometa.records import Budget, EpisodeSpec, RungReport, Scalar, TrialConfig
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import open_dataset, prepare, run
from autometa.trial.validation import growing


def job(folder: Path, budget: Budget, **values: Scalar) -> Job:
    return Job(
        config=TrialConfig(values={"conv.width": 8, "conv.depth": 2, **values}),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=3, shot=2, query=4),
        budget=budget,
        seed=6,
        folder=str(folder),
        validation_episodes=50,
        validation_seed=3,
        use_gpu=False,
    )


def test_episodes_grow_by_one_factor_a_rung_and_the_last_has_all() -> None:
    assert growing(100, 9, most=None) == [20, 24, 29, 36, 44, 54, 66, 81, 100]
    assert growing(7, 1, most=0) == [7]


@pytest.mark.parametrize("most", [250, 330, 10_000])
def test_all_together_keep_to_what_they_may_cost(most: int) -> None:
    counts = growing(100, 9, most=most)
    assert sum(counts) <= most
    assert counts == sorted(counts)
    assert counts[-1] == 100


def test_the_fewest_episodes_are_measured_whatever_they_cost() -> None:
    assert growing(100, 3, most=90) == [10, 10, 100]
    assert growing(6, 3, most=90) == [6, 6, 6]


def test_a_rung_takes_the_first_of_the_common_episodes(tmp_path: Path) -> None:
    asked = job(tmp_path, Budget(steps=300, rungs=4), episodes_per_step=4)
    training = prepare(asked)
    pool = ImagePool(open_dataset(asked.dataset), "val")
    for report in training.rungs():
        every = fixed_episodes(pool, asked.episodes, count=50, seed=3, batch=11)
        alone = interval(score(training.learner, every).tolist()[: report.accuracy.episodes], 3)
        assert report.accuracy.mean == pytest.approx(alone.mean)
        assert report.accuracy.half_width == pytest.approx(alone.half_width)
        assert (report.accuracy.over_classes is not None) == (report.rung == asked.budget.rungs)
    assert [r.accuracy.episodes for r in training.curve] == [10, 17, 29, 50]


def test_a_learner_that_adapts_at_length_is_validated_on_fewer(tmp_path: Path) -> None:
    """Fifty steps a task against one in training: the low rungs get the fewest, the last still has all."""
    slow: dict[str, Scalar] = {"learner": "pretrain", "pretrain.head": "finetune", "pretrain.adapt": "all"}
    curve = run(job(tmp_path, Budget(steps=9, rungs=3), norm="group", **slow)).curve
    assert [r.accuracy.episodes for r in curve] == [10, 10, 50]


def test_a_killed_trial_goes_on_with_the_same_episodes(tmp_path: Path) -> None:
    budget = Budget(steps=24, rungs=4)
    straight = run(job(tmp_path / "straight", budget)).curve

    def die(report: RungReport) -> None:
        if report.rung == 2:
            raise KeyboardInterrupt

    asked = job(tmp_path / "killed", budget)
    with pytest.raises(KeyboardInterrupt):
        run(asked, on_rung=die)
    resumed = run(asked).curve
    assert [(r.rung, r.steps, r.accuracy) for r in resumed] == [(r.rung, r.steps, r.accuracy) for r in straight]


def test_a_checkpoint_that_does_not_say_how_many_episodes_is_continued(tmp_path: Path) -> None:
    asked = job(tmp_path, Budget(steps=6, rungs=3))

    def die(report: RungReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked, on_rung=die)
    facts = json.loads((tmp_path / FACTS).read_text())
    del facts["extra"]["validation_counts"]
    (tmp_path / FACTS).write_text(json.dumps(facts))
    curve = run(asked).curve
    assert [r.rung for r in curve] == [1, 2, 3]
    assert curve[-1].accuracy.episodes == 50
