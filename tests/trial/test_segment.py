"""Segments of an open training: it stops and goes on at any rung as if it had not stopped, and ends when told to."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from autometa.learning.checkpoint_facts import BEST, FINAL, exists, read_facts
from autometa.learning.open_ended import with_known_end
from autometa.records import FIRST_SECONDS, Budget, EpisodeSpec, RungReport, Scalar, TrialConfig
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import begin
from autometa.trial.segment import Segment, run_segment
from tests.learning.test_lite import needs_weights

VALUES = {"learner": "prototypical", "backbone": "conv", "conv.depth": 2, "conv.width": 4, "episodes_per_step": 1}


def job(folder: Path, budget: Budget, **values: object) -> Job:
    return Job(
        config=TrialConfig(values=VALUES | values),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=4, shot=1, query=5),
        budget=budget,
        seed=3,
        folder=str(folder),
        validation_episodes=30,
        use_gpu=False,
    )


def lite_job(folder: Path, seconds: float = 1.0, **values: object) -> Job:
    """An open job on a small frozen network, of these values alone."""
    config = TrialConfig(values={"learner": "frozen", "lite.image_size": 32, **values})
    return job(folder, Budget(seconds=seconds, open=True)).model_copy(update={"config": config})


def ran(segment: Segment) -> list[RungReport]:
    """What the segment reported."""
    reports: list[RungReport] = []
    run_segment(segment, number=0, on_rung=reports.append)
    return reports


def bits(folder: Path) -> dict[str, torch.Tensor]:
    """The model in a folder."""
    import safetensors.torch

    tensors = safetensors.torch.load_file(folder / read_facts(folder)["tensors"])
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("generator/")}


def test_rungs_cost_twice_as_much_from_one_to_the_next_and_are_scored_on_more_episodes(tmp_path: Path) -> None:
    reports = ran(Segment(job=job(tmp_path, Budget(steps=3, open=True)), until=4))
    assert [(r.rung, r.steps) for r in reports] == [(1, 3), (2, 6), (3, 12), (4, 24)]
    assert [r.accuracy.episodes for r in reports] == [3, 6, 12, 24]


@pytest.mark.parametrize("budget", [Budget(steps=3, open=True), Budget(seconds=1e9, teraflops=2e-5, open=True)])
def test_a_candidate_that_waited_is_the_same_to_the_bit(tmp_path: Path, budget: Budget) -> None:
    whole, parts = job(tmp_path / "whole", budget), job(tmp_path / "parts", budget)
    ran(Segment(job=whole, until=3))
    for rung in (1, 2, 3):
        torch.manual_seed(rung)  # whatever the worker did meanwhile
        reports = ran(Segment(job=parts, until=rung))
    assert [r.rung for r in reports] == [2, 3]  # the last one again, should it have been lost
    one, other = bits(tmp_path / "whole"), bits(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_segment_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    segment = Segment(job=job(tmp_path, Budget(steps=3, open=True)), until=2)
    ran(segment)
    before = (tmp_path / "checkpoint.json").stat().st_mtime_ns
    assert [r.rung for r in ran(segment)] == [2]
    assert (tmp_path / "checkpoint.json").stat().st_mtime_ns == before


def test_a_segment_whose_time_is_over_keeps_what_it_trained_and_goes_on_from_there(tmp_path: Path) -> None:
    whole, parts = (job(tmp_path / name, Budget(steps=200, open=True)) for name in ("whole", "parts"))
    ran(Segment(job=whole, until=1))
    assert ran(Segment(job=parts, until=1, not_after=time.time() + 0.3)) == []
    assert 0 < read_facts(tmp_path / "parts")["steps"] < 200
    assert [r.rung for r in ran(Segment(job=parts, until=1))] == [1]
    one, other = bits(tmp_path / "whole"), bits(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_last_segment_ends_in_time_cooled_down_and_leaves_what_can_go_on(tmp_path: Path) -> None:
    open_job = job(tmp_path, Budget(seconds=0.1, open=True))
    ran(Segment(job=open_job, until=1))
    end = time.time() + 3
    record = run_segment(Segment(job=open_job, finish_by=end), number=0, on_rung=lambda report: None)
    assert -1.0 < time.time() - end < 1.0
    assert record is not None
    assert record.state == "complete"
    last = record.last
    assert last is not None
    assert last.cooled
    assert last.accuracy.episodes == 30
    before = read_facts(tmp_path)
    assert before["steps"] < last.steps
    share = (last.seconds - before["seconds"]) / last.seconds
    assert 0.12 < share < 0.28  # a fifth
    assert begin(open_job).rate == pytest.approx(1e-3)  # the other one goes on as before
    again = run_segment(Segment(job=open_job, finish_by=time.time() + 9), number=0, on_rung=lambda report: None)
    assert again is not None
    assert again.last == last  # its worker died just before it could tell


def test_a_last_segment_that_starts_too_late_ends_with_the_model_there_is(tmp_path: Path) -> None:
    open_job = job(tmp_path, Budget(seconds=0.1, open=True))
    (report,) = ran(Segment(job=open_job, until=1))
    before = read_facts(tmp_path)["steps"]
    record = run_segment(Segment(job=open_job, finish_by=time.time() - 5), number=0, on_rung=lambda report: None)
    assert record is not None
    assert record.last is not None
    assert record.last.cooled
    assert record.last.rung == report.rung + 1  # a first step that was slow may have skipped some
    assert record.last.steps == before


def test_the_model_at_the_end_is_the_best_one_where_training_on_has_made_it_clearly_worse(tmp_path: Path) -> None:
    # Such a weight decay leaves nothing of the weights, and with no norm nothing of the features.
    spoiled = job(tmp_path, Budget(steps=1, open=True), outer_lr=0.1, optimizer="sgd", weight_decay=9.0, norm="none")
    reports = ran(Segment(job=spoiled, until=6))
    best = max(reports, key=lambda r: (r.accuracy.sure, r.rung))
    assert read_facts(tmp_path / BEST)["curve"][-1]["rung"] == best.rung
    *_, last = ran(Segment(job=spoiled, finish_by=time.time() + 0.5))
    assert last.cooled
    assert (last.best_rung, last.steps) == (best.rung, best.steps)
    one, other = bits(tmp_path / BEST), bits(tmp_path / FINAL)
    assert all(one[name].equal(other[name]) for name in one)
    found = evaluate_checkpoint(tmp_path / FINAL, split="val", episodes=30, use_gpu=False)
    assert found.mean == pytest.approx(last.accuracy.mean)
    assert read_facts(tmp_path / FINAL)["curve"][-1]["best_rung"] == best.rung


def test_a_rung_that_was_lucky_on_its_own_episodes_is_not_taken_for_the_best(tmp_path: Path) -> None:
    open_job = job(tmp_path, Budget(steps=10, open=True))
    ran(Segment(job=open_job, until=1))
    facts = read_facts(tmp_path / BEST)
    facts["curve"][-1]["accuracy"] |= {"mean": 1.0, "half_width": 0.0}
    (tmp_path / BEST / "checkpoint.json").write_text(json.dumps(facts))
    *_, last = ran(Segment(job=open_job, finish_by=time.time() + 1.5))
    assert last.cooled
    assert last.best_rung is None
    assert last.steps > 10


def test_a_model_is_measured_with_averaged_weights(tmp_path: Path) -> None:
    open_job = job(tmp_path, Budget(steps=40, open=True), outer_lr=0.03)
    training = begin(open_job)
    assert training.average is not None
    list(training.rungs(until=1))
    latest, averaged = training.learner.state_dict(), training.model.state_dict()
    assert any(not torch.equal(latest[name], averaged[name]) for name in latest)
    ran(Segment(job=open_job, until=1))
    stored = bits(tmp_path)
    assert all(torch.equal(stored["average/" + name], averaged[name]) for name in averaged)
    assert evaluate_checkpoint(tmp_path, split="val", episodes=10, use_gpu=False).mean > 0


def test_the_recipe_of_an_open_training_has_its_schedule(tmp_path: Path) -> None:
    values = with_known_end(VALUES)
    training = begin(job(tmp_path, Budget(steps=100, rungs=2), **values))
    rates = []
    training.train(lambda *_: rates.append(training.rate), stop=lambda: training.steps >= 100)
    list(training.rungs(lambda *_: rates.append(training.rate)))
    assert rates[:30] == sorted(rates[:30])
    assert rates[30] == rates[78] == pytest.approx(1e-3)
    assert rates[80] > rates[90] > rates[-2]
    assert not exists(tmp_path / FINAL)


def test_what_is_known_of_a_candidate_is_told_once_after_its_first_rung(tmp_path: Path) -> None:
    told: list[dict[str, Scalar]] = []
    open_job = job(tmp_path, Budget(steps=2, open=True))
    for until in (1, 2):
        run_segment(Segment(job=open_job, until=until), number=0, on_rung=lambda report: None, on_facts=told.append)
    (facts,) = told
    assert isinstance(facts["parameters"], int)
    assert facts["parameters"] > 0


def test_a_candidate_that_is_not_trained_has_no_better_past_and_ends_at_once(tmp_path: Path) -> None:
    frozen = lite_job(tmp_path, **{"lite.weights": "none", "lite.image_size": 16, "frozen.centre": "none"})
    second = ran(Segment(job=frozen, until=2))[-1]
    assert not exists(tmp_path / BEST)
    report = ran(Segment(job=frozen, finish_by=time.time() + 60))[-1]
    assert (report.cooled, report.steps, report.accuracy) == (True, 0, second.accuracy)


@needs_weights
def test_a_candidate_whose_first_features_take_too_long_is_not_begun_and_may_be_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    frozen = lite_job(tmp_path / "a", **{"frozen.centre": "none"})
    told: list[dict[str, Scalar]] = []
    segment = Segment(job=frozen, until=1, begin_within=0.01)
    assert run_segment(segment, number=0, on_rung=pytest.fail, on_facts=told.append) is None
    assert not exists(tmp_path / "a")
    (facts,) = told
    assert float(facts[FIRST_SECONDS]) > 0.01
    assert float(facts["image_seconds"]) > 0
    assert len(ran(segment.model_copy(update={"begin_within": 60.0}))) == 1
    other = frozen.model_copy(update={"folder": str(tmp_path / "b")})  # finds these features
    assert len(ran(segment.model_copy(update={"job": other}))) == 1


@needs_weights
def test_the_last_layers_of_a_network_are_tuned_until_the_time_is_over(tmp_path: Path) -> None:
    tuned = lite_job(tmp_path, 0.5, **{"learner": "tuned", "lite.tuned": True, "tuned.train_query": 2})
    first = ran(Segment(job=tuned, until=1))[-1]
    training = begin(tuned)
    assert training.source.pool.features
    seen = training.learner.state_dict()["directions"]
    deadline = time.time() + 5
    last = ran(Segment(job=tuned, finish_by=deadline))[-1]
    assert time.time() < deadline + 0.5
    assert last.cooled
    assert last.accuracy.episodes == 30
    assert begin(tuned).state.steps > first.steps > 0  # the last report may be of an earlier rung that was better
    assert torch.equal(begin(tuned.inside(FINAL)).learner.state_dict()["directions"], seen)


@needs_weights
def test_candidates_of_a_study_take_their_centre_from_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    one = lite_job(tmp_path / "one", **{"frozen.centre": "train"})
    other = lite_job(tmp_path / "other", **{"frozen.centre": "train", "frozen.whiten": 0.5})
    other = other.model_copy(update={"seed": one.seed + 1})
    assert begin(one).learner.sees > 0
    assert len(ran(Segment(job=one, until=1))) == 1
    # Nothing is left to compute, of validation or of train images.
    assert len(ran(Segment(job=other, until=1, begin_within=0.0))) == 1
    training = begin(other.model_copy(update={"folder": str(tmp_path / "third"), "seed": 99}))
    training.train()
    assert training.source.pool.feature_seconds == 0.0


def test_a_candidate_whose_step_takes_too_long_is_not_begun(tmp_path: Path) -> None:
    slow = job(tmp_path, Budget(seconds=1.0, open=True), **{"episodes_per_step": 64, "conv.width": 64})
    told: list[dict[str, Scalar]] = []
    segment = Segment(job=slow, until=1, begin_within=0.001)
    assert run_segment(segment, number=0, on_rung=pytest.fail, on_facts=told.append) is None
    assert not exists(tmp_path)
    assert [float(facts[FIRST_SECONDS]) > 0 for facts in told] == [True]
    assert begin(slow).source.images_of_a_step == 64 * 4 * 6
