"""A search in a given time, with real workers: the time is kept, nothing is lost, and more time goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from autometa import trial_attributes as attributes
from autometa.data.load import load_dataset
from autometa.hpo import study_record
from autometa.hpo.promotion import FINISH
from autometa.hpo.storage import open_storage
from autometa.learning.checkpoint_facts import BEFORE, FINAL, exists, read_facts
from autometa.orchestrator.cluster import Share
from autometa.records import Accuracy, RungReport, TrialConfig, TrialRecord
from autometa.space.files import load_space
from autometa.study import confirm
from autometa.study.timed import Drawn, for_last_trainings
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.model_files import members_of
from autometa.trial.recipe import read_recipes
from tests.study.conftest import Start, command, environment
from tests.study.test_plan import plan

RUNS = Path("runs/t")
# Two configurations: with more time there is nothing new, and those that there are go on.
TWO = """
name = "two"
[parameters.learner]
choices = ["prototypical"]
[parameters.backbone]
choices = ["conv"]
[parameters."conv.depth"]
choices = [1, 2]
[parameters."conv.width"]
choices = [4]
"""


def run(folder: Path, *extra: str) -> tuple[list[dict[str, Any]], float]:
    """The events of one command, and the seconds that it took."""
    began = time.monotonic()
    pipe = {"capture_output": True, "text": True}
    done = subprocess.run(command("--dataset", "digits", "--json", *extra), cwd=folder, env=environment(), **pipe)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], time.monotonic() - began


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="t", storage=open_storage(f"sqlite:///{folder}/runs/autometa.db", create=False))


def models(folder: Path) -> dict[int, int]:
    """Outer steps on disk before a cool-down, by trial."""
    return {
        trial.number: read_facts(folder / RUNS / "trials" / attributes.FOLDER.required_of(trial))["steps"]
        for trial in study_in(folder).trials
    }


def test_a_fixed_number_of_trials_keeps_the_time_too(folder: Path) -> None:
    """All weights are tuned to each episode, so that 600 of them would take minutes."""
    slow = """
