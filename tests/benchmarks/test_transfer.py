"""What the transfer benchmark claims must follow from its runs: regret, rows, clock, intervals, sources."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution, json_to_distribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import RandomSampler
from transfer import Run
from transfer_async import Run as AsyncRun
from transfer_async import descent, gain
from transfer_clock import simulate
from transfer_deepar import DeepARTask
from transfer_lcbench import LCBench
from transfer_peers import Start, greedy_portfolio
from transfer_report import first, interval, speed
from transfer_runs import note, noted
from transfer_sources import shuffled, unrelated
from transfer_tasks import Cube, Report, Scale, past_study

SPACE = {
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": FloatDistribution(0.1, 0.99),
    "units": IntDistribution(64, 1024, log=True),
    "layers": IntDistribution(2, 5),
}


class Trained:
    """Trials of one number, which is both the seconds between two of their three reports and their value."""

    name = "trained"
    direction = "maximize"
    distributions = {"pace": FloatDistribution(1.0, 100.0)}

    def curve(self, values):
        return [Report(rung, values["pace"], rung * values["pace"]) for rung in (1, 2, 3)]

    def evaluate(self, values):
        return values["pace"]


class Watching(BasePruner):
    """Notes each question it is asked; stops the trials of some numbers."""

    def __init__(self, hopeless=()):
        self.asked = []
        self.hopeless = hopeless

    def prune(self, study, trial):
        self.asked.append((trial.number, trial.last_step))
        return trial.number in self.hopeless


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def start(*paces):
    return Start(RandomSampler(seed=0), [{"pace": float(pace)} for pace in paces])


def test_regret_is_one_for_the_median_and_zero_for_the_best_in_either_direction():
    accuracy, loss = Scale(best=97.0, median=72.0), Scale(best=0.02, median=0.12)
    assert [accuracy.regret(value) for value in (72.0, 97.0, 47.0, 99.0)] == [1.0, 0.0, 2.0, 0.0]
    assert loss.regret(0.07) == pytest.approx(0.5)
    assert accuracy.incumbents([47.0, 84.5, 72.0, 97.0]) == [2.0, 0.5, 0.5, 0.0]


def test_the_unit_cube_gives_back_what_it_took_and_each_integer_its_share():
    cube = Cube(SPACE)
    points = cube.draw(4000, np.random.default_rng(3))
    np.testing.assert_allclose(cube.from_unit(cube.to_unit(points)), points, rtol=1e-9)
    assert all(0.2 < share / 4000 < 0.3 for share in Counter(points[:, 3]).values())
    assert np.median(points[:, 0]) == pytest.approx(10**-2.5, rel=0.2)
    assert {name: type(value) for name, value in cube.values(points[0]).items()} == {
        "rate": float,
        "momentum": float,
        "units": int,
        "layers": int,
    }


def test_a_table_gives_the_nearest_row_that_it_has_not_given():
    rows = {"num_layers": 3, "num_cells": 60, "dropout_rate": 0.1, "num_batches_per_epoch": 300}
    at = [[*rows.values()] for _ in range(3)]
    points = np.array([[*r[:3], rate, r[3], 1.0] for r, rate in zip(at, (1e-3, 1e-2, 9e-2), strict=True)])
    task = DeepARTask("table", points, values=np.array([0.3, 0.2, 0.1]), seconds=np.array([5.0, 6.0, 7.0]))
    proposal = {**rows, "context_length_ratio": 1.0, "learning_rate": 5e-3}
    # By ratio 5e-3 is nearest to 1e-2, by difference to 1e-3.
    assert [task.evaluate(proposal) for _ in range(3)] == [0.2, 0.3, 0.1]
    with pytest.raises(ValueError, match="all 3 rows"):
        task.evaluate(proposal)


def test_the_clock_asks_the_pruner_in_the_order_of_simulated_time():
    pruner = Watching()
    outcome = simulate(Trained(), start(10, 4, 7), pruner, workers=2, limit_seconds=30.0)
    # 0 reports at 10 and 20, 1 at 4 and 8 and ends at 12, when 2 begins, which reports at 19 and 26.
    assert pruner.asked[:6] == [(1, 1), (1, 2), (0, 1), (2, 1), (0, 2), (2, 2)]
    assert outcome.results == [(12.0, 4.0), (30.0, 10.0)]
    assert outcome.pruned == 0


def test_a_pruned_trial_frees_its_worker_at_once_and_is_no_result():
    outcome = simulate(Trained(), start(10, 4, 7), Watching(hopeless=[0]), workers=1, limit_seconds=22.0)
    assert outcome.pruned == 1
    assert outcome.results == [(22.0, 4.0)]
    assert len(outcome.suggestion_seconds) == 3


def test_what_is_in_training_when_the_time_is_over_is_lost():
    assert simulate(Trained(), start(50), NopPruner(), workers=1, limit_seconds=149.0).results == []


def test_time_to_a_regret_is_read_off_the_mean_over_seeds():
    def runs(*results):
        return [AsyncRun("m+p", "t", seed, 90.0, list(found), 0, [0.1]) for seed, found in enumerate(results)]

    scale = Scale(best=10.0, median=0.0)
    slow = descent(scale, runs([(20.0, 2.0), (60.0, 6.0)], [(30.0, 6.0)]))
    assert slow.regret.tolist() == pytest.approx([np.inf, np.inf, 0.6, 0.4])
    assert slow.seconds.tolist() == [0.0, 20.0, 30.0, 60.0]
    fast = descent(scale, runs([(15.0, 7.0)], [(5.0, 6.0)]))
    assert gain({"t": fast}, {"t": slow}) == {"median": [4.0, 4.0, 4.0], "reached": 1}
    assert gain({"t": slow}, {"t": fast}) == {"median": [0.0, 0.0, 0.0], "reached": 0}


def test_a_method_is_as_fast_as_the_trial_that_reached_the_rival():
    curves = {"a": np.array([0.9, 0.5, 0.2, 0.1]), "b": np.array([0.9, 0.8, 0.8, 0.8])}
    found = speed(curves, {"a": 0.5, "b": 0.1})
    assert found["trials_by_task"] == {"a": 2, "b": None}
    assert found["reached"] == 1
    assert found["speedup_median"][0] == 1.0  # of 4 / 2 and 0
    assert first(np.array([False, False])) is None


def test_a_bootstrap_interval_narrows_with_tasks_and_holds_the_statistic():
    drawn = np.random.default_rng(5).normal(3.0, 1.0, 100)
    few, many = interval(drawn[:9], np.mean), interval(drawn, np.mean)
    assert few[1] < few[0] < few[2]
    assert many[2] - many[1] == pytest.approx(2 * 1.96 * drawn.std() / 10, rel=0.1)
    assert interval(np.full(6, 0.25), np.median) == [0.25, 0.25, 0.25]


def study(name="past", optimum=80.0, count=40, seed=0):
    task = Trained()
    task.name = name
    points = Cube(task.distributions).draw(count, np.random.default_rng(seed))[:, 0]
    return past_study(task, [({"pace": p}, [Report(1, -abs(p - optimum), p)]) for p in map(float, points)])


def test_shuffled_sources_have_the_same_trials_and_the_same_curves_apart():
    known = study()
    (misleading,) = shuffled([known], seed=1)
    assert [trial.values for trial in misleading.trials] == [trial.values for trial in known.trials]
    curves = [trial.curve for trial in known.trials], [trial.curve for trial in misleading.trials]
    assert curves[0] != curves[1]
    assert sorted(map(str, curves[0])) == sorted(map(str, curves[1]))


def test_unrelated_sources_are_of_their_own_space_only():
    class Four(Trained):
        distributions = SPACE

    values = Cube(SPACE).values(Cube(SPACE).draw(1, np.random.default_rng(0))[0])
    known = past_study(Four(), [(values, [Report(1, 0.5, 9.0)])] * 60)
    (other,) = unrelated([known], seed=2)
    assert set(other.ranges) == {"rate", "other_momentum", "units", "other_layers"}
    space = {name: json_to_distribution(text) for name, text in other.ranges.items()}
    assert all(space[name]._contains(v) for trial in other.trials for name, v in trial.values.items())
    rates = [trial.values["rate"] for trial in other.trials]
    assert min(rates) < SPACE["rate"].high < max(rates)


def test_a_portfolio_has_something_for_every_past_study():
    past = [study("slow", optimum=90.0), study("fast", optimum=10.0, seed=1), study("slow again", 88.0, seed=2)]
    chosen = [values["pace"] for values in greedy_portfolio(Trained(), past, size=2)]
    assert chosen == [pytest.approx(89, abs=5), pytest.approx(10, abs=5)]


def test_a_kept_run_is_read_back(tmp_path):
    known = Run("tpe", "a", 3, values=[0.25, 0.5], seconds=[0.01, 0.02])
    note(tmp_path / "new", known)
    assert noted(tmp_path / "new", Run) == [known]
    assert noted(tmp_path / "absent", Run) == []


def test_lcbench_learns_with_epochs_and_takes_its_time(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra [bench]")
    root = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not (root / "hpo" / "lcbench").is_dir():
        pytest.skip("the LCBench surrogate is not beside this checkout (../shared/data)")
    suite = LCBench(root, cache=tmp_path, source_trials=20)
    past = suite.sources("3945")
    assert len(suite.names) == 34
    assert [len(past), past[0].rungs, len(past[0].trials)] == [33, 9, 20]
    curves = np.array([[(r.value, r.seconds) for r in trial.curve] for one in past for trial in one.trials])
    assert (curves[:, -1, 0] > curves[:, 0, 0]).mean() > 0.7
    assert (np.diff(curves[:, :, 1]) >= 0).all()
    values = dict(past[0].trials[7].values)
    assert suite.task(past[0].name).evaluate(values) == past[0].trials[7].curve[-1].value
    scale = suite.scale("3945")
    assert 50 < scale.median < scale.best <= 100.5
    assert suite.scale("3945") == scale
