"""Validation: more episodes from rung to rung, the first of one list, and as many for every trial."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.checkpoint_facts import FACTS
from autometa.learning.evaluation import interval, score
from autometa.records import Budget, EpisodeSpec, RungReport, Scalar, TrialConfig
from autometa.trial.group import run_group
from autometa.trial.job import DatasetRef, Job
from autometa.trial.opened import open_dataset
from autometa.trial.run import prepare, run
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


# Steps of all weights for each task against small batches in training, and the other way round.
SLOW_TO_VALIDATE: dict[str, Scalar] = {
    "learner": "pretrain",
    "pretrain.head": "finetune",
    "pretrain.adapt": "all",
    "pretrain.finetune_steps": 10,
    "pretrain.tune_steps": 8,
    "pretrain.batch_size": 8,
}
SLOW_TO_TRAIN: dict[str, Scalar] = {"learner": "prototypical", "episodes_per_step": 8, "conv.width": 16}


def episodes(curve: list[RungReport]) -> list[int]:
    return [report.accuracy.episodes for report in curve]


@pytest.mark.parametrize(
    ("last", "rungs", "counts"),
    [
        (100, 9, [5, 7, 11, 15, 22, 33, 47, 69, 100]),
        (200, 9, [5, 8, 13, 20, 32, 50, 80, 126, 200]),
        (20, 2, [5, 20]),
        (70, 1, [70]),
        (3, 4, [3, 3, 3, 3]),
    ],
)
def test_episodes_grow_by_one_factor_a_rung_from_five_to_what_is_wanted(
    last: int, rungs: int, counts: list[int]
) -> None:
    assert growing(last, rungs) == counts


@pytest.mark.parametrize("budget", [Budget(steps=1000, teraflops=5e-5, rungs=3), Budget(seconds=0.1, rungs=3)], ids=str)
def test_candidates_of_any_cost_see_the_same_episodes_at_a_rung(tmp_path: Path, budget: Budget) -> None:
    for name, values in (("a", SLOW_TO_VALIDATE), ("b", SLOW_TO_TRAIN)):
        curve = run(job(tmp_path / name, budget, norm="group", **values)).curve
        found = {report.rung: report.accuracy.episodes for report in curve}
        assert found.items() <= {1: 5, 2: 16, 3: 50}.items()
        assert found[3] == 50


def test_a_rung_takes_the_first_of_the_common_episodes(tmp_path: Path) -> None:
    asked = job(tmp_path, Budget(steps=40, rungs=4), episodes_per_step=4)
    training = prepare(asked)
    pool = ImagePool(open_dataset(asked.dataset), "val")
    for report in training.rungs():
        every = fixed_episodes(pool, asked.episodes, count=50, seed=3, batch=11)
        alone = interval(score(training.learner, every).tolist()[: report.accuracy.episodes], 3)
        assert report.accuracy.mean == pytest.approx(alone.mean)
        assert report.accuracy.half_width == pytest.approx(alone.half_width)
        assert (report.accuracy.over_classes is not None) == (report.rung == asked.budget.rungs)
    assert episodes(training.curve) == [5, 11, 23, 50]


def test_candidates_trained_together_see_the_same_episodes_too(tmp_path: Path) -> None:
    budget = Budget(steps=6, rungs=3)
    jobs = {number: job(tmp_path / str(number), budget, outer_lr=10.0**-number) for number in (2, 3)}
    seen: dict[int, list[int]] = {2: [], 3: []}

    def report(number: int, report: RungReport) -> bool:
        seen[number].append(report.accuracy.episodes)
        return False

    run_group(jobs, on_start=lambda number: None, on_rung=report, on_end=lambda record: None)
    assert seen == {2: [5, 16, 50], 3: [5, 16, 50]}


def test_a_killed_trial_goes_on_with_the_same_episodes(tmp_path: Path) -> None:
    budget = Budget(steps=24, rungs=4)
    straight = run(job(tmp_path / "straight", budget)).curve
    killed(job(tmp_path / "killed", budget), at=2)
    resumed = run(job(tmp_path / "killed", budget)).curve
    assert [(r.rung, r.steps, r.accuracy) for r in resumed] == [(r.rung, r.steps, r.accuracy) for r in straight]


def killed(asked: Job, *, at: int) -> None:
    def die(report: RungReport) -> None:
        if report.rung == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked, on_rung=die)


def test_a_checkpoint_that_says_how_many_episodes_is_continued(tmp_path: Path) -> None:
    """Earlier ones do, since a trial had a number of its own."""
    asked = job(tmp_path, Budget(steps=6, rungs=3))
    killed(asked, at=1)
    facts = json.loads((tmp_path / FACTS).read_text())
    assert "validation_counts" not in facts["extra"]
    facts["extra"]["validation_counts"] = [10, 10, 50]
    (tmp_path / FACTS).write_text(json.dumps(facts))
    assert episodes(run(asked).curve) == [5, 16, 50]