name = "slow"
[parameters.learner]
choices = ["pretrain"]
[parameters."pretrain.head"]
choices = ["finetune"]
[parameters."pretrain.adapt"]
choices = ["all"]
[parameters."pretrain.tune_steps"]
choices = [100, 101]
"""
    (folder / "tiny.toml").write_text(slow)
    events, took = run(folder, "--trials", "2", "--time-budget", "30s")
    assert took < 75, "30 s, and half a minute of other work"
    winner = events[-1]["winner"]
    assert winner["validation"]["episodes"] + winner["selection"]["episodes"] < 600
    assert winner["test"]["episodes"] < 600


def test_the_time_is_kept_the_best_are_trained_to_the_end_and_more_time_goes_on(folder: Path) -> None:
    (folder / "tiny.toml").write_text(TWO)
    events, took = run(folder, "--time-budget", "40s", "--no-ensemble")
    assert took < 80  # twice the time, since other work may run beside it; quiet, it is kept within 5 %
    study = study_in(folder)
    first = study.trials  # a list, as the study itself is read again each time
    states = Counter(trial.state for trial in first)
    assert states[TrialState.COMPLETE] >= 1
    assert not states[TrialState.RUNNING]
    complete = [trial for trial in first if trial.state == TrialState.COMPLETE]
    assert all(exists(folder / RUNS / "trials" / f"{trial.number:05d}" / FINAL) for trial in complete)
    ended = events[-1]
    accuracy = evaluate_checkpoint(folder / RUNS / "model", split="val", episodes=50, use_gpu=False)
    assert abs(accuracy.mean - ended["winner"]["validation"]["mean"]) < 0.15
    assert_recipes_and_models_are_of(ended["winner"], folder)
    steps = models(folder)

    # Its time is over: the winner stays, though an ensemble was not tried before.
    again, took = run(folder, "--time-budget", "40s")
    assert took < 60
    assert again[-1]["winner"] == ended["winner"]
    assert len(study_in(folder).trials) == len(first)

    spent = study_record.read(study).search_seconds
    assert spent is not None
    events, _ = run(folder, "--time-budget", f"{spent + 60:.0f}s")
    assert_recipes_and_models_are_of(events[-1]["winner"], folder)
    more = study_in(folder)
    continued = {attributes.CONTINUES.of(trial): trial for trial in more.trials[len(first) :]}
    assert set(continued) - {None}
    for number, trial in continued.items():
        if number is not None:
            assert trial.params == first[number].params
            assert models(folder)[trial.number] >= steps[number]
    assert spent + 40 < study_record.read(more).search_seconds < spent + 130


def assert_recipes_and_models_are_of(winner: dict[str, Any], folder: Path) -> None:
    recipes = read_recipes(folder / RUNS / "model" / "recipe.toml")
    assert len(recipes) == len(winner.get("ensemble") or [0])
    assert all(recipe.config["schedule"] == "trapezoid" for recipe in recipes)
    assert all(exists(member / BEFORE) for member in members_of(folder / RUNS / "model"))


def test_a_search_that_is_killed_goes_on_from_all_checkpoints(start: Start, folder: Path) -> None:
    options = ("--dataset", "digits", "--json", "--time-budget", "60s")
    driver = start(command(*options))
    reached: set[tuple[int, int]] = set()
    paused: set[int] = set()
    assert driver.stdout is not None
    for line in driver.stdout:
        event = json.loads(line)
        if event["event"] == "RungReached":
            reached.add((event["number"], event["report"]["rung"]))
        elif event["event"] == "TrialPaused":
            paused.add(event["number"])
        elif event["event"] == "TrialStarted":
            paused.discard(event["number"])
            if paused and len(reached) >= 5:
                break
    os.kill(driver.pid, signal.SIGKILL)
    psutil.Process(driver.pid).wait()
    died = study_in(folder).trials
    waiting = [trial.number for trial in died if attributes.IS_WAITING.of(trial)]
    assert [trial for trial in died if trial.state != TrialState.RUNNING] == []
    assert waiting

    events, _ = run(folder, "--time-budget", "60s")
    after = study_in(folder)
    assert [trial.params for trial in after.trials[: len(died)] if trial.params] == [
        trial.params for trial in died if trial.params
    ]
    twice = [
        (event["number"], event["report"]["rung"])
        for event in events
        if event["event"] == "RungReached" and (event["number"], event["report"]["rung"]) in reached
    ]
    assert not twice
    assert not [trial for trial in after.trials if attributes.CONTINUES.of(trial) is not None]
    for number, rung in reached:
        assert rung in after.trials[number].intermediate_values


def rival(number: int, mean: float, half_width: float, seconds: float = 2.0) -> TrialRecord:
    accuracy = Accuracy(mean=mean, half_width=half_width, episodes=100, seed=0)
    last = RungReport(rung=3, accuracy=accuracy, steps=9, seconds=9.0, validation_seconds=seconds, cooled=True)
    return TrialRecord(number=number, state="complete", config=TrialConfig(values={}), curve=[last])


def test_only_those_are_confirmed_whose_interval_overlaps_the_leaders() -> None:
    trials = [rival(0, 0.70, 0.02), rival(1, 0.67, 0.02), rival(2, 0.60, 0.02)]
    trials.append(trials[2].model_copy(update={"number": 3, "state": "pruned", "curve": []}))
    assert [trial.number for trial in confirm.rivals(trials)] == [0, 1]
    assert confirm.rivals([]) == []


def test_where_none_was_trained_to_the_end_the_surest_is_confirmed_and_not_who_came_furthest() -> None:
    def waiting(number: int, mean: float, rung: int) -> TrialRecord:
        one = rival(number, mean, 0.02)
        assert one.last
        last = one.last.model_copy(update={"rung": rung, "cooled": False})
        return one.model_copy(update={"state": "pruned", "curve": [last]})

    trials = [waiting(0, 0.94, 2), waiting(1, 0.50, 5), waiting(2, 0.90, 3)]
    assert [trial.number for trial in confirm.rivals(trials)] == [0]


def test_the_more_episodes_were_seen_the_fewer_images_are_new() -> None:
    few = Drawn(an_episode=100, validation=3000, test=5000)
    assert few.new_in_validation(10**6, seen=0) == pytest.approx(3000)
    assert few.new_in_validation(10**6, seen=30) == pytest.approx(3000 * np.exp(-1))
    assert few.new_in_test(10**6) == pytest.approx(5000)


@pytest.mark.parametrize(
    ("seconds_for_an_image", "settings", "finalists"),
    [
        (0.03, {}, 1),
        (0.05, {}, 2),
        (0.05, {"no_ensemble": True}, 1),
        (0.05, {"confirm_seeds": 2}, 1),
        (0.05, {"trials": 4}, 1),
        (0.05, {"external": True}, 1),
        (math.inf, {"external": True}, 2),
    ],
)
def test_long_last_trainings_are_of_one_model_for_each_worker(
    tmp_path: Path, seconds_for_an_image: float, settings: dict[str, Any], finalists: int
) -> None:
    images = sum(map(len, load_dataset("digits").members("train")))
    seconds = min(1600.0, seconds_for_an_image * images) / FINISH
    made = plan(tmp_path, trials=None, budget=None, pruner="halving", time_budget=seconds)
    made = dataclasses.replace(made, settings=dataclasses.replace(made.settings, **settings))
    if settings.get("external"):
        made = dataclasses.replace(made, space=load_space("pretrained"))
    share = for_last_trainings(made, Share(workers=2, gpus=0.0))
    assert (share.finalists, share.threads_of_last) == (finalists, 2 // finalists)
